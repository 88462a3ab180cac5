"""CogVideoX, ConsisID and Allegro."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AutoencoderKLAllegro,
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXFunControlPipeline,
    CogVideoXImageToVideoPipeline,
    CogVideoXTransformer3DModel,
    CogVideoXVideoToVideoPipeline,
    ConsisIDTransformer3DModel,
    DDIMScheduler,
)
from diffusers.models.embeddings import get_3d_rotary_pos_embed, get_3d_rotary_pos_embed_allegro
from diffusers.pipelines.consisid.pipeline_consisid import ConsisIDPipeline  # diffusers itself asks for OpenCV
from torch import Tensor

from tests.zoo.kinds import Model, Pipeline, noise, seeded
from tests.zoo.wan import BLIND, pictures

_CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 4,
    "text_embed_dim": 16,
    "num_layers": 4,
    "sample_width": 4,
    "sample_height": 4,
    "sample_frames": 5,
    "patch_size": 2,
    "temporal_compression_ratio": 4,
    "max_text_seq_length": 8,
}


def cogvideox_transformer(**changes: Any) -> Any:
    return seeded(lambda: CogVideoXTransformer3DModel(**{**_CONFIG, **changes}))


def consisid_transformer(**changes: Any) -> Any:
    face = {
        "is_train_face": True,
        "cross_attn_interval": 2,
        "cross_attn_dim_head": 4,
        "cross_attn_num_heads": 2,
        "LFE_id_dim": 8,
        "LFE_vit_dim": 8,
        "LFE_depth": 5,
        "LFE_dim_head": 4,
        "LFE_num_heads": 2,
        "LFE_num_id_token": 1,
        "LFE_num_querie": 3,
        "LFE_output_dim": 21,
        "LFE_ff_mult": 1,
        "LFE_num_scale": 5,
    }
    return seeded(lambda: ConsisIDTransformer3DModel(**{**_CONFIG, **face, **changes}))


def allegro_transformer() -> Any:
    return seeded(
        lambda: AllegroTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=24,
            in_channels=4,
            out_channels=4,
            num_layers=4,
            cross_attention_dim=48,
            sample_width=4,
            sample_height=4,
            sample_frames=2,
            caption_channels=16,
        )
    )


def _time(share: float) -> Tensor:
    """[2], uncond and cond, from 999 to 0 in whole numbers: of a DDIM scheduler."""
    return torch.full((2,), round(999 * (1 - share)))


def _inputs(share: float, channels: int = 4) -> dict[str, Any]:
    """Frames stand before channels."""
    return {
        "hidden_states": noise(1, 2, channels, 4, 4).repeat(2, 1, 1, 1, 1),
        "encoder_hidden_states": noise(2, 8, 16, seed=1),
        "timestep": _time(share),
    }


def _rotary(frames: int = 2) -> tuple[Tensor, Tensor]:
    return get_3d_rotary_pos_embed(
        embed_dim=16,
        crops_coords=((0, 0), (2, 2)),
        grid_size=(2, 2),
        temporal_size=frames,
    )


def _face() -> dict[str, Any]:
    return {"id_cond": noise(2, 8, seed=2), "id_vit_hidden": [noise(2, 3, 8, seed=3 + i) for i in range(5)]}


def _allegro_inputs(share: float) -> dict[str, Any]:
    *frequencies, times, rows, columns = get_3d_rotary_pos_embed_allegro(
        embed_dim=24, crops_coords=((0, 0), (2, 2)), grid_size=(2, 2), temporal_size=2
    )
    places = torch.cartesian_prod(times.long(), rows.long(), columns.long()).T.reshape(3, 1, -1).contiguous()
    return {
        "hidden_states": noise(1, 4, 2, 4, 4).repeat(2, 1, 1, 1, 1),
        "encoder_hidden_states": noise(2, 1, 6, 16, seed=1),
        "encoder_attention_mask": torch.tensor([[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]]),
        "timestep": _time(share),
        "image_rotary_emb": (tuple(frequencies), tuple(places)),
    }


MODELS = (
    # 2B: added positions; 5B: rotary ones
    Model("CogVideoXTransformer3DModel", cogvideox_transformer, _inputs, guidance="batched"),
    Model(
        "CogVideoXTransformer3DModel 5B",
        lambda: cogvideox_transformer(use_rotary_positional_embeddings=True),
        lambda share: {**_inputs(share), "image_rotary_emb": _rotary()},
        guidance="batched",
    ),
    # the picture, or Fun's control video, in further channels
    Model(
        "CogVideoXTransformer3DModel I2V",
        lambda: cogvideox_transformer(
            in_channels=8, use_rotary_positional_embeddings=True, use_learned_positional_embeddings=True
        ),
        lambda share: {**_inputs(share, 8), "image_rotary_emb": _rotary()},
        guidance="batched",
    ),
    # two frames in a patch, and a second number beside the time
    Model(
        "CogVideoXTransformer3DModel 1.5 I2V",
        lambda: cogvideox_transformer(
            in_channels=8,
            patch_size_t=2,
            patch_bias=False,
            ofs_embed_dim=4,
            use_rotary_positional_embeddings=True,
        ),
        lambda share: {**_inputs(share, 8), "image_rotary_emb": _rotary(1), "ofs": torch.full((1,), 2.0)},
        guidance="batched",
    ),
    # the face is read between the blocks; in the second one after the last block too
    Model(
        "ConsisIDTransformer3DModel",
        lambda: consisid_transformer(in_channels=8, use_rotary_positional_embeddings=True),
        lambda share: {**_inputs(share, 8), **_face(), "image_rotary_emb": _rotary()},
        guidance="batched",
    ),
    Model(
        "ConsisIDTransformer3DModel each",
        lambda: consisid_transformer(cross_attn_interval=1),
        lambda share: {**_inputs(share), **_face()},
        guidance="batched",
    ),
    Model("AllegroTransformer3DModel", allegro_transformer, _allegro_inputs, guidance="batched"),
)


def cogvideox_vae() -> AutoencoderKLCogVideoX:
    return seeded(
        lambda: AutoencoderKLCogVideoX(
            in_channels=3,
            out_channels=3,
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
        )
    )


def cogvideox(pipeline: type, scheduler: Any = None, **changes: Any) -> Any:
    return pipeline(
        **BLIND,
        vae=cogvideox_vae(),
        transformer=cogvideox_transformer(use_rotary_positional_embeddings=True, **changes),
        scheduler=scheduler or CogVideoXDDIMScheduler(),
    )


def consisid() -> ConsisIDPipeline:
    return ConsisIDPipeline(
        **BLIND,
        vae=cogvideox_vae(),
        transformer=consisid_transformer(in_channels=8, use_rotary_positional_embeddings=True),
        scheduler=CogVideoXDPMScheduler(),
    )


def allegro() -> AllegroPipeline:
    vae = seeded(
        lambda: AutoencoderKLAllegro(
            block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2, latent_channels=4
        )
    )
    return AllegroPipeline(**BLIND, vae=vae, transformer=allegro_transformer(), scheduler=DDIMScheduler())


_CALL = {
    "height": 32,
    "width": 32,
    "guidance_scale": 6.0,
    "prompt_embeds": noise(1, 8, 16, seed=1),
    "negative_prompt_embeds": noise(1, 8, 16, seed=2),
}
_BOTH = ("cond_uncond",)

PIPELINES = (
    Pipeline(
        "CogVideoXImageToVideoPipeline",
        lambda: cogvideox(CogVideoXImageToVideoPipeline, in_channels=8),
        {**_CALL, "num_frames": 5, "image": pictures(1)[0]},
        _BOTH,
    ),
    # a scheduler of second order that counts no steps, guidance that changes, frames in pairs
    Pipeline(
        "CogVideoXImageToVideoPipeline 1.5",
        lambda: cogvideox(
            CogVideoXImageToVideoPipeline,
            CogVideoXDPMScheduler(),
            in_channels=8,
            patch_size_t=2,
            patch_bias=False,
            ofs_embed_dim=4,
        ),
        {**_CALL, "num_frames": 5, "image": pictures(1)[0], "use_dynamic_cfg": True},
        _BOTH,
    ),
    # starts in the middle of its schedule
    Pipeline(
        "CogVideoXVideoToVideoPipeline",
        lambda: cogvideox(CogVideoXVideoToVideoPipeline),
        {**_CALL, "video": pictures(5), "strength": 0.8},
        _BOTH,
    ),
    Pipeline(
        "CogVideoXFunControlPipeline",
        lambda: cogvideox(CogVideoXFunControlPipeline, in_channels=8),
        {**_CALL, "control_video": pictures(5)},
        _BOTH,
    ),
    Pipeline(
        "ConsisIDPipeline",
        consisid,
        {
            **_CALL,
            "num_frames": 5,
            "image": pictures(1)[0],
            "id_cond": noise(1, 8, seed=3),
            "id_vit_hidden": [noise(1, 3, 8, seed=4 + i) for i in range(5)],
        },
        ("call0",),
    ),
    Pipeline(
        "AllegroPipeline",
        allegro,
        {
            **_CALL,
            "num_frames": 8,
            "negative_prompt": None,
            "prompt_attention_mask": torch.ones(1, 8),
            "negative_prompt_attention_mask": torch.tensor([[1.0, 1, 1, 0, 0, 0, 0, 0]]),
        },
        ("call0",),
    ),
)
