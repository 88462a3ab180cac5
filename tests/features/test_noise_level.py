"""Noise levels, against plain numpy that begins with the data and the noise: what is predicted, what is clean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from bwcache.features.noise_level import PREDICTS, NoiseLevel, Predicts

RANDOM = np.random.default_rng(0)
DATA, NOISE = RANDOM.normal(size=(2, 3, 4)), RANDOM.normal(size=(2, 3, 4))
each_kind = pytest.mark.parametrize("kind", PREDICTS)


def mixed(kind: Predicts, share: float) -> tuple[float, float]:
    """How much data and noise: they add up to 1 in a flow, their squares elsewhere."""
    if kind == "flow":
        return 1 - share, share
    over = share / (1 - share)
    return 1 / math.sqrt(1 + over**2), over / math.sqrt(1 + over**2)


def written(kind: Predicts, signal: float, noise: float) -> Any:
    """What a perfect denoiser returns, in the words of the papers."""
    return {
        "flow": NOISE - DATA,
        "epsilon": NOISE,
        "v": signal * NOISE - noise * DATA,
        "sample": DATA,
    }[kind]


@each_kind
@pytest.mark.parametrize("share", [0.9, 0.5, 0.02])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_perfect_prediction_is_the_data_and_the_data_the_prediction(
    kind: Predicts, share: float, sign: float
) -> None:
    signal, noise = mixed(kind, share)
    level = NoiseLevel.of_share(kind, share, sign)
    assert (level.signal, level.noise) == pytest.approx((signal, noise))
    assert level.share == pytest.approx(share)
    latents = torch.tensor(signal * DATA + noise * NOISE)
    predicted = torch.tensor(sign * written(kind, signal, noise))
    np.testing.assert_allclose(level.clean(latents, predicted).numpy(), DATA, atol=1e-12)
    np.testing.assert_allclose(level.predicted(latents, torch.tensor(DATA)).numpy(), predicted, atol=1e-11)


@each_kind
def test_an_estimate_kept_at_one_level_is_what_is_predicted_at_another(kind: Predicts) -> None:
    far, near = NoiseLevel.of_share(kind, 0.8), NoiseLevel.of_share(kind, 0.3)
    latents = [torch.tensor(level.signal * DATA + level.noise * NOISE) for level in (far, near)]
    kept = far.clean(latents[0], torch.tensor(written(kind, far.signal, far.noise)))
    np.testing.assert_allclose(
        near.predicted(latents[1], kept).numpy(), written(kind, near.signal, near.noise), atol=1e-9
    )


@each_kind
def test_latents_are_carried_on_the_way_that_they_came(kind: Predicts) -> None:
    shares = (0.8, 0.6, 0.25)
    was, here, to = (NoiseLevel.of_share(kind, share) for share in shares)
    before, latents, expected = (torch.tensor(level.signal * DATA + level.noise * NOISE) for level in (was, here, to))
    carried = here.carried(latents, before, was, to)
    assert carried is not None
    np.testing.assert_allclose(carried.numpy(), expected, atol=1e-9)
    assert here.carried(latents, before, here, to) is None  # it stood still: on the way to nowhere
    same = here.carried(latents, before, was, here)
    assert same is not None
    np.testing.assert_allclose(same.numpy(), latents, atol=1e-12)


def test_latents_that_are_held_fixed_stay_as_they_are_in_a_flow() -> None:
    was, here, to = (NoiseLevel.of_share("flow", share) for share in (0.8, 0.6, 0.25))
    fixed = torch.tensor(DATA)
    carried = here.carried(fixed, fixed, was, to)
    assert carried is not None
    np.testing.assert_allclose(carried.numpy(), DATA, atol=1e-12)


@each_kind
def test_half_precision_is_left_for_the_estimate(kind: Predicts) -> None:
    level = NoiseLevel.of_share(kind, 0.1)
    half = torch.ones(2, 2, dtype=torch.bfloat16)
    assert level.clean(half, half).dtype == level.predicted(half, half).dtype == torch.float32


def test_where_a_prediction_says_nothing_of_the_data() -> None:
    assert not NoiseLevel("flow", 1.0, 0.0).says_data  # nothing but data: a velocity cannot be made of it
    assert not NoiseLevel("epsilon", 0.0, 1.0).says_data  # nothing but noise
    assert NoiseLevel("v", 0.0, 1.0).says_data  # of which a v-prediction is the data, negative
    np.testing.assert_allclose(NoiseLevel("v", 0.0, 1.0).clean(torch.tensor(NOISE), torch.tensor(-DATA)).numpy(), DATA)
