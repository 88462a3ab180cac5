"""What BWCache does on the shapes model: `python -m benchmarks.quality [--section NAME] [--out FILE] [--prompts N]`.

- The indicator's curve over 30 and 50 steps: is it a U?
- Threshold, interval and predictor against speed and quality, beside fewer steps at the same number of computed steps.
- Guidance branches that decide together against each for itself.
- The sampled indicator against the exact one: in how many computed steps do they decide alike?

Speed is given as the share of block compute saved and as the denoising speedup over the uncached call of the same
prompt, in the time that the process worked; quality is PSNR and SSIM against the uncached video from the same noise,
mean and worst. What a stopped call has made is kept, and a second call goes on there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tqdm import tqdm

import bwcache
from benchmarks.common import Kept, cached, captions, laps, load, publish_part, request
from benchmarks.race.command import chosen
from bwcache.measure.call import Request, call
from bwcache.measure.frames import Frames
from bwcache.measure.quality import psnr, ssim
from bwcache.study.results import CEILING

THRESHOLDS = (0.05, 0.10, 0.15, 0.20, 0.25)


@dataclass(frozen=True)
class Row:
    """One cached or shortened call against its reference; of an identical video the PSNR is the ceiling's."""

    computed: int
    saved: float
    speedup: float
    psnr: float
    ssim: float


@dataclass(frozen=True)
class Made:
    """A video, for how many seconds its denoising kept this process at work, and the trace if there was a policy."""

    frames: Frames
    seconds: float
    trace: bwcache.Trace | None


def make(pipe: Any, asked: Request, policy: bwcache.BWCache | None = None) -> Made:
    """One call, under a policy if one is given."""
    with laps(pipe, time.process_time) as seconds:
        done, trace = cached(pipe, policy, asked, timing=False) if policy else (call(pipe, asked), None)
    return Made(done.frames, sum(seconds), trace)


def compared(truth: Made, other: Made, steps: int, of: int) -> Row:
    """A cached video, or one of fewer steps, beside the uncached one of all of them."""
    trace = other.trace
    computed, saved = (trace.computed, trace.reuse_rate) if trace else (steps, 1 - steps / of)
    close = psnr(truth.frames, other.frames), ssim(truth.frames, other.frames)
    return Row(computed, saved, truth.seconds / other.seconds, min(close[0], CEILING), close[1])


def table_row(own: list[Row]) -> dict[str, Any]:
    """Means over the prompts, and the worst quality."""
    closeness = [row.psnr for row in own]
    return {
        "computed_steps": statistics.fmean(row.computed for row in own),
        "block_compute_saved": statistics.fmean(row.saved for row in own),
        "denoise_speedup": statistics.median(row.speedup for row in own),
        "psnr": statistics.fmean(closeness),
        "worst_psnr": min(closeness),
        "ssim": statistics.fmean(row.ssim for row in own),
        "worst_ssim": min(row.ssim for row in own),
    }


def rows(
    kept: Kept, pipe: Any, requests: list[Request], sides: Mapping[str, tuple[int, bwcache.BWCache | None]]
) -> dict[str, dict[str, Any]]:
    """A row for each side, a number of steps and a policy or none; prompt by prompt, after its uncached video."""
    found: dict[str, list[Row]] = {name: [] for name in sides}
    for asked in tqdm(requests, f"{len(sides)} settings"):
        truth = cache(partial(make, pipe, asked))

        def row(steps: int, policy: bwcache.BWCache | None, asked: Request = asked, truth: Any = truth) -> Any:
            before = truth()  # so that it is made first, and alike for all
            return asdict(compared(before, make(pipe, replace(asked, steps=steps), policy), steps, asked.steps))

        for name, side in sides.items():
            found[name].append(Row(**kept.part(partial(row, *side), name, asked.seed)))
    return {name: table_row(own) for name, own in found.items()}


def thresholds() -> dict[str, bwcache.BWCache]:
    """The paper's replay, and a line through the last two computed steps."""
    linear = {f"threshold {one:g}, linear": bwcache.BWCache(one, predictor=bwcache.Linear()) for one in THRESHOLDS}
    return {f"threshold {one:g}": bwcache.BWCache(one) for one in THRESHOLDS} | linear


def settings() -> dict[str, bwcache.BWCache]:
    """Intervals and guards."""
    guards = {f"tail guard {one:g}": bwcache.BWCache(tail_guard=one) for one in (0.0, 1.0)}
    return {f"interval {one:g}": bwcache.BWCache(reuse_interval=one) for one in (1, 0.05, 0.2)} | guards


def per_branch() -> dict[str, bwcache.BWCache]:
    """Each guidance branch for itself."""
    return {f"threshold {one:g}, per branch": bwcache.BWCache(one, decision="per_branch") for one in THRESHOLDS}


def curve(kept: Kept, pipe: Any, steps: int, prompts: list[str]) -> dict[str, Any]:
    """The exact indicator of every step of uncached runs, mean and range over the prompts."""
    runs = [indicators(kept, pipe, 1, steps, prompt) for prompt in tqdm(prompts, f"curve, {steps} steps")]
    by_step = list(zip(*runs, strict=True))
    mean = [statistics.fmean(values) for values in by_step]
    return {"steps": steps, "mean": mean, "min": [min(v) for v in by_step], "max": [max(v) for v in by_step]}


