"""Train a small video U-Net with the data and the autoencoder of the built-in model: ``python -m training.unet``.

A ``UNetMotionModel`` as AnimateDiff runs it, in the latent space of the shapes autoencoder and on the embeddings of the
shapes text encoder, which both stay as they are. It learns velocities (v-prediction) under a cosine noise schedule, and
in AnimateDiff's order: single frames by the U-Net without motion modules, which are cheap, then whole videos with them.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKLWan,
    DDIMScheduler,
    UNet2DConditionModel,
    UNetMotionModel,
    WanPipeline,
)
from torch import Tensor, nn
from transformers import T5Tokenizer, UMT5EncoderModel

from bwcache import shapes
from training.data import split
from training.model import Recipe, normalise
from training.train import (
    ROOT,
    Examples,
    Run,
    command,
    drawing_weights,
    encode_videos,
    fit,
    load,
    muon_and_adamw,
    write_log,
)

WEIGHTS = ROOT / "weights" / "unet"
LOG = ROOT / "weights" / "unet.jsonl"
STILL, MOVING = 4, 5  # stages of the random numbers: 1 to 3 are those of the built-in model

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class UNetRecipe(Recipe):
    """The recipe of the built-in model with a U-Net in place of the transformer."""

    widths: tuple[int, ...] = (32, 40, 48)
    groups: int = 8
    still_steps: int = 1000
    still_batch: int = 64
    steps: int = 1000
    batch: int = 32
    ema: float = 0.995
    save_every: int = 25


def settings(recipe: UNetRecipe, kind: str) -> dict[str, Any]:
    """Arguments of a U-Net of that kind of blocks; at the largest size there is no attention to the caption."""
    below = len(recipe.widths) - 1
    return {
        "sample_size": recipe.size // 4,
        "in_channels": recipe.latent_channels,
        "out_channels": recipe.latent_channels,
        "down_block_types": (f"DownBlock{kind}",) + (f"CrossAttnDownBlock{kind}",) * below,
        "up_block_types": (f"CrossAttnUpBlock{kind}",) * below + (f"UpBlock{kind}",),
        "block_out_channels": recipe.widths,
        "layers_per_block": 1,
        "cross_attention_dim": recipe.text_width,
        "norm_num_groups": recipe.groups,
        "use_linear_projection": True,
    }


def build_still(recipe: UNetRecipe) -> UNet2DConditionModel:
    """Untrained U-Net over the latents of single frames (B, C, h, w)."""
    return UNet2DConditionModel(**settings(recipe, "2D"), attention_head_dim=recipe.heads)  # diffusers means the number


def build_unet(recipe: UNetRecipe, still: UNet2DConditionModel | None = None) -> UNetMotionModel:
    """U-Net over latents (B, C, f, h, w), whose motion modules add nothing at first; all else is as in ``still``."""
    unet = UNetMotionModel(
        **settings(recipe, "Motion"),
        num_attention_heads=recipe.heads,
        motion_num_attention_heads=recipe.heads,
        motion_max_seq_length=recipe.frames,
    )
    for name, parameter in unet.named_parameters():
        if "motion_modules" in name and ".proj_out." in name:
            nn.init.zeros_(parameter)
    if still is not None:
        unet.load_state_dict({**unet.state_dict(), **still.state_dict()})
    return unet


def build_scheduler() -> DDIMScheduler:
    """Noise of a cosine schedule, so that the first step starts from noise alone."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
    )


class ShapesUNetPipeline(AnimateDiffPipeline):
    """AnimateDiffPipeline whose autoencoder is the one of the built-in model: two frames of video per latent frame.

    ``num_frames`` counts latent frames, as everywhere in AnimateDiff: 5 of them are the 9 frames of a video.
    """

    def __init__(
        self,
        vae: AutoencoderKLWan,
        text_encoder: UMT5EncoderModel,
        tokenizer: T5Tokenizer,
        unet: UNetMotionModel,
        motion_adapter: None,
        scheduler: DDIMScheduler,
        feature_extractor: None = None,
        image_encoder: None = None,
    ) -> None:
        super().__init__(None, text_encoder, tokenizer, unet, motion_adapter, scheduler)
        self.register_modules(vae=vae)
        self.vae_scale_factor = self.video_processor.config.vae_scale_factor = vae.config.scale_factor_spatial

    def decode_latents(self, latents: Tensor, decode_chunk_size: int = 16) -> Tensor:
        """Videos (B, 3, F, H, W) in [-1, 1] of latents (B, C, f, h, w), ``decode_chunk_size`` videos at a time."""
        shape, config = (1, -1, 1, 1, 1), self.vae.config
        mean, std = (latents.new_tensor(value).view(shape) for value in (config.latents_mean, config.latents_std))
        chunks = (latents * std + mean).split(decode_chunk_size)
        return torch.cat([self.vae.decode(chunk).sample for chunk in chunks]).float()


