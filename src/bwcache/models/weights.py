"""By what the weights of a denoiser are known again at little cost: a few entries of each.

A fine-tune, a merged adapter or another release of the same architecture differ in almost every entry; a few of each
tensor tell. That the rest is the same is not proven: `bwcache.study.fingerprint` reads every byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bwcache.models.streams import uncompiled

ENTRIES = 16
"""Of each tensor."""

SAME_AS_BFLOAT16 = {"float32", "bfloat16"}
"""Weights in one of these become the same entries, since these are rounded to bfloat16."""

PLACES = ("quantization_config",)
"""Settings that say how weights are kept, not what the model is."""


@dataclass(frozen=True)
class WeightSample:
    """What is known of the weights of a module.

    Attributes:
        digest: 16 hexadecimal digits for names, shapes and a few entries of each parameter.
        dtypes: that the parameters have, in alphabetical order.
    """

    digest: str
    dtypes: tuple[str, ...]

    def same_as(self, other: WeightSample) -> bool | None:
        """Return whether these are the same weights; None where different dtypes leave that open."""
        known = self.dtypes == other.dtypes or {*self.dtypes, *other.dtypes} <= SAME_AS_BFLOAT16
        return self.digest == other.digest if known else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"digest": self.digest, "dtypes": list(self.dtypes)}

    @classmethod
    def from_json(cls, content: object) -> WeightSample | None:
        """Return the reverse; None for what is none."""
        if not isinstance(content, Mapping) or not isinstance(content.get("digest"), str):
            return None
        dtypes = content.get("dtypes")
        return cls(content["digest"], tuple(map(str, dtypes))) if isinstance(dtypes, list) else None


def weight_sample(module: nn.Module) -> WeightSample | None:
    """Return what the weights are known by; None where they are not in memory, or not kept as plain numbers."""
    return sample_of(dict(uncompiled(module).named_parameters()))


def sample_of(weights: Mapping[str, torch.Tensor]) -> WeightSample | None:
    """Return what weights are known by, given by name; None as of `weight_sample`."""
    seen, dtypes = hashlib.sha256(), set[str]()
    for name, weight in sorted(weights.items()):
        plain = type(weight) in (torch.Tensor, nn.Parameter) and weight.is_floating_point()
        if not plain or weight.device.type == "meta":
            return None
        dtypes.add(str(weight.dtype).removeprefix("torch."))
        seen.update(f"{name} {tuple(weight.shape)} {_entries(weight)}\n".encode())
    return WeightSample(seen.hexdigest()[:16], tuple(sorted(dtypes))) if dtypes else None


def architecture(module: nn.Module) -> dict[str, Any]:
    """Return a module's own settings as far as they are plain values; {} where it has none."""
    config: Any = getattr(uncompiled(module), "config", None)
    settings = dict(config) if isinstance(config, Mapping) else {}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    return {
        name: value
        for name, value in sorted(plain.items())
        if not name.startswith("_") and name not in PLACES and _is_plain(value)
    }


def _entries(weight: torch.Tensor) -> list[float]:
    with torch.no_grad():
        flat = weight.detach().flatten()
        places = torch.linspace(0, flat.numel() - 1, min(ENTRIES, flat.numel())).long().to(flat.device)
        found: list[float] = flat[places].to(torch.bfloat16).float().cpu().tolist()
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, (str, int, float, bool, type(None)))
