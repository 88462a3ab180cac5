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
from bwcache.models import Block, BlockStack, Site
from bwcache.policies import Observation, Policy


@dataclass(frozen=True, eq=False)
class Plan:
    """Where a policy acts on one stack: made once, when it is attached.

    Attributes:
        sites: for each block, the site it belongs to, or None.
        taps: for each tapped block, the ordinal of its tap and the stream.
    """

    stack: BlockStack
    sites: tuple[Site | None, ...]
    taps: dict[int, tuple[int, str]]

    @classmethod
    def of(cls, policy: Policy[Any], stack: BlockStack) -> Plan:
        """The plan of a policy for a stack."""
        sites: list[Site | None] = [None] * len(stack.blocks)
        for site in policy.sites(stack):
            sites[site.first : site.last + 1] = [site] * (site.last - site.first + 1)
        taps = {tap.block: (i, tap.stream) for i, tap in enumerate(policy.taps(stack))}
        return cls(stack, tuple(sites), taps)


@dataclass
class Passage:
    """A site in this forward: what was decided, and what entered it."""

    site: Site
    decision: Decision
    signature: Signature
    entered: dict[str, Any]
    event: Event
    kept: Tensor | None = None
    inside: list[tuple[timing.Mark, timing.Mark]] = field(default_factory=list)


@dataclass
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
    computed_blocks: int = 0
    complete: bool = False

    def block(self, i: int, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call of the i-th block: computed, or answered from what is kept."""
        block, site = self.plan.stack.blocks[i], self.plan.sites[i]
        self.complete = i == len(self.plan.stack.blocks) - 1
        if site is not None and i == site.first:
            self._enter(site, block.inputs(args, kwargs))
        passage = self.passages[-1] if site is not None else None
        if passage is not None and passage.decision.reuses:
            return self._timed(passage, self._skip, passage, block, i, block.inputs(args, kwargs))
        returned = self._timed(passage, inner, *args, **kwargs)
        self.computed_blocks += 1
        if i in self.plan.taps:
            self._tap(i, block.outputs(returned))
        if passage is not None and i == passage.site.last:
            self._leave(passage, block.outputs(returned))
        return returned

    def finish(self) -> None:
        """The forward is over: its rows go into the trace, its measurements on their way to the policy."""
        if not self.complete:
            self.run.forget(self.step.branch)
            return
        measured = self._measure() if self.computed_blocks else None
        for passage in self.passages:
            place = self.run.note(passage.event)
            key = self._key(passage.site)
            self.run.await_numbers(
                Pending(place, self.step, key, measured, passage.kept, passage.inside, self.indicator)
            )
        hidden = sum(_nbytes(passage.entered, passage.site) for passage in self.passages)
        self.run.note_bytes(hidden)
        if self.step.total is not None and self.step.index >= self.step.total - 1:
            self.run.forget(self.step.branch)

    def _enter(self, site: Site, entered: dict[str, Any]) -> None:
        """Asks for the site's decision; where there is any doubt, the answer is to compute."""
        signature = tuple(_signature(value) for value in entered.values())
        self.run.forget(self.step.branch, beside=self.plan.stack.name)
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
        if self.run.policy.feature_predictor is None:
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

    def _skip(self, passage: Passage, block: Block, i: int, streams: dict[str, Any]) -> Any:
        """Inner blocks hand their inputs on; the last one returns what is kept, or what is predicted from it."""
        if i == passage.site.last:
            slot = self.run.store.get(self._key(passage.site))
            predictor = self.run.policy.feature_predictor
            assert slot is not None
            assert predictor is not None
            for j, name in enumerate(passage.site.streams):
                feature = predictor.predict(slot.stream(j), self.step.coordinate)
                streams[name] = feature + passage.entered[name] if passage.site.keeps == "residual" else feature
        return block.packed(streams)

    def _timed(self, passage: Passage | None, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls, and adds the time to the site's if time is taken."""
        if passage is None or not self.timed:
            return call(*args, **kwargs)
        start = timing.mark(_device(passage.entered))
        result = call(*args, **kwargs)
        passage.inside.append((start, timing.mark(_device(passage.entered))))
        return result

    def _tap(self, i: int, streams: dict[str, Tensor]) -> None:
        ordinal, name = self.plan.taps[i]
        start = timing.mark(streams[name].device) if self.timed else None
        self.run.taps(self._taps_key, len(self.plan.taps)).record(ordinal, streams[name])
        if self.timed:
            self.indicator.append((start, timing.mark(streams[name].device)))

    def _measure(self) -> Tensor | None:
        if not self.plan.taps:
            return None
        device = _device(self.passages[-1].entered) if self.timed else None
        start = timing.mark(device) if device else None
        measured = self.run.taps(self._taps_key, len(self.plan.taps)).measure()
        if device:
            self.indicator.append((start, timing.mark(device)))
        return measured

    def _leave(self, passage: Passage, streams: dict[str, Tensor]) -> None:
        """Keeps the site's feature."""
        predictor = self.run.policy.feature_predictor
        if predictor is None:
            return
        residual = passage.site.keeps == "residual"
        features = tuple(
            streams[name] - passage.entered[name] if residual else streams[name] for name in passage.site.streams
        )
        coordinate, key = self.step.coordinate, self._key(passage.site)
        self.run.store.put(key, passage.signature, coordinate, features, predictor.history)
        passage.kept = torch.stack([f.detach().sum(dtype=torch.float32).isfinite() for f in features]).all().float()

    def _key(self, site: Site) -> Key:
        return (self.step.branch, f"{self.plan.stack.name}/{site.name}")

    @property
    def _taps_key(self) -> Key:
        return (self.step.branch, f"{self.plan.stack.name}/taps")


def _signature(value: Any) -> object:
    return (tuple(value.shape), value.dtype, value.device) if isinstance(value, Tensor) else type(value)


def _device(streams: dict[str, Any]) -> torch.device:
    return next(value.device for value in streams.values() if isinstance(value, Tensor))


def _nbytes(streams: dict[str, Any], site: Site) -> int:
    return sum(streams[name].nbytes for name in site.streams)
