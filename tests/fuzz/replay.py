"""Brute force from the recorded decisions: plain patches that replay what each block of each sample last returned.

It knows nothing of the engine. It reads the rows of a trace, and by them runs each site or replays what its modules
returned when its branch was last computed. Which branch a forward is it reads off the prompts, not off the trace; where
the program names the branches, it takes these names, as the engine has to. How many samples there are it knows from the
scenario. So a row that names another branch, a stale feature, a sample that is none, each makes another video here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from bwcache import Event, Place, Site
from bwcache.models import resolve
from tests.fuzz import clean
from tests.fuzz.play import Actor, Outcome, Part, Stage
from tests.fuzz.policies import Chosen
from tests.fuzz.scenario import Call
from tests.fuzz.world import identity

CALL = "_compiled_call_impl"


Lane = tuple[str, int | None]
"""(branch, sample) as rows name them"""


@dataclass
class Rows:
    """The rows of one forward: what is done at each site, for the whole batch or in each of its lanes.

    Attributes:
        events: these.
        names: of the branches in it, where the program names them.
        missing: lanes that have none, since it broke off before.
    """

    events: list[Event]
    names: tuple[str, ...] = ()
    missing: list[Lane] = field(default_factory=list)

    @property
    def lanes(self) -> list[Lane] | None:
        """Those that decided for themselves; None where the batch decided as one."""
        found = list(dict.fromkeys([*((event.branch, event.sample) for event in self.events), *self.missing]))
        apart = any(sample is not None or (len(self.names) > 1 and branch in self.names) for branch, sample in found)
        return sorted(found, key=self._place) if apart else None

    def _place(self, lane: Lane) -> tuple[int, int]:
        branch, sample = lane
        return (self.names.index(branch) if branch in self.names else 0, sample or 0)

    def of(self, lanes: Sequence[Lane] | None) -> list[Event]:
        """The rows of some lanes."""
        return [event for event in self.events if lanes is None or (event.branch, event.sample) in lanes]

    def actions(self, lane: Lane | None) -> dict[str, str]:
        """Site -> action."""
        return {event.site: event.action for event in self.of(None if lane is None else [lane])}


def forwards(events: Sequence[Event], names: Sequence[tuple[str, ...]] = ()) -> list[Rows]:
    """The rows of a call, one entry for each forward: a new one begins where a row would come twice.

    Args:
        events: all rows, in order.
        names: of the branches in each forward, where the program names them; one entry may hold for all.
    """
    found: list[Rows] = []
    seen: set[tuple[str, str, int | None]] = set()
    last: tuple[Any, ...] = ()
    for event in events:
        where = (event.run, event.step, event.site.split("/")[0])
        lane = (event.site, event.branch, event.sample)
        together = bool(found) and event.branch in found[-1].names
        same = where == last and lane not in seen and (together or event.branch == found[-1].events[-1].branch)
        if not same:
            found.append(Rows([], names[min(len(found), len(names) - 1)] if names else ()))
            seen = set()
        found[-1].events.append(event)
        seen.add(lane)
        last = where
    return found


class BruteForce(Part):
    """Plays a scenario's calls by the rows that its session left.

    Args:
        rows: the rows of each call, by its name.
        said: what the program said of each forward of a call.
        policies: which were in force in it.
        made: what came of the calls under the session.

    Attributes:
        complaints: what the rows have wrong.
        clean: the calls in which clean latents are kept. What is made of them is rounded in another order here, so
            each of their steps begins with the session's latents.
        elsewhere: those in which a denoiser was evaluated at another noise level, or one branch is made of another:
            judged in tests/engine.
    """

    def __init__(
        self,
        rows: dict[str, list[Event]],
        said: dict[str, list[dict[str, Any]]],
        policies: dict[str, list[Chosen]],
        made: dict[str, Outcome],
    ) -> None:
        self.rows, self.said, self.policies, self.made = rows, said, policies, made
        self.complaints: list[str] = []
        self.clean: set[str] = set()
        self.elsewhere: set[str] = set()
        self.replays: dict[str, Replay] = {}

    def leave(self, stage: Stage) -> None:
        """From here on there are no rows."""
        for replay in list(self.replays.values()):
            replay.over = True

    def led(self, outcome: Outcome, latents: Tensor) -> Tensor:
        """By the session's latents, where clean ones are kept."""
        there = self.made[outcome.name].steps if outcome.name in self.clean else []
        return there[len(outcome.steps) - 1].clone() if len(there) >= len(outcome.steps) else latents

    def invalidate(self, actor: Actor) -> None:
        """Nothing of before may be replayed."""
        if actor.name in self.replays:
            self.replays[actor.name].forget()

    @contextmanager
    def during(self, actor: Actor, call: Call, outcome: Outcome) -> Iterator[None]:
        events = self.rows.get(outcome.name)
        if events is None:
            yield
            return
        names = [_several(said.get("branch")) for said in self.said[outcome.name]]
        replay = Replay(actor, call, outcome, forwards(events, names), self.policies[outcome.name][0])
        self.replays[actor.name] = replay
        with replay.patched():
            if replay.keeps_clean:
                self.clean.add(outcome.name)
            if any(event.evaluated_at is not None for event in events):
                self.elsewhere.add(outcome.name)
            yield
        del self.replays[actor.name]
        if replay.keeps_beside:  # rows of branches that are cut apart in one forward look like two
            self.elsewhere.add(outcome.name)
            return
        self.complaints += [f"{outcome.name}: {complaint}" for complaint in replay.complaints]
        if outcome.error is None and len(replay.rows) != replay.forward:
            self.complaints.append(f"{outcome.name}: {len(replay.rows)} forwards in the trace, not {replay.forward}")


