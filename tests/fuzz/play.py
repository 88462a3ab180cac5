"""A scenario played: as it is, with sessions, or by brute force. What differs is the `Part` that a session plays."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook
from torch import Tensor, nn

import bwcache
from tests.fuzz.left import found_on
from tests.fuzz.policies import Chosen
from tests.fuzz.scenario import Call, Cast, Copy, Do, Enter, Hook, Leave, Scenario, Stop, Unhook, Use
from tests.fuzz.world import KINDS, Kind
from tests.tiny import noise

TURN = 60.0
"""Seconds that a thread waits for the other one."""


ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Of one step from the same latents, with guidance, relative to the largest entry."""


class Halt(Exception):
    """What the caller's own code raises."""


@dataclass
class Outcome:
    """What came of a call.

    Attributes:
        name: of the call in its scenario.
        latents: what was made; None where it raised.
        error: what it raised.
        steps: the latents after each step.
        forwards: how often a denoiser was called.
        said: what the program said of each forward, as `session.step` takes it; one entry is of all of them.
    """

    name: str
    latents: Tensor | None = None
    error: BaseException | None = None
    steps: list[Tensor] = field(default_factory=list)
    forwards: int = 0
    said: list[dict[str, Any]] = field(default_factory=list)

    def same(self, other: Outcome) -> bool:
        """Bit for bit, and the same error."""
        if type(self.error) is not type(other.error) or len(self.steps) != len(other.steps):
            return False
        pairs = list(zip(self.steps, other.steps, strict=True))
        if self.latents is not None and other.latents is not None:
            pairs.append((self.latents, other.latents))
        return all(same(a, b) for a, b in pairs)

    def is_near(self, other: Outcome) -> bool:
        """The same error, and the same latents up to rounding: for calls that are led from step to step."""
        if type(self.error) is not type(other.error) or len(self.steps) != len(other.steps):
            return False
        return all(near(a, b) for a, b in zip(self.steps, other.steps, strict=True))

    def deviates_at(self, other: Outcome, alike: Callable[[Tensor, Tensor], bool] | None = None) -> str:
        """In words, where they part."""
        for i, (mine, others) in enumerate(zip(self.steps, other.steps, strict=False)):
            if not (alike or same)(mine, others):
                return f"step {i}"
        return f"{len(self.steps)} and {len(other.steps)} steps, {self.error!r} and {other.error!r}"


def same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit; a NaN is a NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def near(a: Tensor, b: Tensor) -> bool:
    """Up to the rounding of one step, by the size of what is there; a NaN is a NaN."""
    if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a.isnan(), b.isnan()):
        return False
    apart = (a.double() - b.double()).nan_to_num().abs().max()
    return bool(apart <= ROUNDING[a.dtype] * b.double().nan_to_num().abs().max())


class Part:
    """What a session does; this one does nothing."""

    def enter(self, stage: Stage, action: Enter) -> None:
        """The session begins."""

    def again(self, stage: Stage, action: Enter) -> None:
        """Another one is to begin while it is there."""

    def leave(self, stage: Stage) -> None:
        """It ends."""

    def use(self, actor: Actor, policy: Chosen) -> None:
        """It is given another policy."""

    def stop(self, actor: Actor) -> None:
        """It is told to stop the run of an actor; where there is no session, the caller stops by itself."""
        if hasattr(actor.target, "_interrupt"):
            actor.target._interrupt = True
        elif actor.running is not None:
            actor.running.stopped = True

    def invalidate(self, actor: Actor) -> None:
        """Everything that is kept is to be forgotten."""

    def clear(self, actor: Actor) -> None:
        """The traces that are held are let go of."""

    def says(self, actor: Actor, said: dict[str, Any]) -> Any:
        """Around forwards of which the program says something."""
        return nullcontext()

    def led(self, outcome: Outcome, latents: Tensor) -> Tensor:
        """The latents with which a call goes on after a step: its own."""
        return latents

    def stepped(self, actor: Actor) -> None:
        """A step is over."""

    @contextmanager
    def during(self, actor: Actor, call: Call, outcome: Outcome) -> Iterator[None]:
        """Around a call."""
        yield

    def marked(self, actor: Actor, steps: int) -> Any:
        """Around a loop over the bare denoiser that is marked."""
        return nullcontext()

    def read(self, actor: Actor) -> None:
        """Somebody looks at the trace."""

    def copied(self, stage: Stage, action: Copy, made: Any) -> None:
        """A copy was made."""


