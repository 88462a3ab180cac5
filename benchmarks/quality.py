"""What BWCache does on the shapes model: `python -m benchmarks.quality [--out FILE] [--prompts N]`.

- The indicator's curve over 30 and 50 steps: is it a U?
- Threshold, interval and predictor against speed and quality, beside fewer steps at the same number of computed steps.
- Guidance branches that decide together against each for itself.
- The sampled indicator against the exact one: in how many computed steps do they decide alike?

Speed is given as the share of block compute saved and as the denoising speedup over uncached calls that alternate with
the others; quality is PSNR and SSIM against the uncached video from the same noise, mean and worst.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

import bwcache
from benchmarks.common import cached, captions, load, publish, request
from bwcache.measure.call import Call, Request, call
from bwcache.measure.quality import quality

THRESHOLDS = (0.05, 0.10, 0.15, 0.20, 0.25)


@dataclass(frozen=True)
class Row:
    """One cached or shortened call against its reference."""

    computed: int
    saved: float
    speedup: float
    psnr: float
    ssim: float

    @classmethod
    def of(cls, reference: Call, made: Call, computed: int, saved: float) -> Row:
        """Compares a call with the uncached one of the same prompt and noise."""
        measured = quality(reference.frames, made.frames)
        assert reference.denoise_seconds is not None
        assert made.denoise_seconds is not None
        speedup = reference.denoise_seconds / made.denoise_seconds
        return cls(computed, saved, speedup, measured.psnr, measured.ssim)


def table_row(rows: list[Row]) -> dict[str, Any]:
    """Means over the prompts, and the worst quality; a PSNR of infinity (identical) counts as 100 dB."""
    psnr = [min(row.psnr, 100.0) for row in rows]
    return {
        "computed_steps": statistics.fmean(row.computed for row in rows),
        "block_compute_saved": statistics.fmean(row.saved for row in rows),
        "denoise_speedup": statistics.median(row.speedup for row in rows),
        "psnr": statistics.fmean(psnr),
        "worst_psnr": min(psnr),
        "ssim": statistics.fmean(row.ssim for row in rows),
        "worst_ssim": min(row.ssim for row in rows),
    }


def under(pipe: Any, policy: bwcache.BWCache, requests: list[Request]) -> dict[str, Any]:
    """A policy's row."""
    rows = []
    for asked in requests:
        truth = call(pipe, asked)
        made, trace = cached(pipe, policy, asked, timing=False)
        rows.append(Row.of(truth, made, trace.computed, trace.reuse_rate))
    return table_row(rows)


def fewer_steps(pipe: Any, steps: int, requests: list[Request]) -> dict[str, Any]:
    """The row of the same scheduler with fewer steps."""
    rows = []
    for asked in requests:
        truth, made = call(pipe, asked), call(pipe, replace(asked, steps=steps))
        rows.append(Row.of(truth, made, steps, 1 - steps / asked.steps))
    return table_row(rows)


def policies() -> Iterator[tuple[str, bwcache.BWCache]]:
    """What is compared: thresholds, intervals, guards, predictors, and who decides."""
    for threshold in THRESHOLDS:
        yield f"threshold {threshold:g}", bwcache.BWCache(threshold=threshold)
        yield f"threshold {threshold:g}, linear", bwcache.BWCache(threshold=threshold, predictor=bwcache.Linear())
        yield f"threshold {threshold:g}, per branch", bwcache.BWCache(threshold=threshold, decision="per_branch")
    for interval in (1, 0.05, 0.2):
        yield f"interval {interval:g}", bwcache.BWCache(reuse_interval=interval)
    for guard in (0.0, 1.0):
        yield f"tail guard {guard:g}", bwcache.BWCache(tail_guard=guard)


def curve(pipe: Any, steps: int, prompts: list[str]) -> dict[str, Any]:
    """The exact indicator of every step of uncached runs, mean and range over the prompts."""
    exact = bwcache.NeverReuse(measures=1)
    runs = []
    for prompt in tqdm(prompts, f"curve, {steps} steps"):
        _, trace = cached(pipe, exact, request(prompt, steps), timing=False)
        runs.append(pooled(trace))
    by_step = list(zip(*(run[1:] for run in runs), strict=True))
    mean = [statistics.fmean(values) for values in by_step]
    return {"steps": steps, "mean": mean, "min": [min(v) for v in by_step], "max": [max(v) for v in by_step]}


