"""The multistep solvers solve the pipeline's own equation, or say that they cannot."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

import bwcache
from bwcache.study import FewerSteps, results
from bwcache.study.solvers import SOLVERS, best_multistep, compute_range, fewer_steps, multistep, replacements
from tests.study.cells import at
from tests.tiny import BY_NAME

MANY = 40


def distance(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("name", ["wan", "cogvideox"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_at_many_steps_all_make_nearly_the_same_video(name, solver):
    case = BY_NAME[name]
    pipe = case.build()
    truth = case.run(pipe, num_inference_steps=8 * MANY)
    own = distance(case.run(pipe, num_inference_steps=MANY), truth)
    coarse = distance(case.run(pipe, num_inference_steps=4), truth)
    with FewerSteps(MANY, solver, replacements(pipe.scheduler)[solver]).at_work(pipe):
        found = distance(case.run(pipe, num_inference_steps=MANY), truth)
    assert found < max(0.02, 1.1 * own)
    assert found < 0.3 * coarse


def test_a_shift_and_a_noise_schedule_are_taken_over():
    flow = multistep("UniPC", FlowMatchEulerDiscreteScheduler(shift=5.0))
    assert (flow.config.flow_shift, flow.config.prediction_type) == (5.0, "flow_prediction")
    for own in (
        DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction", timestep_spacing="trailing"),
        CogVideoXDDIMScheduler(rescale_betas_zero_snr=True),
    ):
        for solver in SOLVERS:
            made = multistep(solver, own)
            assert torch.allclose(made.alphas_cumprod.double(), own.alphas_cumprod.double(), rtol=1e-3, atol=1e-6)
            assert made.config.prediction_type == own.config.prediction_type
            assert made.config.timestep_spacing == own.config.timestep_spacing


@pytest.mark.parametrize(
    ("solver", "own", "said"),
    [
        ("UniPC", FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "invert_sigmas"),
        ("UniPC", FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "stochastic_sampling"),
        ("DPM++ 2M", FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "depends on the size"),
        ("UniPC", EDMEulerScheduler(), "EDMEulerScheduler, for which there is no UniPC"),
    ],
)
def test_what_cannot_be_solved_is_said(solver, own, said):
    with pytest.raises(bwcache.SettingError, match=said):
        multistep(solver, own)


def test_the_pipelines_own_solver_is_not_tried_twice():
    flow = FlowMatchEulerDiscreteScheduler()
    assert set(replacements(flow)) == set(SOLVERS)
    assert set(replacements(UniPCMultistepScheduler())) == {"DPM++ 2M"}
    labels = [one.label for one in fewer_steps([9, 5, 9], flow)]
    assert labels[:2] == ["fewer steps (5)", "fewer steps (9)"]
    assert len(labels) == len(set(labels)) == 6


def test_a_pipeline_that_gives_its_own_sigmas_takes_the_solver_that_can():
    case = BY_NAME["ltx"]
    pipe = case.build()
    makers = replacements(pipe.scheduler)
    with FewerSteps(4, "UniPC", makers["UniPC"]).at_work(pipe):
        assert torch.isfinite(case.run(pipe, num_inference_steps=4)).all()
    with (
        pytest.raises(bwcache.SettingError, match=r"LTXPipeline that does not work with DPM\+\+ 2M"),
        FewerSteps(4, "DPM++ 2M", makers["DPM++ 2M"]).at_work(pipe),
    ):
        case.run(pipe, num_inference_steps=4)


def test_shares_become_numbers_of_steps():
    assert compute_range((0.25, 0.5, 0.9), 30) == (8, 15, 27)
    assert compute_range((0.25, 0.26, 0.99), 4) == (1,)
    assert compute_range((0.5,), 1) == ()


def test_the_best_solver_has_the_best_mean_at_the_steps_that_both_ran():
    def ran(solver, steps, psnr):
        return at(f"fewer steps, {solver} ({steps})", 30 / steps, psnr, settings={"steps": steps, "solver": solver})

    own = at("fewer steps (10)", 3.0, 60, settings={"steps": 10, "solver": None})
    cells = [own, ran("UniPC", 10, 30), ran("UniPC", 20, 36), ran("DPM++ 2M", 10, 31), ran("DPM++ 2M", 20, 34)]
    assert best_multistep(results(cells)) == "UniPC"
    assert best_multistep(results([*cells, ran("DPM++ 2M", 25, 90)])) == "UniPC"
    assert best_multistep(results(cells[:-1])) == "DPM++ 2M"
    assert best_multistep(results([own])) is None
    assert best_multistep([SimpleNamespace(family="BWCache")]) is None  # type: ignore[list-item]
