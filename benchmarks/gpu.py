"""What bwcache costs and gains on real shapes, in one run of under 8 minutes: `python -m benchmarks.gpu [--out FILE]`.

Denoisers of real video models with random weights, in bfloat16, with flash attention, compiled and not:

- seconds per computed and per reused step, and the share of the blocks in a computed one;
- the indicator's share of the computed steps, sampled and exact, and that of Adaptive's prediction errors;
- memory: what is kept between steps, and the peak of each side;
- the same features in main memory: seconds per reused step, what the device holds, and that the latents are the same;
- realised over ideal speedup at the reuse rates that the paper reports: 1 / (1 - reuse rate * share of the blocks);
- how often a reused step waits for the device, and whether anything was compiled again;
- the exact indicator's kernel: against float64, and in bytes per second.

Needs no network and no weights. Results are written as they come. Without CUDA, or with `--small`, the same code runs
tiny on the CPU; its figures mean nothing.
"""

from __future__ import annotations

import gc
import json
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import bwcache
from benchmarks.geometries import Geometry, hunyuan, wan
from bwcache.core.files import write_json
from bwcache.engine import timing
from bwcache.features import exchange
from bwcache.measure.environment import environment

RATES = (0.4138, 0.5305, 0.59)
"""Shares of the steps that the paper reuses on Open-Sora at thresholds .15, .20 and .25."""

ALWAYS = 1e9
"""A threshold that everything is below."""

GEOMETRIES = {wan: 1, hunyuan: 2}
"""What is measured, and the weights by which time is divided among them."""

OTHERS = 40
"""Forwards of all that is measured beside the race, at most."""


@dataclass
class Results:
    """Figures, written to a file as they come."""

    out: Path | None
    figures: dict[str, Any] = field(default_factory=dict)

    def add(self, *path: str, **figures: Any) -> None:
        """Puts figures under a path of names and writes all there is."""
        at = self.figures
        for name in path:
            at = at.setdefault(name, {})
        at.update(figures)
        if self.out is not None:
            write_json(self.out, self.figures)


@dataclass(frozen=True)
class Bench:
    """A geometry at work.

    Attributes:
        geometry, pipe, inputs: what runs.
        device: where.
    """

    geometry: Geometry
    pipe: Any
    inputs: dict[str, Any]
    device: torch.device

    def run(self, policy: bwcache.Policy[Any] | None, steps: int, timed: bool = False, memory: str = "device") -> Run:
        """One denoising under a policy, or without a session."""
        settle(self.device)
        with laps(self.pipe.transformer, self.device) as marks, warnings.catch_warnings():
            warnings.simplefilter("ignore", category=bwcache.NeverReusedWarning)
            warnings.simplefilter("ignore", category=bwcache.MuchKeptWarning)
            trace = None
            start = time.perf_counter()
            if policy is None:
                latents = self.geometry.denoise(self.pipe, self.inputs, steps)
            else:
                with bwcache.attach(self.pipe, policy, timing=timed, memory=memory) as session:
                    latents = self.geometry.denoise(self.pipe, self.inputs, steps)
                trace = session.trace
            wait(self.device)
            seconds = time.perf_counter() - start
        return Run(seconds, [timing.seconds([lap]) for lap in pairwise(marks)], trace, peak(self.device), latents)


@dataclass(frozen=True)
class Run:
    """One denoising.

    Attributes:
        seconds: from the call to its end on the device.
        laps: seconds of each step, from one forward's beginning to the next one's; of the last: to its own end.
        trace: None without a session.
        peak_bytes: most memory in use on the device; None on a CPU.
        latents: what it made.
    """

    seconds: float
    laps: list[float]
    trace: bwcache.Trace | None
    peak_bytes: int | None
    latents: torch.Tensor

    @property
    def finite(self) -> bool:
        """Whether all of the latents are."""
        return bool(torch.isfinite(self.latents).all())