def pooled(trace: bwcache.Trace) -> list[float]:
    """The indicator per step, mean over the branches; infinite where there is none."""
    steps: dict[int, list[float]] = {}
    for event in trace.events:
        steps.setdefault(event.step, []).append(float("inf") if event.indicator is None else event.indicator)
    return [statistics.fmean(steps[step]) for step in sorted(steps)]


def agreement(pipe: Any, prompts: list[str]) -> dict[str, Any]:
    """Exact against sampled indicator along the same uncached runs, and whether the same side of each threshold."""
    alike, errors = {threshold: [0, 0] for threshold in THRESHOLDS}, []
    for prompt in tqdm(prompts, "sample against exact"):
        asked = request(prompt)
        exact, sampled = (
            pooled(cached(pipe, bwcache.NeverReuse(measures=share), asked, timing=False)[1])[1:]
            for share in (1, "default")
        )
        errors += [abs(b / a - 1) for a, b in zip(exact, sampled, strict=True)]
        for threshold, counts in alike.items():
            counts[0] += sum((a < threshold) == (b < threshold) for a, b in zip(exact, sampled, strict=True))
            counts[1] += len(exact)
    total = [sum(column) for column in zip(*alike.values(), strict=True)]
    return {
        "prompts": len(prompts),
        "agreement": {f"{threshold:g}": same / of for threshold, (same, of) in alike.items()},
        "agreement_over_all": total[0] / total[1],
        "relative_error_mean": statistics.fmean(errors),
        "relative_error_max": max(errors),
    }


def agreement_in_use(pipe: Any, prompts: list[str]) -> dict[str, Any]:
    """The same in cached runs at the default policy, where many measurements lie close to the threshold.

    Counts the decisions that follow a computed step, of each run until the two first differ: after that they make
    different videos.
    """
    same = total = whole = 0
    for i, prompt in enumerate(tqdm(prompts, "sample against exact, in use")):
        exact, sampled = (
            actions(cached(pipe, bwcache.BWCache(sample=share), request(prompt, seed=i), timing=False)[1])
            for share in (1, None)
        )
        split = next((step for step, pair in enumerate(zip(exact, sampled, strict=True)) if len(set(pair)) > 1), None)
        end = len(exact) if split is None else split + 1
        total += sum(exact[step - 1] == "compute" for step in range(1, end))
        same += sum(exact[step - 1] == "compute" for step in range(1, end)) - (split is not None)
        whole += split is None
    return {"prompts": len(prompts), "decisions": total, "agreement": same / total, "runs_alike": whole / len(prompts)}


def actions(trace: bwcache.Trace) -> list[str]:
    """What was done in each step by the first branch."""
    first = trace.events[0].branch
    return [event.action for event in trace.events if event.branch == first]


def main(
    prompts: Annotated[int, typer.Option(help="videos per row")] = 16,
    agreement_prompts: Annotated[int, typer.Option(help="videos for the sampled indicator")] = 128,
    out: Annotated[Path | None, typer.Option(help="also write the JSON here")] = None,
) -> None:
    """Measure what BWCache does to speed and quality."""
    pipe = load()
    texts = captions(max(prompts, agreement_prompts))
    requests = [request(prompt, seed=i) for i, prompt in enumerate(texts[:prompts])]
    call(pipe, requests[0])
    rows = {name: under(pipe, policy, requests) for name, policy in tqdm(list(policies()), "policies")}
    counts = sorted({round(row["computed_steps"]) for row in rows.values()})
    shorter = {f"{n} steps": fewer_steps(pipe, n, requests) for n in tqdm(counts, "fewer steps")}
    figures = {
        "prompts": prompts,
        "steps": requests[0].steps,
        "curves": [curve(pipe, steps, texts[:prompts]) for steps in (30, 50)],
        "policies": rows,
        "fewer_steps": shorter,
        "sampled_indicator": agreement(pipe, texts[:agreement_prompts]),
        "sampled_indicator_in_use": agreement_in_use(pipe, texts[:agreement_prompts]),
    }
    publish(pipe, figures, out)


if __name__ == "__main__":
    typer.run(main)
