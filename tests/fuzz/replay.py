"""Brute force from the recorded decisions: plain patches that replay what each block of each sample last returned.

It knows nothing of the engine. It reads the rows of a trace, and by them runs each site or replays what its modules
returned when its branch was last computed. Which branch a forward is it reads off the prompts, not off the trace; how
many samples there are it knows from the scenario. So a row that names another branch, a stale feature, a sample that
is none, each makes another video here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bwcache import Event
from tests.fuzz.play import Actor, Outcome, Part
from tests.fuzz.scenario import Call
from tests.fuzz.world import identity

CALL = "_compiled_call_impl"


@dataclass
class Rows:
    """The rows of one forward: what is done at each site, for the whole batch or for each sample."""

    events: list[Event]

    @property
    def samples(self) -> list[int] | None:
        """The samples that decided for themselves; None where the batch decided as one."""
        found = sorted({event.sample for event in self.events if event.sample is not None})
        return found or None

    def actions(self, sample: int | None) -> dict[str, str]:
        """Site -> action."""
        return {event.site: event.action for event in self.events if event.sample == sample}


def forwards(events: Sequence[Event]) -> list[Rows]:
    """The rows of a call, one entry for each forward: a new one begins where a row would come twice."""
    found: list[Rows] = []
    seen: set[tuple[str, int | None]] = set()
    last: tuple[Any, ...] = ()
    for event in events:
        where = (event.run, event.step, event.branch, event.site.split("/")[0])
        if where != last or (event.site, event.sample) in seen:
            found.append(Rows([]))
            seen = set()
        found[-1].events.append(event)
        seen.add((event.site, event.sample))
        last = where
    return found


class BruteForce(Part):
    """Plays a scenario's calls by the rows that its session left.

    Args:
        rows: the rows of each call, by its name.
    """

    def __init__(self, rows: dict[str, list[Event]]) -> None:
        self.rows = rows
        self.complaints: list[str] = []

    @contextmanager
    def during(self, actor: Actor, call: Call, outcome: Outcome) -> Iterator[None]:
        events = self.rows.get(outcome.name)
        if events is None:
            yield
            return
        replay = Replay(actor, call, outcome, forwards(events))
        with replay.patched():
            yield
        self.complaints += [f"{outcome.name}: {complaint}" for complaint in replay.complaints]
        if outcome.error is None and len(replay.rows) != replay.forward:
            self.complaints.append(f"{outcome.name}: {len(replay.rows)} forwards in the trace, not {replay.forward}")


Key = tuple[str, Any, str, int | None]
"""(denoiser, identity of the branch, path of the module, sample)"""


@dataclass
class Replay:
    """One call by brute force."""

    actor: Actor
    call: Call
    outcome: Outcome
    rows: list[Rows]
    forward: int = 0
    complaints: list[str] = field(default_factory=list)
    stored: dict[Key, Any] = field(default_factory=dict)
    visited: dict[Any, int] = field(default_factory=dict)
    now: Now | None = None

    @contextmanager
    def patched(self) -> Iterator[None]:
        """While the call runs."""
        with ExitStack() as undo:
            for name, module in self.actor.modules.items():
                sites = {
                    row.site for rows in self.rows for row in rows.events if row.site.startswith((f"{name}/", "model/"))
                }
                covered = self._covered(name, module, {site.split("/", 1)[1] for site in sites} - {"root"})
                over(undo, module, functools.partial(self._around, functools.partial(self._denoiser, name)))
                for part, path in {part: path for path, part in module.named_modules()}.items():
                    if part in covered:
                        around = functools.partial(self._block, path, covered[part])
                        over(undo, part, functools.partial(self._around, around))
            yield

    def _covered(self, name: str, denoiser: nn.Module, sites: set[str]) -> dict[nn.Module, list[str]]:
        """The sites that each module is a part of: "stack", one module's path, or the first and last of some blocks."""
        stack, paths = self.actor.kind.stack(denoiser), dict(denoiser.named_modules())
        covered: dict[nn.Module, list[str]] = {}
        for site in sites:
            first, _, last = site.partition("-")
            if site == "stack":
                parts = stack
            elif last and {paths.get(first), paths.get(last)} <= set(stack):
                parts = stack[stack.index(paths[first]) : stack.index(paths[last]) + 1]
            else:
                parts = [paths[site]] if site in paths else []
            if not parts:
                self.complaints.append(f"site {site} that brute force does not know")
            for part in parts:
                covered.setdefault(part, []).append(f"{name}/{site}")
        return covered

    @staticmethod
    def _around(instead: Callable[..., Any], inner: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: instead(inner, args, kwargs)

    def _denoiser(self, name: str, inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.forward >= len(self.rows):  # must be one that raises: it left no row
            self.now = None
            returned = inner(*args, **kwargs)
            self.complaints.append(f"forward {self.forward} has no row")
            return returned
        rows = self.rows[self.forward]
        self.forward += 1
        branch = (name, identity(args, kwargs))
        self._check(rows, branch)
        latents = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim >= 3)
        layout = Layout(self.call.batch, max(1, len(latents) // self.call.batch))
        groups = self._groups(rows)
        outputs = []
        for samples, actions in groups:
            own = Layout(len(samples or ()) or layout.samples, layout.branches)
            self.now = Now(branch, actions, samples, own)
            some = (args, kwargs) if len(groups) == 1 else layout.taken((args, kwargs), samples or [])
            outputs.append(self._root(name, inner, *some))
        return outputs[0] if len(groups) == 1 else layout.merged(outputs, [samples or [] for samples, _ in groups])

    def _root(self, name: str, inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The denoiser itself, which may be a site too."""
        site = f"{name}/root"
        if self.now is None or self._action(self.now, site) is None:
            return inner(*args, **kwargs)
        return self._block("", [site], inner, args, kwargs)

    def _groups(self, rows: Rows) -> list[tuple[list[int] | None, dict[str, str]]]:
        """Samples that do the same run together, those that compute first."""
        if rows.samples is None:
            return [(None, rows.actions(None))]
        if rows.samples != list(range(self.call.batch)):
            self.complaints.append(f"samples {rows.samples} in a batch of {self.call.batch}")
        found: dict[tuple[tuple[str, str], ...], list[int]] = {}
        for sample in rows.samples:
            found.setdefault(tuple(sorted(rows.actions(sample).items())), []).append(sample)
        return [(found[actions], dict(actions)) for actions in sorted(found, key=_reused)]

    def _check(self, rows: Rows, branch: Any) -> None:
        """The step is the true one, and a reused branch was here in the step before."""
        event, step = rows.events[0], len(self.outcome.steps)
        if event.site.split("/")[0] not in (branch[0], "model"):
            self.complaints.append(f"step {step}: a row of {event.site} for a forward of {branch[0]}")
        if event.step != step:
            self.complaints.append(f"step {event.step} in the trace is step {step}")
        if event.total not in (None, *self._totals):
            self.complaints.append(f"{event.total} steps in the trace of a run of {self.call.steps}")
        reused = any(row.action == "reuse" for row in rows.events)
        if reused and self.visited.get(branch, -2) < step - 1:
            self.complaints.append(f"step {step}: reuses what its branch left in step {self.visited.get(branch)}")
        self.visited[branch] = step

    @property
    def _totals(self) -> tuple[int, ...]:
        timesteps = getattr(self.actor.pipe.scheduler, "timesteps", None)
        return (self.call.steps,) if self.actor.scenario.bare or timesteps is None else (len(timesteps),)

    def _block(self, path: str, sites: list[str], inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        now = self.now
        if now is None:
            return inner(*args, **kwargs)
        done = {self._action(now, site) for site in sites}
        lanes: list[int | None] = [None] if now.samples is None else [*now.samples]
        keys = [(*now.branch, path, sample) for sample in lanes]
        if "reuse" in done:
            missing = [key for key in keys if key not in self.stored]
            if missing:
                self.complaints.append(f"step {len(self.outcome.steps)}: reuses what was never computed")
                return inner(*args, **kwargs)
            kept = [self.stored[key] for key in keys]
            if any(not finite(value) for value in kept):
                self.complaints.append(f"step {len(self.outcome.steps)}: reuses what is not finite")
            return copied(kept[0]) if now.samples is None else now.layout.joined(kept)
        returned = inner(*args, **kwargs)
        if "check" in done:  # computed to be compared, and not kept
            return returned
        for i, key in enumerate(keys):
            self.stored[key] = copied(returned if now.samples is None else now.layout.of(returned, i))
        return returned

    def _action(self, now: Now, site: str) -> str | None:
        """What the rows say of a site; a session of the module alone calls the denoiser "model"."""
        return now.actions.get(site) or now.actions.get(f"model/{site.split('/', 1)[1]}")


def _reused(actions: Sequence[tuple[str, str]]) -> int:
    return sum(action == "reuse" for _, action in actions)


@dataclass
class Now:
    """The forward in progress: its branch, what its sites do, and the samples in it."""

    branch: tuple[str, Any]
    actions: dict[str, str]
    samples: list[int] | None
    layout: Layout


@dataclass(frozen=True)
class Layout:
    """Rows of a batch: `[branch 0 of each sample, branch 1 of each sample, …]`; tensors may have more rows of each."""

    samples: int
    branches: int

    @property
    def batch(self) -> int:
        return self.samples * self.branches

    def of(self, value: Any, sample: int) -> Any:
        """The rows of one sample, in all tensors."""
        if isinstance(value, Tensor):
            if value.ndim == 0 or len(value) % self.batch or self.samples == 1:
                return value
            return value.unflatten(0, (self.branches, self.samples, -1))[:, sample].flatten(0, 1)
        return mapped(lambda item: self.of(item, sample), value)

    def joined(self, values: list[Any]) -> Any:
        """The reverse of `of` for all samples."""
        first = values[0]
        if isinstance(first, Tensor):
            if first.ndim == 0 or len(first) % self.branches or len(values) == 1:
                return first.clone()
            return torch.stack([v.unflatten(0, (self.branches, -1)) for v in values], dim=1).flatten(0, 2)
        if isinstance(first, (tuple, list)):
            return type(first)(self.joined(list(items)) for items in zip(*values, strict=True))
        return first

    def taken(self, value: Any, samples: list[int]) -> Any:
        """The arguments of a forward with some samples only: of tensors that have a row for each of the batch."""
        if isinstance(value, Tensor):
            if value.ndim == 0 or len(value) != self.batch:
                return value
            return value[[branch * self.samples + sample for branch in range(self.branches) for sample in samples]]
        return mapped(lambda item: self.taken(item, samples), value)

    def merged(self, outputs: list[Any], groups: list[list[int]]) -> Any:
        """The outputs of forwards on groups of samples as that of one on all."""
        apart: dict[int, Any] = {}
        for output, samples in zip(outputs, groups, strict=True):
            own = Layout(len(samples), self.branches)
            apart |= {sample: own.of(output, i) for i, sample in enumerate(samples)}
        return self.joined([apart[sample] for sample in sorted(apart)])


def over(undo: ExitStack, module: nn.Module, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Runs `make(call)` in the place of each call of a module, outside of all its hooks."""
    assert vars(module).get(CALL) is None
    vars(module)[CALL] = make(module._call_impl)
    undo.callback(vars(module).pop, CALL)


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The same nest of tuples, lists and dictionaries with other leaves."""
    if type(value) in (tuple, list):
        return type(value)(change(item) for item in value)
    return {key: change(item) for key, item in value.items()} if isinstance(value, dict) else value


def copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else mapped(copied, value)


def finite(value: Any) -> bool:
    """Whether all of a block's first value is."""
    while isinstance(value, (tuple, list)):
        value = value[0]
    return not isinstance(value, Tensor) or bool(value.isfinite().all())
