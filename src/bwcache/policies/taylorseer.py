"""TaylorSeer: From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers.

Liu, Zou, Lyu, Chen, Zhang; arXiv 2503.06923, ICCV 2025. Training-free. Symbols of the paper: F what a layer returns, N
the interval, O the order, k how many steps ago all was last computed.

1. The first steps are computed, and from the last of these on every N-th one.
2. At a computed step each layer keeps F and its differences: D[0] = F, and D[i] is the change of D[i - 1] since the
   computed step before, over the number of steps between the two, up to D[O].
3. In the steps between, each layer is forecast: F + sum of D[i] * k ** i / i!.

Layers are attention and feed-forward of each block, before their gates. `lite` forecasts what the last block returns
instead, and nothing inside: one tensor for each order where there were two for each block and order.

Readings: differences count from the first step on. Differences of raw features are formed when they are asked for, so
that O + 1 features are kept, as many tensors as the differences would be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bwcache.core import Decision, compute, reuse
from bwcache.errors import AttachError, complaint
from bwcache.features import Predictor
from bwcache.features.differences import Differences
from bwcache.features.predictors import MOST_ORDERS
from bwcache.models import BlockStack, Site
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, whole
from bwcache.policies.entry import Entry, Paper
from bwcache.policies.published import PAPER, Published

PUBLISHED: Mapping[str, Published] = {
    "FLUX.1-dev": Published({"interval": 6, "order": 1}, f"{PAPER}, which has order 2 too"),
    "HunyuanVideo": Published({"interval": 5, "order": 1}, PAPER),
    "DiT-XL/2": Published({"interval": 5, "order": 3}, f"{PAPER}, which has order 4 too"),
}
"""By model."""

Computed = dict[tuple[str, ...], int]
"""One run: the last computed step of each site in each lane."""


@dataclass(frozen=True)
class TaylorSeer(Policy[Computed]):
    """Computes every `interval`-th step, and forecasts the steps between by differences of past ones.

    Args:
        interval: N, steps from one computed step to the next, >= 1; 6 for FLUX, 5 for HunyuanVideo. 1 never reuses.
        order: O of the highest difference, 0..9; 1 or 2 for FLUX, 1 for HunyuanVideo. 0 replays.
        warmup: number of steps at the beginning that are always computed, >= 0.
        lite: whether only the output of the last block is forecast, and not each layer.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="2 for each layer (`order` + 1), or in all with `lite`",
        reads="nothing",
        verified="diffusers' hook: its decisions, and its latents up to rounding",
        paper=Paper(
            title="From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers",
            authors="Liu, Zou, Lyu, Chen, Zhang",
            arxiv="2503.06923",
            venue="ICCV 2025",
        ),
    )

    interval: int = 5  # N
    order: int = 1  # O
    warmup: int = 3
    lite: bool = False

    def __post_init__(self) -> None:
        expect(whole(self.interval, 1), "interval", self.interval, "a whole number of steps >= 1", "5")
        expect(whole(self.order, 0) and self.order <= MOST_ORDERS, "order", self.order, f"0 to {MOST_ORDERS}", "1")
        expect(whole(self.warmup, 0), "warmup", self.warmup, "a whole number of steps >= 0", "3")
        expect(isinstance(self.lite, bool), "lite", self.lite, "True or False", "True")

    @property
    def feature_predictor(self) -> Predictor:
        """The sum of rule 3."""
        return Differences(self.order)

    @property
    def may_reuse(self) -> bool:
        """Not with an interval of 1."""
        return self.interval > 1

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """Each attention and feed-forward; all blocks as one if `lite`.

        Raises:
            AttachError: the model's row names no parts of its blocks.
        """
        return (stack.whole(),) if self.lite else layers(stack, type(self).__name__)

    def init(self) -> Computed:
        """Nothing was computed yet."""
        return {}

    def decide(self, observation: Observation, state: Computed) -> Decision:
        """The index against the warm-up, and against the interval since the last computed step."""
        index = observation.step.index
        if index < self.warmup:
            return compute(f"warm-up (the first {self.warmup} steps)")
        age = index - state[_key(observation)]
        if age >= self.interval:
            return compute(f"interval over (after {age - 1} reused steps)")
        return reuse(f"forecast (step {age} after a computed one)")

    def refresh(self, observation: Observation, state: Computed) -> None:
        """Takes note of a computed step."""
        state[_key(observation)] = observation.step.index


def layers(stack: BlockStack, method: str) -> tuple[Site, ...]:
    """Return a site for each part of each block.

    Raises:
        AttachError: the model's row names none.
    """
    found = tuple(stack.site(part) for part in stack.parts())
    if not found:
        why = next((part.parts_missing for part in stack.spec.lists if part.parts_missing), "")
        said = f"no parts of blocks of {stack.spec.model}" + (f" ({why})" if why else "")
        raise AttachError(complaint(said, "attention and feed-forward in its row", f"say {method}(lite=True)"))
    return found


def _key(observation: Observation) -> tuple[str, ...]:
    return (observation.denoiser, observation.step.lane, observation.site)
