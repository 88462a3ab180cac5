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
from bwcache import BWCache, Decision, Observation
from bwcache.core.decision import compute, reuse
from bwcache.core.trace import reuse_line
from bwcache.engine.samples import Outline, Rows, branches, chosen, merged
from bwcache.models import denoisers, resolve
from tests.tiny import BY_NAME, Case, Scripted, noise

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
    _, trace = made(pipe, many, [5, 6, 7], _ByTurns(), per_sample=True)
    lines = [line(trace, i) for i in range(3)]
    assert lines == ["CrCrCrCrCr", "CCrCCrCCrC", "CCCrCCCrCC"]
    assert sizes == [
        sum(some[step] == "C" for some in lines) for step in range(10) if any(s[step] == "C" for s in lines)
    ]
    assert trace.reuse_rate == sum(some.count("r") for some in lines) / 30


class _ByTurns(Scripted):
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
    expected, _ = made(pipe, many, [5, 6], bwcache.Compute())
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
    expected, _ = made(pipe, many, [5, 6, 7], _ByTurns(), per_sample=True)
    calls = []

    def breaks(module: nn.Module, args: Any) -> None:
        calls.append(module)
        if len(calls) == 6:
            raise RuntimeError("broken")

    with bwcache.attach(pipe, _ByTurns(), per_sample=True) as session:
        hook = pipe.transformer.blocks[1].register_forward_pre_hook(breaks)
        with pytest.raises(RuntimeError, match="broken"):
            pipe(generator=[torch.Generator().manual_seed(s) for s in (5, 6, 7)], num_inference_steps=10, **many.call)
        hook.remove()
        call = {"num_inference_steps": 10, "output_type": "latent", "return_dict": False, **many.call}
        latents = pipe(generator=[torch.Generator().manual_seed(s) for s in (5, 6, 7)], **call)[0]
    assert torch.equal(latents, expected)
    assert len(session.traces) == 2


# --- rows -------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1))
def test_rows_come_apart_and_together(samples: int, guidance: int, inner: int, axis: int) -> None:
    rows = Rows(samples, guidance, axis)
    size = samples * guidance * inner
    tensor = torch.arange(size * 5).reshape((size, 5) if axis == 0 else (5, size))
    parts = [rows.of(tensor, i) for i in range(samples)]
    assert torch.equal(rows.joined(parts), tensor)
    assert sum(part.numel() for part in parts) == tensor.numel()


def test_a_forward_is_cut_and_put_together_by_samples() -> None:
    rows = Rows(samples=3, branches=2)
    latents = torch.tensor([0, 1, 2, 10, 11, 12])[:, None, None].expand(6, 2, 4)
    rope = torch.ones(7, 3)
    cut = chosen(
        {"x": latents, "t": torch.arange(6), "rope": rope, "n": 5, "more": {"mask": latents[:, 0]}}, [0, 2], rows
    )
    assert cut["x"][:, 0, 0].tolist() == [0, 2, 10, 12]
    assert cut["t"].tolist() == [0, 2, 3, 5]
    assert cut["more"]["mask"][:, 0].tolist() == [0, 2, 10, 12]
    assert cut["rope"] is rope
    assert cut["n"] == 5
    parts = [chosen((latents,), some, rows) for some in ([1], [0, 2])]
    assert torch.equal(merged(parts, [[1], [0, 2]], rows)[0], latents)


def test_guidance_in_one_batch_is_told_by_equal_latents() -> None:
    latents = noise(2, 4, 3)
    assert branches(torch.cat([latents] * 2)) == 2
    assert branches(torch.cat([latents] * 3)) == 3
    assert branches(latents) == 1
    image = noise(2, 4, 3, 3, seed=3)
    edited = torch.cat([torch.cat([noise(2, 4, 3, 3)] * 3), torch.cat([image, image, image * 0])], dim=1)
    assert branches(edited) == 1
    assert branches(edited, channels=4) == 3
    assert branches(noise(4, 4, 3)) == 1


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
