"""Everything that bwcache raises on purpose.

BWCacheError
├── AttachError            the model cannot be accelerated as it stands
│   ├── NoBlocksFound      nothing in it is known as a stack of blocks
│   ├── SpecMismatch       the row in models/families does not describe this module
│   ├── NotProven          no row could be found for it whose replay is exact
│   └── AlreadyAttached    another session holds it
├── BlocksChanged          a pipeline ran other blocks in a reused step than in the computed one
├── RunStopped             `session.stop()` was called while a bare module was sampling
├── OverBudget             a run would keep more between steps than `max_memory` allows
├── MissingExtra           a package that one of the extras brings is not installed (also an ImportError)
├── SettingError           a setting that cannot work (also a ValueError)
└── TraceError             a trace file that cannot be read (also a ValueError)

NeverReused                warning: a whole run passed and nothing was reused
MuchKept                   warning: more than 1 GiB will be kept, most of it only to compare blocks

Each message says what was found, what was expected and what to do next.
"""

from __future__ import annotations


class BWCacheError(Exception):
    """Root of the tree: catches everything that bwcache raises on purpose."""


class AttachError(BWCacheError):
    """The model cannot be accelerated as it stands."""


class NoBlocksFound(AttachError):
    """No known stack of blocks in this pipeline or module."""


class SpecMismatch(AttachError):
    """The row of the model table and the module disagree: a renamed argument, another arity, a missing list."""


class NotProven(AttachError):
    """No row could be found for this module whose replay is exact."""


class AlreadyAttached(AttachError):
    """Another session holds this module."""


class BlocksChanged(BWCacheError):
    """A pipeline ran other blocks in a reused step than in the computed one: the result is not to be trusted."""


class OverBudget(BWCacheError):
    """A run would keep more on the device between steps than `max_memory` allows."""


class MissingExtra(BWCacheError, ImportError):
    """A package that one of the extras brings is not installed."""


class RunStopped(BWCacheError):
    """`Session.stop` was called: the loop that runs the denoiser is left at its next forward."""


class SettingError(BWCacheError, ValueError):
    """A setting that cannot work."""


class TraceError(BWCacheError, ValueError):
    """A trace file that cannot be read."""


class NeverReused(UserWarning):
    """A whole run passed and nothing was reused."""


class MuchKept(UserWarning):
    """A run will keep more than 1 GiB on the device between steps, and most of it only to compare blocks."""


def complaint(found: str, expected: str, action: str) -> str:
    """One line in the shape of every message here."""
    return f"found {found}; expected {expected}; {action}"
