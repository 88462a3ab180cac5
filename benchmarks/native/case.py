"""One entry of the list of repositories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.native.checks import Sampler


@dataclass(frozen=True)
class Case:
    """A denoiser of a repository under one of its samplers.

    Attributes:
        name: what `python -m benchmarks.native` calls it.
        repository: owner and name on GitHub.
        denoiser: module and class.
        sampler: what of the repository drives it.
        open: makes it from a checkout.
        stubbed: what stands in for a part of the repository or of a package that it needs.
    """

    name: str
    repository: str
    denoiser: str
    sampler: str
    open: Callable[[Path], Sampler]
    stubbed: str = ""
