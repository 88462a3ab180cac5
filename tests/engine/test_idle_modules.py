"""Idle modules are skipped in a replay, and only where that cannot be seen: in doubt all of them run."""

from __future__ import annotations

import functools
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bwcache
from bwcache import Decision, Observation, compute, reuse
from bwcache.engine.clock import Call
from bwcache.engine.idle import IdleCalls, IdleModules, is_finite
from bwcache.models import BlockStack, Site, denoisers, resolve
from bwcache.models.table import row_of
from tests.tiny import BY_NAME, VIDEO_TO_VIDEO, WAN, Case, Scripted, each_case, noise

C, STEPS, REUSED = 8, 8, frozenset({2, 3, 5, 6})


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(C, C)

    def forward(self, hidden_states: Tensor, temb: Tensor) -> Tensor:
        return hidden_states + self.linear(hidden_states) * temb


class Denoiser(nn.Module):
    """Embeds latents and time, and lets a test change what happens before, between and after its blocks."""

    embed: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.embed_time, self.head = nn.Linear(C, C), nn.Linear(1, C), nn.Linear(C, C)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.repeats, self.skips_blocks, self.reads_time = 1, False, False

    def forward(self, hidden_states: Tensor, timestep: Any, extra: Any = None) -> Tensor:
        tokens = self.embed(hidden_states).repeat(1, self.repeats, 1)
        temb = self.embed_time(torch.as_tensor(timestep).view(-1, 1, 1) / 1000)
        if not self.skips_blocks:
            for block in self.blocks:
                tokens = block(tokens, temb)
        return self.head(tokens + temb if self.reads_time else tokens)


ROW = bwcache.BlockSpec("Denoiser", (bwcache.BlockList("blocks"),), idle=("embed", "embed_time"))


def denoiser() -> Denoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Denoiser().eval().requires_grad_(False)


def count_calls(module: nn.Module, *names: str) -> list[str]:
    """The names of these modules, each time that one runs."""
    calls: list[str] = []

    def around(name: str, forward: Any) -> Any:
        @functools.wraps(forward)
        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return forward(*args, **kwargs)

        return counted

    for name in names:
        part = module.get_submodule(name)
        part.forward = around(name, part.forward)
    return calls


@dataclass(frozen=True)
class Asked(Scripted):
    """Takes note of each question."""

    questions: tuple[list[int], ...] = ([],)

    def decide(self, observation: Observation, state: None) -> Decision:
        self.questions[0].append(observation.step.index)
        return super().decide(observation, state)


def asked() -> Asked:
    return Asked(REUSED, questions=([],))


def run(module: nn.Module, policy: Any = None, spec: Any = ROW, change: Any = None, **inputs: Any) -> Any:
    """Outputs of a run, and its session; `change(module, step)` comes before each forward."""
    outputs = []
    with (
        bwcache.attach(module, policy or Scripted(REUSED), spec=spec) as session,
        session.run(STEPS),
        torch.no_grad(),
    ):
        for i in range(STEPS):
            if change is not None:
                change(module, i)
            given = {"hidden_states": noise(1, 4, C, seed=i), "timestep": torch.tensor([1000.0 - 100 * i]), **inputs}
            outputs.append(module(**given))
    return outputs, session


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


WITHOUT = replace(ROW, idle=())


def expect_the_same(change: Any = None, computed: set[int] | None = None, **inputs: Any) -> tuple[list[str], Any]:
    """With idle modules and without, a run is the same: outputs, actions and reasons, questions."""
    plain, expected = run(denoiser(), asked(), WITHOUT, change, **inputs)
    policy, module = asked(), denoiser()
    calls = count_calls(module, "embed")
    made, session = run(module, policy, ROW, change, **inputs)
    assert same(made, plain)
    assert [(e.step, e.action, e.reason) for e in session.trace.events] == [
        (e.step, e.action, e.reason) for e in expected.trace.events
    ]
    return calls, session


def test_they_run_in_computed_steps_only() -> None:
    calls, _ = expect_the_same()
    assert len(calls) == STEPS - len(REUSED)


def test_the_policy_is_asked_once_a_step() -> None:
    policy = asked()
    run(denoiser(), policy)
    assert policy.questions[0] == list(range(1, STEPS))


