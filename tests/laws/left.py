"""What a session could leave on a denoiser and its parts: attributes, hooks, a forward, a compiled call, a class."""

from __future__ import annotations

from typing import Any

from torch import nn


def found_on(module: nn.Module) -> dict[str, Any]:
    """All of it, by the part's path, to be compared with what there was before."""
    return {name: (type(part), _own(part)) for name, part in module.named_modules()}


def _own(part: nn.Module) -> dict[str, Any]:
    """Its attributes: of those that hold things by name the names, of all others which object it is."""
    return {name: list(value) if isinstance(value, dict) else id(value) for name, value in vars(part).items()}
