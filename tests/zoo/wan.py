"""Wan 2.1 and 2.2, and what was made of them: VACE, Animate, ChronoEdit, AnyFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from PIL import Image
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from tests.newer import (
    AnyFlowFARPipeline,
    AnyFlowFARTransformer3DModel,
    AnyFlowPipeline,
    AnyFlowTransformer3DModel,
    ChronoEditPipeline,
    ChronoEditTransformer3DModel,
    FlowMapEulerDiscreteScheduler,
    LucyEditPipeline,
    WanAnimate2KVCache,
    WanAnimate2Transformer3DModel,
    WanAnimatePipeline,
    WanAnimateTransformer3DModel,
)
from tests.tiny import VIDEO_TO_VIDEO, wan_transformer, wan_vae
from tests.zoo.kinds import Model, Pipeline, noise, seeded

TEXT = 512  # tokens; the attention of the image-to-video models cuts the text off at this length
IMAGE = {"image_dim": 8, "added_kv_proj_dim": 24}


def wan_like(model: Callable[..., Any], **changes: Any) -> Any:
    """A denoiser of Wan's layout."""
    config = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 8,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 4,
        "rope_max_seq_len": 32,
    }
    return seeded(lambda: model(**{**config, **changes}))


def wan_inputs(timestep: Tensor, channels: int = 4, text: int = 6) -> dict[str, Any]:
    """Two frames of 4 x 4 latents."""
    return {
        "hidden_states": noise(1, channels, 2, 4, 4),
        "timestep": timestep,
        "encoder_hidden_states": noise(1, text, 8, seed=1),
    }


def scalar_time(share: float) -> Tensor:
    """[1], from 1000 to 0."""
    return torch.tensor([1000 * (1 - share)])


def _image(images: int = 1) -> dict[str, Any]:
    return {"encoder_hidden_states_image": noise(images, 5, 8, seed=2)}


def _token_time(share: float) -> Tensor:
    """[1, tokens]: the first frame is given, and so its time is 0."""
    return torch.cat([torch.zeros(4), torch.full((4,), 1000 * (1 - share))])[None]


def vace(layers: list[int]) -> Any:
    return wan_like(WanVACETransformer3DModel, vace_layers=layers, vace_in_channels=6)


def _vace_inputs(share: float) -> dict[str, Any]:
    control = {"control_hidden_states": noise(1, 6, 2, 4, 4, seed=3), "control_hidden_states_scale": torch.ones(2)}
    return {**wan_inputs(scalar_time(share)), **control}


def animate(layers: int = 4, faces_every: int = 2) -> Any:
    return wan_like(
        WanAnimateTransformer3DModel,
        in_channels=12,
        latent_channels=4,
        num_layers=layers,
        motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8},
        motion_encoder_size=16,
        motion_style_dim=8,
        motion_dim=4,
        motion_encoder_dim=16,
        face_encoder_hidden_dim=16,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=faces_every,
        **IMAGE,
    )


def _animate_inputs(share: float) -> dict[str, Any]:
    return {
        **wan_inputs(scalar_time(share), 12, TEXT),
        **_image(),
        "pose_hidden_states": noise(1, 4, 1, 4, 4, seed=3),
        "face_pixel_values": noise(1, 3, 1, 16, 16, seed=4),
    }


def anyflow(**changes: Any) -> Any:
    return wan_like(AnyFlowTransformer3DModel, **changes)


def _anyflow_inputs(share: float) -> dict[str, Any]:
    """The time of each frame [2, frames], and the one to arrive at; uncond and cond in one forward."""
    return {
        "hidden_states": noise(1, 3, 4, 4, 4).repeat(2, 1, 1, 1, 1),
        "timestep": torch.full((2, 3), 1000 * (1 - share)),
        "r_timestep": torch.full((2, 3), 1000 * (1 - share) - 100),
        "encoder_hidden_states": noise(2, 6, 8, seed=1),
    }


