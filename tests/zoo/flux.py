"""Flux, Flux 2 and 3, and what was made like them: Chroma, Bria, Fibo, LongCat-Image, Ovis-Image."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    BriaFibo2Transformer2DModel,
    BriaFiboTransformer2DModel,
    BriaTransformer2DModel,
    ChromaTransformer2DModel,
    Flux2Transformer2DModel,
    Flux3Transformer2DModel,
    FluxTransformer2DModel,
    LongCatImageTransformer2DModel,
    OvisImageTransformer2DModel,
)
from diffusers.models.transformers.transformer_flux2 import (
    Flux2KVAttnProcessor,
    Flux2KVCache,
    Flux2KVParallelSelfAttnProcessor,
)
from torch import Tensor

from zoo.kinds import Model, noise, seeded


def time(share: float, batch: int = 1) -> Tensor:
    """[batch], from 1000 to 0."""
    return torch.full((batch,), 1000 * (1 - share))


def unit_time(share: float, batch: int = 1) -> Tensor:
    """[batch], from 1 to 0."""
    return torch.full((batch,), 1 - share)


def ids(tokens: int, axes: int = 3) -> Tensor:
    """Places of image tokens: 4 in a row."""
    places = torch.zeros(tokens, axes)
    places[:, 1], places[:, 2] = torch.arange(tokens) // 4, torch.arange(tokens) % 4
    return places


def flux_like(model: type, axes: tuple[int, ...] = (4, 4, 8), **changes: Any) -> Any:
    """A denoiser of Flux's layout: three blocks of either kind, width 32."""
    config = {
        "in_channels": 4,
        "num_layers": 3,
        "num_single_layers": 3,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 8,
        "axes_dims_rope": axes,
    }
    return seeded(lambda: model(**{**config, **changes}))


def tokens(timestep: Tensor, axes: int = 3, batch: int = 1) -> dict[str, Any]:
    """4 x 4 tokens of the image, 6 of the text."""
    return {
        "hidden_states": noise(1, 16, 4).repeat(batch, 1, 1),
        "encoder_hidden_states": noise(batch, 6, 8, seed=1),
        "timestep": timestep,
        "img_ids": ids(16, axes),
        "txt_ids": torch.zeros(6, axes),
    }


def flux(**changes: Any) -> Any:
    return flux_like(FluxTransformer2DModel, pooled_projection_dim=8, **changes)


def _flux_inputs(share: float) -> dict[str, Any]:
    return {**tokens(unit_time(share)), "pooled_projections": noise(1, 8, seed=2)}


def _controls() -> dict[str, Any]:
    """What a ControlNet adds between the blocks, and after the last one."""
    return {
        "controlnet_block_samples": [noise(1, 16, 32, seed=5), noise(1, 16, 32, seed=6)],
        "controlnet_single_block_samples": [noise(1, 16, 32, seed=7)],
    }


def flux2(**changes: Any) -> Any:
    return flux_like(Flux2Transformer2DModel, (4, 4, 4, 4), **{"guidance_embeds": False, **changes})


def flux2_kv() -> Any:
    """As its pipeline prepares it."""
    module = flux2()
    for block in module.transformer_blocks:
        block.attn.set_processor(Flux2KVAttnProcessor())
    for block in module.single_transformer_blocks:
        block.attn.set_processor(Flux2KVParallelSelfAttnProcessor())
    return module


def _flux2_inputs(share: float) -> dict[str, Any]:
    return {**tokens(unit_time(share), 4), "guidance": None}


def _flux2_reading(share: float) -> dict[str, Any]:
    """After the first step: the keys and values of four tokens of a reference are kept."""
    cache = Flux2KVCache(3, 3)
    cache.num_ref_tokens = 4
    for i, layer in enumerate([*cache.double_block_caches, *cache.single_block_caches]):
        layer.store(noise(1, 4, 2, 16, seed=i), noise(1, 4, 2, 16, seed=20 + i))
    return {**_flux2_inputs(share), "kv_cache": cache, "kv_cache_mode": "cached"}


def flux3(**changes: Any) -> Any:
    return flux_like(Flux3Transformer2DModel, (4, 4, 4, 4), cond_in_channels=4, timestep_channels=16, **changes)


def _flux3_reference(share: float) -> dict[str, Any]:
    reference = {"image_cond_hidden_states": noise(1, 16, 4, seed=3), "image_cond_ids": ids(16, 4)}
    return {**tokens(unit_time(share), 4), **reference}


def chroma() -> Any:
    return flux_like(
        ChromaTransformer2DModel, approximator_num_channels=8, approximator_hidden_dim=16, approximator_layers=1
    )


