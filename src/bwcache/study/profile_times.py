"""Where the time of a call goes: hooks around the denoiser's forwards and around every block, and what they saw."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from bwcache.engine import timing
from bwcache.errors import BWCacheError, complaint
from bwcache.measure.latency import computing_device, finish_device_work
from bwcache.models import BlockStack
from bwcache.study.profile_results import UNCACHED_PARTS, BlockFigures, TimeSplit

Interval = tuple[timing.Mark, timing.Mark]


class Stopwatch:
    """Takes the time of every block and of every denoiser forward of one call, by hooks from outside.

    On a CUDA device by events on the stream, so that nothing waits while the call runs, except once before the first
    forward.
    """

    def __init__(self, pipe: Any, stacks: Sequence[BlockStack]) -> None:
        self._device = computing_device(pipe)
        self._stacks = stacks
        self._begun = 0.0
        self._first: float | None = None
        self._forwards: list[Interval] = []
        self._blocks: dict[str, list[Interval]] = {}
        self._hooks = contextlib.ExitStack()

    def __enter__(self) -> Stopwatch:
        for stack in self._stacks:
            self._watch(stack.module, self._forwards, self._arrive)
            for block in stack.blocks:
                self._watch(block.module, self._blocks.setdefault(f"{stack.name}/{block.name}", []))
        finish_device_work(self._device)
        self._begun = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.close()

    def split(self, seconds: float, inside_blocks: float | None = None) -> dict[str, Any]:
        """The parts of a call that took so many seconds in all, the number of forwards, and each block's calls.

        Args:
            seconds: of the whole call.
            inside_blocks: what all blocks took, where they are not called one by one.
        """
        if self._first is None:
            raise BWCacheError(complaint("no forward of the denoiser", "at least one", "report the pipeline"))
        before = self._first - self._begun
        denoising = timing.seconds([(self._forwards[0][0], self._forwards[-1][1])])
        inside = timing.seconds(self._forwards)
        calls = {name: [timing.seconds([pair]) for pair in pairs] for name, pairs in self._blocks.items()}
        blocks = inside_blocks if inside_blocks is not None else math.fsum(map(math.fsum, calls.values()))
        return {
            "before": before,
            "blocks": blocks,
            "rest": inside - blocks,
            "between": denoising - inside,
            "after": max(seconds - before - denoising, 0.0),
            "forwards": len(self._forwards),
            "calls": {name: [len(one), statistics.median(one) if one else None] for name, one in calls.items()},
        }

    def _arrive(self) -> None:
        if self._first is None:
            finish_device_work(self._device)
            self._first = time.perf_counter()

    def _watch(self, module: nn.Module, into: list[Interval], first: Callable[[], None] | None = None) -> None:
        start: list[timing.Mark] = []

        def enter(*_: Any) -> None:
            if first:
                first()
            start.append(timing.mark(self._device))

        def leave(*_: Any) -> None:
            into.append((start.pop(), timing.mark(self._device)))

        self._hooks.callback(module.register_forward_pre_hook(torch.compiler.disable(enter)).remove)
        self._hooks.callback(module.register_forward_hook(torch.compiler.disable(leave)).remove)


def time_split(timed: dict[str, Any], exact: float | None) -> TimeSplit:
    """The middle one of the timed calls."""
    middle = sorted(timed["splits"], key=lambda one: sum(one[part] for part in UNCACHED_PARTS))[
        len(timed["splits"]) // 2
    ]
    return TimeSplit(
        **{part: middle[part] for part in UNCACHED_PARTS},
        indicator=statistics.median(timed["samples"]),
        exact_indicator=exact,
        plain_seconds=statistics.median(timed["plain"]),
        forwards=middle["forwards"],
        repeats=len(timed["splits"]),
    )


def block_figures(
    names: Sequence[str], splits: Sequence[dict[str, Any]], flops: dict[str, int]
) -> tuple[BlockFigures, ...]:
    """Each block's seconds, median over the calls of each repeat and then over the repeats, and its operations."""
    figures = []
    for name in names:
        own = [split["calls"][name] for split in splits]
        seconds = [median for _, median in own if median is not None]
        shares = [
            count * median / (split["blocks"] + split["rest"] + split["between"])
            for (count, median), split in zip(own, splits, strict=True)
            if median is not None
        ]
        figures.append(
            BlockFigures(
                name,
                statistics.median(seconds) if seconds else None,
                statistics.median(shares) if shares else None,
                flops.get(name),
            )
        )
    return tuple(figures)
