"""From a wish to a plan that keeps it: uncached runs, table, plan, weights, a choice, and the proof on other videos.

How many steps to compute is chosen on the videos that the plan is made of. Each of them runs with weights that know
none of them, or were fitted on the others, so that what it comes to is what a new video would. The videos that prove
the plan decide nothing: they run once, under what was chosen. Where it falls short on them they are as good as used,
and the next plan, which they help to make, is proved on videos of further prompts, if there are any.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from bwcache.engine.free import expect_uncached
from bwcache.errors import SettingError, complaint
from bwcache.measure.call import OnProgress, Request
from bwcache.policies.lists import List, best_lists
from bwcache.policies.tuned import Tuned
from bwcache.study.folder import Folder
from bwcache.study.made_for import only_denoiser
from bwcache.study.study import Video
from bwcache.study.tuning.fitting import Rows, as_planned, fitted
from bwcache.study.tuning.recording import Recording, check_scheduler
from bwcache.study.tuning.runs import Closeness, KeptRuns, Runs
from bwcache.study.tuning.tables import TINY, damage
from bwcache.study.tuning.videos import Videos
from bwcache.study.tuning.wish import Wish

MOST = 0.8
"""Share of the steps that a plan may compute: beyond, there is nothing to win."""
PASSES = 3
"""Cached runs of each video, at most: with the weights of `Planned`, then fitted on what the pass before came to."""
RECORDED = 3
"""Recordings of each of these videos that are held at once: uncached, of the pass before, and of this one."""
WORTH = 0.2
"""Decibels that a pass must have brought for another one to be made."""
SLOPE, START = 1.5, -11.5
"""Decibels of decoded videos by those foretold of the final latents: what was seen at 5 to 11 of 30 steps. From the
first measured plan on only the slope counts, and in the end only what was measured."""
GAIN = 1.0
"""Decibels that the passes after the first usually bring."""
MARGIN = 0.3
"""Decibels above the wish that a plan is looked for."""
ENOUGH = 3
"""Videos to calibrate on before it may stop early."""
DIGITS = 2
"""Of decibels in a file; what is said of them is rounded from there, so that both are one figure."""
BUDGET = 12.0
"""Uncached videos' worth of work that a tuning may take."""


@dataclass(frozen=True)
class Fit:
    """A plan with its weights.

    Attributes:
        count: computed steps.
        rows: the weights.
        psnr: dB of each video that it was made of, run with weights that know no video, or were fitted on the others.
    """

    count: int
    rows: Rows
    psnr: tuple[float, ...]

    @property
    def mean(self) -> float:
        """What is to be expected of other videos."""
        return statistics.fmean(self.psnr)