def test_another_shape_at_the_first_block_runs_the_forward_again() -> None:
    """The arguments are as before, so that nothing says it in advance: it is only seen at the first block."""

    def change(module: Denoiser, step: int) -> None:
        module.repeats = 2 if step == 3 else 1

    policy, module = asked(), denoiser()
    module.embed = nn.Sequential(module.embed)  # nothing of the repeats is inside
    plain, expected = run(denoiser(), asked(), WITHOUT, change)
    made, session = run(module, policy, ROW, change)
    assert same(made, plain)
    assert made[3].shape == (1, 8, C)
    event = session.trace.events[3]
    assert (event.action, event.reason) == ("compute", "another shape, dtype or device than what is kept")
    assert len(session.trace.events) == STEPS
    assert [e.action for e in session.trace.events] == [e.action for e in expected.trace.events]


def test_a_wrong_row_is_found_out_and_named() -> None:
    def reads(module: Denoiser, step: int) -> None:
        module.reads_time = True

    plain, _ = run(denoiser(), None, WITHOUT, reads)
    with pytest.warns(UserWarning, match=r"Denoiser reads embed, embed_time after its blocks.*row of Denoiser right"):
        made, session = run(denoiser(), None, ROW, reads)
    assert same(made, plain)
    assert len(session.trace.events) == STEPS


def test_a_wrong_row_is_found_out_once() -> None:
    module = denoiser()
    module.reads_time = True
    calls = count_calls(module, "embed")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(module)
    assert len(caught) == 1
    assert len(calls) == STEPS  # the first replay ran twice, once without it


def test_a_forward_without_blocks_runs_with_all_modules() -> None:
    def change(module: Denoiser, step: int) -> None:
        module.skips_blocks = step == 3

    with pytest.warns(bwcache.NeverReusedWarning, match="called none of its blocks"):
        made, _ = run(denoiser(), None, ROW, change)
    plain = denoiser()
    plain.skips_blocks = True
    assert torch.equal(made[3], plain(noise(1, 4, C, seed=3), torch.tensor([700.0])))


def test_an_exception_in_a_replay_is_not_hidden() -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("broken")

    def change(module: Denoiser, step: int) -> None:
        if step == 2:
            module.head.register_forward_pre_hook(broken)

    with pytest.raises(RuntimeError, match="broken"):
        run(denoiser(), None, ROW, change)


def test_somebodys_hook_is_called_in_every_step() -> None:
    module = denoiser()
    seen: list[Tensor] = []
    module.embed.register_forward_hook(lambda module, args, output: seen.append(output))
    made, _ = run(module)
    assert len(seen) == STEPS
    assert all(output.isfinite().all() for output in seen)
    assert same(made, run(denoiser(), None, WITHOUT)[0])


UNTOLD = {"an object": object(), "a set": {1}, "an iterator": iter([1])}


@pytest.mark.parametrize("extra", UNTOLD.values(), ids=UNTOLD)
def test_an_argument_of_which_nothing_is_known_leaves_all_running(extra: Any) -> None:
    calls, _ = expect_the_same(extra=extra)
    assert len(calls) == STEPS


TOLD = {
    "nothing": None,
    "numbers": [(1, 2.5), True],
    "a tensor in a dictionary": {"mask": torch.ones(1, 4)},
    "a dtype": torch.float32,
}


@pytest.mark.parametrize("extra", TOLD.values(), ids=TOLD)
def test_known_arguments_that_stay(extra: Any) -> None:
    calls, _ = expect_the_same(extra=extra)
    assert len(calls) == STEPS - len(REUSED)


CHANGES: dict[str, Any] = {
    "another number": (1, 2),
    "a tensor of another shape": (torch.ones(3), torch.ones(4)),
    "a tensor of another dtype": (torch.ones(3), torch.ones(3).double()),
    "something where nothing was": (None, torch.ones(3)),
    "a longer list": ([1], [1, 1]),
    "a number that is no truth": (1, True),
}


@pytest.mark.parametrize("values", CHANGES.values(), ids=CHANGES)
def test_another_argument_computes_the_modules(values: tuple[Any, Any]) -> None:
    stack = resolve("model", denoiser(), ROW)
    given: dict[str, Any] = {"hidden_states": noise(1, 4, C), "timestep": 5}
    told = [Call(stack, (), {**given, "extra": value}).note_inputs() for value in values]
    assert told[0] != told[1] or type(values[0]) is not type(values[1])
    assert None not in told
    module = denoiser()
    calls = count_calls(module, "embed")
    with bwcache.attach(module, Scripted(REUSED), spec=ROW) as session, session.run(STEPS), torch.no_grad():
        for i in range(4):
            module(noise(1, 4, C, seed=i), torch.tensor([1000.0 - i]), values[i == 3])
    assert len(calls) == 3  # steps 0, 1 and 3; step 2 was replayed as it was