def indicators(kept: Kept, pipe: Any, measures: Any, steps: int, prompt: str) -> list[float]:
    """The indicator at every step after the first one of an uncached run."""

    def run() -> dict[str, Any]:
        _, trace = cached(pipe, bwcache.NeverReuse(measures=measures), request(prompt, steps), timing=False)
        return {"indicators": pooled(trace)[1:]}

    found: list[float] = kept.part(run, "indicators", measures, steps, prompt)["indicators"]
    return found


def pooled(trace: bwcache.Trace) -> list[float]:
    """The indicator per step, mean over the branches; infinite where there is none."""
    steps: dict[int, list[float]] = {}
    for event in trace.events:
        steps.setdefault(event.step, []).append(float("inf") if event.indicator is None else event.indicator)
    return [statistics.fmean(steps[step]) for step in sorted(steps)]


def agreement(kept: Kept, pipe: Any, steps: int, prompts: list[str]) -> dict[str, Any]:
    """Exact against sampled indicator along the same uncached runs, and whether the same side of each threshold."""
    alike, errors = {threshold: [0, 0] for threshold in THRESHOLDS}, []
    for prompt in tqdm(prompts, "sample against exact"):
        exact, sampled = (indicators(kept, pipe, share, steps, prompt) for share in (1, "default"))
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


def agreement_in_use(kept: Kept, pipe: Any, prompts: list[str]) -> dict[str, Any]:
    """The same in cached runs at the default policy, where many measurements lie close to the threshold.

    Counts the decisions that follow a computed step, of each run until the two first differ: after that they make
    different videos.
    """
    same = total = whole = 0
    for i, prompt in enumerate(tqdm(prompts, "sample against exact, in use")):
        exact, sampled = (actions(kept, pipe, share, request(prompt, seed=i)) for share in (1, None))
        split = next((step for step, pair in enumerate(zip(exact, sampled, strict=True)) if len(set(pair)) > 1), None)
        end = len(exact) if split is None else split + 1
        total += sum(exact[step - 1] == "compute" for step in range(1, end))
        same += sum(exact[step - 1] == "compute" for step in range(1, end)) - (split is not None)
        whole += split is None
    return {"prompts": len(prompts), "decisions": total, "agreement": same / total, "runs_alike": whole / len(prompts)}


def actions(kept: Kept, pipe: Any, sample: float | None, asked: Request) -> list[str]:
    """What was done in each step by the first branch."""

    def run() -> dict[str, Any]:
        _, trace = cached(pipe, bwcache.BWCache(sample=sample), asked, timing=False)
        first = trace.events[0].branch
        return {"actions": [event.action for event in trace.events if event.branch == first]}

    found: list[str] = kept.part(run, "actions", sample, asked.seed)["actions"]
    return found


@dataclass(frozen=True)
class Plan:
    """What all sections are of."""

    kept: Kept
    pipe: Any
    requests: list[Request]
    several: list[str]

    @property
    def steps(self) -> int:
        """Of the uncached run."""
        return self.requests[0].steps

    def under(self, some: Mapping[str, bwcache.BWCache]) -> dict[str, dict[str, Any]]:
        """The rows of policies."""
        return rows(self.kept, self.pipe, self.requests, {name: (self.steps, policy) for name, policy in some.items()})

    def few(self) -> dict[str, Any]:
        """Runs of as many steps as the thresholds compute."""
        counts = sorted({round(row["computed_steps"]) for row in self.under(thresholds()).values()})
        return rows(self.kept, self.pipe, self.requests, {f"{n} steps": (n, None) for n in counts})

    def curves(self) -> list[dict[str, Any]]:
        """The exact indicator over 30 and 50 steps."""
        prompts = [asked.prompt for asked in self.requests]
        return [curve(self.kept, self.pipe, steps, prompts) for steps in (30, 50)]


SECTIONS: Mapping[str, Callable[[Plan], Any]] = {
    "thresholds": lambda plan: plan.under(thresholds()),
    "fewer_steps": Plan.few,
    "curves": Plan.curves,
    "settings": lambda plan: plan.under(settings()),
    "per_branch": lambda plan: plan.under(per_branch()),
    "sampled_indicator": lambda plan: agreement(plan.kept, plan.pipe, plan.steps, plan.several),
    "sampled_indicator_in_use": lambda plan: agreement_in_use(plan.kept, plan.pipe, plan.several),
}
"""In the order in which they are made."""


def main(
    section: Annotated[list[str] | None, typer.Option(help=f"{', '.join(SECTIONS)}; without it, all")] = None,
    prompts: Annotated[int, typer.Option(help="videos per row")] = 16,
    agreement_prompts: Annotated[int, typer.Option(help="videos for the sampled indicator")] = 128,
    out: Annotated[Path | None, typer.Option(help="also write the JSON here; other sections in it stay")] = None,
) -> None:
    """Measure what BWCache does to speed and quality."""
    torch.set_num_threads(1)
    pipe = load()
    texts = captions(max(prompts, agreement_prompts))
    requests = [request(prompt, seed=i) for i, prompt in enumerate(texts[:prompts])]
    plan = Plan(Kept(pipe, "quality"), pipe, requests, texts[:agreement_prompts])
    call(pipe, requests[0])
    for name in chosen("section", section, SECTIONS):
        figures = {"prompts": prompts, "steps": plan.steps, "clock": "process", "found": SECTIONS[name](plan)}
        publish_part(pipe, name, figures, out)


if __name__ == "__main__":
    typer.run(main)
