"""Kandinsky 5 and 6."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import Kandinsky5Transformer3DModel, Kandinsky6SRTransformer3DModel, Kandinsky6Transformer3DModel

from zoo.kinds import Model, noise, seeded


def _stirred(build: Any) -> Any:
    """Without what starts as zero: the gates of a fresh Kandinsky close every block."""

    def stirred() -> Any:
        made = build()
        for name, parameter in made.named_parameters():
            if "modulation" in name:
                parameter.data.normal_(std=0.2)
        return made

    return seeded(stirred)


def kandinsky5_transformer(**changes: Any) -> Any:
    config = {
        "in_visual_dim": 4,
        "in_text_dim": 16,
        "in_text_dim2": 8,
        "time_dim": 16,
        "out_visual_dim": 4,
        "patch_size": (1, 2, 2),
        "model_dim": 24,
        "ff_dim": 32,
        "num_text_blocks": 1,
        "num_visual_blocks": 3,
        "axes_dims": (4, 4, 4),
    }
    return _stirred(lambda: Kandinsky5Transformer3DModel(**{**config, **changes}))


def _k5_inputs(share: float, channels: int = 4) -> dict[str, Any]:
    return {
        "hidden_states": noise(1, 2, 4, 4, channels),
        "encoder_hidden_states": noise(1, 6, 16, seed=1),
        "timestep": torch.tensor([1000 * (1 - share)]),
        "pooled_projections": noise(1, 8, seed=2),
        "visual_rope_pos": [torch.arange(2), torch.arange(2), torch.arange(2)],
        "text_rope_pos": torch.arange(6),
        "scale_factor": (1.0, 2.0, 2.0),
    }


def kandinsky6_transformer(**changes: Any) -> Any:
    config = {
        "in_visual_dim": 4,
        "out_visual_dim": 4,
        "in_text_dim": 16,
        "in_text_dim2": 8,
        "time_dim": 16,
        "model_dim": 24,
        "ff_dim": 32,
        "num_text_blocks": 1,
        "num_visual_blocks": 3,
        "axes_dims": (4, 4, 4),
        "in_audio_dim": 6,
        "out_audio_dim": 6,
        "ca_rope": False,
        "cross_gates": True,
        "fix_modulation": True,
        "text_token_padding": True,
        "visual_token_type_num_embeddings": 2,
    }
    return _stirred(lambda: Kandinsky6Transformer3DModel(**{**config, **changes}))


def _k6_inputs(share: float) -> dict[str, Any]:
    return {
        "hidden_states": noise(1, 2, 4, 4, 9),
        "audio_hidden_states": noise(1, 5, 6, seed=3),
        "encoder_hidden_states": noise(1, 6, 16, seed=1),
        "pooled_projections": noise(1, 8, seed=2),
        "timestep": torch.tensor([1000 * (1 - share)]),
        "encoder_attention_mask": torch.ones(1, 6, dtype=torch.bool),
    }


def kandinsky6_sr_transformer() -> Any:
    return _stirred(
        lambda: Kandinsky6SRTransformer3DModel(
            in_visual_dim=4,
            out_visual_dim=4,
            time_dim=16,
            model_dim=32,
            ff_dim=32,
            num_visual_blocks=3,
            axes_dims=(4, 6, 6),
            nabla_window=(3, 3, 3),
        )
    )


MODELS = (
    Model("Kandinsky5Transformer3DModel", kandinsky5_transformer, _k5_inputs, guidance="separate"),
    # a bare tensor comes back, and the video brings a given frame and its mask along
    Model(
        "Kandinsky5Transformer3DModel I2V",
        lambda: kandinsky5_transformer(visual_cond=True),
        lambda share: {**_k5_inputs(share, channels=9), "return_dict": False},
        guidance="separate",
    ),
    Model("Kandinsky6Transformer3DModel", kandinsky6_transformer, _k6_inputs, guidance="separate"),
    # the given frame stands behind the others and has the place of the first
    Model(
        "Kandinsky6Transformer3DModel I2V",
        kandinsky6_transformer,
        lambda share: {
            **_k6_inputs(share),
            "hidden_states": noise(1, 3, 4, 4, 9),
            "visual_rope_pos": (torch.tensor([0, 1, 0]), torch.arange(2), torch.arange(2)),
            "visual_token_type_ids": torch.tensor([[0, 0, 1]]),
        },
        guidance="separate",
    ),
    Model(
        "Kandinsky6SRTransformer3DModel",
        kandinsky6_sr_transformer,
        lambda share: {"hidden_states": noise(1, 2, 8, 8, 9), "timestep": torch.tensor([1000 * (1 - share)])},
    ),
)
