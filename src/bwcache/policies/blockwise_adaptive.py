"""BAC: Block-wise Adaptive Caching for Accelerating Diffusion Policy.

Ji, Meng, Cui, Li, Hua, Chen, Wang; arXiv 2506.13456, ICLR 2026. Training-free, calibrated, for denoisers of actions.
Symbols of the paper: X[t] what a sublayer (self attention, cross attention, FFN) returns at step t of T, M how many
steps update it, S[a, t] the cosine of X[a] and X[t], n how many sublayers are bubbled.

1. Calibration, on uncached runs: S of each sublayer, averaged over runs.
2. Adaptive caching scheduler, for each sublayer by itself: what is updated at a and held until b is worth the sum of
   S[a, t] over a <= t <= b; of all lists of M updates, step 0 among them, the one that is worth most, by a dynamic
   programme over the number of updates and the last one.
3. Bubbling union: the error of a sublayer is |X[i] - X[j]|, mean over its entries and all pairs of steps. The n
   sublayers with the largest are updated also wherever any FFN of their own or a later layer is, because what that FFN
   gets of them must not be stale. With n < 2 that is left out.
4. In a run every sublayer is computed and replayed at its own steps; nothing is measured.

Readings: S is of all entries of a sublayer's output at once. Guidance branches, samples of a batch and forwards of
several prompts count as runs of their own. Where attention and FFN leave a block by one projection, that counts as an
FFN. The authors' code also updates everything in the last two of its 100 steps; here the lists alone say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bwcache.core import Event, Trace
from bwcache.errors import AttachError, complaint
from bwcache.features import All, absolute, cosine_distance
from bwcache.models import BlockStack, Place, Site, Tap
from bwcache.policies.checks import expect, whole
from bwcache.policies.entry import Entry, Paper, Table
from bwcache.policies.layer_lists import LayerLists, Lists
from bwcache.policies.measuring import Measuring, expect_finite, settings_of, unfit
from bwcache.policies.published import CODE, Published

PUBLISHED: Mapping[str, Published] = {
    "Diffusion Policy, 100 steps": Published(
        {"count": 10, "union": 3}, f"{CODE}; union is 5 in its example for the kitchen", calibrates=True
    ),
}
"""By model: M and n, with which lists are found."""

Updates = dict[str, tuple[int, ...]]
"""The steps at which a sublayer is computed, by its name."""


@dataclass(frozen=True)
class BlockwiseAdaptiveCache(LayerLists):
    """Replays each attention and each feed-forward net at the steps of a list of its own that was found beforehand.

    Args:
        updates: by the sublayer's name, such as "blocks.0.attn1", the steps at which it is computed; from `fitted`. One
            that is not named is not cached.
        steps: of the runs on which that was found, and of those that can be made with it; None: any.

    Raises:
        SettingError: a list without the first step.
    """

    entry = Entry(
        keeps="1 for each attention and feed-forward net",
        reads="nothing",
        verified="a second implementation by plain hooks: lists, union and replay, on an action denoiser too",
        calibration="the computed steps of each sublayer",
        table=Table(("updates", "steps"), "runs"),
        paper=Paper(
            title="Block-wise Adaptive Caching for Accelerating Diffusion Policy",
            authors="Ji, Meng, Cui, Li, Hua, Chen, Wang",
            arxiv="2506.13456",
            venue="ICLR 2026",
        ),
    )

    updates: Mapping[str, tuple[int, ...]] = field(hash=False)
    steps: int | None = None

    def __post_init__(self) -> None:
        self.expect_lists("updates", "steps by sublayer, 0 among them", '{"blocks.0.attn1": (0, 3, 6)}', 100)

    @property
    def lists(self) -> Lists:
        """By sublayer."""
        return self.updates

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """The sublayers that are named, each for itself.

        Raises:
            AttachError: the blocks have no sublayers.
            SettingError: they have none of this name.
        """
        there = {part.name: part for part in sublayers(stack)}
        self.expect_there(stack, "sublayer", there)
        return tuple(stack.site(part) for name, part in there.items() if name in self.updates)

    @classmethod
    def measuring(cls, steps: int = 100) -> MeasuringSublayers:
        """Return what records S and the errors of runs of up to so many steps, >= 2."""
        expect(whole(steps, 2), "steps", steps, "a whole number >= 2", "100")
        return MeasuringSublayers(steps - 1)

    @classmethod
    def fitted(cls, traces: Sequence[Trace], count: int = 10, union: int = 3) -> BlockwiseAdaptiveCache:
        """Return the lists for M = `count` updates and n = `union` bubbled sublayers, from runs under `measuring`.

        Raises:
            SettingError: none, runs of another kind, of different numbers of steps, with NaN in them, or a value
                outside its range.
        """
        expect(whole(count, 1), "count", count, "a whole number of updates >= 1", "10")
        expect(whole(union, 0), "union", union, "a whole number of sublayers >= 0", "3")
        measured = _measured(traces)
        updates = {each.name: scheduled(each.similarity, count) for each in measured}
        return cls(bubbled(updates, measured, union), len(measured[0].similarity))


@dataclass(frozen=True)
class MeasuringSublayers(Measuring):
    """Computes everything, and compares what each sublayer returns with all steps before; `BlockwiseAdaptiveCache`."""

    longest: int = 99

    def __post_init__(self) -> None:
        expect(whole(self.longest, 1), "longest", self.longest, "a whole number of steps >= 1", "99")

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """Each sublayer, named with its kind and the ordinal of its layer, which the traces must say."""
        return tuple(stack.site(part, name=f"{part.kind} {part.block} {part.name}") for part in sublayers(stack))

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """Each sublayer against as many steps before, in the order of the sites: by its cosine, then by its error."""
        lags = tuple(range(1, self.longest + 1))
        return tuple(
            stack.tap(part, view=All(), indicator=indicator, lags=lags)
            for part in sublayers(stack)
            for indicator in (cosine_distance, absolute)
        )


@dataclass(frozen=True, eq=False)
class Sublayer:
    """What was measured of one sublayer.

    Attributes:
        name: such as "blocks.0.attn1".
        kind: of the part: "self", "cross", "ffn", …
        layer: the ordinal of its block.
        similarity: S, `[T, T]`, of which the half with a <= t counts.
        error: |X[i] - X[j]|, mean over all pairs of steps.
    """

    name: str
    kind: str
    layer: int
    similarity: np.ndarray
    error: float

    @property
    def feeds_forward(self) -> bool:
        """Whether it is an FFN, or the projection that one shares with attention."""
        return self.kind.endswith("ffn") or self.kind == "out"


def sublayers(stack: BlockStack) -> tuple[Place, ...]:
    """Return the parts of all blocks.

    Raises:
        AttachError: there are none.
    """
    found = stack.parts()
    if not found:
        what = f"{stack.spec.model}, of whose blocks no parts are known"
        raise AttachError(complaint(what, "a row with parts", "name them in its row, or choose another policy"))
    return found


def scheduled(similarity: np.ndarray, count: int) -> tuple[int, ...]:
    """Return the `count` update steps from 0 on that are worth most; all, where there are no more.

    Args:
        similarity: S, `[T, T]`.
        count: M, >= 1.
    """
    steps = len(similarity)
    held = np.cumsum(np.triu(similarity), axis=1)  # [a, b]: what holding a until b is worth
    worth = np.full(steps, -np.inf)  # of the best list so far that ends with an update at each step, without its hold
    worth[0], came_from = 0.0, []
    for _ in range(min(count, steps) - 1):
        further = np.full((steps, steps), -np.inf)
        further[:, 1:] = worth[:, None] + held[:, :-1]
        further[np.tril_indices(steps)] = -np.inf
        came_from.append(further.argmax(axis=0))
        worth = further.max(axis=0)
    path = [int((worth + held[:, -1]).argmax())]
    for before in reversed(came_from):
        path.insert(0, int(before[path[0]]))
    return tuple(path)


def bubbled(updates: Updates, measured: Sequence[Sublayer], count: int) -> Updates:
    """Return the lists, those of the `count` sublayers with the largest errors with the FFNs' behind them added."""
    if count < 2:
        return updates
    found = dict(updates)
    for each in sorted(measured, key=lambda one: -one.error)[:count]:
        behind = (updates[one.name] for one in measured if one.feeds_forward and one.layer >= each.layer)
        found[each.name] = tuple(sorted(set(updates[each.name]).union(*behind)))
    return found


