"""An interrupt of one rank's pipeline, heard whenever its loop asks: all that decide together stop at the same step.

A loop asks between any two of its steps, by its pipeline's property `interrupt`. What it is told there is what all
ranks know, and not what this one alone was told.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from bwcache.engine.session import Session

ASKED = "interrupt"
"""What pipelines call the property that their loops read."""


def follow(undo: ExitStack, session: Session, module: nn.Module) -> None:
    """Have the loop of the pipeline that is calling ask the session whether it is interrupted.

    An object cannot have a property of its own: until `undo`, the pipeline is one of a class that differs from its own
    in this one alone.
    """
    pipeline = session.here.clock.caller.pipeline(module)
    kind = type(pipeline)
    own = getattr(kind, ASKED, None)
    if not isinstance(own, property) or own.fget is None or isinstance(own.fget, _Asking):
        return
    names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    asking = type(kind.__name__, (kind,), {**names, ASKED: property(_Asking(session, own.fget))})
    pipeline.__class__ = asking

    def back() -> None:
        if type(pipeline) is asking:
            pipeline.__class__ = kind

    undo.callback(back)


class _Asking:
    """Tells the session of an interrupt, and then whether there is one."""

    def __init__(self, session: Session, own: Any) -> None:
        self._session, self._own = session, own

    def __call__(self, pipeline: Any) -> Any:
        self._session.hear_interrupt(pipeline)
        return self._own(pipeline)
