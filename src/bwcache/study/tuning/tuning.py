"""From a wish to a plan that keeps it: uncached runs, table, plan, weights, proof on videos that nothing was chosen on.

Every run is made once. The number of computed steps is found by foretelling: the table says how much better one number
is than another, runs say where that scale lies. What was chosen is measured on videos of other prompts; where it falls
short of the wish there, more steps are computed, and where it leaves room, fewer.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bwcache.core.files import whole_file
from bwcache.engine import attach
from bwcache.errors import SettingError, complaint
from bwcache.measure.call import OnProgress, Request, call
from bwcache.measure.frames import Frames
from bwcache.measure.quality import psnr, ssim
from bwcache.models import denoisers
from bwcache.models.table import row_of
from bwcache.policies.tuned import Tuned
from bwcache.study.folder import Folder, key
from bwcache.study.results import CEILING
from bwcache.study.study import Video
from bwcache.study.tuning.fitting import Rows, fitted
from bwcache.study.tuning.planning import Plan, plans
from bwcache.study.tuning.recording import Recording, recorded
from bwcache.study.tuning.tables import damage
from bwcache.study.tuning.wish import Wish

MOST = 0.8
"""Share of the steps that a plan may compute: beyond, there is nothing to win."""
PASSES = 2
"""Times that the weights are fitted on cached runs."""
SLOPE, START = 1.5, -11.5
"""Decibels of decoded videos by those foretold of the final latents: what was seen at 5 to 11 of 30 steps. From the
first measured plan on only the slope counts, and in the end only what was measured."""
GAIN = 1.0
"""Decibels that the second fit usually brings."""
MARGIN = 0.3
"""Decibels above the wish that a plan is chosen for: it is measured on other videos."""
TRIES = 4
"""Plans that are proved at most, and plans that are looked at before."""
BUDGET = 12.0
"""Uncached videos' worth of work within which fewer steps are tried where a plan has kept the wish already."""
LEAST = 2
"""Videos to prove a plan on."""
ENOUGH = 3
"""Videos to calibrate on before it may stop early."""


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
        return statistics.mean(self.psnr)

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
        calibrated: videos that it was made of.
        tried: computed steps -> mean PSNR of all plans that were proved.
        work: of everything, in uncached videos.
    """

    policy: Tuned
    proof: Proof
    calibrated: int
    tried: dict[int, float]
    work: float


@dataclass
class _Full:
    """An uncached run."""

    video: Video
    recording: Recording
    frames: Frames


@dataclass
class Tuner:
    """One tuning.

    Args:
        pipe: a pipeline, loaded and on its device.
        request: steps, sizes and guidance; its prompt and seed are those of each video.
        calibrate: videos to make the plan of.
        verify: videos of other prompts, to prove it on.
        folder: where uncached runs are kept.
        on_progress: called at every step.
        say: called with a line at each stage.

    Raises:
        SettingError: more than one denoiser, or too few videos.
    """

    pipe: Any
    request: Request
    calibrate: Sequence[Video]
    verify: Sequence[Video]
    folder: Folder
    on_progress: OnProgress | None = None
    say: Callable[[str], None] = print
    work: float = 0.0
    _full: list[_Full] = field(default_factory=list)
    _plans: dict[int, Plan] = field(default_factory=dict)

    def __post_init__(self) -> None:
        modules = denoisers(self.pipe)
        if len(modules) != 1:
            found = f"{len(modules)} denoisers ({', '.join(modules)}) in {type(self.pipe).__name__}"
            raise _refused(found, "one", "tune a pipeline with a single one")
        check_videos(self.calibrate, self.verify)
        self._module = next(iter(modules.values()))
        spec = row_of(type(self._module))
        if spec is None:
            found = f"{type(self._module).__name__}, which has no row in the table of models"
            raise _refused(found, "a model that is known", "see them: bwcache models")
        self._spec = spec

    def run(self, wish: Wish) -> Outcome:
        """Return the plan for a wish.

        Raises:
            SettingError: no plan comes to it, or the scheduler does not tell what is needed.
        """
        self._full = self._uncached_runs()
        self._proved = [self._uncached(video, f"to verify on {i + 1}") for i, video in enumerate(self.verify)]
        most = max(2, math.floor(self._steps * MOST))
        self._plans = {count: plan for count, plan in self._planned(self._full, most).items() if count > 1}
        if wish.speed is not None:
            return self._for_speed(wish.speed)
        assert wish.psnr is not None
        return self._for_quality(wish.psnr)

    @property
    def _steps(self) -> int:
        return len(self._full[0].recording.shares) - 1

    def _for_speed(self, speed: float) -> Outcome:
        count = math.floor(self._steps / speed + 1e-9)
        if count not in self._plans:
            found = f"grade {speed:g}x of {self._steps} steps"
            least, most = min(self._plans), max(self._plans)
            expected = f"{self._steps / most:.2g}x to {self._steps / least:g}x"
            raise _refused(found, expected, "ask for one within")
        rows, _ = self._refined(count, self._first_rows(count), self._runs(count, self._first_rows(count)))
        proof = self._proof(count, rows)
        return self._outcome(count, rows, proof, {count: proof.mean})

    def _for_quality(self, wanted: float) -> Outcome:
        offset: float | None = None
        count, looked, tried = self._smallest(wanted, START), set[int](), dict[int, float]()
        good: dict[int, tuple[Rows, Proof]] = {}
        for _ in range(TRIES):
            count, rows, offset = self._looked_at(count, wanted, offset, looked)
            proof = self._proof(count, rows)
            tried[count] = proof.mean
            offset = proof.mean - self._foretold(count)
            if proof.mean >= wanted:
                good[count] = rows, proof
            best = min(good, default=None)
            count = self._next(wanted, offset, tried, best)
            if count in tried or (best is not None and self.work + self._price(count) > BUDGET):
                break
        if not good:
            raise self._out_of_reach(wanted, tried)
        best = min(good)
        return self._outcome(best, *good[best], tried)

    def _price(self, count: int) -> float:
        """What it takes to fit and prove one more plan, in uncached videos."""
        return count / self._steps * (PASSES * len(self._full) + len(self._proved))

    def _next(self, wanted: float, offset: float, tried: dict[int, float], best: int | None) -> int:
        """The number of steps to try after these: fewer where one kept the wish, else more."""
        failed = [count for count, found in tried.items() if found < wanted]
        count = max(self._smallest(wanted + MARGIN * 3 ** len(failed), offset), max(failed, default=0) + 1)
        return min(count, max(self._plans)) if best is None else min(count, best)

    def _looked_at(
        self, count: int, wanted: float, offset: float | None, looked: set[int]
    ) -> tuple[int, Rows, float | None]:
        """A number of steps that should keep the wish, and its weights: the first cached runs say where it lies."""
        while True:
            rows = self._first_rows(count)
            runs = self._runs(count, rows)
            looked.add(count)
            known = offset is not None
            offset = _mean(found for _, found in runs) - self._foretold(count) + GAIN if not known else offset
            assert offset is not None
            other = self._smallest(wanted + MARGIN, offset)
            if known or other == count or other in looked or len(looked) > TRIES:
                rows, last = self._refined(count, rows, runs)
                self.say(f"{self._words(count)}: {last:.1f} dB on the videos that it was made of")
                return count, rows, offset
            self.say(f"{self._words(count)}: {offset + self._foretold(count):.1f} dB are to be expected")
            count, offset = other, None

    def _first_rows(self, count: int) -> Rows:
        """Weights from the uncached runs alone."""
        steps, full = self._plans[count].steps, [one.recording for one in self._full]
        return fitted(steps, full, full, tuple((1.0,) for _ in steps))

    def _refined(self, count: int, rows: Rows, runs: list[tuple[Recording, float]]) -> tuple[Rows, float]:
        """The weights after all passes, and the mean PSNR that was seen last."""
        full = [one.recording for one in self._full]
        for turn in range(PASSES):
            if turn:
                runs = self._runs(count, rows)
            rows = fitted(self._plans[count].steps, full, [run for run, _ in runs], rows)
        return rows, _mean(found for _, found in runs)

    def _runs(self, count: int, rows: Rows) -> list[tuple[Recording, float]]:
        """Cached runs of the videos to calibrate on, and their PSNR."""
        policy, found = self._policy(count, rows), []
        for place, full in enumerate(self._full):
            what = f"{self._words(count)}, video {place + 1}/{len(self._full)}"
            recording, frames = self._made(full.video, what, policy)
            found.append((recording, min(psnr(full.frames, frames), CEILING)))
        return found

    def _proof(self, count: int, rows: Rows) -> Proof:
        policy, values, likeness = self._policy(count, rows), [], []
        for place, full in enumerate(self._proved):
            what = f"verifying {self._words(count)}, video {place + 1}/{len(self._proved)}"
            _, frames = self._made(full.video, what, policy)
            values.append(min(psnr(full.frames, frames), CEILING))
            likeness.append(ssim(full.frames, frames))
        proof = Proof(tuple(values), tuple(likeness))
        self.say(f"{self._words(count)}: {proof.mean:.1f} dB on videos not used, the worst {min(proof.psnr):.1f}")
        return proof

    def _policy(self, count: int, rows: Rows) -> Tuned:
        short = tuple(tuple(round(weight, 5) for weight in row) for row in rows)
        shares = self._full[0].recording.shares
        return Tuned(self._plans[count].steps, short, shares, type(self._module).__name__)

    def _uncached_runs(self) -> list[_Full]:
        """The videos to calibrate on; fewer, where another one does not change the plan."""
        found: list[_Full] = []
        before: list[tuple[int, ...]] = []
        for place, video in enumerate(self.calibrate):
            found.append(self._uncached(video, f"to calibrate on {place + 1}"))
            count = len(found[0].recording.shares) - 1
            plan = self._planned(found, max(2, count // 2))
            lists = [plan[some].steps for some in sorted({max(2, count // part) for part in (5, 4, 3)})]
            if place + 1 >= ENOUGH and lists == before and place + 1 < len(self.calibrate):
                self.say(f"the plan does not change any more: {place + 1} of {len(self.calibrate)} videos are enough")
                break
            before = lists
        return found

    @staticmethod
    def _planned(full: Sequence[_Full], most: int) -> dict[int, Plan]:
        return plans(damage([one.recording for one in full]), most)

    def _uncached(self, video: Video, what: str) -> _Full:
        kept = self.folder.reference(video.prompt, video.seed)
        path = self.folder.path / "recordings" / f"{key(self.folder.identity, video.prompt, video.seed)}.npz"
        recording = None if kept is None else _read(path)
        if kept is None or recording is None:
            recording, kept = self._made(video, f"uncached, {what}")
            self.folder.keep_reference(kept, video.prompt, video.seed)
            _write(path, recording)
        return _Full(video, recording, kept)

    def _made(self, video: Video, what: str, policy: Tuned | None = None) -> tuple[Recording, Frames]:
        """A run and its video."""
        asked = dataclasses.replace(self.request, prompt=video.prompt, seed=video.seed)
        with recorded(self.pipe, self._spec) as found:
            if policy is None:
                made = call(self.pipe, asked, what, self.on_progress)
                self.work += 1
            else:
                with attach(self.pipe, policy):
                    made = call(self.pipe, asked, what, self.on_progress)
                self.work += len(policy.steps) / (len(policy.schedule) - 1)
        return found[0], made.frames

    def _foretold(self, count: int) -> float:
        """Decibels of the decoded videos, up to a constant."""
        scale = float(np.mean([one.recording.latents[-1].var() for one in self._full]))
        return SLOPE * 10 * math.log10(scale / max(self._plans[count].damage, 1e-12))

    def _smallest(self, wanted: float, offset: float) -> int:
        enough = (count for count in sorted(self._plans) if self._foretold(count) + offset >= wanted)
        return next(enough, max(self._plans))

    def _words(self, count: int) -> str:
        return f"{count} of {self._steps} steps computed"

    def _outcome(self, count: int, rows: Rows, proof: Proof, tried: dict[int, float]) -> Outcome:
        return Outcome(self._policy(count, rows), proof, len(self._full), tried, self.work)

    def _out_of_reach(self, wanted: float, tried: dict[int, float]) -> SettingError:
        best = max(tried, key=lambda count: tried[count])
        at = f"{best} of {self._steps} steps, {self._steps / best:.2g}x, come to {tried[best]:.1f} dB"
        return _refused(f"{wanted:g} dB, which no plan that was tried reaches", f"less ({at})", "ask for less")


def tune(
    pipe: Any,
    request: Request,
    wish: Wish,
    calibrate: Sequence[Video],
    verify: Sequence[Video],
    folder: Folder,
    on_progress: OnProgress | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Return the plan for a wish; arguments and errors as of `Tuner`."""
    return Tuner(pipe, request, calibrate, verify, folder, on_progress, say).run(wish)


def check_videos(calibrate: Sequence[Video], verify: Sequence[Video]) -> None:
    """Raises `SettingError` where there are too few videos, or a prompt stands on both sides."""
    both = {one.prompt for one in calibrate} & {one.prompt for one in verify}
    if both:
        raise _refused(f"{min(both)!r} to calibrate and to verify on", "other prompts to verify on", "give more")
    if not calibrate or len(verify) < LEAST:
        found = f"{len(calibrate)} videos to calibrate on and {len(verify)} to verify on"
        raise _refused(found, f"at least 1 and {LEAST}", "give more prompts")


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def _read(path: Any) -> Recording | None:
    try:
        with path.open("rb") as file, np.load(file) as kept:
            return Recording(tuple(map(float, kept["shares"])), kept["latents"], kept["clean"])
    except Exception:  # numpy and zipfile raise many kinds for a file that was cut short
        return None


def _write(path: Any, recording: Recording) -> None:
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as part, part.open("wb") as file:
        np.savez(file, shares=np.array(recording.shares), latents=recording.latents, clean=recording.clean)


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