def _measured(traces: Sequence[Trace]) -> list[Sublayer]:
    """What was measured of each sublayer, in call order."""
    lanes = [lane for trace in traces for lane in _lanes(trace)]
    kinds = {(tuple(event.site for event in lane[0]), len(lane)) for lane in lanes}
    measured = settings_of(traces, MeasuringSublayers) is not None
    if not measured or len(kinds) != 1 or not all(_is_whole(lane) for lane in lanes):
        raise unfit(traces, "whole runs of one number of steps under BlockwiseAdaptiveCache.measuring(as many steps)")
    expect_finite(traces)
    sites, _ = next(iter(kinds))
    tables = np.mean([_tables(lane) for lane in lanes], axis=0)
    said = [site.rpartition("/")[2].split(" ", 2) for site in sites]
    return [
        Sublayer(name, kind, int(layer), 1 - cosines, _mean_of_pairs(errors))
        for (kind, layer, name), (cosines, errors) in zip(said, tables, strict=True)
    ]


def _lanes(trace: Trace) -> list[list[list[Event]]]:
    """For each denoiser, branch and sample its forwards, each a row for each sublayer."""
    found: dict[tuple[str, str, int | None], dict[int, list[Event]]] = {}
    for event in trace.events:
        key = (event.site.rpartition("/")[0], event.branch, event.sample)
        found.setdefault(key, {}).setdefault(event.step, []).append(event)
    return [list(forwards.values()) for forwards in found.values()]


def _is_whole(lane: Sequence[Sequence[Event]]) -> bool:
    """Whether it is of all steps of a run, each compared with all before it."""
    sites = [event.site for event in lane[0]]
    return all(
        [event.site for event in rows] == sites
        and rows[0].step == step
        and rows[0].total == len(lane)
        and (step == 0 or len(rows[0].distances or ()) >= 2 * len(sites) * step)
        for step, rows in enumerate(lane)
    )


def _tables(lane: Sequence[Sequence[Event]]) -> np.ndarray:
    """Cosine distances and mean absolute ones of each two steps, `[sublayers, 2, T, T]`, above the diagonal."""
    found = np.zeros((len(lane[0]), 2, len(lane), len(lane)))
    for step, rows in enumerate(lane[1:], start=1):
        by_lag = np.reshape(rows[0].distances or (), (len(rows), 2, -1))
        found[:, :, :step, step] = by_lag[:, :, :step][:, :, ::-1]
    return found


def _mean_of_pairs(errors: np.ndarray) -> float:
    pairs = errors[np.triu_indices(len(errors), 1)]
    return float(pairs.mean()) if len(pairs) else 0.0
