"""Whether a denoiser is free, so that a session can hold it, or what it makes can count as uncached."""

from __future__ import annotations

from typing import Any

from torch import nn

from bwcache.engine import hooks
from bwcache.errors import AlreadyAttachedError, AttachError, complaint
from bwcache.models import uncompiled


def expect_free(name: str, module: nn.Module, action: str = "close that session first (bwcache.disable)") -> None:
    """Raise unless no session holds a module and no cache of diffusers is enabled on it.

    Args:
        name: of the module.
        module: a denoiser.
        action: what to do about a session.

    Raises:
        AlreadyAttachedError: a session holds it.
        AttachError: a cache of diffusers is enabled on it.
    """
    session = hooks.holder(module)
    if session is not None:
        raise AlreadyAttachedError(complaint(f"{name} held by {session!r}", "a free one", action))
    config = getattr(module, "_cache_config", None)
    if config is not None:
        found = f"{type(config).__name__} enabled on {name}"
        raise AttachError(complaint(found, "no other cache", f"call pipe.{name}.disable_cache() first"))


def expect_uncached(pipe: Any) -> None:
    """Raise where what a pipeline makes would not be uncached; errors as of `expect_free`."""
    for name, part in dict(getattr(pipe, "components", None) or {}).items():
        if isinstance(part, nn.Module):
            expect_free(name, uncompiled(part))
