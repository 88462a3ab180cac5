"""One measured call of a pipeline: the arguments it takes, the same noise every time, the time it took.

Every call of every command goes through `call`, so each begins from the same random numbers, with and without a cache.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from bwcache.core.words import shown
from bwcache.errors import BWCacheError, SettingError, complaint
from bwcache.measure.frames import Frames, as_videos
from bwcache.measure.latency import DenoiseTimer, computing_device, finish_device_work
from bwcache.measure.media import recorded
from bwcache.measure.seeding import seeded

FRAME_NAMES = ("num_frames", "video_length", "frames")


@dataclass(frozen=True)
class Request:
    """What is asked of a pipeline; None leaves a size or the guidance to the pipeline's default.

    Attributes:
        prompt: the text.
        steps: denoising steps.
        seed: of the noise, drawn on the CPU so that it is the same on every device, and of whatever else is drawn.
        guidance_scale: strength of classifier-free guidance.
        height: pixels.
        width: pixels.
        frames: number of frames.
        arguments: whatever else the pipeline's call is given, by name.
    """

    prompt: str
    steps: int
    seed: int = 0
    guidance_scale: float | None = None
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def record(self) -> dict[str, Any]:
        """Return all of it, ready for JSON; `arguments` only where there are any."""
        plain = asdict(replace(self, arguments={}))
        plain.pop("arguments")
        return plain | ({"arguments": recorded(dict(self.arguments))} if self.arguments else {})


@dataclass(frozen=True)
class Progress:
    """How far a measurement is, for a progress bar.

    Attributes:
        what: what is being made, in words ("prompt 1/3, cached").
        stage: "sampling" or "decoding".
        done: steps done of this stage.
        total: steps of this stage.
    """

    what: str
    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Call:
    """One finished call.

    Attributes:
        frames: the decoded video, float32 [F, H, W, 3] in 0..1.
        seconds: the whole call, text encoding and decoding included.
        denoise_seconds: from the first denoiser forward to the last; None when none was seen.
        before_seconds: what comes before it: text encoding, noise.
        forward_seconds: of the denoising, what lies inside the denoiser's forwards.
        drew_globally: whether the pipeline drew random numbers from the global generators too.
    """

    frames: Frames
    seconds: float
    denoise_seconds: float | None
    before_seconds: float | None = None
    forward_seconds: float | None = None
    drew_globally: bool = False

    @property
    def after_seconds(self) -> float | None:
        """What comes after the denoising: decoding; None when no forward was seen."""
        if self.before_seconds is None or self.denoise_seconds is None:
            return None
        return max(self.seconds - self.before_seconds - self.denoise_seconds, 0.0)


OnProgress = Callable[[Progress], None]


def call(pipe: Any, request: Request, what: str = "video", on_progress: OnProgress | None = None) -> Call:
    """Run a pipeline once, all that it draws at random from the request's seed.

    Raises:
        SettingError: when the pipeline does not take something that was asked for, refuses it before its denoiser runs,
            or makes pixels that are no numbers.
    """
    (made,) = call_together(pipe, [request], what, on_progress)
    return made


def call_together(
    pipe: Any, requests: Sequence[Request], what: str = "videos", on_progress: OnProgress | None = None
) -> list[Call]:
    """Run a pipeline once for several requests, as one batch, and return a call for each; times are of the batch.

    Args:
        pipe: a diffusers pipeline.
        requests: that differ in nothing but prompt, negative prompt and seed. Each draws from its own seed, but for
            what the pipeline draws from the global generators: these start from the first one's (`Call.drew_globally`).
        what: is made, in words.
        on_progress: called at every step.

    Raises:
        SettingError: as `call`; or the pipeline makes another number of videos.
    """
    arguments = pipeline_arguments(pipe, requests[0])
    if len(requests) > 1:
        arguments |= _of_each(requests)
    steps = requests[0].steps
    if on_progress is not None:
        _report_steps(pipe, arguments, steps, what, on_progress)
    device = computing_device(pipe)
    finish_device_work(device)
    start = time.perf_counter()
    with seeded(requests[0].seed, device) as drawn, DenoiseTimer(pipe) as timer, _refusals(pipe, timer):
        output = pipe(**arguments)
        drew = drawn()
    finish_device_work(device)
    seconds = time.perf_counter() - start
    if on_progress is not None:
        on_progress(Progress(what, "decoding", 1, 1))
    videos = as_videos(output)[: len(requests)]
    if len(videos) < len(requests):
        found = f"{len(videos)} videos of {type(pipe).__name__} for {len(requests)} prompts"
        raise SettingError(complaint(found, "one for each", "call it for one at a time"))
    if not all(np.isfinite(frames).all() for frames in videos):
        found = f"pixels that are not numbers in the decoded video ({what})"
        raise SettingError(complaint(found, "numbers", "try dtype float32 or other sizes"))
    times = (seconds, timer.seconds, timer.before_seconds, timer.forward_seconds)
    return [Call(frames, *times, drew_globally=drew) for frames in videos]


def _of_each(requests: Sequence[Request]) -> dict[str, Any]:
    """The arguments in which the requests of a batch differ, one after the other."""
    given: dict[str, Any] = {
        "prompt": [request.prompt for request in requests],
        "generator": [torch.Generator("cpu").manual_seed(request.seed) for request in requests],
    }
    if "negative_prompt" in requests[0].arguments:
        given["negative_prompt"] = [request.arguments["negative_prompt"] for request in requests]
    return given


def pipeline_arguments(pipe: Any, request: Request) -> dict[str, Any]:
    """Return the keyword arguments for a pipeline's call; raises as `check_taken`."""
    given = check_taken(type(pipe), request)
    given["generator"] = torch.Generator("cpu").manual_seed(request.seed)
    if "output_type" in inspect.signature(type(pipe).__call__).parameters:
        given["output_type"] = "np"
    return given