def test_only_the_time_may_move() -> None:
    stack = resolve("model", denoiser(), ROW)
    latents = noise(1, 4, C)

    def told(*args: Any, **kwargs: Any) -> Any:
        return Call(stack, args, kwargs).note_inputs()

    assert told(latents, 5) == told(latents, 6) == told(latents, timestep=7)
    assert told(latents, 5, 1) != told(latents, 5, 2)


def test_autocast_and_another_dtype_of_the_weights_are_other_inputs() -> None:
    module = denoiser()
    stack = resolve("model", module, ROW)
    given = ((noise(1, 4, C), 5), {})
    before = Call(stack, *given).note_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        assert Call(stack, *given).note_inputs() != before or not torch.is_autocast_enabled()
    assert Call(resolve("model", module.double(), ROW), *given).note_inputs() != before


def test_with_gradients_all_run() -> None:
    module = denoiser()
    calls = count_calls(module, "embed")
    with bwcache.attach(module, Scripted(REUSED), spec=ROW) as session, session.run(STEPS):
        for i in range(STEPS):
            module(noise(1, 4, C, seed=i), torch.tensor([1000.0 - i]))
    assert {event.step for event in session.trace.events if event.action == "reuse"} == REUSED
    assert len(calls) == STEPS


class Residual(Scripted):
    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        return (stack.whole("residual"),)


class Half(Scripted):
    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        return (stack.site(stack.blocks[1], stack.blocks[-1], name="half"),)


class Two(Scripted):
    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        return (stack.site(stack.blocks[0]), stack.site(stack.blocks[1], stack.blocks[-1]))


@pytest.mark.parametrize("policy", [Residual, Half, Two], ids=lambda kind: kind.__name__)
def test_where_something_else_reads_them_all_run(policy: type[Scripted]) -> None:
    module = denoiser()
    calls = count_calls(module, "embed")
    made, _ = run(module, policy(REUSED))
    assert len(calls) == STEPS
    assert same(made, run(denoiser(), policy(REUSED), WITHOUT)[0])


def test_modules_within_a_compiled_part_are_left_alone() -> None:
    module = denoiser()
    module.part = nn.Module()
    module.part.inner = nn.Linear(C, C)
    module.part._compiled_call_impl = module.part._call_impl  # as Module.compile does
    with bwcache.attach(module, Scripted(REUSED), steps=STEPS, spec=replace(ROW, idle=("embed", "part.inner"))):
        assert module.embed._compiled_call_impl is not None
        assert module.part.inner._compiled_call_impl is None
    assert module.embed._compiled_call_impl is None


def test_a_module_that_is_compiled_later_is_skipped_all_the_same() -> None:
    def change(module: Denoiser, step: int) -> None:
        if step == 1:
            module.embed.compile(backend="eager")

    module = denoiser()
    calls = count_calls(module, "embed")
    made, _ = run(module, None, ROW, change)
    assert same(made, run(denoiser(), None, WITHOUT)[0])
    assert len(calls) == STEPS - len(REUSED)


def test_a_module_that_a_variant_lacks_is_no_mistake() -> None:
    made, _ = run(denoiser(), None, replace(ROW, idle=("embed", "embed_image", "part.inner")))
    assert same(made, run(denoiser(), None, WITHOUT)[0])


def test_is_finite_looks_into_every_tensor() -> None:
    nan = torch.tensor([1.0, float("nan")])
    assert is_finite((torch.ones(2), [torch.ones(1), None], {"a": torch.zeros(3), "n": 1}))
    assert not is_finite((torch.ones(2), [torch.ones(1), nan]))
    assert not is_finite({"a": nan})
    assert not is_finite(())
    assert not is_finite(object())


def rows_of(case: Case) -> dict[str, Any]:
    return {name: row_of(type(module)) for name, module in denoisers(case.build()).items()}