def _anyflow_given(share: float) -> dict[str, Any]:
    inputs = _anyflow_inputs(share)
    inputs["timestep"][:, :1] = 0
    return inputs


def anyflow_far(chunks: tuple[int, ...] = (1, 2, 2)) -> Any:
    return wan_like(
        AnyFlowFARTransformer3DModel,
        attention_head_dim=24,
        chunk_partition=chunks,
        full_chunk_limit=len(chunks),
    )


def _far_inputs(share: float) -> dict[str, Any]:
    """The second chunk, of two frames, after one of one frame whose keys and values are kept."""
    sizes = {"full_cache": 3 * 2 * 4, "compressed_cache": 2}
    return {
        "hidden_states": noise(1, 2, 4, 4, 4).repeat(2, 1, 1, 1, 1),
        "timestep": torch.full((2, 2), 1000 * (1 - share)),
        "r_timestep": torch.full((2, 2), 1000 * (1 - share) - 100),
        "encoder_hidden_states": noise(2, 6, 8, seed=1),
        "chunk_partition": [1, 2],
        "kv_cache": {i: {k: noise(2, 2, 2, n, 24, seed=i) for k, n in sizes.items()} for i in range(4)},
        "kv_cache_flag": {"num_cached_chunks": 1, "is_cache_step": False},
        "return_dict": False,
    }


def animate2(layers: int = 4) -> Any:
    module = seeded(
        lambda: WanAnimate2Transformer3DModel(
            text_len=6,
            in_dim=8,
            dim=32,
            ffn_dim=32,
            freq_dim=16,
            text_dim=8,
            out_dim=4,
            num_heads=2,
            num_layers=layers,
            use_img_emb=False,
        )
    )
    with mock.patch(f"{WanAnimate2Transformer3DModel.__module__}.create_block_mask", _uncompiled_mask):
        module.block_masks[2, 4] = module.create_mask(2, 4, torch.device("cpu"))
    return module


def _uncompiled_mask(*args: Any, _compile: bool, **how: Any) -> Any:
    """The same mask, without the seconds that compiling it takes."""
    return create_block_mask(*args, **how)


def _animate2_inputs(share: float) -> dict[str, Any]:
    """Streams are lists, of one video; the keys and values of the reference's one frame are kept."""
    cache = WanAnimate2KVCache(12)
    for i, layer in enumerate(cache.layer_caches):
        layer.store(noise(1, 4, 2, 16, seed=i), noise(1, 4, 2, 16, seed=20 + i))
    return {
        "hidden_states": [noise(4, 2, 4, 4)],
        "timestep": scalar_time(share),
        "encoder_hidden_states": [noise(6, 8, seed=1)],
        "condition_latents": [noise(4, 2, 4, 4, seed=2)],
        "kv_cache": cache,
        "kv_cache_mode": "cached",
        "seq_len": 8,
        "reference_grid_sizes": torch.tensor([[1, 2, 2]]),
        "origin_len": 5,
        "origin_area": [32, 32],
    }


