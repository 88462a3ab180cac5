"""One and the same forward with a session and without, in turns: for costs that are smaller than a machine's moods."""

from __future__ import annotations

import copy
import gc
import math
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import bwcache
from benchmarks.common import spread
from bwcache.engine import hooks
from bwcache.measure.call import Request, call


def paired(
    pipe: Any, policies: dict[str, bwcache.Policy[Any] | None], asked: Request, rounds: int
) -> dict[str, list[float]]:
    """Of each policy, the seconds of each forward over those of the same forward of a copy without a session.

    A run goes on as it would; after or before every forward, in turns, the copy gets the same arguments.

    Args:
        policies: by name; None for no session on either side, which shows what two equal sides come to.
        rounds: runs of each, in turns.
    """
    ratios: dict[str, list[float]] = {name: [] for name in policies}
    with ExitStack() as undo:
        undo.callback(setattr, pipe, "transformer", pipe.transformer)
        pipe.transformer, plain = copy.deepcopy(pipe.transformer), copy.deepcopy(pipe.transformer)
        for _ in range(rounds):
            for name, policy in policies.items():
                gc.collect()
                ratios[name] += _run(pipe, plain, policy, asked)
    return ratios


def _run(pipe: Any, plain: Any, policy: bwcache.Policy[Any] | None, asked: Request) -> list[float]:
    ratios: list[float] = []

    def beside(inner: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            place = len(ratios)
            copy_first = (place + place // 2) % 2 > 0  # so that both branches of a step go first equally often
            theirs = _timed(plain, args, kwargs)[0] if copy_first else None
            ours, returned = _timed(inner, args, kwargs)
            ratios.append(ours / (theirs or _timed(plain, args, kwargs)[0]))
            return returned

        return called

    with ExitStack() as undo, warnings.catch_warnings():
        warnings.simplefilter("ignore", category=bwcache.NeverReusedWarning)
        if policy is not None:
            undo.enter_context(bwcache.attach(pipe, policy))
        undo.callback(hooks.intercept(pipe.transformer, beside).restore)
        call(pipe, asked)
    return ratios


def _timed(made: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    returned = made(*args, **kwargs)
    return time.perf_counter() - start, returned


def balanced(ratios: list[float]) -> float:
    """The median over pairs of forwards on end, in one of which the copy went first: of each the geometric mean.

    Who goes first finds other caches than who follows, by more than what is measured. The median of single ratios
    would lie in the gap between two heaps of them, nearer to that of the shorter tail.
    """
    return statistics.median(math.sqrt(a * b) for a, b in zip(ratios[::2], ratios[1::2], strict=True))


def over_prompts(pipe: Any, policies: dict[str, bwcache.Policy[Any] | None], asked: list[Request], rounds: int) -> Any:
    """Of each policy the spread, over the prompts, of the balanced ratio, and how many forwards each is of."""
    found = [paired(pipe, policies, each, rounds) for each in asked]
    return {
        name: spread([balanced(ratios[name]) for ratios in found]) | {"forwards": len(found[0][name])}
        for name in policies
    }