@dataclass
class Actor:
    """A pipeline of the scenario: its own one ("main") or another one ("beside", "shared")."""

    name: str
    pipe: Any
    kind: Kind
    scenario: Scenario
    running: Running | None = None

    @property
    def modules(self) -> dict[str, nn.Module]:
        return self.kind.modules(self.pipe)

    @property
    def target(self) -> Any:
        """What a session is attached to."""
        return self.pipe if self.scenario.target == "pipeline" else next(iter(self.modules.values()))

    @property
    def dtype(self) -> torch.dtype:
        return next(next(iter(self.modules.values())).parameters()).dtype


class Stage:
    """Plays a scenario from its beginning to its end.

    Args:
        scenario: what is played.
        part: the session's.
        before: a stage whose denoisers this one goes on with, where nothing of them was changed.

    Attributes:
        outcomes: of all calls, in the order in which they began; `copies` of those of copies.
        left: what is on the pipelines and modules at the end.
    """

    def __init__(self, scenario: Scenario, part: Part, before: Stage | None = None) -> None:
        self.scenario, self.part = scenario, part
        self.kind = KINDS[scenario.kind]
        same: dict[str, nn.Module] = {} if before is None else before.main.modules
        self.main: Actor = Actor("main", self.kind.fresh(scenario.scheduler, same), self.kind, scenario)
        same = {} if before is None or before.beside is None else before.beside.modules
        self.beside: Actor | None = self._other("beside", "nested", "thread", denoisers=same)
        self.shared = self._other("shared", "shared nested", "shared thread", denoisers=self.main.modules)
        self.hooks: dict[int, Callable[[], None]] = {}
        self.outcomes: list[Outcome] = []
        self.copies: list[Outcome] = []
        self.entered = False
        self.left: dict[str, Any] = {}

    def _other(self, name: str, *ways: str, denoisers: dict[str, nn.Module]) -> Actor | None:
        if not any(call.beside in ways for call in self.scenario.calls):
            return None
        pipe = self.kind.around(self.main.pipe, denoisers, self.scenario.scheduler)
        return Actor(name, pipe, self.kind, self.scenario)

    @property
    def actors(self) -> list[Actor]:
        return [actor for actor in (self.main, self.beside, self.shared) if actor is not None]

    def play(self) -> None:
        """Does everything in the script; at the end nothing is left on."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                for action in self.scenario.script:
                    self._do(action)
            finally:
                if self.entered:
                    self._do(Leave())
                for number in list(self.hooks):
                    self._do(Unhook(number))
        self.left = found_on(self.actors)

    def _do(self, action: Any) -> None:
        if isinstance(action, Call):
            self.call(self.main, action)
        elif isinstance(action, Enter) and self.entered:
            self.part.again(self, action)
        elif isinstance(action, Enter):
            self.part.enter(self, action)
            self.entered = True
        elif isinstance(action, Use) and self.entered:
            self.part.use(self.main, action.policy)
        elif isinstance(action, Stop) and self.entered:
            self.part.stop(self.main)
        elif isinstance(action, Leave) and self.entered:
            self.leave()
        elif isinstance(action, Hook) and action.number not in self.hooks:
            self.hooks[action.number] = put_on(self.main, action)
        elif isinstance(action, Unhook) and action.number in self.hooks:
            self.hooks.pop(action.number)()
        elif isinstance(action, Cast):
            for actor in (self.main, self.beside):
                for module in actor.modules.values() if actor else ():
                    module.to(getattr(torch, action.dtype))
        elif isinstance(action, Copy) and not self.hooks:
            self._copy(action)

    def leave(self) -> None:
        """The session ends."""
        self.entered = False
        self.part.leave(self)

    def _copy(self, action: Copy) -> None:
        first = next(iter(self.main.modules))
        if action.how == "pipeline":
            made = copy.deepcopy(self.main.pipe)
        else:
            denoiser = self.main.modules[first]
            copied = copy.deepcopy(denoiser) if action.how == "deepcopy" else _pickled(denoiser)
            made = self.kind.around(self.main.pipe, {**self.main.modules, first: copied}, self.scenario.scheduler)
        self.part.copied(self, action, self.kind.modules(made)[first])
        if len(self.kind.denoisers) == 1 or action.how == "pipeline":
            actor = Actor("copy", made, self.kind, self.scenario)
            outcome = Outcome(f"{action.how} {len(self.copies)}")
            self._run(actor, Call(steps=3), outcome)
            self.copies.append(outcome)

    def call(self, actor: Actor, call: Call) -> Outcome:
        """One call of an actor; what it raised is in the outcome."""
        mine = sum(outcome.name.startswith(actor.name) for outcome in self.outcomes)
        outcome = Outcome(f"{actor.name} {mine}")
        self.outcomes.append(outcome)
        with ExitStack() as after:
            other = self.shared if "shared" in call.beside else self.beside if call.beside else None
            plain = replace(call, beside="", breaks=None, reads="", does=(), says=None)
            between: Callable[[int], None] | None = None
            if other is not None and "nested" in call.beside:
                between = functools.partial(self._nested, other, plain)
            elif other is not None:
                between = after.enter_context(self._in_turns(other, plain))
            with self.part.during(actor, call, outcome):
                self._run(actor, call, outcome, between)
        return outcome

    def _nested(self, other: Actor, call: Call, step: int) -> None:
        """A whole call of another pipeline between the second and the third step."""
        if step == 1:
            self.call(other, call)

    @contextmanager
    def _in_turns(self, other: Actor, call: Call) -> Iterator[Callable[[int], None]]:
        """Another call in a thread of its own: neither is ever more than a step ahead."""
        meet = threading.Barrier(2, timeout=TURN)
        outcome = Outcome(f"{other.name} {sum(made.name.startswith(other.name) for made in self.outcomes)}")
        self.outcomes.append(outcome)

        def wait(step: int) -> None:
            try:
                meet.wait()
            except threading.BrokenBarrierError:
                return

        def work() -> None:
            try:
                with self.part.during(other, call, outcome):
                    self._run(other, call, outcome, wait)
            finally:
                meet.abort()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield wait
        finally:
            meet.abort()
            thread.join(TURN)

    def _run(self, actor: Actor, call: Call, outcome: Outcome, between: Callable[[int], None] | None = None) -> None:
        running = actor.running = Running(self, actor, call, outcome, between)
        try:
            with torch.random.fork_rng(devices=[]), running.trapped():
                torch.manual_seed(call.seed)
                outcome.latents = running.bare() if self.scenario.bare else running.pipeline()
        except (Exception, KeyboardInterrupt) as error:
            outcome.error = error.with_traceback(None) if isinstance(error, (Halt, KeyboardInterrupt)) else error
            if isinstance(error, bwcache.RunStoppedError) and running.was_stopped:
                outcome.error = Halt("stopped")
        finally:
            actor.running = None


@dataclass
class Running:
    """One call in progress: what happens in it, at which forward, step and row.

    Attributes:
        stage, actor, call, outcome: what is called, and where.
        between: what is done between two steps.
        stopped: whether the next forward is refused, where no session does so.
        was_stopped: whether somebody stopped it.
        rows: how many rows of the trace were noted.
        done: what was done of `call.does`, by its ordinal.
        prompts: of a loop over the bare denoiser, by the rows of the batch.
    """

    stage: Stage
    actor: Actor
    call: Call
    outcome: Outcome
    between: Callable[[int], None] | None
    stopped: bool = False
    was_stopped: bool = False
    rows: int = 0
    done: set[int] = field(default_factory=set)
    prompts: dict[tuple[int, ...], dict[str, Tensor]] = field(default_factory=dict)

    @property
    def part(self) -> Part:
        return self.stage.part

    @contextmanager
    def trapped(self) -> Iterator[None]:
        """While the call runs: hooks that count, raise, spoil and look."""
        undo: list[Any] = []
        for module in self.actor.modules.values():
            undo.append(module.register_forward_pre_hook(self._begins))
            undo.append(module.register_forward_hook(self._ended))
            for i, block in enumerate(self.actor.kind.stack(module)):
                undo.append(block.register_forward_hook(functools.partial(self._in_block, i)))
        try:
            yield
        finally:
            for handle in undo:
                handle.remove()

    def _begins(self, module: nn.Module, args: Any) -> None:
        if self.stopped:
            raise Halt("stopped")
        self.outcome.forwards += 1
        self._break("denoiser", self.outcome.forwards - 1)

    def _ended(self, module: nn.Module, args: Any, output: Any) -> None:
        self._break("after", self.outcome.forwards - 1)

    def _in_block(self, i: int, module: nn.Module, args: Any, output: Any) -> Any:
        if i == 1:
            self._at("block", self.outcome.forwards - 1)
        if self.call.reads == "forwards":
            self.part.read(self.actor)
        return spoilt(output) if i == 0 and self.call.nan == self.outcome.forwards - 1 else None

    def noted(self) -> None:
        """A row of the trace was."""
        self.rows += 1
        self._at("row", self.rows - 1)

    def _at(self, where: str, at: int) -> None:
        """Does what is to be done there, and breaks off if it is to."""
        for i, do in enumerate(self.call.does):
            if i not in self.done and (do.where, do.at) == (where, at):
                self.done.add(i)
                self._do(do)
        self._break(where, at)

    def _do(self, do: Do) -> None:
        part, actor = self.part, self.actor
        if do.what == "leave" and self.stage.entered:
            self.stopped = False  # whoever was to refuse the next forward has gone
            self.stage.leave()
        elif do.what == "stop":
            self.was_stopped = True
            part.stop(actor)
        elif do.what == "use" and do.policy is not None:
            part.use(actor, do.policy)
        elif do.what in ("invalidate", "clear", "read"):
            getattr(part, do.what)(actor)

    def _break(self, where: str, at: int) -> None:
        breaks = self.call.breaks
        if breaks is not None and (breaks.where, breaks.at) == (where, at):
            raise Halt if breaks.error == "Halt" else KeyboardInterrupt

    def _step(self, index: int, latents: Tensor) -> Tensor:
        """Between two steps: notes the latents; returns them, without any NaN."""
        if self.call.nan is not None:
            latents = latents.nan_to_num(0.5)
        self.outcome.steps.append(latents.detach().clone())
        latents = self.part.led(self.outcome, latents)
        if self.call.reads == "steps":
            self.part.read(self.actor)
        if self.between is not None:
            self.between(index)
        self.part.stepped(self.actor)
        self._at("callback", index)
        return latents

    def pipeline(self) -> Tensor:
        """The pipeline called."""
        pipe, call, kind = self.actor.pipe, self.call, self.actor.kind
        given = kind.arguments(call, self.actor.dtype)
        inputs = ["latents"]
        if call.off is not None:
            inputs += [name for name in pipe._callback_tensor_inputs if name in kind.text]

        def callback(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            kwargs["latents"] = self._step(index, kwargs["latents"])
            if call.off == index + 1:
                pipe._guidance_scale = 1.0
                for name in kwargs:
                    if kind.branches > 1 and name != "latents" and not name.startswith("negative"):
                        kwargs[name] = kwargs[name].chunk(kind.branches)[1]
            if call.breaks is not None and call.breaks.where == "flag" and call.breaks.at == index:
                pipe._interrupt = True
            return kwargs

        with self._says(**self._said_of_all()):
            made = pipe(
                **given,
                output_type="latent",
                return_dict=False,
                callback_on_step_end=callback,
                callback_on_step_end_tensor_inputs=inputs,
            )[0]
        return made.detach().clone()

    def _says(self, **said: Any) -> Any:
        """What the program says around forwards, as far as it says anything."""
        known = {name: value for name, value in said.items() if value is not None}
        self.outcome.said.append(known)
        return self.part.says(self.actor, known) if known else nullcontext()

    def _said_of_all(self) -> dict[str, Any]:
        """What is said of all forwards of a pipeline."""
        says = self.call.says
        if says is None:
            return {}
        noise = {"sigma": 0.5, "noise": 0.5} if says.noise else {}
        return {"total": says.total_of(self.call.steps), "branch": says.name_of("", 0) or None, **noise}

    def _said_of(self, branches: str, step: int) -> dict[str, Any]:
        """What is said of one forward of a loop over the bare denoiser."""
        says = self.call.says
        if says is None:
            return {}
        names = tuple(dict.fromkeys(says.name_of(branch, step) for branch in branches))
        branch: Any = None if None in names else names[0] if len(names) == 1 else names
        before, after = (1 - at / self.call.steps for at in (step, step + 1))
        noise = {"sigma": before, "noise": (before, after), "prediction": "flow"} if says.noise else {}
        return {"index": says.index_of(step), "total": says.total_of(self.call.steps), "branch": branch, **noise}

    def bare(self) -> Tensor:
        """A loop over the denoiser alone, as the models' own code has it: nobody names a branch or a step."""
        call, kind = self.call, self.actor.kind
        shape = kind.latents[call.size]
        seeds = [call.seed + (0 if call.one_seed else 10 * i) for i in range(call.batch)]
        latents = torch.stack([noise(*shape, seed=seed) for seed in seeds]).to(self.actor.dtype)
        with self.part.marked(self.actor, call.steps) if call.marked else nullcontext():
            for step in range(call.steps):
                with _mode(call.grad, step):
                    made = self._forwards(latents, step)
                    latents = (latents + 0.3 * made / call.steps).clone()
                latents = self._step(step, latents)
        return latents.detach().clone()

    def _forwards(self, latents: Tensor, step: int) -> Tensor:
        """The prediction of one step, from one forward for each of its branches or from one for all."""
        call, kind = self.call, self.actor.kind
        (denoiser,) = self.actor.modules.values()
        on = call.guided and step >= call.on and (call.off is None or step < call.off)
        together = call.order.startswith("batched") or (call.order == "either" and step % 2 == 0)
        branches = {"batched3": "cup", "batched": "uc", "either": "uc"}.get(call.order, call.order)
        branches = branches if on else "c"
        made: dict[str, Tensor] = {}
        for some in [branches] if together else list(branches):
            batch = torch.cat([latents] * len(some))
            time = torch.full((len(batch),), 1000.0 * (1 - step / call.steps))
            rows = ["cup".index(branch) * 10 + i for branch in some for i in range(call.batch)]
            given = kind.bare(batch, time, rows)  # type: ignore[misc]
            given = {name: value.to(self.actor.dtype) for name, value in given.items()}
            if call.says is not None:  # then its prompts stay where they are
                given |= self.prompts.setdefault(tuple(rows), {name: given[name] for name in [*given][2:]})
            with self._says(**self._said_of(some, step)):
                output = denoiser(**given, return_dict=False)[0]
            made |= dict(zip(some, output.chunk(len(some)), strict=True))
        guided = made["c"]
        for branch in branches[1:] if "u" in branches else "":
            other = "u" if branch == "c" else branch
            guided = guided + 0.5 * (made["c"] - made[other])
        return guided