def _several(said: Any) -> tuple[str, ...]:
    return () if said is None else said if isinstance(said, tuple) else (said,)


Key = tuple[str, Any, str, int | None]
"""(denoiser, branch, path of the module, sample)"""


@dataclass
class Replay:
    """One call by brute force.

    Attributes:
        actor, call, outcome, rows, policy: what is called, and by which rows.
        forward: how many forwards began.
        over: whether the session has ended meanwhile.
        complaints: what the rows have wrong.
        stored: what modules returned when they were last computed, with what tells their prompts.
        keeps_clean: the sites of which clean latents are kept.
        keeps_beside: whether one branch is made of another.
        visited: the step in which each lane was here last.
        now: the forward in progress.
    """

    actor: Actor
    call: Call
    outcome: Outcome
    rows: list[Rows]
    policy: Chosen
    forward: int = 0
    over: bool = False
    complaints: list[str] = field(default_factory=list)
    stored: dict[Key, Any] = field(default_factory=dict)
    visited: dict[Any, int] = field(default_factory=dict)
    now: Now | None = None
    run: int | None = None
    forgotten: bool = False
    residuals: dict[str, Residual] = field(default_factory=dict)
    keeps_clean: set[str] = field(default_factory=set)
    keeps_beside: bool = False

    def forget(self) -> None:
        """Nothing of before may be replayed, nor what the forward in progress makes."""
        self.stored.clear()
        self.forgotten = True

    @contextmanager
    def patched(self) -> Iterator[None]:
        """While the call runs."""
        with ExitStack() as undo:
            for name, module in self.actor.modules.items():
                sites = {
                    row.site for rows in self.rows for row in rows.events if row.site.startswith((f"{name}/", "model/"))
                }
                sites = {site.split("/", 1)[1] for site in sites}
                stack = resolve(name, module)
                own = self.policy.policy.sites(stack)
                self.keeps_beside = self.keeps_beside or any(site.keeps == "beside" for site in own)
                self.keeps_clean |= {f"{name}/{site.name}" for site in own if site.keeps == "clean"}
                kept = {site.name: site for site in own if site.keeps == "residual"}
                self.residuals |= {f"{name}/{site}": Residual(kept[site], stack.blocks) for site in sites & {*kept}}
                blocks = [block.module for block in stack.blocks]
                covered = self._covered(name, module, blocks, sites - {"root"})
                for site in sites & {*kept}:
                    since = kept[site].since
                    if since is not None and f"{name}/{site}" not in covered.get(since.module, []):
                        covered.setdefault(since.module, []).append(f"{name}/{site}")
                over(undo, module, functools.partial(self._around, functools.partial(self._denoiser, name)))
                for part, path in {part: path for path, part in module.named_modules()}.items():
                    if part in covered:
                        around = functools.partial(self._block, path, covered[part])
                        over(undo, part, functools.partial(self._around, around))
            yield

    def _covered(
        self, name: str, denoiser: nn.Module, blocks: list[nn.Module], sites: set[str]
    ) -> dict[nn.Module, list[str]]:
        """The sites that each module is a part of: "stack", one module's path, or the first and last of some blocks."""
        paths = dict(denoiser.named_modules())
        covered: dict[nn.Module, list[str]] = {}
        for site in sites:
            first, _, last = site.partition("-")
            if site == "stack":
                parts = blocks
            elif last and {paths.get(first), paths.get(last)} <= set(blocks):
                parts = blocks[blocks.index(paths[first]) : blocks.index(paths[last]) + 1]
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
        if self.over or self.forward >= len(self.rows):  # must be one that raises: it left no row
            self.now = None
            over = self.over
            returned = inner(*args, **kwargs)
            if not over:
                self.complaints.append(f"forward {self.forward} has no row")
            return returned
        rows, said = self.rows[self.forward], self._said()
        self.forward += 1
        if rows.events[0].run != self.run:
            self.stored.clear()
            self.run = rows.events[0].run
        latents = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim >= 3)
        layout = self._layout(rows, len(latents))
        prompt = identity(args, kwargs)
        names: list[Any] = [said.get("branch", prompt)] * len(layout.rows)
        if rows.names and rows.lanes:
            names = [branch for branch, _ in rows.lanes]
        keys = [(name, branch, sample) for branch, (_, sample) in zip(names, rows.lanes or [("", None)], strict=True)]
        self._check(name, rows, keys, said.get("index"))
        outputs, groups = [], self._groups(rows, keys)
        for ordinals, actions in groups:
            some = (args, kwargs) if len(groups) == 1 else layout.taken((args, kwargs), ordinals)
            own = [keys[i] for i in ordinals]
            told = prompt if len(rows.names) < 2 else None
            self.now, self.forgotten = Now(own, actions, layout.only(ordinals), told, said), False
            for residual in self.residuals.values():
                residual.entered = {}
            outputs.append(self._root(name, inner, *some))
            if self.forgotten:
                self.stored.clear()
            self._noted(rows.of(None if rows.lanes is None else [rows.lanes[i] for i in ordinals]))
        return outputs[0] if len(groups) == 1 else layout.merged(outputs, [ordinals for ordinals, _ in groups])

    def _said(self) -> dict[str, Any]:
        """What the program says of the forward that begins."""
        said = self.outcome.said
        return said[min(self.forward, len(said) - 1)] if said else {}

    def _noted(self, events: Sequence[Event]) -> None:
        """The rows of a forward stand: whoever waits for one is told."""
        for _ in events:
            if self.actor.running is not None:
                self.actor.running.noted()

    def _root(self, name: str, inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The denoiser itself, which may be a site too."""
        site = f"{name}/root"
        if self.now is None or self._action(self.now, site) is None:
            return inner(*args, **kwargs)
        if site in self.keeps_clean:
            return self._clean(site, self.now, inner, args, kwargs)
        return self._block("", [site], inner, args, kwargs)

    def _clean(self, site: str, now: Now, inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The same where clean latents are kept: a prediction that means those that are foretold."""
        action, events = self._action(now, site), self.rows[self.forward - 1].events
        event = next((event for event in events if event.action == action), events[0])  # of lanes that do the same
        latents = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim >= 3)
        keys = [(*key[:2], "clean", key[2]) for key in now.keys]
        if action == "reuse":
            stored, level, policy = self._kept(now, keys), self._level(now, args, kwargs), self.policy.policy
            if level is None:
                self.complaints.append(f"step {event.step}: reuses at a noise level that nobody tells")
            if stored is None or level is None:
                return inner(*args, **kwargs)
            means = [clean.foretold(policy, past, level.share, event.reason) for _, past, _ in stored]
            whole = means[0] if len(keys) == 1 else now.layout.joined(means)
            return stored[0][2](clean.predicted(whole, latents, level))
        returned = inner(*args, **kwargs)
        level = self._level(now, args, kwargs)
        if action == "check" or level is None:
            return returned
        prediction, pack = unpacked(returned)
        kept = clean.Kept.of(latents, prediction, level, event.step)
        for i, key in enumerate(keys):
            own = replace(kept, clean=kept.clean if len(keys) == 1 else now.layout.of(kept.clean, i))
            past = self.stored[key][0][1] if key in self.stored else ()
            usable = past and past[0].clean.shape == own.clean.shape and bool(past[0].clean.isfinite().all())
            past = past if usable else ()
            self.stored[key] = (own.clean, (own, *past), pack), now.prompt
        return returned

    def _level(self, now: Now, args: Any, kwargs: Any) -> clean.Level | None:
        """Where the forward in progress stands."""
        said = {name: value[0] if isinstance(value, tuple) else value for name, value in now.said.items()}
        time = kwargs["timestep"] if "timestep" in kwargs else args[1]
        time = float(time.flatten()[0]) if isinstance(time, Tensor) else float(time)
        scheduler = None if self.actor.scenario.bare else self.actor.pipe.scheduler
        return clean.level_of(self.actor.kind.name, scheduler, time, said)

    def _layout(self, rows: Rows, count: int) -> Layout:
        """Which rows of the batch each lane has."""
        lanes = rows.lanes
        if lanes is None:
            return Layout(((),), count)
        if rows.names:
            samples = max(1, count // len(rows.names))
            expected = [(name, None if samples == 1 else i) for name in rows.names for i in range(samples)]
            found: tuple[tuple[int, ...], ...] = tuple((i,) for i in range(count))
        else:
            samples, branch = self.call.batch, lanes[0][0]
            expected = [(branch, i) for i in range(samples)]
            found = tuple(tuple(range(i, count, samples)) for i in range(samples))
        ends_within = self.call.breaks is not None or any(do.what == "leave" for do in self.call.does)
        if self.forward == len(self.rows) and ends_within and set(lanes) < set(expected):
            rows.missing = [lane for lane in expected if lane not in lanes]
        elif lanes != expected:
            self.complaints.append(f"lanes {lanes} in a batch of {expected}")
        return Layout(found, count)

    def _groups(self, rows: Rows, keys: Sequence[Any]) -> list[tuple[list[int], dict[str, str]]]:
        """Lanes that do the same run together, those that compute first."""
        if rows.lanes is None:
            return [([0], rows.actions(None))]
        found: dict[tuple[bool, tuple[tuple[str, str], ...]], list[int]] = {}
        for i, lane in enumerate(rows.lanes):
            which = self._forgotten_since(rows, lane, keys[i]), tuple(sorted(rows.actions(lane).items()))
            found.setdefault(which, []).append(i)
        return [(found[one], dict(one[1])) for one in sorted(found, key=lambda one: (one[0], _late(one[1])))]

    def _forgotten_since(self, rows: Rows, lane: Lane, key: Any) -> bool:
        """Whether a lane was to be reused in a pass of its own, when those before it in the same forward lost all."""
        if not any(do.what == "invalidate" and do.where == "block" for do in self.call.does):
            return False
        held = any((*stored[:2], stored[-1]) == key for stored in self.stored)
        return held and any(event.reason.startswith("nothing kept to reuse") for event in rows.of([lane]))

    def _check(self, name: str, rows: Rows, keys: Sequence[Any], said: int | None) -> None:
        """The step is the true one, or that which is said, and a reused lane was here in the step before."""
        event, step = rows.events[0], len(self.outcome.steps)
        doubtful = self.call.may_look_like_several(self.actor.scenario.bare)
        expected = said if said is not None else None if doubtful else step
        if event.site.split("/")[0] not in (name, "model"):
            self.complaints.append(f"step {step}: a row of {event.site} for a forward of {name}")
        if expected is not None and event.step != expected:
            self.complaints.append(f"step {event.step} in the trace is step {expected}")
        if event.total not in (None, *self._totals):
            self.complaints.append(f"{event.total} steps in the trace of a run of {self.call.steps}")
        for key, lane in zip(keys, rows.lanes or [None], strict=True):
            reused = any(row.action == "reuse" for row in rows.of(None if lane is None else [lane]))
            if reused and self.visited.get(key, -2) < step - 1:
                self.complaints.append(f"step {step}: reuses what its branch left in step {self.visited.get(key)}")
            self.visited[key] = step

    @property
    def _totals(self) -> tuple[int, ...]:
        timesteps = getattr(self.actor.pipe.scheduler, "timesteps", None)
        found = (self.call.steps,) if self.actor.scenario.bare or timesteps is None else (len(timesteps),)
        said = None if self.call.says is None else self.call.says.total_of(self.call.steps)
        if said is None:
            return found
        return (said,) if self.actor.scenario.bare else (said, *found)  # a pipeline's loop may go on after that

    def _block(self, path: str, sites: list[str], inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        now = self.now
        if now is None or self.over:
            return inner(*args, **kwargs)
        residual = next((self.residuals[site] for site in sites if site in self.residuals), None)
        done = {self._action(now, site) for site in sites}
        if residual is not None:
            return self._residual(residual, done, path, now, inner, args, kwargs)
        keys = [(*key[:2], path, key[2]) for key in now.keys]
        if "reuse" in done:
            kept = self._kept(now, keys)
            if kept is None:
                return inner(*args, **kwargs)
            return copied(kept[0]) if len(keys) == 1 else now.layout.joined(kept)
        returned = inner(*args, **kwargs)
        if "check" in done:  # computed to be compared, and not kept
            return returned
        for i, key in enumerate(keys):
            self.stored[key] = copied(returned if len(keys) == 1 else now.layout.of(returned, i)), now.prompt
        return returned

    def _kept(self, now: Now, keys: Sequence[Key]) -> list[Any] | None:
        """What is replayed in each lane; None where there is nothing, or what nothing may be made of."""
        step = len(self.outcome.steps)
        if any(key not in self.stored for key in keys):
            self.complaints.append(f"step {step}: reuses what was never computed")
            return None
        if any(not finite(self.stored[key][0]) for key in keys):
            self.complaints.append(f"step {step}: reuses what is not finite")
        if any(None not in (now.prompt, self.stored[key][1]) and self.stored[key][1] != now.prompt for key in keys):
            self.complaints.append(f"step {step}: reuses what another prompt made")
        return [self.stored[key][0] for key in keys]

    def _residual(
        self, residual: Residual, done: set[str | None], path: str, now: Now, inner: Any, args: Any, kwargs: Any
    ) -> Any:
        """The same where what blocks add to their input is kept."""
        if path == residual.since or not residual.entered:  # a pass may leave the first block out
            residual.enters(args, kwargs)
        if not residual.has(path):
            return inner(*args, **kwargs)
        keys = [(*key[:2], residual.site.name, key[2]) for key in now.keys]
        last = path in (residual.site.last.name, "")
        if "reuse" not in done:
            returned = inner(*args, **kwargs)
            if last:
                added = residual.of(returned)
                for i, key in enumerate(keys):
                    self.stored[key] = added if len(keys) == 1 else now.layout.of(added, i), now.prompt
            return returned
        kept = self._kept(now, keys)
        if kept is None:
            return inner(*args, **kwargs)
        if not last:
            return residual.passed_on(path, args, kwargs)
        return residual.added(kept[0] if len(keys) == 1 else now.layout.joined(kept), args, kwargs)

    def _action(self, now: Now, site: str) -> str | None:
        """What the rows say of a site; a session of the module alone calls the denoiser "model"."""
        return now.actions.get(site) or now.actions.get(f"model/{site.split('/', 1)[1]}")


def _late(actions: Sequence[tuple[str, str]]) -> tuple[bool, int]:
    """When lanes that do this run: those without rows last, and those that reuse most before them."""
    return not actions, sum(action == "reuse" for _, action in actions)


class Residual:
    """What some blocks add to their input, or a denoiser to its latents.

    How a class of blocks names its inputs and outputs is read from its row, as data.
    """

    def __init__(self, site: Site, blocks: Sequence[Place]) -> None:
        self.site = site
        self._blocks = {block.name: block for block in blocks}
        self.entered: dict[str, Any] = {}

    @property
    def _is_root(self) -> bool:
        return self.site.first.kind == "root"

    @property
    def since(self) -> str:
        """The block from whose input on it is taken."""
        return (self.site.since or self.site.first).name

    def has(self, path: str) -> bool:
        """Whether a block is one of the site's own."""
        names = list(self._blocks)
        if self._is_root:
            return True
        return names.index(self.site.first.name) <= names.index(path) <= names.index(self.site.last.name)

    def enters(self, args: Any, kwargs: Any) -> None:
        """Takes note of what enters the first block, or that from which on it is taken."""
        if self._is_root:
            every = (*args, *kwargs.values())
            latents = next(value for value in every if isinstance(value, Tensor) and value.ndim >= 3)
            self.entered = {"latents": latents.clone()}
        else:
            self.entered = copied((self.site.since or self.site.first).inputs(args, kwargs))

    def of(self, returned: Any) -> Any:
        """What was added to it; of a denoiser with all else that it returned."""
        if self._is_root:
            first, *rest = returned.values() if isinstance(returned, dict) else returned
            kind = functools.partial(_like, returned) if isinstance(returned, dict) else tuple
            return copied(first - self._latents(first)), copied(rest), kind
        left = self.site.last.outputs(returned)
        return {name: left[name] - self.entered[name] for name in self.site.streams}

    def added(self, kept: Any, args: Any, kwargs: Any) -> Any:
        """The same added to what enters now."""
        if self._is_root:
            prediction, rest, kind = kept
            return kind((prediction + self._latents(prediction), *copied(rest)))
        streams = {name: kept[name] + self.entered[name] for name in self.site.streams}
        return self.site.last.packed({**self.site.last.inputs(args, kwargs), **streams})

    def passed_on(self, path: str, args: Any, kwargs: Any) -> Any:
        """What a block in between hands on: what it is given."""
        return self._blocks[path].passed_on(args, kwargs)

    def _latents(self, prediction: Tensor) -> Tensor:
        """The latents, and 0 in the channels that only the prediction has."""
        latents = self.entered["latents"]
        if latents.shape == prediction.shape:
            return latents
        padded = torch.zeros_like(prediction)
        shared = min(latents.shape[1], prediction.shape[1])
        padded[:, :shared] = latents[:, :shared]
        return padded


def _like(outline: dict[str, Any], values: Sequence[Any]) -> Any:
    """A dictionary with other values; one of diffusers' outputs stays one."""
    named = dict(zip(outline, values, strict=True))
    return type(outline)(**named) if isinstance(outline, BaseOutput) else named


def unpacked(returned: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """A denoiser's prediction, and what packs another one like it, of the same dtype."""
    if isinstance(returned, Tensor):
        return returned, lambda prediction: prediction.to(returned.dtype)
    if isinstance(returned, dict):
        first, *rest = returned.values()
        return first, lambda prediction: _like(returned, (prediction.to(first.dtype), *rest))
    first, *rest = returned
    return first, lambda prediction: (prediction.to(first.dtype), *rest)


def _named(kind: type, names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    """An output of diffusers."""
    return kind(**dict(zip(names, values, strict=True)))


@dataclass
class Now:
    """The forward in progress.

    Attributes:
        keys, actions: its lanes, and what its sites do.
        layout: how the lanes lie in the batch.
        prompt: what tells its prompts.
        said: what the program says of it.
    """

    keys: list[tuple[str, Any, int | None]]
    actions: dict[str, str]
    layout: Layout
    prompt: Any
    said: dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """Which rows of a batch each lane has; tensors may have several of each.

    Attributes:
        rows: of each lane; none: the one lane has them all.
        count: of the batch.
    """

    rows: tuple[tuple[int, ...], ...]
    count: int

    def only(self, lanes: Sequence[int]) -> Layout:
        """The layout of a batch of some lanes alone."""
        if len(lanes) == len(self.rows):
            return self
        left = sorted(row for lane in lanes for row in self.rows[lane])
        return Layout(tuple(tuple(left.index(row) for row in self.rows[lane]) for lane in lanes), len(left))

    def of(self, value: Any, lane: int) -> Any:
        """The rows of one lane, in all tensors."""
        if isinstance(value, Tensor):
            if value.ndim == 0 or len(value) % self.count or len(self.rows) == 1:
                return value
            return value.unflatten(0, (self.count, -1))[list(self.rows[lane])].flatten(0, 1)
        return mapped(lambda item: self.of(item, lane), value)

    def joined(self, values: list[Any]) -> Any:
        """The reverse of `of` for all lanes."""
        first = values[0]
        if isinstance(first, Tensor):
            each = len(self.rows[0])
            if first.ndim == 0 or len(first) % each or len(values) == 1:
                return first.clone()
            order = [row for rows in self.rows for row in rows]
            all_rows = torch.cat([value.unflatten(0, (each, -1)) for value in values])
            return all_rows[[order.index(row) for row in range(self.count)]].flatten(0, 1)
        if isinstance(first, (tuple, list)):
            return type(first)(self.joined(list(items)) for items in zip(*values, strict=True))
        if isinstance(first, dict):
            return _like(first, [self.joined([value[key] for value in values]) for key in first])
        return first

    def taken(self, value: Any, lanes: Sequence[int]) -> Any:
        """The arguments of a forward with some lanes only: of tensors that have a row for each of the batch."""
        if isinstance(value, Tensor):
            if value.ndim == 0 or len(value) != self.count:
                return value
            return value[sorted(row for lane in lanes for row in self.rows[lane])]
        return mapped(lambda item: self.taken(item, lanes), value)

    def merged(self, outputs: list[Any], groups: list[list[int]]) -> Any:
        """The outputs of forwards on groups of lanes as that of one on all."""
        apart: dict[int, Any] = {}
        for output, lanes in zip(outputs, groups, strict=True):
            own = self.only(lanes)
            apart |= {lane: own.of(output, i) for i, lane in enumerate(lanes)}
        return self.joined([apart[lane] for lane in sorted(apart)])


def over(undo: ExitStack, module: nn.Module, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Runs `make(call)` in the place of each call of a module, outside of all its hooks."""
    assert vars(module).get(CALL) is None
    vars(module)[CALL] = make(module._call_impl)
    undo.callback(vars(module).pop, CALL)


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The same nest of tuples, lists and dictionaries with other leaves."""
    if type(value) in (tuple, list):
        return type(value)(change(item) for item in value)
    return _like(value, [change(item) for item in value.values()]) if isinstance(value, dict) else value


def copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else mapped(copied, value)


def finite(value: Any) -> bool:
    """Whether all of a block's first value is."""
    while isinstance(value, (tuple, list, dict)):
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return not isinstance(value, Tensor) or bool(value.isfinite().all())
