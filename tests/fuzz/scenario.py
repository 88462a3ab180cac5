"""What can happen around a session: scenarios drawn from a seed, printable as Python."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from tests.fuzz.policies import Chosen, draw_policy

Action = Any
"""One of `Call`, `Enter`, `Leave`, `Use`, `Stop`, `Hook`, `Unhook`, `Cast`, `Copy`."""


INTERVAL = Chosen("FixedInterval")
ANOTHER = Chosen("StepList", (("steps", "(0,)"),))


@dataclass(frozen=True)
class Break:
    """Something that ends a call early.

    Attributes:
        where: "denoiser" (as a forward begins), "after" (as one ends), "block" (in the middle of one), "callback"
            (between two steps), "row" (as a row of the trace is noted), or "flag": the pipeline is told to stop.
        at: ordinal of the forward, step or row from 0.
        error: "Halt" or "KeyboardInterrupt".
    """

    where: str = "callback"
    at: int = 1
    error: str = "Halt"


@dataclass(frozen=True)
class Do:
    """Something that the program does with its session in the middle of a call.

    Attributes:
        what: "invalidate", "stop", "use" (another policy), "clear" (the traces that are held), "read" (the trace) or
            "leave" (the session ends).
        where: "callback" (between two steps), "block" (in the middle of a forward) or "row" (as a row is noted).
        at: ordinal of the step, forward or row from 0.
        policy: for "use".
    """

    what: str = "invalidate"
    where: str = "callback"
    at: int = 1
    policy: Chosen | None = None


@dataclass(frozen=True)
class Says:
    """What the program says of each forward (`session.step`); "" is nothing.

    Around a whole pipeline it can only say what holds of all its forwards: no index, one name for all branches.

    Attributes:
        index: "right", "late" (from 3 on), "apart" (every second one), "stuck" (always 0), "back" (from the third step
            on from 0 again), or "some" (in every second step alone).
        total: "right" or "long".
        branch: "right", "swapped" (the names change places in every second step) or "same" (one name for all).
        noise: whether it names sigma and noise.
    """

    index: str = ""
    total: str = ""
    branch: str = ""
    noise: bool = False

    @property
    def contradicts(self) -> bool:
        """Whether what is said cannot be so: then everything may be taken for another run or branch."""
        return self.index in ("stuck", "back", "some") or self.branch in ("swapped", "same")

    def index_of(self, step: int) -> int | None:
        """The index that is said in a step."""
        if not self.index or (self.index == "some" and step % 2):
            return None
        said = {"late": step + 3, "apart": 2 * step, "stuck": 0, "back": step - 2 if step >= 2 else step}
        return said.get(self.index, step)

    def total_of(self, steps: int) -> int | None:
        """How many steps are said to be in a run of so many."""
        if not self.total:
            return None
        return {"late": steps + 3, "apart": 2 * steps}.get(self.index, steps) + 2 * (self.total == "long")

    def name_of(self, branch: str, step: int) -> str | None:
        """The name that is given to a branch."""
        if self.branch == "swapped" and step % 2:
            return {"u": "c", "c": "u"}.get(branch, branch)
        return {"": None, "same": "x"}.get(self.branch, branch)


@dataclass(frozen=True)
class Call:
    """One call of the pipeline, or one loop over the bare denoiser.

    Attributes:
        seed: of the noise.
        steps, size, batch: how many steps, which of the kind's sizes, how many prompts.
        guided: whether guidance is on.
        off: the step from which on it is switched off; None for never.
        on: the step from which on it is there; only in loops over the bare denoiser.
        order: of the branches in loops over the bare denoiser: "cu" is conditional first, "cup" has a third one,
            "batched" runs two in one batch, "batched3" three, "either" two in one batch in every second step.
        sigmas: whether the caller hands in the sigmas of the steps.
        one_seed: whether all samples of a batch begin from the same noise.
        breaks: what ends it early.
        nan: the forward in which a block returns a NaN in one sample; None for never.
        reads: whether the trace is read while the run goes on: "", "steps" (between steps), "forwards" (at each block).
        beside: another pipeline in the middle of this call: "nested" in a callback, "thread" step by step in turns;
            "shared nested" and "shared thread" are of one around the same denoiser.
        marked: whether a loop over the bare denoiser is marked with `session.run(steps)`.
        grad: how a loop over the bare denoiser runs: "no_grad", "inference", "mixed", "enabled" or "autocast".
        does: what the program does with the session meanwhile.
        says: what it says of each forward.
    """

    seed: int = 0
    steps: int = 4
    size: int = 0
    batch: int = 1
    guided: bool = True
    off: int | None = None
    on: int = 0
    order: str = "cu"
    sigmas: bool = False
    one_seed: bool = False
    breaks: Break | None = None
    nan: int | None = None
    reads: str = ""
    beside: str = ""
    marked: bool = False
    grad: str = "no_grad"
    does: tuple[Do, ...] = ()
    says: Says | None = None

    def may_look_like_several(self, bare: bool) -> bool:
        """Whether it may be taken for more than one run.

        What is said of it contradicts itself, or a loop that nobody marks goes on with latents of its own (a NaN
        replaced), which then have nothing to do with those before.
        """
        if self.says is not None and (self.says.contradicts or self.says.index):
            return self.says.contradicts
        return bare and self.nan is not None and not self.marked

    def has(self, *where: str) -> bool:
        """Whether anything is done, or breaks off, there."""
        return any(do.where in where for do in self.does) or (self.breaks is not None and self.breaks.where in where)


@dataclass(frozen=True)
class Enter:
    """The session begins.

    Attributes:
        how: "attach" or "enable"; "replace" puts it in the place of one that is there; "again" is tried while one is
            there, and refused.
        policy: if not the scenario's.
        max_memory: bytes that may be held.
        keep_traces: how many traces are held.
    """

    how: str = "attach"
    policy: Chosen | None = None
    max_memory: int | None = None
    keep_traces: int | None = 1000


@dataclass(frozen=True)
class Leave:
    """It ends."""


@dataclass(frozen=True)
class Use:
    """The session is given another policy."""

    policy: Chosen = ANOTHER


@dataclass(frozen=True)
class Stop:
    """The session is told to stop while nothing runs: this changes nothing."""


@dataclass(frozen=True)
class Hook:
    """Something else is put on a module, under a number.

    Attributes:
        number: by which it is taken off.
        kind: "pre" and "post" are torch's forward hooks that look on, "scale" one that changes what is returned,
            "patch" another forward in its place, "registry" one of diffusers' hooks.
        block: on which block; None for the denoiser itself.
    """

    number: int
    kind: str = "post"
    block: int | None = None


@dataclass(frozen=True)
class Unhook:
    """It is taken off again."""

    number: int


@dataclass(frozen=True)
class Cast:
    """The denoisers go to another dtype."""

    dtype: str = "bfloat16"


@dataclass(frozen=True)
class Copy:
    """The denoiser, as it is now, is copied; the copy must be as one that never saw a session.

    Attributes:
        how: "deepcopy", "pickle" or "pipeline" (a deep copy of all of it).
    """

    how: str = "deepcopy"


@dataclass(frozen=True)
class Scenario:
    """A model, a policy and what is done with them, in order.

    Attributes:
        kind: which of `world.KINDS`.
        scheduler: which of its family's.
        policy: with all its settings.
        bare: whether the denoiser runs in a loop of its own, without the pipeline.
        target: what the session is attached to: "pipeline" or "module".
        timing, per_sample, memory: as in `bwcache.attach`.
        told: whether the session of a module is told the number of steps.
        script: what is done.
    """

    kind: str = "wan"
    scheduler: str = "euler"
    policy: Chosen = INTERVAL
    bare: bool = False
    target: str = "pipeline"
    timing: bool = False
    per_sample: bool = True
    memory: str = "device"
    told: bool = True
    script: tuple[Action, ...] = (Enter(), Call(), Leave())

    @property
    def calls(self) -> list[Call]:
        return [action for action in self.script if isinstance(action, Call)]

    @property
    def policies(self) -> list[Chosen]:
        """Every policy that is tried in it."""
        actions = [*self.script, *(do for call in self.calls for do in call.does)]
        others = [action.policy for action in actions if isinstance(action, (Enter, Use, Do)) and action.policy]
        return [self.policy, *others]


def source(value: Any) -> str:
    """A scenario as the Python that makes it; what is as by default is left out."""
    if is_dataclass(value) and not isinstance(value, type):
        shown = [
            f"{field.name}={source(getattr(value, field.name))}"
            for field in fields(value)
            if getattr(value, field.name) != field.default
        ]
        return f"{type(value).__name__}({', '.join(shown)})"
    if isinstance(value, tuple):
        return f"({', '.join(map(source, value))}{',' if len(value) == 1 else ''})"
    return repr(value)


# --- drawing ----------------------------------------------------------------------------------------------------------


def draw(seed: int, without: frozenset[str] | None = None) -> Scenario:
    """The scenario of a seed, in none of the dimensions `without` (those of `KNOWN` if it is not said)."""
    chance = random.Random(seed)
    known = KNOWN if without is None else without
    while True:
        scenario = _draw(chance)
        if not any(DIMENSIONS[name](scenario) for name in known):
            return scenario


def _draw(chance: random.Random) -> Scenario:
    from tests.fuzz.world import KINDS  # what torch and diffusers take seconds for

    kind = KINDS[chance.choices(sorted(KINDS), [KINDS[name].share for name in sorted(KINDS)])[0]]
    bare = kind.bare is not None and chance.random() < 0.25
    target = "module" if bare or (len(kind.denoisers) == 1 and chance.random() < 0.1) else "pipeline"
    scenario = Scenario(
        kind=kind.name,
        scheduler="euler" if bare else chance.choice(kind.schedulers),
        policy=draw_policy(chance),
        bare=bare,
        target=target,
        timing=chance.random() < 0.1,
        per_sample=chance.random() < 0.8,
        memory=chance.choice(("device", "device", "device", "offload")),
        told=chance.random() < 0.8,
    )
    return replace(scenario, script=tuple(_script(chance, kind, bare, scenario.scheduler)))


def _script(chance: random.Random, kind: Any, bare: bool, scheduler: str) -> Iterator[Action]:
    hooks: list[int] = []

    def between() -> Iterator[Action]:
        if chance.random() < 0.15:
            hooks.append(len(hooks))
            kinds = ("pre", "post", "scale", "patch", "registry")
            yield Hook(hooks[-1], chance.choice(kinds), chance.choice((None, 0, 1)))
        if hooks and chance.random() < 0.15:
            yield Unhook(chance.choice(hooks))
        if chance.random() < 0.05:
            yield Cast(chance.choice(("bfloat16", "float32")))

    def inside() -> Iterator[Action]:
        yield from between()
        if chance.random() < 0.1:
            yield Use(draw_policy(chance))
        if chance.random() < 0.04:
            yield Stop()
        if chance.random() < 0.06:
            yield _enter(chance, chance.choice(("again", "replace")))
        yield _call(chance, kind, bare, scheduler)
        if chance.random() < 0.1:
            yield Copy(chance.choice(("deepcopy", "pickle", "pipeline")))

    yield from between()
    if chance.random() < 0.1:
        yield _call(chance, kind, bare, scheduler)
    yield _enter(chance, chance.choice(("attach", "attach", "enable")))
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3))):
        yield from inside()
    if chance.random() < 0.8:
        yield from between()
    yield Leave()
    if chance.random() < 0.15:
        yield _call(chance, kind, bare, scheduler)
    while chance.random() < 0.12:
        yield _enter(chance, chance.choice(("attach", "enable", "replace")))
        yield from inside()
        yield Leave()


def _enter(chance: random.Random, how: str) -> Enter:
    return Enter(
        how,
        policy=draw_policy(chance) if how == "replace" and chance.random() < 0.5 else None,
        max_memory=2 ** chance.randrange(6, 18) if chance.random() < 0.15 else None,
        keep_traces=chance.choice((None, 0, 1, 2)) if chance.random() < 0.2 else 1000,
    )


def _call(chance: random.Random, kind: Any, bare: bool, scheduler: str) -> Call:
    steps = chance.choice((3, 3, 4, 4, 5, 6))
    call = Call(
        seed=chance.randrange(3),
        steps=steps,
        size=chance.choice((0, 0, 0, 1)),
        batch=chance.choice((1, 1, 1, 2, 2, 3)),
        guided=chance.random() < 0.8,
        off=chance.randrange(1, steps) if chance.random() < 0.15 else None,
        sigmas=chance.random() < 0.2,
        one_seed=chance.random() < 0.2,
        reads=chance.choice(("", "", "", "", "", "steps", "forwards")),
        beside=chance.choice(("", "", "", "", "", "", "", "nested", "thread", "shared nested", "shared thread")),
    )
    if chance.random() < 0.25:
        where = chance.choice(("denoiser", "after", "block", "callback", "flag", "row"))
        call = replace(
            call, breaks=Break(where, chance.randrange(steps), chance.choice(("Halt", "Halt", "KeyboardInterrupt")))
        )
    if chance.random() < 0.1:
        call = replace(call, nan=chance.randrange(steps))
    if chance.random() < 0.25:
        call = replace(call, does=tuple(_do(chance, steps) for _ in range(chance.choice((1, 1, 2)))))
    if bare:
        call = replace(
            call,
            order=chance.choice(("cu", "uc", "cup", "batched", "batched3", "cu", "either")),
            on=chance.choice((0, 0, 0, 1, 2)),
            marked=chance.random() < 0.3,
            grad=chance.choice(("no_grad",) * 4 + ("inference", "mixed", "enabled", "autocast")),
            beside="",
        )
    if chance.random() < (0.5 if bare else 0.05):
        call = replace(call, says=_says(chance, bare))
    return kind.legal(call, bare, scheduler)


def _do(chance: random.Random, steps: int) -> Do:
    what = chance.choice(("invalidate", "invalidate", "stop", "use", "clear", "read", "leave"))
    where = chance.choice(("callback", "callback", "block", "row"))
    policy = draw_policy(chance) if what == "use" else None
    return Do(what, where, chance.randrange(2 * steps if where == "row" else steps), policy)


def _says(chance: random.Random, bare: bool) -> Says:
    said = Says(
        index=chance.choice(("", "right", "right", "right", "late", "apart", "stuck", "back", "some")),
        total=chance.choice(("", "right", "right", "long")),
        branch=chance.choice(("", "right", "right", "right", "swapped", "same")),
        noise=chance.random() < 0.3,
    )
    return said if bare else replace(said, index="", branch="same" if said.branch == "same" else "")


# --- dimensions -------------------------------------------------------------------------------------------------------

DIMENSIONS: dict[str, Callable[[Scenario], bool]] = {
    # the number of a kind in the list of faults, or "new"
    "A2: one denoiser in two pipelines at once": lambda s: any("shared" in call.beside for call in s.calls),
    "A3: repeated times, and no scheduler to ask": lambda s: s.scheduler in ("pndm", "heun") and s.target == "module",
    "A3, A11: guidance that changes in a bare loop": lambda s: (
        s.bare and any(c.off is not None or c.on for c in s.calls)
    ),
    "A5: samples from one seed": lambda s: any(call.one_seed for call in s.calls),
    "A6: the trace is read during a run": lambda s: any(call.reads for call in s.calls),
    "B5: broken off between forwards, or by Ctrl-C": lambda s: any(
        c.breaks and (c.breaks.where in ("callback", "after") or c.breaks.error != "Halt") for c in s.calls
    ),
    "D1: an interval of 1": lambda s: s.policy.name == "FixedInterval" and s.policy.never_reuses,
    "D2: grad modes mixed in a run": lambda s: any(call.grad in ("mixed", "autocast") for call in s.calls),
    "new: a marked run says how long later ones are": lambda s: s.bare and any(call.marked for call in s.calls),
    "new: EasyCache where more channels come out than go in": lambda s: (
        s.policy.name == "EasyCache" and s.kind == "latte"
    ),
    "new: stopped while nothing runs": lambda s: any(isinstance(action, Stop) for action in s.script),
    "new: forgotten in the middle of a forward": lambda s: any(
        do.what == "invalidate" and do.where == "block" for call in s.calls for do in call.does
    ),
    "new: a run whose thread has ended": lambda s: any(call.beside == "shared thread" for call in s.calls),
    "new: latents of rounded times are held": lambda s: s.bare and any(isinstance(action, Cast) for action in s.script),
    "new: samples that are refused late are run apart": lambda s: (
        s.per_sample and any(call.batch > 1 and call.off is not None for call in s.calls)
    ),
}
"""What a scenario may have, by name: for `KNOWN`."""

KNOWN: frozenset[str] = frozenset()
"""Dimensions in which the engine is known to fail, each with its fault. Emptied as the engine is mended."""
