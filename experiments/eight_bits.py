"""Experiment 29: caches on weights of 8 bits. Do the work saved, the time and the errors go together?

Needs torchao (`pip install 'bwcache[torchao]'`), which nothing else does. Times are those that the process worked.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch

import bwcache
from bwcache.measure.call import call
from bwcache.measure.quality import psnr
from experiments.common import kept, load, publish, request, videos

VIDEOS, FIRST = 8, 88
KINDS = {
    "int8 weights": "Int8WeightOnlyConfig",
    "fp8 weights": "Float8WeightOnlyConfig",
    "int8 weights and activations": "Int8DynamicActivationInt8WeightConfig",
}
"""Name -> the setting of torchao."""

POLICIES: dict[str, bwcache.Policy[Any]] = {
    "Planned, 10 steps": bwcache.Planned(computed=10),
    "BWCache .1": bwcache.BWCache(0.1),
    "TaylorSeer lite 4": bwcache.TaylorSeer(4, 1, 3, lite=True),
}

Made = tuple[list[np.ndarray], list[float]]
"""Videos, and for how many seconds each kept this process at work."""


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    torch.set_num_threads(1)
    pipe = load()
    full = cache(partial(made, pipe))
    alone = {
        name: kept("eight_bits", pipe, ["timed", "full", name], partial(under, pipe, policy, full, full))
        for name, policy in POLICIES.items()
    }
    rows: list[list[Any]] = [
        [
            "weights", "cache", "steps computed", "times faster", "if the two multiply", "PSNR", "worst",
            "if errors add up", "to the same weights, uncached",
        ]
    ]  # fmt: skip
    figures: dict[str, Any] = {"videos": VIDEOS, "full": alone}
    for name, policy in alone.items():
        closeness = [*level(policy["psnr"]), "–", f"{mean(policy['psnr']):.1f}"]
        rows.append(["float32", name, f"{mean(policy['computed']):.1f}", f"{policy['speedup']:.2f}x", "–", *closeness])
    for kind, setting in KINDS.items():
        found = kept("eight_bits", pipe, ["timed", kind], partial(measured, setting, full))
        figures[kind] = found
        slower = found["none"]["speedup"]
        rows.append([kind, "none", "30.0", f"{slower:.2f}x", "–", *level(found["none"]["psnr"]), "–", "–"])
        for name in POLICIES:
            own = found[name]
            own["summed"] = [added(a, b) for a, b in zip(found["none"]["psnr"], alone[name]["psnr"], strict=True)]
            own["multiplied"] = slower * alone[name]["speedup"]
            rows.append(
                [
                    kind, name, f"{mean(own['computed']):.1f}", f"{own['speedup']:.2f}x", f"{own['multiplied']:.2f}x",
                    *level(own["psnr"]), f"{mean(own['summed']):.1f}", f"{mean(own['own']):.1f}",
                ]
            )  # fmt: skip
    publish("eight_bits", figures, pipe, rows)


def measured(setting: str, full: Callable[[], Made]) -> dict[str, Any]:
    """The figures of one kind of weights, without a cache and under each."""
    from torchao import quantization

    pipe = load()
    before = weight(pipe)
    quantization.quantize_(pipe.transformer.blocks, getattr(quantization, setting)())
    plain = made(pipe)
    closeness = [psnr(a, b) for a, b in zip(full()[0], plain[0], strict=True)]
    found: dict[str, Any] = {"none": {"psnr": closeness, "speedup": faster(full(), plain)}}
    found |= {name: under(pipe, policy, full, lambda: plain) for name, policy in POLICIES.items()}
    return found | {"bytes": [before, weight(pipe)]}


def under(
    pipe: Any, policy: bwcache.Policy[Any], full: Callable[[], Made], plain: Callable[[], Made]
) -> dict[str, Any]:
    """Closeness of each video to the full one and to that of its own weights, its steps, and times faster than full."""
    full(), plain()  # the uncached ones come first, so that no session holds the pipeline
    with bwcache.attach(pipe, policy) as session:
        cached = made(pipe)
    return {
        "psnr": [psnr(a, b) for a, b in zip(full()[0], cached[0], strict=True)],
        "own": [psnr(a, b) for a, b in zip(plain()[0], cached[0], strict=True)],
        "computed": [trace.computed for trace in session.traces],
        "speedup": faster(full(), cached),
    }


def made(pipe: Any) -> Made:
    """The videos, and their seconds, after one that does not count."""
    several = videos(VIDEOS, FIRST)
    call(pipe, request(several[0].prompt, steps=4))
    frames, seconds = [], []
    for video in several:
        start = time.process_time()
        frames.append(call(pipe, request(video.prompt, seed=video.seed)).frames)
        seconds.append(time.process_time() - start)
    return frames, seconds


def faster(one: Made, other: Made) -> float:
    """Return how many times faster the other was than the first, in the median of the videos."""
    return statistics.median(a / b for a, b in zip(one[1], other[1], strict=True))


def weight(pipe: Any) -> int:
    """Bytes that the blocks' weights take."""
    return sum(_bytes(value) for value in pipe.transformer.blocks.state_dict().values())


def _bytes(value: torch.Tensor) -> int:
    if hasattr(value, "__tensor_flatten__"):
        return sum(_bytes(getattr(value, name)) for name in value.__tensor_flatten__()[0])
    return value.nbytes


def added(one: float, other: float) -> float:
    """Return the PSNR where two squared errors, each told as a PSNR, add up (dB)."""
    return -10 * math.log10(10 ** (-one / 10) + 10 ** (-other / 10))


def mean(values: list[float]) -> float:
    """Their mean."""
    return sum(values) / len(values)


def level(values: list[float]) -> tuple[str, str]:
    """Mean and worst, as written in a table."""
    return f"{mean(values):.1f}", f"{min(values):.1f}"


if __name__ == "__main__":
    main()
