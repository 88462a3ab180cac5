"""What is kept between steps on models of real size: `python -m benchmarks.memory`.

Nothing is run and no weights are needed: the engine plans a run of each model, built without memory of its own, as it
does before the first block of a real run. `docs/memory.md` shows the table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import bwcache
from bwcache.core.amounts import size
from bwcache.engine.batch import BatchLayout
from bwcache.engine.memory import MemoryNeed, need, outlines
from bwcache.engine.plan import Plan
from bwcache.models import BlockStack, resolve


@dataclass(frozen=True)
class Geometry:
    """A model and the size of a video.

    Attributes:
        name: as the table calls it.
        model: its class in diffusers, and what its configuration has other than the class's defaults.
        text: tokens of it.
        width: of a hidden state.
        branches: guidance in forwards of their own.
        latents: frames, height and width, of 16 channels.
    """

    name: str
    model: tuple[str, dict[str, int]]
    text: int
    width: int
    branches: int
    latents: tuple[int, int, int]

    def stack(self) -> BlockStack:
        """Its blocks, on the device without memory."""
        import diffusers

        name, settings = self.model
        with torch.device("meta"):
            return resolve("transformer", getattr(diffusers, name)(**settings))

    def streams(self, policy: bwcache.Policy[Any] | None = None) -> dict[str, Any]:
        """What enters the first block, or the denoiser where a policy keeps what that returns: bfloat16, one video."""
        if isinstance(policy, bwcache.Planned):
            return {"hidden_states": torch.empty(1, 16, *self.latents, dtype=torch.bfloat16, device="meta")}
        names = ("hidden_states", "encoder_hidden_states")
        return {
            name: torch.empty(1, count, self.width, dtype=torch.bfloat16, device="meta")
            for name, count in zip(names, (tokens(self.latents), self.text), strict=True)
        }


def video(frames: int, height: int, width: int) -> tuple[int, int, int]:
    """Latents of a video: four frames and 8 x 8 pixels each, and the first frame for itself."""
    return (frames - 1) // 4 + 1, height // 8, width // 8


def tokens(latents: tuple[int, int, int]) -> int:
    """How many tokens these are, in patches of 2 x 2."""
    return latents[0] * (latents[1] // 2) * (latents[2] // 2)


_WAN = "WanTransformer3DModel"
_SMALL = {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}

GEOMETRIES = (
    Geometry("Wan 2.1 1.3B, 480p, 81 frames", (_WAN, _SMALL), 512, 1536, 2, video(81, 480, 832)),
    Geometry("Wan 2.1 14B, 480p, 81 frames", (_WAN, {}), 512, 5120, 2, video(81, 480, 832)),
    Geometry("Wan 2.1 14B, 720p, 81 frames", (_WAN, {}), 512, 5120, 2, video(81, 720, 1280)),
    Geometry(
        "HunyuanVideo, 544p, 129 frames",
        ("HunyuanVideoTransformer3DModel", {}),
        256,
        3072,
        1,
        video(129, 544, 960),
    ),
)

SETTINGS: dict[str, tuple[bwcache.Policy[Any], Callable[[MemoryNeed], int]]] = {
    "the grades, `Planned()`": (bwcache.Planned(), lambda held: held.features + held.taps),
    "`BWCache()`": (bwcache.BWCache(), lambda held: held.features + held.taps),
    "of that, samples": (bwcache.BWCache(), lambda held: held.taps),
    '`memory="offload"`, on the device': (bwcache.BWCache(), lambda held: held.taps),
    '`memory="offload"`, in main memory': (bwcache.BWCache(), lambda held: held.features),
    "`predictor=Linear()`": (bwcache.BWCache(predictor=bwcache.Linear()), lambda held: held.features + held.taps),
    "`Adaptive()`": (bwcache.Adaptive(), lambda held: held.features + held.taps),
    "`sample=1`": (bwcache.BWCache(sample=1), lambda held: held.features + held.taps),
}


def table() -> str:
    """What each setting keeps of each model, in Markdown."""
    stacks = [geometry.stack() for geometry in GEOMETRIES]
    lines = [
        "| | " + " | ".join(geometry.name for geometry in GEOMETRIES) + " |",
        "|---|" + "---|" * len(GEOMETRIES),
        "| one hidden state | " + " | ".join(size(one.streams()["hidden_states"].nbytes) for one in GEOMETRIES) + " |",
        "| blocks; branches in forwards of their own | "
        + " | ".join(f"{len(s.blocks)}; {one.branches}" for one, s in zip(GEOMETRIES, stacks, strict=True))
        + " |",
    ]
    for name, (policy, part) in SETTINGS.items():
        cells = []
        for one, stack in zip(GEOMETRIES, stacks, strict=True):
            held = need(Plan.of(policy, stack), outlines(one.streams(policy), BatchLayout()), {}) * one.branches
            cells.append(size(part(held)))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
