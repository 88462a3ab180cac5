"""The page of a tuning: a person moves along speed and sees the same videos at each setting, beside the uncached ones.

As `html`, one file that opens from disk and fetches nothing.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bwcache.measure.frames import Frames
from bwcache.policies.tuned import Tuned
from bwcache.policies.tuned_file import TunedFile
from bwcache.report.html import template
from bwcache.report.pictures import as_pictures, enlargement
from bwcache.report.tables import decibels, times
from bwcache.report.timeline_svg import step_ticks
from bwcache.report.videos import write_pictures
from bwcache.study.study import Video

GENERATOR = "bwcache tune"
"""By this a page is known again."""
WIDEST = 480
"""Pixels of a video on the page: there are up to eighteen."""
NAMES = ("the worst", "nearest to the mean")
"""Of the videos that are shown, where there are more than these."""


@dataclass(frozen=True)
class Setting:
    """One place of the slider.

    Attributes:
        policy: of it.
        psnr: dB of each video that all settings were run on, in the order of the page's videos.
        videos: MP4 of those that are shown.
    """

    policy: Tuned
    psnr: tuple[float, ...]
    videos: tuple[bytes, ...]

    @property
    def computed(self) -> tuple[int, ...]:
        """Steps."""
        return self.policy.steps

    @property
    def speed(self) -> float:
        """Steps over computed steps."""
        return (len(self.policy.schedule) - 1) / len(self.computed)

    @property
    def mean(self) -> float:
        """Mean PSNR, dB."""
        return statistics.fmean(self.psnr)

    @property
    def words(self) -> str:
        """All of it in a line."""
        total = len(self.policy.schedule) - 1
        mean = f"a mean of {decibels(self.mean)} over {len(self.psnr)} videos, the worst {decibels(min(self.psnr))}"
        return f"{times(self.speed)}: {len(self.computed)} of {total} steps computed, {mean}"

    @property
    def cells(self) -> list[tuple[str, str]]:
        """For each step its kind and what to say of it."""
        names = ["computed" if step in self.computed else "reused" for step in range(len(self.policy.schedule) - 1)]
        return [(name, f"step {i}, noise {self.policy.schedule[i]:.3f}: {name}") for i, name in enumerate(names)]


@dataclass(frozen=True)
class Line:
    """A line of the picture: its name, and its points in a box 100 wide and 100 high."""

    name: str
    points: tuple[tuple[float, float], ...]

    @property
    def path(self) -> str:
        """As SVG draws it."""
        return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in self.points)


@dataclass(frozen=True)
class TunedPage:
    """Everything on the page.

    Attributes:
        file: what was tuned.
        shown: the videos that are shown: the worst of the proof, and of the others the one nearest to its mean.
        uncached: MP4 of each of them.
        settings: by rising speed.
        count: videos that every setting was run on.
    """

    file: TunedFile
    shown: tuple[Video, ...]
    uncached: tuple[bytes, ...]
    settings: tuple[Setting, ...]
    count: int

    @property
    def chosen(self) -> int:
        """Place of the setting that is in the file."""
        return next(i for i, one in enumerate(self.settings) if one.policy == self.file.policy)

    @property
    def steps(self) -> int:
        """Of a run."""
        return len(self.file.policy.schedule) - 1

    @property
    def ticks(self) -> list[int]:
        """Steps that are named."""
        return step_ticks(self.steps)

    @property
    def names(self) -> tuple[str, ...]:
        """What the shown videos are, in a word."""
        names = NAMES if self.file.quality["videos"] > len(NAMES) else (NAMES[0], "the other one")
        return names[: len(self.shown)]

    @property
    def answer(self) -> str:
        """What was found, in a sentence or two."""
        quality, speed = self.file.quality, self.file.speed
        found = f"{speed['computed']} of {speed['steps']} steps computed, {speed['expected']:g}x: "
        found += f"{quality['psnr']:.1f} dB on {quality['videos']} videos of prompts on which nothing was chosen"
        found += f"; the worst has {quality['worst']:.1f}."
        return found if quality.get("kept", True) else f"{found} That is less than was asked for."

    @property
    def made(self) -> list[tuple[str, str]]:
        """What the file was made for, and how it was measured: name, value."""
        made_for, quality = self.file.made_for, self.file.quality
        low, high = quality["interval"]
        scheduler = made_for.get("scheduler", {})
        asked = {name: value for name, value in made_for.get("request", {}).items() if value is not None}
        return [
            ("wanted", str(quality["wanted"])),
            ("mean, 95 %", f"{low:.1f} to {high:.1f} dB"),
            ("SSIM", f"{quality['ssim']:.3f}"),
            ("model", str(made_for.get("model"))),
            ("denoiser", str(made_for.get("denoiser"))),
            ("scheduler", str(scheduler.get("class"))),
            ("made of", f"{quality['calibrated_on']} videos of other prompts"),
            ("asked", ", ".join(f"{name} {value}" for name, value in asked.items())),
        ]

    @cached_property
    def _scales(self) -> tuple[float, float, float, float]:
        """The ends of speed (its logarithm) and of decibels."""
        speeds = [math.log(one.speed) for one in self.settings]
        values = [value for one in self.settings for value in one.psnr]
        return (
            min(speeds),
            max(max(speeds), min(speeds) + 0.01),
            math.floor(min(values)) - 1,
            math.ceil(max(values)) + 1,
        )

    @property
    def lines(self) -> list[Line]:
        """Decibels by speed: the mean, and each shown video."""
        rows = {"mean": [one.mean for one in self.settings]}
        rows |= {name: [one.psnr[place] for one in self.settings] for place, name in enumerate(self.names)}
        slow, fast, low, high = self._scales
        across = [100 * (math.log(one.speed) - slow) / (fast - slow) for one in self.settings]
        return [
            Line(name, tuple((x, 100 - 100 * (y - low) / (high - low)) for x, y in zip(across, row, strict=True)))
            for name, row in rows.items()
        ]

    @property
    def levels(self) -> list[tuple[float, int]]:
        """Decibels that are named beside the picture: height from below, 0..100, and value."""
        _, _, low, high = self._scales
        every = next(width for width in (1, 2, 5, 10, 20, 50) if (high - low) / width <= 5)
        first = math.ceil(low / every) * every
        return [(100 * (level - low) / (high - low), int(level)) for level in range(int(first), int(high) + 1, every)]


def setting(policy: Tuned, psnr: Sequence[float], videos: Sequence[bytes]) -> Setting:
    """Return one place of the slider."""
    return Setting(policy, tuple(psnr), tuple(videos))


def render(page: TunedPage) -> str:
    """Return the page."""
    return str(template("tuned.html.jinja").render(page=page, generator=GENERATOR, decibels=decibels))


def is_page(path: Path) -> bool:
    """Return whether a file is a page that was written here."""
    try:
        with path.open(encoding="utf-8") as file:
            return f'<meta name="generator" content="{GENERATOR}">' in file.read(1000)
    except (OSError, ValueError):
        return False


def video_of(frames: Frames, fps: int) -> bytes:
    """Return frames [F, H, W, 3] in 0..1 as MP4: small ones enlarged, large ones made smaller, by a whole factor."""
    pictures = as_pictures(smaller(frames), enlargement(frames.shape[1]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_pictures(path, pictures, fps)
        return path.read_bytes()


def smaller(frames: Frames, widest: int = WIDEST) -> Frames:
    """Return frames [F, H, W, 3] of at most so many pixels' width: means over squares; odd edges are left out."""
    factor = math.ceil(frames.shape[2] / widest)
    if factor == 1:
        return frames
    count, height, width = frames.shape[0], frames.shape[1] // factor, frames.shape[2] // factor
    cut = frames[:, : height * factor, : width * factor]
    return np.asarray(cut.reshape(count, height, factor, width, factor, -1).mean(axis=(2, 4)), dtype=frames.dtype)
