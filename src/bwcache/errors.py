"""Everything that bwcache raises on purpose.

BWCacheError
├── AttachError                the model cannot be accelerated as it stands
│   ├── NoBlocksFoundError     nothing in it is known as a stack of blocks
│   ├── SpecMismatchError      the row in models/families does not describe this module
│   ├── NotProvenError         no row could be found for it whose replay is exact
│   └── AlreadyAttachedError   another session holds it
├── BlocksChangedError         a pipeline ran other blocks in a reused step than in the computed one
├── RanksDifferError           ranks that make one video were given other seeds, prompts or settings
├── RunStoppedError            `session.stop()` was called while a bare module was sampling
├── OverBudgetError            a run would keep more between steps than `max_memory` allows
├── MissingExtraError          a package that one of the extras brings is not installed (also an ImportError)
├── SettingError               a setting that cannot work (also a ValueError)
└── TraceError                 a trace file that cannot be read (also a ValueError)

NeverReusedWarning             warning: a whole run passed and nothing was reused
MuchKeptWarning                warning: more than 1 GiB will be kept, most of it only to compare blocks
OtherWeightsWarning            warning: a file was made for other weights of the same model

Each message says what was found, what was expected and what to do next.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

from bwcache.former_names import exported


class BWCacheError(Exception):
    """Root of the tree: catches everything that bwcache raises on purpose."""


class AttachError(BWCacheError):
    """The model cannot be accelerated as it stands."""


class NoBlocksFoundError(AttachError):
    """No known stack of blocks in this pipeline or module."""


class SpecMismatchError(AttachError):
    """The row of the model table and the module disagree: a renamed argument, another arity, a missing list."""


class NotProvenError(AttachError):
    """No row could be found for this module whose replay is exact."""


class AlreadyAttachedError(AttachError):
    """Another session holds this module."""


class BlocksChangedError(BWCacheError):
    """A pipeline ran other blocks in a reused step than in the computed one: the result is not to be trusted."""


class OverBudgetError(BWCacheError):
    """A run would keep more on the device between steps than `max_memory` allows."""


class RanksDifferError(BWCacheError):
    """Ranks that decide together were not given the same: raised on all of them."""


class MissingExtraError(BWCacheError, ImportError):
    """A package that one of the extras brings is not installed."""


class RunStoppedError(BWCacheError):
    """`Session.stop` was called: the loop that runs the denoiser is left at its next forward."""


class SettingError(BWCacheError, ValueError):
    """A setting that cannot work."""


class TraceError(BWCacheError, ValueError):
    """A trace file that cannot be read."""


class NeverReusedWarning(UserWarning):
    """A whole run passed and nothing was reused."""


class MuchKeptWarning(UserWarning):
    """A run will keep more than 1 GiB on the device between steps, and most of it only to compare blocks."""


class OtherWeightsWarning(UserWarning):
    """A file was made for other weights of the same architecture: what it promises was not measured on these."""


if not TYPE_CHECKING:  # which is to miss no misspelled name

    def __getattr__(name: str) -> Any:
        return exported(__name__, name)


_BETWEEN = ("bwcache", "torch", "diffusers", "accelerate", "contextlib")
"""Packages whose frames lie between a warning and the line of the program that it is about."""


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the program that uses bwcache, whatever calls of bwcache, diffusers and torch lie between."""
    frame, depth = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame, depth = frame.f_back, depth + 1
    warnings.warn(text, category, stacklevel=depth)


def complaint(found: str, expected: str, action: str) -> str:
    """One line in the shape of every message here."""
    return f"found {found}; expected {expected}; {action}"
