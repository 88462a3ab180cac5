"""The taps of one forward: what is looked at on the way, and the numbers that come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bwcache.core import Step
from bwcache.engine import timing
from bwcache.engine.batch import BatchLayout
from bwcache.engine.lane import Lane
from bwcache.engine.numbers import Numbers
from bwcache.engine.plan import Plan, Spot
from bwcache.engine.run import Intervals, Run
from bwcache.features.shards import own_part
from bwcache.models import Place
from bwcache.models.places import OUTSIDE
from bwcache.policies import Readings


@dataclass(eq=False, slots=True)
class Measuring:
    """The taps of one forward.

    Attributes:
        plan, run, steps, lanes, rows: as of the forward.
        timed: whether to take the time.
        seen: what looks saw, by lane and look: `[2, lags]` each.
        entered: what entered the places from which residuals are taken, by look.
        intervals: time spent, if it is taken.
    """

    plan: Plan
    run: Run
    steps: tuple[Step, ...]
    lanes: tuple[Lane, ...]
    rows: BatchLayout
    timed: bool = False
    seen: list[dict[int, Tensor]] = field(default_factory=list)
    entered: dict[int, Tensor] = field(default_factory=dict)
    intervals: Intervals = field(default_factory=list)

    def sample(self, number: int, feature: Tensor) -> None:
        """Take the output of a place whose tap goes the fast way."""
        if type(feature) is not Tensor:
            feature = own_part(feature)
        lane, now = self.lanes[0], timing.clock(feature.device) if self.timed else None
        start = now() if now is not None else None
        if len(self.lanes) == 1:
            (lane.taps or self.run.taps(lane, self.plan, feature)).record(number, feature)
        else:
            for j, lane in enumerate(self.lanes):
                own = self.rows.of(feature, j)
                (lane.taps or self.run.taps(lane, self.plan, own)).record(number, own)
        if now is not None and start is not None:
            self.intervals.append((start, now()))

    def remember(self, spot: Spot, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Copy what enters a place from which residuals are taken."""
        entered = spot.place.entered(args, kwargs)
        for number in spot.before:
            self.entered[number] = entered[self._stream(number)].detach().clone()

    def look_at_inputs(self, spot: Spot, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at what enters a place."""
        entered = spot.place.inputs(args, kwargs)
        for number in spot.enters:
            self._look(number, spot.place, entered[self._stream(number)])

    def look_at_outputs(self, spot: Spot, returned: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at what a place returned, or at how that differs from what entered."""
        place = spot.place
        for number in spot.leaves:
            feature = value_of(place, self._stream(number), returned)
            tap = self.plan.taps[self.plan.looks[number]]
            if tap.since is not None:
                if number not in self.entered:  # a pass that leaves blocks out
                    continue
                feature = feature - self.entered.pop(number)
            elif tap.end == "residual":
                feature = feature - like(place.entered(args, kwargs)[self._stream(number)], feature)
            self._look(number, place, feature)

    def _stream(self, number: int) -> str:
        return self.plan.taps[self.plan.looks[number]].stream

    def _look(self, number: int, place: Place, feature: Tensor) -> None:
        feature, rows = own_part(feature), rows_at(place, self.rows)
        cut = len(rows) > 1 and feature.shape[rows.axis] == rows.count
        for j, lane in enumerate(self.lanes):
            if lane.looks is None:
                lane.looks = self.plan.new_looks()
            self.note(j, number, lane.looks[number].take(rows.of(feature, j) if cut else feature, self.steps[j]))

    def note(self, j: int, number: int, found: Tensor | None) -> None:
        """Take note of what a look saw in a lane, `[2, lags]`; None: nothing."""
        if not self.seen:
            self.seen = [{} for _ in self.lanes]
        if found is not None:
            self.seen[j][number] = found

    def now(self, j: int) -> Readings:
        """Return what was measured so far in a lane; waits."""
        numbers = Numbers(self.run.ranks)
        place = numbers.add(self._joined(j, None), 2 * self.plan.readings)
        numbers.set_out()
        values = numbers.read(place) or [0.0] * (2 * self.plan.readings)
        half = len(values) // 2
        return Readings(tuple(values[:half]), tuple(values[half:]), self.plan.channels, self.plan.places)

    def measured(self, j: int) -> Tensor | None:
        """Return what all taps of a lane measured, `[2, T]`, in the policy's order; None: nothing."""
        taps = self.lanes[j].taps
        if taps is None:
            return self._joined(j, None) if self.seen else None
        if not self.timed:
            sampled = taps.measure()
        else:
            start = timing.mark(torch.device("cpu"))
            sampled = taps.measure()
            self.intervals.append((start, timing.mark(torch.device("cpu"))))
        return self._joined(j, sampled) if self.plan.looks else sampled

    def _joined(self, j: int, sampled: Tensor | None) -> Tensor | None:
        seen = self.seen[j] if self.seen else {}
        if not seen and sampled is None:
            return None
        device = next(iter(seen.values())).device if seen else torch.device("cpu")
        columns = []
        for is_look, number, lags in self.plan.columns:
            found = seen.get(number) if is_look else None if sampled is None else sampled[:, number : number + 1]
            columns.append(torch.zeros(2, lags, device=device) if found is None else found.to(device))
        return torch.cat(columns, dim=1)

    def let_go(self) -> None:
        """Forget what this forward saw: nothing of it is kept."""
        self.seen = []
        self.entered.clear()
        for lane in self.lanes:
            lane.looks = None if lane.refused is not None else lane.looks

    def settle(self, computed: Callable[[str], bool]) -> None:
        """Make what looks saw their past, where it counts: in every step, or where their site was computed."""
        for lane in self.lanes:
            for look, site in zip(lane.looks or (), self.plan.judged, strict=False):
                if site is None or computed(site):
                    look.keep()
                else:
                    look.let_go()


def rows_at(place: Place, rows: BatchLayout) -> BatchLayout:
    """Return how the lanes lie in the tensors at a place: at the denoiser itself the batch comes first."""
    return rows.at(0) if place.kind in OUTSIDE else rows


def value_of(place: Place, stream: str, returned: Any) -> Tensor:
    """Return one of the values that a place returned."""
    value: Tensor = place.value(returned, 0 if place.kind in OUTSIDE else place.position(stream))
    return value


def like(entered: Tensor, returned: Tensor) -> Tensor:
    """Return what entered, as far as it can be subtracted from what is returned: latents may carry channels more."""
    if entered.shape == returned.shape or entered.ndim < 2:
        return entered
    return entered[:, : returned.shape[1]]
