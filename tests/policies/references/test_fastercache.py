"""FasterCache (2410.19355) written twice: attention goes on as it changed, and guidance is made of one branch.

What attention returned counts where it was computed, never what was made of it: the authors' code, not diffusers' hook.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import bwcache
from bwcache import FasterCache
from tests.policies.proof import ANOTHER, ROUNDED, proves
from tests.policies.references.opened import Compute, Streams, by_policy, close, opened
from tests.tiny import BY_NAME

STEPS = 16
Window = tuple[float, float]


def inside(time: float, window: Window) -> bool:
    return window[0] < time < window[1]


def reweighted(difference: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    """A difference whose low frequencies over each picture, and whose high ones, count so much."""
    height, width = difference.shape[-2:]
    spectrum = np.fft.fftshift(np.fft.fft2(difference), axes=(-2, -1))
    rows, columns = np.ogrid[:height, :width]
    radius = min(height, width) // 5
    near = (rows - height // 2) ** 2 + (columns - width // 2) ** 2 <= radius**2
    weighed = np.fft.ifftshift(spectrum * np.where(near, low, high), axes=(-2, -1))
    made: NDArray[Any] = np.fft.ifft2(weighed).real
    return made


@dataclass
class Reference:
    """Fields as in the policy; `scheduler` says the timestep. `past`: by place and branch, newest first."""

    scheduler: Any
    guided: bool
    attention: int = 2
    attention_window: Window = (-1, 681)
    weight: float = 0.5
    guidance: int = 5
    guidance_window: Window = (-1, 641)
    low: float = 1.1
    low_window: Window = (99, 901)
    high: float = 1.1
    high_window: Window = (-1, 301)
    past: dict[tuple[str, int], list[Streams]] = field(default_factory=dict)
    letters: dict[tuple[str, int], str] = field(default_factory=dict)
    weights: list[float] = field(default_factory=lambda: [1.0, 1.0])

    def begins(self, step: int, branch: int) -> None:
        self.step, self.branch = step, branch
        timesteps = self.scheduler.timesteps
        rises = timesteps[0] < timesteps[-1]
        self.time = float(1000 - timesteps[step] if rises else timesteps[step])
        self.alone = self.guided and step % self.guidance != 0 and inside(self.time, self.guidance_window)

    def _note(self, place: str, letter: str) -> None:
        self.letters[place, self.branch] = self.letters.get((place, self.branch), "") + letter

    def at(self, place: str, entering: Streams, compute: Compute) -> Streams:
        if place == "":
            return self._root(compute)
        both_run = self.guided and self.guidance > 1 and not self.alone
        past = self.past.setdefault((place, self.branch), [])
        if self.step % self.attention != 0 and inside(self.time, self.attention_window) and not both_run and past:
            self._note(place, "r")
            new, old = past[0], past[-1]
            weight = np.float32(self.weight)
            return tuple(a + weight * (a - b) for a, b in zip(new, old, strict=True))
        self._note(place, "C")
        left = compute()
        past.insert(0, left)
        del past[2:]
        return left

    def _root(self, compute: Compute) -> Streams:
        if self.branch == 0:
            self.cond = compute()
            return self.cond
        if self.guidance > 1:
            self._note("", "r" if self.alone else "C")
        if not self.alone:
            left = compute()
            self.difference, self.weights = left[0] - self.cond[0], [1.0, 1.0]
            return left
        if self.cond[0].ndim < 4:
            return (self.cond[0] + self.difference,)
        if inside(self.time, self.low_window):
            self.weights[0] *= self.low
        if inside(self.time, self.high_window):
            self.weights[1] *= self.high
        return ((self.cond[0] + reweighted(self.difference, *self.weights)).astype(np.float32),)


def decided(trace: bwcache.Trace) -> dict[tuple[str, int], str]:
    """A letter for each step in which a place was reached: C computed, r reused; of the denoiser for branch 1 alone."""
    letters: dict[tuple[str, int], str] = {}
    for row in trace.events:
        place = row.site.partition("/")[2].replace("root", "")
        for branch in {"cond": (0,), "uncond": (1,), "cond_uncond": (0, 1)}[row.branch]:
            if row.reason != "lies in a reused site" and (place or branch):
                letters[place, branch] = letters.get((place, branch), "") + ("r" if row.action == "reuse" else "C")
    return letters


SETTINGS: dict[str, dict[str, Any]] = {
    "attention alone": {"guidance": 1},
    "both": {
        "attention": 3,
        "guidance": 4,
        "weight": 0.3,
        "low": 1.3,
        "low_window": (300, 901),
        "high": 0.8,
        "high_window": (-1, 500),
    },
}
ATTENTION = re.compile(r"(transformer_)?blocks\.\d+\.attn1")


@proves(FasterCache, ANOTHER, ROUNDED)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "cogvideox", "mochi", "ltx"])
def test_policy_and_reference_decide_and_make_the_same(name: str, settings: dict[str, Any]) -> None:
    case, pipe = BY_NAME[name], BY_NAME[name].build()
    reference = Reference(pipe.scheduler, case.branches != ("cond",), **settings)
    places = ["", *(place for place, _ in pipe.transformer.named_modules() if ATTENTION.fullmatch(place))]
    with opened(pipe.transformer, reference, places, case.branches):
        expected = case.run(pipe, num_inference_steps=STEPS)
    trace, made = by_policy(name, FasterCache(**settings), STEPS)
    assert decided(trace) == reference.letters
    assert all("r" in letters for (_, branch), letters in reference.letters.items() if branch == 0)
    assert close(made, expected, 2e-6)
