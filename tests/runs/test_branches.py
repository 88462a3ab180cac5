"""Guidance: in one forward, in several, with names and without, in all steps or in some."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import ClassifierFreeGuidance, LayerSkipConfig, SkipLayerGuidance
from torch import Tensor

import bwcache
from bwcache import BWCache
from bwcache.core.trace import reuse_line
from tests.runs.cases import BY_NAME, HUNYUAN_IMAGE, LUMINA2, MODULAR_WAN, SD3, SD3_PAG, Z_IMAGE, modular_wan
from tests.runs.laws import CAREFREE, GREEDY, told
from tests.tiny import VIDEO_TO_VIDEO, Case, noise, wan_transformer
from tests.zoo.motif import motif

NAMED = ("wan", "hunyuan", "HunyuanVideo15Pipeline", "MotifVideoPipeline", "Cosmos3OmniPipeline", "LTX2Pipeline")
UNNAMED = ("Cosmos2VideoToWorldPipeline", "Kandinsky5T2VPipeline", "ChronoEditPipeline", "SanaVideoPipeline")


@pytest.mark.parametrize("name", [*NAMED, *UNNAMED])
def test_branches_have_the_pipelines_names_or_the_order_of_their_forwards(name: str) -> None:
    case = BY_NAME[name]
    seen = told(case)
    assert seen.branches() == [case.branches] * 10
    assert seen.lines == ["CCrrCrrCCC"]


def test_a_step_with_three_forwards_of_two_sizes() -> None:
    """LTX-2: both branches in one batch, then two further forwards of half the batch, each a branch."""
    seen = told(BY_NAME["LTX2Pipeline guided"])
    assert seen.branches() == [("cond_uncond", "uncond_stg", "uncond_modality")] * 10
    assert {(forward.branch, forward.shape[0]) for forward in seen.forwards} == {
        ("cond_uncond", 2),
        ("uncond_stg", 1),
        ("uncond_modality", 1),
    }
    assert seen.lines == ["CCrrCrrCCC"]


# --- guiders that start and stop --------------------------------------------------------------------------------------

ON, OFF = ("pred_cond", "pred_uncond"), ("pred_cond",)


WINDOWS = [
    (0.0, 0.5, range(5), "CCrrCrrCCC"),
    # a branch that comes late has nothing to reuse: the window ends there, and the next begins a step later
    (0.3, 1.0, range(3, 10), "CCrmCrrCCC"),
    (0.2, 0.6, range(2, 6), "CCmCrrCrCC"),
]


@pytest.mark.parametrize(("start", "stop", "guided", "line"), WINDOWS)
def test_a_guider_that_starts_and_stops(start: float, stop: float, guided: range, line: str) -> None:
    case = BY_NAME["HunyuanVideo15Pipeline"]
    pipe = case.build()
    pipe.guider = ClassifierFreeGuidance(guidance_scale=8.0, start=start, stop=stop)
    seen = told(case, pipe)
    assert seen.branches() == [ON if step in guided else OFF for step in range(10)]
    assert seen.lines == [line]


@pytest.mark.parametrize(("start", "stop", "guided", "line"), WINDOWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_guider_of_a_modular_pipeline(
    start: float, stop: float, guided: range, line: str, dtype: torch.dtype
) -> None:
    """It names nothing, its timesteps are whole numbers cast to the weights' dtype, and it never ends a run."""
    pipe = modular_wan(ClassifierFreeGuidance(guidance_scale=4.0, start=start, stop=stop), dtype)
    text = {key: value.to(dtype) for key, value in MODULAR_WAN.call.items() if key.endswith("embeds")}
    seen = told(MODULAR_WAN, pipe, **text)
    assert seen.branches() == [("call0", "call1") if step in guided else ("call0",) for step in range(10)]
    assert seen.lines == [line]


def test_a_guider_that_changes_its_formula() -> None:
    """Adaptive projection from step 4 on: the forwards are the same ones throughout."""
    seen = told(HUNYUAN_IMAGE)
    assert seen.branches() == [ON] * 10
    assert seen.lines == ["CCrrCrrCCC"]


# --- a third branch ---------------------------------------------------------------------------------------------------


def skipping(start: float, stop: float) -> SkipLayerGuidance:
    return SkipLayerGuidance(
        guidance_scale=8.0,
        skip_layer_guidance_start=start,
        skip_layer_guidance_stop=stop,
        skip_layer_config=LayerSkipConfig(indices=[1], fqn="transformer_blocks"),
    )


def test_skip_layer_guidance_by_a_guider() -> None:
    """A hook in a block passes it by, in the third forward of some steps: that forward is a branch of its own."""
    case = BY_NAME["MotifVideoPipeline"]
    seen = told(case, motif(skipping(0.1, 0.6)))
    third = (*ON, "pred_cond_skip")
    assert seen.branches() == [ON] * 2 + [third] * 4 + [ON] * 4
    assert seen.lines == ["CCmCrrCrCC"]


