"""What it costs and gains that every sample of a batch decides for itself: `python -m benchmarks.samples [--out FILE]`.

Batches of captions of the shapes model, made three ways in turns: as one that decides for all, each sample for itself,
and one after the other alone. The videos made alone are the measure: what a batch should give. Seconds are those that
the process worked. Each batch that is done is kept, and a second call goes on there.
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
from benchmarks.common import Kept, captions, load, publish
from bwcache import shapes
from bwcache.measure.frames import Frames
from bwcache.measure.quality import quality

Made = tuple[list[Frames], float, list[bwcache.Trace]]


def videos(pipe: Any, prompts: list[str], seeds: list[int], policy: Any, per_sample: bool) -> Made:
    """The videos of one call, the seconds it kept this process at work, and the trace."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with bwcache.attach(pipe, policy, per_sample=per_sample) as session:
        start = time.process_time()
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
        seconds = time.process_time() - start
    return list(made), seconds, [session.trace]


def one_by_one(pipe: Any, prompts: list[str], seeds: list[int], policy: Any) -> Made:
    """The same, each video alone."""
    parts = [videos(pipe, [prompt], [seed], policy, False) for prompt, seed in zip(prompts, seeds, strict=True)]
    return [frames for part in parts for frames in part[0]], sum(p[1] for p in parts), [t for p in parts for t in p[2]]


def closeness(made: list[Frames], alone: list[Frames]) -> list[float]:
    """PSNR (dB) of each video against the one made alone; 100 where they are equal."""
    return [min(quality(b, a).psnr, 100.0) for a, b in zip(made, alone, strict=True)]


def one_batch(pipe: Any, prompts: list[str], seeds: list[int], rounds: int) -> dict[str, Any]:
    """Of each side the median seconds over the rounds and the reuse rate, and PSNR against the videos made alone."""
    policy = bwcache.BWCache()
    sides: dict[str, Callable[[], Made]] = {
        "uncached": lambda: videos(pipe, prompts, seeds, bwcache.NeverReuse(), False),
        "one decision": lambda: videos(pipe, prompts, seeds, policy, False),
        "per sample": lambda: videos(pipe, prompts, seeds, policy, True),
        "alone": lambda: one_by_one(pipe, prompts, seeds, policy),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        made = {side: make() for side, make in sides.items()}
        for side, (_, spent, _) in made.items():
            seconds[side].append(spent)
    return {
        "seconds": {side: statistics.median(spent) for side, spent in seconds.items()},
        "reuse": {
            side: statistics.fmean(trace.reuse_rate for trace in traces) for side, (_, _, traces) in made.items()
        },
        "psnr": {side: closeness(made[side][0], made["alone"][0]) for side in ("one decision", "per sample")},
    }


def main(
    batch: Annotated[int, typer.Option(help="samples in a batch")] = 4,
    batches: Annotated[int, typer.Option(help="batches of different captions")] = 6,
    rounds: Annotated[int, typer.Option(help="rounds on each batch")] = 3,
    out: Annotated[Path | None, typer.Option(help="also write the JSON here")] = None,
) -> None:
    """Measure samples that decide for themselves."""
    torch.set_num_threads(1)
    pipe, texts = load(), captions(batch * batches)
    kept = Kept(pipe, "samples")
    found = []
    for i in tqdm(range(batches), "batches"):
        places = list(range(i * batch, (i + 1) * batch))
        prompts = [texts[place] for place in places]
        found.append(kept.part(lambda: one_batch(pipe, prompts, places, rounds), places, rounds))  # noqa: B023
    psnr = {side: [one for part in found for one in part["psnr"][side]] for side in found[0]["psnr"]}
    speedups = {
        side: [part["seconds"]["uncached"] / part["seconds"][side] for part in found] for side in found[0]["seconds"]
    }
    publish(
        pipe,
        {
            "clock": "process",
            "batch": batch,
            "batches": batches,
            "rounds": rounds,
            "speedup_over_uncached": {side: statistics.median(values) for side, values in speedups.items()},
            "reuse_rate": {side: statistics.fmean(part["reuse"][side] for part in found) for side in found[0]["reuse"]},
            "psnr_against_alone": {
                side: {"mean": statistics.fmean(v), "worst": min(v), "equal_or_nearly": sum(x > 60 for x in v) / len(v)}
                for side, v in psnr.items()
            },
        },
        out,
    )


if __name__ == "__main__":
    typer.run(main)
