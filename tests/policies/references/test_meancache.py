"""MeanCache (2601.19961) written twice: the guided velocity moved on by a slope between instant and mean velocity.

The reference works on the guided velocity as the paper does; the policy may work on each branch, which for guidance
that is linear comes to the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bwcache import MeanCache
from tests.policies.proof import ANOTHER, ROUNDED, TOY, proves
from tests.policies.references import toy
from tests.policies.references.toy import Array


def played_by_hand(steps: int, computed: Sequence[int], lags: Sequence[int]) -> list[Array]:
    """What `toy.sampled` returns: velocities and the last latents. `lags`: one for each computed step."""
    latents = [toy.noise()]
    velocities: list[Array] = []
    for step in range(steps):
        sigma, after = toy.sigma(step, steps), toy.sigma(step + 1, steps)
        if step in computed:
            lag = lags[list(computed).index(step)]
            cond, uncond = (toy.denoised(latents[step], step, steps, branch) for branch in toy.BRANCHES)
            velocities.append(uncond + toy.GUIDANCE * (cond - uncond))
        else:
            start = step - min(lag, step)
            gap = sigma - toy.sigma(start, steps)
            mean = (latents[step] - latents[start]) / gap
            slope = (velocities[start] - mean) / gap
            velocities.append(velocities[-1] - slope * (after - sigma))
        latents.append(latents[step] + (after - sigma) * velocities[step])
    return [*velocities, latents[-1]]


SETTINGS = {
    "released": (50, (0, 1, 3, 7, 14, 21, 28, 35, 42, 49), (1, 2, 1, 1, 1, 1, 1, 1, 4, 1)),
    "long lags": (16, (0, 1, 2, 3, 4, 6, 9, 13), (1, 1, 1, 1, 3, 2, 5, 6)),
}


@proves(MeanCache, ANOTHER, ROUNDED, on=TOY)
@pytest.mark.parametrize("case", SETTINGS.values(), ids=SETTINGS)
def test_policy_and_reference_decide_and_make_the_same(case: tuple[int, tuple[int, ...], tuple[int, ...]]) -> None:
    steps, computed, lags = case
    trace, played = toy.by_policy(MeanCache(computed, lags, steps), steps)
    for branch in toy.BRANCHES:
        assert toy.decisions(trace, branch) == "".join("C" if step in computed else "r" for step in range(steps))
    assert toy.close(played, played_by_hand(*case), 1e-6)
