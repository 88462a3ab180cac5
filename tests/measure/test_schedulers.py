"""Another scheduler in the place of the pipeline's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from bwcache import SettingError
from bwcache.measure.schedulers import check_schedule, named_scheduler, replaced

FLOW = FlowMatchEulerDiscreteScheduler(shift=3.0)


def sigmas(scheduler: Any, steps: int = 8) -> torch.Tensor:
    scheduler.set_timesteps(steps)
    return torch.as_tensor(scheduler.sigmas)[:steps]


def made(own: Any, text: str) -> Any:
    return replaced(own, *named_scheduler(text))


@pytest.mark.parametrize("name", ["UniPCMultistep", "unipc-multistep", "unipc_multistep_scheduler"])
def test_flow_stays_flow_with_its_shift(name: str) -> None:
    other = made(FLOW, f"{name}:solver_order=3")
    assert type(other) is UniPCMultistepScheduler
    assert other.config.solver_order == 3
    assert other.config.prediction_type == "flow_prediction"
    assert sigmas(other)[4] == pytest.approx(0.75, abs=0.01)  # half of the way, shifted by 3
    assert torch.equal(sigmas(made(other, "flow-match-euler-discrete")), sigmas(FLOW))


def test_what_is_said_wins() -> None:
    assert made(FLOW, "UniPCMultistep:flow_shift=5").config.flow_shift == 5
    assert made(FLOW, "FlowMatchEulerDiscrete:shift=1,use_karras_sigmas=true").config.use_karras_sigmas is True


def test_a_schedule_of_noise_stays_one() -> None:
    own = CogVideoXDDIMScheduler(prediction_type="v_prediction", snr_shift_scale=1.0)
    other = made(own, "ddim")
    assert type(other) is DDIMScheduler
    assert other.config.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("own", "text", "said"),
    [
        (FLOW, "DDIM", "does no flow matching"),
        (DDIMScheduler(), "FlowMatchEulerDiscrete", "does flow matching, and DDIMScheduler does not"),
        (FLOW, "UniPC", "did you mean UniPCMultistep"),
        (FLOW, "Eulr", "did you mean"),
        (FLOW, "nothing-like-it-at-all", "name one, such as"),
        (FLOW, "DDIM:0.5", "expected NAME or NAME:KEY=VALUE"),
        (FLOW, "DDIM:eta", "expected NAME or NAME:KEY=VALUE"),
        (FLOW, "", "scheduler ''"),
        (FLOW, "UniPCMultistep:solver_ordr=2", "did you mean solver_order"),
        (FLOW, "UniPCMultistep:solver_order=two", "solver_order of UniPCMultistep 'two'"),
        (
            FLOW,
            "UniPCMultistep:use_karras_sigmas=true,use_beta_sigmas=true",
            "settings that UniPCMultistepScheduler refuses",
        ),
    ],
)
def test_what_cannot_be(own: Any, text: str, said: str) -> None:
    with pytest.raises(SettingError) as error:
        made(own, text)
    assert said in str(error.value)
    assert str(error.value).count(";") >= 2


def test_every_scheduler_of_diffusers_is_read_or_refused() -> None:
    for name in dir(diffusers.schedulers):
        if name.endswith("Scheduler"):
            try:
                kind, given = named_scheduler(name)
            except SettingError:
                continue
            assert kind.__name__ == name
            assert given == {}


class WithSigmas:
    """A pipeline that gives its scheduler sigmas."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def __call__(self, steps: int) -> None:
        sigmas = torch.linspace(1, 0, steps)
        self.scheduler.set_timesteps(sigmas=sigmas)


def test_a_schedule_is_tried_before_anything_is_loaded() -> None:
    check_schedule(SimpleNamespace(scheduler=FLOW), 2000)
    check_schedule(SimpleNamespace(scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)), 20)
    check_schedule(WithSigmas(FLOW), 20)
    assert getattr(FLOW, "num_inference_steps", None) != 2000
    with pytest.raises(SettingError, match="2000 steps that DDIMScheduler refuses"):
        check_schedule(SimpleNamespace(scheduler=DDIMScheduler()), 2000)
    with pytest.raises(SettingError, match="DDIMScheduler, which takes no sigmas"):
        check_schedule(WithSigmas(DDIMScheduler()), 20)
    with pytest.raises(SettingError, match="takes no sigmas"):
        check_schedule(SimpleNamespace(scheduler=DDIMScheduler()), 20, {"sigmas": [1.0]})
    check_schedule(SimpleNamespace(scheduler=EulerDiscreteScheduler()), 20, {"sigmas": [1.0]})
