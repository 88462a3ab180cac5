"""What may be said of a comparison, and what may not: no speedup without reuse, no PSNR of a sampler's own noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bwcache.measure.results import TIME_PARTS

MORE_THAN_POSSIBLE = 1.05
"""So many times what the reuse allows is more than its own estimate can be wrong."""
DROWNED = 10.0
"""dB: a pipeline's own noise that is not so much smaller than a difference is a part of it."""
FEWEST_STEPS = 4
"""Of a run in which one can be reused: the first is computed, a change known after the second, the last computed."""
NOISE = "more than is possible: noise of the clock"
"""What is written beside such a speed."""
WORTH_SAYING = 0.02
"""Share of a call that is not denoising, from which on it makes a difference that can be seen."""
USUAL_STEPS = "models are usually run with 20 to 50"


@dataclass(frozen=True)
class Verdict:
    """All prompts of a comparison together.

    Attributes:
        steps: of the runs.
        repeats: pairs of calls of each prompt.
        reuse_rate: share of the forwards that were reused, 0..1.
        speedup: of the whole calls, as measured.
        denoise_speedup: of the denoising, as measured; None where it is not known.
        possible: the most that the reuse rate allows in denoising; None where it is not known.
        psnr: dB, mean over the videos that differ; None where none does.
        ssim: mean.
        own_noise: PSNR in dB of two calls that computed everything from one seed, the worst that was seen; None where
            they were identical.
        parts: seconds of the cached calls by the names of `TIME_PARTS`, all prompts added; None where they are unknown.
    """

    steps: int
    repeats: int
    reuse_rate: float
    speedup: float
    denoise_speedup: float | None
    possible: float | None
    psnr: float | None
    ssim: float
    own_noise: float | None
    parts: dict[str, float] | None = field(default=None, hash=False)

    @classmethod
    def of(cls, summary: dict[str, Any]) -> Verdict:
        """Return the verdict on a comparison, as `Comparison.to_json` has it."""
        total, runs, setting = summary["total"], summary["runs"], summary["environment"]
        seen = [run["psnr"] for run in runs if own_noise_shows(run["reuse_rate"], run["identical"])]
        known = [value for value in (*seen, setting.get("own_noise_psnr")) if value is not None]
        return cls(
            steps=max(run["steps"] for run in runs),
            repeats=setting.get("repeats", 1),
            reuse_rate=total["reuse_rate"],
            speedup=total["speedup"],
            denoise_speedup=total["denoise_speedup"],
            possible=total["ideal_denoise_speedup"],
            psnr=total["psnr"],
            ssim=total["ssim"],
            own_noise=min(known, default=None),
            parts=added_parts(runs, "cached"),
        )

    @property
    def reused(self) -> bool:
        """Whether anything was."""
        return self.reuse_rate > 0

    @property
    def speed_holds(self) -> bool:
        """Whether the measured speedup is one of caching."""
        return self.reused and not self.too_fast

    @property
    def quality_holds(self) -> bool:
        """Whether the measured differences are those that caching made."""
        if self.own_noise is None:
            return True
        return self.reused and self.psnr is not None and self.own_noise - self.psnr > DROWNED

    @property
    def too_fast(self) -> bool:
        """Whether more was measured than this reuse can save."""
        return self.reused and is_too_fast(self.denoise_speedup, self.possible)

    @property
    def plain(self) -> bool:
        """Whether the figures may be read as they are."""
        return self.speed_holds and self.quality_holds

    @property
    def headline(self) -> str:
        """The result: what was found of speed, then of closeness; the other way round where the speed is noise."""
        if self.too_fast and self.quality_holds:
            close = "Identical videos" if self.psnr is None else f"PSNR {self.psnr:.1f} dB, SSIM {self.ssim:.3f}"
            return f"{close}. {self._speed}."
        return f"{self._speed}{self._closeness}"

    @property
    def remarks(self) -> tuple[str, ...]:
        """What else a reader must know."""
        found = []
        if not self.reused and self.steps < FEWEST_STEPS:
            found.append(
                f"{self.steps} step{'' if self.steps == 1 else 's'} are too few: a step can be reused only after "
                f"others were computed; {USUAL_STEPS}."
            )
        if self.own_noise is not None and self.quality_holds:
            found.append(f"{self._two_calls}: the pipeline's own noise, far below what caching changes.")
        return tuple(found)

    @property
    def division(self) -> str | None:
        """How the cached calls divide, and what that leaves of the speedup; None without one or where it is unknown."""
        whole = sum(self.parts.values()) if self.parts is not None else 0.0
        if self.parts is None or whole <= 0 or not self.reused:
            return None
        before, after = (self.parts[name] / whole for name in ("before", "after"))
        said = (
            f"Of the cached call {100 * (1 - before - after):.0f} % is denoising, {100 * before:.0f} % "
            f"{TIME_PARTS['before']} and {100 * after:.0f} % {TIME_PARTS['after']}"
        )
        if not self.plain or self.denoise_speedup is None or before + after < WORTH_SAYING:
            return f"{said}."
        return (
            f"{said}, which are the same with caching: so {self.denoise_speedup:.2f}x in denoising "
            f"{'becomes' if self.speedup < self.denoise_speedup else 'is'} {self.speedup:.2f}x in all."
        )

    @property
    def _speed(self) -> str:
        if not self.reused:
            return "Nothing was reused: both sides computed every step, so there is no speedup to give"
        if self.too_fast:
            again = "with --repeats 3" if self.repeats < 3 else "with more --repeats, and nothing else on the machine"
            return (
                f"Denoising measured as {self.denoise_speedup:.2f}x as fast, where this reuse allows "
                f"{self.possible:.2f}x at most: that is noise of the clock; measure again {again}"
            )
        denoising = "-" if self.denoise_speedup is None else f"{self.denoise_speedup:.2f}x"
        return f"{self.speedup:.2f}x as fast ({denoising} in denoising)"

    @property
    def _closeness(self) -> str:
        if not self.quality_holds:
            yet = "and yet the videos differ" if not self.reused else "and how close the videos are cannot be told"
            return f", {yet}: {self._two_calls}. That is the pipeline's own noise, not the cache's doing."
        if self.psnr is None:
            return ", identical videos." if self.reused else "; the videos are identical."
        return f", PSNR {self.psnr:.1f} dB, SSIM {self.ssim:.3f}."

    @property
    def _two_calls(self) -> str:
        return f"two calls that computed everything from one seed are {self.own_noise:.1f} dB apart"


def is_too_fast(measured: float | None, possible: float | None) -> bool:
    """Return whether more was measured than this reuse can save; not where either speedup is unknown."""
    return measured is not None and possible is not None and measured > MORE_THAN_POSSIBLE * possible


def added_parts(runs: Sequence[dict[str, Any]], side: str) -> dict[str, float] | None:
    """Return the seconds of one side's calls by the names of `TIME_PARTS`, all runs added; None where one lacks them.

    Args:
        runs: of `summary.json`.
        side: "uncached" or "cached".
    """
    found = [run.get(f"{side}_parts") for run in runs]
    rows = [row for row in found if isinstance(row, dict) and set(TIME_PARTS) <= set(row)]
    if len(rows) < len(found):
        return None
    return {part: sum(row[part] for row in rows) for part in TIME_PARTS}


def own_noise_shows(reuse_rate: float, identical: bool) -> bool:
    """Return whether two videos differ though nothing was reused, which must change nothing."""
    return reuse_rate == 0 and not identical
