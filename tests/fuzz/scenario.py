"""What can happen around a session: scenarios drawn from a seed, printable as Python."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from tests.fuzz.policies import Chosen, draw_policy

Action = Any
"""One of `Call`, `Enter`, `Leave`, `Hook`, `Unhook`, `Cast`, `Copy`."""


@dataclass(frozen=True)
class Break:
    """Something that ends a call early.

    Attributes:
        where: "denoiser" (as a forward begins), "after" (as one ends), "block" (in the middle of one), "callback"
            (between two steps), or "flag": the pipeline is told to stop.
        at: ordinal of the forward or step from 0.
        error: "Halt" or "KeyboardInterrupt".
    """

    where: str = "callback"
    at: int = 1
    error: str = "Halt"


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
            "batched" runs two in one batch, "batched3" three.
        sigmas: whether the caller hands in the sigmas of the steps.
        one_seed: whether all samples of a batch begin from the same noise.
        breaks: what ends it early.
        nan: the forward in which a block returns a NaN in one sample; None for never.
        reads: whether the trace is read while the run goes on: "", "steps" (between steps), "forwards" (at each block).
        beside: another pipeline in the middle of this call: "nested" in a callback, "thread" step by step in turns;
            "shared nested" and "shared thread" are of one around the same denoiser.
        marked: whether a loop over the bare denoiser is marked with `session.run(steps)`.
        grad: how a loop over the bare denoiser runs: "no_grad", "inference", "mixed", "enabled" or "autocast".
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


@dataclass(frozen=True)
class Enter:
    """The session begins: `bwcache.attach`, or `bwcache.enable`."""

    how: str = "attach"


@dataclass(frozen=True)
class Leave:
    """It ends."""


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


INTERVAL = Chosen("FixedInterval")


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
        yield _call(chance, kind, bare, scheduler)
        if chance.random() < 0.1:
            yield Copy(chance.choice(("deepcopy", "pickle", "pipeline")))

    yield from between()
    if chance.random() < 0.1:
        yield _call(chance, kind, bare, scheduler)
    yield Enter(chance.choice(("attach", "attach", "enable")))
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3))):
        yield from inside()
    if chance.random() < 0.8:
        yield from between()
    yield Leave()
    if chance.random() < 0.15:
        yield _call(chance, kind, bare, scheduler)
    if chance.random() < 0.05:
        yield Enter()
        yield from inside()
        yield Leave()


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
        where = chance.choice(("denoiser", "after", "block", "callback", "flag"))
        call = replace(
            call, breaks=Break(where, chance.randrange(steps), chance.choice(("Halt", "Halt", "KeyboardInterrupt")))
        )
    if chance.random() < 0.1:
        call = replace(call, nan=chance.randrange(steps))
    if bare:
        call = replace(
            call,
            order=chance.choice(("cu", "uc", "cup", "batched", "batched3", "cu")),
            on=chance.choice((0, 0, 0, 1, 2)),
            marked=chance.random() < 0.3,
            grad=chance.choice(("no_grad",) * 4 + ("inference", "mixed", "enabled", "autocast")),
            beside="",
        )
    return kind.legal(call, bare, scheduler)


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
    "new: samples that are refused late are run apart": lambda s: (
        s.per_sample and any(call.batch > 1 and call.off is not None for call in s.calls)
    ),
}
"""What a scenario may have, by name: for `KNOWN`."""

KNOWN: frozenset[str] = frozenset()
"""Dimensions in which the engine is known to fail, each with its fault. Emptied as the engine is mended."""
