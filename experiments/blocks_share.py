"""Experiment 1: the share of the denoising time that is spent inside the blocks, against the number of tokens."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

import bwcache
from bwcache import shapes
from experiments.common import load, picture, publish

SIZES = ((9, 16), (9, 32), (9, 48), (9, 64), (17, 64), (33, 64), (33, 96))
FORWARDS = 8


def main() -> None:
    """Runs and writes it."""
    pipe = load()
    rows: list[list[Any]] = [["frames", "pixels", "tokens", "per forward (ms)", "inside the blocks"]]
    points = []
    for frames, side in SIZES:
        tokens, seconds, share = measured(pipe, frames, side)
        points.append({"frames": frames, "side": side, "tokens": tokens, "seconds": seconds, "share": share})
        rows.append([frames, f"{side} x {side}", tokens, seconds * 1e3, f"{share:.1%}"])
    publish("blocks_share", {"points": points}, pipe, rows)
    with picture("blocks_share") as axes:
        axes.semilogx([p["tokens"] for p in points], [100 * p["share"] for p in points], "o-")
        axes.set_xlabel("tokens")
        axes.set_ylabel("time inside the blocks (% of the denoiser's)")
        axes.set_ylim(0, 100)


def measured(pipe: Any, frames: int, side: int) -> tuple[int, float, float]:
    """Tokens, seconds per forward, and the share of them inside the blocks; medians over the forwards."""
    denoiser = pipe.transformer
    depth = (frames - 1) // pipe.vae_scale_factor_temporal + 1
    wide = side // pipe.vae_scale_factor_spatial
    patch = denoiser.config.patch_size
    latents = torch.randn(1, denoiser.config.in_channels, depth, wide, wide, generator=torch.Generator().manual_seed(0))
    text, _ = pipe.encode_prompt(shapes.PROMPTS[0], do_classifier_free_guidance=False, device="cpu")
    whole, inside = [], []
    with torch.no_grad(), bwcache.attach(denoiser, bwcache.NeverReuse(), steps=FORWARDS, timing=True) as session:
        for i in range(FORWARDS):
            start = time.perf_counter()
            denoiser(latents, timestep=torch.tensor([900 - 10 * i]), encoder_hidden_states=text, return_dict=False)
            whole.append(time.perf_counter() - start)
    inside = [event.seconds or 0.0 for event in session.trace.events]
    shares = [a / b for a, b in zip(inside[1:], whole[1:], strict=True)]
    tokens = depth * (wide // patch[1]) * (wide // patch[2])
    return tokens, statistics.median(whole[1:]), statistics.median(shares)


if __name__ == "__main__":
    main()
