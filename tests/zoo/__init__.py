"""Every denoiser class that bwcache knows, real, tiny and random: built and called as its pipelines build and call it.

One file per family. Each says `MODELS`, bare denoisers, and `PIPELINES`, whole pipelines with tiny components; this
package collects them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from tests.zoo.kinds import Model, Pipeline


def _all(name: str) -> Iterator[Any]:
    for found in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        yield from getattr(importlib.import_module(f"{__name__}.{found.name}"), name, ())


MODELS: tuple[Model, ...] = tuple(_all("MODELS"))  # type: ignore[arg-type]
PIPELINES: tuple[Pipeline, ...] = tuple(_all("PIPELINES"))  # type: ignore[arg-type]
