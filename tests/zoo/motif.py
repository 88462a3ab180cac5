"""Motif-Video."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    LayerSkipConfig,
    SkipLayerGuidance,
)

from tests.newer import (
    MotifVideoImage2VideoPipeline,
    MotifVideoPipeline,
    MotifVideoTransformer3DModel,
)
from tests.tiny import wan_vae
from tests.zoo.kinds import Model, Pipeline, noise, seeded
from tests.zoo.wan import pictures


def motif_transformer(**changes: Any) -> Any:
    config = {
        "in_channels": 9,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 3,
        "num_single_layers": 5,
        "num_decoder_layers": 2,
        "mlp_ratio": 2.0,
        "text_embed_dim": 16,
        "rope_axes_dim": (4, 6, 6),
    }
    return seeded(lambda: MotifVideoTransformer3DModel(**{**config, **changes}))


def _inputs(share: float) -> dict[str, Any]:
    return {
        "hidden_states": noise(1, 9, 2, 4, 4),
        "timestep": torch.tensor([1000 * (1 - share)]),
        "encoder_hidden_states": noise(1, 6, 16, seed=1),
        "encoder_attention_mask": torch.ones(1, 6),
    }


MODELS = (
    Model("MotifVideoTransformer3DModel", motif_transformer, _inputs, guidance="separate"),
    Model(
        "MotifVideoTransformer3DModel without decoder",
        lambda: motif_transformer(num_decoder_layers=0),
        _inputs,
        guidance="separate",
    ),
    Model(
        "MotifVideoTransformer3DModel I2V",
        lambda: motif_transformer(
            image_embed_dim=8, enable_text_cross_attention_dual=True, enable_text_cross_attention_single=True
        ),
        lambda share: {**_inputs(share), "image_embeds": noise(1, 3, 8, seed=2)},
        guidance="separate",
    ),
)


def motif(guider: Any, kind: type = MotifVideoPipeline, **changes: Any) -> Any:
    return kind(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=wan_vae(),
        text_encoder=None,
        tokenizer=None,
        transformer=motif_transformer(),
        guider=guider,
        **changes,
    )


_CALL = {
    "height": 32,
    "width": 32,
    "num_frames": 5,
    "prompt_embeds": noise(1, 6, 16, seed=1),
    "negative_prompt_embeds": noise(1, 6, 16, seed=2),
    "prompt_attention_mask": torch.ones(1, 6),
    "negative_prompt_attention_mask": torch.ones(1, 6),
}

PIPELINES = (
    Pipeline(
        "MotifVideoPipeline",
        lambda: motif(ClassifierFreeGuidance(guidance_scale=8.0)),
        _CALL,
        ("pred_cond", "pred_uncond"),
    ),
    Pipeline(
        "MotifVideoImage2VideoPipeline",
        lambda: motif(
            ClassifierFreeGuidance(guidance_scale=8.0), MotifVideoImage2VideoPipeline, feature_extractor=None
        ),
        {**_CALL, "prompt": None, "image": pictures(1)[0]},
        ("pred_cond", "pred_uncond"),
    ),
    Pipeline(
        "MotifVideoPipeline projected",
        lambda: motif(AdaptiveProjectedGuidance(guidance_scale=8.0)),
        _CALL,
        ("pred_cond", "pred_uncond"),
    ),
)

SPECIAL = (
    # A third forward, pred_cond_skip, in step 1 of 10 alone: a hook of diffusers skips a block in it. All is traced so.
    Pipeline(
        "MotifVideoPipeline skip layers",
        lambda: motif(
            SkipLayerGuidance(
                guidance_scale=8.0,
                skip_layer_guidance_start=0.0,
                skip_layer_config=LayerSkipConfig(indices=[1], fqn="transformer_blocks"),
            )
        ),
        _CALL,
        ("pred_cond", "pred_uncond"),
    ),
)