MODELS = (
    Model(
        "WanTransformer3DModel",
        wan_transformer,
        lambda share: wan_inputs(scalar_time(share)),
        guidance="separate",
    ),
    Model(
        "WanTransformer3DModel I2V",
        lambda: wan_like(WanTransformer3DModel, in_channels=12, **IMAGE),
        lambda share: {**wan_inputs(scalar_time(share), 12, TEXT), **_image()},
        guidance="separate",
    ),
    # the first and the last frame, their tokens side by side
    Model(
        "WanTransformer3DModel FLF2V",
        lambda: wan_like(WanTransformer3DModel, in_channels=12, pos_embed_seq_len=10, **IMAGE),
        lambda share: {**wan_inputs(scalar_time(share), 12, TEXT), **_image(2)},
        guidance="separate",
    ),
    Model(
        "WanTransformer3DModel TI2V",
        wan_transformer,
        lambda share: wan_inputs(_token_time(share)),
        guidance="separate",
    ),
    Model("WanVACETransformer3DModel", lambda: vace([0, 2]), _vace_inputs, guidance="separate"),
    # no released checkpoint adds a hint after the last block, but it would be right all the same
    Model("WanVACETransformer3DModel last", lambda: vace([0, 3]), _vace_inputs, guidance="separate"),
    Model("WanAnimateTransformer3DModel", animate, _animate_inputs, guidance="separate"),
    Model("WanAnimateTransformer3DModel last", lambda: animate(faces_every=1), _animate_inputs, guidance="separate"),
    Model(
        "ChronoEditTransformer3DModel",
        lambda: wan_like(ChronoEditTransformer3DModel, in_channels=12, rope_temporal_skip_len=8, **IMAGE),
        lambda share: {**wan_inputs(scalar_time(share), 12, TEXT), **_image()},
        guidance="separate",
    ),
    Model("AnyFlowTransformer3DModel", anyflow, _anyflow_inputs, guidance="batched"),
    Model("AnyFlowTransformer3DModel I2V", anyflow, _anyflow_given, guidance="batched"),
    Model("AnyFlowFARTransformer3DModel", anyflow_far, _far_inputs, guidance="batched"),
    Model("WanAnimate2Transformer3DModel", animate2, _animate2_inputs, guidance="separate"),
)

LATER = (
    # Without the prompt the forward leaves out block 9: the laws ask for all.
    Model(
        "WanAnimate2Transformer3DModel uncond",
        lambda: animate2(11),
        lambda share: {**_animate2_inputs(share), "is_uncondtion": True},
        guidance="separate",
    ),
)

BLIND = {"tokenizer": None, "text_encoder": None}
"""In the place of what reads the prompt."""


def eyes() -> dict[str, Any]:
    """What reads a picture of 32 x 32: five tokens of width 8."""
    config = CLIPVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16
    )
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return {"image_encoder": seeded(lambda: CLIPVisionModel(config)), "image_processor": processor}


def euler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=1.0)


def unipc() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def pictures(count: int, size: int = 32) -> list[Image.Image]:
    """A short film for the processors: noise."""
    pixels = (noise(count, size, size, 3, seed=5).sigmoid() * 255).byte().numpy()
    return [Image.fromarray(frame) for frame in pixels]


def image_to_video(experts: int = 0, given: bool = False) -> WanImageToVideoPipeline:
    """Wan 2.1; or 2.2, which reads no picture, with two experts or with a time for each token."""
    config = {"in_channels": 4 if given else 12, **({} if experts or given else IMAGE)}
    return WanImageToVideoPipeline(
        **BLIND,
        **({} if experts or given else eyes()),
        vae=wan_vae(),
        scheduler=unipc(),
        transformer=wan_like(WanTransformer3DModel, **config),
        transformer_2=wan_like(WanTransformer3DModel, **config) if experts == 2 else None,
        boundary_ratio=0.7 if experts == 2 else None,
        expand_timesteps=given,
    )


def wan_vace() -> WanVACEPipeline:
    return WanVACEPipeline(
        **BLIND,
        vae=wan_vae(),
        scheduler=unipc(),
        transformer=wan_like(WanVACETransformer3DModel, vace_layers=[0, 2], vace_in_channels=8 + 64),
    )


def wan_animate() -> WanAnimatePipeline:
    return WanAnimatePipeline(**BLIND, **eyes(), vae=wan_vae(), scheduler=unipc(), transformer=animate())


def lucy(given: bool = False) -> LucyEditPipeline:
    return LucyEditPipeline(
        **BLIND,
        vae=wan_vae(),
        scheduler=unipc(),
        transformer=wan_like(WanTransformer3DModel, in_channels=8),
        expand_timesteps=given,
    )


def chronoedit() -> ChronoEditPipeline:
    return ChronoEditPipeline(
        **BLIND,
        **eyes(),
        vae=wan_vae(),
        scheduler=unipc(),
        transformer=wan_like(ChronoEditTransformer3DModel, in_channels=12, **IMAGE),
    )


