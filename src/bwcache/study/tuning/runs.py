"""The runs of a tuning: made once and kept, counted in steps of the denoiser, and refused beyond what is allowed.

A run that an earlier call left is counted as if it were made now: a tuning that was interrupted decides as one that was
not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from bwcache.engine import attach
from bwcache.errors import SettingError, complaint
from bwcache.measure.call import OnProgress, Request, call
from bwcache.measure.frames import Frames
from bwcache.measure.quality import psnr, ssim
from bwcache.models import BlockSpec
from bwcache.policies.tuned import Tuned
from bwcache.study.folder import Folder
from bwcache.study.results import CEILING
from bwcache.study.study import Video
from bwcache.study.tuning.recording import Recording, recorded

RECORDINGS, PIXELS, CLOSENESS = "recordings", "pixels", "closeness"
"""Kinds of what is kept."""

ARRAYS = ("shares", "latents", "clean")
"""Of a recording."""


@dataclass(frozen=True)
class Closeness:
    """Of a cached video to the uncached one.

    Attributes:
        psnr: dB, at most `CEILING`.
        ssim: at most 1.
    """

    psnr: float
    ssim: float


class KeptRuns(ABC):
    """Runs within a budget, each made once: whoever makes them.

    Args:
        steps: of the denoiser in an uncached run.
        folder: where runs are kept.
        budget: the work allowed, in uncached videos.

    Attributes:
        used: steps of the denoiser, of all runs so far.
        allowed: the most of them.
        option: how the budget is called where it is given.
    """

    option = "--budget"

    def __init__(self, steps: int, folder: Folder, budget: float) -> None:
        self.steps, self.budget, self._folder = steps, budget, folder
        self.used, self.allowed = 0, math.floor(budget * steps)
        self._counted: set[tuple[Any, ...]] = set()

    @abstractmethod
    def made(self, video: Video, policy: Tuned | None, what: str) -> tuple[Recording, Frames]:
        """Make a run, uncached without a policy; return what was recorded of it and its frames, [F, H, W, 3] in 0..1.

        Args:
            video: prompt and seed.
            policy: to run under.
            what: what the run is for, in words.
        """

    @property
    def work(self) -> float:
        """All so far, in uncached videos."""
        return self.used / self.steps

    @property
    def left(self) -> int:
        """Steps that may still be computed."""
        return self.allowed - self.used

    def ran(self, video: Video, policy: Tuned | None = None) -> bool:
        """Return whether this has been run, under a policy or uncached, so that it takes nothing to have it again."""
        return (video, policy) in self._counted

    def count(self, steps: int, *what: Any) -> None:
        """Count steps of the denoiser, once for the same run.

        Raises:
            SettingError: there are not so many left.
        """
        if what in self._counted:
            return
        if steps > self.left:
            found = f"{self.used + steps} steps to compute"
            raise SettingError(complaint(found, f"at most {self.allowed}", f"give a larger {self.option}"))
        if what:
            self._counted.add(what)
        self.used += steps

    def uncached(self, video: Video, what: str) -> Recording:
        """Return an uncached run; its frames are kept too."""
        self.count(self.steps, video, None)
        key = (video.prompt, video.seed)
        kept = self._recording(*key)
        if kept is not None and self._folder.reference(*key) is not None:
            return kept
        recording, frames = self.made(video, None, what)
        self._folder.keep_reference(frames, *key)
        self._keep(recording, *key)
        return recording

    def cached(self, video: Video, policy: Tuned, what: str) -> tuple[Recording, Closeness]:
        """Return a run under a policy, and how close it came to the uncached one, which must be there."""
        self.count(len(policy.steps), video, policy)
        key = (policy.describe(), video.prompt, video.seed)
        recording, close = self._recording(*key), self._folder.figures(CLOSENESS, *key)
        if recording is None or close is None:
            recording, frames = self.made(video, policy, what)
            close = self._closeness(video, frames)
            self._keep(recording, *key)
            self._folder.keep_figures(CLOSENESS, close, *key)
        return recording, Closeness(**close)

    def shown(self, video: Video, policy: Tuned, what: str) -> Closeness:
        """Return how close a run under a policy came to the uncached one; its pixels are kept to be shown."""
        self.count(len(policy.steps), video, policy)
        key = (policy.describe(), video.prompt, video.seed)
        close = self._folder.figures(CLOSENESS, *key)
        if close is None or self._folder.arrays(PIXELS, ("pixels",), *key) is None:
            _, frames = self.made(video, policy, what)
            close = self._closeness(video, frames)
            pixels = np.round(np.clip(frames, 0, 1) * 255).astype(np.uint8)
            self._folder.keep_arrays(PIXELS, {"pixels": pixels}, *key)
            self._folder.keep_figures(CLOSENESS, close, *key)
        return Closeness(**close)

    def frames(self, video: Video, policy: Tuned | None = None) -> Frames:
        """Return the frames of a run that was `shown`, or of the uncached one, float [F, H, W, 3] in 0..1."""
        if policy is None:
            found = self._folder.reference(video.prompt, video.seed)
            if found is not None:
                return found
        else:
            kept = self._folder.arrays(PIXELS, ("pixels",), policy.describe(), video.prompt, video.seed)
            if kept is not None:
                pixels: Frames = kept["pixels"].astype(np.float32) / 255
                return pixels
        raise OSError(f"no frames of {video.prompt!r} in {self._folder.path} any more")

    def _closeness(self, video: Video, frames: Frames) -> dict[str, float]:
        uncached = self.frames(video)
        return {"psnr": min(psnr(uncached, frames), CEILING), "ssim": ssim(uncached, frames)}

    def _recording(self, *key: Any) -> Recording | None:
        kept = self._folder.arrays(RECORDINGS, ARRAYS, *key)
        if kept is None:
            return None
        return Recording(tuple(map(float, kept["shares"])), kept["latents"], kept["clean"])

    def _keep(self, recording: Recording, *key: Any) -> None:
        arrays = {name: np.asarray(getattr(recording, name)) for name in ARRAYS}
        self._folder.keep_arrays(RECORDINGS, arrays, *key)


class Runs(KeptRuns):
    """Runs of a pipeline.

    Args:
        pipe: a pipeline with one denoiser.
        spec: the row of its denoiser.
        request: steps, sizes and guidance; its prompt and seed are those of each video.
        folder: where runs are kept.
        budget: the work allowed, in uncached videos.
        on_progress: called at every step.
    """

    def __init__(
        self,
        pipe: Any,
        spec: BlockSpec,
        request: Request,
        folder: Folder,
        budget: float,
        on_progress: OnProgress | None = None,
    ) -> None:
        super().__init__(request.steps, folder, budget)
        self._pipe, self._spec, self._request, self._on_progress = pipe, spec, request, on_progress

    def made(self, video: Video, policy: Tuned | None, what: str) -> tuple[Recording, Frames]:
        """Call the pipeline; as of the base."""
        asked = dataclasses.replace(self._request, prompt=video.prompt, seed=video.seed)
        session = contextlib.nullcontext() if policy is None else attach(self._pipe, policy)
        with recorded(self._pipe, self._spec) as found, session:
            called = call(self._pipe, asked, what, self._on_progress)
        return found[0], called.frames
