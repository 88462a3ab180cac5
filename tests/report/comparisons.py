"""Folders as the commands leave them, made by hand: for the tests of pages, which need no model."""

import math
from typing import Literal

import numpy as np

from bwcache.core.trace import Event, Trace
from bwcache.measure.results import Comparison, Pair, Run
from bwcache.report.files import run_folder, write_run, write_summary

MODEL = {
    "name": "shapes", "pipeline": "WanPipeline", "denoisers": ["WanTransformer3DModel"], "parameters": 3349664,
    "scheduler": "FlowMatchEulerDiscreteScheduler",
}  # fmt: skip
POLICY = {"name": "BWCache", "threshold": 0.15, "reuse_interval": 0.1, "tail_guard": 0.5, "blocks": None}
ENVIRONMENT = {
    "python": "3.11.7", "device": "cpu (a processor)", "cores": 2, "threads": 2, "dtype": "float32",
    "packages": {"bwcache": "0.1.0", "torch": "2.13.0"}, "steps": 10, "guidance_scale": 4.0, "frames": 8,
    "height": 32, "width": 32,
}  # fmt: skip
UNCACHED = {"before": 1.0, "blocks": 7.0, "indicator": 0.0, "rest": 1.0, "between": 0.4, "after": 0.6}
CACHED = {"before": 1.0, "blocks": 4.2, "indicator": 0.1, "rest": 1.0, "between": 0.4, "after": 0.6}

KINDS = "CCCrrCrrGG"
WORDS = {"C": "still changing (0.3 >= 0.15)", "r": "reuse window (step 1 of 2)", "G": "tail guard (the last 2 steps)"}


def event(step, kind, branch="cond", site="transformer/stack", **more):
    """One decision: C computed, r reused, G computed because of the tail guard."""
    computed = kind != "r"
    measured = computed and step > 0
    values = {
        "indicator": 0.3 / step if measured else None,
        "distances": (0.4 / step, 0.2 / step, 0.1 / step) if measured else None,
        "seconds": 0.1,
    }
    action: Literal["compute", "reuse"] = "compute" if computed else "reuse"
    return Event(0, step, len(KINDS), 1.0 - step / 10, None, branch, site, action, WORDS[kind], **{**values, **more})


def trace(kinds=KINDS):
    """Both branches alike."""
    events = [event(i, kind, branch) for i, kind in enumerate(kinds) for branch in ("cond", "uncond")]
    return Trace({"policy": POLICY}, events)


def moving(shift=0):
    """A bright square that moves to the right: [8, 32, 32, 3]."""
    video = np.zeros((8, 32, 32, 3), dtype=np.float32)
    for i in range(8):
        video[i, 10:20, 2 * i + shift : 2 * i + shift + 10] = (1.0, 0.8, 0.1)
    return video


def run(prompt, **values):
    """4 of 10 steps reused, from 10 s to 7.3 s."""
    known = {
        "seed": 0, "steps": 10, "computed": 6, "reused": 4, "first_trigger": 3, "reuse_rate": 0.4,
        "uncached_seconds": 10.0, "cached_seconds": 7.3, "uncached_denoise_seconds": 8.4,
        "cached_denoise_seconds": 5.7, "ideal_denoise_speedup": 1.5, "psnr": 31.25, "ssim": 0.95,
        "indicator_share": 0.0123, "extra_memory_bytes": 96 * 1024, "hidden_bytes": 40960, "notes": (),
        "trace": trace(), "unmeasured": ("LPIPS (alex): found no torchvision; expected it; install it",),
        "uncached_parts": UNCACHED, "cached_parts": CACHED,
    }  # fmt: skip
    return Run(prompt, **{**known, **values})


def comparison_folder(folder, *runs, command="bwcache compare --out here"):
    """What `bwcache compare` leaves, with videos that really move."""
    folder.mkdir(parents=True)
    for i, one in enumerate(runs):
        pair = Pair(moving(), moving(0 if math.isinf(one.psnr) else 1))
        write_run(folder / run_folder(i, one.prompt), one, pair, 8, 0.15)
    write_summary(folder, {"command": command, **Comparison(MODEL, POLICY, ENVIRONMENT, 0.9, runs).to_json()})
    return folder