def calls_by_step(case: Case, policy: Any, idle: bool, **changes: Any) -> tuple[Tensor, list[bwcache.Event], list[int]]:
    """What a pipeline makes, its events, and how many idle modules ran in each forward."""
    pipe = case.build()
    calls, ran = [], []
    rows = []
    for module in denoisers(pipe).values():
        stack = resolve("model", module)
        rows.append(stack.spec)
        for part in stack.idle.values():
            part.forward = functools.partial(_counted, calls, part.forward)
        module.register_forward_hook(lambda *_: (ran.append(len(calls)), calls.clear())[0])
    spec = None if idle else replace(rows[0], idle=())
    with bwcache.attach(pipe, policy, spec=spec) as session:
        made = case.run(pipe, **changes)
    return made, session.trace.events, ran


def _counted(calls: list[int], forward: Any, *args: Any, **kwargs: Any) -> Any:
    calls.append(1)
    return forward(*args, **kwargs)


@each_case
def test_pipelines_make_the_same_without_them(case: Case) -> None:
    policy = bwcache.BWCache(threshold=10.0, reuse_interval=2)
    expected, events, all_of_them = calls_by_step(case, policy, idle=False)
    made, again, ran = calls_by_step(case, policy, idle=True)
    assert torch.equal(made, expected)
    assert [(e.action, e.reason) for e in again] == [(e.action, e.reason) for e in events]
    assert min(all_of_them) > 0
    assert [count == 0 for count in ran] == [event.action == "reuse" for event in again]


def test_unnamed_branches() -> None:
    policy = bwcache.BWCache(threshold=10.0, reuse_interval=2)
    expected, _, _ = calls_by_step(VIDEO_TO_VIDEO, policy, idle=False)
    made, events, ran = calls_by_step(VIDEO_TO_VIDEO, policy, idle=True)
    assert torch.equal(made, expected)
    assert [count == 0 for count in ran] == [event.action == "reuse" for event in events]


class Turns(Scripted):
    """Samples of a batch reuse in turns, and now and then together."""

    @property
    def may_reuse(self) -> bool:
        return True

    def decide(self, observation: Observation, state: None) -> Decision:
        step = observation.step
        together = step.index in (4, 5)
        return reuse("its turn") if together or step.index == (step.sample or 0) + 1 else compute("not its turn")


@pytest.mark.parametrize("name", ["wan", "cogvideox"])
def test_samples_that_decide_for_themselves(name: str) -> None:
    case = BY_NAME[name]
    expected, events, _ = calls_by_step(case, Turns(), idle=False, num_videos_per_prompt=2)
    made, again, ran = calls_by_step(case, Turns(), idle=True, num_videos_per_prompt=2)
    assert torch.equal(made, expected)
    assert [e.action for e in again] == [e.action for e in events]
    assert 0 in ran


def test_the_next_call_of_another_size_starts_anew() -> None:
    pipe = WAN.build()
    policy = Scripted(frozenset({2, 3}))
    with bwcache.attach(pipe, policy):
        made = [WAN.run(pipe), WAN.run(pipe, height=16), WAN.run(pipe)]
    row = rows_of(WAN)["transformer"]
    with bwcache.attach(pipe, policy, spec=replace(row, idle=())):
        expected = [WAN.run(pipe), WAN.run(pipe, height=16), WAN.run(pipe)]
    assert all(map(torch.equal, made, expected))


class NoReading(torch.utils._python_dispatch.TorchDispatchMode):
    """Raises where a number is read from the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "reads the device"
        return func(*args, **(kwargs or {}))


def test_the_device_is_read_in_the_first_replay_only() -> None:
    module = denoiser()
    policy = Scripted(frozenset({2, 3, 4}))
    with bwcache.attach(module, policy, spec=ROW) as session, session.run(STEPS), torch.no_grad():
        for i in range(5):
            with NoReading() if i > 2 else nullcontext():
                module(noise(1, 4, C, seed=i), 1000.0 - i)


def test_each_call_of_one_module_is_answered_by_what_that_call_returned() -> None:
    idle = IdleModules({"embed": nn.Identity()})
    seen = IdleCalls(idle, ("inputs",), None)
    sizes = [(2, C), (3, C)]
    for size in sizes:
        seen.call("embed", lambda: torch.ones(size), (), {})  # noqa: B023
    skipped = IdleCalls(idle, ("inputs",), seen.outlines)
    assert [skipped.call("embed", lambda: None, (), {}).shape for _ in sizes] == sizes
    assert skipped.skipped
