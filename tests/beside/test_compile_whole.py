"""A transformer compiled as a whole: taken apart while a session is attached, and found again as it was."""

from __future__ import annotations

import copy
import functools
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import accelerate
import pytest
import torch
from diffusers.hooks import apply_group_offloading
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

import bwcache
from bwcache import AttachError, BWCache, NeverReusedWarning
from bwcache.engine import compiled
from bwcache.measure.latency import DenoiseTimer
from tests.beside import attached
from tests.beside.attached import CAREFREE, LINE, lines, same
from tests.beside.compiling import _forget_what_was_compiled, close, never_again  # noqa: F401
from tests.engine.test_restore import everything_on
from tests.engine.test_samples import batch_of, made
from tests.tiny import BY_NAME, WAN, Case, Scripted
from tests.tiny import wan as tiny_wan
from tests.zoo import native

LAYERS = 2
"""Two blocks are enough to have a first and a last one; what a whole costs to trace grows with their number."""

wan = functools.partial(tiny_wan, layers=LAYERS)
cached = functools.cache(functools.partial(attached.cached, LAYERS))
plain = functools.cache(functools.partial(attached.plain, LAYERS))


def in_place(pipe: Any, **options: Any) -> None:
    pipe.transformer.compile(**options)


def wrapped(pipe: Any, **options: Any) -> None:
    pipe.transformer = torch.compile(pipe.transformer, **options)


def forward_alone(pipe: Any, **options: Any) -> None:
    pipe.transformer.forward = torch.compile(pipe.transformer.forward, **options)


WAYS = pytest.mark.parametrize("compile_whole", [in_place, wrapped, forward_alone])
WRAPPED_OR_IN_PLACE = pytest.mark.parametrize("compile_whole", [in_place, wrapped])


def traced(pipe: Any) -> dict[tuple[str, str], Any]:
    """All attributes of the transformer, of its wrapper and of what is in it."""
    return everything_on(pipe.transformer)


@WAYS
@pytest.mark.parametrize("when", ["before", "after", pytest.param("between_runs", marks=pytest.mark.slow)])
def test_one_graph_of_the_blocks_and_one_of_the_whole(compile_whole: Any, when: str) -> None:
    pipe, counted = wan(), CompileCounterWithBackend("eager")
    if when == "before":
        compile_whole(pipe, backend=counted, fullgraph=True)
        close(WAN.run(pipe), plain())
    with bwcache.attach(pipe, CAREFREE) as session:
        if when == "between_runs":
            close(WAN.run(pipe), cached())
        if when != "before":
            compile_whole(pipe, backend=counted, fullgraph=True)
        found = counted.frame_count
        close(WAN.run(pipe), cached())
        assert counted.frame_count == found + 1  # the blocks are of one class, in two branches
        with never_again():
            close(WAN.run(pipe), cached())
        assert lines(session)[-2:] == [LINE, LINE]
    close(WAN.run(pipe), plain())
    with never_again(), bwcache.attach(pipe, CAREFREE):
        close(WAN.run(pipe), cached())
    with never_again():
        close(WAN.run(pipe), plain())
    assert counted.frame_count == counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


