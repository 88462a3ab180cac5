"""What a comparison found: one row per prompt, and all of them together."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bwcache.core.trace import Trace
from bwcache.measure.frames import Frames

TIME_PARTS = {
    "before": "text encoding, noise",
    "blocks": "blocks",
    "indicator": "indicator",
    "rest": "rest of the denoiser",
    "between": "guidance, scheduler",
    "after": "decoding",
}
"""Where the time of a call goes, and how that is called."""


@dataclass(frozen=True)
class Pair:
    """The two videos of one prompt, float32 [F, H, W, 3] in 0..1."""

    uncached: Frames
    cached: Frames


@dataclass(frozen=True)
class Run:
    """What one prompt showed. Seconds are medians over the repeats.

    Attributes:
        prompt: the text.
        seed: of the noise.
        steps: denoising steps.
        computed: steps with at least one branch computed.
        reused: steps with every branch reused.
        first_trigger: index of the first reused step, k; None when none was.
        reuse_rate: share of the denoiser's forwards that were reused, 0..1.
        uncached_seconds: the whole call without the policy.
        cached_seconds: the whole call with it.
        uncached_denoise_seconds: denoising alone.
        cached_denoise_seconds: denoising alone.
        ideal_denoise_speedup: what the reuse rate allows if what is reused (blocks, or all) costs nothing.
        psnr: dB against the uncached video; infinity when identical.
        ssim: against the uncached video.
        indicator_share: time spent measuring the indicator, as a share of the cached denoising time, 0..1.
        extra_memory_bytes: kept between steps for the policy.
        hidden_bytes: one hidden state of one branch, for comparison; a tensor of the latents' shape where the denoiser
            itself is the site.
        notes: warnings of the session.
        trace: every decision and its reason.
        ms_ssim: against the uncached video; None for frames that are too small.
        lpips: against the uncached video, lower is closer; None where it cannot be measured.
        lpips_backbone: whose features LPIPS compared.
        unmeasured: why one of these is None.
        uncached_parts: where the uncached call's time went, seconds by the names of `TIME_PARTS`; None where that is
            unknown.
        cached_parts: where the cached call's time went.
        vmaf: against the uncached video, 0..100; None where it cannot be measured.
        xpsnr: dB against the uncached video; infinity for equal luma; None where it cannot be measured.
        motion_kept: how much the video moves over how much the uncached one does; None where it cannot be measured.
    """

    prompt: str
    seed: int
    steps: int
    computed: int
    reused: int
    first_trigger: int | None
    reuse_rate: float
    uncached_seconds: float
    cached_seconds: float
    uncached_denoise_seconds: float | None
    cached_denoise_seconds: float | None
    ideal_denoise_speedup: float | None
    psnr: float
    ssim: float
    indicator_share: float | None
    extra_memory_bytes: int
    hidden_bytes: int
    notes: tuple[str, ...]
    trace: Trace = dataclasses.field(repr=False)
    ms_ssim: float | None = None
    lpips: float | None = None
    lpips_backbone: str | None = None
    unmeasured: tuple[str, ...] = ()
    uncached_parts: dict[str, float] | None = None
    cached_parts: dict[str, float] | None = None
    vmaf: float | None = None
    xpsnr: float | None = None
    motion_kept: float | None = None

    @property
    def speedup(self) -> float:
        """Of the whole call."""
        return self.uncached_seconds / self.cached_seconds

    @property
    def denoise_speedup(self) -> float | None:
        """Of the denoising alone."""
        return ratio(self.uncached_denoise_seconds, self.cached_denoise_seconds)

    @property
    def identical(self) -> bool:
        """Whether the two videos do not differ in any pixel."""
        return math.isinf(self.psnr)

    @property
    def hidden_states_per_branch(self) -> float | None:
        """The extra memory in units of `hidden_bytes`, for each guidance branch; `kept_in` names the unit."""
        branches = len({event.branch for event in self.trace.events})
        return ratio(self.extra_memory_bytes, self.hidden_bytes * branches)

    def to_json(self) -> dict[str, Any]:
        """Plain values; PSNR is null for identical videos, XPSNR for equal luma."""
        row = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "trace"}
        row["psnr"] = _finite(self.psnr)
        row["xpsnr"] = None if self.xpsnr is None else _finite(self.xpsnr)
        row["notes"], row["unmeasured"] = list(self.notes), list(self.unmeasured)
        return row | {
            "identical": self.identical,
            "speedup": self.speedup,
            "denoise_speedup": self.denoise_speedup,
            "hidden_states_per_branch": self.hidden_states_per_branch,
            "kept_in": self.trace.kept_in,
            "planned_bytes": self.trace.planned_bytes,
            "host_bytes": self.trace.host_bytes,
        }


@dataclass(frozen=True)
class Total:
    """All prompts together: times added, rates and quality averaged, memory at its highest.

    ``psnr`` is the mean over the runs that differ from their reference (None when none does), in dB, and so is
    ``xpsnr``. ``ms_ssim``, ``lpips``, ``vmaf``, ``xpsnr`` and ``motion_kept`` are None when one of the runs lacks them.
    The worst ``motion_kept`` is the one farthest from 1.
    """

    speedup: float
    denoise_speedup: float | None
    ideal_denoise_speedup: float | None
    reuse_rate: float
    psnr: float | None
    ssim: float
    indicator_share: float | None
    extra_memory_bytes: int
    worst_psnr: float | None
    worst_ssim: float
    identical_runs: int
    realised_share_of_ideal: float | None
    uncached_seconds: float
    cached_seconds: float
    uncached_denoise_seconds: float | None
    cached_denoise_seconds: float | None
    ms_ssim: float | None = None
    worst_ms_ssim: float | None = None
    lpips: float | None = None
    worst_lpips: float | None = None
    vmaf: float | None = None
    worst_vmaf: float | None = None
    xpsnr: float | None = None
    worst_xpsnr: float | None = None
    motion_kept: float | None = None
    worst_motion_kept: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Everything a comparison found, without the videos.

    Attributes:
        model: name, classes and size.
        policy: name and fields.
        environment: versions, device, precision, and the settings of the measurement.
        block_share: share of the denoising time inside the blocks that the policy may reuse, 0..1.
        runs: one per prompt.
    """

    model: dict[str, Any]
    policy: dict[str, Any]
    environment: dict[str, Any]
    block_share: float | None
    runs: tuple[Run, ...]

    @property
    def total(self) -> Total:
        """All runs together."""
        runs = self.runs
        finite = [run.psnr for run in runs if not run.identical]
        uncached = add(run.uncached_denoise_seconds for run in runs)
        cached = add(run.cached_denoise_seconds for run in runs)
        denoise, ideal = ratio(uncached, cached), _ideal(runs)
        measured = [run.indicator_share for run in runs if run.indicator_share is not None]
        scales, distances = _all_known(run.ms_ssim for run in runs), _all_known(run.lpips for run in runs)
        seen = _all_known(run.vmaf for run in runs)
        moving = _all_known(run.motion_kept for run in runs)
        weighed = [value for value in _all_known(run.xpsnr for run in runs) if math.isfinite(value)]
        return Total(
            speedup=sum(run.uncached_seconds for run in runs) / sum(run.cached_seconds for run in runs),
            denoise_speedup=denoise,
            ideal_denoise_speedup=ideal,
            reuse_rate=statistics.fmean(run.reuse_rate for run in runs),
            psnr=statistics.fmean(finite) if finite else None,
            ssim=statistics.fmean(run.ssim for run in runs),
            indicator_share=statistics.fmean(measured) if measured else None,
            extra_memory_bytes=max(run.extra_memory_bytes for run in runs),
            worst_psnr=min(finite) if finite else None,
            worst_ssim=min(run.ssim for run in runs),
            identical_runs=len(runs) - len(finite),
            realised_share_of_ideal=ratio(denoise, ideal),
            uncached_seconds=sum(run.uncached_seconds for run in runs),
            cached_seconds=sum(run.cached_seconds for run in runs),
            uncached_denoise_seconds=uncached,
            cached_denoise_seconds=cached,
            ms_ssim=statistics.fmean(scales) if scales else None,
            worst_ms_ssim=min(scales, default=None),
            lpips=statistics.fmean(distances) if distances else None,
            worst_lpips=max(distances, default=None),
            vmaf=statistics.fmean(seen) if seen else None,
            worst_vmaf=min(seen, default=None),
            xpsnr=statistics.fmean(weighed) if weighed else None,
            worst_xpsnr=min(weighed, default=None),
            motion_kept=statistics.fmean(moving) if moving else None,
            worst_motion_kept=max(moving, key=lambda kept: abs(kept - 1), default=None),
        )

    def to_json(self) -> dict[str, Any]:
        """What ``summary.json`` holds: plain values, no infinities."""
        return {
            "model": self.model,
            "policy": self.policy,
            "environment": self.environment | {"block_share": self.block_share},
            "runs": [run.to_json() for run in self.runs],
            "total": dataclasses.asdict(self.total),
        }


def _ideal(runs: Sequence[Run]) -> float | None:
    """Of all runs together: uncached time over the time that would be left."""
    left = [ratio(run.uncached_denoise_seconds, run.ideal_denoise_speedup) for run in runs]
    return ratio(add(run.uncached_denoise_seconds for run in runs), add(left))


def add(values: Iterable[float | None]) -> float | None:
    """The sum of what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def median(values: Iterable[float | None]) -> float | None:
    """The median of what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def ratio(above: float | None, below: float | None) -> float | None:
    """One over the other; None when either is unknown or the lower one is nothing."""
    return above / below if above is not None and below else None


def _all_known(values: Iterable[float | None]) -> list[float]:
    """The values; none of them when one is unknown."""
    listed = list(values)
    known = [value for value in listed if value is not None]
    return known if len(known) == len(listed) else []


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
