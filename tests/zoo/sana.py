"""Sana, DiT, PixArt and Hunyuan-DiT."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    DDIMScheduler,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    HunyuanDiT2DControlNetModel,
    HunyuanDiT2DModel,
    HunyuanDiTControlNetPipeline,
    HunyuanDiTPAGPipeline,
    HunyuanDiTPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPAGPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaControlNetModel,
    SanaControlNetPipeline,
    SanaPAGPipeline,
    SanaPipeline,
    SanaSprintImg2ImgPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
)

from tests.zoo.flux import BLIND, SIZE, euler, picture, prompts, time, vae
from tests.zoo.kinds import Model, Pipeline, noise, seeded, without_zeros


def _latents() -> torch.Tensor:
    return noise(1, 4, 8, 8).repeat(2, 1, 1, 1)


def sana(**changes: Any) -> Any:
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 3,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": 8,
        "sample_size": 8,
    }
    return seeded(lambda: SanaTransformer2DModel(**{**config, **changes}))


def _sana_inputs(share: float) -> dict[str, Any]:
    mask = torch.ones(2, 6)
    mask[0, 4:] = 0
    return {
        "hidden_states": _latents(),
        "timestep": time(share, 2),
        "encoder_hidden_states": noise(2, 6, 8, seed=1),
        "encoder_attention_mask": mask,
    }


def _sprint_inputs(share: float) -> dict[str, Any]:
    """Consistency models: the sine of the time over its sine plus cosine, from 1 to 0."""
    angle = torch.tensor([1.5708 * (1 - share)])
    return {
        "hidden_states": noise(1, 4, 8, 8),
        "timestep": angle.sin() / (angle.cos() + angle.sin()),
        "encoder_hidden_states": noise(1, 6, 8, seed=1),
        "guidance": torch.tensor([4.5]) * 0.1,
    }


def dit() -> Any:
    return seeded(
        lambda: DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            out_channels=8,
            num_layers=3,
            sample_size=8,
            num_embeds_ada_norm=1000,
        )
    )


def _dit_inputs(share: float) -> dict[str, Any]:
    return {
        "hidden_states": _latents(),
        "timestep": time(share, 2).long(),
        "class_labels": torch.tensor([3, 1000]),
    }


def pixart(**changes: Any) -> Any:
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 3,
        "cross_attention_dim": 16,
        "sample_size": 8,
        "caption_channels": 8,
        "use_additional_conditions": False,
    }
    return seeded(lambda: PixArtTransformer2DModel(**{**config, **changes}))


def _pixart_inputs(share: float) -> dict[str, Any]:
    return {
        "hidden_states": _latents(),
        "timestep": time(share, 2).long(),
        "encoder_hidden_states": noise(2, 6, 8, seed=1),
        "encoder_attention_mask": torch.ones(2, 6),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def _pixart_sized(share: float) -> dict[str, Any]:
    sizes = {"resolution": torch.full((2, 2), 64.0), "aspect_ratio": torch.ones(2, 1)}
    return {**_pixart_inputs(share), "added_cond_kwargs": sizes}


def hunyuan_dit(layers: int = 6) -> Any:
    return seeded(
        lambda: HunyuanDiT2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            patch_size=2,
            sample_size=8,
            hidden_size=16,
            num_layers=layers,
            cross_attention_dim=8,
            cross_attention_dim_t5=8,
            pooled_projection_dim=8,
            text_len=4,
            text_len_t5=6,
            use_style_cond_and_image_meta_size=False,
        )
    )


def _hunyuan_dit_inputs(share: float) -> dict[str, Any]:
    angles = noise(16, 8, seed=6)
    return {
        "hidden_states": _latents(),
        "timestep": time(share, 2),
        "encoder_hidden_states": noise(2, 4, 8, seed=1),
        "text_embedding_mask": torch.ones(2, 4),
        "encoder_hidden_states_t5": noise(2, 6, 8, seed=2),
        "text_embedding_mask_t5": torch.ones(2, 6),
        "image_rotary_emb": (angles.cos(), angles.sin()),
    }


MODELS = (
    Model("SanaTransformer2DModel", sana, _sana_inputs, guidance="batched"),
    Model(
        "SanaTransformer2DModel ControlNet",
        sana,
        lambda share: {**_sana_inputs(share), "controlnet_block_samples": (noise(2, 64, 16, seed=5),) * 2},
        guidance="batched",
    ),
    Model("SanaTransformer2DModel Sprint", lambda: sana(guidance_embeds=True), _sprint_inputs, guidance="none"),
    Model("DiTTransformer2DModel", dit, _dit_inputs, guidance="batched"),
    Model("PixArtTransformer2DModel", pixart, _pixart_inputs, guidance="batched"),
    Model(
        "PixArtTransformer2DModel sized",
        lambda: pixart(attention_head_dim=12, cross_attention_dim=24, use_additional_conditions=True),
        _pixart_sized,
        guidance="batched",
    ),
    Model("HunyuanDiT2DModel", hunyuan_dit, _hunyuan_dit_inputs, guidance="batched"),
    Model(
        "HunyuanDiT2DModel ControlNet",
        hunyuan_dit,
        lambda share: {**_hunyuan_dit_inputs(share), "controlnet_block_samples": [noise(2, 16, 16, seed=5)] * 2},
        guidance="batched",
    ),
)


def sana_pipeline(kind: type = SanaPipeline, **changes: Any) -> Any:
    return kind(**BLIND, **{"transformer": sana(), "vae": None, "scheduler": euler(), **changes})


def deep_vae() -> AutoencoderDC:
    """Halves height and width."""
    blocks = ("ResBlock", "EfficientViTBlock")
    scales = ((), (5,))
    return seeded(
        lambda: AutoencoderDC(
            in_channels=3,
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=blocks,
            decoder_block_types=blocks,
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=scales,
            decoder_qkv_multiscales=scales,
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            downsample_block_type="conv",
        )
    )


def sana_controlnet() -> SanaControlNetPipeline:
    net = without_zeros(
        lambda: SanaControlNetModel(
            in_channels=4,
            out_channels=4,
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=8,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=8,
            sample_size=8,
        )
    )
    return sana_pipeline(SanaControlNetPipeline, vae=deep_vae(), controlnet=net)


def sprint_pipeline(kind: type = SanaSprintPipeline, **changes: Any) -> Any:
    scheduler = SCMScheduler(prediction_type="trigflow")
    return sana_pipeline(kind, transformer=sana(guidance_embeds=True), scheduler=scheduler, **changes)


def pixart_pipeline(kind: type = PixArtSigmaPipeline, **changes: Any) -> Any:
    parts = {"transformer": pixart(), "vae": vae(4), "scheduler": DPMSolverMultistepScheduler()}
    return kind(**BLIND, **parts, **changes)


def dit_pipeline() -> DiTPipeline:
    return DiTPipeline(transformer=dit(), vae=vae(4), scheduler=DDIMScheduler())


def hunyuan_dit_pipeline(kind: type = HunyuanDiTPipeline, **changes: Any) -> Any:
    others = {"text_encoder_2": None, "tokenizer_2": None, "safety_checker": None, "feature_extractor": None}
    parts = {"transformer": hunyuan_dit(), "vae": vae(4), "scheduler": DDPMScheduler()}
    return kind(**BLIND, **others, requires_safety_checker=False, **parts, **changes)


def hunyuan_dit_controlnet() -> HunyuanDiTControlNetPipeline:
    net = without_zeros(
        lambda: HunyuanDiT2DControlNetModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=4,
            patch_size=2,
            sample_size=8,
            hidden_size=16,
            transformer_num_layers=6,
            cross_attention_dim=8,
            cross_attention_dim_t5=8,
            pooled_projection_dim=8,
            text_len=4,
            text_len_t5=6,
            use_style_cond_and_image_meta_size=False,
        )
    )
    return hunyuan_dit_pipeline(HunyuanDiTControlNetPipeline, controlnet=net)


def _masks(name: str = "prompt_attention_mask", tokens: int = 6) -> dict[str, torch.Tensor]:
    return {f"{which}{name}": torch.ones(1, tokens) for which in ("", "negative_")}


_EXACT = {**SIZE, **prompts(), **_masks(), "use_resolution_binning": False}
_NO_PROMPT = {**_EXACT, "negative_prompt": None}
_SANA = {**_NO_PROMPT, "height": 128, "width": 128}
_SPRINT = {key: value for key, value in _SANA.items() if not key.startswith("negative_")}
_SPRINT["intermediate_timesteps"] = None
_BOTH = {
    **_EXACT,
    **prompts(4),
    **_masks(tokens=4),
    **{f"{name}_2": embeds for name, embeds in prompts(6).items()},
    **_masks("prompt_attention_mask_2"),
}

PIPELINES = (
    Pipeline("SanaPipeline", sana_pipeline, _SANA, ("call0",)),
    Pipeline("SanaPAGPipeline", lambda: sana_pipeline(SanaPAGPipeline), {**_SANA, "pag_scale": 2.0}, ("call0",)),
    Pipeline("PixArtAlphaPipeline", lambda: pixart_pipeline(PixArtAlphaPipeline), _NO_PROMPT, ("call0",)),
    Pipeline("PixArtSigmaPipeline", pixart_pipeline, _NO_PROMPT, ("call0",)),
    # it gives pictures only
    Pipeline("DiTPipeline", dit_pipeline, {"class_labels": [3], "output_type": "pt"}, ("call0",)),
    Pipeline("HunyuanDiTPipeline", hunyuan_dit_pipeline, _BOTH, ("call0",)),
    # of its schedule the last time, 0, is none that the denoiser is called with
    Pipeline("SanaSprintPipeline", sprint_pipeline, _SPRINT, ("call0",)),
    Pipeline(
        "SanaSprintImg2ImgPipeline",
        lambda: sprint_pipeline(SanaSprintImg2ImgPipeline, vae=deep_vae()),
        {**_SPRINT, "height": 32, "width": 32, "image": picture(32), "strength": 0.8},
        ("call0",),
    ),
    Pipeline(
        "SanaControlNetPipeline",
        sana_controlnet,
        {**_NO_PROMPT, "height": 32, "width": 32, "control_image": picture(32)},
        ("call0",),
    ),
    Pipeline(
        "PixArtSigmaPAGPipeline",
        lambda: pixart_pipeline(PixArtSigmaPAGPipeline, pag_applied_layers=["blocks.1"]),
        {**_NO_PROMPT, "pag_scale": 2.0},
        ("call0",),
    ),
    Pipeline(
        "HunyuanDiTPAGPipeline",
        lambda: hunyuan_dit_pipeline(HunyuanDiTPAGPipeline, pag_applied_layers=["blocks.1"]),
        {**_BOTH, "pag_scale": 2.0},
        ("call0",),
    ),
    Pipeline("HunyuanDiTControlNetPipeline", hunyuan_dit_controlnet, {**_BOTH, "control_image": picture()}, ("call0",)),
)
