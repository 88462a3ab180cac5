"""SmoothCache: A Universal Inference Acceleration Technique for Diffusion Transformers.

Liu, Geddes, Guo, Jiang, Nandwana; arXiv 2411.10510, CVPR 2025 Workshops. Training-free, calibrated. Symbols of the
paper: L[i, j](t) what the layer of kind i in block j returns at step t, alpha the threshold, k the lag, and at most n
of them.

1. Calibration, on uncached runs: E[i](t, k) = mean over runs and blocks of |L(t) - L(t + k)|_1 / |L(t + k)|_1.
2. For each kind by itself, from the first step on: t is computed, and the k steps after it are reused, for the largest
   k <= n with E[i](t, k) <= alpha. The last step is computed.
3. In a run every layer of a kind is computed and replayed at these steps, in all blocks alike; nothing is measured.

Readings: guidance branches count as runs of their own. The newer output is below, as in the released code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bwcache.core import Trace
from bwcache.features import All
from bwcache.models import BlockStack, Site, Tap
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.easycache import newer_divides
from bwcache.policies.entry import Entry, Paper, Table
from bwcache.policies.layer_lists import LayerLists, Lists
from bwcache.policies.measuring import Measuring, settings_of, steps_of, unfit
from bwcache.policies.published import PAPER, Published


def _alpha(threshold: float, longest: int = 3) -> Published:
    return Published({"threshold": threshold, "longest": longest}, PAPER, calibrates=True)


PUBLISHED: Mapping[str, Published] = {
    "DiT-XL, 50 steps": _alpha(0.08),
    "DiT-XL, 50 steps fast": _alpha(0.18),
    "DiT-XL, 50 steps fastest": _alpha(0.22),
    "DiT-XL, 30 steps": _alpha(0.35),
    "DiT-XL, 70 steps": _alpha(0.08),
    "DiT-XL, 70 steps fast": _alpha(0.12),
    "Open-Sora-1.2": _alpha(0.02, 5),
    "Open-Sora-1.2 fast": _alpha(0.03, 5),
    "Stable Audio Open": _alpha(0.15),
    "Stable Audio Open fast": _alpha(0.3),
}
"""By model and number of steps: alpha and n, with which lists are found."""

Errors = dict[str, dict[tuple[int, int], list[float]]]
"""By kind of layer, for step and lag: one error for each run, branch and block."""


@dataclass(frozen=True)
class SmoothCache(LayerLists):
    """Replays each kind of layer at the steps of a list that was found beforehand.

    Args:
        computed: by the layer's name in its block, such as "attn1", the steps at which it is computed; from `fitted`.
            A kind that is not named is not cached.
        steps: of the runs on which that was found, and of those that can be made with it; None: any.

    Raises:
        SettingError: a list without the first step.
    """

    entry = Entry(
        keeps="1 for each layer",
        reads="nothing",
        verified="the authors' package, bit for bit; table and lists a second implementation by plain hooks",
        calibration="the computed steps of each kind of layer",
        table=Table(("computed", "steps"), "runs", "by kind of layer a list of 1 and 0, one for each step"),
        paper=Paper(
            title="SmoothCache: A Universal Inference Acceleration Technique for Diffusion Transformers",
            authors="Liu, Geddes, Guo, Jiang, Nandwana",
            arxiv="2411.10510",
            venue="CVPR 2025 Workshops",
        ),
    )

    computed: Mapping[str, tuple[int, ...]] = field(hash=False)
    steps: int | None = None

    def __post_init__(self) -> None:
        self.expect_lists("computed", "steps by layer, 0 among them", '{"attn1": (0, 1, 4)}', 50)

    @property
    def lists(self) -> Lists:
        """By kind of layer."""
        return self.computed

    def layer(self, site: str) -> str:
        """Return the name of its kind."""
        return layer_of(site)

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """The layers that are named, each for itself.

        Raises:
            SettingError: the blocks have no such part.
        """
        self.expect_there(stack, "layers", (layer_of(part.name) for part in stack.parts()))
        return tuple(stack.site(part) for part in stack.parts() if layer_of(part.name) in self.computed)

    @classmethod
    def authors_table(cls, content: Any) -> dict[str, Any] | None:
        """Return the steps at which lists of 1 and 0 have a 1, of lists of one length that are of kinds of layers."""
        lists = list(content.values()) if isinstance(content, dict) else []
        fine = bool(lists) and all(isinstance(one, list) and one[:1] == [1] and all(map(_bit, one)) for one in lists)
        if not fine or len({*map(len, lists)}) != 1 or any(re.search(r"-\d+$", kind) for kind in content):
            return None
        computed = {kind: tuple(i for i, each in enumerate(one) if each) for kind, one in content.items()}
        return {"computed": computed, "steps": len(lists[0])}

    @classmethod
    def measuring(cls, longest: int = 3, kinds: tuple[str, ...] = ()) -> MeasuringLayers:
        """Return what records E at lags 1 to `longest`, n, of the parts of these kinds; of all without any."""
        return MeasuringLayers(longest, kinds)

    @classmethod
    def fitted(cls, traces: Sequence[Trace], threshold: float = 0.18) -> SmoothCache:
        """Return the lists for alpha = `threshold` (dimensionless), from runs under `measuring`.

        Raises:
            SettingError: none, runs of another kind, or of different numbers of steps.
        """
        expect(number(threshold) and threshold >= 0, "threshold", threshold, "a number >= 0", "0.18")
        errors, steps, longest = _errors(traces)
        tables = {
            kind: {where: sum(some) / len(some) for where, some in table.items()} for kind, table in errors.items()
        }
        return cls({kind: _scanned(table, steps, longest, threshold) for kind, table in tables.items()}, steps)


@dataclass(frozen=True)
class MeasuringLayers(Measuring):
    """Computes everything, and compares what each part of each block returns with the last steps; see `SmoothCache`."""

    longest: int = 3  # n
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expect(whole(self.longest, 1), "longest", self.longest, "a whole number of steps >= 1", "3")

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """Each part."""
        return tuple(stack.site(part) for part in stack.parts(*self.kinds))

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """Each part, against as many steps before; in the order of the sites."""
        lags = tuple(range(1, self.longest + 1))
        how = {"view": All(), "indicator": newer_divides, "lags": lags}
        return tuple(stack.tap(part, **how) for part in stack.parts(*self.kinds))


def _bit(value: Any) -> bool:
    return isinstance(value, (int, float)) and value in (0, 1)


def layer_of(site: str) -> str:
    """Return the name of a layer in its block: "attn1" of "blocks.0.attn1"."""
    parts = site.rpartition("/")[2].split(".")
    last = max((i for i, part in enumerate(parts) if part.isdigit()), default=-1)
    return ".".join(parts[last + 1 :])


def _errors(traces: Sequence[Trace]) -> tuple[Errors, int, int]:
    """All that was measured, the number of steps, and the longest lag."""
    errors: Errors = {}
    total, settings = steps_of(traces), settings_of(traces, MeasuringLayers)
    if total is None or settings is None:
        raise unfit(traces, "runs of one number of steps under SmoothCache.measuring()")
    longest = int(settings["longest"])
    for trace in traces:
        for row in _rows(trace):
            for place, (site, step, distances) in enumerate(row):
                table = errors.setdefault(layer_of(site), {})
                own = (distances or ())[place * longest : (place + 1) * longest]
                for lag, error in enumerate(own, start=1):
                    if step >= lag:
                        table.setdefault((step - lag, lag), []).append(error)
    return errors, total, longest


def _rows(trace: Trace) -> Iterator[list[tuple[str, int, tuple[float, ...] | None]]]:
    """The rows of each forward: one for each layer, in the order of the taps."""
    forwards: dict[Any, list[tuple[str, int, tuple[float, ...] | None]]] = {}
    for event in trace.events:
        key = (event.step, event.branch, event.sample, event.site.rpartition("/")[0])
        forwards.setdefault(key, []).append((event.site, event.step, event.distances))
    yield from forwards.values()


def _scanned(table: Mapping[tuple[int, int], float], steps: int, longest: int, threshold: float) -> tuple[int, ...]:
    """The steps that are computed: each followed by as many reused ones as its errors allow."""
    computed, step = {0, steps - 1}, 0
    while step < steps:
        computed.add(step)
        allowed = (lag for lag in range(longest, 0, -1) if table.get((step, lag), float("inf")) <= threshold)
        step += 1 + next(allowed, 0)
    return tuple(sorted(computed))
