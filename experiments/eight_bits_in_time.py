"""Experiment 29, its times: do what a cache saves and what weights of 8 bits save multiply?

One block of Wan 2.1 1.3B's width with random weights, since the model in the box is too narrow for integers to gain
anything on a CPU. All variants take turns in one process; times are those that the process worked. Needs torchao
(`pip install 'bwcache[torchao]'`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import WanTransformer3DModel

import bwcache
from experiments.common import publish

STEPS, ROUNDS = 9, 3
LATENTS, TEXT = (1, 16, 4, 16, 16), (1, 64, 4096)
"""256 tokens of the picture, 64 of the text."""

KINDS = {
    "int8 weights": "Int8WeightOnlyConfig",
    "int8 weights and activations": "Int8DynamicActivationInt8WeightConfig",
}
"""Name -> the setting of torchao; fp8 weights are unpacked there and take 2.5 to 20 times as long."""

POLICIES: dict[str, bwcache.Policy[Any] | None] = {
    "none": None,
    "all blocks, one step in three": bwcache.FixedInterval(3),
    "the whole denoiser, one step in three": bwcache.Planned(computed=3),
    "each attention, one step in two": bwcache.PyramidAttentionBroadcast(2, 2, 2, (0, 1001), (0, 1001), (0, 1001)),
}


def model() -> Any:
    """Return the denoiser, always with the same weights."""
    torch.manual_seed(0)
    made = WanTransformer3DModel(
        num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=1, text_dim=TEXT[-1]
    )
    return made.eval().requires_grad_(False)


@torch.no_grad()
def sampled(denoiser: Any) -> Callable[[Any], tuple[torch.Tensor, float]]:
    """Return what samples along a flow's straight schedule, in a session or in none: the latents, and the seconds."""
    shares = torch.linspace(1, 0, STEPS + 1).tolist()
    start, text = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in (LATENTS, TEXT))

    def run(session: Any) -> tuple[torch.Tensor, float]:
        latents, began = start, time.process_time()
        for i in range(STEPS):
            now, after = shares[i], shares[i + 1]
            given = (latents, torch.tensor([1000 * now]), text)
            if session is None:
                velocity = denoiser(*given, return_dict=False)[0]
            else:
                with session.step(i, STEPS, "cond", now, (now, after), "flow", shares):
                    velocity = denoiser(*given, return_dict=False)[0]
            latents = latents + (after - now) * velocity
        return latents, time.process_time() - began

    return run


@torch.no_grad()
def main() -> None:
    """Runs and writes it."""
    from torchao import quantization

    torch.set_num_threads(1)
    denoisers = {"float32": model()}
    for kind, setting in KINDS.items():
        denoisers[kind] = model()
        quantization.quantize_(denoisers[kind].blocks, getattr(quantization, setting)())
    seconds: dict[tuple[str, str], list[float]] = {}
    for i in range(ROUNDS + 1):
        for weights, denoiser in denoisers.items():
            for cache, policy in POLICIES.items():
                found = timed(denoiser, policy)
                if i:  # the first round warms up
                    seconds.setdefault((weights, cache), []).append(found)
    figures = {"seconds": {" / ".join(key): own for key, own in seconds.items()}}
    publish("eight_bits_in_time", figures, denoisers["float32"], rows(seconds))


def timed(denoiser: Any, policy: bwcache.Policy[Any] | None) -> float:
    """Return the seconds of one run."""
    run = sampled(denoiser)
    if policy is None:
        return run(None)[1]
    with bwcache.attach(denoiser, policy, steps=STEPS) as session:
        return run(session)[1]


def rows(seconds: dict[tuple[str, str], list[float]]) -> list[list[Any]]:
    """The table: times faster than float32 without a cache, round by round, and what the two factors come to."""

    def faster(weights: str, cache: str) -> float:
        pairs = zip(seconds["float32", "none"], seconds[weights, cache], strict=True)
        return statistics.median(plain / own for plain, own in pairs)

    table: list[list[Any]] = [["weights", *POLICIES]]
    for weights in ("float32", *KINDS):
        cells = [f"{faster(weights, 'none'):.2f}x"]
        for cache in list(POLICIES)[1:]:
            product = f" (product {faster(weights, 'none') * faster('float32', cache):.2f}x)"
            cells.append(f"{faster(weights, cache):.2f}x" + ("" if weights == "float32" else product))
        table.append([weights, *cells])
    return table


if __name__ == "__main__":
    main()
