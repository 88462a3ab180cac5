"""What is checked of a real denoiser under its repository's own sampler."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import bwcache
from bwcache import compute, reuse
from bwcache.models import BlockStack, Place, denoisers, resolve


@dataclass(frozen=True)
class Sampler:
    """A denoiser with a tiny config, and the loop that calls it.

    Attributes:
        target: what a session is attached to.
        sample: the repository's sampler on `target`, always from the same noise: what it makes.
        steps: number of steps of a run.
        branches: names of the branches of a step, as the trace has them, in the order of its rows.
        forwards: how many forwards of the denoiser a step makes.
        runs: how many runs a call of `sample` makes.
        anew: in how many forwards, beside the first of each branch, there is nothing that fits to compare with.
        told: whether `attach` is told the number of steps; a pipeline says it.
        alone: of a batch: samplers of each of its samples by itself.
    """

    target: Any
    sample: Callable[[], Any]
    steps: int
    branches: tuple[str, ...]
    forwards: int = 1
    runs: int = 1
    anew: int = 0
    told: bool = True
    alone: tuple[Sampler, ...] = ()

    def attach(self, policy: bwcache.Policy[Any]) -> bwcache.Session:
        """A session on the target, told what it needs to know."""
        return bwcache.attach(self.target, policy, steps=self.steps if self.told else None)


@dataclass
class Report:
    """Outcomes by the name of the check; what was seen, where it did not hold."""

    passed: dict[str, bool] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)

    def note(self, check: str, passed: bool, seen: Any = "") -> None:
        """Keeps an outcome, and what was seen where the check did not hold."""
        self.passed[check] = bool(passed)
        if not passed:
            self.seen[check] = str(seen)[:600]


def lively(module: nn.Module, scale: float = 0.1) -> None:
    """Random weights everywhere, always the same: fresh models have zeros where it would show nothing."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = (torch.randn(parameter.shape, generator=generator) * scale).to(parameter.dtype)
    module.eval().requires_grad_(False)


def tensors(value: Any) -> list[Tensor]:
    """All tensors of an output, in order."""
    if isinstance(value, Tensor):
        return [value.clone()]
    items = list(value.values()) if isinstance(value, dict) else value
    return [t for item in items for t in tensors(item)] if isinstance(items, (list, tuple)) else []


