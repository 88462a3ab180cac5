"""Which videos a tuning is made of, which ones prove it, and which ones wait in case that it must be proved again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bwcache.errors import SettingError, complaint
from bwcache.study.study import Video

LEAST_CALIBRATE, LEAST_VERIFY = 2, 2
"""Videos: what one comes to is foretold from the others; and of one alone nothing can be said of the worst."""


@dataclass(frozen=True)
class Videos:
    """All videos of a tuning; no prompt stands in two of these places, and where there is but one, no video.

    Attributes:
        calibrate: to make the plan of, and to choose it by.
        verify: to prove it on.
        spare: to prove another one on, where the first falls short.

    Raises:
        SettingError: too few, or a prompt that stands in two places.
    """

    calibrate: tuple[Video, ...]
    verify: tuple[Video, ...]
    spare: tuple[Video, ...] = ()

    def __post_init__(self) -> None:
        of = (self.calibrate, self.verify, self.spare)
        one_prompt = len({one.prompt for videos in of for one in videos}) == 1
        places = [{f"seed {one.seed}" if one_prompt else one.prompt for one in videos} for videos in of]
        both = (places[0] & places[1]) | (places[0] & places[2]) | (places[1] & places[2])
        if both:
            expected = f"other {'seeds' if one_prompt else 'prompts'} to verify on"
            raise _refused(f"{min(both)!r} to calibrate and to verify on", expected, "give more")
        if len(self.calibrate) < LEAST_CALIBRATE or len(self.verify) < LEAST_VERIFY:
            found = f"{len(self.calibrate)} videos to calibrate on and {len(self.verify)} to verify on"
            raise _refused(found, f"at least {LEAST_CALIBRATE} and {LEAST_VERIFY}", "give more prompts")

    @property
    def first(self) -> int:
        """How many are made in any case."""
        return len(self.calibrate) + len(self.verify)

    def after_a_shortfall(self) -> Videos | None:
        """Return the videos where those that proved a plan too weak help to make the next; None without spare ones."""
        count = len(self.verify)
        if len(self.spare) < LEAST_VERIFY:
            return None
        return Videos((*self.calibrate, *self.verify), self.spare[:count], self.spare[count:])

    def most_calibrated(self, uncached: float) -> int:
        """Return how many a plan can be made of in the end, where so many uncached videos can be paid."""
        made, videos = self.first, self
        while (after := videos.after_a_shortfall()) and made + len(after.verify) <= uncached:
            made, videos = made + len(after.verify), after
        return len(videos.calibrate)

    @classmethod
    def of_one(cls, prompt: str, calibrate: int, verify: int, seed: int) -> Videos:
        """Return the videos of a single prompt, each with a seed of its own: what is proved holds for this prompt.

        Args:
            prompt: all there is.
            calibrate, verify: how many videos.
            seed: of the first.

        Raises:
            SettingError: too few videos are wanted.
        """
        videos = tuple(Video(prompt, seed + i) for i in range(calibrate + verify))
        return cls(videos[:calibrate], videos[calibrate:])

    @classmethod
    def of(cls, prompts: Sequence[str], calibrate: int, verify: int, seed: int) -> Videos:
        """Return the videos of these prompts, each with a seed of its own.

        Where there are fewer prompts than videos, half of them calibrate, and each is made with several seeds.

        Args:
            prompts: all.
            calibrate, verify: how many videos.
            seed: of the first.

        Raises:
            SettingError: there is but one prompt, or too few videos are wanted.
        """
        texts = list(dict.fromkeys(prompts))
        if len(texts) < 2:
            found = f"{len(texts)} prompt, so that none is left to verify on"
            raise _refused(found, "at least 2, better 8", "give more: --prompts FILE")
        first = min(calibrate, len(texts) // 2)
        used, fresh = texts[:first], texts[first:]
        return cls(
            tuple(Video(used[i % first], seed + i) for i in range(calibrate)),
            tuple(Video(fresh[i % len(fresh)], seed + calibrate + i) for i in range(verify)),
            tuple(Video(text, seed + calibrate + i) for i, text in enumerate(fresh) if i >= verify),
        )


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
