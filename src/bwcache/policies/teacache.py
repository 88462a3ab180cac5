"""TeaCache: Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model.

Liu, Zhang, Wang, Wei, Qiu, Zhao, Zhang, Ye, Wan; arXiv 2411.19108, CVPR 2025. Training-free, calibrated. Symbols of the
paper: F[t] the timestep-embedding modulated noisy input, f the polynomial that rescales, delta the threshold.

1. What comes out changes from step to step as F does: L1rel(F, t) = |F[t] - F[t+1]|_1 / |F[t+1]|_1 (Eq. 4). F is seen
   in every step, reused or not.
2. A polynomial f, fitted beforehand to pairs of both changes, makes of it the change of the output (Eq. 6).
3. f(L1rel) is added up. While the sum stays below delta all blocks are replayed: what they added to their input when
   they were last computed is added to this step's input. Else they are computed, and the sum starts from 0 (Eq. 7).
4. The first and the last steps are always computed, as many as `warmup` and `tail` say; there the sum is 0.

Readings: which F a model has, its row says. `input="modulated"` is the first block's input as the time has scaled and
shifted it, or where no module returns that (Wan, LTX-Video), what scales and shifts it; `input="time"` the embedding of
the time. Each guidance branch of its own forward has a sum of its own. The sum may fall where f is negative, as in the
released code.

One wait for the device in each forward. Where F is made inside of the first block (FLUX, HunyuanVideo, CogVideoX), that
block runs in every step; what is replayed is the same to the bit.

Deviations: the released code normalises once more to get F of the first block without running it. A SkyReels-V2 that is
told the frames per second adds them to what modulates its blocks: F is of the time's part alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bwcache.core import Decision, Trace
from bwcache.errors import SettingError, complaint
from bwcache.features import All
from bwcache.models import BlockStack, Site, Tap
from bwcache.policies.base import Observation, Policy
from bwcache.policies.budget import Sums, begin_anew, decided, polynomial
from bwcache.policies.checks import expect, number, one_of, whole
from bwcache.policies.entry import Entry, Paper, Table
from bwcache.policies.measuring import Measuring, settings_of
from bwcache.policies.published import CODE, Published
from bwcache.policies.sites import added_by_all

Input = Literal["modulated", "time"]

ORDER = 4
"""Of the polynomial that is fitted, as in the paper."""


Coefficients = tuple[float, ...]
"""Of f, the highest power first."""


def _of(name: str, coefficients: Coefficients, *speeds: tuple[str, float], **more: object) -> dict[str, Published]:
    """One checkpoint: f, and delta for each speed, the slowest first, under the name alone."""
    settings = {"coefficients": coefficients, **more}
    if not speeds:
        return {name: Published(settings, f"{CODE}; delta is not known")}
    return {f"{name}{speed}": Published({**settings, "threshold": delta}) for speed, delta in speeds}


def _wan(task: str, modulated: Coefficients, time: Coefficients) -> dict[str, Published]:
    """The two ways of the script for Wan 2.1: by what modulates the blocks, and by the embedding of the time."""
    name = f"Wan2.1-{task}"
    return _of(name, modulated, warmup=5, tail=0) | _of(f"{name} by time", time, input="time")


SLOW_AND_FAST = (("", 0.1), (" fast", 0.2))

PUBLISHED: Mapping[str, Published] = {
    **_of("Open-Sora-1.2", (217.546007, -118.329252, 26.8662585, -0.0459364272, 0.048442624), *SLOW_AND_FAST),
    **_of("Latte", (-2464.34137, 308.044764, 80.7447667, -4.11385132, 0.111001402), *SLOW_AND_FAST),
    **_of("Open-Sora-Plan-1.1", (205943.668, -14875.9286, 306.085986, 1.3141808, 0.00239658469), *SLOW_AND_FAST),
    **_of(
        "HunyuanVideo",
        (733.226126, -401.131952, 67.5869174, -3.149878, 0.0961237896),
        *(("", 0.1), (" fast", 0.15)),
    ),
    **_of(
        "FLUX.1-dev",
        (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861),
        *(("", 0.25), (" 1.8x", 0.4), (" 2x", 0.6), (" 2.25x", 0.8)),
    ),
    **_of("CogVideoX-2b", (-31.0658903, 25.4732368, -5.92380459, 1.75769064, -0.00361568434), input="time"),
    **_of("CogVideoX-5b", (-1538.80483, 842.202495, -134.363087, 7.97131516, -0.0523162339), input="time"),
    **_wan(
        "T2V-1.3B",
        (-52186.2437, 9230.41404, -528.275948, 13.6987616, -0.0499875664),
        (2396.76752, -1311.10545, 201.331979, -8.29855975, 0.137887774),
    ),
    **_wan(
        "T2V-14B",
        (-303318.725, 49053.7029, -2655.30556, 58.7365115, -0.315583525),
        (-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404),
    ),
    **_wan(
        "I2V-14B-480P",
        (257151.496, -35422.9917, 1402.86849, -13.5890334, 0.132517977),
        (-302.33167, 223.948934, -52.546397, 5.8734844, -0.201973289),
    ),
    **_wan(
        "I2V-14B-720P",
        (8107.0546, 2133.93892, -372.934672, 16.6203073, -0.0417769401),
        (-114.36346466, 65.26524496, -18.82220707, 4.91518089, -0.23412683),
    ),
}
"""By checkpoint; from the authors' scripts, one for each model."""


