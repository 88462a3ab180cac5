"""A plan for one model and workflow, made by samplings in ComfyUI: the runs, what they take, and the file.

The search is that of `bwcache tune`: uncached samplings, a table of damage, a plan, weights, a choice, and the proof on
prompts or seeds that nothing was chosen on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from bwcache.comfy.plans import HOST, KeptPlan, digest, model_of
from bwcache.comfy.recorder import Recorder
from bwcache.comfy.sampling import Settings, cached
from bwcache.core.files import write_json
from bwcache.errors import SettingError, complaint
from bwcache.measure.frames import Frames
from bwcache.policies.tuned import Tuned
from bwcache.policies.tuned_file import TunedFile, read_tuned
from bwcache.study.folder import Folder
from bwcache.study.study import Video
from bwcache.study.tuning import KeptRuns, Recording, Search, Videos, wish
from bwcache.study.tuning.tuning import check_budget

OnStep = Callable[[int], None]
FEWEST_STEPS = 3
LOG = logging.getLogger("bwcache")


@dataclass(frozen=True, eq=False)
class Asked:
    """A sampling as a person set it.

    Attributes:
        steps, cfg, sampler, scheduler, denoise: as of a KSampler node.
        function: what ComfyUI calls for this sampler.
        negative: conditioning.
        latents: that it begins with.
        prompts: name -> positive conditioning.
        seed: the first; each video has one of its own.
    """

    steps: int
    cfg: float
    sampler: str
    scheduler: str
    denoise: float
    function: str
    negative: Any
    latents: Tensor
    prompts: Mapping[str, Any]
    seed: int

    def request(self) -> dict[str, Any]:
        """Return what of it a person can name."""
        return {
            **{name: getattr(self, name) for name in ("steps", "cfg", "sampler", "scheduler", "denoise", "seed")},
            "latents": list(self.latents.shape),
            "prompts": len(self.prompts),
        }

    def videos(self, calibrate: int, verify: int) -> Videos:
        """Return what to make the plan of and to prove it on: other prompts where there are several, else other seeds.

        Raises:
            SettingError: too few.
        """
        if len(self.prompts) == 1:
            return Videos.of_one(next(iter(self.prompts)), calibrate, verify, self.seed)
        return Videos.of(list(self.prompts), calibrate, verify, self.seed)


Sampled = Callable[[Any, Asked, Any, int, OnStep], Tensor]
"""Of a model patcher, settings, conditioning and seed: the latents."""


@dataclass(frozen=True, eq=False)
class Stage:
    """Where a tuning is made.

    Attributes:
        sampled: makes one sampling.
        decoded: makes frames of latents, `[F, H, W, 3]` in 0..1.
        at: told how many steps are computed.
        say: told a line.
    """

    sampled: Sampled
    decoded: Callable[[Tensor], Frames]
    at: Callable[[int], None] = lambda done: None
    say: Callable[[str], None] = lambda line: None


class Samplings(KeptRuns):
    """The runs of a tuning, in ComfyUI.

    Args:
        model: a model patcher.
        asked: the settings.
        stage: where they are made.
        folder: where they are kept.
        budget: the work allowed, in uncached samplings.
    """

    option = "budget"

    def __init__(self, model: Any, asked: Asked, stage: Stage, folder: Folder, budget: float) -> None:
        super().__init__(asked.steps, folder, budget)
        self._model, self._asked, self._stage = model, asked, stage
        self._done = 0
        self.step_seconds: float | None = None

    def made(self, video: Video, policy: Tuned | None, what: str) -> tuple[Recording, Frames]:
        """Sample; as of the base."""
        recorder, begin = Recorder(), time.monotonic()
        model = self._model if policy is None else cached(self._model, Settings(policy))[0]
        computed = range(self.steps) if policy is None else policy.steps
        before = self._done
        self._stage.say(f"{what}{self._time_left()}")

        def on_step(step: int) -> None:
            self._done = before + sum(one <= step for one in computed)
            self._stage.at(self._done)

        positive = self._asked.prompts[video.prompt]
        latents = self._stage.sampled(recorder.on(model), self._asked, positive, video.seed, on_step)
        frames = self._stage.decoded(latents)
        self._done = before + len(computed)
        self.step_seconds = (time.monotonic() - begin) / len(computed)
        return recorder.found(), frames

    def _time_left(self) -> str:
        if self.step_seconds is None:
            return ""
        return f"; at most {_duration(self.step_seconds * (self.allowed - self._done))} more"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


@dataclass(eq=False)
class Tuning:
    """One tuning in ComfyUI.

    Args:
        model: a model patcher.
        vae: that makes frames of the latents; only looked at to know it again.
        asked: the settings.
        grade: near, balanced or fast; decibels or a speed as `wish` reads them.
        calibrate, verify: how many videos to make the plan of and to prove it on.
        budget: the work allowed, in uncached samplings.

    Raises:
        SettingError: settings that no plan can be made for.
    """

    model: Any
    vae: Any
    asked: Asked
    grade: str
    calibrate: int = 2
    verify: int = 2
    budget: float = 12.0
    made_for: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        if self.asked.steps < FEWEST_STEPS:
            expected = f"at least {FEWEST_STEPS}: fewer leave nothing to choose"
            raise SettingError(complaint(f"{self.asked.steps} steps", expected, "sample with more steps"))
        self._wish = wish(self.grade)
        self._videos = self.asked.videos(self.calibrate, self.verify)
        check_budget(self.budget, self._videos, self.asked.steps, Samplings.option)
        conditions = [digest(one) for one in (*self.asked.prompts.values(), self.asked.negative, self.asked.latents)]
        self.made_for = {
            **model_of(self.model),
            "host": HOST,
            "sampler": self.asked.function,
            "request": self.asked.request(),
            "steps": self.asked.steps,
            "conditions": conditions,
            "decoder": type(getattr(self.vae, "first_stage_model", self.vae)).__name__,
        }

    def cost(self) -> str:
        """Return what it takes at most, in words."""
        steps = int(self.budget * self.asked.steps)
        other = "prompts" if len(self.asked.prompts) > 1 else "seeds"
        return (
            f"at most {steps} evaluations, the work of {self.budget:g} uncached samplings: {self.calibrate} videos to "
            f"make the plan of, {self.verify} of other {other} to prove it on"
        )

    def kept(self, path: Path) -> KeptPlan:
        """Return the plan of a file that is there.

        Raises:
            SettingError: it cannot be read, or was made for something else.
        """
        file = read_tuned(path)
        if not self.is_of(file):
            found = f"a plan {path.stem} that was made for something else (model, prompts, settings or grade)"
            raise SettingError(complaint(found, "none yet, or the same", "give another name, or turn again on"))
        return KeptPlan(path.stem, file)

    def is_of(self, file: TunedFile) -> bool:
        """Return whether a plan was made for exactly this."""
        wanted = {**self.made_for, "grade": self.grade}
        there = {**file.made_for, "grade": file.quality.get("wanted")}
        return all(there.get(name) == value for name, value in wanted.items())

    def run(self, stage: Stage, path: Path) -> KeptPlan:
        """Make the plan, prove it, and write it whole.

        What is sampled on the way is kept in a folder beside it until then: a tuning that was interrupted goes on.

        Raises:
            SettingError: of this sampler no plan can be made, none comes to what is wanted, or the budget is too small.
        """
        parts = path.with_name(f"{path.stem}-parts")
        goes_on = parts.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Folder(parts, {"model": self.made_for, "verify": self.verify, "calibrate": self.calibrate})
        stage.say(self.cost())
        LOG.info("bwcache: tuning %s: %s", path.stem, self.cost())
        samplings = Samplings(self.model, self.asked, stage, folder, self.budget)
        try:
            search = Search(self.made_for["denoiser"], samplings, self._videos, stage.say)
            outcome = search.run(self._wish)
        except BaseException:
            if samplings.step_seconds is None and not goes_on:
                folder.remove()
            raise
        file = TunedFile(outcome.policy, self.made_for, outcome.quality(self.grade), outcome.speed())
        write_json(path, file.to_json())
        folder.remove()
        return KeptPlan(path.stem, file)


def summary(plan: KeptPlan) -> str:
    """Return what a plan promises, in words."""
    quality, speed, asked = plan.file.quality, plan.file.speed, plan.file.made_for["request"]
    low, high = quality["interval"]
    others = "prompts" if asked["prompts"] > 1 else "seeds of this prompt"
    lines = [
        f"{plan.name}: {speed['computed']} of {speed['steps']} steps, {speed['expected']:g}x in the model's work",
        f"{quality['psnr']:.1f} dB on {quality['videos']} videos of other {others} than it was made of (95 % {low:.1f} "
        f"to {high:.1f}, the worst {quality['worst']:.1f}), SSIM {quality['ssim']:.3f}",
        f"for {asked['steps']} steps of {asked['sampler']}, {asked['scheduler']}, with this model alone",
    ]
    if not quality["kept"]:
        lines.insert(2, f"less than {quality['wanted']} asks for: more prompts or a larger budget may help")
    return "\n".join(lines)
