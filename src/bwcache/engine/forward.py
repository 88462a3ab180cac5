"""What happens at each block during one forward of a denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bwcache.core import Decision, Event, Step
from bwcache.core.decision import compute
from bwcache.engine import timing
from bwcache.engine.run import Pending, RunState
from bwcache.features.store import Key, Signature
from bwcache.features.taps import ExactTaps, SampledTaps
from bwcache.models import Block, BlockStack, Site
from bwcache.policies import Observation, Policy


@dataclass(frozen=True, eq=False)
class Place:
    """What there is to do at one block: the site it belongs to, the ordinal of its tap and which value that reads."""

    block: Block
    site: Site | None
    leaves: bool
    tap: int | None
    tapped: int


@dataclass(frozen=True, eq=False)
class Plan:
    """Where a policy acts on one stack: made once, when it is attached.

    Attributes:
        places: one for each block, in call order.
        taps: how many blocks are tapped.
    """

    stack: BlockStack
    places: tuple[Place, ...]
    taps: int

    @classmethod
    def of(cls, policy: Policy[Any], stack: BlockStack) -> Plan:
        """The plan of a policy for a stack."""
        sites: list[Site | None] = [None] * len(stack.blocks)
        for site in policy.sites(stack):
            sites[site.first : site.last + 1] = [site] * (site.last - site.first + 1)
        taps = {tap.block: (i, tap.stream) for i, tap in enumerate(policy.taps(stack))}
        places = []
        for i, (block, at) in enumerate(zip(stack.blocks, sites, strict=True)):
            ordinal, stream = taps.get(i, (None, block.streams[0].name))
            places.append(Place(block, at, at is not None and i == at.last, ordinal, block.position(stream)))
        return cls(stack, tuple(places), len(taps))


@dataclass(slots=True)
class Passage:
    """A site in this forward: what was decided, and what entered it."""

    site: Site
    decision: Decision
    signature: Signature
    entered: dict[str, Any]
    event: Event
    sums: Tensor | None = None
    inside: list[tuple[timing.Mark, timing.Mark]] = field(default_factory=list)


@dataclass(slots=True)
class Forward:
    """One forward of one denoiser: decides at each site's first block, then computes and keeps, or skips.

    Attributes:
        plan, run, step: where it acts, on what, and when.
        timed: whether to take the time.
    """

    plan: Plan
    run: RunState
    step: Step
    timed: bool
    passages: list[Passage] = field(default_factory=list)
    indicator: list[tuple[timing.Mark, timing.Mark]] = field(default_factory=list)
    tapped: SampledTaps | ExactTaps | None = None
    blocks: int = 0
    computed: int = 0

    def block(self, i: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call of the i-th block: computed, or answered from what is kept."""
        place = self.plan.places[i]
        self.blocks += 1
        passage = None
        if place.site is not None:
            if i == place.site.first:
                self._enter(place.site, place.block.inputs(args, kwargs))
            passage = self.passages[-1]
            if passage.decision.action == "reuse":
                return self._skip(passage, place, args, kwargs)
        if self.timed and passage is not None:
            returned = self._timed(passage, inner, args, kwargs)
        else:
            returned = inner(*args, **kwargs)
        self.computed += 1
        if place.tap is not None:
            self._tap(place.tap, place.block.value(returned, place.tapped))
        if place.leaves and passage is not None:
            self._leave(passage, place.block.outputs(returned))
        return returned

    def finish(self) -> None:
        """The forward is over: its rows go into the trace, its measurements on their way to the policy."""
        if self.blocks != len(self.plan.places):
            self.run.forget(self.step.branch)
            return
        measured = self._measure() if self.computed else None
        for passage in self.passages:
            place = self.run.note(passage.event)
            key = self._key(passage.site)
            self.run.await_numbers(
                Pending(place, self.step, key, measured, passage.sums, passage.inside, self.indicator)
            )
        hidden = sum(_nbytes(passage.entered, passage.site) for passage in self.passages)
        self.run.note_bytes(hidden)
        if self.step.total is not None and self.step.index >= self.step.total - 1:
            self.run.forget(self.step.branch)

    def _enter(self, site: Site, entered: dict[str, Any]) -> None:
        """Asks for the site's decision; where there is any doubt, the answer is to compute."""
        signature = tuple(_signature(value) for value in entered.values())
        self.run.run_by(self.plan.stack.name, self.step.branch)
        self.run.resolve_before(self.step)
        doubt = self._doubt(site, signature, entered)
        if doubt is not None:
            decision = compute(doubt)
        else:
            decision = self.run.policy.decide(Observation(self.step, site.name), self.run.state)
        row = Event.at(
            self.step,
            site=f"{self.plan.stack.name}/{site.name}",
            action=decision.action,
            reason=decision.reason,
        )
        self.passages.append(Passage(site, decision, signature, entered, row))

    def _doubt(self, site: Site, signature: Signature, entered: dict[str, Any]) -> str | None:
        """Why nothing kept may be used here, or None."""
        if torch.is_grad_enabled() and self._records_gradient(entered):
            return "a gradient is being recorded (run it under torch.no_grad())"
        if not self.run.policy.may_reuse:
            return None
        slot = self.run.store.get(self._key(site))
        if slot is None and self.step.index == 0:
            return "first step"
        if slot is None and self._key(site) in self.run.spoilt:
            return "the last computed feature is not finite"
        if slot is None:
            return f"nothing kept to reuse (of {self.step.branch} at {self.plan.stack.name})"
        if slot.signature != signature:
            return "another shape, dtype or device than what is kept"
        return None

    def _records_gradient(self, entered: dict[str, Any]) -> bool:
        flows = any(isinstance(value, Tensor) and value.requires_grad for value in entered.values())
        return flows or any(p.requires_grad for p in self.plan.stack.module.parameters())

    def _skip(self, passage: Passage, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Inner blocks hand their inputs on; the last one returns what is kept, or what is predicted from it."""
        start = timing.mark(_device(passage.entered)) if self.timed else None
        streams = place.block.inputs(args, kwargs)
        if place.leaves:
            slot = self.run.store.get(self._key(passage.site))
            predictor = self.run.policy.feature_predictor
            assert slot is not None
            assert predictor is not None
            for j, name in enumerate(passage.site.streams):
                feature = predictor.predict(slot.stream(j), self.step.coordinate)
                streams[name] = feature + passage.entered[name] if passage.site.keeps == "residual" else feature
        if start is not None:
            passage.inside.append((start, timing.mark(_device(passage.entered))))
        return place.block.packed(streams)

    def _timed(self, passage: Passage, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The block's call, its time added to the site's."""
        start = timing.mark(_device(passage.entered))
        returned = inner(*args, **kwargs)
        passage.inside.append((start, timing.mark(_device(passage.entered))))
        return returned

    def _tap(self, ordinal: int, feature: Tensor) -> None:
        if self.tapped is None:
            self.tapped = self.run.taps((self.step.branch, f"{self.plan.stack.name}/taps"), self.plan.taps)
        if not self.timed:
            self.tapped.record(ordinal, feature)
            return
        start = timing.mark(feature.device)
        self.tapped.record(ordinal, feature)
        self.indicator.append((start, timing.mark(feature.device)))

    def _measure(self) -> Tensor | None:
        if self.tapped is None:
            return None
        device = _device(self.passages[-1].entered) if self.timed else None
        start = timing.mark(device) if device else None
        measured = self.tapped.measure()
        if device:
            self.indicator.append((start, timing.mark(device)))
        return measured

    def _leave(self, passage: Passage, streams: dict[str, Tensor]) -> None:
        """Keeps the site's feature, and one number that tells whether all of it is finite."""
        predictor = self.run.policy.feature_predictor
        if predictor is None or not self.run.policy.may_reuse:
            return
        residual = passage.site.keeps == "residual"
        features = tuple(
            streams[name] - passage.entered[name] if residual else streams[name] for name in passage.site.streams
        )
        coordinate, key = self.step.coordinate, self._key(passage.site)
        self.run.store.put(key, passage.signature, coordinate, features, predictor.history)
        total, *others = (feature.detach().sum(dtype=torch.float32) for feature in features)
        for other in others:
            total += other.to(total.device)
        passage.sums = total

    def _key(self, site: Site) -> Key:
        return (self.step.branch, f"{self.plan.stack.name}/{site.name}")


def _signature(value: Any) -> object:
    return (tuple(value.shape), value.dtype, value.device) if isinstance(value, Tensor) else type(value)


def _device(streams: dict[str, Any]) -> torch.device:
    return next(value.device for value in streams.values() if isinstance(value, Tensor))


def _nbytes(streams: dict[str, Any], site: Site) -> int:
    return sum(streams[name].nbytes for name in site.streams)
