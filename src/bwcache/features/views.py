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


@dataclass(frozen=True)
class Signal(View):
    """What of noisy latents is signal: Wiener's filter, by the noise of the step (arXiv 2602.18993, Eq. 5 to 7).

    Args:
        exponent: b: the power of clean signals is 1 / |f|^b, f in cycles per entry.
        axes: along which the latents have frequencies; the gains along them are multiplied.
    """

    exponent: float
    axes: tuple[int, ...]

    def take(self, feature: Tensor, step: Step) -> Tensor:
        """Return the latents through the filter, same shape and dtype; as they are where the noise is not known."""
        if step.noise is None:
            return feature.detach().clone()
        noise = min(max(step.noise, 1e-6), 1 - 1e-6)
        gain = torch.ones((1,) * feature.ndim, device=feature.device)
        for axis in self.axes:
            frequencies = torch.fft.fftfreq(feature.shape[axis], device=feature.device, dtype=torch.float32)
            power = 1 / (frequencies.abs() ** self.exponent + 1e-16)
            along = (1 - noise) * power / ((1 - noise) ** 2 * power + noise**2 + 1e-16)
            gain = gain * along.view([-1 if i == axis else 1 for i in range(feature.ndim)])
        spectrum = torch.fft.fftn(feature.detach().float(), dim=self.axes)
        passed: Tensor = torch.fft.ifftn(spectrum * (gain / gain.mean()), dim=self.axes).real
        return passed.to(feature.dtype, memory_format=torch.contiguous_format, copy=True)  # not half of complex numbers


@dataclass(frozen=True)
class ChannelShare(View):
    """The first channels (the last axis), a share of them, 0..1; at least one."""

    share: float

    def take(self, feature: Tensor, step: Step) -> Tensor:
        """Return a copy `[B, …, share of C]`."""
        return feature.detach()[..., : max(int(feature.shape[-1] * self.share), 1)].clone()

    def planned_bytes(self, feature: Tensor) -> int:
        """Return the bytes of these channels."""
        return feature.nbytes // feature.shape[-1] * max(int(feature.shape[-1] * self.share), 1)
