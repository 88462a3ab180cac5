"""Tiny pipelines on disk that take pictures and videos, with the text encoder of the model in the box."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXFunControlPipeline,
    FlowMatchEulerDiscreteScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVideoToVideoPipeline,
)
from PIL import Image

from bwcache import shapes
from bwcache.cli.progress import quiet_libraries
from bwcache.report.videos import write_pictures
from tests.tiny import cogvideox, seeded, wan_vae
from tests.zoo.cogvideox import cogvideox_transformer

WIDTH = 64
"""Of the text encoder's output."""


@functools.cache
def texts() -> dict[str, Any]:
    """Tokenizer and text encoder of the model in the box."""
    pipe = shapes.load()
    return {"tokenizer": pipe.tokenizer, "text_encoder": pipe.text_encoder}


def wan_transformer(channels: int) -> Any:
    return seeded(
        lambda: WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=channels,
            out_channels=4,
            text_dim=WIDTH,
            freq_dim=16,
            ffn_dim=32,
            num_layers=4,
            rope_max_seq_len=32,
        )
    )


def image_to_video() -> Any:
    """A Wan whose latents have those of a picture and a mask beside them."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    return WanImageToVideoPipeline(vae=wan_vae(), scheduler=scheduler, transformer=wan_transformer(12), **texts())


def video_to_video() -> Any:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    return WanVideoToVideoPipeline(vae=wan_vae(), scheduler=scheduler, transformer=wan_transformer(4), **texts())


def control() -> Any:
    transformer = cogvideox_transformer(in_channels=8, text_embed_dim=WIDTH)
    parts = {"vae": cogvideox().vae, "transformer": transformer, "scheduler": CogVideoXDDIMScheduler()}
    return CogVideoXFunControlPipeline(**parts, **texts())


def text_to_video() -> Any:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    return WanPipeline(vae=wan_vae(), scheduler=scheduler, transformer=wan_transformer(4), **texts())


PIPELINES = {"t2v": text_to_video, "i2v": image_to_video, "v2v": video_to_video, "control": control}


@functools.cache
def saved(name: str) -> Path:
    """Where such a pipeline is saved, once for all tests of a process."""
    folder = Path(tempfile.mkdtemp()) / name
    with quiet_libraries():
        PIPELINES[name]().save_pretrained(folder)
    return folder


def without_weights(folder: Path) -> None:
    """Takes away what a check before loading must not need."""
    for path in [*folder.rglob("*.safetensors"), *folder.rglob("tokenizer.json")]:
        path.unlink()


def make_files(folder: Path) -> None:
    """A picture, a video of 5 frames, and files that are neither."""
    pixels = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels[0]).save(folder / "start.png")
    Image.fromarray(pixels[1]).convert("L").save(folder / "end.jpg")
    write_pictures(folder / "walk.mp4", pixels, 8)
    (folder / "cut.mp4").write_bytes((folder / "walk.mp4").read_bytes()[:200])
    (folder / "words.png").write_text("no picture")
