"""HiCache: Training-free Acceleration of Diffusion Models via Hermite Polynomial-based Feature Caching.

Feng, Zheng, Liu, Lin, Zhou, Cai, Wang, Chen, Zou, Ma, Zhang; arXiv 2508.16984, ICLR 2026. Training-free. Symbols of the
paper: D[i] the differences, N the interval, sigma the contraction, H[i] the Hermite polynomials of physics, k how many
steps ago all was last computed.

1. When to compute, and what the differences of a feature are, is as in TaylorSeer (`taylorseer`).
2. In place of k ** i stands sigma ** i * H[i](sigma * k): F + sum of D[i] * sigma ** i * H[i](sigma * k) / i!. For
   sigma < 1 high orders grow more slowly: with sigma .5 the first one goes half of the way.

Reading: k counts forwards, from the last computed step to the one that is forecast. The first code that was published
had its sign reversed, and so forecast the past.
"""

from __future__ import annotations

from dataclasses import dataclass

from bwcache.features import Predictor
from bwcache.features.differences import Differences
from bwcache.policies.checks import expect, number
from bwcache.policies.entry import Entry, Paper
from bwcache.policies.taylorseer import TaylorSeer


@dataclass(frozen=True)
class HiCache(TaylorSeer):
    """Computes every `interval`-th step, and forecasts the steps between in Hermite polynomials.

    Args:
        interval, order, warmup, lite: as of `TaylorSeer`; the paper's orders are 1 to 3.
        sigma: how much the polynomials are contracted, dimensionless, in (0, 1].

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="2 for each layer (`order` + 1), or in all with `lite`",
        reads="nothing",
        verified="the package hicache-pp, layer by layer",
        paper=Paper(
            title="HiCache: Training-free Acceleration of Diffusion Models via Hermite Polynomial-based "
            "Feature Caching",
            authors="Feng, Zheng, Liu, Lin, Zhou, Cai, Wang, Chen, Zou, Ma, Zhang",
            arxiv="2508.16984",
            venue="ICLR 2026",
        ),
    )

    sigma: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(number(self.sigma) and 0 < self.sigma <= 1, "sigma", self.sigma, "a number in (0, 1]", "0.5")

    @property
    def feature_predictor(self) -> Predictor:
        """The sum of rule 2."""
        return Differences(self.order, self.sigma)
