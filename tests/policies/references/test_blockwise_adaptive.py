"""BAC (2506.13456) written twice: the best update steps of a sublayer by trying all, the bubbling union, the replay.

Similarity is the cosine of whole features; holding a until b is worth the sum of S[a, t] from a to b. Both branches
count alike. Feed-forward nets of a sublayer's own layer count as behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations, pairwise

import numpy as np
import pytest

from bwcache import BlockwiseAdaptiveCache
from tests.policies.proof import ANOTHER, TOY, proves
from tests.policies.references import toy
from tests.policies.references.toy import Array

STEPS = 9
PARTS = ("attn1", "attn2", "ff")
Key = tuple[int, str]
KEYS: tuple[Key, ...] = tuple((block, part) for block in range(toy.BLOCKS) for part in PARTS)


@dataclass
class Reference:
    """Computes a sublayer at its steps; every one at all of them where no steps are said."""

    updates: dict[Key, tuple[int, ...]] | None = None
    kept: dict[tuple[str, Key], Array] = field(default_factory=dict)
    seen: dict[tuple[str, Key], list[Array]] = field(default_factory=dict)

    def denoise(self, latents: Array, step: int, branch: str) -> Array:
        tokens, time = toy.embedded(latents), toy.timed(step, STEPS)
        for key in KEYS:
            if self.updates is None or step in self.updates[key]:
                self.kept[branch, key] = self._computed(tokens, time, branch, key)
            self.seen.setdefault((branch, key), []).append(self.kept[branch, key])
            tokens = tokens + self.kept[branch, key]
        return toy.predicted(tokens)

    def _computed(self, tokens: Array, time: Array, branch: str, key: Key) -> Array:
        block, part = key
        if part == "attn1":
            return toy.attention(toy.modulated(tokens, time, block), block)
        return toy.cross(tokens, toy.TEXT[branch], block) if part == "attn2" else toy.feed_forward(tokens, block)


def best(similarity: Array, count: int) -> tuple[int, ...]:
    """The update steps, 0 among them, of which all steps are most like the update that they are held from."""

    def worth(updates: tuple[int, ...]) -> float:
        return sum(float(similarity[a, a:b].sum()) for a, b in pairwise((*updates, STEPS)))

    return max(((0, *later) for later in combinations(range(1, STEPS), count - 1)), key=worth)


def scheduled(count: int, union: int) -> dict[Key, tuple[int, ...]]:
    """The update steps of all sublayers, from a run that computes everything."""
    whole = Reference()
    toy.sampled(whole.denoise, STEPS)
    updates, errors = {}, {}
    for key in KEYS:
        runs = [np.stack([feature.ravel() for feature in whole.seen[branch, key]]) for branch in toy.BRANCHES]
        lengths = [np.linalg.norm(run, axis=1) for run in runs]
        updates[key] = best(
            np.mean([a @ a.T / np.outer(b, b) for a, b in zip(runs, lengths, strict=True)], axis=0), count
        )
        pairs = [np.abs(run[i] - run[j]).mean() for run in runs for i, j in combinations(range(STEPS), 2)]
        errors[key] = float(np.mean(pairs))
    if union < 2:
        return updates
    bubbled = dict(updates)
    for block, part in sorted(KEYS, key=lambda key: -errors[key])[:union]:
        behind = [updates[later, "ff"] for later in range(block, toy.BLOCKS)]
        bubbled[block, part] = tuple(sorted(set(updates[block, part]).union(*behind)))
    return bubbled


@proves(BlockwiseAdaptiveCache, ANOTHER, "lists, and latents up to rounding", on=TOY)
@pytest.mark.parametrize(("count", "union"), [(3, 5), (4, 0)], ids=["bubbled", "alone"])
def test_policy_and_reference_decide_and_make_the_same(count: int, union: int) -> None:
    trace, _ = toy.by_policy(BlockwiseAdaptiveCache.measuring(STEPS), STEPS)
    policy = BlockwiseAdaptiveCache.fitted([trace], count, union)
    updates = scheduled(count, union)
    assert policy.updates == {f"transformer_blocks.{block}.{part}": updates[block, part] for block, part in KEYS}
    assert len(set(updates.values())) > 2
    trace, played = toy.by_policy(policy, STEPS)
    reused = sum(event.action == "reuse" for event in trace.events)
    assert reused == len(toy.BRANCHES) * sum(STEPS - len(steps) for steps in updates.values())
    assert toy.close(played, toy.sampled(Reference(updates).denoise, STEPS))
