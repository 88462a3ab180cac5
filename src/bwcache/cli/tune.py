"""``bwcache tune``: a plan for one model, scheduler and number of steps, proved on prompts that it was not made of."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bwcache.cli.choices import Choices, choose
from bwcache.cli.loading import load
from bwcache.cli.output import absolute
from bwcache.cli.progress import Bars
from bwcache.cli.settings import TuneSettings
from bwcache.cli.studies import check_study, claimed_study, resumable
from bwcache.core.files import write_json
from bwcache.errors import SettingError, complaint

TIMED_STEPS = 2


def run_tune(settings: TuneSettings) -> None:
    """Tune as the options say."""
    out = _target(settings.out, settings.overwrite)
    parts = check_study(out.with_name(f"{out.stem}-parts"))
    from bwcache.study.tuning.wish import wish

    wanted = wish(settings.grade)
    settings = _with_prompts(settings)
    choices = choose(settings)
    from bwcache.study.folder import Folder
    from bwcache.study.study import identity
    from bwcache.study.tuning.tuning import Tuner

    calibrate, verify = videos_of(choices.prompts, settings.calibrate, settings.verify, settings.seed)
    with claimed_study(parts), Bars() as bars:
        pipe, choices = load(settings, choices, bars)
        request = choices.requests()[0]
        identical = identity(pipe, request, settings.model)
        folder = Folder(parts, identical)
        tuner = Tuner(pipe, request, calibrate, verify, folder, bars.show, bars.say)
        for line in cost(tuner, choices):
            bars.say(line)
        with resumable(parts, lambda: f"{len(list(parts.glob('recordings/*.npz')))} uncached runs"):
            outcome = tuner.run(wanted)
        found = tuned_file(pipe, identical, settings, outcome)
        write_json(out, found.to_json())
    for line in summary(found, out):
        print(line)


def videos_of(prompts: Sequence[str], calibrate: int, verify: int, seed: int) -> tuple[list[Any], list[Any]]:
    """Return the videos to calibrate on and those to verify on: of other prompts, each with a seed of its own.

    Where there are fewer prompts than videos, half of them calibrate, and each is made with several seeds.

    Raises:
        SettingError: there is but one prompt.
    """
    from bwcache.study.study import Video

    texts = list(dict.fromkeys(prompts))
    if len(texts) < 2:
        found = f"{len(texts)} prompt, so that none is left to verify on"
        raise SettingError(complaint(found, "at least 2, better 8", "give more: --prompts FILE"))
    first = min(calibrate, len(texts) // 2)
    used, fresh = texts[:first], texts[first:]
    return (
        [Video(used[i % len(used)], seed + i) for i in range(calibrate)],
        [Video(fresh[i % len(fresh)], seed + calibrate + i) for i in range(verify)],
    )


def cost(tuner: Any, choices: Choices) -> list[str]:
    """Return what the tuning will take, in words: forwards, minutes by a short timed call, memory."""
    from bwcache.measure.call import call
    from bwcache.study.tuning.recording import ENTRIES
    from bwcache.study.tuning.tuning import BUDGET

    video = tuner.calibrate[0]
    few = dataclasses.replace(tuner.request, prompt=video.prompt, seed=video.seed, steps=TIMED_STEPS)
    call(tuner.pipe, few, "warm-up")
    start = time.perf_counter()
    done = call(tuner.pipe, few, "timed")
    seconds = time.perf_counter() - start
    step = (done.denoise_seconds or seconds) / TIMED_STEPS
    videos = len(tuner.calibrate) + len(tuner.verify)
    work = max(BUDGET, videos + 2)
    rest = max(seconds - step * TIMED_STEPS, 0) * 3 * videos
    minutes = (work * choices.steps * step + rest) / 60
    memory = 2 * ENTRIES * 4 * (choices.steps + 1) * len(tuner.calibrate) / 2**20
    return [
        f"{len(tuner.calibrate)} videos to calibrate on, {len(tuner.verify)} of other prompts to verify on",
        f"about {work * choices.steps:.0f} steps, the work of {work:g} uncached videos: {_minutes(minutes)} here, and "
        f"at most {memory:.0f} MiB of main memory for what is recorded",
    ]


def tuned_file(pipe: Any, identical: dict[str, Any], settings: TuneSettings, outcome: Any) -> Any:
    """Return the `TunedFile` of an outcome."""
    from bwcache.engine.clock.level import predicted_by
    from bwcache.policies.tuned_file import TunedFile

    scheduler = pipe.scheduler
    policy, proof = outcome.policy, outcome.proof
    steps = len(policy.schedule) - 1
    low, high = proof.interval()
    return TunedFile(
        policy,
        {
            "model": settings.model,
            "pipeline": type(pipe).__name__,
            "denoiser": policy.model,
            "weights": identical["weights"],
            "scheduler": {
                "class": type(scheduler).__name__,
                "predicts": predicted_by(scheduler),
                "settings": identical["model"]["schedule"],
            },
            "request": identical["request"],
            "steps": steps,
        },
        {
            "wanted": settings.grade,
            "psnr": round(proof.mean, 2),
            "worst": round(min(proof.psnr), 2),
            "interval": [round(low, 2), round(high, 2)],
            "ssim": round(sum(proof.ssim) / len(proof.ssim), 4),
            "videos": len(proof.psnr),
            "calibrated_on": outcome.calibrated,
            "tried": {str(count): round(found, 2) for count, found in sorted(outcome.tried.items())},
        },
        {"computed": len(policy.steps), "steps": steps, "expected": round(steps / len(policy.steps), 2)},
    )


def summary(file: Any, out: Path) -> list[str]:
    """Return what a tuned file promises, in words."""
    quality, speed = file.quality, file.speed
    low, high = quality["interval"]
    return [
        f"{speed['computed']} of {speed['steps']} steps computed: {speed['expected']:g}x of the denoiser's time",
        f"{quality['psnr']:.1f} dB on {quality['videos']} videos of prompts that were not used (95 % {low:.1f} to "
        f"{high:.1f}, the worst {quality['worst']:.1f}), SSIM {quality['ssim']:.3f}",
        f'{out}: bwcache.attach(pipe, "{out.name}"), or --policy {out.name} with any command',
    ]


def _with_prompts(settings: TuneSettings) -> TuneSettings:
    """The model in the box has more prompts to be tuned on than it shows."""
    from bwcache import shapes
    from bwcache.measure.load import SHAPES

    if settings.model != SHAPES or settings.prompt or settings.prompts is not None:
        return settings
    return dataclasses.replace(settings, prompt=[*shapes.PROMPTS, *shapes.MORE_PROMPTS])


def _target(out: Path, overwrite: bool) -> Path:
    """Where the file goes.

    Raises:
        SettingError: it is no JSON file, is there already, or lies in no folder.
    """
    from bwcache.policies.tuned_file import SUFFIX

    target = absolute(out)
    if target.suffix.lower() != SUFFIX:
        found = f"--out {str(out)!r}"
        raise SettingError(complaint(found, "a name that ends with .json", "try --out tuned.json"))
    if target.is_dir() or not target.parent.is_dir():
        what = "a folder" if target.is_dir() else "in a folder that is not there"
        raise SettingError(complaint(f"--out {str(out)!r}, {what}", "a file", "name another one"))
    if target.exists() and not overwrite:
        raise SettingError(complaint(f"a file at --out {str(out)!r}", "none yet", "add --overwrite or name another"))
    return target


def _minutes(minutes: float) -> str:
    return f"{math.ceil(minutes * 60)} s" if minutes < 2 else f"{math.ceil(minutes)} min"