def wait(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def settle(device: torch.device) -> None:
    """Nothing left over from before: neither work nor garbage nor a peak."""
    gc.collect()
    wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int | None:
    """Most memory in use since `settle`, in bytes."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


@contextmanager
def laps(module: torch.nn.Module, device: torch.device) -> Iterator[list[timing.Mark]]:
    """Marks the beginning of each forward, and the end of the last; nothing waits for the device meanwhile."""
    begins: list[timing.Mark] = []
    ends: list[timing.Mark] = []

    def leave(*_: Any) -> None:
        ends.append(timing.mark(device))

    hooks = [
        module.register_forward_pre_hook(lambda *_: begins.append(timing.mark(device)), prepend=True),
        module.register_forward_hook(leave),
    ]
    try:
        yield begins
        begins.append(ends[-1])
    finally:
        for hook in hooks:
            hook.remove()


def evenly(computed: int, steps: int) -> tuple[int, ...]:
    """So many steps, the first and the last among them, as evenly as can be."""
    if computed <= 1:
        return (0,)
    return tuple(round(i * (steps - 1) / (computed - 1)) for i in range(computed))


def computed_for(rate: float, steps: int) -> int:
    """How many steps to compute so that a share of them is reused."""
    return max(1, round((1 - rate) * steps))


def race(bench: Bench, steps: int, rounds: int) -> dict[str, Any]:
    """Uncached against reuse at the paper's rates, all sides in turns; medians over the rounds."""
    schedules = {rate: evenly(computed_for(rate, steps), steps) for rate in RATES}
    uncached: list[Run] = []
    cached: dict[float, list[Run]] = {rate: [] for rate in RATES}
    for _ in range(rounds):
        uncached.append(bench.run(None, steps))
        for rate, schedule in schedules.items():
            cached[rate].append(bench.run(bwcache.StepList(schedule), steps))
    inside = bench.run(bwcache.NeverReuse(), 4, timed=True)
    assert inside.trace is not None
    share = _median(event.seconds for event in inside.trace.events[1:]) / statistics.median(inside.laps[1:])
    computed = statistics.median(lap for run in uncached for lap in run.laps[1:-1])
    rows = [_row(cached[rate], schedules[rate], steps, uncached, share) for rate in RATES]
    return {
        "steps": steps,
        "rounds": rounds,
        "share_of_the_blocks": share,
        "seconds_uncached": statistics.median(run.seconds for run in uncached),
        "seconds_per_computed_step": computed,
        "seconds_per_reused_step": statistics.median(row["seconds_per_reused_step"] for row in rows),
        "rates": rows,
        "peak_bytes_without_session": max((run.peak_bytes for run in uncached if run.peak_bytes), default=None),
        "finite": all(run.finite for runs in (uncached, *cached.values()) for run in runs),
        "a_session_that_never_reuses_changes_no_bit": torch.equal(bench.run(None, 4).latents, inside.latents),
    }


def _row(cached: list[Run], schedule: tuple[int, ...], steps: int, uncached: list[Run], share: float) -> dict[str, Any]:
    rate = 1 - len(schedule) / steps
    speedup = statistics.median(run.seconds for run in uncached) / statistics.median(run.seconds for run in cached)
    ideal = 1 / (1 - rate * share)
    assert all(run.trace is not None and run.trace.computed == len(schedule) for run in cached)
    laps = [run.laps[step] for run in cached for step in range(steps - 1) if step not in schedule]
    return {
        "reuse_rate": rate,
        "speedup": speedup,
        "ideal_speedup": ideal,
        "realised_over_ideal": speedup / ideal,
        "seconds_per_reused_step": statistics.median(laps),
        "peak_bytes": max((run.peak_bytes for run in cached if run.peak_bytes), default=None),
    }


def _median(values: Any) -> float:
    return statistics.median([value for value in values if value is not None])


def indicator(bench: Bench, computes: bwcache.Policy[Any], keeps: bwcache.Policy[Any] | None = None) -> dict[str, Any]:
    """What an indicator costs: its part of a computed step's blocks and itself, and what is kept between steps.

    Args:
        computes: measures and computes every step.
        keeps: keeps all that is ever kept; None: the same one.
    """
    timed = bench.run(computes, 4, timed=True)
    kept = timed if keeps is None else bench.run(keeps, 4)
    assert timed.trace is not None
    assert kept.trace is not None
    events = timed.trace.events[2:]  # the first has nothing to compare with, the second may compile the kernel
    spent, blocks = _median(e.indicator_seconds for e in events), _median(e.seconds for e in events)
    return {
        "seconds_per_step": spent,
        "share_of_computed_steps": spent / (spent + blocks),
        "kept_bytes": kept.trace.peak_bytes,
        "kept_hidden_states": kept.trace.peak_bytes / kept.trace.hidden_bytes,
        "peak_bytes": kept.peak_bytes,
    }


def indicators(bench: Bench) -> dict[str, dict[str, Any]]:
    """BWCache's, of samples and of all entries, and Adaptive's prediction errors."""

    def often(share: float | None) -> bwcache.BWCache:
        return bwcache.BWCache(threshold=ALWAYS, sample=share, reuse_interval=1)

    return {
        "indicator_sampled": indicator(bench, bwcache.NeverReuse(measures="default"), often(None)),
        "indicator_exact": indicator(bench, bwcache.NeverReuse(measures=1), often(1)),
        "prediction_errors": indicator(bench, bwcache.Adaptive(tolerance=1e-12)),
    }


def offloaded(bench: Bench, steps: int = 7) -> dict[str, Any]:
    """Features that wait in main memory beside the same on the device."""
    policy = bwcache.FixedInterval(interval=3)
    bench.run(policy, 4, memory="offload")  # the first pinned memory takes its time
    here, away = bench.run(policy, steps), bench.run(policy, steps, memory="offload")
    assert here.trace is not None
    assert away.trace is not None
    first, further = ([i for i in range(1, steps - 1) if i % 3 == place] for place in (1, 2))
    found: dict[str, Any] = {"the_same_latents": torch.equal(here.latents, away.latents)}
    for name, run in {"device": here, "offload": away}.items():
        assert run.trace is not None
        found[name] = {
            "seconds_per_first_reused_step": statistics.median(run.laps[i] for i in first),
            "seconds_per_further_reused_step": statistics.median(run.laps[i] for i in further),
            "seconds_per_computed_step": statistics.median(run.laps[i] for i in range(3, steps - 1, 3)),
            "kept_on_the_device_bytes": run.trace.peak_bytes,
            "kept_in_main_memory_bytes": run.trace.host_bytes,
            "peak_bytes": run.peak_bytes,
        }
    return found


def waits(bench: Bench, steps: int = 7) -> dict[str, Any]:
    """How often the denoiser's forward waits for the device in reused steps, by torch's sync debug mode.

    The first reused step after a computed one is told apart: it reads what the decision rests on.
    """
    schedule = (0, steps - 1)
    seen: list[list[str]] = []

    def enter(*_: Any) -> None:
        seen.append([])
        torch.cuda.set_sync_debug_mode("warn" if len(seen) - 1 not in schedule else "default")

    def leave(*_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")

    def note(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
        if "called a synchronizing" in str(message):
            seen[-1].append(f"{Path(filename).name}:{lineno}")

    with warnings.catch_warnings(), bwcache.attach(bench.pipe, bwcache.StepList(schedule)):
        warnings.simplefilter("always")
        warnings.showwarning = note
        hooks = [
            bench.pipe.transformer.register_forward_pre_hook(enter, prepend=True),
            bench.pipe.transformer.register_forward_hook(leave),
        ]
        try:
            bench.geometry.denoise(bench.pipe, bench.inputs, steps)
        finally:
            leave()
            for hook in hooks:
                hook.remove()
    return {"first_reused_step": seen[1], "further_reused_steps": [place for step in seen[2:-1] for place in step]}


def kernel(device: torch.device, dtype: torch.dtype, small: bool) -> dict[str, Any]:
    """The exact indicator's pass over a hidden state of Wan 1.3B: error against float64, seconds, bytes per second."""
    tokens, width = (77, 24) if small else (32_760, 1536)
    shapes = {"contiguous": (1, tokens, width), "awkward": (3, tokens // 3 + 1, 251)}
    found: dict[str, Any] = {"used": device.type == "cuda" and exchange._fused(device) is not None}
    for name, shape in shapes.items():
        old = torch.randn(shape, device=device).to(dtype)
        new = torch.randn(shape, device=device).to(dtype)
        if name == "awkward":
            new = new.transpose(1, 2).contiguous().transpose(1, 2)[..., :250]
            old = old[..., :250].contiguous()
        expected = [float((new.double() - old.double()).abs().sum()), float(old.double().abs().sum())]
        for way, does in {"exchange": exchange.exchange, "pieces": exchange.by_pieces}.items():
            kept = old.clone()
            sums = [float(value) for value in does(kept, new)]
            errors = [abs(a / b - 1) for a, b in zip(sums, expected, strict=True)]
            seconds = _per_call(lambda does=does, kept=kept, new=new: does(kept, new), device)  # type: ignore[misc]
            found[f"{name}, {way}"] = {
                "relative_error": max(errors),
                "copied": bool(torch.equal(kept, new)),
                "seconds": seconds,
                "bytes_per_second": 3 * new.numel() * new.element_size() / seconds,
            }
    return found


def _per_call(does: Callable[[], Any], device: torch.device, calls: int = 20) -> float:
    """Seconds, median of a few rounds of calls one after the other."""
    does()
    rounds = []
    for _ in range(5):
        wait(device)
        start = timing.mark(device)
        for _ in range(calls):
            does()
        rounds.append(timing.seconds([(start, timing.mark(device))]) / calls)
    return statistics.median(rounds)


def flash(transformer: Any, device: torch.device) -> str:
    """Which attention the denoiser is set to: torch's flash kernel on CUDA, if this diffusers can be told."""
    if device.type != "cuda" or not hasattr(transformer, "set_attention_backend"):
        return "scaled_dot_product_attention"
    transformer.set_attention_backend("_native_flash")
    return "flash (torch)"


def compiled_graphs() -> tuple[int, int]:
    """How many graphs torch has compiled so far, and how often it had to break one."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"]), sum(counters["graph_break"].values())


def affordable(seconds_per_forward: float, allowance: float) -> tuple[int, int] | None:
    """Steps and rounds of a race that fit into so many seconds, the other measurements included; None: none do."""
    for steps, rounds in ((17, 2), (17, 1), (12, 1), (7, 1)):
        race_forwards = rounds * (steps + sum(computed_for(rate, steps) for rate in RATES))
        if (race_forwards + OTHERS) * seconds_per_forward <= allowance:
            return steps, rounds
    return None


def measure(bench: Bench, compiled: bool, allowance: Callable[[], float], results: Results, small: bool) -> None:
    """All figures of a geometry, compiled or not, as far as time allows."""
    key = ("geometries", bench.geometry.name, "compiled" if compiled else "not compiled")
    if compiled:
        options = {"backend": "eager"} if bench.device.type == "cpu" else {}
        bench.pipe.transformer.compile_repeated_blocks(**options)
    warm = bench.run(bwcache.BWCache(threshold=ALWAYS, reuse_interval=1), 4)
    forward = statistics.median(bench.run(None, 3).laps)
    results.add(*key, warm_up_seconds=warm.seconds, seconds_per_forward=forward)
    plan = (7, 1) if small else affordable(forward, allowance())
    if plan is None:
        results.add(*key, skipped=f"{forward:.1f} s a forward: no time left for it")
        return
    graphs, breaks = compiled_graphs()
    results.add(*key, graphs=graphs, graph_breaks=breaks)
    results.add(*key, **indicators(bench))
    results.add(*key, offload=offloaded(bench))
    if bench.device.type == "cuda":
        results.add(*key, waits_in_reused_steps=waits(bench))
    results.add(*key, race=race(bench, *plan))
    results.add(*key, compiled_again=compiled_graphs()[0] - graphs)


def geometry_figures(
    make: Callable[[bool], Geometry], device: torch.device, dtype: torch.dtype, results: Results, small: bool,
    allowance: Callable[[], float],
) -> None:  # fmt: skip
    """A geometry, first not compiled, then compiled."""
    geometry = make(small)
    pipe = geometry.build(device, dtype)
    bench = Bench(geometry, pipe, geometry.inputs(device, dtype), device)
    results.add(
        "geometries",
        geometry.name,
        tokens=geometry.tokens,
        width=geometry.width,
        blocks=geometry.blocks,
        real_blocks=geometry.real_blocks,
        attention=flash(pipe.transformer, device),
    )
    if "environment" not in results.figures:
        results.add(environment=environment(pipe))
    for compiled in (False, True):
        try:
            measure(bench, compiled, allowance, results, small)
        except Exception as error:  # what is there stays, and the rest goes on
            if small:
                raise
            failed = f"{type(error).__name__}: {str(error)[:500]}"
            results.add("geometries", geometry.name, "compiled" if compiled else "not compiled", failed=failed)


def main(
    small: Annotated[bool, typer.Option(help="tiny, on the CPU, to see that it runs")] = False,
    minutes: Annotated[
        float, typer.Option(help="time for all of it; what does not fit is shortened or left out")
    ] = 7.5,
    out: Annotated[
        Path | None, typer.Option(help="the JSON; by default named after the GPU, in benchmarks/results")
    ] = None,
) -> None:
    """Measure on a GPU."""
    deadline = time.perf_counter() + 60 * minutes
    small = small or not torch.cuda.is_available()
    device = torch.device("cpu") if small else torch.device("cuda", torch.cuda.current_device())
    dtype = torch.float32 if small else torch.bfloat16
    if out is None and not small:
        name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(device).lower()).strip("-")
        out = Path(__file__).parent / "results" / f"{name}.json"
    results = Results(out, {"benchmark": "gpu", "small": small})
    with torch.no_grad():
        results.add(kernel=kernel(device, dtype, small))
        parts = [weight for weight in GEOMETRIES.values() for _ in ("not compiled", "compiled")]

        def allowance() -> float:
            """Seconds of what is left for the next part: by its weight among those to come."""
            left, weight = sum(parts), parts.pop(0)
            return (deadline - time.perf_counter()) * weight / left

        for make in GEOMETRIES:
            geometry_figures(make, device, dtype, results, small, allowance)
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            torch._dynamo.reset()
    results.add(minutes=(time.perf_counter() - deadline) / 60 + minutes)
    sys.stdout.write(json.dumps(results.figures, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
