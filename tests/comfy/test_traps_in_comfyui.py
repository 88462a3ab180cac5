"""What other caches get wrong without a word, in a real ComfyUI: each with its right outcome.

The table is in CONTRIBUTING.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

import bwcache
from bwcache.comfy.runs import Runs
from bwcache.comfy.sampling import Settings, cached
from tests.comfy.comfyui import Sample, needs_comfyui, text, wan, witnessed
from tests.comfy.test_in_comfyui import POLICIES, computed_steps, part
from tests.comfy.test_models_in_comfyui import TINY

pytestmark = [needs_comfyui, pytest.mark.filterwarnings("ignore::UserWarning:comfy")]
both = pytest.mark.parametrize("policy", POLICIES)


@pytest.fixture(scope="module")
def model() -> Any:
    return wan()


def ran(
    model: Any, sample: Sample, policy: str, block: str = "blocks", also: Callable[[Any, Any], Any] | None = None
) -> tuple[torch.Tensor, Runs, Any]:
    last: Callable[[Any], Any] = lambda module: list(getattr(module, block).children())[-1]  # noqa: E731
    with witnessed(model, last, also or (lambda base, args: None)) as (seen, witness):
        clone, runs = cached(seen, Settings(POLICIES[policy]))
        return sample.of(clone), runs, witness


def reused_rightly(runs: Runs, witness: Any) -> None:
    assert not witness.stale()
    assert not runs.notes[-1]
    assert 0 < len(computed_steps(runs)) < runs.traces[-1].steps


def lora(model: Any, strength: float) -> Any:
    """Hooks that change the weights of the first block."""
    hooks = importlib.import_module("comfy.hooks")
    weights = model.model.state_dict()
    changed = {}
    for name in ("ffn.0", "self_attn.q"):
        key = f"diffusion_model.blocks.0.{name}"
        out, into = weights[f"{key}.weight"].shape
        generator = torch.Generator().manual_seed(0)
        changed[f"{key}.lora_up.weight"] = torch.randn(out, 4, generator=generator) / 2
        changed[f"{key}.lora_down.weight"] = torch.randn(4, into, generator=generator) / into**0.5
    return hooks.create_hook_lora(changed, strength, 0.0)


def weights_at_work(base: Any, args: Any) -> float:
    """What the weights are in this forward: LoRA hooks put theirs in place."""
    return float(base.diffusion_model.blocks[0].ffn[0].weight.double().sum())


@both
def test_lora_hooks_of_one_prompt(model: Any, policy: str) -> None:
    hooks = importlib.import_module("comfy.hooks")
    plain = Sample().of(model)
    positive = hooks.set_hooks_for_conditioning(text(1), lora(model, 1.0))
    sample = Sample(positive=positive)
    assert not torch.equal(sample.of(model), plain)
    made, runs, witness = ran(model, sample, policy, also=weights_at_work)
    assert torch.isfinite(made).all()
    reused_rightly(runs, witness)
    assert len({parts[0][2] for _, parts, _ in witness.forwards}) == 2  # one prompt with them, one without
    assert torch.equal(Sample().of(model), plain)
    off, _ = cached(model, Settings(bwcache.Planned(0)))
    assert torch.equal(sample.of(off), sample.of(model))


@both
def test_a_lora_hook_that_changes_its_strength_on_the_way(model: Any, policy: str) -> None:
    hooks = importlib.import_module("comfy.hooks")
    frames = hooks.HookKeyframeGroup()
    frames.add(hooks.HookKeyframe(1.0, 0.0))
    frames.add(hooks.HookKeyframe(0.2, 0.5))
    group = lora(model, 1.0)
    group.set_keyframes_on_hooks(frames)
    sample = Sample(steps=12, positive=hooks.set_hooks_for_conditioning(text(1), group))
    _, runs, witness = ran(model, sample, policy, also=weights_at_work)
    reused_rightly(runs, witness)
    assert len({parts[0][2] for _, parts, _ in witness.forwards}) == 3
    first = next(event for event in runs.traces[-1].events if event.branch == "cond 2")
    assert first.action == "compute"


def flux() -> tuple[Any, Sample]:
    return TINY["Flux"].model(), TINY["Flux"].sample()


@both
def test_a_control_net_that_begins_and_ends(policy: str) -> None:
    model, sample = flux()
    base = importlib.import_module("comfy.controlnet").ControlBase

    class Control(base):  # type: ignore[misc,valid-type]
        def get_control(self, x: Any, t: Any, cond: Any, batched: int, *more: Any) -> Any:
            begin, end = self.timestep_range
            if not end <= t[0] <= begin:
                return None
            tokens = torch.full((len(x), x.shape[-1] * x.shape[-2] // 4, 128), 0.5)
            return {"input": [tokens, tokens], "output": [tokens]}

        def copy(self) -> Any:
            made = Control()
            self.copy_to(made)
            return made

    control = Control().set_cond_hint(torch.zeros(1, 3, 8, 8), 1.0, (0.3, 0.7))
    sample.steps = 12
    plain = sample.of(model)
    for one in (sample.positive, sample.negative):
        one[0][1].update(control=control, control_apply_to_uncond=False)
    assert not torch.equal(sample.of(model), plain)
    _, runs, witness = ran(model, sample, policy, "single_blocks", also=lambda base, args: args[4] is None)
    reused_rightly(runs, witness)
    assert len({parts[0][2] for _, parts, _ in witness.forwards}) == 2
    off, _ = cached(model, Settings(bwcache.Planned(0)))
    assert torch.equal(sample.of(off), sample.of(model))


@both
def test_areas_and_masks_of_prompts(policy: str) -> None:
    model, sample = flux()
    first, second = sample.positive, TINY["Flux"].sample().negative
    mask = torch.zeros(1, 8, 8)
    mask[:, :4] = 1
    areas = [
        [first[0][0], {**first[0][1], "area": (4, 8, 0, 0)}],
        [second[0][0], {**second[0][1], "area": (8, 4, 0, 4)}],
    ]
    masks = [[one[0], {**one[1], "mask": each, "mask_strength": 1.0}] for one, each in zip(
        (first[0], second[0]), (mask, 1 - mask), strict=True
    )]  # fmt: skip
    for positive in (areas + first, masks):
        sample.positive = positive
        made, runs, witness = ran(model, sample, policy, "single_blocks")
        assert torch.isfinite(made).all()
        reused_rightly(runs, witness)
        assert {event.branch for event in runs.traces[-1].events} >= {"cond", "cond 2", "uncond"}


@both
@pytest.mark.parametrize("before", [True, False], ids=["before the node", "after it"])
def test_skip_layer_guidance_has_features_of_its_own(model: Any, policy: str, before: bool) -> None:
    node = importlib.import_module("comfy_extras.nodes_slg").SkipLayerGuidanceDiT

    def guided(patcher: Any) -> Any:
        return node.execute(model=patcher, scale=2.0, start_percent=0.0, end_percent=0.7, double_layers="1").args[0]

    def skipped(base: Any, args: Any) -> Any:
        return str(sorted(args[5].get("patches_replace", {}).get("dit", {})))

    sample = Sample(steps=12)
    plain = sample.of(guided(model))
    with witnessed(model, lambda module: module.blocks[-1], skipped) as (seen, witness):
        if before:
            clone, runs = cached(guided(seen), Settings(POLICIES[policy]))
        else:
            inner, runs = cached(seen, Settings(POLICIES[policy]))
            clone = guided(inner)
        made = sample.of(clone)
    assert torch.isfinite(made).all()
    assert not torch.equal(made, plain)
    reused_rightly(runs, witness)
    assert {event.branch for event in runs.traces[-1].events} == {"cond", "uncond", "cond 2"}
    assert torch.equal(sample.of(guided(model)), plain)


@both
@pytest.mark.parametrize("block", [1, 3], ids=["a middle one", "the last one"])
def test_blocks_that_others_leave_out(model: Any, policy: str, block: int) -> None:
    def without(patcher: Any) -> Any:
        clone = patcher.clone()
        clone.set_model_patch_replace(lambda args, more: args, "dit", "double_block", block)
        return clone

    plain = Sample().of(without(model))
    off, _ = cached(without(model), Settings(bwcache.NeverReuse()))
    assert torch.equal(Sample().of(off), plain)
    clone, runs = cached(without(model), Settings(POLICIES[policy]))
    made = Sample().of(clone)
    torch.testing.assert_close(made, plain, atol=30, rtol=1)
    assert torch.isfinite(made).all()
    assert runs.traces[-1].steps == 8


@both
@pytest.mark.parametrize("name", ["DualCFG", "PerpNeg"])
def test_guiders_of_three_prompts(model: Any, policy: str, name: str) -> None:
    samplers = importlib.import_module("comfy.samplers")
    where = {"DualCFG": "custom_sampler", "PerpNeg": "perpneg"}[name]
    kind = getattr(importlib.import_module(f"comfy_extras.nodes_{where}"), f"Guider_{name}")

    def sampled(patcher: Any) -> torch.Tensor:
        guider = kind(patcher)
        guider.set_conds(text(1), text(2), text(3))
        guider.set_cfg(4.0, 2.0)
        noise = torch.randn(1, 16, 2, 8, 8, generator=torch.Generator().manual_seed(3))
        sigmas = samplers.calculate_sigmas(patcher.get_model_object("model_sampling"), "simple", 8)
        with torch.inference_mode():
            made: torch.Tensor = guider.sample(
                noise, torch.zeros_like(noise), samplers.sampler_object("euler"), sigmas, seed=3, disable_pbar=True
            )
        return made

    plain = sampled(model)
    assert torch.equal(sampled(cached(model, Settings(bwcache.Planned(0)))[0]), plain)
    with witnessed(model, lambda module: module.blocks[-1]) as (seen, witness):
        clone, runs = cached(seen, Settings(POLICIES[policy]))
        made = sampled(clone)
    assert torch.isfinite(made).all()
    reused_rightly(runs, witness)
    assert len({event.branch for event in runs.traces[-1].events}) == 3


@both
def test_two_samplers_on_one_model_are_two_runs(model: Any, policy: str) -> None:
    with witnessed(model, lambda module: module.blocks[-1]) as (seen, witness):
        clone, runs = cached(seen, Settings(POLICIES[policy]))
        Sample(steps=12).of(clone, start_step=0, last_step=6, force_full_denoise=False)
        Sample(steps=12).of(clone, start_step=6, last_step=12, disable_noise=True)
    assert not witness.stale()
    assert [trace.steps for trace in runs.traces] == [6, 6]
    assert [trace.events[0].action for trace in runs.traces] == ["compute", "compute"]


@both
@pytest.mark.parametrize("before", [True, False], ids=["before the node", "behind it"])
def test_easycache_on_the_same_model(model: Any, policy: str, before: bool) -> None:
    node = importlib.import_module("comfy_extras.nodes_easycache").EasyCacheNode

    def easy(patcher: Any) -> Any:
        settings = {"reuse_threshold": 5.0, "start_percent": 0.1, "end_percent": 0.95, "verbose": False}
        return node.execute(model=patcher, **settings).args[0]

    plain = Sample().of(model)
    with witnessed(model, lambda module: module.blocks[-1]) as (seen, witness):
        Sample().of(easy(seen))
        assert len(witness.computed) < 8  # it does skip here
        witness.forwards.clear()
        if before:
            clone, runs = cached(easy(seen), Settings(POLICIES[policy]))
        else:
            inner, runs = cached(seen, Settings(POLICIES[policy]))
            clone = easy(inner)
        made = Sample().of(clone)
    assert torch.isfinite(made).all()
    assert not witness.stale()
    assert 0 < runs.traces[-1].steps <= 8  # blocks are not called at all where EasyCache skips
    assert torch.equal(Sample().of(model), plain)


@both
def test_a_run_of_four_steps_is_right(model: Any, policy: str) -> None:
    made, runs, witness = ran(model, Sample(steps=4, cfg=1.0), policy)
    assert torch.isfinite(made).all()
    assert not witness.stale()
    assert runs.traces[-1].steps == 4
    assert computed_steps(runs)[0] == 0


@both
@pytest.mark.filterwarnings("ignore::bwcache.errors.NeverReusedWarning")
def test_a_sampler_that_goes_its_own_way_is_computed(model: Any, policy: str) -> None:
    sample = Sample(sampler="dpm_adaptive")
    made, runs, witness = ran(model, sample, policy)
    assert not witness.stale()
    assert "had not made known" in runs.notes[-1]
    assert torch.isfinite(made).all()


@both
def test_a_prompt_of_a_part_of_the_run_under_hooks(model: Any, policy: str) -> None:
    """All at once: two prompts in turn, of which one has hooks."""
    hooks = importlib.import_module("comfy.hooks")
    first = hooks.set_hooks_for_conditioning(text(5), lora(model, 0.7))
    sample = Sample(steps=12, positive=part(first, 0, 0.5) + part(text(6), 0.5, 1))
    _, runs, witness = ran(model, sample, policy, also=weights_at_work)
    reused_rightly(runs, witness)
