"""Flux, Flux 2 and 3, and what was made like them: Chroma, Bria, Fibo, LongCat-Image, Ovis-Image."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxImg2ImgPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)
from PIL import Image
from torch import Tensor

from tests.newer import (
    AutoencoderKLFlux2,
    BriaFibo2Pipeline,
    BriaFibo2Transformer2DModel,
    BriaFiboPipeline,
    BriaFiboTransformer2DModel,
    BriaPipeline,
    BriaTransformer2DModel,
    Flux2KleinKVPipeline,
    Flux2KleinPipeline,
    Flux2KVAttnProcessor,
    Flux2KVCache,
    Flux2KVParallelSelfAttnProcessor,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    Flux3Transformer2DModel,
    LongCatImagePipeline,
    LongCatImageTransformer2DModel,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
)
from tests.zoo.kinds import Model, Pipeline, noise, seeded


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


def longcat(**changes: Any) -> Any:
    return flux_like(LongCatImageTransformer2DModel, pooled_projection_dim=8, **changes)


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

BLIND = {"tokenizer": None, "text_encoder": None}
"""In the place of what reads the prompt."""


def vae(channels: int = 4, kind: type = AutoencoderKL, **changes: Any) -> Any:
    """Halves height and width; its latents have so many channels."""
    config = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (4, 4),
        "latent_channels": channels,
        "norm_num_groups": 1,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    shift = {"shift_factor": 0.1, "scaling_factor": 0.5} if kind is AutoencoderKL else {}
    return seeded(lambda: kind(**{**config, **shift, **changes}))


def euler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler()


def picture(size: int = 16) -> Image.Image:
    return Image.fromarray((noise(size, size, 3, seed=5).sigmoid() * 255).byte().numpy())


def prompts(tokens: int = 6, width: int = 8) -> dict[str, Tensor]:
    """What the text encoder would have said."""
    return {
        "prompt_embeds": noise(1, tokens, width, seed=1),
        "negative_prompt_embeds": noise(1, tokens, width, seed=2),
    }


def flux_pipeline(kind: type = FluxPipeline, **changes: Any) -> Any:
    parts = {"transformer": flux(), "vae": vae(1), "scheduler": euler(), "text_encoder_2": None, "tokenizer_2": None}
    return kind(**BLIND, **{**parts, **changes})


def flux_controlnet(kind: type = FluxControlNetPipeline) -> Any:
    net = flux_like(FluxControlNetModel, (4, 4, 8), pooled_projection_dim=8, num_mode=None, guidance_embeds=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for layer in (*net.controlnet_blocks, *net.controlnet_single_blocks, net.controlnet_x_embedder):
            torch.nn.init.normal_(layer.weight, std=0.1)
    return flux_pipeline(kind, controlnet=net)


def flux2_vae() -> Any:
    return vae(1, AutoencoderKLFlux2)


def flux2_pipeline(kind: type = Flux2Pipeline, **changes: Any) -> Any:
    return kind(**BLIND, transformer=flux2(**changes), vae=flux2_vae(), scheduler=euler())


def chroma_pipeline() -> ChromaPipeline:
    return ChromaPipeline(**BLIND, transformer=chroma(), vae=vae(1), scheduler=euler())


def bria_pipeline() -> BriaPipeline:
    return BriaPipeline(**BLIND, transformer=bria(), vae=vae(1), scheduler=euler())


def fibo_pipeline() -> BriaFiboPipeline:
    """Its text encoder's outputs of all layers are made up."""
    pipe = BriaFiboPipeline(**BLIND, transformer=fibo(), vae=None, scheduler=euler())

    def encode_prompt(**given: Any) -> tuple[Any, ...]:
        ones = torch.ones(1, 6)
        layers = [[noise(1, 6, 8, seed=10 * k + i) for i in range(6)] for k in (1, 2)]
        return noise(1, 6, 8, seed=1), noise(1, 6, 8, seed=2), torch.zeros(6, 3), ones, ones, *layers

    pipe.encode_prompt = encode_prompt
    return pipe


def fibo2_pipeline() -> BriaFibo2Pipeline:
    return BriaFibo2Pipeline(text_encoder=None, processor=None, transformer=fibo2(), vae=flux2_vae(), scheduler=euler())


