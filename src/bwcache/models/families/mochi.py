"""Mochi."""

from __future__ import annotations

from bwcache.models.families.layouts import DUAL, HIDDEN_TEXT, X, after_norm, blocks
from bwcache.models.spec import BlockList, BlockSpec, Part

ROWS = (
    BlockSpec(
        "MochiTransformer3DModel",
        (BlockList("transformer_blocks", HIDDEN_TEXT, parts={**DUAL, "joint": Part("attn1", HIDDEN_TEXT)}),),
        named={"time": "time_embed[0]", "modulated": after_norm("transformer_blocks")},
        guidance="batched",
        layout="bcfhw",
        counts_up=True,
        pipelines=("MochiPipeline",),
        idle=("patch_embed", "time_embed.caption_proj", "rope"),
    ),
    BlockSpec(
        "AsymmDiTJoint",
        (blocks("blocks", "x", "y"),),
        read_after=X,
        measured="x",
        latents="x",
        timestep="sigma",
        guidance="either",
        pipelines=("MochiSingleGPUPipeline", "MochiMultiGPUPipeline"),
        module_prefix="genmo.mochi_preview",
        sources="genmoai/mochi 0c86aeb",
    ),
)
