"""Attention over some of the tokens, in a form that can be put together with attention over the others.

Of attention over a part of the keys its output is not enough: the logarithm of the sum of its exponentials says how
much weight the part has. With both, attention over all keys is exact. Plain torch, in float32, on any device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

QUERIES = 1024
"""So many queries are taken at a time: their scores are the largest thing that is ever held."""


@dataclass(frozen=True, slots=True)
class Partial:
    """Attention over some keys.

    Attributes:
        output: `[B, H, Q, D]`, float32.
        weight: log-sum-exp of the scaled scores, `[B, H, Q]`, float32.
    """

    output: Tensor
    weight: Tensor

    def merged(self, other: Partial) -> Tensor:
        """Return attention over the keys of both, `[B, H, Q, D]` float32."""
        share = torch.sigmoid(self.weight - other.weight).unsqueeze(-1)  # e^a / (e^a + e^b)
        return share * self.output + (1 - share) * other.output

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.output.nbytes + self.weight.nbytes


def partial_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, zeros: int = 0) -> Partial:
    """Return attention over some keys.

    Args:
        query: `[B, H, Q, D]`.
        key, value: `[B, H, K, D]`.
        scale: by which scores are multiplied.
        zeros: how many keys and values of zeros stand behind them: each has the score 0 and adds nothing.
    """
    outputs, weights = [], []
    value = value.float()
    for some in query.float().split(QUERIES, dim=2):
        scores = some @ key.float().transpose(-1, -2) * scale
        most = scores.amax(-1, keepdim=True)
        most = most.clamp_min(0.0) if zeros else most
        scores = (scores - most).exp()
        total = scores.sum(-1, keepdim=True)
        if zeros:
            total = total + zeros * (-most).exp()
        outputs.append(scores @ value / total)
        weights.append((most + total.log()).squeeze(-1))
    return Partial(torch.cat(outputs, 2), torch.cat(weights, 2))


def eviction_score(query: Tensor, key: Tensor, scale: float, importance: float = 0.07, kernel: int = 7) -> Tensor:
    """Return how worthy of being kept each key is (arXiv 2602.10825): what looks at it, less how like the others it is.

    Importance is the mean weight that the queries give to a key, each key taking the largest among its neighbours;
    redundancy the softmax of its mean cosine to all keys, with 0 for itself.

    Args:
        query: `[B, H, Q, D]`.
        key: `[B, H, K, D]`.
        scale: by which scores are multiplied.
        importance: lambda, the share of importance, 0..1.
        kernel: so many neighbours, itself included; odd.

    Returns:
        `[B, H, K]`, float32.
    """
    found = torch.zeros(key.shape[:-1], dtype=torch.float32, device=key.device)
    for some in query.float().split(QUERIES, dim=2):
        found += (some @ key.float().transpose(-1, -2) * scale).softmax(-1).sum(2)
    looked_at = functional.max_pool1d((found / query.shape[2]).flatten(0, 1), kernel, 1, kernel // 2).view_as(found)
    unit = functional.normalize(key.float(), dim=-1)
    others = (unit @ unit.sum(2).unsqueeze(-1)).squeeze(-1) - 1  # all cosines at once, and its own taken off
    alike = (others / key.shape[2]).softmax(-1)
    return importance * looked_at - (1 - importance) * alike