@dataclass(frozen=True)
class TeaCache(Policy[Sums]):
    """Replays all blocks while the changes of what the time makes of their input, rescaled, add up to little.

    Args:
        threshold: delta, dimensionless, >= 0; .1 to .2 in the paper. 0 never reuses.
        coefficients: of f, the highest power first, for one checkpoint: `TeaCache.published`, or `fitted`. (1, 0) takes
            the change as it is measured, which the paper's ablation does too: then a smaller threshold is due.
        input: F: what the first block is "modulated" by, or the embedding of the "time".
        warmup: number of steps at the beginning that are always computed, >= 0. The first step always is.
        tail: number of steps at the end that are always computed, >= 0.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="1",
        reads="what the time makes of the input, in each forward",
        verified="a second implementation, bit for bit; another in numpy; its fit against numpy's",
        calibration="the polynomial of the model, where none is published",
        table=Table(("coefficients", "input"), "model", "a list of coefficients, the highest power first"),
        paper=Paper(
            title="Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model",
            authors="Liu, Zhang, Wang, Wei, Qiu, Zhao, Zhang, Ye, Wan",
            arxiv="2411.19108",
            venue="CVPR 2025",
        ),
    )

    threshold: float = 0.1  # delta
    coefficients: tuple[float, ...] = (1.0, 0.0)  # f
    input: Input = "modulated"  # F
    warmup: int = 1
    tail: int = 1

    def __post_init__(self) -> None:
        expect(number(self.threshold) and self.threshold >= 0, "threshold", self.threshold, "a number >= 0", "0.1")
        some = self.coefficients if isinstance(self.coefficients, (tuple, list)) else ()
        fine = len(some) > 0 and all(map(number, some))
        expect(fine, "coefficients", self.coefficients, "numbers, the highest power first", "(1, 0)")
        expect(one_of(self.input, ("modulated", "time")), "input", self.input, "modulated or time", "modulated")
        expect(whole(self.warmup, 0), "warmup", self.warmup, "a whole number of steps >= 0", "1")
        expect(whole(self.tail, 0), "tail", self.tail, "a whole number of steps >= 0", "1")

    probes = True  # F of this very step is what it looks at

    @property
    def may_reuse(self) -> bool:
        """Not with a threshold of 0."""
        return self.threshold > 0

    @property
    def needs_total(self) -> bool:
        """For the tail."""
        return self.tail > 0

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """All blocks, by what they add; after the first one where that makes F.

        Raises:
            SettingError: the model's row names no such F.
            AttachError: the first block makes F, and there is no other.
        """
        return (added_by_all(stack, stack.named(self.input)),)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """F, all of it, against the step before."""
        return (stack.tap(stack.named(self.input), view=All(), against="step"),) if self.may_reuse else ()

    def init(self) -> Sums:
        """Nothing is added up yet."""
        return {}

    def decide(self, observation: Observation, state: Sums) -> Decision:
        """Eq. 7 between the first and the last steps."""
        return decided(observation, state, self.threshold, (self.warmup, self.tail), self.rescaled)

    def refresh(self, observation: Observation, state: Sums) -> None:
        """What is computed, for whatever reason, begins the sum anew."""
        begin_anew(observation, state)

    def rescaled(self, change: float) -> float:
        """Return f of a change (dimensionless)."""
        return polynomial(self.coefficients, change)

    @classmethod
    def authors_table(cls, content: Any) -> dict[str, Any] | None:
        """Return the coefficients of a list, the highest power first; what F is, the authors' files do not say."""
        fine = isinstance(content, list) and len(content) > 1 and all(map(number, content))
        return {"coefficients": tuple(content)} if fine else None

    @classmethod
    def measuring(cls, input: Input = "modulated") -> MeasuringInput:
        """Return what records the changes of F and of the denoiser's output from step to step."""
        return MeasuringInput(input)

    @classmethod
    def fitted(cls, traces: Sequence[Trace], threshold: float = 0.1, order: int = ORDER) -> TeaCache:
        """Return the policy whose f is fitted to runs under `measuring` by least squares (Sec. 3.3).

        Args:
            traces: the paper's are of 70 prompts; guidance branches of their own count as runs.
            threshold: delta.
            order: of the polynomial.

        Raises:
            SettingError: runs of another kind, or fewer steps than a polynomial of this order has coefficients.
        """
        measured = settings_of(traces, MeasuringInput)
        pairs = [event.distances for trace in traces for event in trace.events if event.distances]
        pairs = [pair for pair in pairs if len(pair) == 2 and min(pair) > 0 and math.isfinite(sum(pair))]
        if measured is None or len(pairs) <= order:
            found = f"{len(traces)} traces with {len(pairs)} steps to fit to"
            expected = f"runs under TeaCache.measuring(), of more than {order} steps"
            raise SettingError(complaint(found, expected, "make them anew, all alike"))
        changes, outputs = np.array(pairs, dtype=np.float64).T
        polynomial = np.polyfit(changes, outputs, order)
        return cls(threshold, tuple(map(float, polynomial)), measured["input"])


@dataclass(frozen=True)
class MeasuringInput(Measuring):
    """Computes everything, and compares F and the denoiser's output with the step before; see `TeaCache`."""

    input: Input = "modulated"

    def __post_init__(self) -> None:
        expect(one_of(self.input, ("modulated", "time")), "input", self.input, "modulated or time", "modulated")

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """F, and what the denoiser returns."""
        return (stack.tap(stack.named(self.input), view=All()), stack.tap(stack.root, view=All()))