def anyflow_pipeline() -> AnyFlowPipeline:
    return AnyFlowPipeline(
        **BLIND, vae=wan_vae(), scheduler=FlowMapEulerDiscreteScheduler(shift=5.0), transformer=anyflow()
    )


def far_pipeline(chunks: tuple[int, ...]) -> AnyFlowFARPipeline:
    scheduler = FlowMapEulerDiscreteScheduler(shift=5.0)
    return AnyFlowFARPipeline(**BLIND, vae=wan_vae(), scheduler=scheduler, transformer=anyflow_far(chunks))


def wan_call(text: int = 6) -> dict[str, Any]:
    """Two frames of 4 x 4 latents, with guidance."""
    return {
        "height": 32,
        "width": 32,
        "guidance_scale": 4.0,
        "prompt_embeds": noise(1, text, 8, seed=1),
        "negative_prompt_embeds": noise(1, text, 8, seed=2),
    }


_FILM = {**wan_call(), "num_frames": 5}
_SEEN = {**wan_call(TEXT), "num_frames": 5}
_ANIMATE = {**wan_call(TEXT), "segment_frame_length": 5}

PIPELINES = (
    VIDEO_TO_VIDEO,
    Pipeline("WanImageToVideoPipeline", image_to_video, {**_SEEN, "image": pictures(1)[0]}),
    Pipeline(
        "WanImageToVideoPipeline 2.2",
        lambda: image_to_video(experts=2),
        {**_FILM, "image": pictures(1)[0], "guidance_scale_2": 3.0},
    ),
    # the first frame's tokens have the time 0
    Pipeline(
        "WanImageToVideoPipeline TI2V",
        lambda: image_to_video(given=True),
        {**_FILM, "image": pictures(1)[0]},
    ),
    Pipeline("WanVACEPipeline", wan_vace, {**_FILM, "video": pictures(5)}),
    Pipeline("WanVACEPipeline reference", wan_vace, {**_FILM, "reference_images": pictures(1)}),
    Pipeline(
        "WanAnimatePipeline",
        wan_animate,
        {**_ANIMATE, "image": pictures(1)[0], "pose_video": pictures(5), "face_video": pictures(5)},
    ),
    Pipeline("LucyEditPipeline", lucy, {**_FILM, "video": pictures(5)}),
    Pipeline("LucyEditPipeline TI2V", lambda: lucy(given=True), {**_FILM, "video": pictures(5)}),
    Pipeline("ChronoEditPipeline", chronoedit, {**_SEEN, "image": pictures(1)[0]}, ("call0", "call1")),
    # frames are dropped in the middle of the run
    Pipeline(
        "ChronoEditPipeline reasoning",
        chronoedit,
        {
            **_SEEN,
            "num_frames": 13,
            "image": pictures(1)[0],
            "enable_temporal_reasoning": True,
            "num_temporal_reasoning_steps": 5,
        },
        ("call0", "call1"),
    ),
    Pipeline("AnyFlowPipeline", anyflow_pipeline, _FILM, ("call0",)),
    Pipeline(
        "AnyFlowPipeline I2V",
        anyflow_pipeline,
        {**_FILM, "video_latents": noise(1, 1, 4, 4, 4, seed=6)},
        ("call0",),
    ),
    Pipeline("AnyFlowFARPipeline", lambda: far_pipeline((2,)), _FILM, ("call0",)),
)

SPECIAL = (
    # A loop for each segment, all of the same shape, with timesteps set anew: a run for each segment.
    Pipeline(
        "WanAnimatePipeline segments",
        wan_animate,
        {**_ANIMATE, "image": pictures(1)[0], "pose_video": pictures(9), "face_video": pictures(9)},
    ),
    # Likewise for each chunk; after it a forward with the time 0 that fills the caches for the next one.
    Pipeline("AnyFlowFARPipeline chunks", lambda: far_pipeline((1, 2, 2)), {**_FILM, "num_frames": 17}, ("call0",)),
)
