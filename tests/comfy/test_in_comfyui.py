"""In a real ComfyUI, in this process: nothing stale is reused, and what the trace says is what was computed."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

import bwcache
from bwcache.comfy.recorder import Recorder
from bwcache.comfy.runs import Runs
from bwcache.comfy.sampling import Settings, cached
from bwcache.errors import SettingError
from bwcache.policies.planned import plan
from tests.comfy.comfyui import Sample, needs_comfyui, text, wan, witnessed
from tests.comfy.test_models_in_comfyui import TINY

pytestmark = [needs_comfyui, pytest.mark.filterwarnings("ignore::UserWarning:comfy")]

GREEDY = bwcache.FixedInterval(interval=3, warmup=1, tail=1)
PLANNED = bwcache.Planned(0.05)
POLICIES: dict[str, bwcache.Policy[Any]] = {"blocks": GREEDY, "clean": PLANNED}

EVALUATIONS = {
    **dict.fromkeys(
        ("euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc", "uni_pc_bh2", "lcm", "res_multistep"), 8
    ),
    **dict.fromkeys(("gradient_estimation", "er_sde", "ddim", "lms", "ipndm", "sa_solver", "deis", "dpm_fast"), 8),
    **dict.fromkeys(("heun", "dpm_2", "dpmpp_sde", "dpmpp_2s_ancestral", "seeds_2", "heunpp2", "sa_solver_pece"), 15),
}


@pytest.fixture(scope="module")
def model() -> Any:
    return wan()


def computed_steps(runs: Runs) -> list[int]:
    (trace,) = list(runs.traces)[-1:]
    return sorted({event.step for event in trace.events if event.action == "compute"})


def ran(model: Any, sample: Sample, policy: Any) -> tuple[torch.Tensor, Runs, Any]:
    with witnessed(model, lambda module: module.blocks[-1]) as (seen, witness):
        clone, runs = cached(seen, Settings(policy))
        return sample.of(clone), runs, witness


@pytest.mark.parametrize("sampler", EVALUATIONS)
@pytest.mark.parametrize("policy", POLICIES)
def test_each_evaluation_of_each_sampler_is_a_step(model: Any, sampler: str, policy: str) -> None:
    made, runs, witness = ran(model, Sample(sampler=sampler), POLICIES[policy])
    trace = runs.traces[-1]
    assert torch.isfinite(made).all()
    assert not runs.notes[-1]
    if sampler not in ("heunpp2", "dpm_fast"):
        assert trace.steps == EVALUATIONS[sampler]
    assert {event.total for event in trace.events} == {trace.steps}
    assert len(witness.computed) == len(computed_steps(runs)) < trace.steps
    assert not witness.stale()
    assert {event.branch for event in trace.events} == {"cond", "uncond"}


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m_sde"])
def test_never_reusing_changes_no_bit(model: Any, sampler: str) -> None:
    plain = Sample(sampler=sampler).of(model)
    for policy in (bwcache.NeverReuse(), bwcache.Planned(0), bwcache.BWCache(0.0)):
        made, _, _ = ran(model, Sample(sampler=sampler), policy)
        assert torch.equal(made, plain)
    assert torch.equal(Sample(sampler=sampler).of(model), plain)


def part(of: list[Any], start: float, end: float) -> list[Any]:
    """What ConditioningSetTimestepRange makes of a conditioning."""
    return [[tensor, {**more, "start_percent": start, "end_percent": end}] for tensor, more in of]


def apart(model: Any) -> Any:
    """A model so large that each branch runs by itself."""
    return always(model, lambda *_, **__: 1e30)


def always(model: Any, needed: Any) -> Any:
    model.model.memory_required = needed
    return model


@pytest.fixture
def own_model() -> Any:
    """One that a test may change."""
    return wan()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("split", [False, True], ids=["batched", "apart"])
def test_a_prompt_that_changes_on_the_way_gets_nothing_of_the_one_before(
    own_model: Any, policy: str, split: bool
) -> None:
    model = apart(own_model) if split else own_model
    sample = Sample(steps=12, positive=part(text(5), 0, 0.5) + part(text(6), 0.5, 1))
    _, runs, witness = ran(model, sample, POLICIES[policy])
    assert not witness.stale()
    names = {event.branch for event in runs.traces[-1].events}
    assert names == {"cond", "cond 2", "uncond"}
    first = next(event for event in runs.traces[-1].events if event.branch == "cond 2")
    assert first.action == "compute"
    assert runs.traces[-1].reuse_rate > 0.2


@pytest.mark.parametrize("policy", POLICIES)
def test_branches_share_what_is_kept_whether_they_come_together_or_apart(own_model: Any, policy: str) -> None:
    _, together, _ = ran(own_model, Sample(), POLICIES[policy])
    count = [0]

    def fluctuates(*_: Any, **__: Any) -> float:
        count[0] += 1
        return 1e30 if count[0] % 3 == 0 else 0.0

    _, runs, witness = ran(always(own_model, fluctuates), Sample(), POLICIES[policy])
    assert not witness.stale()
    assert computed_steps(runs) == computed_steps(together)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("schedule", ["static_standard", "standard_uniform", "looped_uniform"])
def test_windows_of_frames_get_nothing_of_other_frames(model: Any, policy: str, schedule: str) -> None:
    from comfy import context_windows as windows  # type: ignore[import-not-found]

    seen = model.clone()
    schedules = windows.ContextSchedules
    names = {schedules.STATIC_STANDARD, schedules.UNIFORM_STANDARD, schedules.UNIFORM_LOOPED}
    name = next(each for each in names if set(schedule.split("_")) == set(each.split("_")))
    seen.model_options["context_handler"] = windows.IndexListContextHandler(
        context_schedule=windows.get_matching_context_schedule(name),
        fuse_method=windows.get_matching_fuse_method("pyramid"),
        context_length=4,
        context_overlap=1,
        dim=2,
    )
    windows.create_prepare_sampling_wrapper(seen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bwcache.NeverReusedWarning)
        _, runs, witness = ran(seen, Sample(shape=(1, 16, 9, 4, 4)), POLICIES[policy])
    assert not witness.stale()
    if schedule == "static_standard":
        assert runs.traces[-1].reuse_rate > 0.3


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_kept_may_wait_in_main_memory(model: Any, policy: str) -> None:
    clone, runs = cached(model, Settings(POLICIES[policy], memory="offload"))
    made = Sample().of(clone)
    assert runs.traces[-1].host_bytes > 0
    assert torch.equal(made, Sample().of(cached(model, Settings(POLICIES[policy]))[0]))


def test_a_second_sampling_of_another_length_is_a_run_of_its_own(model: Any) -> None:
    clone, runs = cached(model, Settings(PLANNED))
    Sample(steps=8).of(clone)
    Sample(steps=12, shape=(1, 16, 3, 4, 4)).of(clone)
    assert [trace.steps for trace in runs.traces] == [8, 12]
    assert {event.total for event in runs.traces[-1].events} == {12}


@pytest.mark.parametrize("policy", POLICIES)
def test_two_stages_are_two_runs_and_the_first_one_ends_with_noise(model: Any, policy: str) -> None:
    (first, runs), (second, later) = (cached(model, Settings(POLICIES[policy])) for _ in range(2))
    half = Sample(steps=12).of(first, start_step=0, last_step=6, force_full_denoise=False)
    whole = Sample(steps=12).of(second, start_step=6, last_step=12, disable_noise=True)
    assert torch.isfinite(half).all()
    assert torch.isfinite(whole).all()
    assert [len(each.traces) for each in (runs, later)] == [1, 1]
    assert {event.total for trace in (*runs.traces, *later.traces) for event in trace.events} == {6}
    assert runs.traces[0].events[-1].action in ("compute", "reuse")
    assert later.traces[0].events[0].action == "compute"


def test_a_node_that_was_taken_away_leaves_the_model_as_it_was(model: Any) -> None:
    plain = Sample().of(model)
    clone, _ = cached(model, Settings(PLANNED))
    assert not torch.equal(Sample().of(clone), plain)
    assert torch.equal(Sample().of(model), plain)
    module = model.model.diffusion_model
    assert not any("_compiled_call_impl" in vars(each) for each in module.modules())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in module.modules())


def test_a_second_node_takes_the_place_of_the_first(model: Any) -> None:
    first, runs = cached(model, Settings(PLANNED))
    second, later = cached(first, Settings(GREEDY))
    made = Sample().of(second)
    assert not runs.traces
    assert later.traces[-1].meta["policy"]["name"] == "FixedInterval"
    alone, _ = cached(model, Settings(GREEDY))
    assert torch.equal(made, Sample().of(alone))


def test_cancelled_in_the_middle_leaves_nothing_behind(model: Any) -> None:
    plain = Sample().of(model)
    clone, runs = cached(model, Settings(PLANNED))
    undisturbed = Sample().of(clone)

    class Cancelled(Exception):
        pass

    def cancel(step: int, *_: Any) -> None:
        if step == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        Sample().of(clone, callback=cancel)
    assert runs.traces[-1].steps == 4
    assert torch.equal(Sample().of(model), plain)
    assert torch.equal(Sample().of(clone), undisturbed)


def test_samples_of_a_batch_and_masks_and_less_denoising(model: Any) -> None:
    for sample, more in (
        (Sample(shape=(2, 16, 2, 8, 8)), {}),
        (Sample(cfg=1.0), {}),
        (Sample(negative=text(2, tokens=20)), {}),
        (Sample(), {"denoise": 0.5}),
        (Sample(), {"noise_mask": torch.ones(1, 1, 2, 8, 8)}),
    ):
        with witnessed(model, lambda module: module.blocks[-1]) as (seen, witness):
            clone, runs = cached(seen, Settings(PLANNED))
            made = sample.of(clone, **more)
        assert torch.isfinite(made).all()
        assert not witness.stale()
        assert not runs.notes[-1]
        assert 0 < len(computed_steps(runs)) < runs.traces[-1].steps


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("before", [False, True], ids=["after ours", "before ours"])
def test_weights_that_a_lora_changes(model: Any, policy: str, before: bool) -> None:
    def lora(patcher: Any) -> Any:
        clone = patcher.clone()
        name = "diffusion_model.blocks.0.ffn.0.weight"
        weight = patcher.model.state_dict()[name]
        clone.add_patches({name: ("diff", (0.05 * torch.randn(weight.shape, generator=torch.manual_seed(0)),))}, 1.0)
        return clone

    without, _ = cached(model, Settings(POLICIES[policy]))
    plain = Sample().of(without)
    with_lora = cached(lora(model), Settings(POLICIES[policy]))[0] if before else lora(without)
    other = Sample().of(with_lora)
    assert not torch.equal(other, plain)
    assert torch.equal(Sample().of(without), plain)
    assert torch.equal(other, Sample().of(cached(lora(model), Settings(POLICIES[policy]))[0]))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("whole", [True, False], ids=["the model", "its blocks"])
@pytest.mark.parametrize("before", [False, True], ids=["after ours", "before ours"])
def test_a_compiled_model(own_model: Any, policy: str, whole: bool, before: bool) -> None:
    from comfy_api.torch_helpers import set_torch_compile_wrapper  # type: ignore[import-not-found]

    def compiled(patcher: Any) -> Any:
        clone = patcher.clone()
        blocks = [f"diffusion_model.blocks.{i}" for i in range(4)]
        set_torch_compile_wrapper(clone, backend="eager", keys=["diffusion_model"] if whole else blocks)
        return clone

    plain = Sample().of(cached(own_model, Settings(POLICIES[policy]))[0])
    if before:
        clone, runs = cached(compiled(own_model), Settings(POLICIES[policy]))
    else:
        inner, runs = cached(own_model, Settings(POLICIES[policy]))
        clone = compiled(inner)
    made = Sample().of(clone)
    assert 0 < len(computed_steps(runs)) < 8
    torch.testing.assert_close(made, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_block_that_others_replace(model: Any, policy: str) -> None:
    clone = model.clone()
    clone.set_model_patch_replace(lambda args, more: more["original_block"](args), "dit", "double_block", 1)
    plain = Sample().of(cached(model, Settings(POLICIES[policy]))[0])
    assert torch.equal(Sample().of(cached(clone, Settings(POLICIES[policy]))[0]), plain)


@pytest.mark.parametrize("policy", POLICIES)
def test_hints_of_vace(policy: str) -> None:
    model = wan(vace_layers=2, vace_in_dim=96)
    hint: dict[str, Any] = {
        "vace_frames": [torch.randn(1, 32, 2, 8, 8)],
        "vace_mask": [torch.ones(1, 64, 2, 8, 8)],
        "vace_strength": [1.0],
    }
    made, runs, witness = ran(model, Sample(positive=text(1, **hint), negative=text(2, **hint)), POLICIES[policy])
    assert torch.isfinite(made).all()
    assert not witness.stale()
    assert 0 < len(computed_steps(runs)) < 8


SHIFTS = (1.0, 3.0, 5.0, 8.0)


def shifted(model: Any, shift: float, steps: int) -> tuple[Any, list[float]]:
    """A model behind the node that sets its shift, and the sigmas of so many steps there, by the formula."""
    node = importlib.import_module("comfy_extras.nodes_model_advanced").ModelSamplingSD3
    even = [1 - step / steps for step in range(steps + 1)]
    return node().patch(model, shift)[0], [shift * t / (1 + (shift - 1) * t) for t in even]


@pytest.mark.parametrize("shift", SHIFTS)
def test_noise_is_told_right_under_every_shift(model: Any, monkeypatch: pytest.MonkeyPatch, shift: float) -> None:
    seen: dict[int, tuple[float | None, float | None]] = {}

    def noting(method: str) -> None:
        real = getattr(bwcache.Adaptive, method)

        def noted(self: Any, observation: Any, state: Any) -> Any:
            seen[observation.step.index] = (observation.step.noise, observation.step.next_noise)
            return real(self, observation, state)

        monkeypatch.setattr(bwcache.Adaptive, method, noted)

    noting("decide")
    noting("refresh")
    patcher, sigmas = shifted(model, shift, 12)
    _, runs, witness = ran(patcher, Sample(steps=12), bwcache.Adaptive(0.3))
    assert not witness.stale()
    assert 0 < len(computed_steps(runs)) < 12
    near = 1e-3 * shift  # ComfyUI takes the nearest of a thousand
    for step, levels in seen.items():
        assert levels == pytest.approx((sigmas[step], sigmas[step + 1]), abs=near)
    assert len(seen) == 12
    told = {event.step: event.sigma for event in runs.traces[-1].events}
    assert told == pytest.approx(dict(enumerate(sigmas[:-1])), abs=near)


@pytest.mark.parametrize("shift", SHIFTS)
def test_looking_ahead_is_right_under_every_shift(model: Any, shift: float) -> None:
    patcher, sigmas = shifted(model, shift, 30)
    times: list[float] = []
    module = model.model.diffusion_model
    hook = module.register_forward_pre_hook(lambda _, args: times.append(float(args[1].flatten()[0]) / 1000))
    try:
        made, runs, witness = ran(patcher, Sample(steps=30), bwcache.Planned(0.03, ahead=0.5))
    finally:
        hook.remove()
    assert torch.isfinite(made).all()
    assert not witness.stale()
    ahead = {event.step: event.evaluated_at for event in runs.traces[-1].events if event.evaluated_at is not None}
    assert ahead
    assert not [event.reason for event in runs.traces[-1].events if "in place: the" in event.reason]
    for step, share in ahead.items():
        assert sigmas[-1] < share < sigmas[step]
        assert any(abs(time - share) < 1e-4 for time in times)
    assert all(any(abs(time - level) < 1e-3 * shift for level in (*sigmas, *ahead.values())) for time in times)


def test_noise_of_a_model_that_is_no_flow_is_told_as_a_share() -> None:
    tiny = TINY["Stable Diffusion 1.5"]
    model = tiny.model()
    clone, runs = cached(model, Settings(bwcache.Planned(0.05)))
    sample = replace(tiny.sample(), steps=12)
    sample.of(clone)
    samplers = importlib.import_module("comfy.samplers")
    sigmas = samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 12)
    shares = tuple(float(sigma / (1 + sigma)) for sigma in sigmas)
    assert set(computed_steps(runs)) == plan(shares, 0.05)[0]


PLAIN = (
    "euler",
    "dpmpp_2m",
    "uni_pc",
    "uni_pc_bh2",
    "res_multistep",
    "gradient_estimation",
    "ddim",
    "lms",
    "ipndm",
    "deis",
)
NOISY = ("euler_ancestral", "dpmpp_2m_sde", "lcm", "er_sde", "sa_solver")


@pytest.mark.parametrize("sampler", [name for name in EVALUATIONS if name != "dpm_fast"])
def test_of_which_samplers_plans_can_be_made(model: Any, sampler: str) -> None:
    recorder = Recorder()
    sample = Sample(sampler=sampler)
    if sampler in PLAIN:
        last = model.model.process_latent_in(sample.of(recorder.on(model)))
        found = recorder.found()
        assert len(found.shares) == 9
        assert all(after < before for before, after in pairwise(found.shares))
        ended = torch.tensor(found.latents[-1]).sort().values
        torch.testing.assert_close(ended, last.flatten().sort().values, atol=1e-3, rtol=1e-3)
        return
    message = (
        "which adds noise in its steps" if sampler in NOISY else r"which evaluates the model (15|21) times in 8 steps"
    )
    with pytest.raises(SettingError, match=message):
        sample.of(recorder.on(model))
