"""What every method costs on a GPU, in one run of under 8 minutes: `python -m benchmarks.gpu_methods [--out FILE]`.

The denoiser of Wan 2.1 1.3B at its real shape with random weights, without guidance, compiled and not, under every
policy that it has the places for, with settings that surely reuse: seconds per computed step and per step in which
something is reused, what is kept, the peak of memory, and how many graphs were compiled anew. How good the videos are
is nothing that random weights could tell.

Needs no network and no weights. Results are written as they come; what does not fit into the time is named. Without
CUDA, or with `--small`, the same code runs tiny on the CPU; its figures mean nothing.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import bwcache
from benchmarks.geometries import wan
from benchmarks.gpu import ALWAYS, Bench, Results, Run, compiled_graphs
from bwcache.engine import timing
from bwcache.errors import BWCacheError
from bwcache.measure.environment import environment
from bwcache.policies import Policy

STEPS = 8
LIST = (0, 1, 4, 7)
"""The computed steps of methods that follow a list."""

WIDE = (0.0, 1001.0)
"""Of timesteps: all of them."""

ELSEWHERE = {
    "BlockCaching": "for U-Nets",
    "DeepCache": "for U-Nets",
    "FlashBlock": "for videos that are made chunk by chunk",
    "Guarded": "goes around another",
    "NeverReuse": "reuses nothing",
    "PerDenoiser": "for two denoisers",
    "SkipDiT": "for models that were trained with long skips",
}
"""Policies that do not run here, and why."""


def methods(blocks: int, schedule: tuple[float, ...]) -> dict[str, Policy[Any]]:
    """Return by name the policies, with settings that reuse whatever the features are.

    Args:
        blocks: of the denoiser.
        schedule: share of noise at each of `STEPS` steps and after the last one.
    """
    parts = ("attn1", "attn2", "ffn")
    ones = ((1.0,),) * len(LIST)
    return {
        "AdaCache": bwcache.AdaCache((ALWAYS,), (3, 1), tail=1),
        "Adaptive": bwcache.Adaptive(ALWAYS, 0.0),
        "BWCache": bwcache.BWCache(ALWAYS, 2),
        "BlockwiseAdaptiveCache": bwcache.BlockwiseAdaptiveCache(
            {f"blocks.{i}.{part}": LIST for i in range(blocks) for part in parts}, STEPS
        ),
        "DBCache": bwcache.DBCache(ALWAYS, 1, warmup=2, longest=2),
        "DBPrune": bwcache.DBPrune(ALWAYS, 1, warmup=4),
        "DiCache": bwcache.DiCache(ALWAYS, retention=0.25),
        "EasyCache": bwcache.EasyCache(ALWAYS, 3),
        "FasterCache": bwcache.FasterCache(3, WIDE),
        "FirstBlock": bwcache.Guarded(bwcache.FirstBlock(ALWAYS), longest=2),
        "FixedInterval": bwcache.FixedInterval(3),
        "FlowCache": bwcache.FlowCache(ALWAYS, 3),
        "Foresight": bwcache.Foresight(ALWAYS, 2, 0.25),
        "HiCache": bwcache.HiCache(3, warmup=2),
        "HierarchicalLatentCache": bwcache.HierarchicalLatentCache((ALWAYS, ALWAYS), (3, 2, 1), 1),
        "MagCache": bwcache.MagCache((1.0,), ALWAYS, 2, 0.25),
        "MeanCache": bwcache.MeanCache(LIST, (1, 2, 3, 1), STEPS),
        "MixCache": bwcache.MixCache(2),
        "Planned": bwcache.Planned(computed=4),
        "PyramidAttentionBroadcast": bwcache.PyramidAttentionBroadcast(3, 3, 3, WIDE, WIDE, WIDE),
        "SeaCache": bwcache.SeaCache(ALWAYS),
        "SenCache": bwcache.SenCache(((500.0, 0.0, 0.0),), ALWAYS, ALWAYS, 2),
        "SmoothCache": bwcache.SmoothCache(dict.fromkeys(parts, LIST), STEPS),
        "Sortblock": bwcache.Sortblock(3, 0.1, 1001.0, 0.0, (0.3,)),
        "SpeCa": bwcache.SpeCa(ALWAYS, 1.0, ALWAYS, 1, 3, 1),
        "Spectrum": bwcache.Spectrum(3, 0, 2),
        "StepList": bwcache.StepList(LIST),
        "TaylorSeer": bwcache.TaylorSeer(3, warmup=2),
        "TeaCache": bwcache.TeaCache(ALWAYS, warmup=3),
        "Tuned": bwcache.Tuned(LIST, ones, schedule),
    }


@contextmanager
def laps(pipe: Any, device: torch.device) -> Iterator[list[float]]:
    """Fills the list with the seconds of each step but the first, from one call of the scheduler to the next."""
    marks: list[timing.Mark] = []
    seconds: list[float] = []
    step = pipe.scheduler.step

    def marked(*args: Any, **kwargs: Any) -> Any:
        marks.append(timing.mark(device))
        return step(*args, **kwargs)

    pipe.scheduler.step = marked
    try:
        yield seconds
    finally:
        del pipe.scheduler.step
    seconds += [timing.seconds([lap]) for lap in pairwise(marks)]


def figures(run: Run, seconds: Sequence[float]) -> dict[str, Any]:
    """Return what one run tells: median seconds of steps by whether anything was reused, and memory."""
    assert run.trace is not None
    reused = {event.step for event in run.trace.events if event.action == "reuse"}
    laps = dict(enumerate(seconds, start=1))
    ways = {"computed": [lap for step, lap in laps.items() if step not in reused]}
    ways["reused"] = [lap for step, lap in laps.items() if step in reused]
    return {
        **{f"seconds_per_{way}_step": statistics.median(found) if found else None for way, found in ways.items()},
        "reuse_rate": run.trace.reuse_rate,
        "kept_bytes": run.trace.peak_bytes,
        "kept_in": run.trace.kept_in,
        "peak_bytes": run.peak_bytes,
        "finite": run.finite,
    }


def measured(bench: Bench, every: Mapping[str, Policy[Any]], deadline: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the figures of each policy, or why there are none; each runs before, so that all is compiled."""
    for name, policy in every.items():
        if time.perf_counter() > deadline:
            yield name, {"skipped": "no time was left for it"}
            continue
        try:
            bench.run(policy, STEPS)
            graphs = compiled_graphs()[0]
            with laps(bench.pipe, bench.device) as seconds:
                run = bench.run(policy, STEPS)
            yield name, {**figures(run, seconds), "compiled_again": compiled_graphs()[0] - graphs}
        except BWCacheError as error:
            yield name, {"refused": str(error).partition("; these fit")[0]}


