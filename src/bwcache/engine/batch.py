"""How the lanes of a forward lie in its batch, and how a forward runs on some of them.

A lane is what is decided and kept for itself. With guidance in one forward each sample has one row per branch, the
branches one after the other: `[u0, u1, c0, c1]` is two samples in two branches. Both rows of a sample are one lane, or,
where the host names the branches, each row is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bwcache.core import Step


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """The lanes of a forward, as many rows in each.

    Attributes:
        rows: which rows of the batch each lane has, in ascending order; none: the one lane has them all.
        branches: of each lane; None: the step's own.
        samples: of each lane, its ordinal in the batch; None: there is only one, or all decide as one.
        axis: along which the batch lies inside the blocks.
        is_whole: whether the batch is one lane, which is the step's own.
    """

    rows: tuple[tuple[int, ...], ...] = ((),)
    branches: tuple[str | None, ...] = (None,)
    samples: tuple[int | None, ...] = (None,)
    axis: int = 0
    is_whole: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_whole", self.branches == (None,) and self.samples == (None,))

    @classmethod
    def of_samples(cls, samples: int, branches: int = 1, axis: int = 0) -> BatchLayout:
        """Return the layout of so many samples, each with its rows of all branches in one lane."""
        if samples == 1:
            return cls(axis=axis)
        rows = tuple(tuple(branch * samples + sample for branch in range(branches)) for sample in range(samples))
        return cls(rows, (None,) * samples, tuple(range(samples)), axis)

    @classmethod
    def of_branches(cls, names: Sequence[str], samples: int, axis: int = 0, as_one: bool = False) -> BatchLayout:
        """Return the layout of so many samples in branches with names: each row a lane, or each branch (`as_one`)."""
        if len(names) * samples == 1 or (as_one and len(names) == 1):
            return cls(branches=tuple(names), axis=axis)
        if as_one:
            parts = tuple(tuple(range(part * samples, (part + 1) * samples)) for part in range(len(names)))
            return cls(parts, tuple(names), (None,) * len(names), axis)
        rows = tuple((row,) for row in range(len(names) * samples))
        ordinals = tuple(None if samples == 1 else sample for _ in names for sample in range(samples))
        return cls(rows, tuple(name for name in names for _ in range(samples)), ordinals, axis)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def count(self) -> int:
        """How many rows the batch has, where it has lanes."""
        return _count(self.rows)

    def at(self, axis: int) -> BatchLayout:
        """Return the same where the batch lies along another axis."""
        return self if axis == self.axis else replace(self, axis=axis)

    def steps(self, step: Step) -> tuple[Step, ...]:
        """Return where each lane stands in a step."""
        if self.is_whole:
            return (step,)
        return tuple(
            replace(step, branch=step.branch if branch is None else branch, sample=sample)
            for branch, sample in zip(self.branches, self.samples, strict=True)
        )

    def only(self, lanes: Sequence[int]) -> BatchLayout:
        """Return the layout of a forward on these lanes alone, with their rows in the order that they had."""
        if len(lanes) == len(self):
            return self
        kept = {row: i for i, row in enumerate(sorted(row for lane in lanes for row in self.rows[lane]))}
        rows = tuple(tuple(kept[row] for row in self.rows[lane]) for lane in lanes)
        branches = tuple(self.branches[lane] for lane in lanes)
        samples = tuple(self.samples[lane] for lane in lanes)
        return BatchLayout(rows if len(lanes) > 1 else ((),), branches, samples, self.axis)

    def size(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of one lane's part of a tensor of this shape."""
        sizes = list(shape)
        if len(self.rows) > 1:
            sizes[self.axis] //= len(self.rows)
        return tuple(sizes)

    def of(self, tensor: Tensor, lane: int) -> Tensor:
        """Return the part of one lane: a view where its rows lie side by side."""
        if len(self) == 1:
            return tensor
        each = tensor.shape[self.axis] // _count(self.rows)
        parts = [tensor.narrow(self.axis, first * each, rows * each) for first, rows in _runs(self.rows[lane])]
        return parts[0] if len(parts) == 1 else torch.cat(parts, self.axis)

    def joined(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the reverse of `of`, for all lanes in order."""
        if len(self) == 1:
            return tensors[0]
        each = sum(tensor.shape[self.axis] for tensor in tensors) // _count(self.rows)
        parts = [tensors[lane].narrow(self.axis, at * each, rows * each) for lane, at, rows in _pieces(self.rows)]
        return torch.cat(parts, self.axis)

    def take(self, value: Any, lanes: Sequence[int]) -> Any:
        """Return a forward's arguments for some lanes alone: each tensor whose first size is the batch is cut.

        An argument that has a method `of_rows(rows, count)` cuts itself: to these of so many rows.
        """
        if len(lanes) == len(self):
            return value
        if hasattr(value, "of_rows"):
            return value.of_rows(sorted(row for lane in lanes for row in self.rows[lane]), _count(self.rows))
        if isinstance(value, Tensor):
            if value.ndim == 0 or len(value) != _count(self.rows):
                return value
            index = sorted(row for lane in lanes for row in self.rows[lane])
            return value[torch.tensor(index, device=value.device)]
        if type(value) in (list, tuple):
            return type(value)(self.take(item, lanes) for item in value)
        if isinstance(value, dict):
            return {key: self.take(item, lanes) for key, item in value.items()}
        return value

    def merge(self, outputs: Sequence[Any], groups: Sequence[Sequence[int]]) -> Any:
        """Return the outputs of forwards on groups of lanes as that of one forward on all of them."""
        first = outputs[0]
        if isinstance(first, Tensor):
            parts: dict[int, Tensor] = {}
            for output, lanes in zip(outputs, groups, strict=True):
                own = self.only(lanes).at(0)
                parts |= {lane: own.of(output, i) for i, lane in enumerate(lanes)}
            return self.at(0).joined([parts[lane] for lane in sorted(parts)])
        if isinstance(first, dict):
            values = {key: self.merge([output[key] for output in outputs], groups) for key in first}
            return type(first)(**values) if hasattr(first, "to_tuple") else values
        if isinstance(first, (list, tuple)):
            return type(first)(self.merge(items, groups) for items in zip(*outputs, strict=True))
        return first


WHOLE = BatchLayout()
"""The batch decides as one."""


@lru_cache(maxsize=256)
def _count(rows: tuple[tuple[int, ...], ...]) -> int:
    return sum(map(len, rows))


@lru_cache(maxsize=256)
def _runs(rows: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Rows that lie side by side: the first, and how many."""
    found: list[tuple[int, int]] = []
    for row in rows:
        first, count = found[-1] if found else (row, 0)
        if found and row == first + count:
            found[-1] = (first, count + 1)
        else:
            found.append((row, 1))
    return tuple(found)


@lru_cache(maxsize=256)
def _pieces(rows: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, int, int], ...]:
    """What the batch is made of, in order: a lane, its row there, and how many rows of it."""
    pieces: Iterable[tuple[int, int, int, int]] = (
        (first, lane, of.index(first), count) for lane, of in enumerate(rows) for first, count in _runs(of)
    )
    return tuple((lane, at, count) for _, lane, at, count in sorted(pieces))