def _mode(grad: str, step: int) -> Any:
    if grad == "mixed":
        return torch.inference_mode() if step % 2 else torch.no_grad()
    if grad == "autocast":
        stack = ExitStack()
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=step % 3 != 2))
        return stack
    return {"no_grad": torch.no_grad, "inference": torch.inference_mode, "enabled": torch.enable_grad}[grad]()


def spoilt(output: Any) -> Any:
    """A block's output with a NaN in the first sample."""
    if isinstance(output, Tensor):
        output = output.clone(memory_format=torch.contiguous_format)
        output.view(-1)[0] = torch.nan
        return output
    return (spoilt(output[0]), *output[1:])


def _pickled(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    pickle.dump(module, file)
    file.seek(0)
    return pickle.load(file)


# --- what others put on modules ---------------------------------------------------------------------------------------


def put_on(actor: Actor, hook: Hook) -> Callable[[], None]:
    """Puts it on; returns what takes it off."""
    module = next(iter(actor.modules.values()))
    target = module if hook.block is None else actor.kind.stack(module)[hook.block]
    if hook.kind == "pre":
        return target.register_forward_pre_hook(lambda *_: None).remove
    if hook.kind == "post":
        return target.register_forward_hook(lambda *_: None).remove
    if hook.kind == "scale":
        return target.register_forward_hook(lambda module, args, output: _scaled(output)).remove
    if hook.kind == "registry":
        registry = HookRegistry.check_if_exists_or_initialize(target)
        registry.register_hook(ModelHook(), f"fuzz {hook.number}")
        return lambda: registry.remove_hook(f"fuzz {hook.number}", recurse=False)
    return _patched(target)


def _scaled(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output * 1.01
    return type(output)(_scaled(value) for value in output) if isinstance(output, (tuple, list)) else output


def _patched(module: nn.Module) -> Callable[[], None]:
    """Another forward in the place of the module's, as accelerate and diffusers have it."""
    inner, own = module.forward, vars(module).get("forward")

    @functools.wraps(inner)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    module.forward = forward

    def restore() -> None:
        if own is None:
            vars(module).pop("forward", None)
        else:
            module.forward = own

    return restore