def equal(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Bit for bit, and finite."""
    return 0 < len(a) == len(b) and all(x.isfinite().all() and torch.equal(x, y) for x, y in zip(a, b, strict=True))


@contextmanager
def around(block: Place, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Puts `wrap(inner)` in the place of what runs as the block, for as long as it lasts."""
    if block.hook is None:
        had, inner = "forward" in vars(block.module), block.module.forward
        block.module.forward = functools.wraps(inner)(wrap(inner))
        try:
            yield
        finally:
            if had:
                block.module.forward = inner
            else:
                del block.module.forward
        return
    hook, inner = block.hook, block.hook.owner[block.hook.name]
    own = wrap(inner)

    @functools.wraps(inner)
    def called(*args: Any, **kwargs: Any) -> Any:
        return (own if int(kwargs[hook.index]) == hook.number else inner)(*args, **kwargs)

    hook.owner[hook.name] = called
    try:
        yield
    finally:
        hook.owner[hook.name] = inner


@contextmanager
def all_around(stacks: Sequence[BlockStack], wrap: Callable[[str, int, Any], Any]) -> Iterator[None]:
    """`around` on every block: `wrap(denoiser's name, block's number, inner)`."""
    with ExitStack() as undo:
        for stack in stacks:
            for i, block in enumerate(stack.blocks):
                undo.enter_context(around(block, functools.partial(wrap, stack.name, i)))
        yield


class Calls:
    """Notes which blocks ran."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, int]] = []

    def wrap(self, stack: str, i: int, inner: Callable[..., Any]) -> Callable[..., Any]:
        """What runs in the place of a block."""

        def called(*args: Any, **kwargs: Any) -> Any:
            self.noted.append((stack, i))
            return inner(*args, **kwargs)

        return called

    def whole(self, stacks: Sequence[BlockStack]) -> int | None:
        """How many forwards these were, if each ran all blocks of its denoiser in the row's order; else None."""
        count, at, lengths = 0, 0, {stack.name: len(stack.blocks) for stack in stacks}
        while at < len(self.noted):
            name = self.noted[at][0]
            if self.noted[at : at + lengths[name]] != [(name, i) for i in range(lengths[name])]:
                return None
            count, at = count + 1, at + lengths[name]
        return count


class BruteForce:
    """Keeps what every block returned, by forward of the step, and gives exactly that back in reused forwards."""

    def __init__(self, reused: Sequence[bool], forwards: int) -> None:
        self.reused, self.forwards = reused, forwards
        self.at = -1
        self.kept: dict[tuple[str, int, int], Any] = {}

    def wrap(self, stack: str, i: int, inner: Callable[..., Any]) -> Callable[..., Any]:
        """What runs in the place of a block."""

        def called(*args: Any, **kwargs: Any) -> Any:
            self.at += i == 0
            key = (stack, self.at % self.forwards, i)
            if self.reused[self.at]:
                return _copied(self.kept[key])
            returned = inner(*args, **kwargs)
            self.kept[key] = _copied(returned)
            return returned

        return called


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return type(value)(_copied(item) for item in value) if isinstance(value, (tuple, list)) else value


def everything_on(module: nn.Module) -> dict[str, Any]:
    """All attributes of all its parts, and what their dictionaries (hooks, parameters) hold."""
    found: dict[str, Any] = {}
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            inside = {k: id(v) for k, v in value.items()} if isinstance(value, dict) else None
            found[f"{name}.{key}"] = (id(value), inside)
        own = getattr(part.forward, "__self__", None) is part
        found[f"{name} forward"] = part.forward.__func__ if own else id(part.forward)
    return found


def rows(session: bwcache.Session) -> list[list[tuple[int, str, str]]]:
    """Step, branch and action of each row of each run."""
    return [[(event.step, event.branch, event.action) for event in trace.events] for trace in session.traces]


def forwards_reused(session: bwcache.Session, sampler: Sampler) -> list[bool]:
    """Whether each forward was reused; a forward with several rows only if all of them were."""
    found = []
    for trace in session.traces:
        for step in range(trace.steps):
            actions = [event.action for event in trace.events if event.step == step]
            width = len(actions) // sampler.forwards
            found += [set(actions[i : i + width]) == {"reuse"} for i in range(0, len(actions), width)]
    return found


OFTEN = bwcache.BWCache(threshold=1e9, reuse_interval=2, tail_guard=0.0)


def check(sampler: Sampler) -> Report:
    """All checks of a denoiser under its sampler."""
    report = Report()
    sampler.sample()  # some models fill tables at their first call
    parts = denoisers(sampler.target)
    stacks = [resolve(name, module) for name, module in parts.items()]
    before = {name: everything_on(module) for name, module in parts.items()}
    weights = {name: tensors(module.state_dict()) for name, module in parts.items()}
    plain = _plain(report, sampler, stacks)
    _computed(report, sampler, stacks, plain)
    _reused(report, sampler, stacks, plain)
    if sampler.alone:
        _apart(report, sampler)
    sampler.sample()  # without the checks' own wrappers, of which some models keep copies until the next call
    with sampler.attach(bwcache.NeverReuse()):
        sampler.sample()
    report.note("after leaving, every attribute is as before", _same(before, parts), _changed(before, parts))
    same = all(equal(weights[name], tensors(module.state_dict())) for name, module in parts.items())
    report.note("after leaving, weights and output are as before", same and equal(tensors(sampler.sample()), plain))
    return report


def _plain(report: Report, sampler: Sampler, stacks: Sequence[BlockStack]) -> list[Tensor]:
    calls, expected = Calls(), sampler.steps * sampler.forwards * sampler.runs
    with all_around(stacks, calls.wrap):
        made = tensors(sampler.sample())
    count = calls.whole(stacks)
    report.note("the sampler calls the blocks as the row says", count == expected, f"{count} forwards, not {expected}")
    report.note("two calls of the sampler are equal", equal(tensors(sampler.sample()), made), "the check shows nothing")
    return made


def _computed(report: Report, sampler: Sampler, stacks: Sequence[BlockStack], plain: list[Tensor]) -> None:
    calls = Calls()
    with all_around(stacks, calls.wrap), sampler.attach(bwcache.NeverReuse()) as session:
        made = tensors(sampler.sample())
    count = calls.whole(stacks)
    whole = count == sampler.steps * sampler.forwards * sampler.runs
    report.note("computing only: bit-identical, every block ran", equal(made, plain) and whole, f"{count} forwards")
    expected = [(step, branch, "compute") for step in range(sampler.steps) for branch in sampler.branches]
    report.note(
        "steps, branches and runs are those of the sampler", rows(session) == [expected] * sampler.runs, rows(session)
    )
    with warnings.catch_warnings(), sampler.attach(bwcache.NeverReuse(measures="default")) as session:
        warnings.simplefilter("ignore", category=bwcache.NeverReusedWarning)
        made = tensors(sampler.sample())
    numbers = [event.indicator for trace in session.traces for event in trace.events]
    first = sampler.runs * len(stacks) * len(sampler.branches) + sampler.anew  # where there is nothing to compare with
    measured = numbers.count(None) == first < len(numbers) and all(number is None or number > 0 for number in numbers)
    report.note("threshold 0: bit-identical, and measured", equal(made, plain) and measured, numbers)


def _reused(report: Report, sampler: Sampler, stacks: Sequence[BlockStack], plain: list[Tensor]) -> None:
    calls = Calls()
    with all_around(stacks, calls.wrap), sampler.attach(OFTEN) as session:
        made = tensors(sampler.sample())
    reused, count = forwards_reused(session, sampler), calls.whole(stacks)
    held = any(reused) and count == len(reused) - sum(reused)
    report.note("reuse happens, and no block runs in it", held, f"{sum(reused)} of {len(reused)} reused, {count} ran")
    if len(reused) != sampler.steps * sampler.forwards * sampler.runs:
        report.note("replay is brute force", False, f"{len(reused)} forwards in the trace")
        return
    with all_around(stacks, BruteForce(reused, sampler.forwards).wrap):
        expected = tensors(sampler.sample())
    report.note("replay is brute force", equal(made, expected), "another result")
    report.note("reuse changes the result", not equal(made, plain), "the check shows nothing")


@dataclass(frozen=True)
class Scripted(bwcache.Policy[None]):
    """Reuses some steps of some samples: of a sample alone, or of each in a batch.

    Attributes:
        reused: for each sample, the steps that are reused.
    """

    reused: tuple[frozenset[int], ...]

    def init(self) -> None:
        """There is no state."""
        return None

    def decide(self, observation: bwcache.Observation, state: None) -> bwcache.Decision:
        """As the script says."""
        step = observation.step
        return reuse("scripted") if step.index in self.reused[step.sample or 0] else compute("scripted")


def _apart(report: Report, sampler: Sampler) -> None:
    """A batch whose samples reuse other steps is what each is by itself, as far as the model makes it so uncached."""
    scripts = tuple(frozenset({2 + i, 4 + i}) for i in range(len(sampler.alone)))
    plain = [tensors(alone.sample()) for alone in sampler.alone]
    uncached = _distance(tensors(sampler.sample()), plain)
    with sampler.attach(Scripted(scripts)) as session:
        batch = tensors(sampler.sample())
    singles = []
    for alone, script in zip(sampler.alone, scripts, strict=True):
        with alone.attach(Scripted((script,))):
            singles.append(tensors(alone.sample()))
    cached, moved = _distance(batch, singles), _distance(batch, plain)
    reused: dict[int | None, set[int]] = {event.sample: set() for event in session.trace.events}
    for event in session.trace.events:
        if event.action == "reuse":
            reused[event.sample].add(event.step)
    told = reused == {i: set(script) for i, script in enumerate(scripts)}
    held = told and cached <= 10 * uncached + 1e-6 < moved
    seen = f"apart {cached:.1e} with reuse and {uncached:.1e} without, reuse moves by {moved:.1e}, reused {reused}"
    report.note("in a batch, every sample decides for itself and is what it is alone", held, seen)


def _distance(batch: Sequence[Tensor], singles: Sequence[Sequence[Tensor]]) -> float:
    """Largest difference between a batch and its samples alone, over the largest value."""
    joined = [torch.cat(parts) for parts in zip(*singles, strict=True)]
    pairs = zip(batch, joined, strict=True)
    return max(float((a.float() - b.float()).abs().max() / b.float().abs().max()) for a, b in pairs)


def _changed(before: dict[str, Any], parts: dict[str, nn.Module]) -> list[str]:
    after = {name: everything_on(module) for name, module in parts.items()}
    return [
        f"{name}:{key}"
        for name in parts
        for key in before[name].keys() | after[name].keys()
        if before[name].get(key) != after[name].get(key)
    ]


def _same(before: dict[str, Any], parts: dict[str, nn.Module]) -> bool:
    return not _changed(before, parts)
