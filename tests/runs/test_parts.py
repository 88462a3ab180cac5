"""Loops that go over a part of their schedule: what the pipeline says of them, as it shows a bar, is believed."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, HeunDiscreteScheduler, PNDMScheduler

import bwcache
from bwcache.engine.clock import Call, Clock, Loop
from tests.engine.test_clock import BARE
from tests.runs.cases import BY_NAME, MODULAR_LARGE
from tests.runs.laws import told

LONG = BY_NAME["LTXI2VLongMultiPromptPipeline nine of ten"]
LARGE = BY_NAME["stable_diffusion_xl"]
MOVING = BY_NAME["animatediff_xl"]
FROM_IMAGE = BY_NAME["StableDiffusionXLImg2ImgPipeline"]


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_windows_that_leave_out_the_last_step() -> None:
    """LTX's long film without sigmas: nine steps of ten, though the tenth has noise, in each window."""
    seen = told(LONG)
    assert seen.lengths == [9, 9, 9]
    assert len({forward.shape for forward in seen.forwards}) == 2  # the last window is shorter
    assert seen.lines == ["CCrrCrrCC"] * 3


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_windows_that_leave_out_the_first_steps_too() -> None:
    """The bar goes over all times of the window; those above a sigma are passed over without a forward."""
    seen = told(LONG, skip_steps_sigma_threshold=0.75)
    assert len(set(seen.lengths)) == 1
    assert 3 < seen.lengths[0] < 9


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@pytest.mark.parametrize("end", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("case", [LARGE, MOVING, MODULAR_LARGE], ids=lambda case: case.name)
def test_an_ensemble_that_hands_over_with_noise_left(case: Any, end: float) -> None:
    assert told(case, denoising_end=end).lengths == [round(10 * end)]


@pytest.mark.parametrize("end", [0.5, 0.8])
@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, HeunDiscreteScheduler, PNDMScheduler])
def test_the_same_where_a_step_has_two_evaluations_or_one_comes_twice(scheduler: Any, end: float) -> None:
    pipe = LARGE.build()
    pipe.scheduler = scheduler(beta_schedule="scaled_linear")
    seen = told(LARGE, pipe, denoising_end=end)
    assert seen.lengths[0] < len(pipe.scheduler.timesteps)


def test_the_middle_of_a_schedule() -> None:
    """The second expert of three: from a third of the way to two thirds."""
    pipe = FROM_IMAGE.build()
    pipe.scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear")
    seen = told(FROM_IMAGE, pipe, denoising_start=0.2, denoising_end=0.7)
    assert seen.lengths == [5]


def test_a_call_that_stops_early_says_nothing_of_the_next() -> None:
    pipe = LARGE.build()
    with bwcache.attach(pipe, bwcache.NeverReuse()) as session:
        for end in (0.5, None, 0.8):
            LARGE.run(pipe, denoising_end=end)
    assert [{event.total for event in trace.events} for trace in session.traces] == [{5}, {10}, {8}]


def test_the_bar_is_the_pipelines_own_again_and_so_is_that_of_a_copy() -> None:
    pipe = LARGE.build()
    pipe.set_progress_bar_config(disable=True)
    before = set(vars(pipe))
    with bwcache.attach(pipe, bwcache.NeverReuse()):
        assert "progress_bar" in vars(pipe)
        other = copy.deepcopy(pipe)
        assert other.progress_bar.__self__ is other
        assert list(pipe.progress_bar([1, 2])) == [1, 2]
        assert pipe.progress_bar(total=3).total == 3
    assert set(vars(pipe)) == before


# --- what is not believed ---------------------------------------------------------------------------------------------

TIMES = (900.0, 700.0, 500.0, 300.0, 100.0)


def totals(pipeline: Any, *times: float) -> list[int | None]:
    """Totals of forwards at these times, after the pipeline has shown its bar."""
    clock = Clock(lambda: pipeline.scheduler)
    clock.loop = pipeline.bar()
    return [clock.tick(Call(BARE, (time,), {})).total for time in times]


def shows(iterable: Any = None, total: Any = None, asked: int = 5, named: Any = None, begin: int = 0) -> Any:
    """A pipeline with five timesteps that shows one bar."""
    scheduler = SimpleNamespace(timesteps=torch.tensor(TIMES), num_inference_steps=asked, begin_index=begin)
    made = SimpleNamespace(scheduler=scheduler, num_timesteps=named)
    made.bar = lambda: Loop.shown(made, iterable, total)
    return made


@pytest.mark.parametrize(
    ("said", "steps"),
    [
        ({"total": 3}, 3),
        ({"iterable": torch.tensor(TIMES[:4])}, 4),
        ({"iterable": torch.tensor(TIMES)}, 5),
        ({"iterable": torch.tensor(TIMES[1:4])}, 5),  # begins elsewhere
        ({"iterable": torch.tensor([900.0, 500.0])}, 5),  # leaves out one between
        ({"iterable": torch.tensor([])}, 5),
        ({"iterable": range(3)}, 5),  # of windows, frames or prompts
        ({"total": 5}, 5),
        ({"total": 15}, 5),  # of three loops
        ({"total": 0}, 5),
        ({"total": None}, 5),
        ({"total": 3, "asked": 3}, 5),  # of steps, some of which have more timesteps than one
        ({"total": 3, "asked": 3, "named": 4}, 4),
        ({"total": 3, "asked": 3, "named": torch.tensor(4)}, 5),
    ],
)
def test_a_bar_tells_the_length_only_where_it_is_certain(said: dict[str, Any], steps: int) -> None:
    assert totals(shows(**said), *TIMES[:1]) == [steps]


def test_a_bar_over_what_is_left_of_a_schedule() -> None:
    pipeline = shows(iterable=torch.tensor(TIMES[:4]))
    assert totals(pipeline, *TIMES[2:4]) == [2, 2]


def test_a_bar_of_a_schedule_before_tells_nothing() -> None:
    pipeline = shows(total=3)
    clock = Clock(lambda: pipeline.scheduler)
    clock.loop = pipeline.bar()
    pipeline.scheduler.timesteps = torch.tensor(TIMES)
    assert clock.tick(Call(BARE, (900.0,), {})).total == 5


def test_a_loop_that_goes_on_after_what_was_said_to_be_all() -> None:
    assert totals(shows(total=3), *TIMES) == [3, 3, 3, 5, 5]
