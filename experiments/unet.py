"""Experiment 12: a video U-Net: its curve, BWCache and Adaptive beside fewer steps, all blocks or the inner ones."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

import bwcache
from bwcache.core import Trace
from bwcache.measure.call import call
from bwcache.measure.flops import FlopCount
from bwcache.models import BlockStack, Site, Tap
from bwcache.study import FewerSteps, Result, UnderPolicy, results
from bwcache.study.peers.ladders import Called
from experiments.common import (
    RESULTS,
    captions,
    exact_trace,
    indicator,
    picture,
    publish,
    request,
    result_rows,
    study,
)
from experiments.thresholds import reached
from training.models import UNET_FRAMES, load_unet

VIDEOS, SHOWN = 12, 3
THRESHOLDS = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
INTERVALS = (0.05, 0.15, 0.20)
TOLERANCES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
FEWER = (8, 10, 12, 15, 20, 24)
EVERY = (2, 3, 4, 6)
WARMUP, TAIL = 6, 2
LEVELS = (30, 35, 40, 45)
FAMILIES = {
    "BWCache": "BWCache",
    "adaptive": "Adaptive",
    "inner": "BWCache, inner blocks",
    "fixed": "fixed interval",
    "fixed inner": "fixed interval, inner blocks",
    "fewer": "fewer steps",
}


def inner(stack: BlockStack) -> Site:
    """All blocks but the first and the last, which a U-Net joins by its outermost skip connection."""
    return stack.site(stack.blocks[1], stack.blocks[-2], streams=stack.spec.read_after, name="inner")


@dataclass(frozen=True)
class InnerBWCache(bwcache.BWCache):
    """BWCache over the inner blocks: these are measured, and these are reused."""

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """One: the inner blocks."""
        return (inner(stack),)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """All inner blocks."""
        return tuple(stack.tap(i) for i in range(1, len(stack.blocks) - 1))


@dataclass(frozen=True)
class InnerInterval(bwcache.FixedInterval):
    """The inner blocks at a fixed interval: what DeepCache (arXiv 2312.00858) does, whole blocks at a time."""

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """One: the inner blocks."""
        return (inner(stack),)


def main() -> None:
    """Runs and writes it."""
    pipe = load_unet()
    pipe.set_progress_bar_config(disable=True)
    cells, rows = study("unet", methods(), VIDEOS, pipe=pipe, frames=UNET_FRAMES)
    traces, frames = uncached(pipe)
    curves = np.array([indicator(trace) for trace in traces])
    blocks = block_rows(pipe, traces)
    lively = {caption.text for caption in captions(VIDEOS) if caption.speed == "fast"}
    figures = {
        "videos": VIDEOS,
        "curve": np.nanquantile(curves[:, 1:], (0.1, 0.5, 0.9), axis=0).tolist(),
        "per_log_snr": per_log_snr(pipe, traces[0], np.nanmedian(curves, axis=0)),
        "blocks": [dict(zip(blocks[0], row, strict=True)) for row in blocks[1:]],
        "rows": [row.to_json() for row in rows],
        "lively": [row.to_json() for row in results([cell for cell in cells if cell.prompt in lively])],
    }
    publish("unet_blocks", {}, pipe, blocks)
    publish("unet", figures, pipe, result_rows(rows))
    publish("unet_levels", {}, pipe, levels(rows))
    draw(curves, blocks, rows)
    cached = bwcache.BWCache(), bwcache.Adaptive(tolerance=0.04), InnerInterval(3, WARMUP, TAIL)
    draw_frames([frames[:SHOWN], *([made_under(pipe, policy, seed) for seed in range(SHOWN)] for policy in cached)])


def methods() -> list[Any]:
    """Policies over all blocks and over the inner ones, and fewer steps."""
    shown = ("threshold", "reuse_interval")
    guarded = ("interval", "warmup")
    return [
        *[UnderPolicy(bwcache.BWCache(threshold=t), shown) for t in THRESHOLDS],
        *[UnderPolicy(bwcache.BWCache(reuse_interval=r), shown) for r in INTERVALS],
        *[UnderPolicy(bwcache.Adaptive(tolerance=t), ("tolerance",)) for t in TOLERANCES],
        *[Called(InnerBWCache(threshold=t), shown, FAMILIES["inner"]) for t in THRESHOLDS[:4]],
        *[Called(bwcache.FixedInterval(n, WARMUP, TAIL), guarded, FAMILIES["fixed"]) for n in EVERY],
        *[Called(InnerInterval(n, WARMUP, TAIL), guarded, FAMILIES["fixed inner"]) for n in EVERY],
        *[FewerSteps(steps) for steps in FEWER],
    ]


def asked(seed: int) -> Any:
    """The request for one of the videos."""
    return dataclasses.replace(request(captions(VIDEOS)[seed].text, seed=seed), frames=UNET_FRAMES)


def uncached(pipe: Any) -> tuple[list[Trace], list[Any]]:
    """Traces with the exact indicator, and the videos."""
    made = [exact_trace(pipe, asked(seed)) for seed in tqdm(range(VIDEOS), "curve")]
    return [trace for _, trace in made], [video.frames for video, _ in made]


def made_under(pipe: Any, policy: Any, seed: int) -> Any:
    """The frames of one video under a policy."""
    with bwcache.attach(pipe, policy):
        return call(pipe, asked(seed)).frames


def block_rows(pipe: Any, traces: Sequence[Trace]) -> list[list[Any]]:
    """Per block: its share of the operations, and how much its output changes early, in the middle and at the end."""
    with FlopCount(pipe) as count:
        call(pipe, dataclasses.replace(asked(0), steps=1))
    flops = count.denoisers["unet"]
    changes = np.median([[event.distances for event in trace.events if event.distances] for trace in traces], axis=0)
    early, middle, late = (changes[part].mean(axis=0) for part in np.array_split(np.arange(len(changes)), 3))
    rows: list[list[Any]] = [["block", "operations", "change, first third", "middle", "last"]]
    for name, done, *change in zip(flops.blocks, flops.blocks.values(), early, middle, late, strict=True):
        rows.append([name, f"{done / flops.total:.1%}", *map(float, change)])
    return [*rows, ["the rest", f"{flops.rest / flops.total:.1%}", None, None, None]]


def per_log_snr(pipe: Any, trace: Trace, curve: np.ndarray) -> list[float]:
    """The indicator of each step from the third on, divided by the step in log(signal / noise)."""
    times = sorted({event.step: int(event.timestep or 0) for event in trace.events}.items())
    clean = pipe.scheduler.alphas_cumprod[[time for _, time in times]].double().numpy()
    return (curve[2:] / np.diff(np.log(clean / (1 - clean)) / 2)[1:]).tolist()


def levels(rows: Sequence[Result]) -> list[list[Any]]:
    """The speedup of the blocks' work that each family reaches at a mean PSNR, with its interval over the videos."""
    table: list[list[Any]] = [["family", *(f"{level} dB" for level in LEVELS)]]
    for family in FAMILIES.values():
        own = [row for row in rows if row.family == family]
        table.append([family, *(reached(own, level) for level in LEVELS)])
    return table


