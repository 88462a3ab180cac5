"""FlashBlock: Attention Caching for Efficient Long-Context Block Diffusion.

Chen, Cai, Zhuang; arXiv 2602.05305, ICML 2026. Training-free. Symbols of the paper: A[out], L[out] output and
log-sum-exp of attention over the tokens outside of the block that is denoised, A[in], L[in] of that over its own.

1. What a block sees of finished tokens hardly changes from step to step, what it sees of itself does.
2. In a block's first step both are computed, and A[out], L[out] are kept in each layer.
3. In the next steps A[in], L[in] are computed, and attention is (e^L[out] A[out] + e^L[in] A[in]) / (e^L[out] +
   e^L[in]).

A block of the paper is a chunk here. Everything else of a step is computed as ever, so that the rows of a trace say
that it was: what is left out lies inside of attention. Where nothing is kept yet, and while keys and values are
written, the model's own attention runs.

Where it runs: on AnyFlow FAR, whose attention reads kept keys and values. `HeliosAttnProcessor.__call__` is told
neither step nor branch, and its history is denoised along with the chunk in one stream of tokens, so that its keys
are not those of finished tokens. `SkyReelsV2AttnProcessor.__call__` gets one mask over tokens all of which are still
denoised. For these a row would have to say which tokens are finished, and the engine to tell the processor the step
and the branch.

FlowCache (arXiv 2602.10825) keeps few of the finished tokens: the most worthy of each head by what the chunk's first
step looks at and how like they are to each other. That is `budget`. `AnyFlowFARPipeline.__call__` makes both tensors
of keys and values in full before the first step (`torch.zeros`), so that less is attended to, and no memory is saved.

Deviations: the paper keeps some heads from being reused, by a mask from five prompts; here all heads are alike.
Attention is plain torch in float32 on every device, not a fused kernel, so that it is exact and not fast.

Unverified: no code is released.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from bwcache.core import Decision, compute
from bwcache.models import BlockStack, Site
from bwcache.models.causal_attention import Outside, causal_attentions, with_outside
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, number, whole
from bwcache.policies.entry import Entry, Paper
from bwcache.policies.published import PAPER, Published

PUBLISHED: Mapping[str, Published] = {
    "LongLive-1.3B": Published({"interval": 5}, f"{PAPER}: kept in the first of five steps, reused in the others"),
}
"""By model."""


@dataclass(frozen=True)
class FlashBlock(Policy[None]):
    """Attention to finished chunks is kept for some steps and merged with the chunk's attention to itself.

    Args:
        interval: attention outside of the chunk is computed in every so many of its steps, >= 1; 5 in the paper's video
            model, which has that many steps. 1 in each.
        budget: so many tokens of finished chunks are attended to, >= 1; None: all of them.
        importance: lambda, the share of importance against redundancy in what these are worth, 0..1.

    Raises:
        SettingError: a value outside its range.
    """

    entry = Entry(
        keeps="what attention to finished chunks came to, and its log-sum-exp, in each block",
        reads="nothing",
        verified="full attention, to float noise; two implementations in numpy, one by another hand",
        paper=Paper(
            title="FlashBlock: Attention Caching for Efficient Long-Context Block Diffusion",
            authors="Chen, Cai, Zhuang",
            arxiv="2602.05305",
            venue="ICML 2026",
        ),
    )

    interval: int = 5
    budget: int | None = None
    importance: float = 0.07  # lambda

    def __post_init__(self) -> None:
        expect(whole(self.interval, 1), "interval", self.interval, "a whole number of steps >= 1", "5")
        fine = self.budget is None or whole(self.budget, 1)
        expect(fine, "budget", self.budget, "a whole number of tokens >= 1, or None", "1000")
        fine = number(self.importance) and 0 <= self.importance <= 1
        expect(fine, "importance", self.importance, "a share 0..1", "0.07")

    feature_predictor = None

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """All blocks, which are never reused as such.

        Raises:
            AttachError: no attention of the model reads keys and values of finished chunks.
        """
        causal_attentions(stack)
        return (stack.whole(),)

    def at_work(self, stack: BlockStack) -> AbstractContextManager[None]:
        """Attention processors, as long as it is attached."""
        return with_outside(stack, Outside(self.interval, self.budget, self.importance))

    def init(self) -> None:
        """No state: it lies in the processors."""

    def decide(self, observation: Observation, state: None) -> Decision:
        """Blocks are computed."""
        return compute("never reuses with these settings")
