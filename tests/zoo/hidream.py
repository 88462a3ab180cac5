"""HiDream."""

from __future__ import annotations

from typing import Any

from diffusers import HiDreamImagePipeline, HiDreamImageTransformer2DModel

from tests.zoo.flux import BLIND, SIZE, euler, time, vae
from tests.zoo.kinds import Model, Pipeline, noise, seeded


def hidream() -> Any:
    return seeded(
        lambda: HiDreamImageTransformer2DModel(
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=3,
            num_single_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=[8, 8],
            text_emb_dim=8,
            num_routed_experts=4,
            num_activated_experts=2,
            axes_dims_rope=(4, 2, 2),
            max_resolution=(16, 16),
            llama_layers=[0, 1, 0, 1, 0, 1],
            force_inference_output=True,
        )
    )


def _inputs(share: float) -> dict[str, Any]:
    """[uncond; cond]; of the language model, its layers' outputs [layers, batch, tokens, width]."""
    return {
        "hidden_states": noise(1, 4, 8, 8).repeat(2, 1, 1, 1),
        "timesteps": time(share, 2),
        "encoder_hidden_states_t5": noise(2, 6, 8, seed=1),
        "encoder_hidden_states_llama3": noise(2, 2, 5, 8, seed=2),
        "pooled_embeds": noise(2, 8, seed=3),
    }


MODELS = (Model("HiDreamImageTransformer2DModel", hidream, _inputs, guidance="batched"),)


def hidream_pipeline() -> HiDreamImagePipeline:
    """It scales every size to its default one."""
    others = {f"{name}_{i}": None for name in BLIND for i in (2, 3, 4)}
    pipe = HiDreamImagePipeline(**BLIND, **others, transformer=hidream(), vae=vae(4), scheduler=euler())
    pipe.default_sample_size = 8
    return pipe


PIPELINES = (
    Pipeline(
        "HiDreamImagePipeline",
        hidream_pipeline,
        {
            **SIZE,
            "prompt_embeds_t5": noise(1, 6, 8, seed=1),
            "negative_prompt_embeds_t5": noise(1, 6, 8, seed=2),
            "prompt_embeds_llama3": noise(2, 1, 5, 8, seed=3),
            "negative_prompt_embeds_llama3": noise(2, 1, 5, 8, seed=4),
            "pooled_prompt_embeds": noise(1, 8, seed=5),
            "negative_pooled_prompt_embeds": noise(1, 8, seed=6),
        },
        ("call0",),
    ),
)
