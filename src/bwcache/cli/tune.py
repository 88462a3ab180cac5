"""``bwcache tune``: a plan for one model, scheduler and number of steps, proved on prompts that it was not made of."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

from bwcache.cli.choices import check_options, choose, steps_of
from bwcache.cli.costs import TIMED_STEPS, duration, timed
from bwcache.cli.loading import load
from bwcache.cli.output import check_file
from bwcache.cli.progress import Bars
from bwcache.cli.settings import TuneSettings
from bwcache.cli.studies import check_study, claimed_study, resumable
from bwcache.core.files import write_json, write_text
from bwcache.errors import SettingError, complaint

FEWEST_STEPS = 3
CALLED = 2
"""Short calls by which a step is timed, the first to warm up."""
LOOKS = 4
"""Passes over the videos that a plan is made of, as many as a tuning mostly takes."""
SHAPES_BUDGET = 24.0
"""The model in the box has time for the whole page."""


def run_tune(settings: TuneSettings) -> None:
    """Tune as the options say."""
    from bwcache.policies.tuned_file import TunedFile
    from bwcache.study.made_for import only_denoiser
    from bwcache.study.tuning.recording import check_scheduler
    from bwcache.study.tuning.tuning import BUDGET, Tuner, check_budget
    from bwcache.study.tuning.videos import Videos

    wanted = wished(settings)
    out = check_file(settings.out, settings.overwrite, TunedFile.KIND)
    parts = check_study(out.with_name(f"{out.stem}-parts"))
    settings = _for_shapes(settings)
    choices = choose(settings)
    budget = BUDGET if settings.budget is None else settings.budget
    videos = Videos.of(choices.prompts, settings.calibrate, settings.verify, settings.seed)
    check_budget(budget, videos, choices.steps, timed=CALLED * TIMED_STEPS)
    if choices.skeleton is not None:
        only_denoiser(choices.skeleton)
        check_scheduler(choices.skeleton.scheduler, choices.steps)
    if settings.page:
        check_page(out, settings.overwrite, choices.fps)
    from bwcache.study.folder import Folder
    from bwcache.study.study import identity

    with claimed_study(parts), Bars() as bars:
        pipe, choices = load(settings, choices, bars)
        request = choices.requests()[0]
        identical = identity(pipe, request, settings.model)
        folder = Folder(parts, identical)
        tuner = Tuner(pipe, request, videos, folder, budget, bars.show, bars.say)
        for line in cost(tuner, choices.steps, settings.page):
            bars.say(line)
        with resumable(parts, lambda: f"{count_runs(parts)} runs"):
            outcome = tuner.run(wanted)
            found = tuned_file(pipe, identical, settings, outcome)
            page = tuned_page(tuner, outcome, found, choices.fps, bars) if settings.page else None
        write_json(out, found.to_json())
        if page is not None:
            write_text(page_of(out), page)
        folder.remove()
    with contextlib.suppress(OSError):  # something of somebody else's lies there
        parts.rmdir()
    for line in summary(found, settings.out, settings.page):
        print(line)


def wished(settings: TuneSettings) -> Any:
    """Return the `Wish`, once the options are checked by themselves, before anything on disk is looked at.

    Raises:
        SettingError: for the first that cannot be meant, or that no plan comes to.
    """
    from bwcache.policies.policy_file import SUFFIX
    from bwcache.study.tuning.tuning import check_speed
    from bwcache.study.tuning.wish import wish

    check_options(settings)
    steps = steps_of(settings)
    if steps < FEWEST_STEPS:
        found = f"--steps {steps}"
        raise SettingError(complaint(found, f"at least {FEWEST_STEPS}: fewer leave nothing to choose", "try 30"))
    wanted = wish(settings.grade)
    if wanted.speed is not None:
        check_speed(wanted.speed, steps)
    if settings.out.suffix.lower() != SUFFIX:
        found = f"--out {str(settings.out)!r}"
        raise SettingError(complaint(found, f"a name that ends with {SUFFIX}", "try --out tuned.json"))
    return wanted


def cost(tuner: Any, steps: int, page: bool = False) -> list[str]:
    """Return what the tuning will take at most, in words: steps, minutes by a short timed call, memory."""
    from bwcache.study.tuning.recording import Recording
    from bwcache.study.tuning.tuning import RECORDED

    video = tuner.videos.calibrate[0]
    tuner.runs.count(CALLED * TIMED_STEPS, "timed")
    step, rest = timed(tuner.pipe, dataclasses.replace(tuner.request, prompt=video.prompt, seed=video.seed))
    seconds = tuner.runs.allowed * step + rest * calls(tuner.videos, tuner.runs, page)
    memory = RECORDED * Recording.most_bytes(steps) * tuner.videos.most_calibrated(tuner.budget) / 2**20
    spare = len(tuner.videos.spare)
    kept = f"; {spare} more wait in case that it falls short" if spare else ""
    return [
        f"{len(tuner.videos.calibrate)} videos to calibrate on, {len(tuner.videos.verify)} of other prompts to verify "
        f"on{kept}",
        f"at most {tuner.runs.allowed} steps computed, the work of {tuner.budget:g} uncached videos: "
        f"{duration(seconds)} here, and at most {memory:.0f} MiB of main memory for what is recorded",
    ]


def calls(videos: Any, runs: Any, page: bool) -> int:
    """Return how many calls of the pipeline a tuning mostly takes, page included: each encodes a text and decodes."""
    from bwcache.study.tuning.ladder import SETTINGS

    cached = LOOKS * len(videos.calibrate) + len(videos.verify) * (SETTINGS if page else 1)
    least = 2  # steps of each
    within = max(int(runs.allowed) - int(videos.first) * int(runs.steps), 0) // least
    return int(videos.first) + min(cached, within)


def tuned_file(pipe: Any, identical: dict[str, Any], settings: TuneSettings, outcome: Any) -> Any:
    """Return the `TunedFile` of an outcome."""
    from bwcache.policies.tuned_file import TunedFile
    from bwcache.study.made_for import made_for

    steps = len(outcome.policy.schedule) - 1
    made = made_for(pipe, identical, settings.model, steps)
    return TunedFile(outcome.policy, made, outcome.quality(settings.grade), outcome.speed())


def summary(file: Any, out: Path, page: bool = False) -> list[str]:
    """Return what a tuned file promises, in words; `out` is its path as it was given, and so are the paths there."""
    quality, speed = file.quality, file.speed
    low, high = quality["interval"]
    lines = [
        f"{speed['computed']} of {speed['steps']} steps computed: {speed['expected']:g}x of the denoiser's time",
        f"{quality['psnr']:.1f} dB on {quality['videos']} videos of prompts that were not used (95 % {low:.1f} to "
        f"{high:.1f}, the worst {quality['worst']:.1f}), SSIM {quality['ssim']:.3f}",
    ]
    if not quality["kept"]:
        lines.append(f"less than --grade {quality['wanted']} asks for: more --prompts or a larger --budget may help")
    in_python, in_shell = json.dumps(str(out), ensure_ascii=False), shlex.quote(str(out))
    lines.append(
        f"{out}: bwcache.attach(pipe, {in_python}), or --policy {in_shell} with compare, generate, sweep or serve"
    )
    return [*lines, f"{page_of(out)}: the same video at several speeds"] if page else lines


def page_of(out: Path) -> Path:
    """Return where the page of a tuned file goes."""
    return out.with_suffix(".html")


def check_page(out: Path, overwrite: bool, fps: int) -> None:
    """Check that the page can be made, and may be put in its place.

    Raises:
        SettingError: something is there, or no video can be written.
    """
    from bwcache.extras import need
    from bwcache.report.tuned import is_page
    from bwcache.report.videos import check_rate

    need("plots")
    page = page_of(out)
    if page.exists() and not (overwrite and is_page(page)):
        action = "name another --out, or leave the page out: --no-page" if overwrite else "add --overwrite"
        raise SettingError(complaint(f"something at {str(page)!r}, where the page goes", "nothing yet", action))
    check_rate(fps)


def tuned_page(tuner: Any, outcome: Any, file: Any, fps: int, bars: Bars) -> str:
    """Return the page: the videos of the proof at several speeds, which are made for it as far as the budget goes."""
    from bwcache.report.tuned import TunedPage, render, setting, video_of
    from bwcache.study.tuning.ladder import PAIR, climb

    ladder = climb(tuner, outcome)
    bars.writing("the page")
    shown = ladder.videos[:PAIR]
    uncached = tuple(video_of(tuner.runs.frames(video), fps) for video in shown)
    settings = []
    for rung in ladder.rungs:
        videos = tuple(video_of(tuner.runs.frames(video, rung.policy), fps) for video in shown)
        settings.append(setting(rung.policy, [one.psnr for one in rung.close], videos))
    return render(TunedPage(file, tuple(shown), uncached, tuple(settings), len(ladder.videos)))


def count_runs(parts: Path) -> int:
    """Return how many runs a folder keeps."""
    return len([*parts.glob("references/*.npz"), *parts.glob("closeness/*.json")])


def _for_shapes(settings: TuneSettings) -> TuneSettings:
    """The model in the box has more prompts to be tuned on than it shows, and more time."""
    from bwcache import shapes
    from bwcache.measure.load import SHAPES

    if settings.model != SHAPES:
        return settings
    if settings.budget is None:
        settings = dataclasses.replace(settings, budget=SHAPES_BUDGET)
    if settings.prompt or settings.prompts is not None:
        return settings
    return dataclasses.replace(settings, prompt=[*shapes.PROMPTS, *shapes.MORE_PROMPTS])
