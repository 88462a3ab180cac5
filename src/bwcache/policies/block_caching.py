"""Block Caching: Cache Me if You Can: Accelerating Diffusion Models through Block Caching.

Wimbauer, Wu, Schoenfeld, Dai, Hou, He, Sanakoyeu, Zhang, Tsai, Kohler, Rupprecht, Cremers, Vajda, Wang; arXiv
2312.03209, CVPR 2024. Training-free without its scale-shift head, calibrated, for U-Nets. Symbols of the paper: C[i]
what the spatial transformer i of the U-Net adds to its input, delta the threshold.

1. Calibration, on uncached runs: d[i](t) = |C[i](t) - C[i](t - 1)|_1 / |C[i](t)|_1, averaged over runs.
2. For each transformer by itself: what it added at a computed step is added again until the d since then sum up to more
   than delta; there it is computed.
3. In a run every transformer is computed and replayed at its own steps; nothing is measured. The other layers, ResNets
   among them, run in every step.

Readings: guidance branches with a forward of their own count as runs of their own; of both in one forward the whole
batch is compared.

Deviation: the scale-shift head, which is trained, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bwcache.core import Trace
from bwcache.errors import AttachError, complaint
from bwcache.features import All
from bwcache.models import BlockStack, Place, Site, Tap
from bwcache.policies.checks import expect, number
from bwcache.policies.easycache import newer_divides
from bwcache.policies.entry import Entry, Paper, Table
from bwcache.policies.layer_lists import LayerLists, Lists
from bwcache.policies.measuring import Measuring, settings_of, steps_of, unfit
from bwcache.policies.published import PAPER, Published

PUBLISHED: Mapping[str, Published] = {"LDM-512": Published({"threshold": 0.5}, PAPER, calibrates=True)}
"""By model: delta, with which lists are found."""

KIND = "transformer"
"""The kind of the parts that are cached."""


@dataclass(frozen=True)
class BlockCaching(LayerLists):
    """Replays what each spatial transformer of a U-Net adds, at the steps of a list that was found beforehand.

    Args:
        computed: by the transformer's name in the U-Net, such as "down_blocks.0.attentions.1", the steps at which it is
            computed; from `fitted`. One that is not named is not cached.
        steps: of the runs on which that was found, and of those that can be made with it; None: any.

    Raises:
        SettingError: a list without the first step.
    """

    entry = Entry(
        keeps="1 for each spatial transformer",
        reads="nothing",
        verified="second implementations by plain hooks and, by another hand, in numpy: table, lists and replay",
        calibration="the computed steps of each transformer",
        table=Table(("computed", "steps"), "runs"),
        paper=Paper(
            title="Cache Me if You Can: Accelerating Diffusion Models through Block Caching",
            authors="Wimbauer, Wu, Schoenfeld, Dai, Hou, He, Sanakoyeu, Zhang, Tsai, Kohler, Rupprecht, "
            "Cremers, Vajda, Wang",
            arxiv="2312.03209",
            venue="CVPR 2024",
        ),
    )

    computed: Mapping[str, tuple[int, ...]] = field(hash=False)
    steps: int | None = None

    def __post_init__(self) -> None:
        instead = '{"mid_block.attentions.0": (0, 3, 6)}'
        self.expect_lists("computed", "steps by transformer, 0 among them", instead, 50)

    @property
    def lists(self) -> Lists:
        """By transformer."""
        return self.computed

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """What each of the transformers that are named adds.

        Raises:
            AttachError: there are no spatial transformers.
            SettingError: there is none of a name.
        """
        there = {part.name: part for part in transformers(stack)}
        self.expect_there(stack, "transformer", there)
        return tuple(stack.site(part, keeps="residual") for name, part in there.items() if name in self.computed)

    @classmethod
    def measuring(cls) -> MeasuringTransformers:
        """Return what records d."""
        return MeasuringTransformers()

    @classmethod
    def fitted(cls, traces: Sequence[Trace], threshold: float = 0.5) -> BlockCaching:
        """Return the lists for delta = `threshold` (dimensionless), from runs under `measuring`.

        Raises:
            SettingError: none, runs of another kind, or of different numbers of steps.
        """
        expect(number(threshold) and threshold >= 0, "threshold", threshold, "a number >= 0", "0.5")
        changes, steps = _changes(traces)
        return cls({name: _scanned(own, steps, threshold) for name, own in changes.items()}, steps)


@dataclass(frozen=True)
class MeasuringTransformers(Measuring):
    """Computes everything, and compares what each transformer adds with the step before; see `BlockCaching`."""

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """Each of them."""
        return tuple(map(stack.site, transformers(stack)))

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """What each of them adds; in the order of the sites."""
        how = {"end": "residual", "view": All(), "indicator": newer_divides}
        return tuple(stack.tap(part, **how) for part in transformers(stack))


def transformers(stack: BlockStack) -> tuple[Place, ...]:
    """Return the spatial transformers inside of the blocks.

    Raises:
        AttachError: there are none.
    """
    if KIND not in stack.kinds:
        found = f"{stack.spec.model}, in whose blocks stand no spatial transformers"
        raise AttachError(complaint(found, "a U-Net with some", "choose another policy"))
    return stack.parts(KIND)


def _changes(traces: Sequence[Trace]) -> tuple[dict[str, dict[int, float]], int]:
    """d by transformer and step, and the number of steps."""
    steps = steps_of(traces)
    if steps is None or settings_of(traces, MeasuringTransformers) is None:
        raise unfit(traces, "runs of one number of steps under BlockCaching.measuring()")
    found: dict[str, dict[int, list[float]]] = {}
    for trace in traces:
        names = list(dict.fromkeys(event.site.rpartition("/")[2] for event in trace.events))
        for event in trace.events:
            name = event.site.rpartition("/")[2]
            own = found.setdefault(name, {})
            if event.step > 0 and event.distances:
                own.setdefault(event.step, []).append(event.distances[names.index(name)])
    means = {name: {step: sum(some) / len(some) for step, some in own.items()} for name, own in found.items()}
    return means, steps


def _scanned(changes: Mapping[int, float], steps: int, threshold: float) -> tuple[int, ...]:
    """The steps that are computed: each where the changes since the one before have become more than allowed."""
    computed, spent = [0], 0.0
    for step in range(1, steps):
        spent += changes.get(step, float("inf"))
        if not spent <= threshold:  # NaN too
            computed.append(step)
            spent = 0.0
    return tuple(computed)
