"""How much a feature changed: pure functions on tensors.

Each returns numerator and denominator apart, so that branches, batches and ranks can be pooled by adding both before
the division. Shapes: T = taps, B = batch, S = sampled entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def relative_l1(new: Tensor, old: Tensor) -> Tensor:
    """Eq. 5 of arXiv 2509.13789: ||new - old||_1 over ||old||_1; the older tensor divides.

    Args:
        new: features of this step, `[T, …, S]`.
        old: features of the last computed step, same shape.

    Returns:
        `[2, T]` float32: row 0 the numerators, row 1 the denominators (dimensionless ratio once divided).
    """
    old = old.to(torch.promote_types(old.dtype, torch.float32))  # a difference of halves would be rounded
    changes = torch.stack((new - old, old)).abs_()
    return (changes if changes.ndim == 3 else changes.flatten(2)).sum(2, dtype=torch.float32)


def squared(new: Tensor, old: Tensor) -> Tensor:
    """Mean squared change: ||new - old||_2^2 over the number of entries.

    Args:
        new, old: as in `relative_l1`.

    Returns:
        `[2, T]` float32, as `relative_l1`.
    """
    change = (new.float() - old.float()).flatten(1)
    return torch.stack((change.square().sum(1), change.new_full((len(change),), float(change.shape[1]))))


def absolute(new: Tensor, old: Tensor) -> Tensor:
    """Mean absolute change: ||new - old||_1 over the number of entries.

    Args:
        new, old: as in `relative_l1`.

    Returns:
        `[2, T]` float32, as `relative_l1`.
    """
    change = (new.float() - old.float()).flatten(1)
    return torch.stack((change.abs().sum(1), change.new_full((len(change),), float(change.shape[1]))))


def cosine_distance(new: Tensor, old: Tensor) -> Tensor:
    """Return 1 - cos(new, old) of all entries at once, as half the squared distance of the two at length 1.

    So small distances keep their digits, where 1 minus a cosine near 1 has none left.

    Args:
        new, old: as in `relative_l1`.

    Returns:
        `[2, T]` float32: the numerators times ||new|| ||old||, and that.
    """
    new, old = new.float().flatten(1), old.float().flatten(1)
    sizes = torch.stack((new, old)).norm(dim=-1)
    one, other = torch.nn.functional.normalize(new, dim=1), torch.nn.functional.normalize(old, dim=1)
    weight = sizes.prod(0).clamp_min(1e-30)  # of nothing and something: not alike
    return torch.stack(((one - other).square().sum(1) / 2 * weight, weight))


def magnitude_ratio(new: Tensor, old: Tensor) -> Tensor:
    """Mean over the tokens of ||new||_2 / ||old||_2; tokens of which the older one is 0 do not count.

    Args:
        new, old: `[T, …, C]`, a token along the last axis.

    Returns:
        `[2, T]` float32: the sum of the ratios, and how many tokens.
    """
    sizes = torch.linalg.vector_norm(torch.stack((new.float(), old.float())), dim=-1).flatten(2)
    counts = sizes[1] > 0
    ratios = torch.where(counts, sizes[0] / torch.where(counts, sizes[1], 1.0), 0.0)
    return torch.stack((ratios.sum(1), counts.float().sum(1)))


@dataclass(frozen=True)
class ForecastCosine:
    """How alike a feature and its forecast of one step on are: the cosine of their channels, mean over all tokens.

    Args:
        gap: how many steps lie between the past feature and the new one, >= 1: the line through both is carried on.
    """

    gap: int

    def __call__(self, new: Tensor, old: Tensor) -> Tensor:
        """Return the sum of the cosines and their number, `[2, 1]` float32.

        Args:
            new, old: as in `relative_l1`, channels last.
        """
        feature = new.float()
        forecast = feature + (feature - old.float()) / self.gap
        cosines = torch.nn.functional.cosine_similarity(feature, forecast, dim=-1)
        return torch.stack((cosines.sum(), cosines.new_tensor(float(cosines.numel())))).unsqueeze(1)


@dataclass(frozen=True)
class Motion:
    """How much differs from frame to frame, of the new feature alone: sum|x[f+1] - x[f]| over sum|x[f+1]| + |x[f]|.

    Args:
        axis: along which its frames lie, without the axis of taps.
    """

    axis: int

    def __call__(self, new: Tensor, old: Tensor) -> Tensor:
        """Return `[2, T]` float32: numerators and denominators; zeros for one frame."""
        frames = new.float()
        count, axis = frames.shape[self.axis + 1] - 1, self.axis + 1
        later, sooner = frames.narrow(axis, 1, count), frames.narrow(axis, 0, count)
        sizes = later.abs() + sooner.abs()
        return torch.stack(((later - sooner).abs().flatten(1).sum(1), sizes.flatten(1).sum(1)))
