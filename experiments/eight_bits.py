"""Experiment 29: caches on weights of 8 bits. Do the work saved and the errors of the two go together?

Needs torchao (`pip install torchao`), which nothing else does.
"""

from __future__ import annotations

import math
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
}
"""Name -> the setting of torchao. int8 activations and fp8 weights have settings there too, and were not run."""

POLICIES: dict[str, bwcache.Policy[Any]] = {
    "Planned, 10 steps": bwcache.Planned(computed=10),
    "BWCache .1": bwcache.BWCache(0.1),
    "TaylorSeer lite 4": bwcache.TaylorSeer(4, 1, 3, lite=True),
}


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    pipe = load()
    full = cache(partial(made, pipe))
    alone = {
        name: kept("eight_bits", pipe, ["full", name], partial(under, pipe, policy, full, full))
        for name, policy in POLICIES.items()
    }
    rows: list[list[Any]] = [
        ["weights", "cache", "steps computed", "PSNR", "worst", "if errors add up", "to the same weights, uncached"]
    ]
    figures: dict[str, Any] = {"videos": VIDEOS, "full": alone}
    for name, policy in alone.items():
        rows.append(
            [
                "float32",
                name,
                f"{mean(policy['computed']):.1f}",
                *level(policy["psnr"]),
                "–",
                f"{mean(policy['psnr']):.1f}",
            ]
        )
    for kind, setting in KINDS.items():
        found = kept("eight_bits", pipe, [kind], partial(measured, setting, full))
        figures[kind] = found
        rows.append([kind, "none", "30.0", *level(found["none"]["psnr"]), "–", "–"])
        for name in POLICIES:
            own = found[name]
            summed = [added(a, b) for a, b in zip(found["none"]["psnr"], alone[name]["psnr"], strict=True)]
            own["summed"] = summed
            rows.append(
                [
                    kind,
                    name,
                    f"{mean(own['computed']):.1f}",
                    *level(own["psnr"]),
                    f"{mean(summed):.1f}",
                    f"{mean(own['own']):.1f}",
                ]
            )
    publish("eight_bits", figures, pipe, rows)


def measured(setting: str, full: Callable[[], list[np.ndarray]]) -> dict[str, Any]:
    """The figures of one kind of weights, without a cache and under each."""
    from torchao import quantization

    pipe = load()
    before = weight(pipe)
    quantization.quantize_(pipe.transformer.blocks, getattr(quantization, setting)())
    plain = made(pipe)
    found: dict[str, Any] = {"none": {"psnr": [psnr(a, b) for a, b in zip(full(), plain, strict=True)]}}
    found |= {name: under(pipe, policy, full, lambda: plain) for name, policy in POLICIES.items()}
    return found | {"bytes": [before, weight(pipe)]}


def under(
    pipe: Any, policy: bwcache.Policy[Any], full: Callable[[], list[np.ndarray]], plain: Callable[[], list[np.ndarray]]
) -> dict[str, Any]:
    """Closeness of each video to the full one and to that of its own weights, and the steps that it computes."""
    with bwcache.attach(pipe, policy) as session:
        cached = made(pipe)
    return {
        "psnr": [psnr(a, b) for a, b in zip(full(), cached, strict=True)],
        "own": [psnr(a, b) for a, b in zip(plain(), cached, strict=True)],
        "computed": [trace.computed for trace in session.traces],
    }


def made(pipe: Any) -> list[np.ndarray]:
    """The videos."""
    return [call(pipe, request(video.prompt, seed=video.seed)).frames for video in videos(VIDEOS, FIRST)]


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
