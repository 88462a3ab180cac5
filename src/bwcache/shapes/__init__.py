"""The built-in text-to-video model: shapes that move over dim backgrounds, small enough for a CPU.

``load`` gives a plain ``diffusers.WanPipeline``; ``training/`` in the repository holds the code that made the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bwcache.extras import need

if TYPE_CHECKING:
    import torch
    from diffusers import WanPipeline

PATH = Path(__file__).resolve().parent / "weights"
HEIGHT, WIDTH, FRAMES = 32, 32, 9
STEPS = 30
GUIDANCE_SCALE = 4.0
PROMPTS = (
    "a large yellow circle moving right slowly over a plain background",
    "a small cyan square pulsing slowly over a gradient background",
    "a large red triangle orbiting fast over a striped background",
    "a small white ring bouncing fast over a checkered background",
)

MORE_PROMPTS = (
    "a small magenta square moving left fast over a striped background",
    "a large green circle bouncing slowly over a plain background",
    "a small yellow triangle pulsing fast over a checkered background",
    "a large blue ring orbiting slowly over a gradient background",
    "a large white square moving up slowly over a checkered background",
    "a small red circle orbiting fast over a gradient background",
    "a large cyan ring pulsing slowly over a striped background",
    "a small green triangle bouncing fast over a plain background",
)
"""For what is measured on more videos than four."""


def load(device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> WanPipeline:
    """The pipeline from the weights in this package, without network; ``dtype`` defaults to float32.

    Raises:
        MissingExtraError: without diffusers and what its Wan pipeline reads.
    """
    need("diffusers")
    import torch
    from diffusers import WanPipeline

    options = {} if dtype in (None, torch.float32) else {"torch_dtype": dtype}
    return WanPipeline.from_pretrained(PATH, local_files_only=True, **options).to(device)