def check_taken(kind: type[Any], request: Request) -> dict[str, Any]:
    """Return what a request comes to as arguments of a call of such a pipeline.

    Raises:
        SettingError: it takes no such argument.
    """
    taken = inspect.signature(kind.__call__).parameters
    length = next((name for name in FRAME_NAMES if name in taken), "num_frames")
    wanted = {
        "prompt": request.prompt,
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "height": request.height,
        "width": request.width,
        length: request.frames,
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    if "prompt" not in taken and not request.prompt:
        given.pop("prompt")
    given |= request.arguments
    for name, value in given.items():
        if name not in taken:
            possible = ", ".join(dict.fromkeys(one for one in (*wanted, *taken) if one in taken and one != "self"))
            raise SettingError(
                complaint(f"{name} {shown(value)}", f"only what {kind.__name__} takes ({possible})", "leave it out")
            )
    return given


@contextlib.contextmanager
def _refusals(pipe: Any, timer: DenoiseTimer) -> Iterator[None]:
    """Makes one line of what a pipeline says of its arguments before the denoiser's first forward."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError) as error:
        known = isinstance(error, (BWCacheError, torch.OutOfMemoryError))
        if known or timer.before_seconds is not None:
            raise
        found = f"arguments that {type(pipe).__name__} refuses ({' '.join(str(error).split())})"
        raise SettingError(complaint(found, "such as it takes", "change them, or give what is missing")) from error


def _report_steps(pipe: Any, arguments: dict[str, Any], steps: int, what: str, on_progress: OnProgress) -> None:
    """Let the pipeline report each step, where it offers a callback for that."""
    on_progress(Progress(what, "sampling", 0, steps))
    if "callback_on_step_end" not in inspect.signature(type(pipe).__call__).parameters:
        return

    def after_step(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        on_progress(Progress(what, "sampling", step + 1, steps))
        if step + 1 == steps:
            on_progress(Progress(what, "decoding", 0, 1))
        return tensors

    arguments["callback_on_step_end"] = after_step