@WAYS
@pytest.mark.parametrize("fails", [False, True], ids=["", "after_an_exception"])
def test_leaving_finds_the_very_objects_again(compile_whole: Any, fails: bool) -> None:
    def raising(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if fails and index == 4:
            raise RuntimeError("after a step")
        return kwargs

    pipe = wan()
    compile_whole(pipe, backend="eager")
    WAN.run(pipe)
    before, whole = traced(pipe), pipe.transformer
    for _ in range(2):
        try:
            with bwcache.attach(pipe, CAREFREE):
                assert traced(pipe) != before
                WAN.run(pipe, callback_on_step_end=raising)
            assert not fails
        except RuntimeError:
            assert fails
        assert pipe.transformer is whole
        assert traced(pipe) == before
    close(WAN.run(pipe), plain())


@WAYS
def test_what_was_compiled_while_attached_is_there_when_the_session_has_left(compile_whole: Any) -> None:
    pipe, first, last = wan(), CompileCounterWithBackend("eager"), CompileCounterWithBackend("eager")
    with bwcache.attach(pipe, CAREFREE) as session:
        if compile_whole is in_place:
            compile_whole(pipe, backend=first)
            WAN.run(pipe)
        compile_whole(pipe, backend=last)
        close(WAN.run(pipe), cached())
    assert set(lines(session)) == {LINE}
    at_once = last.frame_count
    close(WAN.run(pipe), plain())
    assert (at_once, last.frame_count) == (1, 2)
    assert not counters["graph_break"]


@WAYS
def test_the_options_of_the_whole_hold_for_the_blocks(compile_whole: Any) -> None:
    heard: list[tuple[dict[str, Any], bool]] = []

    def backend(graph: Any, inputs: Any, **options: Any) -> Any:
        heard.append((options, any(isinstance(value, torch.SymInt) for value in inputs)))
        return graph.forward

    pipe = wan()
    compile_whole(pipe, backend=backend, dynamic=True, options={"epilogue_fusion": True})
    WAN.run(pipe)
    with bwcache.attach(pipe, CAREFREE):
        WAN.run(pipe)
    whole, block = heard
    assert whole == block
    assert whole[0]["options"] == {"epilogue_fusion": True}
    assert whole[1], "nothing was dynamic: the test shows nothing"


@WAYS
def test_a_mode_reaches_the_blocks(compile_whole: Any) -> None:
    modes = []

    def backend(graph: Any, inputs: Any, mode: str) -> Any:
        modes.append(mode)
        return graph.forward

    pipe = wan()
    compile_whole(pipe, backend=backend, mode="reduce-overhead")
    with bwcache.attach(pipe, CAREFREE):
        WAN.run(pipe)
    assert modes == ["reduce-overhead"]


@WRAPPED_OR_IN_PLACE
@pytest.mark.parametrize("case", [BY_NAME["cogvideox"], BY_NAME["hunyuan"]], ids=lambda case: case.name)
def test_other_models_make_a_graph_for_each_class_of_block(case: Case, compile_whole: Any) -> None:
    expected = case.build()
    with bwcache.attach(expected, CAREFREE) as plain_session:
        wanted = case.run(expected)
    classes = {type(block) for name, block in expected.transformer.named_modules() if name.count(".") == 1}
    pipe, counted = case.build(), CompileCounterWithBackend("eager")
    compile_whole(pipe, backend=counted, fullgraph=True)
    with bwcache.attach(pipe, CAREFREE) as session:
        close(case.run(pipe), wanted)
        found = counted.frame_count
        with never_again():
            case.run(pipe)
    assert 1 <= found <= 2 * len(classes)  # of one class, some tell by a guard that they are the first or the last
    assert lines(session) == lines(plain_session) * 2
    assert not counters["graph_break"]


def test_one_of_two_experts_is_compiled() -> None:
    case = BY_NAME["wan_two_experts"]
    pipe, counted = case.build(), CompileCounterWithBackend("eager")
    with bwcache.attach(pipe, CAREFREE):
        wanted = case.run(pipe)
    pipe.transformer_2 = torch.compile(pipe.transformer_2, backend=counted)
    plain_expert, compiled = everything_on(pipe.transformer), everything_on(pipe.transformer_2)
    with bwcache.attach(pipe, CAREFREE) as session:
        close(case.run(pipe), wanted)
    assert counted.frame_count == 1
    assert session.trace.reused > 0
    assert (everything_on(pipe.transformer), everything_on(pipe.transformer_2)) == (plain_expert, compiled)


def test_samples_that_decide_for_themselves() -> None:
    """Where they differ the denoiser runs twice, on batches of other sizes."""
    case, policy = batch_of(WAN, 3), BWCache(threshold=0.3, reuse_interval=1, tail_guard=0)

    def decided(trace: bwcache.Trace) -> list[tuple[Any, ...]]:
        return [(event.step, event.branch, event.sample, event.action) for event in trace.events]

    pipe = tiny_wan()
    wanted, expected = made(pipe, case, [5, 6, 7], policy)
    wrapped(pipe, backend="eager", fullgraph=True)
    latents, trace = made(pipe, case, [5, 6, 7], policy)
    close(latents, wanted)
    assert decided(trace) == decided(expected)
    together = {(step, branch): set[str]() for step, branch, _, _ in decided(trace)}
    for step, branch, _, action in decided(trace):
        together[step, branch].add(action)
    assert any(len(actions) == 2 for actions in together.values()), "they agreed: the test shows nothing"


def model_offload(pipe: Any) -> None:
    """A pipeline takes these hooks off and puts new ones on at the end of each of its calls."""
    pipe.enable_model_cpu_offload(device="cpu")


def hook_alone(pipe: Any) -> None:
    accelerate.cpu_offload_with_hook(pipe.transformer, execution_device=torch.device("cpu"))


ORDERS = [
    (in_place, model_offload, "offload compile attach"),
    (in_place, model_offload, "compile attach offload"),
    (wrapped, model_offload, "compile offload attach"),
    (wrapped, model_offload, "compile attach offload"),
    (wrapped, hook_alone, "offload compile attach"),
    (forward_alone, model_offload, "compile offload attach"),
]


@pytest.mark.parametrize(("compile_whole", "offload", "order"), ORDERS)
def test_offloading_over_and_under_the_compiled_whole(
    compile_whole: Any, offload: Callable[[Any], None], order: str
) -> None:
    pipe, counted = wan(), CompileCounterWithBackend("eager")
    session = None
    for word in order.split():
        if word == "compile":
            compile_whole(pipe, backend=counted)
        elif word == "offload":
            offload(pipe)
        else:
            session = bwcache.attach(pipe, CAREFREE)
    assert session is not None
    with session:
        close(WAN.run(pipe), cached())
        at_first = counted.frame_count
        assert at_first > 0
        with never_again():
            close(WAN.run(pipe), cached())
    assert lines(session) == [LINE, LINE]
    close(WAN.run(pipe), plain())
    assert counted.frame_count > at_first  # the whole is back
    with bwcache.attach(pipe, CAREFREE) as session:
        close(WAN.run(pipe), cached())
    assert lines(session) == [LINE]


def test_a_wrapper_that_accelerate_takes_off_is_told_of() -> None:
    """Its hooks were put on the module, and are taken off the wrapper: with them goes what the wrapper compiled."""
    pipe = wan()
    model_offload(pipe)
    wrapped(pipe, backend="eager")
    with bwcache.attach(pipe, CAREFREE) as session:
        close(WAN.run(pipe), cached())
        with pytest.warns(NeverReusedWarning, match="was called outside of"):
            made = WAN.run(pipe)
    same(made, plain())
    assert lines(session) == [LINE]
    same(WAN.run(pipe), plain())


def test_a_wrapper_that_hooks_of_diffusers_cover_is_refused() -> None:
    """The compiled call is in a closure there: neither reached nor silently left in."""
    pipe, there = wan(), torch.device("cpu")
    wrapped(pipe, backend="eager")
    before = traced(pipe)
    apply_group_offloading(
        pipe.transformer, onload_device=there, offload_device=there, offload_type="block_level", num_blocks_per_group=1
    )
    covered = traced(pipe)
    assert covered != before
    with pytest.raises(AttachError, match=r"compiled as a whole, under a forward.*compile after the rest"):
        bwcache.attach(pipe, CAREFREE)
    assert traced(pipe) == covered


def test_group_offloading_below_the_compiled_whole() -> None:
    pipe, there = wan(), torch.device("cpu")
    apply_group_offloading(pipe.transformer, onload_device=there, offload_device=there, offload_type="leaf_level")
    wrapped(pipe, backend="eager")
    with bwcache.attach(pipe, CAREFREE) as session:
        close(WAN.run(pipe), cached())
    assert lines(session) == [LINE]


def test_a_bare_module_in_its_wrapper() -> None:
    pipe, counted = wan(), CompileCounterWithBackend("eager")
    whole = torch.compile(pipe.transformer, backend=counted)
    inputs = {
        "hidden_states": torch.ones(1, 4, 1, 4, 4),
        "encoder_hidden_states": torch.ones(1, 6, 8),
        "return_dict": False,
    }

    def run(model: Any) -> Tensor:
        with torch.no_grad():
            return sum(model(timestep=torch.tensor([900.0 - 90 * i]), **inputs)[0] for i in range(10))

    wanted = run(pipe.transformer)
    with bwcache.attach(pipe.transformer, CAREFREE, steps=10):
        reused = run(pipe.transformer)
    session = bwcache.enable(whole, CAREFREE, steps=10)
    assert bwcache.preset(whole) == bwcache.preset(pipe.transformer)
    with pytest.raises(bwcache.AlreadyAttachedError):
        bwcache.attach(pipe.transformer, CAREFREE)
    with pytest.raises(bwcache.AlreadyAttachedError):
        bwcache.attach(whole, CAREFREE)
    close(run(whole), reused)
    assert counted.frame_count == 1
    bwcache.disable(whole)
    assert lines(session) == [LINE]
    assert session.trace.meta["model"] == "WanTransformer3DModel"
    close(run(whole), wanted)
    assert counted.frame_count == 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_module_that_is_called_through_a_wrapper_of_which_the_session_knows_nothing(when: str) -> None:
    """It reuses, but there is no telling with which options the blocks are to be compiled."""
    pipe = wan()
    bare = pipe.transformer
    if when == "before":
        wrapped(pipe, backend="eager")
    with bwcache.attach(bare, CAREFREE, steps=10) as session:
        if when == "after":
            wrapped(pipe, backend="eager")
        with pytest.warns(UserWarning, match=r"called from within a compiled module.*Attach to what torch\.compile"):
            close(WAN.run(pipe), cached())
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            WAN.run(pipe)
    assert lines(session) == [LINE, LINE]


def test_a_block_with_options_of_its_own_keeps_them() -> None:
    pipe, whole, own = wan(layers=3), CompileCounterWithBackend("eager"), CompileCounterWithBackend("eager")
    pipe.transformer.blocks[1].compile(backend=own)
    pipe.transformer.blocks[2] = torch.compile(pipe.transformer.blocks[2], backend=own)
    wrapped(pipe, backend=whole)
    WAN.run(pipe)
    own.frame_count = whole.frame_count = 0
    before = traced(pipe)
    with bwcache.attach(pipe, CAREFREE):
        close(WAN.run(pipe), attached.cached(3))
    assert (own.frame_count, whole.frame_count) == (1, 1)  # each was part of the whole until now
    assert traced(pipe) == before


def test_blocks_compiled_after_the_whole_while_attached_stay_compiled() -> None:
    pipe, whole, own = wan(), CompileCounterWithBackend("eager"), CompileCounterWithBackend("eager")
    with bwcache.attach(pipe, CAREFREE) as session:
        in_place(pipe, backend=whole)
        pipe.transformer.compile_repeated_blocks(backend=own)
        close(WAN.run(pipe), cached())
    assert lines(session) == [LINE]
    assert (own.frame_count, whole.frame_count) == (1, 0)
    assert all(block._compiled_call_impl is not None for block in pipe.transformer.blocks)


def test_compiling_that_is_switched_off_is_left_alone() -> None:
    pipe = wan()
    in_place(pipe, backend="eager", disable=True)
    pipe.transformer = torch.compiler.disable(pipe.transformer)
    before = traced(pipe)
    with bwcache.attach(pipe, CAREFREE) as session:
        same(WAN.run(pipe), cached())
        pipe.transformer.compile(disable=True)
        same(WAN.run(pipe), cached())
    assert lines(session) == [LINE] * 2
    assert {key: traced(pipe)[key] for key in before if "compiled" not in key[1]} == {
        key: before[key] for key in before if "compiled" not in key[1]
    }
    same(WAN.run(pipe), plain())


def test_a_copy_and_a_file_of_the_compiled_whole(tmp_path: Any) -> None:
    pipe = wan()
    wrapped(pipe, backend="eager")
    names = list(pipe.transformer.state_dict())
    with bwcache.attach(pipe, CAREFREE):
        WAN.run(pipe)
        twin = copy.deepcopy(pipe.transformer)
        assert list(pipe.transformer.state_dict()) == names
        pipe.transformer._orig_mod.save_pretrained(tmp_path / "attached")
    assert type(twin) is type(pipe.transformer)
    pipe.transformer = twin
    close(WAN.run(pipe), plain())
    model = type(twin._orig_mod)
    pipe.transformer = model.from_pretrained(tmp_path / "attached")
    loaded = WAN.run(pipe)
    close(loaded, plain())
    wan().transformer.save_pretrained(tmp_path / "free")  # where weights lie in memory may change the last bits
    pipe.transformer = model.from_pretrained(tmp_path / "free")
    same(WAN.run(pipe), loaded)


def test_functions_that_are_called_in_place_of_blocks_are_refused() -> None:
    model = next(model for model in native.MODELS if model.name.startswith("CogVideo "))
    module = model.build()
    whole = torch.compile(module, backend="eager")
    before = everything_on(whole)
    with pytest.raises(AttachError, match="a function is called in their place"):
        bwcache.attach(whole, Scripted(frozenset({2})), steps=4)
    assert everything_on(whole) == before


@WRAPPED_OR_IN_PLACE
def test_the_time_of_a_compiled_whole_is_taken_from_outside(compile_whole: Any) -> None:
    pipe, counted = wan(), CompileCounterWithBackend("eager")
    compile_whole(pipe, backend=counted, fullgraph=True)
    WAN.run(pipe)
    with never_again(), DenoiseTimer(pipe) as timer:
        WAN.run(pipe)
    assert (counted.frame_count, timer.forwards) == (1, 20)


def test_the_graph_of_the_whole_is_found_clean_after_a_session() -> None:
    """A session leaves nothing that dynamo would trace."""
    pipe, counted = wan(), CompileCounterWithBackend("eager")
    with bwcache.attach(pipe, CAREFREE):
        WAN.run(pipe)
    in_place(pipe, backend=counted, fullgraph=True)
    made = WAN.run(pipe)
    close(made, plain())
    fresh, other = wan(), CompileCounterWithBackend("eager")
    torch._dynamo.reset()
    in_place(fresh, backend=other, fullgraph=True)
    same(WAN.run(fresh), made)
    assert counted.frame_count == other.frame_count


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@WRAPPED_OR_IN_PLACE
def test_inductor(compile_whole: Any) -> None:
    pipe = wan()
    compile_whole(pipe, fullgraph=True, mode="max-autotune-no-cudagraphs")
    close(WAN.run(pipe), plain())
    whole = counters["stats"]["unique_graphs"]
    with bwcache.attach(pipe, CAREFREE) as session:
        close(WAN.run(pipe), cached())
        with never_again():
            close(WAN.run(pipe), cached())
    with never_again():
        close(WAN.run(pipe), plain())
    assert lines(session) == [LINE, LINE]
    assert (whole, counters["stats"]["unique_graphs"]) == (1, 2)
    assert not counters["graph_break"]


ASKED: dict[str, dict[str, Any]] = {
    "reduce-overhead": {"mode": "reduce-overhead"},
    "max-autotune": {"mode": "max-autotune", "fullgraph": True, "dynamic": False},
    "options": {"options": {"triton.cudagraphs": True, "max_fusion_size": 16}, "fullgraph": True},
}


def told(context: Any) -> tuple[dict[str, Any], bool, Any]:
    """Of a context of inductor: its options, whether it breaks no graph, and whether shapes may change."""
    frame = context.callback._torchdynamo_orig_backend
    backend = frame._torchdynamo_orig_backend._torchdynamo_orig_backend
    return backend.config, getattr(frame, "_one_graph", False), backend.dynamic


@WAYS
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_blocks_are_compiled_as_the_whole_was_but_into_no_cuda_graphs(
    compile_whole: Any, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each graph would overwrite what the next block reads; tests/gpu runs it."""
    contexts = []
    monkeypatch.setattr(compiled, "_compiled_unless", lambda context, module, present: contexts.append(context))
    pipe = wan()
    compile_whole(pipe, **asked)
    with bwcache.attach(pipe, CAREFREE):
        pass
    before = told(compiled._context(torch.compile(lambda x: x, **asked)))  # type: ignore[misc]
    assert before[0]["triton.cudagraphs"] is True
    assert len(contexts) == LAYERS
    assert all(context is contexts[0] for context in contexts)
    assert told(contexts[0]) == ({**before[0], "triton.cudagraphs": False}, *before[1:])


def test_other_options_are_left_as_they_are() -> None:
    for asked in (
        {"backend": "eager"},
        {},
        {"mode": "max-autotune-no-cudagraphs"},
        {"backend": CompileCounterWithBackend("eager")},
    ):
        context = compiled._context(torch.compile(lambda x: x, **asked))
        assert compiled.without_cuda_graphs(context) is context
