"""FlowCache: Flow Caching for Autoregressive Video Generation.

Ma, Zheng, Xu, Xu, Ling, Zheng, Kuang, Li, Wang, Xiao, Chao, Ji; arXiv 2602.10825, ICLR 2026. Training-free. Symbols of
the paper: c a chunk of frames, d how much what enters it changes from step to step, r[c] what all blocks add to it,
epsilon the threshold, m the number of steps of a chunk before anything of it is reused.

1. A video is made chunk by chunk. Chunks change at their own pace, so each has what is kept, its sum and its count of
   steps to itself.
2. d = mean|x - x'| / mean|x'|, of the embedded latents x of the chunk and those of the step before x'. For SkyReels-V2
   it is f(d) of what modulates the first block, with TeaCache's polynomial f.
3. d is added up. Below epsilon the chunk is reused, x + r[c]; else it is computed, and the sum starts from 0.
4. Computed in any case: a chunk's first m steps, and the first and the last step of the video.

Where it runs. Helios and AnyFlow FAR denoise one chunk after the other, each over the whole schedule: there a run of
this library is a chunk, and rule 1 holds by itself. SkyReels-V2 with diffusion forcing and `ar_step` puts all chunks
that are under way into one forward, each at a time of its own: there a forward is reused or computed as a whole, and
only with `tail=0` or a known number of steps. In its synchronous mode all frames are one chunk.

To leave out single chunks of a forward, `hidden_states`, `timestep_proj`, `rotary_emb` and `causal_mask` would have to
be cut before each call in `for block in self.blocks` of `SkyReelsV2Transformer3DModel.forward`, and its attention
needs the keys and values of the chunks that are left out, which `SkyReelsV2AttnProcessor` does not keep. A row would
have to say along which axis of which arguments chunks lie, and where their keys and values are.

Readings: d is of the latents themselves, of which the embedding is a linear map. Nobody announces which chunk is the
last, so that `tail` holds in each of them, as in the authors' code for SkyReels-V2. Each guidance branch of its own
forward decides for itself.

Deviations: for MAGI-1 the authors' code takes the step of the latents again, as guidance and sampler made it; here it
is what all blocks add, as in their code for SkyReels-V2. A SkyReels-V2 that is told the frames per second adds them to
what modulates its blocks: d is of the time's part alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from bwcache.core import Decision
from bwcache.features import All
from bwcache.models import BlockStack, Place, Site, Tap
from bwcache.policies.base import Observation, Policy
from bwcache.policies.budget import Sums, begin_anew, decided, polynomial
from bwcache.policies.checks import expect, number, one_of, whole
from bwcache.policies.entry import Entry, Paper
from bwcache.policies.published import PAPER, Published
from bwcache.policies.sites import added_by_all

Input = Literal["latents", "modulated"]

SKYREELS = {
    "warmup": 4,
    "input": "modulated",
    "coefficients": (-52186.2437, 9230.41404, -528.275948, 13.6987616, -0.0499875664),
}
FIVE = f"{PAPER}; the code computes five steps, not four"

PUBLISHED: Mapping[str, Published] = {
    "MAGI-1 slow": Published({"threshold": 0.01, "warmup": 5}),
    "MAGI-1 fast": Published({"threshold": 0.015, "warmup": 5}),
    "SkyReels-V2-DF-1.3B slow": Published({"threshold": 0.1, **SKYREELS}, FIVE),
    "SkyReels-V2-DF-1.3B fast": Published({"threshold": 0.15, **SKYREELS}, FIVE),
}
"""By checkpoint."""


@dataclass(frozen=True)
class FlowCache(Policy[Sums]):
    """Replays what all blocks add to a chunk while the changes of its latents add up to little; each chunk for itself.

    Args:
        threshold: epsilon, dimensionless, >= 0; .01 and .015 for MAGI-1, .1 and .15 for SkyReels-V2. 0 never reuses.
        warmup: m, number of steps at the beginning of each chunk that are always computed, >= 0.
        tail: number of steps at the end of each chunk that are always computed, >= 0.
        input: whose change d is: the "latents", or what the first block is "modulated" by.
        coefficients: of f, the highest power first; (1, 0) takes d as it is.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="1",
        reads="the chunk's latents, in each forward",
        verified="two implementations in numpy, one by another hand, bit for bit",
        paper=Paper(
            title="Flow Caching for Autoregressive Video Generation",
            authors="Ma, Zheng, Xu, Xu, Ling, Zheng, Kuang, Li, Wang, Xiao, Chao, Ji",
            arxiv="2602.10825",
            venue="ICLR 2026",
        ),
    )

    threshold: float = 0.01  # epsilon
    warmup: int = 5  # m
    tail: int = 1
    input: Input = "latents"
    coefficients: tuple[float, ...] = (1.0, 0.0)  # f

    def __post_init__(self) -> None:
        expect(number(self.threshold) and self.threshold >= 0, "threshold", self.threshold, "a number >= 0", "0.01")
        expect(whole(self.warmup, 0), "warmup", self.warmup, "a whole number of steps >= 0", "5")
        expect(whole(self.tail, 0), "tail", self.tail, "a whole number of steps >= 0", "1")
        expect(one_of(self.input, ("latents", "modulated")), "input", self.input, "latents or modulated", "latents")
        some = self.coefficients if isinstance(self.coefficients, (tuple, list)) else ()
        fine = len(some) > 0 and all(map(number, some))
        expect(fine, "coefficients", self.coefficients, "numbers, the highest power first", "(1, 0)")

    probes = True  # x of this very step is what it looks at

    @property
    def may_reuse(self) -> bool:
        """Not with a threshold of 0."""
        return self.threshold > 0

    @property
    def needs_total(self) -> bool:
        """For the tail."""
        return self.tail > 0

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """All blocks, by what they add.

        Raises:
            SettingError: the model's row does not name what d is of.
            AttachError: the first block makes what d is of, and there is no other.
        """
        return (added_by_all(stack, self._seen(stack)),)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """x, all of it, against the step before."""
        if not self.may_reuse:
            return ()
        place = self._seen(stack)
        end: dict[str, Any] = {"end": "in"} if place.kind == "root" else {}
        return (stack.tap(place, view=All(), against="step", **end),)

    def init(self) -> Sums:
        """A chunk begins: nothing is added up yet."""
        return {}

    def decide(self, observation: Observation, state: Sums) -> Decision:
        """Rules 3 and 4."""
        cost = partial(polynomial, self.coefficients)
        return decided(observation, state, self.threshold, (self.warmup, self.tail), cost)

    def refresh(self, observation: Observation, state: Sums) -> None:
        """What is computed, for whatever reason, begins the sum anew."""
        begin_anew(observation, state)

    def _seen(self, stack: BlockStack) -> Place:
        return stack.root if self.input == "latents" else stack.named("modulated")