@dataclass(frozen=True)
class Proof:
    """What a plan came to on videos that nothing was chosen on.

    Attributes:
        psnr: dB, one for each video.
        ssim: one for each video.
    """

    psnr: tuple[float, ...]
    ssim: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean PSNR."""
        return statistics.fmean(self.psnr)

    def interval(self) -> tuple[float, float]:
        """Return where the mean PSNR lies with 95 %: bootstrap over the videos."""
        drawn = np.random.default_rng(0).choice(np.array(self.psnr), (10_000, len(self.psnr))).mean(axis=1)
        low, high = np.percentile(drawn, (2.5, 97.5))
        return float(low), float(high)


@dataclass(frozen=True)
class Outcome:
    """What a tuning found.

    Attributes:
        policy: ready to attach.
        proof: of it.
        kept: whether the wish was kept there.
        proved: the videos of the proof.
        calibrated: videos that it was made of.
        expected: computed steps -> mean PSNR on these, of all plans that were looked at.
        short: computed steps and mean PSNR of plans that fell short before, each on videos of its own.
    """

    policy: Tuned
    proof: Proof
    kept: bool
    proved: tuple[Video, ...]
    calibrated: int
    expected: dict[int, float]
    short: tuple[tuple[int, float], ...] = ()

    def quality(self, wanted: str) -> dict[str, Any]:
        """Return what was measured, as a `TunedFile` holds it; `wanted` is the wish in words."""
        low, high = self.proof.interval()
        return {
            "wanted": wanted,
            "kept": self.kept,
            "psnr": round(self.proof.mean, DIGITS),
            "worst": round(min(self.proof.psnr), DIGITS),
            "interval": [round(low, DIGITS), round(high, DIGITS)],
            "ssim": round(statistics.fmean(self.proof.ssim), 4),
            "videos": len(self.proof.psnr),
            "calibrated_on": self.calibrated,
            "expected": {str(count): round(found, 2) for count, found in sorted(self.expected.items())},
            "short_before": [[count, round(found, 2)] for count, found in self.short],
        }

    def speed(self) -> dict[str, Any]:
        """Return what is to be expected, as a `TunedFile` holds it."""
        steps, computed = len(self.policy.schedule) - 1, len(self.policy.steps)
        return {"computed": computed, "steps": steps, "expected": round(steps / computed, 2)}


class Search:
    """The way from a wish to a plan, whoever makes the runs.

    Args:
        model: class of the denoiser.
        runs: makes and counts them.
        videos: to make and to prove the plan on.
        say: called with a line at each stage.

    Raises:
        SettingError: a budget that is not enough for any plan.
    """

    def __init__(self, model: str, runs: KeptRuns, videos: Videos, say: Callable[[str], None] = print) -> None:
        check_budget(runs.budget, videos, runs.steps, runs.option)
        self.model, self.runs, self.videos, self.say = model, runs, videos, say
        self._full: list[Recording] = []
        self._plans: dict[int, List] = {}
        self._fits: dict[int, Fit] = {}

    def run(self, wish: Wish) -> Outcome:
        """Return the plan for a wish.

        Raises:
            SettingError: no plan comes to it, none can be proved within the budget, or the scheduler does not tell what
                is needed.
        """
        short: list[tuple[int, float]] = []
        while True:
            self._calibrated()
            fit = self._chosen(wish)
            proof = self._proof(fit)
            kept = wish.psnr is None or proof.mean >= wish.psnr
            after = None if kept else self.videos.after_a_shortfall()
            if after is None or not self._affords_again(after, fit.count):
                expected = {count: one.mean for count, one in self._fits.items()}
                made_of = len(self._full)
                return Outcome(self._policy(fit), proof, kept, self.videos.verify, made_of, expected, tuple(short))
            short.append((fit.count, proof.mean))
            self.say("less than was asked for: the next plan is made of these videos too, and proved on others")
            self.videos = after

    def fits(self, counts: Sequence[int]) -> list[Fit]:
        """Return the plans of so many computed steps, fitted on the videos to calibrate on; nothing is proved.

        `policy` returns what each amounts to.

        Raises:
            SettingError: there is no plan of so many steps, or the budget does not go so far.
        """
        self._planned()
        for count in counts:
            if count not in self._plans:
                raise _refused(f"{count} of {self._steps} steps", f"2 to {max(self._plans)}", "ask for one within")
            self._fits[count] = self._fitted(count)
        return [self._fits[count] for count in counts]

    def policy(self, count: int) -> Tuned:
        """Return the best policy of so many computed steps, one of `counts`, as far as it is known without a run."""
        return self._policy(self._fits.get(count) or Fit(count, self._first_rows(count), ()))

    @property
    def counts(self) -> list[int]:
        """Numbers of computed steps that there are plans for."""
        return sorted(self._plans)

    @property
    def _steps(self) -> int:
        return len(self._full[0].shares) - 1

    def _calibrated(self) -> None:
        """Make the uncached runs, and the plans."""
        self._planned()
        for place, video in enumerate(self.videos.verify):
            self.runs.uncached(video, f"uncached, to verify on {place + 1}")

    def _planned(self) -> None:
        """Make the uncached runs to calibrate on, and the plans."""
        self._full, self._fits = self._uncached_runs(), {}
        counts = possible(self._steps)
        self._plans = {count: plan for count, plan in planned(self._full, counts[-1]).items() if count in counts}

    def _uncached_runs(self) -> list[Recording]:
        """The videos to calibrate on; fewer, where another one does not change the plan."""
        found: list[Recording] = []
        before: list[tuple[int, ...]] = []
        wanted = self.videos.calibrate
        for place, video in enumerate(wanted):
            found.append(self.runs.uncached(video, f"uncached, to calibrate on {place + 1}"))
            steps = len(found[0].shares) - 1
            plan = planned(found, max(2, steps // 2))
            lists = [plan[some].steps for some in sorted({max(2, steps // part) for part in (5, 4, 3)})]
            further = wanted[place + 1 :]
            if place + 1 >= ENOUGH and lists == before and further and not self.runs.ran(further[0]):
                self.say(f"the plan does not change any more: {place + 1} of {len(wanted)} videos are enough")
                break
            before = lists
        return found

    def _chosen(self, wish: Wish) -> Fit:
        if wish.psnr is not None:
            return self._for_quality(wish.psnr)
        assert wish.speed is not None
        return self._for_speed(wish.speed)

    def _for_speed(self, speed: float) -> Fit:
        count = check_speed(speed, self._steps)
        self._expect_affordable(count)
        return self._fitted(count)

    def _for_quality(self, wanted: float) -> Fit:
        """The plan with the fewest computed steps that keeps the wish on the videos that it is made of.

        A look is a pass with weights by the uncached runs; what further passes bring is known once one plan had them.
        """
        looks, refined = dict[int, float](), dict[int, float]()
        most, count, good = max(self._plans), self._smallest(wanted + MARGIN, START), 0
        while count not in refined and (not good or self._affordable(count, proved=good)):
            self._expect_affordable(count)
            if count in looks:
                refined[count] = self._fitted(count).mean
            else:
                looks[count] = self._fitted(count, 1).mean
            gain = max((refined[one] - looks[one] for one in refined), default=GAIN)
            reached = {one: refined.get(one, looks[one] + gain) for one in looks}
            least = max((one for one in reached if reached[one] < wanted), default=0) + 1
            good = min((one for one, fit in self._fits.items() if fit.mean >= wanted), default=0)
            if not good and least > most:
                raise self._out_of_reach(wanted)
            following = self._smallest(wanted + MARGIN, reached[count] - self._foretold(count))
            count = min(max(following, least), good or most)
        return self._fitted(good)

    def _fitted(self, count: int, passes: int = PASSES) -> Fit:
        """The best of some passes over the videos, as far as the budget goes.

        The first one is under weights that no video was needed for; in each of the others every video has weights that
        were fitted on the others' runs in the pass before.
        """
        rows, runs, fits = self._first_rows(count), self._full, list[Fit]()
        apart = [rows] * len(runs)
        for turn in range(passes):
            if turn > 1 and fits[-1].mean < fits[-2].mean + WORTH:
                break
            if turn:
                rows = self._rows(count, runs, rows)
                apart = [self._rows(count, runs, own, i) for i, own in enumerate(apart)]
                if not self._affordable(count, apart):
                    break
            runs, close = self._cached(count, apart)
            fits.append(Fit(count, rows, tuple(one.psnr for one in close)))
        best = max(fits, key=lambda fit: fit.mean)
        if self._fits.get(count) != best:
            how = "with the weights of Planned" if best is fits[0] else "each video with weights fitted on the others"
            self.say(f"{self._words(count)}: {best.mean:.1f} dB, {how}")
        self._fits[count] = best
        return best

    def _cached(self, count: int, rows: Sequence[Rows]) -> tuple[list[Recording], list[Closeness]]:
        """A run of each video that the plan is made of, with its own weights."""
        found = []
        for place, own in enumerate(rows):
            what = f"{self._words(count)}, video {place + 1}/{len(rows)}"
            policy = self._policy(Fit(count, own, ()))
            found.append(self.runs.cached(self.videos.calibrate[place], policy, what))
        return [recording for recording, _ in found], [close for _, close in found]

    def _first_rows(self, count: int) -> Rows:
        """Weights that no run is needed for."""
        return as_planned(self._plans[count].steps, self._full[0].shares)

    def _rows(self, count: int, runs: Sequence[Recording], rows: Rows, without: int | None = None) -> Rows:
        """Weights by these runs, or by all but one of them."""
        chosen = [i for i in range(len(runs)) if i != without]
        full = [self._full[i] for i in chosen]
        return fitted(self._plans[count].steps, full, [runs[i] for i in chosen], rows)

    def _proof(self, fit: Fit) -> Proof:
        close = [
            self.runs.shown(video, self._policy(fit), f"verifying {self._words(fit.count)}, video {place + 1}")
            for place, video in enumerate(self.videos.verify)
        ]
        proof = Proof(tuple(one.psnr for one in close), tuple(one.ssim for one in close))
        mean, worst = round(proof.mean, DIGITS), f"the worst {round(min(proof.psnr), DIGITS):.1f}"
        self.say(f"{self._words(fit.count)}: {mean:.1f} dB on {len(close)} videos not used, {worst}")
        return proof

    def _policy(self, fit: Fit) -> Tuned:
        short = tuple(tuple(round(weight, 5) for weight in row) for row in fit.rows)
        return Tuned(self._plans[fit.count].steps, short, self._full[0].shares, self.model)

    def _affordable(self, count: int, rows: Sequence[Rows] = (), proved: int = 0) -> bool:
        """Whether a pass over all videos, and the proof behind it, are within the budget.

        Args:
            count: computed steps.
            rows: weights of each video, if they are known: what has run under them takes nothing.
            proved: computed steps of another plan, that may have to be proved instead.
        """
        policies = [self._policy(Fit(count, own, ())) for own in rows]
        ran = sum(map(self.runs.ran, self.videos.calibrate, policies))
        proof = len(self.videos.verify) * max(proved - count, 0)
        return self._price(count) - ran * count + proof <= self.runs.left

    def _affords_again(self, videos: Videos, count: int) -> bool:
        """Whether another round is within the budget, with one step more than this one."""
        made_of = len(self._full) + len(self.videos.verify)
        price = len(videos.verify) * self.runs.steps + (made_of + len(videos.verify)) * (count + 1)
        return price <= self.runs.left

    def _expect_affordable(self, count: int) -> None:
        if self._affordable(count):
            return
        need = math.ceil(10 * (self.runs.used + self._price(count)) / self.runs.steps) / 10
        known = {count: fit.mean for count, fit in self._fits.items()}
        so_far = "".join(f"; {self._words(one)} come to {known[one]:.1f} dB" for one in sorted(known))
        found = f"{self.runs.option} {self.runs.budget:g}, of which {self.runs.work:.1f} are used{so_far}"
        expected = f"{need:g} to try {count} of {self._steps}"
        raise _refused(found, expected, f"give more with {self.runs.option}, fewer videos, or a lower grade")

    def _price(self, count: int) -> int:
        return (len(self._full) + len(self.videos.verify)) * count

    def _foretold(self, count: int) -> float:
        """Decibels of the decoded videos, up to a constant."""
        scale = float(np.mean([one.latents[-1].var() for one in self._full]))
        return SLOPE * 10 * math.log10(max(scale, TINY) / max(self._plans[count].damage, TINY))

    def _smallest(self, wanted: float, offset: float) -> int:
        enough = (count for count in sorted(self._plans) if self._foretold(count) + offset >= wanted)
        return next(enough, max(self._plans))

    def _words(self, count: int) -> str:
        return f"{count} of {self._steps} steps computed"

    def _out_of_reach(self, wanted: float) -> SettingError:
        best = max(self._fits.values(), key=lambda fit: fit.mean)
        at = f"{best.count} of {self._steps} steps, {self._steps / best.count:.2g}x, come to {best.mean:.1f} dB"
        return _refused(f"{wanted:g} dB, which no plan reaches here", f"less ({at})", "ask for less")


class Tuner(Search):
    """A tuning of a pipeline.

    Args:
        pipe: a pipeline, loaded and on its device.
        request: steps, sizes and guidance; its prompt and seed are those of each video.
        videos: to make and to prove the plan on.
        folder: where runs are kept.
        budget: the work allowed, in uncached videos.
        on_progress: called at every step.
        say: called with a line at each stage.

    Raises:
        SettingError: more than one denoiser, or one without a row; a scheduler that does not tell the clean latents; a
            budget that is not enough for any plan.
        AttachError: a cache is at work on the pipeline, so that its runs would not be uncached.
    """

    runs: Runs

    def __init__(
        self,
        pipe: Any,
        request: Request,
        videos: Videos,
        folder: Folder,
        budget: float = BUDGET,
        on_progress: OnProgress | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        model, spec = only_denoiser(pipe)
        expect_uncached(pipe)
        check_scheduler(pipe.scheduler, request.steps)
        self.pipe, self.request, self.budget = pipe, request, budget
        super().__init__(model, Runs(pipe, spec, request, folder, budget, on_progress), videos, say)


def tune(
    pipe: Any,
    request: Request,
    wish: Wish,
    videos: Videos,
    folder: Folder,
    budget: float = BUDGET,
    on_progress: OnProgress | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Return the plan for a wish; arguments and errors as of `Tuner`."""
    return Tuner(pipe, request, videos, folder, budget, on_progress, say).run(wish)


