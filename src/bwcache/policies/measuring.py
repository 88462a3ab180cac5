"""What calibrated methods share: a policy that computes everything and measures, and the traces that come of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from bwcache.core import Decision, Trace, compute
from bwcache.errors import SettingError, complaint
from bwcache.policies.base import Observation, Policy


class Measuring(Policy[None]):
    """Base of policies under which uncached runs record what a table is made of; their taps say what."""

    in_words: ClassVar[bool] = False

    @property
    def feature_predictor(self) -> None:
        """Nothing is kept."""
        return None

    def init(self) -> None:
        """No state."""

    def decide(self, observation: Observation, state: None) -> Decision:
        """Always compute."""
        return compute("never reuses with these settings")


def settings_of(traces: Sequence[Trace], kind: type[Measuring]) -> dict[str, Any] | None:
    """Return the settings under which all of these runs were measured; None where they are not of one such policy."""
    described = [trace.meta.get("policy") for trace in traces]
    first = described[0] if described else None
    alike = isinstance(first, dict) and first.get("name") == kind.__name__ and all(one == first for one in described)
    return first if alike else None


def steps_of(traces: Sequence[Trace]) -> int | None:
    """Return the number of steps of all of these runs; None where they differ, or it is not known."""
    totals = {trace.events[0].total for trace in traces if trace.events}
    return totals.pop() if len(totals) == 1 else None


def expect_finite(traces: Sequence[Trace]) -> None:
    """Raise `SettingError` where something of these runs could not be compared, since it held NaN or infinity."""
    for trace in traces:
        for event in trace.events:
            if not all(map(math.isfinite, event.distances or ())):
                found = f"step {event.step} of a run, at {event.site}, in which what was measured is NaN or infinite"
                action = "look at the video that is made: float16 overflows where bfloat16 does not"
                raise SettingError(complaint(found, "runs of finite numbers alone", action))


def unfit(traces: Sequence[Trace], expected: str) -> SettingError:
    """Return the refusal of traces that no table can be made of."""
    steps = sorted({str(trace.events[0].total) for trace in traces if trace.events})
    found = f"{len(traces)} traces of {steps} steps"
    return SettingError(complaint(found, expected, "make them anew, all alike"))
