"""DBCache of cache-dit: the first blocks always run, and their change decides; the rest is replayed or continued."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

from bwcache.errors import AttachError, complaint
from bwcache.models import BlockStack
from bwcache.study.peers.peer import Peer, States

PACKAGE = "cache-dit"


@dataclass(frozen=True)
class DBCache(Peer):
    """cache-dit's `DBCacheConfig`.

    Args:
        threshold: relative L1 change of the first blocks' residual, dimensionless.
        first: number of blocks that always run at the beginning (cache-dit's own default is 8).
    """

    method: ClassVar[str] = "DBCache"
    shown: ClassVar[tuple[str, ...]] = ("threshold",)

    threshold: float = 0.08
    first: int = 1

    def settings(self) -> dict[str, Any]:
        """With cache-dit's version."""
        return {**super().settings(), PACKAGE: _version()}

    def load(self) -> None:
        """Raises `AttachError` where cache-dit is not installed."""
        if importlib.util.find_spec("cache_dit") is None:
            found = f"no {PACKAGE}, which {self.family} is part of"
            raise AttachError(complaint(found, "it installed", "pip install 'bwcache[peers]'"))
        importlib.import_module("cache_dit")

    def attach(self, pipe: Any, stacks: Mapping[str, BlockStack], undo: ExitStack) -> States:
        """By cache-dit's adapter alone: its `enable_cache` would also choose another attention kernel.

        Its `disable_cache` is not called: it breaks other pipelines of the class. All is put back by `restored`.
        """
        library = importlib.import_module("cache_dit")
        adapters = importlib.import_module("cache_dit.caching.cache_adapters")
        config, calibrator = self._config(library), self.calibrator(library)
        adapters.CachedAdapter.apply(pipe, cache_config=config, calibrator_config=calibrator)
        return lambda: list(pipe._context_manager._cached_context_manager.values())

    def calibrator(self, library: Any) -> Any:
        """None: what is skipped is replayed."""
        return None

    def _config(self, library: Any) -> Any:
        guarded = self.guards.warmup + self.guards.tail
        mask = [1] * self.guards.warmup + [0] * (self.steps - guarded) + [1] * self.guards.tail
        return library.DBCacheConfig(
            Fn_compute_blocks=self.first,
            Bn_compute_blocks=0,
            residual_diff_threshold=self.threshold,
            max_warmup_steps=self.guards.warmup,
            num_inference_steps=self.steps,
            steps_computation_mask=mask,
            steps_computation_policy="dynamic",
        )


@dataclass(frozen=True)
class DBCacheTaylorSeer(DBCache):
    """The same, and what is skipped is continued linearly in the step index."""

    method: ClassVar[str] = "DBCache + TaylorSeer"

    def calibrator(self, library: Any) -> Any:
        """Of first order, as cache-dit recommends."""
        return library.TaylorSeerCalibratorConfig(taylorseer_order=1)


def _version() -> str | None:
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