def planned(recordings: Sequence[Recording], most: int) -> dict[int, List]:
    """Return for each number of computed steps, 1 to `most`, the list of least damage."""
    return {len(one.steps): one for one in islice(best_lists(damage(recordings)), most)}


def possible(steps: int) -> range:
    """Return the numbers of computed steps that plans are made for: of one alone no error could be told."""
    return range(2, max(2, math.floor(steps * MOST)) + 1)


def check_speed(speed: float, steps: int) -> int:
    """Return how many steps a plan of such a speed computes.

    Raises:
        SettingError: there is no plan of so few, or so many.
    """
    counts, count = possible(steps), math.floor(steps / speed + 1e-9)
    if count not in counts:
        found = f"grade {speed:g}x of {steps} steps, which is {_computed(count)}"
        expected = f"{steps / counts[-1]:.3g}x ({_computed(counts[-1])}) to {steps / counts[0]:g}x ({counts[0]})"
        raise _refused(found, expected, "ask for one within")
    return count


def _computed(count: int) -> str:
    return f"{count} computed" if count else "less than one computed"


def check_budget(budget: float, videos: Videos, steps: int, option: str = "--budget", timed: int = 0) -> None:
    """Raises `SettingError` for a budget that does not go beyond the uncached videos as far as a plan of two steps.

    Args:
        budget: the work allowed, in uncached videos.
        videos: to make and to prove the plan on.
        steps: of each.
        option: how the budget is called where it is given.
        timed: steps that are computed before the first video, to tell what it will take.
    """
    least = videos.first * (1 + 2 / steps) + timed / steps
    if budget < least:
        found = f"{option} {budget:g} for {videos.first} videos, {len(videos.verify)} of them to verify on"
        raise _refused(found, f"at least {math.ceil(10 * least) / 10:g}", "give more, or fewer videos")


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