def test_skip_layer_guidance_that_leaves_calls_out() -> None:
    """Stable Diffusion 3: no name, half the batch, the same prompt, and the skipped blocks are never called."""
    seen = told(SD3, skip_guidance_layers=[1], skip_layer_guidance_start=0.1, skip_layer_guidance_stop=0.6)
    assert seen.branches() == [("call0",)] * 2 + [("call0", "call1")] * 4 + [("call0",)] * 4
    assert [forward.shape[0] for forward in seen.forwards if forward.branch == "call1"] == [1] * 4
    assert seen.lines == ["CCmCrrCrCC"]


def test_perturbed_attention_in_one_batch_of_three() -> None:
    seen = told(SD3_PAG)
    assert seen.branches() == [("call0",)] * 10
    assert {forward.shape[0] for forward in seen.forwards} == {3}
    assert seen.lines == ["CCrrCrrCCC"]


# --- guidance that is cut off -----------------------------------------------------------------------------------------


def test_lumina_drops_the_second_forward_late() -> None:
    seen = told(LUMINA2, cfg_trunc_ratio=0.6)
    assert seen.branches() == [("call0", "call1")] * 6 + [("call0",)] * 4
    assert seen.lines == ["CCrrCrrCCC"]


def test_z_image_halves_its_batch() -> None:
    """The first step of the half batch has other prompts and computes; from there on it is reused again."""
    seen = told(Z_IMAGE, cfg_truncation=0.3, num_inference_steps=16)
    sizes = [forward.shape[0] for forward in seen.forwards]
    assert set(sizes) == {1, 2}
    assert sizes == sorted(sizes, reverse=True)
    assert set(seen.branches()) == {("call0",)}
    changed = sizes.index(1)
    event = seen.traces[0].events[changed]
    assert event.action == "compute"
    assert event.reason == "another prompt or image to go by than before"
    assert seen.lines[0][changed:].startswith("CCrr")


# --- guidance that is switched in the middle --------------------------------------------------------------------------


class Guided:
    """Guides in these steps only, on a pipeline that names nothing."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def __call__(self, pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 4.0 if index + 1 in self.steps else 1.0
        return kwargs


@pytest.mark.parametrize("steps", [(0, 1, 2, 3), (0, 1, 2, 6, 7, 8, 9)], ids=["stops", "pauses"])
def test_guidance_without_names_that_stops_or_pauses(steps: tuple[int, ...]) -> None:
    case = Case(
        "wan_video_to_video",
        VIDEO_TO_VIDEO.build,
        {**VIDEO_TO_VIDEO.call, "strength": 1.0, "callback_on_step_end": Guided(*steps)},
        VIDEO_TO_VIDEO.branches,
    )
    seen = told(case)
    both, one = ("call0", "call1"), ("call0",)
    assert seen.branches() == [both if step in steps else one for step in range(10)]
    assert "r" in seen.lines[0]


# --- bare modules: as the models' own code runs them ------------------------------------------------------------------


def batches(module: Any, sizes: list[tuple[int, ...]]) -> Tensor:
    """One step for each entry: forwards of so many conditions each, as they fit into a batch."""
    latents = noise(1, 4, 2, 4, 4)
    text = noise(3, 6, 8, seed=1)
    for i, forwards in enumerate(sizes):
        made, done = [], 0
        for size in forwards:
            with torch.no_grad():
                time = torch.full((size,), 1000.0 - 100 * i)
                given = latents.repeat(size, 1, 1, 1, 1)
                made.append(module(given, time, text[done : done + size], return_dict=False)[0])
            done += size
        latents = latents + 0.05 * torch.cat(made).mean(0, keepdim=True)
    return latents


def traced(sizes: list[tuple[int, ...]], policy: bwcache.Policy[Any]) -> tuple[Tensor, bwcache.Trace]:
    module = wan_transformer()
    with bwcache.attach(module, policy, steps=len(sizes), per_sample=False) as session:
        made = batches(module, sizes)
    assert len(session.traces) == 1
    return made, session.trace


def test_a_number_of_conditions_that_depends_on_the_time() -> None:
    """LTX's own code: three conditions in a batch, then two, then one."""
    sizes: list[Any] = [(3,)] * 4 + [(2,)] * 4 + [(1,)] * 4
    made, trace = traced(sizes, BWCache(threshold=0))
    assert torch.equal(made, batches(wan_transformer(), sizes))
    assert [(event.step, event.branch, event.total) for event in trace.events] == [(i, "call0", 12) for i in range(12)]
    _, trace = traced(sizes, GREEDY)
    assert reuse_line(trace.events) == "CrrrCrrrCrrr"


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_batches_that_are_split_as_memory_allows() -> None:
    """ComfyUI: both conditions in a batch, or one after the other, from step to step. What is kept fits or is dropped.

    The prompts tell which is which, so the number of steps stays known though that of the forwards goes up and down.
    """
    sizes = [(2,), (2,), (1, 1), (1, 1), (2,), (2,), (1, 1), (2,)]
    made, trace = traced(sizes, BWCache(threshold=0))
    assert torch.equal(made, batches(wan_transformer(), sizes))
    assert [event.step for event in trace.events] == [i for i, forwards in enumerate(sizes) for _ in forwards]
    _, trace = traced(sizes, GREEDY)
    assert reuse_line(trace.events) == "CrCrCrCC"
    _, trace = traced(sizes, CAREFREE)
    assert {event.total for event in trace.events} == {8}
