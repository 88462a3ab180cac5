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

BAR = "progress_bar"
"""What pipelines call the bar that they show over their loop."""

_SNAPSHOTS = sys.version_info < (3, 13)
"""Whether looking at a function's variables makes a copy of them all, which lives as long as the call."""

_ONLY_THE_FRAME = 3
"""References to such a copy that nobody holds but the frame: its own, ours, and that of the question."""

_NOWHERE = (0, None, "", 0)


class Caller:
    """Finds who is calling. Keeps nothing of a call alive, only which code had none to find, and which had."""

    def __init__(self) -> None:
        self._foreign: set[CodeType] = set()
        self._where: tuple[int, CodeType | None, str, int] = _NOWHERE
        self._last: Callable[[], Any] = _nobody

    def forget(self) -> None:
        """Look at all code anew: another object may be calling from the same one."""
        self._foreign.clear()
        self._where, self._last = _NOWHERE, _nobody

    def pipeline(self, module: nn.Module) -> Any:
        """Return the nearest object on the stack that holds this module and a scheduler, or None."""
        depth, code, name, held = self._where
        last = self._last()
        if last is not None and held == id(module):
            try:
                there = sys._getframe(depth)
                if there.f_code is code and _variable(there, name) is last:
                    return last
            except ValueError:  # the stack is not as deep as it was
                pass
        depth, frame, name, found = self._found(module, sys._getframe(1))
        if frame is not None:
            self._where, self._last = (depth, frame.f_code, name, id(module)), _weakly(found)
        return found

    def says(self, module: nn.Module, name: str) -> Any:
        """Return what the pipeline that is calling has under a name, in its call or as an attribute, or None."""
        _, frame, _, found = self._found(module, sys._getframe(1))
        if frame is None:
            return None
        said = _variable(frame, name) if name in frame.f_code.co_varnames else None
        try:
            return getattr(found, name, None) if said is None else said
        except Exception:  # a property of somebody else's: whatever is wrong with it, a run must not fail for it
            return None

    def bar(self, module: nn.Module) -> tuple[Any, Any, Any] | None:
        """Return the pipeline that is calling, and what the bar goes over that it shows, and in how many turns."""
        _, frame, _, pipeline = self._found(module, sys._getframe(1))
        bar = None if frame is None or BAR not in frame.f_code.co_varnames else _variable(frame, BAR)
        return None if bar is None else (pipeline, getattr(bar, "iterable", None), getattr(bar, "total", None))

    def _found(self, module: nn.Module, frame: FrameType | None) -> tuple[int, FrameType | None, str, Any]:
        """How far up the frame is in which it was found, that frame, under which name, and what was found."""
        foreign = self._foreign
        for depth in range(1, _DEPTH):
            if frame is None:
                break
            if frame.f_code not in foreign:
                for name in _arguments(frame):
                    value = _variable(frame, name)
                    if _holds(value, module):
                        return depth, frame, name, value
                foreign.add(frame.f_code)
            frame = frame.f_back
        return 0, None, "", None


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
    if isinstance(value, nn.Module):
        held = {**held, **value._modules}
    if not _has_scheduler(value):
        return False
    for part in held.values():
        if part is module or (isinstance(part, nn.Module) and part._modules.get("_orig_mod") is module):
            return True
    return False


def _has_scheduler(value: Any) -> bool:
    try:
        scheduler = value.scheduler  # of noise, not of jobs or learning rates
        return scheduler is None or hasattr(scheduler, "timesteps") or hasattr(scheduler, "set_timesteps")
    except Exception:  # a property of somebody else's
        return False
