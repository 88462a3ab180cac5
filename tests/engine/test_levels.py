"""The noise level of a step: what schedulers do to data and noise, and what they take a prediction for."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from bwcache import BlockSpec, Step
from bwcache.engine.clock.level import BY_TIME, EITHER, FLOW, SCALED, level_of
from bwcache.engine.clock.schedule import Schedule
from tests.tiny import noise

STEPS = 6
DATA, NOISE = noise(1, 2, 4, seed=1), noise(1, 2, 4, seed=2)
ROW = BlockSpec("Any", ())

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {"shift": 3.0}) for name in FLOW),
    ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
    *((name, {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}) for name in EITHER),
    *(
        (name, {"prediction_type": kind})
        for name in (*EITHER, *SCALED, *BY_TIME)
        for kind in ("epsilon", "v_prediction")
    ),
    ("DDIMScheduler", {"prediction_type": "sample"}),
    ("DDIMScheduler", {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("UniPCMultistepScheduler", {"use_exponential_sigmas": True}),
]


def scheduler(name: str, config: dict[str, Any]) -> Any:
    made = getattr(diffusers, name)(**config)
    made.set_timesteps(STEPS)
    return made


def steps_of(made: Any) -> list[Step]:
    schedule = Schedule.read(made, 0)
    assert schedule is not None
    sigmas = schedule.sigmas or (None,) * len(schedule.timesteps)
    return [
        Step(0, i, None, time, sigma, "cond")
        for i, (time, sigma) in enumerate(zip(schedule.timesteps, sigmas, strict=True))
    ]


def noised(made: Any, i: int) -> Tensor:
    """What the scheduler itself makes of data and noise, and of that for the denoiser."""
    time = made.timesteps[i : i + 1]
    if type(made).__name__ == "FlowMatchHeunDiscreteScheduler":  # its own finds the first of two same times
        made._step_index = None
    if hasattr(made, "scale_noise"):
        return made.scale_noise(DATA, time, NOISE)
    mixed = made.add_noise(DATA, NOISE, time)
    made._step_index = i
    return made.scale_model_input(mixed, made.timesteps[i])


@pytest.mark.parametrize(("name", "config"), VARIANTS, ids=str)
def test_it_is_what_the_scheduler_itself_makes_of_data_and_noise(name: str, config: dict[str, Any]) -> None:
    made = scheduler(name, config)
    for i, step in enumerate(steps_of(made)):
        if config.get("invert_sigmas"):
            break  # its own `scale_noise` knows nothing of it: see below
        level = level_of(made, ROW, step)
        assert level is not None
        torch.testing.assert_close(level.signal * DATA + level.noise * NOISE, noised(made, i), rtol=1e-4, atol=1e-4)


ESTIMATES = [
    each for each in VARIANTS if each[0] in ("DDIMScheduler", "EulerDiscreteScheduler", "CogVideoXDDIMScheduler")
]
CONVERTS = [each for each in VARIANTS if each[0] in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")]


@pytest.mark.parametrize(("name", "config"), [*ESTIMATES, *CONVERTS], ids=str)
def test_clean_latents_are_what_the_scheduler_itself_takes_for_them(name: str, config: dict[str, Any]) -> None:
    made = scheduler(name, {**config, **({"clip_sample": False} if name == "DDIMScheduler" else {})})
    predicted = noise(1, 2, 4, seed=3)
    for i, step in enumerate(steps_of(made)):
        level, time = level_of(made, ROW, step), made.timesteps[i]
        assert level is not None
        if (name, config) in CONVERTS:
            made._step_index = i
            expected = made.convert_model_output(predicted, sample=DATA)
            torch.testing.assert_close(level.clean(DATA, predicted), expected, rtol=1e-3, atol=1e-4)
            continue
        entered = made.scale_model_input(DATA, time) if name == "EulerDiscreteScheduler" else DATA
        if level.signal == 0 and config["prediction_type"] == "epsilon":
            continue
        expected = made.step(predicted, time, DATA).pred_original_sample
        torch.testing.assert_close(level.clean(entered, predicted), expected, rtol=1e-3, atol=1e-3)


def test_where_sigmas_rise_the_latents_move_from_noise_to_data() -> None:
    made = scheduler("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True})
    latents, velocity = NOISE, DATA - NOISE  # a perfect velocity in the direction of time, as Mochi returns it
    for i, step in enumerate(steps_of(made)):
        level = level_of(made, ROW, step)
        assert level is not None
        torch.testing.assert_close(level.clean(latents, velocity), DATA)
        latents = made.step(velocity, made.timesteps[i], latents, return_dict=False)[0]
    torch.testing.assert_close(latents, DATA)


class Foreign(diffusers.FlowMatchEulerDiscreteScheduler):
    """Somebody's own: whatever it does."""


@pytest.mark.parametrize(
    "made",
    [
        Foreign(),
        diffusers.EDMEulerScheduler(),
        diffusers.KDPM2DiscreteScheduler(),
        diffusers.UniPCMultistepScheduler(use_flow_sigmas=True),  # and predicts epsilon
        diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction"),
        None,
    ],
    ids=lambda made: type(made).__name__,
)
def test_what_is_not_known_for_certain_is_unknown(made: Any) -> None:
    assert level_of(made, ROW, Step(0, 1, 6, 500.0, 0.5, "cond")) is None


def test_a_step_that_the_scheduler_does_not_know() -> None:
    assert level_of(diffusers.FlowMatchEulerDiscreteScheduler(), ROW, Step(0, 1, 6, 500.0, None, "cond")) is None
    assert level_of(diffusers.DDIMScheduler(), ROW, Step(0, 1, 6, 500.5, None, "cond")) is None


def test_a_row_that_does_not_say_what_it_predicts() -> None:
    row = BlockSpec("Any", (), prediction="unknown")
    assert level_of(diffusers.FlowMatchEulerDiscreteScheduler(), row, Step(0, 1, 6, 500.0, 0.5, "cond")) is None
