"""What it costs and gains that every sample of a batch decides for itself: `python -m benchmarks.samples [--out FILE]`.

Batches of captions of the shapes model, made three ways in turns: as one that decides for all, each sample for itself,
and one after the other alone. The videos made alone are the measure: what a batch should give.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tqdm import tqdm

import bwcache
from benchmarks.common import captions, load, publish
from bwcache import shapes
from bwcache.measure.frames import Frames
from bwcache.measure.quality import quality

Made = tuple[list[Frames], float, list[bwcache.Trace]]


def videos(pipe: Any, prompts: list[str], seeds: list[int], policy: Any, per_sample: bool) -> Made:
    """The videos of one call, its seconds of denoising and decoding, and the trace."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with bwcache.attach(pipe, policy, per_sample=per_sample) as session:
        start = time.perf_counter()
        made = pipe(
            prompts,
            height=shapes.HEIGHT,
            width=shapes.WIDTH,
            num_frames=shapes.FRAMES,
            num_inference_steps=shapes.STEPS,
            guidance_scale=shapes.GUIDANCE_SCALE,
            generator=generators,
            output_type="np",
        ).frames
        seconds = time.perf_counter() - start
    return list(made), seconds, [session.trace]


def one_by_one(pipe: Any, prompts: list[str], seeds: list[int], policy: Any) -> Made:
    """The same, each video alone."""
    parts = [videos(pipe, [prompt], [seed], policy, False) for prompt, seed in zip(prompts, seeds, strict=True)]
    return [frames for part in parts for frames in part[0]], sum(p[1] for p in parts), [t for p in parts for t in p[2]]


def closeness(made: list[Frames], alone: list[Frames]) -> list[float]:
    """PSNR (dB) of each video against the one made alone; 100 where they are equal."""
    return [min(quality(b, a).psnr, 100.0) for a, b in zip(made, alone, strict=True)]


def main(
    batch: Annotated[int, typer.Option(help="samples in a batch")] = 4,
    batches: Annotated[int, typer.Option(help="batches of different captions")] = 6,
    rounds: Annotated[int, typer.Option(help="rounds on each batch")] = 3,
    out: Annotated[Path | None, typer.Option(help="also write the JSON here")] = None,
) -> None:
    """Measure samples that decide for themselves."""
    pipe, texts = load(), captions(batch * batches)
    policy = bwcache.BWCache()
    sides: dict[str, Callable[[list[str], list[int]], Made]] = {
        "uncached": lambda p, s: videos(pipe, p, s, bwcache.NeverReuse(), False),
        "one decision": lambda p, s: videos(pipe, p, s, policy, False),
        "per sample": lambda p, s: videos(pipe, p, s, policy, True),
        "alone": lambda p, s: one_by_one(pipe, p, s, policy),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    reuse: dict[str, list[float]] = {side: [] for side in sides}
    psnr: dict[str, list[float]] = {"one decision": [], "per sample": []}
    for i in tqdm(range(batches), "batches"):
        prompts, seeds = texts[i * batch : (i + 1) * batch], list(range(i * batch, (i + 1) * batch))
        taken: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(rounds):
            made = {side: make(prompts, seeds) for side, make in sides.items()}
            for side, (_, spent, _) in made.items():
                taken[side].append(spent)
        for side in sides:
            seconds[side].append(statistics.median(taken[side]))
            reuse[side].append(statistics.fmean(trace.reuse_rate for trace in made[side][2]))
        for side in psnr:
            psnr[side] += closeness(made[side][0], made["alone"][0])
    publish(
        pipe,
        {
            "batch": batch,
            "batches": batches,
            "rounds": rounds,
            "speedup_over_uncached": {
                side: statistics.median(u / s for u, s in zip(seconds["uncached"], seconds[side], strict=True))
                for side in sides
            },
            "reuse_rate": {side: statistics.fmean(values) for side, values in reuse.items()},
            "psnr_against_alone": {
                side: {"mean": statistics.fmean(v), "worst": min(v), "equal_or_nearly": sum(x > 60 for x in v) / len(v)}
                for side, v in psnr.items()
            },
        },
        out,
    )


if __name__ == "__main__":
    typer.run(main)
