"""Lumina and what was made like it: text and picture in one row of tokens, refined before each for itself.

The refiners are no part of the stack.
"""

from __future__ import annotations

from bwcache.models.families.layouts import X, after_norm
from bwcache.models.spec import BlockList, BlockSpec, Part

ROWS = (
    # its attentions return their heads apart
    BlockSpec(
        "LuminaNextDiT2DModel",
        (
            BlockList(
                "layers",
                parts={
                    "self": Part("attn1", outlined=True),
                    "cross": Part("attn2", outlined=True),
                    "ffn": Part("feed_forward", X),
                },
            ),
        ),
        named={"time": "time_caption_embed", "modulated": after_norm("layers")},
        guidance="batched",
        prediction="negative",
        batch_order=("cond", "uncond"),
        pipelines=("LuminaPipeline",),
        idle=("patch_embedder.proj",),
    ),
    BlockSpec(
        "Lumina2Transformer2DModel",
        (BlockList("layers", parts={"joint": "attn", "ffn": Part("feed_forward", X)}),),
        named={"time": "time_caption_embed[0]", "modulated": after_norm("layers")},
        prediction="negative",
        pipelines=("Lumina2Pipeline",),
    ),
    BlockSpec(
        "ZImageTransformer2DModel",
        (BlockList("layers", X, parts={"joint": "attention", "ffn": Part("feed_forward", X)}),),
        read_after=X,
        measured="x",
        latents="x",
        named={"time": "t_embedder"},
        timestep="t",
        guidance="batched",
        prediction="negative",
        pipelines=(
            "ZImagePipeline",
            "ZImageImg2ImgPipeline",
            "ZImageInpaintPipeline",
            "ZImageOmniPipeline",
            "ZImageControlNetPipeline",
            "ZImageControlNetInpaintPipeline",
        ),
        per_sample=False,
        idle=(
            "all_x_embedder",
            "noise_refiner",
            "context_refiner",
            "cap_embedder",
            "siglip_embedder",
            "siglip_refiner",
        ),
    ),
    BlockSpec(
        "OmniGenTransformer2DModel",
        (BlockList("layers", parts={"joint": "self_attn", "ffn": "mlp"}),),
        named={"time": "t_embedder"},
        guidance="batched",
        batch_order=("cond", "uncond"),
        pipelines=("OmniGenPipeline",),
    ),
)