def longcat_pipeline() -> LongCatImagePipeline:
    """It takes no embeddings without a prompt: the text encoder's are made up. Its latents have 16 channels."""
    parts = {"transformer": longcat(in_channels=64), "vae": vae(16), "scheduler": euler()}
    pipe = LongCatImagePipeline(**BLIND, text_processor=None, **parts)
    pipe._encode_prompt = lambda prompt: noise(1, 6, 8, seed=len(prompt[0]))
    return pipe


def ovis_pipeline() -> OvisImagePipeline:
    return OvisImagePipeline(**BLIND, transformer=ovis(), vae=vae(1), scheduler=euler())


SIZE = {"height": 16, "width": 16}
POOLED = {"pooled_prompt_embeds": noise(1, 8, seed=3)}
TRUE_GUIDANCE = {
    **SIZE,
    **prompts(),
    **POOLED,
    "negative_pooled_prompt_embeds": noise(1, 8, seed=4),
    "true_cfg_scale": 4.0,
}
_DISTILLED = {**SIZE, "prompt_embeds": noise(1, 6, 8, seed=1)}
_BUNDLES = {name: prompt[:, None].repeat(1, 3, 1, 1) for name, prompt in prompts().items()}

PIPELINES = (
    Pipeline(
        "FluxPipeline",
        lambda: flux_pipeline(transformer=flux(guidance_embeds=True)),
        {**_DISTILLED, **POOLED},
        ("cond",),
    ),
    Pipeline("FluxPipeline true guidance", flux_pipeline, TRUE_GUIDANCE),
    # begins in the middle
    Pipeline(
        "FluxImg2ImgPipeline",
        lambda: flux_pipeline(FluxImg2ImgPipeline),
        {**_DISTILLED, **POOLED, "image": picture(), "strength": 0.8},
        ("call0",),
    ),
    Pipeline(
        "FluxKontextPipeline",
        lambda: flux_pipeline(FluxKontextPipeline),
        {**TRUE_GUIDANCE, "image": picture(), "max_area": 256, "_auto_resize": False},
        ("call0", "call1"),
    ),
    Pipeline(
        "FluxControlNetPipeline",
        flux_controlnet,
        {**TRUE_GUIDANCE, "control_image": picture()},
        ("call0", "call1"),
    ),
    Pipeline(
        "Flux2Pipeline",
        lambda: flux2_pipeline(guidance_embeds=True),
        {**_DISTILLED, "image": [picture(64)]},
        ("call0",),
    ),
    Pipeline(
        "Flux2KleinPipeline", lambda: flux2_pipeline(Flux2KleinPipeline), {**SIZE, **prompts(), "guidance_scale": 4.0}
    ),
    # the reference's tokens are there in the first step only, which keeps their keys and values
    Pipeline(
        "Flux2KleinKVPipeline",
        lambda: flux2_pipeline(Flux2KleinKVPipeline),
        {**_DISTILLED, "image": [picture(64)]},
        ("call0",),
    ),
    Pipeline(
        "ChromaPipeline",
        chroma_pipeline,
        {
            **SIZE,
            **prompts(),
            "prompt_attention_mask": torch.ones(1, 6, dtype=torch.bool),
            "negative_prompt_attention_mask": torch.ones(1, 6, dtype=torch.bool),
        },
        ("call0", "call1"),
    ),
    Pipeline("BriaPipeline", bria_pipeline, {**SIZE, **prompts()}, ("call0",)),
    Pipeline("BriaFiboPipeline", fibo_pipeline, {"height": 64, "width": 64, "prompt": "{}"}, ("call0",)),
    Pipeline(
        "BriaFibo2Pipeline", fibo2_pipeline, {**SIZE, **{k: noise(1, 3, 6, 8) for k in prompts()}}, ("call0", "call1")
    ),
    Pipeline("LongCatImagePipeline", longcat_pipeline, {**SIZE, "prompt": "a", "enable_prompt_rewrite": False}),
    Pipeline("OvisImagePipeline", ovis_pipeline, {**SIZE, **prompts(), "negative_prompt": None}),
)