def make_pipeline(unet: UNetMotionModel, tokens: int = UNetRecipe.caption_tokens) -> ShapesUNetPipeline:
    """The U-Net between the tokenizer, text encoder and autoencoder of the built-in model."""
    parts: WanPipeline = shapes.load()
    parts.tokenizer.model_max_length = tokens  # AnimateDiff pads every prompt to it
    parts.text_encoder.config.use_attention_mask = True
    return ShapesUNetPipeline(parts.vae, parts.text_encoder, parts.tokenizer, unet, None, build_scheduler())


@torch.no_grad()
def make_examples(run: Run[UNetRecipe], pipeline: ShapesUNetPipeline) -> Examples:
    """Latents of rendered videos, and the embeddings of their captions as the pipeline makes them."""
    captions, _ = split(run.recipe.held_out)
    state = encode_videos(run, pipeline.vae)
    texts = [*(caption.text for caption in captions), ""]
    embeds, _ = pipeline.encode_prompt(texts, run.device, 1, do_classifier_free_guidance=False)
    weights = drawing_weights(run.recipe, captions, state["rows"])
    return Examples(normalise(pipeline.vae, state["latents"]), state["rows"], embeds, weights)


def velocity_loss(run: Run[UNetRecipe], unet: nn.Module, scheduler: DDIMScheduler, batch: Batch) -> Tensor:
    """Squared error of the velocity at latents (B, C, h, w) or (B, C, f, h, w).

    The batch also holds embeddings (B, L, width), times (B,) in [0, 1] and noise like the latents.
    """
    clean, embeds, sigma, noise = (value.to(run.device) for value in batch)
    time = (sigma * scheduler.config.num_train_timesteps).long()
    noisy, target = scheduler.add_noise(clean, noise, time), scheduler.get_velocity(clean, noise, time)
    if clean.ndim == 5:
        embeds = embeds.repeat_interleave(clean.shape[2], 0)
    with run.autocast():
        velocity = unet(noisy, time, embeds, return_dict=False)[0]
    return nn.functional.mse_loss(velocity.float(), target)


def one_frame(batch: Batch) -> Batch:
    """The batch with one frame of each latent, every frame equally often."""
    clean, embeds, sigma, noise = batch
    rows = torch.arange(len(clean))
    frames = rows % clean.shape[2]
    return clean[rows, :, frames], embeds, sigma, noise[rows, :, frames]


def train_still(run: Run[UNetRecipe], examples: Examples) -> UNet2DConditionModel:
    """The U-Net without motion modules, on single frames; returns its moving average."""
    torch.manual_seed(run.recipe.seed + STILL)
    recipe, unet = replace(run.recipe, batch=run.recipe.still_batch), build_still(run.recipe).to(run.device)
    average, scheduler = deepcopy(unet).requires_grad_(False), build_scheduler()

    def loss_at(step: int) -> Tensor:
        return velocity_loss(run, unet, scheduler, one_frame(examples.draw(recipe, STILL, step)))

    fit(run, "unet-still", unet, muon_and_adamw(recipe, unet, blocks_of(unet)), loss_at, recipe.still_steps, average)
    average.load_state_dict((load(run.folder / "unet-still.pt") or {})["average"])
    return average


def train_moving(run: Run[UNetRecipe], still: UNet2DConditionModel, examples: Examples) -> None:
    """All of the U-Net, on videos."""
    torch.manual_seed(run.recipe.seed + MOVING)
    recipe, unet = run.recipe, build_unet(run.recipe, still).to(run.device)
    average, scheduler = deepcopy(unet).requires_grad_(False), build_scheduler()

    def loss_at(step: int) -> Tensor:
        return velocity_loss(run, unet, scheduler, examples.draw(recipe, MOVING, step))

    fit(run, "unet", unet, muon_and_adamw(recipe, unet, blocks_of(unet)), loss_at, recipe.steps, average)


def blocks_of(unet: UNet2DConditionModel | UNetMotionModel) -> list[nn.Module]:
    """Down, middle and up blocks."""
    return [*unet.down_blocks, unet.mid_block, *unet.up_blocks]


def export(run: Run[UNetRecipe], weights: Path, log: Path) -> None:
    """Write the U-Net as trained so far in bfloat16, and its log."""
    unet = build_unet(run.recipe)
    if state := load(run.folder / "unet.pt"):
        unet.load_state_dict(state["average"])
    unet.to(torch.bfloat16).save_pretrained(weights)
    write_log(run, log, ("unet-still", "unet"))


def train(run: Run[UNetRecipe], weights: Path, log: Path) -> None:
    """Latents, frames, videos, export."""
    run.folder.mkdir(parents=True, exist_ok=True)
    examples = make_examples(run, make_pipeline(build_unet(run.recipe), run.recipe.caption_tokens))
    train_moving(run, train_still(run, examples), examples)
    export(run, weights, log)


if __name__ == "__main__":
    command(__doc__, UNetRecipe, train, export, ROOT / "runs" / "small", WEIGHTS, LOG)