def draw(curves: np.ndarray, blocks: Sequence[Sequence[Any]], rows: Sequence[Result]) -> None:
    """The curve beside the transformer's, and quality against work."""
    transformer = json.loads((RESULTS / "curve.json").read_text(encoding="utf-8"))["30"]
    steps = np.arange(1, curves.shape[1])
    with picture("unet", 3, (15, 4)) as (left, middle, right):
        low, half, high = np.nanquantile(curves[:, 1:], (0.1, 0.5, 0.9), axis=0)
        for name, lines in (
            ("U-Net", (low, half, high)),
            ("transformer", [transformer[part] for part in ("low", "median", "high")]),
        ):
            (line,) = left.plot(steps, lines[1], label=name)
            left.fill_between(steps, lines[0], lines[2], alpha=0.2, color=line.get_color(), lw=0)
        left.set_xlabel("denoising step")
        left.set_ylabel("indicator (median, 10 to 90 %)")
        left.set_ylim(bottom=0)
        left.legend(frameon=False)
        for axes, of, measure in ((middle, Result.mean, "mean"), (right, Result.worst, "worst")):
            for family in FAMILIES.values():
                own = [row for row in rows if row.family == family and row.settings.get("reuse_interval", 0.1) == 0.1]
                style = "s--" if family == "fewer steps" else "o-"
                axes.plot([row.compute_speedup for row in own], [of(row, "psnr") for row in own], style, label=family)
            axes.set_xlabel("block work, uncached / done")
            axes.set_ylabel(f"PSNR, {measure} of the videos (dB)")
        middle.legend(frameon=False, fontsize=8)


def draw_frames(videos: Sequence[Sequence[Any]]) -> None:
    """Every second frame of the first videos: uncached, and under each of the policies."""
    names = ("uncached", "BWCache .15", "Adaptive .04", "inner blocks")
    with picture("unet_frames", 1, (5.4, 0.68 * SHOWN * len(names))) as axes:
        lines = [np.concatenate(list(made[i][::2]), axis=1) for i in range(SHOWN) for made in videos]
        lines = [np.pad(one, ((0, 4 if n % len(names) == 3 else 1), (0, 0), (0, 0))) for n, one in enumerate(lines)]
        axes.imshow(np.clip(np.concatenate(lines), 0, 1), interpolation="nearest")
        height = sum(len(one) for one in lines) / SHOWN
        axes.set_yticks([16 + 33 * k + height * i for i in range(SHOWN) for k in range(len(names))], names * SHOWN)
        axes.set_xticks([])
        axes.grid(visible=False)


if __name__ == "__main__":
    main()
