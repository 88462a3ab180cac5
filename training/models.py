"""The small models beside the built-in one, as diffusers pipelines: joint attention, a video U-Net, one of images."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import HunyuanVideoTransformer3DModel, UNetMotionModel, WanPipeline

from bwcache import shapes
from bwcache.errors import complaint
from training import image, joint, unet
from training.joint import ShapesJointPipeline
from training.unet import ShapesUNetPipeline

UNET_FRAMES = 5  # latent ones, as AnimateDiff counts: 9 frames of video
IMAGE_FRAMES = 1


def existing(folder: Path, module: str) -> Path:
    """The folder, or FileNotFoundError if nothing was trained into it yet."""
    if not any(folder.glob("*.safetensors")):
        advice = f"train it with python -m {module}"
        raise FileNotFoundError(complaint(f"no weights in {folder}", "a file of safetensors", advice))
    return folder


def load_joint(folder: Path = joint.WEIGHTS) -> ShapesJointPipeline:
    """Text to video by joint attention (``HunyuanVideoTransformer3DModel``) in float32.

    Call it as the built-in model. Raises FileNotFoundError where no weights are.
    """
    folder = existing(folder, "training.joint")
    return joint.make_pipeline(HunyuanVideoTransformer3DModel.from_pretrained(folder, torch_dtype=torch.float32))


def load_unet(folder: Path = unet.WEIGHTS) -> ShapesUNetPipeline:
    """Text to video by a U-Net (``UNetMotionModel``) in float32: AnimateDiffPipeline with the shapes autoencoder.

    Call it with ``num_frames=UNET_FRAMES``. Raises FileNotFoundError where no weights are.
    """
    folder = existing(folder, "training.unet")
    return unet.make_pipeline(UNetMotionModel.from_pretrained(folder, torch_dtype=torch.float32))


def load_image_model(folder: Path = image.WEIGHTS) -> WanPipeline:
    """Text to image by a transformer (``WanTransformer3DModel``) in float32: the built-in model with its update merged.

    Call it with ``num_frames=IMAGE_FRAMES``. Loading needs peft. Raises FileNotFoundError where no weights are.
    """
    pipeline = shapes.load()
    pipeline.load_lora_weights(existing(folder, "training.image"))
    pipeline.fuse_lora(components=["transformer"])
    pipeline.unload_lora_weights()
    return pipeline
