"""What happens at each block during one forward of a denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from bwcache.core import Decision, Event, Step
from bwcache.core.decision import compute
from bwcache.engine import timing
from bwcache.engine.idle import Inputs, Spared
from bwcache.engine.memory import need
from bwcache.engine.plan import Place, Plan
from bwcache.engine.run import Pending, RunState
from bwcache.engine.samples import Outline, Rows
from bwcache.errors import BlocksChanged, complaint
from bwcache.features.store import Key, Signature
from bwcache.features.taps import Taps
from bwcache.models import Site
from bwcache.policies import Observation


@dataclass(slots=True)
class Passage:
    """A site in this forward: what was decided, and what entered it; a list has one entry per lane."""

    site: Site
    reuses: bool
    signature: Signature
    entered: dict[str, Any]
    events: list[Event]
    sums: list[Tensor | None]
    foretold: list[Tensor | None]
    inside: list[tuple[timing.Mark, timing.Mark]] = field(default_factory=list)


@dataclass(slots=True)
class Forward:
    """One forward of one denoiser: decides at each site's first block, then computes and keeps, or skips.

    Attributes:
        plan, run: where it acts, and on what.
        steps: where it stands, one for each lane: samples that decide for themselves, or the whole batch as one.
        rows: how the lanes lie in the tensors.
        timed: whether to take the time.
        decided: what was decided for each lane before the forward; None: it is asked for at each site.
        filling: the sign that it fills a cache of the model's own, or None.
        spared: the idle modules, where they may be skipped.
        refusal: why nothing is kept of it, or None.
    """

    plan: Plan
    run: RunState
    steps: tuple[Step, ...]
    rows: Rows
    timed: bool
    decided: tuple[Decision, ...] | None = None
    filling: str | None = None
    spared: Spared | None = None
    refusal: str | None = None
    passages: list[Passage] = field(default_factory=list)
    indicator: list[tuple[timing.Mark, timing.Mark]] = field(default_factory=list)
    tapped: list[Taps] = field(default_factory=list)
    route: list[int] = field(default_factory=list)
    computed: int = 0
    hidden: int = 0

    def foresee(self, given: Inputs | None) -> None:
        """Skips the idle modules if this is going to be a replay: asks for the decision, where no doubt can be left.

        Args:
            given: what is told of the forward's arguments.
        """
        spared, site = self.spared, self.plan.alone
        if spared is None or site is None or given is None:
            return
        spared.inputs = given
        known = self.run.idle.get(given)
        spared.notes = known is None
        if known is None or torch.is_grad_enabled() or self.filling is not None or not self._keeps:
            return
        if spared.idle.is_watched:
            return
        for step in self.steps:
            self.run.run_by(self.plan.stack.name, step.lane)
        self.run.resolve_before(self.steps[0])
        for step in self.steps:
            if self.run.nothing_kept(step, self._key(step, site)) or self.run.given.get(step.lane) != given:
                return
        if self.decided is None:
            asked = (Observation(step, site.name) for step in self.steps)
            self.decided = tuple(self.run.policy.decide(each, self.run.state) for each in asked)
        spared.outlines, spared.skips = known, all(decision.reuses for decision in self.decided)

    def again(self) -> Forward:
        """The same forward from its start, with all its modules."""
        return Forward(self.plan, self.run, self.steps, self.rows, self.timed, self.decided)

    def block(self, i: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call of the i-th block: computed, or answered from what is kept."""
        place = self.plan.places[i]
        if not self.route and self.plan.holds:
            self._count_memory(place, args, kwargs)
        self.route.append(i)
        passage = None
        if place.site is not None:
            if not self.passages or self.passages[-1].site is not place.site:
                self._enter(place.site, place.block.inputs(args, kwargs))
            passage = self.passages[-1]
            if passage.reuses:
                return self._skip(i, passage, place, args, kwargs)
        if self.timed and passage is not None:
            returned = self._timed(passage, inner, args, kwargs)
        else:
            returned = inner(*args, **kwargs)
        self.computed += 1
        if place.tap is not None and self._counts:
            self._tap(place.tap, place.block.value(returned, place.tapped))
        if passage is not None:
            if place.block.outlined:
                self.run.outlines[self.steps[0].branch, i] = Outline.of(returned, self.rows.samples)
            if place.leaves:
                self._leave(passage, place.block.outputs(returned))
        return returned

    def finish(self) -> None:
        """The forward is over: its rows go into the trace, its measurements on their way to the policy.

        Raises:
            BlocksChanged: reused features were laid over other blocks than those that made them.
        """
        if not self._passed_all_sites():
            self._refuse_half_a_replay("that the last block was left out")
            self._forget()
            self._note_without_last_block()
            return
        if self.spared is not None and self.computed:
            self._keep_outlines(self.spared)
        measured = self._measure() if self.computed else [None] * len(self.steps)
        for j, step in enumerate(self.steps):
            if self.plan.keeps:
                self._keep_route(step)
            for passage in self.passages:
                place = self.run.note(passage.events[j])
                if self.plan.holds or self.timed:
                    self._await(j, place, passage, measured[j])
        self.run.note_hidden(self.hidden)
        if self.plan.holds:
            self.run.note_bytes(self.steps)
        if self.steps[0].total is not None and self.steps[0].index >= self.steps[0].total - 1:
            self._forget()

    def _await(self, j: int, event: int, passage: Passage, measured: Tensor | None) -> None:
        key = self._key(self.steps[j], passage.site)
        told = measured, passage.sums[j], passage.foretold[j]
        self.run.await_numbers(Pending(event, self.steps[j], key, *told, passage.inside, self.indicator))

    def _keep_outlines(self, spared: Spared) -> None:
        for step in self.steps:
            self.run.given[step.lane] = spared.inputs
        if spared.notes and spared.inputs is not None:
            self.run.idle[spared.inputs] = spared.outlines

    def _note_without_last_block(self) -> None:
        """Nothing was kept of this forward, and its rows say why."""
        decision = compute("the last block was left out, or blocks ran out of order")
        sites = dict.fromkeys(place.site for place in self.plan.places if place.site is not None)
        for step in self.steps:
            for site in sites:
                where = f"{self.plan.stack.name}/{site.name}"
                self.run.note(Event.at(step, site=where, action=decision.action, reason=decision.reason))

    def _passed_all_sites(self) -> bool:
        """Whether the blocks came in order, each once, and the last of every site was among them."""
        rising = all(a < b for a, b in pairwise(self.route))
        return rising and self.plan.leaving <= set(self.route)

    def _keep_route(self, step: Step) -> None:
        """Some passes leave blocks out (skip-layer guidance): a replay must be of the same ones."""
        if any(passage.reuses for passage in self.passages):
            if self.run.routes.get(step.lane) != self.route:
                self._refuse_half_a_replay("another choice of blocks")
        else:
            self.run.routes[step.lane] = self.route

    def _refuse_half_a_replay(self, found: str) -> None:
        if any(passage.reuses for passage in self.passages):
            raise BlocksChanged(
                complaint(
                    f"{found} in step {self.steps[0].index} (branch {self.steps[0].branch}), which was being reused",
                    "the same blocks in every step of a branch",
                    "run the steps in which this changes without the session, or report the pipeline",
                )
            )

    def _forget(self) -> None:
        for step in self.steps:
            self.run.forget(step.lane)

    def _count_memory(self, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the first block runs: what will be kept of new lanes must have room.

        Raises:
            OverBudget: it has none, and this is the run's first step.
        """
        account, denoiser = self.run.account, self.plan.stack.name
        new = [step.lane for step in self.steps if not account.knows(step.lane, denoiser)] if self._counts else []
        if new:
            each = need(self.plan, self.run.policy, place.block.inputs(args, kwargs), self.rows)
            branches = 2 if self.run.guided and self.plan.stack.spec.guidance == "separate" else 1
            account.expect(new, denoiser, each, branches, self.run.in_first_step)
        self.refusal = next((why for step in self.steps if (why := account.refusal(step.lane))), None)

    def _enter(self, site: Site, entered: dict[str, Any]) -> None:
        """Asks for the site's decision; where there is any doubt, the answer is to compute."""
        signature = tuple(_signature(value, self.rows) for value in entered.values()) if self.plan.keeps else ()
        if self.plan.holds:
            for step in self.steps:
                self.run.run_by(self.plan.stack.name, step.lane)
        self.run.resolve_before(self.steps[0])
        decisions = [self._decision(j, site, signature, entered) for j in range(len(self.steps))]
        reuses = all(decision.action == "reuse" for decision in decisions)
        where = f"{self.plan.stack.name}/{site.name}"
        events = [
            Event.at(step, site=where, action="reuse" if reuses else "compute", reason=decision.reason)
            for step, decision in zip(self.steps, decisions, strict=True)
        ]
        if self.spared is not None and not reuses:
            self.spared.compute(events[0].reason)
        self.passages.append(
            Passage(site, reuses, signature, entered, events, [None] * len(events), [None] * len(events))
        )
        if reuses:
            self.run.store.expect(self._key(self.steps[0], site))

    def _decision(self, j: int, site: Site, signature: Signature, entered: dict[str, Any]) -> Decision:
        step = self.steps[j]
        doubt = self._doubt(step, site, signature, entered) if self.plan.holds else None
        if doubt is not None:
            return compute(doubt)
        if self.decided is not None:
            return self.decided[j]
        return self.run.policy.decide(Observation(step, site.name), self.run.state)

    def _doubt(self, step: Step, site: Site, signature: Signature, entered: dict[str, Any]) -> str | None:
        """Why nothing kept may be used here, or None."""
        if torch.is_grad_enabled() and self._records_gradient(entered):
            return "a gradient is being recorded (run it under torch.no_grad())"
        if self.filling is not None and self.plan.keeps:
            return f"fills a cache of the model's own ({self.filling})"
        if self.refusal is not None:
            return self.refusal
        if not self._keeps:
            return None
        doubt = self.run.nothing_kept(step, self._key(step, site))
        if doubt is not None:
            return doubt
        slot = self.run.store.get(self._key(step, site))
        if slot is not None and slot.signature != signature:
            return "another shape, dtype or device than what is kept"
        return None

    def _records_gradient(self, entered: dict[str, Any]) -> bool:
        flows = any(isinstance(value, Tensor) and value.requires_grad for value in entered.values())
        return flows or any(p.requires_grad for p in self.plan.stack.module.parameters())

    def _skip(self, i: int, passage: Passage, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Inner blocks hand their inputs on; the last one returns what is kept, or what is predicted from it."""
        start = timing.mark(_device(passage.entered)) if self.timed else None
        if place.leaves:
            returned = self._replayed(passage, place, place.block.inputs(args, kwargs))
        elif place.block.outlined:
            returned = self.run.outlines[self.steps[0].branch, i].filled(self.rows.samples)
        else:
            returned = place.block.packed(place.block.inputs(args, kwargs))
        if start is not None:
            passage.inside.append((start, timing.mark(_device(passage.entered))))
        return returned

    def _replayed(self, passage: Passage, place: Place, streams: dict[str, Any]) -> Any:
        predictor = self.run.policy.feature_predictor
        assert predictor is not None
        made: dict[str, list[Tensor]] = {}
        for step, following in zip(self.steps, [*self.steps[1:], None], strict=True):
            key = self._key(step, passage.site)
            if following is not None:  # while one lane's features are read, the next one's are on their way
                self.run.store.expect(self._key(following, passage.site))
            for name, past in self.run.store.past(key).items():
                feature = predictor.predict(past, step.coordinate, self.run.damping(step, key))
                made.setdefault(name, []).append(feature)
        for name, features in made.items():
            feature = self.rows.joined(features)
            streams[name] = feature + passage.entered[name] if passage.site.keeps == "residual" else feature
        return place.block.packed(streams)

    def _timed(self, passage: Passage, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The block's call, its time added to the site's."""
        start = timing.mark(_device(passage.entered))
        returned = inner(*args, **kwargs)
        passage.inside.append((start, timing.mark(_device(passage.entered))))
        return returned

    def _tap(self, ordinal: int, feature: Tensor) -> None:
        if not self.tapped:
            name, count = self.plan.stack.name, self.plan.taps
            self.tapped = [
                self.run.taps(step, name, count, self.rows.of(feature, j)) for j, step in enumerate(self.steps)
            ]
        if not self.timed:
            self._record(ordinal, feature)
            return
        now = timing.clock(feature.device)
        start = now()
        self._record(ordinal, feature)
        self.indicator.append((start, now()))

    def _record(self, ordinal: int, feature: Tensor) -> None:
        if len(self.tapped) == 1:
            self.tapped[0].record(ordinal, feature)
        else:
            for j, tapped in enumerate(self.tapped):
                tapped.record(ordinal, self.rows.of(feature, j))

    def _measure(self) -> list[Tensor | None]:
        if not self.tapped:
            return [None] * len(self.steps)
        device = _device(self.passages[-1].entered) if self.timed else None
        start = timing.mark(device) if device else None
        measured = [tapped.measure() for tapped in self.tapped]
        if device:
            self.indicator.append((start, timing.mark(device)))
        return measured

    def _leave(self, passage: Passage, streams: dict[str, Any]) -> None:
        """Keeps the site's feature, and one number that tells whether all of it is finite."""
        kept = {name: streams[name] for name in passage.site.streams if isinstance(streams[name], Tensor)}
        self.hidden += sum(feature.nbytes for feature in kept.values())
        predictor = self.run.policy.feature_predictor
        if predictor is None or not self._keeps:
            return
        if passage.site.keeps == "residual":
            kept = {name: feature - passage.entered[name] for name, feature in kept.items()}
        for j, step in enumerate(self.steps):
            features = {name: self.rows.of(feature.detach(), j) for name, feature in kept.items()}
            key = self._key(step, passage.site)
            if not self.run.keep(step, key, passage.signature, features, predictor.history):
                continue
            passage.sums[j] = _sum(list(features.values()))
            if self.run.policy.needs_errors:
                passage.foretold[j] = self._foretold(step, key, features)

    def _foretold(self, step: Step, key: Key, features: dict[str, Tensor]) -> Tensor | None:
        """How close the predictor would have come, by the measured stream or else the first."""
        measured = features.get(self.plan.stack.spec.measured)
        start = timing.mark(_device(features)) if self.timed else None
        told = self.run.foretold(step, key, next(iter(features.values())) if measured is None else measured)
        if start is not None:
            self.indicator.append((start, timing.mark(_device(features))))
        return told

    @property
    def _counts(self) -> bool:
        """Whether the policy can do anything with what it is told here."""
        return self.refusal is None and (self.steps[0].total is not None or not self.run.policy.needs_total)

    @property
    def _keeps(self) -> bool:
        return self.plan.keeps and self._counts

    def _key(self, step: Step, site: Site) -> Key:
        return (step.lane, f"{self.plan.stack.name}/{site.name}")


def _signature(value: Any, rows: Rows) -> object:
    if not isinstance(value, Tensor):
        return type(value)
    shape = tuple(value.shape)
    if rows.samples > 1:
        shape = tuple(size // rows.samples if axis == rows.axis else size for axis, size in enumerate(shape))
    return (shape, value.dtype, value.device)


def _device(streams: dict[str, Any]) -> torch.device:
    return next(value.device for value in streams.values() if isinstance(value, Tensor))


def _sum(features: list[Tensor]) -> Tensor | None:
    """One number that is finite only if all entries are; None of nothing."""
    total = None
    for feature in features:
        own = feature.sum(dtype=torch.float32)
        total = own if total is None else total + own.to(total.device)
    return total
