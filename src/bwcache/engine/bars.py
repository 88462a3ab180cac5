"""The bars that a pipeline shows over its loop: how many steps it has, and when it ends or breaks off."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import nn

from bwcache.engine import hooks
from bwcache.engine.clock import Loop
from bwcache.engine.clock.caller import BAR
from bwcache.errors import NeverReusedWarning, warn

if TYPE_CHECKING:
    from bwcache.engine.session import Session


def follow(undo: ExitStack, target: Any, session: Session) -> None:
    """Tell the session of each loop over which a pipeline, or a block of a modular one, shows a bar."""
    for part in _showing(target):
        hooks.stand_before(undo, part, "progress_bar", functools.partial(_noting, target, session))


def _showing(target: Any) -> list[Any]:
    """What shows a bar over a loop: a pipeline, or those blocks of a modular one that are loops."""
    shown = [target] if hasattr(target, "progress_bar") else []
    parts = getattr(getattr(target, "_blocks", target), "sub_blocks", None)
    return shown + [found for part in (parts or {}).values() for found in _showing(part)]


def follow_caller(session: Session, module: nn.Module) -> None:
    """Listen to the bar of a pipeline that is calling and that the session was not attached to."""
    caller = session.here.clock.caller
    pipeline = caller.pipeline(module)
    if pipeline is not None and not session.is_of(pipeline):
        _listen(caller.says(module, BAR), pipeline, session)


def _noting(pipeline: Any, session: Session, inner: Callable[..., Any]) -> Callable[..., Any]:
    def progress_bar(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(("iterable", "total"), args, strict=False)) | kwargs
        _warn_if_replaced(pipeline, session)
        session.here.clock.loop = Loop.shown(pipeline, given.get("iterable"), given.get("total"))
        bar = inner(*args, **kwargs)
        _listen(bar, pipeline, session)
        return bar

    return progress_bar


def _listen(bar: Any, pipeline: Any, session: Session) -> None:
    """Frees what is kept as soon as a loop breaks off: by an exception, Ctrl-C or an interrupt; hears of an interrupt.

    A bar speaks once, in its own thread, and only until its pipeline shows another: tqdm closes bars again as they are
    collected as garbage, which may be in the middle of any later run and while any exception is being handled.
    """
    close = getattr(bar, "close", None)
    if close is None or not hasattr(bar, "__dict__") or "close" in vars(bar):
        return
    token = session.here.bars[id(pipeline)] = object()

    def closing() -> None:
        close()
        shown = session.here.bars
        if shown.get(id(pipeline)) is not token:
            return
        del shown[id(pipeline)]
        if sys.exc_info()[0] is not None or getattr(pipeline, "_interrupt", False):
            session.end_run()

    bar.close = closing
    update = getattr(bar, "update", None)
    alone = session.related.alone and not (dist.is_available() and dist.is_initialized())
    if update is None or alone:
        return

    def updating(*args: Any, **kwargs: Any) -> Any:
        found = update(*args, **kwargs)
        if session.here.bars.get(id(pipeline)) is token:
            session.hear_interrupt(pipeline)
        return found

    bar.update = updating


def _warn_if_replaced(pipeline: Any, session: Session) -> None:
    for name, denoiser in session.denoisers.items():
        if not denoiser.is_in_use:
            warn(
                f"{name} of {type(pipeline).__name__} is another module than the session was attached to: nothing is "
                "reused in it; call bwcache.enable(…, replace=True) after a component was replaced",
                NeverReusedWarning,
            )
