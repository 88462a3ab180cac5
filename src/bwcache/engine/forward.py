"""What happens at each place during one forward of a denoiser: it is computed, or answered from what is kept."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bwcache.core import Action, Decision, Step
from bwcache.engine import beside, reasons, root, timing
from bwcache.engine import returned as returned_values
from bwcache.engine.batch import BatchLayout
from bwcache.engine.clock import Call
from bwcache.engine.decide import Group, decision
from bwcache.engine.idle import IdleCalls, Outline
from bwcache.engine.lane import Lane
from bwcache.engine.lockstep import COMPUTED_ELSEWHERE
from bwcache.engine.measuring import Measuring, rows_at
from bwcache.engine.memory import Outlines, need, outlines
from bwcache.engine.numbers import Numbers
from bwcache.engine.plan import Plan, Spot
from bwcache.engine.run import Intervals, Row, Run
from bwcache.errors import AttachError, BlocksChangedError, complaint
from bwcache.features import Predictor
from bwcache.features.prediction_error import NUMBERS, PredictionSamples
from bwcache.features.shards import Sharding, own_part
from bwcache.features.store import Signature, without_gradient
from bwcache.models import Place, Site
from bwcache.models.places import OUTSIDE
from bwcache.models.provenance import expect_own_blocks, stranger_over


class RunAgain(Exception):
    """A forward in which idle modules were skipped cannot be a replay: it has to run again with all of them."""


@dataclass(eq=False, slots=True)
class SiteCall:
    """A site in this forward: what was decided, and what entered it; a list has one entry per lane.

    Attributes:
        entered: the streams as they entered it, or the place from which its residual is taken.
        closed: whether its last place returned.
        finite: one number each that is finite only if the feature is, on the device; None: nothing was kept.
        errors: the prediction's error, on the device.
        inside: time spent in it, if it is taken.
    """

    site: Site
    decisions: list[Decision]
    action: Action
    signature: Signature
    entered: dict[str, Any]
    closed: bool = False
    finite: list[Tensor | None] = field(default_factory=list)
    errors: list[Tensor | None] = field(default_factory=list)
    inside: Intervals = field(default_factory=list)


@dataclass(eq=False, slots=True)
class Forward:
    """One forward of one denoiser.

    Attributes:
        plan, run: where it acts, and on what.
        group: what was decided; `steps`, `lanes`: where it stands, one for each sample that decides for itself, or
            one for the whole batch.
        rows: how they lie in the tensors.
        begun: the denoiser's call.
        timed: whether to take the time.
        idle: the idle modules, where there is anything to do at them.
        measuring: its taps.
        record: takes what a tapped place returned, where that goes the fast way; None: not known yet, or never.
        calls: the sites that were reached, by name, in order.
        replaying: the one that is being skipped at present.
        route: the blocks that were called, by their ordinals.
        since: what entered the places from which residuals are taken, by site.
        outside: outlines of what entered the places before the first block, by name, until memory is counted.
        refused: why nothing is kept of it, or None.
        counts: whether the policy can do anything with what is measured or kept; `keeps`: whether anything is kept.
        counted: whether its memory was.
        computed: whether any place ran.
        disorder: whether a place was called twice.
        rerouted: whether other blocks ran than when it was last computed: nothing is compared then.
        hidden: bytes of the largest feature.
        forgotten: how often all that is kept had been forgotten as it began.
    """

    plan: Plan
    run: Run
    group: Group
    rows: BatchLayout
    begun: Call
    timed: bool
    idle: IdleCalls | None = None
    steps: tuple[Step, ...] = field(init=False)
    lanes: tuple[Lane, ...] = field(init=False)
    measuring: Measuring = field(init=False)
    record: Callable[[int, Tensor], None] | None = None
    calls: dict[str, SiteCall] = field(default_factory=dict)
    replaying: SiteCall | None = None
    route: list[int] = field(default_factory=list)
    since: dict[str, dict[str, Any]] = field(default_factory=dict)
    outside: dict[str, Outlines] = field(default_factory=dict)
    refused: str | None = None
    counts: bool = True
    keeps: bool = False
    counted: bool = False
    computed: bool = False
    disorder: bool = False
    rerouted: bool = False
    hidden: int = 0
    forgotten: int = field(init=False)

    def __post_init__(self) -> None:
        self.steps, self.lanes = self.group.steps, self.group.lanes
        self.measuring = Measuring(self.plan, self.run, self.steps, self.lanes, self.rows, self.timed)
        self.forgotten = self.run.forgotten
        if not self.plan.holds:
            self.counted = True
            return
        self.counts = self.steps[0].total is not None or not self.plan.needs_total
        self.keeps = self.plan.keeps and self.counts
        taps = self.lanes[0].taps
        if taps is not None and len(self.lanes) == 1 and self.counts and not self.timed:
            self.record = taps.record
        for lane in self.lanes:
            if lane.refused is not None:
                self._obey_refusals()

    def __call__(self, spot: Spot, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call of a place: computed, or answered from what is kept."""
        place = spot.place
        if not self.counted:
            self._count_memory(place, args, kwargs)
        if place.kind == "block":
            block = place.block or 0
            self.disorder = self.disorder or bool(self.route and block <= self.route[-1])
            self.route.append(block)
        if self.replaying is None and (spot.begins or (spot.sites and spot.sites[-1].name not in self.calls)):
            self._arrive(spot, args, kwargs)
        if self.replaying is not None:
            if spot.handed_on is not None and not self.timed:
                name, position = spot.handed_on
                return kwargs[name] if name in kwargs else args[position]
            returned = self._skip(self.replaying, place, args, kwargs)
            if not self.replaying.closed:
                return returned
            self.replaying = None
        else:
            returned = self._timed(place, inner, args, kwargs) if self.timed else inner(*args, **kwargs)
            self.computed = True
            if spot.looks:
                if spot.tap is not None and self.record is not None and type(returned) is Tensor:
                    self.record(spot.tap, returned)
                else:
                    self._look(spot, returned, args, kwargs)
        for site in spot.closes:
            call = self.calls.get(site.name)
            if call is not None and not call.closed:
                self._leave(call, place, returned)
        return returned

    def _arrive(self, spot: Spot, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Looks at what enters, and enters the sites that begin here, down to one that is reused."""
        if spot.enters and self.counts:
            self.measuring.look_at_inputs(spot, args, kwargs)
        if spot.before and self.counts:
            self.measuring.remember(spot, args, kwargs)
        for site in spot.since:
            self.since[site.name] = _copies(spot.place.entered(args, kwargs))
        for site in spot.sites:
            call = self.calls.get(site.name)
            if call is None:
                self._enter(site, spot.place, args, kwargs)
                if self.replaying is not None:
                    return
            elif call.closed and spot.place.kind != "block":
                self.disorder = True

    def _look(self, spot: Spot, returned: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Looks at what a place returned."""
        place, lanes = spot.place, self.lanes
        if place.outlined:
            outline = Outline.of(returned, len(self.rows))
            for lane in lanes:
                lane.outlines[place.block or 0] = outline
        if not self.counts:
            return
        for number, position in spot.taps:
            bare = spot.bare and isinstance(returned, Tensor)
            feature = returned if bare else place.value(returned, position)
            if isinstance(feature, Tensor):  # a stream may be absent: a video without sound
                self.measuring.sample(number, feature)
        if spot.leaves:
            self.measuring.look_at_outputs(spot, returned, args, kwargs)

    def _timed(self, place: Place, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The place's call, its time added to that of the sites that it is a place of."""
        device = _device(args, kwargs)
        start = timing.mark(device)
        returned = inner(*args, **kwargs)
        interval = (start, timing.mark(device))
        for call in self.calls.values():
            if not call.closed and (place is call.site.first or place.kind == call.site.first.kind == "block"):
                call.inside.append(interval)
        return returned

    def _skip(self, call: SiteCall, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Inner places hand their inputs on; the last one returns what is kept, or what is predicted from it."""
        start = timing.mark(_device(args, kwargs)) if self.timed else None
        if place is call.site.last:
            returned = self._replayed(call, place, args, kwargs)
            call.closed = True
        elif place.outlined:
            returned = self.lanes[0].outlines[place.block or 0].filled(len(self.rows))
        else:
            returned = place.passed_on(args, kwargs)
        if start is not None:
            call.inside.append((start, timing.mark(_device(args, kwargs))))
        return returned

    def _enter(self, site: Site, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Takes the site's decision; what enters may contradict it, and then it is computed."""
        if self.plan.never is not None:
            decisions = [self.plan.never[site.name]] * len(self.lanes)
            self.calls[site.name] = SiteCall(site, decisions, "compute", (), {})
            return
        entered = place.inputs(args, kwargs)
        rows = self.rows if self.rows.is_whole else rows_at(place, self.rows)
        signature = _signature(entered, rows) if self.plan.keeps else ()
        decisions = []
        for j in range(len(self.lanes)):
            decisions.append(self._decision(j, site, signature))
        action = decisions[0].action
        for each in decisions:
            action = action if each.action == action else "compute"
        votes = self.run.votes
        if votes is not None and (self.plan.probes or site.beside) and votes.any(action != "reuse"):
            decisions = [COMPUTED_ELSEWHERE if each.reuses else each for each in decisions]
            action = "compute" if action == "reuse" else action
        if self.idle is not None and self.idle.skipped and action != "reuse":
            raise RunAgain
        if site.keeps == "residual" and self.plan.keeps:
            entered = self.since.get(site.name) or _copies(place.entered(args, kwargs))
        call = self.calls[site.name] = SiteCall(site, decisions, action, signature, entered)
        if action == "reuse":
            self.replaying = call
            if self.run.held.offload is not None:
                self.lanes[0].slots[site.name].prefetch()

    def _decision(self, j: int, site: Site, signature: Signature) -> Decision:
        lane = self.lanes[j]
        if self.refused is not None:
            return Decision("compute", self.refused)
        if self.group.decided is not None:
            known = self.group.decided[j]  # without those in a site that was to be reused, and is computed after all
            found = known.get(site.name) or Decision("compute", reasons.NOTHING_KEPT)
        else:
            look = (lambda: self.measuring.now(j)) if self.plan.probes else None
            found = decision(self.run, self.plan, self.steps[j], lane, site, self.begun, look)
        slot = lane.slots.get(site.name)
        if slot is not None and slot.past and slot.signature != signature:
            return Decision("compute", reasons.ANOTHER_SHAPE)
        if site.beside is not None and found.action == "reuse" and not beside.value(self.run, site, self.steps[j]):
            return Decision("compute", reasons.NOBODY_BESIDE)
        return found if slot is not None or found.action != "reuse" else Decision("compute", reasons.NOTHING_KEPT)

    def _replayed(self, call: SiteCall, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the site's last place would have returned, made from what is kept."""
        name, errors, where = call.site.name, self.run.errors, self.plan.where
        made: dict[str, list[Tensor]] = {}
        for j, (step, decided, lane) in enumerate(zip(self.steps, call.decisions, self.lanes, strict=True)):
            if j + 1 < len(self.lanes):  # while one lane's features are read, the next one's are on their way
                self.lanes[j + 1].slots[name].prefetch()
            how = decided.how or self.plan.predictor
            assert isinstance(how, Predictor)
            how = how.adapted_to(errors.get((step.sample, where[name])))
            other = beside.value(self.run, call.site, step) if call.site.beside else None
            for stream, past in lane.slots[name].read().items():
                value = how.predict(past, step)
                made.setdefault(stream, []).append(value if other is None else value + other[stream])
        rows = self.rows if self.rows.is_whole else rows_at(place, self.rows)
        joined: dict[str, Any] = {}
        for stream, some in made.items():
            joined[stream] = some[0] if rows.is_whole else rows.joined(some)
        spread = self.lanes[0].shardings.get(name) if self.lanes[0].shardings else None
        for stream, sharding in spread.items() if spread else ():
            joined[stream] = sharding.spread(joined[stream])
        if place.kind == "root":
            frame = self.lanes[0].returned
            return frame.filled(root.made(call.site.keeps, call.entered, self.begun.level, joined, frame.dtype))
        if call.site.keeps == "residual":
            joined = {stream: feature + call.entered[stream] for stream, feature in joined.items()}
            for stream, sharding in spread.items() if spread else ():
                joined[stream] = sharding.of_whole(joined[stream])
        if len(place.streams) == 1:
            value = joined[place.streams[0].name]
            return (value,) if name in self.lanes[0].wrapped else value
        return place.packed({**place.inputs(args, kwargs), **joined})

    def _leave(self, call: SiteCall, place: Place, returned: Any) -> None:
        """Keeps the site's feature, and one number that tells whether all of it is finite."""
        call.closed = True
        kept = self._root(call, returned) if place.kind == "root" else self._streams(call, place, returned)
        if type(returned) is tuple and len(place.streams) == 1:
            for lane in self.lanes:
                lane.wrapped.add(call.site.name)
        hidden = 0
        for feature in kept.values():
            if type(feature) is not Tensor or self.lanes[0].shardings:
                kept = self._own_parts(call, place, kept)
                break
        for feature in kept.values():
            hidden += feature.nbytes
        if hidden > self.hidden:
            self.hidden = hidden
        predictor = self.plan.predictor
        if predictor is None or not self.keeps:
            return
        if not kept:  # clean latents that nobody can tell
            for lane in self.lanes:
                lane.slot(call.site.name).drop()
            return
        rows, checked = self.rows if self.rows.is_whole else rows_at(place, self.rows), call.action == "check"
        judged = self.plan.needs_errors or checked
        parts: list[dict[str, Tensor] | None] = []
        for j in range(len(self.lanes)):
            part: dict[str, Tensor] = {}
            for stream, feature in kept.items():
                part[stream] = without_gradient(feature) if rows.is_whole else rows.of(without_gradient(feature), j)
            parts.append(part)
        if call.site.beside is not None:
            found = [part for part in parts if part is not None]
            parts = beside.differences(self.run, call.site, call.signature, self.steps, self.lanes, found)
        for step, lane, features in zip(self.steps, self.lanes, parts, strict=True):
            if features is None:
                lane.slot(call.site.name).drop()
                call.finite.append(None)
                call.errors.append(None)
                continue
            fits = checked or self.run.keep(lane, call.site.name, call.signature, step, features, self.plan.history)
            call.finite.append(_sum(features) if fits and not checked else None)
            call.errors.append(self._predicted(predictor, step, lane, call, features) if fits and judged else None)

    def _own_parts(self, call: SiteCall, place: Place, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        """What this rank has of what is kept; how all of it lies on the ranks stays in the lanes.

        Raises:
            AttachError: the samples of a batch lie on several ranks, or nobody says that these decide together.
        """
        found = {name: Sharding.of(feature) for name, feature in kept.items()}
        spread = {name: sharding for name, sharding in found.items() if sharding is not None}
        for sharding in spread.values() if self.keeps else ():
            sharding.expect_usable(place.name, self.run.ranks, len(self.rows), rows_at(place, self.rows).axis)
        for lane in self.lanes:
            lane.shardings[call.site.name] = spread
        return {name: own_part(feature) for name, feature in kept.items()}

    def _root(self, call: SiteCall, returned: Any) -> dict[str, Tensor]:
        """What is kept of what the denoiser returned."""
        kept, frame = returned_values.taken_apart(returned)
        for lane in self.lanes:
            lane.returned = frame
        return root.kept(call.site.keeps, call.entered, self.begun.level, kept) if self.keeps else kept

    def _streams(self, call: SiteCall, place: Place, returned: Any) -> dict[str, Tensor]:
        """What is kept of what the site's last place returned, for all lanes."""
        streams, kept = place.outputs(returned), {}
        since = call.entered if call.site.keeps == "residual" and self.keeps else None
        for name in call.site.streams:
            value = streams[name]
            if isinstance(value, Tensor):
                if since is not None and since[name].shape != value.shape:
                    raise _another_size(place, name, since[name], value)
                kept[name] = value if since is None else value - since[name]
        return kept

    def _predicted(
        self, predictor: Predictor, step: Step, lane: Lane, call: SiteCall, features: dict[str, Tensor]
    ) -> Tensor | None:
        """How close the predictor would have come, by the measured stream or else the first."""
        if not features:
            return None
        name, checked = call.site.name, call.action == "check"
        measured = self.plan.stack.spec.measured
        stream = measured if measured in features else next(iter(features))
        feature = features[stream]
        start = timing.mark(feature.device) if self.timed else None
        if self.plan.needs_errors:
            samples = lane.samples.setdefault(name, PredictionSamples())
        else:
            samples = PredictionSamples()
            for past, kept in reversed(lane.slots[name].read().get(stream, [])):
                samples.compare(kept, past, predictor)
        last = self.run.errors.get((step.sample, self.plan.where[name]))
        found = samples.compare(feature, step, predictor, last, keep=not checked)
        if start is not None:
            self.measuring.intervals.append((start, timing.mark(feature.device)))
        return found

    def _count_memory(self, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the first block runs: what will be kept of new lanes must have room.

        Raises:
            OverBudgetError: it has none, and this is the run's first step.
            AttachError: other blocks stand in the place of those that are counted.
        """
        stack, account = self.plan.stack, self.run.memory
        self.counted = not (self.plan.is_inside and place.kind in OUTSIDE)
        new: list[Lane] = []
        for lane in self.lanes:
            if self.counts and (lane.name, stack.name) not in account.needs:
                new.append(lane)
        if new:
            expect_own_blocks(stack)
            entered = outlines(_own(place.entered(args, kwargs)), rows_at(place, self.rows))
            if not self.counted:
                self.outside[place.name] = entered
                return
            branches = 2 if self.run.guided and stack.spec.guidance == "separate" else 1
            account.reserve(new, stack.name, need(self.plan, entered, self.outside), branches, self.run.in_first_step)
            self._obey_refusals()

    def _obey_refusals(self) -> None:
        """Where there was no room for a lane nothing is measured and kept, nor what was seen before that was known."""
        for lane in self.lanes:
            self.refused = self.refused or lane.refused
        if self.refused is not None:
            self.counts, self.keeps, self.record = False, False, None
            self.measuring.let_go()

    def finish(self) -> None:
        """The forward is over: its rows go into the trace, its measurements on their way to the policy.

        Raises:
            BlocksChangedError: reused features were laid over other blocks than those that made them.
        """
        whole = not self.disorder
        for call in self.calls.values():
            whole = whole and call.closed
        if not whole:
            self._leave_out()
            return
        if self.plan.holds:
            self._keep_routes()
        if self.measuring.seen:
            self.measuring.settle(self._was_computed)
        self._note()
        if self.computed and self.plan.keeps:
            for lane in self.lanes:
                lane.latents, lane.inputs = self.begun.kind, self.begun.inputs
                lane.shapes = self.begun.shapes if self.run.votes is not None else None
        is_last = self.steps[0].total is not None and self.steps[0].index >= self.steps[0].total - 1
        if is_last or self.run.forgotten != self.forgotten:
            beside = {site.beside for site in self.plan.sites}
            for lane in self.lanes:
                if not is_last or lane.branch not in beside:  # others may still be made of it: it goes with the run
                    lane.forget()

    def _was_computed(self, site: str) -> bool:
        call = self.calls.get(site)
        return call is not None and call.action == "compute"

    def _note(self) -> None:
        """Rows of the trace, and the numbers of a forward that computed anything.

        Raises:
            OverBudgetError: as `Run.note_bytes`.
        """
        numbers = None
        if self.plan.holds or self.run.ranks is not None:
            for call in self.calls.values():
                if call.action != "reuse":
                    numbers = Numbers(self.run.ranks)
                    break
        waiting: list[tuple[Row, SiteCall, int]] = []
        for j, (step, lane) in enumerate(zip(self.steps, self.lanes, strict=True)):
            measured = None
            if numbers is not None and self.plan.taps:
                fast = lane.taps if self.record is not None and not self.plan.looks else None
                found = self.measuring.measured(j) if fast is None else fast.measure()
                measured = numbers.add(None if self.rerouted else found, 2 * self.plan.readings)
            for site in self.plan.sites:
                reached = self.calls.get(site.name)
                if reached is None:
                    self._note_unreached(step, lane, site)
                else:
                    row = self._note_call(step, lane, reached, reached.decisions[j], measured, numbers)
                    waiting += [] if row is None else [(row, reached, j)]
        if self.computed:
            self.run.note_bytes(self.lanes, self.hidden)
        if numbers is not None:
            for row, call, j in waiting:
                self._tell_of_feature(row, numbers, call, j)
            if self.run.together is not None:
                self.run.together.add(numbers)
            numbers.set_out()

    def _note_call(
        self, step: Step, lane: Lane, call: SiteCall, decided: Decision, measured: slice | None, numbers: Numbers | None
    ) -> Row | None:
        """One row, which waits for what it is to tell; returned where its feature has numbers as well."""
        plan, run, site = self.plan, self.run, call.site
        event = run.note(step, plan.where[site.name], call.action, decided.reason, decided.value, decided.at)
        if call.action == "reuse" and not self.timed:
            return None
        row = Row(event, step, lane, site, plan, numbers, measured)
        if self.timed:
            row.blocks, row.indicator = call.inside, self.measuring.intervals
        run.pending.append(row)
        return row if numbers is not None and (self.keeps or (run.ranks is not None and plan.keeps)) else None

    def _tell_of_feature(self, row: Row, numbers: Numbers, call: SiteCall, j: int) -> None:
        """The row's numbers on what is kept: that there was no room after all, other ranks have to hear as well."""
        is_kept = bool(call.finite) and row.lane.refused is None
        row.finite = numbers.add(call.finite[j] if is_kept else None, 1)
        if self.plan.needs_errors or call.action == "check":
            row.error = numbers.add(call.errors[j] if call.errors else None, NUMBERS)

    def _note_unreached(self, step: Step, lane: Lane, site: Site) -> None:
        """A site that lies in a reused one, or that this forward left out."""
        outer = (self.calls.get(name) for name in self.plan.outer[site.name])
        inside = any(call is not None and call.action == "reuse" for call in outer)
        if not inside and site.name in lane.slots:
            lane.slots[site.name].drop()
        action: Action = "reuse" if inside else "compute"
        reason = reasons.INSIDE if inside else reasons.LEFT_OUT
        self.run.note(step, self.plan.where[site.name], action, reason)

    def _leave_out(self) -> None:
        """Nothing is kept of this forward, and its rows say why: blocks ran out of order, or a site has no end."""
        self._refuse_half_a_replay("that the last block was left out")
        for step, lane in zip(self.steps, self.lanes, strict=True):
            lane.forget()
            for site in self.plan.sites:
                self.run.note(step, self.plan.where[site.name], "compute", reasons.LEFT_OUT)

    def _keep_routes(self) -> None:
        """Some passes leave blocks out (skip-layer guidance): a replay must be of the same ones."""
        for call in self.calls.values():
            first, last = call.site.first.block, call.site.last.block
            if first is None or last is None or first == last:
                continue
            route = self.route[bisect_left(self.route, first) : bisect_right(self.route, last)]
            for lane in self.lanes:
                if call.action != "reuse":
                    self.rerouted = self.rerouted or lane.routes.get(call.site.name, route) != route
                    lane.routes[call.site.name] = route
                elif lane.routes.get(call.site.name) != route:
                    self._refuse_half_a_replay("another choice of blocks")

    def _refuse_half_a_replay(self, found: str) -> None:
        if any(call.action == "reuse" for call in self.calls.values()):
            over = stranger_over(self.plan.stack)
            raise BlocksChangedError(
                complaint(
                    f"{found} in step {self.steps[0].index} (branch {self.steps[0].branch}), which was being reused"
                    + (f", under {over}" if over else ""),
                    "the same blocks in every step of a branch",
                    "one cache at a time: if that is another one, disable it, or leave the session"
                    if over
                    else "run the steps in which this changes without the session, or report the pipeline",
                )
            )


def _signature(entered: dict[str, Any], rows: BatchLayout) -> Signature:
    """Shapes of one lane, dtypes and devices of what enters a site, and whether torch casts there."""
    cast: bool | None = None
    found: list[object] = []
    for value in entered.values():
        if isinstance(value, Tensor):
            cast = torch.is_autocast_enabled(value.device.type) if cast is None else cast
            size = value.shape if rows.is_whole else rows.size(value.shape)
            found.append((size, value.dtype, value.device))
            if type(value) is not Tensor:
                found.append(Sharding.of(value))
        else:
            found.append(type(value))
    return (bool(cast), *found)


def _own(entered: dict[str, Any]) -> dict[str, Any]:
    return {name: own_part(value) if isinstance(value, Tensor) else value for name, value in entered.items()}


def _another_size(place: Place, name: str, entered: Tensor, left: Tensor) -> AttachError:
    return AttachError(
        complaint(
            f"{name} of {tuple(entered.shape)} that enters {place.name}'s site, and {tuple(left.shape)} that leaves it",
            "as much of it, since its residual is kept (is it split among ranks inside of a block?)",
            "split it before the first block, or choose a policy that keeps outputs, such as bwcache.BWCache()",
        )
    )


def _copies(entered: dict[str, Any]) -> dict[str, Any]:
    """What a residual is taken from: a block may write into what enters it."""
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in entered.items()}


def _device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
    return next(value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


def _sum(features: dict[str, Tensor]) -> Tensor | None:
    """One number that is finite only if all entries are; None of nothing."""
    total = None
    for feature in features.values():
        own = feature.sum(dtype=torch.float32)
        total = own if total is None else total + own.to(total.device)
    return total
