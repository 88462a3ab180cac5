"""Every policy's ladder of settings, from careful to bold.

Each spreads out from published settings, in both directions, as far as mean PSNR of 25 to 40 dB of the small models
lies: thresholds of one model are not those of another. What a ladder is from stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.lead.plans import plans_for
from bwcache.core import Trace
from bwcache.features import Last, Linear
from bwcache.policies import (
    AdaCache,
    Adaptive,
    BlockCaching,
    BlockwiseAdaptiveCache,
    BWCache,
    DBCache,
    DBPrune,
    DeepCache,
    DiCache,
    EasyCache,
    FasterCache,
    FirstBlock,
    FixedInterval,
    Foresight,
    HiCache,
    HierarchicalLatentCache,
    MagCache,
    MeanCache,
    MixCache,
    Planned,
    Policy,
    PyramidAttentionBroadcast,
    SeaCache,
    SenCache,
    SmoothCache,
    Sortblock,
    SpeCa,
    Spectrum,
    TaylorSeer,
    TeaCache,
    Tuned,
)
from bwcache.policies.sortblock import PUBLISHED as SORTBLOCK
from bwcache.study.solvers import compute_range

if TYPE_CHECKING:
    from benchmarks.race.race import Race

Rungs = Callable[["Race"], Mapping[str, Policy[Any]]]
"""Makes the settings in a race: in a few words -> the policy; from careful to bold."""


@dataclass(frozen=True)
class Ladder:
    """The settings of one method.

    Attributes:
        family: its name in the table.
        kind: of its policies.
        rungs: makes them.
        source: where they are from.
        guarded: whether guards are laid around it; not around a list of steps, which says itself what is computed.
    """

    family: str
    kind: type[Policy[Any]]
    rungs: Rungs
    source: str
    guarded: bool = True


def each(make: Callable[..., Policy[Any]], *rungs: Any) -> Rungs:
    """Return a ladder of a policy, whatever the race."""
    pairs = [rung if isinstance(rung, tuple) else (rung,) for rung in rungs]
    return lambda race: {", ".join(map(str, pair)): make(*pair) for pair in pairs}


def by_steps(make: Callable[..., Policy[Any]], short: Sequence[Any], long: Sequence[Any]) -> Rungs:
    """Return one ladder for runs of up to 30 steps, and one for longer ones."""
    return lambda race: each(make, *(short if race.steps <= 30 else long))(race)


def fitted(kind: type[Policy[Any]], make: Callable[..., Policy[Any]], *rungs: Any) -> Rungs:
    """Return a ladder of a policy with a table, from the race's runs for calibration."""
    return lambda race: each(partial(make, race.traces(kind.measuring())), *rungs)(race)


def counted(kind: Any) -> Rungs:
    """Return the ladder of a policy with lists, by the number of computed steps."""

    def rungs(race: Race) -> Mapping[str, Policy[Any]]:
        traces = race.traces(kind.measuring())
        return each(partial(kind.fitted, traces), *reversed(compute_range(COMPUTED, race.steps)))(race)

    return rungs