def _chroma_inputs(share: float) -> dict[str, Any]:
    mask = torch.ones(1, 22, dtype=torch.bool)
    mask[:, 4:6] = False
    return {**tokens(unit_time(share)), "attention_mask": mask}


def bria() -> Any:
    return flux_like(BriaTransformer2DModel, [4, 4, 8])  # type: ignore[arg-type]


def _bria_inputs(share: float) -> dict[str, Any]:
    return tokens(time(share, 2), batch=2)


def fibo() -> Any:
    return flux_like(BriaFiboTransformer2DModel, [4, 4, 8], text_encoder_dim=8)  # type: ignore[arg-type]


def _fibo_inputs(share: float) -> dict[str, Any]:
    layers = [noise(2, 6, 8, seed=10 + i) for i in range(6)]
    return {**tokens(time(share, 2), batch=2), "text_encoder_layers": layers}


def fibo2() -> Any:
    return seeded(
        lambda: BriaFibo2Transformer2DModel(
            in_channels=4,
            dim=64,
            n_layers=4,
            n_refiner_layers=1,
            n_heads=2,
            cap_feat_dim=8,
            injection_layer_ids=(1, 3),
            perceiver_num_layers=1,
            min_num_gist_tokens=2,
            max_num_gist_tokens=4,
            gist_step=1,
            gist_min_text_len=2,
            gist_max_text_len=8,
            axes_dims=(8, 12, 12),
            axes_lens=(32, 32, 32),
        )
    )


def _fibo2_inputs(share: float) -> dict[str, Any]:
    return {
        "hidden_states": noise(1, 4, 8, 8),
        "timestep": unit_time(share),
        "encoder_hidden_states": noise(1, 3, 6, 8, seed=1),
        "encoder_attention_mask": torch.ones(1, 6, dtype=torch.bool),
    }


def _fibo2_edit(share: float) -> dict[str, Any]:
    return {**_fibo2_inputs(share), "context_latents": [noise(1, 4, 8, 8, seed=3)]}


def longcat() -> Any:
    return flux_like(LongCatImageTransformer2DModel, pooled_projection_dim=8)


def ovis() -> Any:
    return flux_like(OvisImageTransformer2DModel, out_channels=4)


MODELS = (
    Model("FluxTransformer2DModel", flux, _flux_inputs, guidance="separate"),
    Model(
        "FluxTransformer2DModel distilled",
        lambda: flux(guidance_embeds=True),
        lambda share: {**_flux_inputs(share), "guidance": torch.tensor([3.5])},
        guidance="none",
    ),
    Model(
        "FluxTransformer2DModel ControlNet",
        flux,
        lambda share: {**_flux_inputs(share), **_controls()},
        guidance="separate",
    ),
    Model(
        "Flux2Transformer2DModel",
        lambda: flux2(guidance_embeds=True),
        lambda share: {**_flux2_inputs(share), "guidance": torch.tensor([4.0])},
        guidance="none",
    ),
    Model("Flux2Transformer2DModel Klein", flux2, _flux2_inputs, guidance="separate"),
    Model("Flux2Transformer2DModel Klein KV", flux2_kv, _flux2_reading, guidance="none"),
    Model("Flux3Transformer2DModel", flux3, lambda share: tokens(unit_time(share), 4), guidance="separate"),
    Model("Flux3Transformer2DModel reference", flux3, _flux3_reference, guidance="separate"),
    Model(
        "Flux3Transformer2DModel distilled",
        lambda: flux3(flow_map=True),
        lambda share: {**tokens(unit_time(share), 4), "target_timestep": unit_time(share + 0.1)},
        guidance="none",
    ),
    Model("ChromaTransformer2DModel", chroma, _chroma_inputs, guidance="separate"),
    # the ControlNet's share is written into what the single-stream blocks returned, the last one too
    Model(
        "ChromaTransformer2DModel ControlNet",
        chroma,
        lambda share: {**_chroma_inputs(share), **_controls()},
        guidance="separate",
    ),
    Model("BriaTransformer2DModel", bria, _bria_inputs, guidance="batched"),
    Model("BriaFiboTransformer2DModel", fibo, _fibo_inputs, guidance="batched"),
    Model("BriaFibo2Transformer2DModel", fibo2, _fibo2_inputs, guidance="separate"),
    Model("BriaFibo2Transformer2DModel edit", fibo2, _fibo2_edit, guidance="separate"),
    Model("LongCatImageTransformer2DModel", longcat, lambda share: tokens(unit_time(share)), guidance="separate"),
    Model("OvisImageTransformer2DModel", ovis, lambda share: tokens(unit_time(share)), guidance="separate"),
)