def main(
    small: Annotated[bool, typer.Option(help="tiny, on the CPU, to see that it runs")] = False,
    minutes: Annotated[float, typer.Option(help="time for all of it; what does not fit is left out")] = 7.5,
    out: Annotated[Path | None, typer.Option(help="the JSON")] = None,
) -> None:
    """Measure every method on a GPU."""
    began = time.perf_counter()
    small = small or not torch.cuda.is_available()
    device = torch.device("cpu") if small else torch.device("cuda", torch.cuda.current_device())
    dtype = torch.float32 if small else torch.bfloat16
    results = Results(out, {"benchmark": "gpu_methods", "small": small, "steps": STEPS, "elsewhere": ELSEWHERE})
    with torch.no_grad():
        geometry = wan(small)
        bench = Bench(geometry, geometry.build(device, dtype), geometry.inputs(device, dtype), device)
        results.add(environment=environment(bench.pipe), geometry={"name": geometry.name, "tokens": geometry.tokens})
        trace = bench.run(bwcache.NeverReuse(), STEPS).trace
        assert trace is not None
        every = methods(geometry.blocks, (*(event.sigma or 0.0 for event in trace.events), 0.0))
        for share, how in ((0.55, "not compiled"), (1.0, "compiled")):
            if how == "compiled":
                options = {"backend": "eager"} if device.type == "cpu" else {}
                bench.pipe.transformer.compile_repeated_blocks(**options)
            bench.run(None, STEPS)
            with laps(bench.pipe, device) as seconds:
                uncached = bench.run(None, STEPS)
            results.add(how, seconds_without_session=statistics.median(seconds), peak_bytes=uncached.peak_bytes)
            for name, found in measured(bench, every, began + 60 * minutes * share):
                results.add(how, "methods", name, **found)
    results.add(minutes=(time.perf_counter() - began) / 60)
    sys.stdout.write(json.dumps(results.figures, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
