"""Features that lie on several ranks at once (DTensors): each rank measures, keeps and replays its own part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bwcache.errors import AttachError, complaint

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class Sharding:
    """How a feature lies on the ranks of a mesh.

    Attributes:
        mesh, placements: as of the DTensor.
        shape, stride: of the whole.
    """

    mesh: DeviceMesh
    placements: tuple[Any, ...]
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, feature: Tensor) -> Sharding | None:
        """Return how a feature lies; None of one that is whole on this rank.

        Raises:
            AttachError: each rank has only a summand of it.
        """
        if type(feature) is Tensor or not hasattr(feature, "to_local"):
            return None
        spread: Any = feature
        placements = tuple(spread.placements)
        if any(place.is_partial() for place in placements):
            raise AttachError(
                complaint(
                    f"a feature of shape {tuple(feature.shape)} of which each rank has a summand ({placements})",
                    "whole entries on each rank: sharded or replicated",
                    "redistribute it inside the block that returns it",
                )
            )
        return cls(spread.device_mesh, placements, tuple(feature.shape), tuple(feature.stride()))

    def spread(self, own: Tensor) -> Tensor:
        """Return the feature of which this rank has this part, of as many samples as that has."""
        from torch.distributed.tensor import DTensor

        shape = tuple(whole if self.cuts(i) else own.shape[i] for i, whole in enumerate(self.shape))
        stride = self.stride if shape == self.shape else torch.empty(shape, device="meta").stride()
        made: Tensor = DTensor.from_local(
            own, self.mesh, self.placements, run_check=False, shape=torch.Size(shape), stride=stride
        )
        return made

    def of_whole(self, feature: Any) -> Tensor:
        """Return a feature, spread in this way."""
        made: Tensor = feature.redistribute(self.mesh, self.placements)
        return made

    def expect_usable(self, where: str, ranks: object, samples: int, axis: int) -> None:
        """Raise where such a feature cannot be kept.

        Args:
            where: the place, for people.
            ranks: those that decide together, if anybody says so.
            samples: how many decide for themselves, along `axis`.

        Raises:
            AttachError: nobody says so, or the samples lie on several ranks.
        """
        if ranks is None:
            raise AttachError(
                complaint(
                    f"a feature of {where} that lies on {self.mesh.size()} ranks (a DTensor)",
                    "to know which ranks decide together",
                    "pass ranks=, such as the mesh",
                )
            )
        if samples > 1 and self.cuts(axis):
            raise AttachError(
                complaint(
                    f"{samples} samples of {where} that lie on {self.mesh.size()} ranks (a DTensor)",
                    "each rank to have a part of every sample where each decides for itself",
                    "pass per_sample=False",
                )
            )

    def cuts(self, axis: int) -> bool:
        """Return whether this axis is cut."""
        return any(place.is_shard(axis) for place in self.placements)


def own_part(feature: Tensor) -> Tensor:
    """Return the part of a feature that this rank has: mostly the feature itself."""
    if type(feature) is Tensor or not hasattr(feature, "to_local"):
        return feature
    Sharding.of(feature)
    spread: Any = feature.detach()
    own: Tensor = spread.to_local()
    return own
