"""Samplers that draw from the global generators make the same video from the same seed, with a cache and without."""

import random

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    SASolverScheduler,
)

import bwcache
from bwcache.measure.call import Request, call
from bwcache.measure.compare import compare
from bwcache.measure.seeding import global_seed, seeded
from bwcache.study import Folder, Study, UnderPolicy, Video, run_study
from bwcache.study.study import identity
from tests import tiny

REQUEST = Request("", 4, 0, 1.0, 32, 32, 5)
CPU = torch.device("cpu")


class PythonsDice(FlowMatchEulerDiscreteScheduler):
    """Draws from Python's and numpy's generators."""

    def step(self, output, timestep, sample, *rest, **settings):
        shift = random.random() + np.random.random()
        return super().step(output + shift, timestep, sample, *rest, **settings)


def flow_sampler(kind, **settings):
    return kind(prediction_type="flow_prediction", use_flow_sigmas=True, **settings)


SAMPLERS = {
    "stochastic flow": lambda: FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
    "LCM": FlowMatchLCMScheduler,
    "SA solver": lambda: flow_sampler(SASolverScheduler),
    "python": PythonsDice,
}


def made_with(scheduler):
    """A tiny Wan that takes a prompt without a text encoder."""
    pipe = tiny.wan(scheduler)
    encoded = tiny.noise(1, 6, 8, seed=1)
    pipe.encode_prompt = lambda *args, **kwargs: (encoded, encoded)
    return pipe


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of the SA solver's
@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_a_sampler_that_draws_by_itself_is_not_blamed_on_the_cache(make):
    comparison = compare(
        made_with(make()),
        bwcache.BWCache(threshold=0),
        ["a"],
        steps=4,
        guidance_scale=1.0,
        height=32,
        width=32,
        frames=5,
    )
    assert comparison.runs[0].reused == 0
    assert comparison.runs[0].identical


def test_a_sweep_measures_the_cache_and_not_the_dice(tmp_path):
    pipe = made_with(FlowMatchEulerDiscreteScheduler(stochastic_sampling=True))
    field = Study((UnderPolicy(bwcache.BWCache(threshold=0)),), (Video("a", 0), Video("a", 1)), REQUEST)
    cells = run_study(pipe, field, Folder(tmp_path / "study", identity(pipe, REQUEST)))
    assert [cell.identical for cell in cells] == [True, True]


def test_two_seeds_are_two_videos():
    pipe = made_with(FlowMatchEulerDiscreteScheduler(stochastic_sampling=True))
    first, again, other = (call(pipe, Request("", 4, seed, 1.0, 32, 32, 5)).frames for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def drawn():
    return torch.rand(3).tolist(), np.random.random(3).tolist(), [random.random() for _ in range(3)]


def test_what_is_drawn_outside_is_left_as_it_was():
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = drawn()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    with seeded(0, CPU):
        inside = drawn()
    assert drawn() == expected
    with seeded(0, CPU):
        assert drawn() == inside
    with seeded(1, CPU):
        assert drawn() != inside


def test_what_is_drawn_outside_is_left_as_it_was_after_an_error():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError), seeded(0, CPU):
        raise RuntimeError(torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("seed", [0, 7, 2**63, -3])
def test_a_sampler_does_not_add_the_noise_that_the_latents_are_made_of(seed):
    latents = torch.randn(1000, generator=torch.Generator().manual_seed(seed))
    with seeded(seed, CPU):
        added = torch.randn(1000)
    assert abs(torch.corrcoef(torch.stack([latents, added]))[0, 1]) < 0.15
    assert 0 <= global_seed(seed) < 2**32
