"""Stable Diffusion 3 and AuraFlow."""

from __future__ import annotations

from bwcache.models.families.layouts import DUAL, DUAL_X, TEXT_HIDDEN, Parts, X, after_norm
from bwcache.models.spec import BlockList, BlockSpec, Part

_PARTS: Parts = {"joint": DUAL["joint"], "self": "attn2", **DUAL}

ROWS = (
    # the last block returns no text
    BlockSpec(
        "SD3Transformer2DModel",
        (BlockList("transformer_blocks", TEXT_HIDDEN, parts=_PARTS),),
        named={"time": "time_text_embed", "modulated": after_norm("transformer_blocks")},
        guidance="batched",
        layout="bchw",
        pipelines=(
            "StableDiffusion3Pipeline",
            "StableDiffusion3Img2ImgPipeline",
            "StableDiffusion3InpaintPipeline",
            "StableDiffusion3PAGPipeline",
            "StableDiffusion3PAGImg2ImgPipeline",
            "StableDiffusion3ControlNetPipeline",
            "StableDiffusion3ControlNetInpaintingPipeline",
        ),
        idle=("pos_embed", "context_embedder"),
    ),
    BlockSpec(
        "AuraFlowTransformer2DModel",
        (
            BlockList("joint_transformer_blocks", TEXT_HIDDEN, parts=DUAL_X),
            BlockList("single_transformer_blocks", parts={"joint": "attn", "ffn": Part("ff", X)}),
        ),
        named={"time": "time_step_proj", "modulated": after_norm("joint_transformer_blocks")},
        guidance="batched",
        pipelines=("AuraFlowPipeline",),
        idle=("pos_embed", "context_embedder"),
    ),
)