WAN = SORTBLOCK["Wan2.1"].settings["coefficients"]
CHANGES = (0.05, 0.08, 0.12, 0.2, 0.3, 0.45)
INTERVALS = (2, 3, 4, 5, 6, 8, 10, 12)
ORDERS = ((2, 1), (3, 1), (4, 1), (5, 1), (7, 1), (9, 1)), ((3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (9, 1), (11, 1))
"""Interval and order."""

COMPUTED = (0.12, 0.16, 0.2, 0.27, 0.35, 0.45)
"""Computed steps, as shares of the run."""


def planned(predictor: Any, name: str, source: str, makes_up: bool | None = None) -> Ladder:
    """The planned list with another forecast."""
    tolerances = (0.006, 0.009, 0.012, 0.016, 0.02, 0.025, 0.03, 0.037, 0.045, 0.06, 0.09)
    return Ladder(
        name,
        Planned,
        each(lambda one: Planned(one, predictor=predictor, makes_up=makes_up), *reversed(tolerances)),
        source,
        False,
    )


def adacache(moreg: bool) -> Rungs:
    """The codebooks of 30 and of 100 steps, their thresholds stretched."""

    def rungs(race: Race) -> Mapping[str, Policy[Any]]:
        fast = AdaCache(moreg=moreg, tail=0)
        slow = replace(fast, thresholds=(0.03, 0.05, 0.07, 0.09, 0.11), rates=(12, 10, 8, 6, 4, 3))
        own = fast if race.steps <= 30 else slow

        def stretched(times: float) -> AdaCache:
            return replace(own, thresholds=tuple(one * times for one in own.thresholds))

        return each(stretched, 0.3, 0.6, 1, 2, 4)(race)

    return rungs


def magcache(traces: Sequence[Trace], delta: float, longest: int) -> MagCache:
    """Its retention is left to the guards."""
    return MagCache.fitted(traces, delta, longest, retention=0.0)


def sencache(traces: Sequence[Trace], epsilon: float, longest: int) -> SenCache:
    """A tenth of epsilon at the beginning."""
    return SenCache.fitted(traces, epsilon, epsilon / 10, longest)


LADDERS: tuple[Ladder, ...] = (
    Ladder("fixed interval", FixedInterval, each(lambda n: FixedInterval(n, 1, 0), *INTERVALS), "the plain baseline"),
    Ladder(
        "fixed interval, linear",
        FixedInterval,
        each(lambda n: FixedInterval(n, 1, 0, Linear()), *INTERVALS),
        "the plain baseline with a line through the last two computed steps",
    ),
    Ladder(
        "BWCache",
        BWCache,
        each(BWCache, (0.1, 0.1), (0.15, 0.1), (0.2, 0.1), (0.25, 0.1), (0.25, 0.2), (0.35, 0.2), (0.5, 0.3)),
        "the paper's modes: .15, .20 and .25 with R 10 % of the steps",
    ),
    Ladder(
        "BWCache, as ported",
        BWCache,
        each(
            lambda delta, r: BWCache(delta, r, retrigger=False, compared="inputs"),
            *((0.05, 2), (0.1, 2), (0.15, 2), (0.15, 3), (0.25, 3), (0.35, 5)),
        ),
        "the published ports: .15 with R 3, of what enters attention",
    ),
    Ladder(
        "TeaCache",
        TeaCache,
        fitted(TeaCache, TeaCache.fitted, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6),
        "the paper's thresholds: .1 to .2; .25 to .8 for FLUX",
    ),
    Ladder(
        "MagCache",
        MagCache,
        fitted(MagCache, magcache, (0.06, 2), (0.06, 3), (0.12, 4), (0.24, 6), (0.5, 10), (1.0, 14)),
        "the authors' .06 with 3 skipped steps, up to .24 with 6 for FLUX",
    ),
    Ladder(
        "EasyCache",
        EasyCache,
        each(lambda tau: EasyCache(tau, 1), 0.025, 0.05, 0.08, 0.12, 0.2, 0.35, 0.6),
        "the authors' .025 for HunyuanVideo, .05 for Wan 2.1",
    ),
    Ladder(
        "SeaCache",
        SeaCache,
        each(
            lambda delta, longest: SeaCache(delta, longest=longest, tail=0),
            *((0.15, 2), (0.25, 2), (0.35, 3), (0.5, 4), (0.8, 6), (1.2, 8)),
        ),
        "diffusers' .25 with 2 skipped steps",
    ),
    Ladder(
        "SenCache",
        SenCache,
        fitted(SenCache, sencache, (0.03, 2), (0.07, 3), (0.15, 3), (0.3, 4), (0.6, 6), (1.2, 10)),
        "the authors' .1 and .2 for Wan 2.1 with 2 and 3 skipped steps, a tenth in the first fifth of the run",
    ),
    Ladder("FirstBlock", FirstBlock, each(FirstBlock, *CHANGES), "diffusers' .05; .06 to .12 in ParaAttention"),
    Ladder(
        "DBCache",
        DBCache,
        each(lambda threshold: DBCache(threshold, front=1, warmup=0), *CHANGES),
        "cache-dit's .08 to .12, with one block in front (F1B0), as of a dozen blocks",
    ),
    Ladder(
        "DBPrune",
        DBPrune,
        each(lambda threshold: DBPrune(threshold, first=1, warmup=0), *CHANGES),
        "cache-dit's .08, with one block in front, as of a dozen blocks",
    ),
    Ladder(
        "DiCache",
        DiCache,
        each(lambda delta: DiCache(delta, retention=0.0), 0.05, 0.1, 0.2, 0.4, 0.6, 0.9),
        "the authors' .1 for HunyuanVideo, .08 for Wan 2.1, .4 for FLUX",
    ),
    Ladder(
        "AdaCache",
        AdaCache,
        adacache(False),
        "the paper's codebooks for 30 and 100 steps, thresholds stretched .3 to 4 times",
    ),
    Ladder("AdaCache, MoReg", AdaCache, adacache(True), "as AdaCache"),
    Ladder(
        "HierarchicalLatentCache",
        HierarchicalLatentCache,
        each(
            lambda *deltas: HierarchicalLatentCache(deltas, tail=0),
            *((0.005, 0.01), (0.01, 0.02), (0.02, 0.05), (0.05, 0.1), (0.1, 0.3)),
        ),
        "rates of the paper; its thresholds are not published, these are ours",
    ),
    Ladder(
        "TaylorSeer, lite",
        TaylorSeer,
        by_steps(lambda n, order: TaylorSeer(n, order, 1, lite=True), *ORDERS),
        "the paper's N 5 and 6, O 1; one tensor for all blocks",
    ),
    Ladder(
        "TaylorSeer",
        TaylorSeer,
        by_steps(lambda n, order: TaylorSeer(n, order, 1), *ORDERS),
        "the paper's N 5 and 6, O 1",
    ),
    Ladder(
        "HiCache, lite",
        HiCache,
        by_steps(lambda n, order: HiCache(n, order, 1, lite=True), *ORDERS),
        "the paper's sigma .5; as TaylorSeer",
    ),
    Ladder(
        "HiCache",
        HiCache,
        by_steps(lambda n, order: HiCache(n, order, 1), *ORDERS),
        "the paper's sigma .5; as TaylorSeer",
    ),
    Ladder(
        "Spectrum",
        Spectrum,
        each(lambda n, grows: Spectrum(n, grows, 1), (2, 0), (2, 0.1), (2, 0.25), (2, 0.75), (3, 1), (2, 3)),
        "the authors' alpha .75 and 3 with N 2",
    ),
    Ladder(
        "Spectrum, half a line",
        Spectrum,
        each(
            lambda n, grows: Spectrum(n, grows, 1, share=0.5), *((2, 0), (2, 0.1), (2, 0.25), (2, 0.75), (3, 1), (2, 3))
        ),
        "the authors' advice: half of the curve, half of a line",
    ),
    Ladder(
        "MeanCache",
        MeanCache,
        counted(MeanCache),
        "the paper's gamma 4, by the number of computed steps",
        guarded=False,
    ),
    Ladder(
        "SpeCa, lite",
        SpeCa,
        each(
            lambda tau, decay, free, most: SpeCa(tau, decay, 0.0, free, most, 1, 1, lite=True),
            *((0.02, 0.1, 1, 4), (0.05, 0.1, 2, 5), (0.1, 0.1, 2, 6), (0.3, 0.1, 3, 8), (1.0, 0.1, 4, 12)),
        ),
        "the authors': .1 with drafts up to 5 for DiT, 1 with 12 for HunyuanVideo; order 1",
    ),
    Ladder(
        "SpeCa",
        SpeCa,
        each(
            lambda tau, decay, free, most: SpeCa(tau, decay, 0.0, free, most, 1, 1),
            *((0.02, 0.1, 1, 4), (0.05, 0.1, 2, 5), (0.1, 0.1, 2, 6), (0.3, 0.1, 3, 8), (1.0, 0.1, 4, 12)),
        ),
        "as SpeCa, lite",
    ),
    Ladder(
        "Foresight",
        Foresight,
        each(lambda scale, reuses: Foresight(scale, reuses, 0.1), (0.5, 1), (1.0, 2), (2.0, 3), (2.0, 4), (4.0, 6)),
        "the paper's gamma .5 to 2, N 1 to 4",
    ),
    Ladder(
        "Sortblock",
        Sortblock,
        each(
            lambda interval, beta: Sortblock(interval, beta, 1000.0, 0.0, WAN),
            *((2, 0.3), (3, 0.1), (4, 0.1), (5, 0.1), (7, 0.1), (9, 0.1)),
        ),
        "the authors' polynomial for Wan, K 4 to 9, beta .1; over all timesteps",
    ),
    Ladder(
        "SmoothCache",
        SmoothCache,
        fitted(SmoothCache, SmoothCache.fitted, 0.05, 0.08, 0.12, 0.18, 0.25, 0.35),
        "the authors' alpha .08, .18 and .35, lags up to 3",
        guarded=False,
    ),
    Ladder(
        "PyramidAttentionBroadcast",
        PyramidAttentionBroadcast,
        each(
            lambda spatial, cross: PyramidAttentionBroadcast(spatial, spatial, cross),
            *((2, 2), (2, 4), (2, 6), (4, 8), (6, 12)),
        ),
        "the paper's 2, 4 and 6",
        guarded=False,
    ),
    Ladder(
        "FasterCache",
        FasterCache,
        each(lambda attention, guidance: FasterCache(attention, guidance=guidance), (2, 2), (2, 5), (3, 5), (4, 8)),
        "the authors' 2 and 5",
        guarded=False,
    ),
    Ladder(
        "MixCache",
        MixCache,
        each(
            lambda interval, longest, low, high: MixCache(1, interval, longest, low, high),
            *((2, 2, 0.05, 0.2), (3, 5, 0.05, 0.2), (4, 8, 0.1, 0.3), (6, 12, 0.2, 0.6), (8, 16, 0.4, 1.0)),
        ),
        "the paper gives no numbers; these are ours",
    ),
    Ladder(
        "DeepCache",
        DeepCache,
        each(lambda interval, branch: DeepCache(interval, branch), (2, 0), (3, 0), (3, 2), (5, 0), (5, 2), (7, 0)),
        "the authors' intervals 2 to 5, branches 0 to 2",
    ),
    Ladder(
        "BlockCaching",
        BlockCaching,
        fitted(BlockCaching, BlockCaching.fitted, 0.1, 0.2, 0.35, 0.5, 0.8, 1.2),
        "the paper's delta .5",
        guarded=False,
    ),
    Ladder(
        "Adaptive",
        Adaptive,
        each(Adaptive, 0.005, 0.01, 0.02, 0.03, 0.045, 0.07, 0.11, 0.2),
        "this project",
        guarded=False,
    ),
    planned(Planned().predictor, "Planned", "this project"),
    planned(Last(), "Planned, replay", "this project's lists, with replay for the forecast"),
    planned(Linear(), "Planned, linear", "this project's lists, with a line for the forecast", makes_up=False),
    Ladder(
        "Tuned",
        Tuned,
        lambda race: {str(len(one.policy.steps)): one.policy for one in reversed(plans_for(race))},
        "this project: lists and weights as bwcache tune makes them, by the number of computed steps",
        guarded=False,
    ),
    Ladder(
        "BlockwiseAdaptiveCache",
        BlockwiseAdaptiveCache,
        counted(BlockwiseAdaptiveCache),
        "the paper's union of 3, by the number of updates",
        guarded=False,
    ),
)
"""In the order in which they run."""

LEFT_OUT: Mapping[str, str] = {
    "NeverReuse": "reuses nothing",
    "StepList": "is any list; Planned, MeanCache and the fixed interval are lists",
    "PerDenoiser": "is for two denoisers",
    "Guarded": "is around the others",
    "SkipDiT": "needs a model that was trained with long skips",
    "FlowCache": "is for video that is made chunk by chunk",
    "FlashBlock": "is for video that is made chunk by chunk",
}
"""Policies without a ladder, and why."""
