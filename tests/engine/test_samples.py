"""Every sample of a batch decides for itself: its video is what it is when made alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import bwcache
from bwcache import BWCache, Decision, Observation, compute, reuse
from bwcache.core.trace import reuse_line
from bwcache.engine.batch import BatchLayout
from bwcache.engine.guidance import branches_of, period
from bwcache.engine.idle import Outline
from bwcache.models import denoisers, resolve
from tests.runs.cases import BY_NAME as EVERY
from tests.runs.cases import SD3, SD3_PAG
from tests.tiny import BY_NAME, Case, Scripted, ltx, noise

LIVELY = BWCache(threshold=0.3, reuse_interval=1, tail_guard=0)


def batch_of(case: Case, count: int) -> Case:
    """The same call for several prompts, each with a text of its own."""
    texts = {}
    for key, value in case.call.items():
        if isinstance(value, Tensor):
            parts = [value] + [value * (1.0 if "mask" in key else 3.0**i) for i in range(1, count)]
            texts[key] = torch.cat(parts).to(value.dtype)
    return replace(case, call={**case.call, **texts})


def alone(case: Case, i: int) -> Case:
    """The i-th of these prompts for itself."""
    return replace(case, call={k: v[i : i + 1] if isinstance(v, Tensor) else v for k, v in case.call.items()})


def made(pipe: Any, case: Case, seeds: list[int], policy: Any, **settings: Any) -> tuple[Tensor, bwcache.Trace]:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with bwcache.attach(pipe, policy, **settings) as session:
        call = {"num_inference_steps": 10, "output_type": "latent", "return_dict": False, **case.call}
        latents = pipe(generator=generators if len(seeds) > 1 else generators[0], **call)[0]
    return latents, session.trace


def line(trace: bwcache.Trace, sample: int | None) -> str:
    return reuse_line([event for event in trace.events if event.sample == sample])


BATCHED = [BY_NAME[name] for name in ("wan", "wan_unguided", "cogvideox", "ltx", "mochi", "hunyuan")]


@pytest.mark.parametrize("case", BATCHED, ids=lambda case: case.name)
@pytest.mark.parametrize("predictor", [bwcache.Last(), bwcache.Linear()], ids=repr)
def test_a_video_is_what_it_is_when_made_alone(case: Case, predictor: bwcache.Predictor) -> None:
    pipe, many = case.build(), batch_of(case, 3)
    policy = replace(LIVELY, predictor=predictor)
    together, trace = made(pipe, many, [5, 6, 7], policy, per_sample=True)
    for i in range(3):
        single, own = made(pipe, alone(many, i), [5 + i], policy)
        assert line(trace, i) == line(own, None)
        torch.testing.assert_close(together[i : i + 1], single, rtol=2e-3, atol=2e-4)
    assert {event.sample for event in trace.events} == {0, 1, 2}


def test_samples_do_decide_differently_and_only_those_that_need_it_are_computed() -> None:
    case = BY_NAME["wan_unguided"]
    pipe, many = case.build(), batch_of(case, 3)
    sizes: list[int] = []
    for module in denoisers(pipe).values():
        blocks = resolve("transformer", module).blocks
        blocks[0].module.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    _, trace = made(pipe, many, [5, 6, 7], ByTurns(), per_sample=True)
    lines = [line(trace, i) for i in range(3)]
    assert lines == ["CrCrCrCrCr", "CCrCCrCCrC", "CCCrCCCrCC"]
    assert sizes == [
        sum(some[step] == "C" for some in lines) for step in range(10) if any(s[step] == "C" for s in lines)
    ]
    assert trace.reuse_rate == sum(some.count("r") for some in lines) / 30


class ByTurns(Scripted):
    """Sample i reuses every (i + 2)-th step."""

    @property
    def may_reuse(self) -> bool:
        return True

    def decide(self, observation: Observation, state: None) -> Decision:
        every = (observation.step.sample or 0) + 2
        return reuse("its turn") if observation.step.index % every == every - 1 else compute("not its turn")


@pytest.mark.parametrize("case", [BY_NAME["wan"], BY_NAME["cogvideox"]], ids=lambda case: case.name)
def test_one_sample_alone_is_as_without(case: Case) -> None:
    pipe = case.build()
    expected, plain = made(pipe, case, [5], LIVELY)
    latents, trace = made(pipe, case, [5], LIVELY, per_sample=True)
    assert torch.equal(latents, expected)
    assert trace.events == plain.events


@pytest.mark.parametrize("case", BATCHED, ids=lambda case: case.name)
def test_always_computing_a_batch_changes_nothing(case: Case) -> None:
    pipe, many = case.build(), batch_of(case, 2)
    expected, _ = made(pipe, many, [5, 6], bwcache.NeverReuse())
    before = {name: dict(vars(module)) for name, module in denoisers(pipe).items()}
    latents, trace = made(pipe, many, [5, 6], BWCache(threshold=0), per_sample=True)
    assert torch.equal(latents, expected)
    assert line(trace, 0) == line(trace, 1) == "C" * 10
    for name, module in denoisers(pipe).items():
        assert vars(module).keys() == before[name].keys()
        assert module._compiled_call_impl is None


def test_an_error_in_a_split_forward_leaves_nothing() -> None:
    case = BY_NAME["wan_unguided"]
    pipe, many = case.build(), batch_of(case, 3)
    expected, _ = made(pipe, many, [5, 6, 7], ByTurns(), per_sample=True)
    calls = []

    def breaks(module: nn.Module, args: Any) -> None:
        calls.append(module)
        if len(calls) == 6:
            raise RuntimeError("broken")

    with bwcache.attach(pipe, ByTurns(), per_sample=True) as session:
        hook = pipe.transformer.blocks[1].register_forward_pre_hook(breaks)
        with pytest.raises(RuntimeError, match="broken"):
            pipe(generator=[torch.Generator().manual_seed(s) for s in (5, 6, 7)], num_inference_steps=10, **many.call)
        hook.remove()
        call = {"num_inference_steps": 10, "output_type": "latent", "return_dict": False, **many.call}
        latents = pipe(generator=[torch.Generator().manual_seed(s) for s in (5, 6, 7)], **call)[0]
    assert torch.equal(latents, expected)
    assert len(session.traces) == 2


# --- lanes in a batch -------------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1), st.booleans(), st.data())
def test_lanes_come_apart_and_together(
    samples: int, branches: int, inner: int, axis: int, named: bool, data: st.DataObject
) -> None:
    names = [f"b{i}" for i in range(branches)]
    by_name, by_sample = BatchLayout.of_branches(names, samples, axis), BatchLayout.of_samples(samples, branches, axis)
    layout = by_name if named else by_sample
    size = samples * branches * inner
    tensor = torch.arange(size * 5).reshape((size, 5) if axis == 0 else (5, size))
    parts = [layout.of(tensor, i) for i in range(len(layout))]
    assert torch.equal(layout.joined(parts), tensor)
    assert sum(part.numel() for part in parts) == tensor.numel()
    assert all(part.shape == layout.size(tensor.shape) for part in parts)
    lanes = sorted(data.draw(st.sets(st.integers(0, len(layout) - 1), min_size=1)))
    rows = sorted(row for lane in lanes for row in layout.rows[lane]) or list(range(samples * branches))
    cut = torch.cat([tensor.narrow(axis, row * inner, inner) for row in rows], axis)
    own = layout.only(lanes)
    assert all(torch.equal(own.of(cut, i), parts[lane]) for i, lane in enumerate(lanes))


def test_rows_that_lie_side_by_side_are_not_copied() -> None:
    tensor = noise(4, 3)
    for layout in (BatchLayout.of_samples(4), BatchLayout.of_branches(["u", "c"], 2)):
        assert layout.of(tensor, 2).data_ptr() == tensor[2].data_ptr()
    assert BatchLayout().of(tensor, 0) is tensor


def test_each_lane_stands_in_its_branch_and_sample() -> None:
    step = bwcache.Step(0, 3, 8, None, None, "u+c")
    assert BatchLayout().steps(step) == (step,)
    lanes = [own.lane for own in BatchLayout.of_branches(["u", "c"], 2).steps(step)]
    assert lanes == ["u#0", "u#1", "c#0", "c#1"]
    assert [own.lane for own in BatchLayout.of_branches(["u", "c"], 1).steps(step)] == ["u", "c"]
    assert [own.lane for own in BatchLayout.of_branches(["u", "c"], 2).only([1, 2]).steps(step)] == ["u#1", "c#0"]
    assert [own.lane for own in BatchLayout.of_samples(2, 2).steps(step)] == ["u+c#0", "u+c#1"]


def test_a_forward_is_cut_and_put_together_by_lanes() -> None:
    layout = BatchLayout.of_samples(samples=3, branches=2)
    latents = torch.tensor([0, 1, 2, 10, 11, 12])[:, None, None].expand(6, 2, 4)
    rope = torch.ones(7, 3)
    given = {"x": latents, "t": torch.arange(6), "rope": rope, "n": 5, "more": {"mask": latents[:, 0]}}
    cut = layout.take(given, [0, 2])
    assert cut["x"][:, 0, 0].tolist() == [0, 2, 10, 12]
    assert cut["t"].tolist() == [0, 2, 3, 5]
    assert cut["more"]["mask"][:, 0].tolist() == [0, 2, 10, 12]
    assert cut["rope"] is rope
    assert cut["n"] == 5
    for each in (layout, BatchLayout.of_branches(["u", "c"], 3), BatchLayout.of_branches("abcdef", 1)):
        groups = [[1], [i for i in range(len(each)) if i != 1]]
        parts = [each.take((latents,), some) for some in groups]
        assert torch.equal(each.merge(parts, groups)[0], latents)


# --- guidance in one batch --------------------------------------------------------------------------------------------


def test_equal_latents_repeat() -> None:
    latents = noise(2, 4, 3)
    assert period(torch.cat([latents] * 2)) == 2
    assert period(torch.cat([latents] * 3)) == 2
    assert period(latents) == 2
    assert period(torch.cat([latents[:1]] * 6)) == 1
    image = noise(2, 4, 3, 3, seed=3)
    edited = torch.cat([torch.cat([noise(2, 4, 3, 3)] * 3), torch.cat([image, image, image * 0])], dim=1)
    assert period(edited) == 6
    assert period(edited, channels=4) == 2


@pytest.mark.parametrize(
    ("count", "repeat", "said", "branches"),
    [
        (4, 4, 2, 1),  # guidance is off by now: Z-Image
        (4, 2, 2, 2),
        (4, 1, 2, 2),  # two samples of one seed
        (2, 1, 1, 1),  # two samples of one seed, no guidance
        (6, 1, 3, 3),  # perturbed attention
        (6, 1, 2, 2),
        (6, 2, 2, None),  # three branches where the pipeline speaks of two
        (6, 2, None, 3),
        (6, 1, None, None),
        (2, 1, None, None),
        (3, 3, None, 1),
    ],
)
def test_how_many_branches_are_in_a_batch(count: int, repeat: int, said: int | None, branches: int | None) -> None:
    found, why = branches_of(count, repeat, said)
    assert found == branches
    assert why


@pytest.mark.parametrize("name", ["ltx", "cogvideox", "mochi", "PixArtAlphaPipeline", SD3.name])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_two_prompts_from_one_seed_are_two_samples(name: str, guidance: float) -> None:
    case = SD3 if name == SD3.name else EVERY[name]
    pipe, many = case.build(), batch_of(case, 2)
    latents, trace = made(pipe, replace(many, call={**many.call, "guidance_scale": guidance}), [5, 5], LIVELY)
    assert {event.sample for event in trace.events} == {0, 1}
    assert f"2 samples in {1 if guidance == 1.0 else 2} branches" in trace.meta["samples"]
    assert latents.isfinite().all()


def test_perturbed_attention_decides_apart_in_three_branches() -> None:
    """Six equal rows: two samples of one seed."""
    pipe, many = SD3_PAG.build(), batch_of(SD3_PAG, 2)
    _, trace = made(pipe, many, [5, 5], ByTurns())
    assert [line(trace, i) for i in range(2)] == ["CrCrCrCrCr", "CCrCCrCCrC"]
    assert "2 samples in 3 branches" in trace.meta["samples"]


def test_in_doubt_a_batch_decides_as_one_and_the_trace_says_so() -> None:
    module = ltx().transformer
    latents = noise(1, 8, 8).expand(4, -1, -1)
    with bwcache.attach(module, Scripted(frozenset({1, 2})), steps=3) as session, torch.no_grad():
        for i in range(3):
            time = torch.full((4,), 900.0 - 300 * i)
            module(latents, noise(4, 6, 32, seed=1), time, torch.ones(4, 6), num_frames=2, height=2, width=2)
    assert {event.sample for event in session.trace.events} == {None}
    assert session.trace.meta["samples"].startswith("4 rows decide as one: all have the same latents")


def test_an_outline_has_everything_but_the_values() -> None:
    value = (noise(4, 3, 2), [noise(4, 1), None], (noise(2, 5).half(),), "word")
    filled = Outline.of(value, samples=2).filled(samples=2)
    assert [type(a) for a in filled] == [type(a) for a in value]
    assert filled[0].shape == (4, 3, 2)
    assert filled[1][0].shape == (4, 1)
    assert filled[1][1] is None
    assert filled[2][0].dtype == torch.float16
    assert filled[3] == "word"
    assert Outline.of(value, samples=2).filled(samples=1)[0].shape == (2, 3, 2)


def test_an_outline_holds_what_is_said_and_no_memory_of_before() -> None:
    value = (noise(4, 3), torch.arange(4), torch.ones(4, dtype=torch.bool), torch.ones(4, 2, dtype=torch.complex64))
    torch.use_deterministic_algorithms(True)  # new memory is full of NaN, and of the largest of whole numbers
    try:
        assert torch.empty(3).isnan().all()
        zeros, poison = Outline.of(value).filled(), Outline.of(value).filled(value=float("nan"))
    finally:
        torch.use_deterministic_algorithms(False)
    assert not any(part.any() for part in zeros)
    assert [part.dtype for part in poison] == [part.dtype for part in value]
    assert poison[0].isnan().all()
    assert poison[3].isnan().all()
    assert not poison[1].any()
    assert not poison[2].any()
