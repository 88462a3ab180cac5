"""Who is calling: the pipeline around a denoiser, found on the Python stack.

Several pipelines may share one denoiser, each with a scheduler of its own, and a pipeline's scheduler may be swapped.
Only the one that is calling knows which step this is.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from torch import nn

_DEPTH = 64
"""How many frames up are looked at."""

_NEVER = ("torch.", "accelerate.", "bwcache.engine.")
"""Modules whose functions stand between a pipeline and its denoiser."""

_SNAPSHOTS = sys.version_info < (3, 13)
"""Whether looking at a function's variables makes a copy of them all, which lives as long as the call."""

_ONLY_THE_FRAME = 3
"""References to such a copy that nobody holds but the frame: its own, ours, and that of the question."""


class Caller:
    """Finds who is calling. Keeps nothing of a call alive, only which code had none to find, and which had."""

    def __init__(self) -> None:
        self._foreign: set[CodeType] = set()
        self._where: tuple[CodeType, int] | None = None
        self._name = ""
        self._last: Callable[[], Any] = _nobody

    def forget(self) -> None:
        """Look at all code anew: another object may be calling from the same one."""
        self._foreign.clear()
        self._where, self._last = None, _nobody

    def pipeline(self, module: nn.Module) -> Any:
        """Return the nearest object on the stack that holds this module and a scheduler, or None."""
        frame, foreign = sys._getframe(1), self._foreign
        for _ in range(_DEPTH):
            if frame.f_code not in foreign or frame.f_back is None:
                break
            frame = frame.f_back
        if (frame.f_code, id(module)) == self._where:
            value, last = _variable(frame, self._name), self._last()
            if value is last is not None:
                return value
        return self._found(module, sys._getframe(1))[1]

    def says(self, module: nn.Module, name: str) -> Any:
        """Return what the pipeline that is calling has under a name, in its call or as an attribute, or None."""
        frame, found = self._found(module, sys._getframe(1))
        if frame is None:
            return None
        said = _variable(frame, name) if name in frame.f_code.co_varnames else None
        try:
            return getattr(found, name, None) if said is None else said
        except Exception:  # a property of somebody else's: whatever is wrong with it, a run must not fail for it
            return None

    def _found(self, module: nn.Module, frame: FrameType | None) -> tuple[FrameType | None, Any]:
        foreign = self._foreign
        for _ in range(_DEPTH):
            if frame is None:
                break
            if frame.f_code not in foreign:
                for name in _arguments(frame):
                    value = _variable(frame, name)
                    if _holds(value, module):
                        self._where, self._name, self._last = (frame.f_code, id(module)), name, _weakly(value)
                        return frame, value
                foreign.add(frame.f_code)
            frame = frame.f_back
        return None, None


def _nobody() -> None:
    """Nobody was found."""


def _weakly(value: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(value)
    except TypeError:
        return _nobody


def _arguments(frame: FrameType) -> tuple[str, ...]:
    """The names of the arguments of a function's frame; none where it cannot be a pipeline's."""
    code = frame.f_code
    if not code.co_flags & inspect.CO_OPTIMIZED or f"{frame.f_globals.get('__name__', '')}.".startswith(_NEVER):
        return ()
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _variable(frame: FrameType, name: str) -> Any:
    """The value of a variable of a function that is running."""
    found = frame.f_locals
    value = found.get(name)
    if _SNAPSHOTS and frame.f_trace is None and sys.getrefcount(found) <= _ONLY_THE_FRAME:
        found.clear()  # a copy: left as it is, it would keep the call's tensors for as long as the call runs
    return value


def _holds(value: Any, module: nn.Module) -> bool:
    """Whether an object has a scheduler and this module, or what `torch.compile` made of it, among its attributes."""
    held = getattr(value, "__dict__", None)
    if type(held) is not dict or isinstance(value, type):
        return False
    if "_modules" in held:
        held = {**held, **held["_modules"]}
    if "scheduler" not in held and not _has_scheduler(value):
        return False
    for part in held.values():
        if part is module or (isinstance(part, nn.Module) and part._modules.get("_orig_mod") is module):
            return True
    return False


def _has_scheduler(value: Any) -> bool:
    try:
        return hasattr(value, "scheduler")
    except Exception:  # a property of somebody else's
        return False
