"""The recipe and the untrained parts it describes: tokenizer, text encoder, autoencoder, transformer, scheduler."""

from __future__ import annotations

import math
import string
from collections import Counter
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, patchify, unpatchify
from torch import Tensor, nn
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

PROMPT_TOKENS = 512  # what WanPipeline pads every prompt to


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained model; sizes, data and budgets of all stages."""

    seed: int = 0
    # data: pixels, frames, captions kept out of training
    size: int = 32
    frames: int = 9
    held_out: int = 128
    # tokenizer and text encoder
    text_width: int = 64
    text_layers: int = 2
    text_heads: int = 4
    caption_tokens: int = 20
    # autoencoder: 2x patches, then one 2x2x2 downsampling: 4x in space and 2x in time
    latent_channels: int = 8
    vae_width: int = 32
    vae_levels: tuple[int, ...] = (1, 2)
    vae_blocks: int = 1
    vae_steps: int = 3000
    vae_batch: int = 16
    vae_rate: float = 2e-3
    kl_weight: float = 1e-5
    # latents computed once and reused by the transformer stage
    latent_videos: int = 16512
    # transformer
    width: int = 128
    heads: int = 4
    layers: int = 12
    ffn_width: int = 512
    time_width: int = 128
    steps: int = 3700
    batch: int = 64
    rate: float = 2e-3
    muon_rate: float = 1e-2
    warmup: float = 0.02
    ema: float = 0.999
    drop_caption: float = 0.1
    rotate_weight: float = 2.0  # how often rotating shapes, the hardest motion, are drawn compared with others
    shift: float = 3.0  # of the noise levels in training: more of the early, hard ones
    sampling_shift: float = 1.0
    # bookkeeping, in steps
    save_every: int = 100
    log_every: int = 25


def build_tokenizer(captions: list[str]) -> T5Tokenizer:
    """A T5 tokenizer with one Unigram piece per word of the captions, and letters for all other words."""
    counts = Counter(word for caption in captions for word in caption.split())
    total = sum(counts.values())
    words = [(f"▁{word}", math.log(count / total)) for word, count in counts.most_common()]
    letters = [(letter, -20.0) for letter in "▁" + string.ascii_lowercase]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5Tokenizer(vocab=special + words + letters, extra_ids=0, model_max_length=PROMPT_TOKENS)


def build_text_encoder(recipe: Recipe, vocabulary: int) -> UMT5EncoderModel:
    """Untrained UMT5 encoder: token ids (B, L) to embeddings (B, L, text_width)."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocabulary,
            d_model=recipe.text_width,
            d_kv=recipe.text_width // recipe.text_heads,
            d_ff=2 * recipe.text_width,
            num_layers=recipe.text_layers,
            num_heads=recipe.text_heads,
            dropout_rate=0.0,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=32,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def build_vae(recipe: Recipe) -> AutoencoderKLWan:
    """Untrained autoencoder: videos (B, 3, F, H, W) in [-1, 1] to latents (B, C, 1 + (F-1)/2, H/4, W/4)."""
    return AutoencoderKLWan(
        base_dim=recipe.vae_width,
        z_dim=recipe.latent_channels,
        dim_mult=list(recipe.vae_levels),
        num_res_blocks=recipe.vae_blocks,
        attn_scales=[],
        temperal_downsample=[True] + [False] * (len(recipe.vae_levels) - 2),
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=2,
        scale_factor_spatial=2 ** len(recipe.vae_levels),
        latents_mean=[0.0] * recipe.latent_channels,
        latents_std=[1.0] * recipe.latent_channels,
    )


def build_transformer(recipe: Recipe) -> WanTransformer3DModel:
    """Untrained transformer over 2x2 patches of latents."""
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=recipe.heads,
        attention_head_dim=recipe.width // recipe.heads,
        in_channels=recipe.latent_channels,
        out_channels=recipe.latent_channels,
        text_dim=recipe.text_width,
        freq_dim=recipe.time_width,
        ffn_dim=recipe.ffn_width,
        num_layers=recipe.layers,
        rope_max_seq_len=64,
    )
    initialise(model)
    return model


@torch.no_grad()
def initialise(model: WanTransformer3DModel) -> None:
    """Start values that let a short training run reach the caption and the gradient reach every block."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and "norm" not in name:
            parameter.zero_()
    nn.init.zeros_(model.proj_out.weight)
    nn.init.normal_(model.condition_embedder.time_proj.weight, std=0.02)
    for block in model.blocks:
        block.scale_shift_table.zero_()
        block.scale_shift_table[:, [2, 5]] = 0.5  # gates of attention and feed-forward
        # About 500 zero tokens follow every caption. Their only key is the bias: a small one that opposes the
        # bias of the queries keeps them from drowning the caption, and vanishes beside a real token's key.
        direction = nn.functional.normalize(torch.randn_like(block.attn2.to_k.bias), dim=0)
        block.attn2.to_k.bias.copy_(-0.2 * direction)
        block.attn2.to_q.bias.copy_(12.0 * direction)


def build_scheduler(recipe: Recipe) -> FlowMatchEulerDiscreteScheduler:
    """Euler steps of the probability flow."""
    return FlowMatchEulerDiscreteScheduler(shift=recipe.sampling_shift)


def is_resample(layer: nn.Module, mode: str) -> bool:
    """Whether a layer is the autoencoder's resampling in time of that mode."""
    return isinstance(layer, WanResample) and layer.mode == mode


def encode_whole(vae: AutoencoderKLWan, video: Tensor) -> tuple[Tensor, Tensor]:
    """Latent mean and log-variance (B, C, f, h, w) of videos (B, 3, F, H, W), all frames at once.

    Equals ``vae.encode``, which walks over chunks of four frames, but runs several times faster.
    """
    encoder = vae.encoder
    x = encoder.conv_in(patchify(video, vae.config.patch_size))
    for layer in encoder.down_blocks:
        x = layer(x)
        if is_resample(layer, "downsample3d"):
            x = torch.cat([x[:, :, :1], layer.time_conv(x)], 2)
    x = encoder.conv_out(encoder.nonlinearity(encoder.norm_out(encoder.mid_block(x))))
    return vae.quant_conv(x).chunk(2, dim=1)


def decode_whole(vae: AutoencoderKLWan, latent: Tensor) -> Tensor:
    """Videos (B, 3, F, H, W) of latents (B, C, f, h, w), all frames at once and not clamped.

    Equals ``vae.decode`` within [-1, 1]; without the clamp the gradient survives outside of it.
    """
    decoder = vae.decoder
    x = decoder.mid_block(decoder.conv_in(vae.post_quant_conv(latent)))
    for block in decoder.up_blocks:
        for layer in block.resnets:
            x = layer(x)
        for layer in block.upsamplers or ():
            if is_resample(layer, "upsample3d"):
                pairs = layer.time_conv(x[:, :, 1:]).unflatten(1, (2, -1))  # (B, 2, C, f-1, h, w)
                x = torch.cat([x[:, :, :1], pairs.movedim(1, 3).flatten(2, 3)], 2)
            x = layer(x)
    x = decoder.conv_out(decoder.nonlinearity(decoder.norm_out(x)))
    return unpatchify(x, vae.config.patch_size)


def normalise(vae: AutoencoderKLWan, latent: Tensor) -> Tensor:
    """Latents with zero mean and unit variance per channel, as the transformer sees them."""
    shape = (1, -1, 1, 1, 1)
    mean, std = latent.new_tensor(vae.config.latents_mean), latent.new_tensor(vae.config.latents_std)
    return (latent - mean.view(shape)) / std.view(shape)
