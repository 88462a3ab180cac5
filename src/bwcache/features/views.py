"""What of a feature a tap looks at: (feature, step) -> a small or large copy of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from bwcache.core import Step
from bwcache.errors import SettingError, complaint
from bwcache.features.sampling import every, order, stride


class View(ABC):
    """A view is a setting: it holds no tensor."""

    @abstractmethod
    def take(self, feature: Tensor, step: Step) -> Tensor:
        """Return what is looked at of a feature `[B, …, C]`: a copy, of any shape."""

    def planned_bytes(self, feature: Tensor) -> int:
        """Return the bytes of what `take` would return."""
        return feature.nbytes


@dataclass(frozen=True)
class All(View):
    """All entries."""

    def take(self, feature: Tensor, step: Step) -> Tensor:
        """Return a copy of the feature, same shape and dtype."""
        return feature.detach().clone()


@dataclass(frozen=True)
class Sample(View):
    """A share of the entries, 0..1, in float32 `[S]`; None for the budget of one tap."""

    share: float | None = None

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share <= 1:
            raise SettingError(complaint(f"a view of {self.share!r} of the entries", "a share in (0, 1]", "use 1"))

    def take(self, feature: Tensor, step: Step) -> Tensor:
        """Return every n-th entry along memory."""
        return every(stride(feature, 1, self.share), feature, 0, torch.float32, order(feature))

    def planned_bytes(self, feature: Tensor) -> int:
        """Return the bytes of the sample."""
        return feature.numel() // stride(feature, 1, self.share) * torch.float32.itemsize


@dataclass(frozen=True)
class Channels(View):
    """The first `count` channels (the last axis)."""

    count: int

    def take(self, feature: Tensor, step: Step) -> Tensor:
        """Return a copy `[B, …, count]`."""
        return feature.detach()[..., : self.count].clone()
