"""How much is left: the best steps to compute, found with the truth: `python -m benchmarks.oracle [--out FILE]`.

For each number of computed steps a search moves one step at a time, as long as any move brings the latents closer to
those of the uncached run. Twice: one schedule for all videos, which a person could use (`bwcache.StepList`), scored on
videos that the search did not see; and one for each video, which nobody can know in advance: what any policy that
computes so many steps with this predictor could reach at most, as far as the search finds it.

Resumes from the file it writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from tqdm import tqdm

import bwcache
from benchmarks.common import captions, load, publish
from bwcache import shapes

BATCH = 8
REACH = (-2, -1, 1, 2)
FIRST = (0, 1, 2, 3, 6, 11, 19, 25)

Schedule = tuple[int, ...]


class Videos:
    """Videos of one model whose latents can be made under any schedule, and compared with the uncached ones.

    Args:
        pipe: the shapes model.
        prompts: one for each video; its place is the seed of its noise.
        predictor: how skipped features are made.
    """

    def __init__(self, pipe: Any, prompts: Sequence[str], predictor: bwcache.Predictor) -> None:
        self._pipe, self._predictor = pipe, predictor
        self._texts = [pipe.encode_prompt(prompt, "", True, 1) for prompt in prompts]
        self.truth = [self._latents(video, 1) for video in range(len(prompts))]

    def scores(self, video: int, schedules: Sequence[Schedule]) -> list[float]:
        """PSNR of the latents under each schedule against the uncached ones, in dB of a unit range."""
        found: list[float] = []
        for start in range(0, len(schedules), BATCH):
            some = tuple(schedules[start : start + BATCH])
            with bwcache.attach(self._pipe, bwcache.StepList(some, self._predictor)):
                made = self._latents(video, len(some))
            found += decibels(made, self.truth[video].expand_as(made))
        return found

    def decoded(self, video: int, schedule: Schedule) -> float:
        """PSNR of the decoded video under a schedule, in dB."""
        with bwcache.attach(self._pipe, bwcache.StepList(schedule, self._predictor)):
            made = self._latents(video, 1)
        return decibels(self._frames(made), self._frames(self.truth[video]))[0]

    def _latents(self, video: int, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(video)
        size = {"height": shapes.HEIGHT, "width": shapes.WIDTH, "num_frames": shapes.FRAMES}
        noise = self._pipe.prepare_latents(1, 8, *size.values(), torch.float32, torch.device("cpu"), generator)
        positive, negative = self._texts[video]
        made = self._pipe(
            prompt_embeds=positive.expand(count, -1, -1),
            negative_prompt_embeds=negative.expand(count, -1, -1),
            latents=noise.expand(count, -1, -1, -1, -1).clone(),
            num_inference_steps=shapes.STEPS,
            guidance_scale=shapes.GUIDANCE_SCALE,
            output_type="latent",
            **size,
        )
        return made.frames

    @torch.no_grad()
    def _frames(self, latents: Tensor) -> Tensor:
        config, shape = self._pipe.vae.config, (1, -1, 1, 1, 1)
        mean, std = (latents.new_tensor(of).view(shape) for of in (config.latents_mean, config.latents_std))
        return (self._pipe.vae.decode(latents * std + mean).sample / 2 + 0.5).clamp(0, 1)


def decibels(made: Tensor, truth: Tensor) -> list[float]:
    """PSNR of each of a batch in a unit range, at most 100 dB."""
    errors = (made - truth).double().square().flatten(1).mean(1).clamp(min=1e-10)
    return [float(value) for value in -10 * errors.log10()]


def climb(start: Schedule, score: Callable[[Sequence[Schedule]], list[float]], total: int) -> tuple[Schedule, float]:
    """The schedule that no move of one step by one or two makes better, and its score."""
    seen = {start: score([start])[0]}
    best = start
    while True:
        fresh = [one for one in moves(best, total) if one not in seen]
        seen |= dict(zip(fresh, score(fresh), strict=True))
        ahead = max(fresh, key=lambda one: seen[one], default=best)
        if seen[ahead] <= seen[best]:
            return best, seen[best]
        best = ahead


def moves(schedule: Schedule, total: int) -> list[Schedule]:
    """All schedules in which one step but the first lies elsewhere."""
    found = set()
    for step in schedule[1:]:
        for by in REACH:
            if 0 < step + by < total and step + by not in schedule:
                found.add(tuple(sorted({*schedule, step + by} - {step})))
    return sorted(found)


def resized(schedule: Schedule, count: int, total: int) -> Schedule:
    """A start for another number of steps: the widest gaps halved, or every step left out that leaves the least gap."""
    steps = list(schedule)
    while len(steps) < count:
        gaps = [(b - a, a) for a, b in zip(steps, [*steps[1:], total], strict=True)]
        width, at = max(gaps)
        steps = sorted([*steps, at + width // 2])
    while len(steps) > count:
        spans = {b: c - a for a, b, c in zip(steps, steps[1:], [*steps[2:], total], strict=False)}
        steps.remove(min(spans, key=lambda step: spans[step]))
    return tuple(steps)


def search(videos: Videos, seen: Sequence[int], count: int, start: Schedule) -> dict[str, Any]:
    """Both searches for one number of computed steps."""

    def together(schedules: Sequence[Schedule]) -> list[float]:
        each = [videos.scores(video, schedules) for video in seen]
        return [sum(values) / len(values) for values in zip(*each, strict=True)]

    common, _ = climb(resized(start, count, shapes.STEPS), together, shapes.STEPS)
    unseen = [video for video in range(len(videos.truth)) if video not in seen]
    own = {video: climb(common, lambda some, at=video: videos.scores(at, some), shapes.STEPS)[0] for video in seen}  # type: ignore[misc]
    return {
        "common": {
            "steps": common,
            "seen": [videos.decoded(video, common) for video in seen],
            "unseen": [videos.decoded(video, common) for video in unseen],
        },
        "own": {"steps": list(own.values()), "seen": [videos.decoded(video, steps) for video, steps in own.items()]},
    }


def main(
    counts: Annotated[
        str, typer.Option(help="Numbers of computed steps, in the order of the search.")
    ] = "8,7,6,9,10,12,15",
    prompts: Annotated[int, typer.Option(help="Videos in all; the search sees every third.")] = 12,
    out: Annotated[Path | None, typer.Option(help="Where to keep the result.")] = None,
) -> None:
    """Search, and print what was found as JSON."""
    pipe = load()
    videos = Videos(pipe, captions(prompts), bwcache.Damped())
    seen = range(0, prompts, 3)
    found: dict[str, Any] = {}
    if out is not None and out.exists():
        found = json.loads(out.read_text(encoding="utf-8"))["schedules"]
    for count in tqdm(_numbers(counts)):
        if str(count) in found:
            continue
        nearest = min(found, key=lambda known: abs(int(known) - count), default=None)
        start = tuple(found[nearest]["common"]["steps"]) if nearest else FIRST
        found[str(count)] = search(videos, seen, count, start)
        publish(pipe, {"predictor": "Damped()", "steps": shapes.STEPS, "schedules": found}, out)


def _numbers(text: str) -> Iterable[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    typer.run(main)
