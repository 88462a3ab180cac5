"""Hunyuan Video and Hunyuan Image: dual-stream blocks, then single-stream ones that still carry both streams apart."""

from __future__ import annotations

from dataclasses import replace

from bwcache.models.families.layouts import (
    DUAL,
    HIDDEN_TEXT,
    NATIVE,
    SIDE_BY_SIDE,
    SINGLE_TEXT,
    X,
    after_norm,
    blocks,
)
from bwcache.models.spec import BlockList, BlockSpec

_DUAL = BlockList("transformer_blocks", HIDDEN_TEXT, parts=DUAL)
_SINGLE = BlockList("single_transformer_blocks", HIDDEN_TEXT, parts=SINGLE_TEXT, parts_missing=SIDE_BY_SIDE)
_MODULATED = after_norm("transformer_blocks")

VIDEO = BlockSpec(
    "HunyuanVideoTransformer3DModel",
    (_DUAL, _SINGLE),
    named={"time": "time_text_embed[0]", "modulated": _MODULATED},
    layout="bcfhw",
    pipelines=("HunyuanVideoPipeline", "HunyuanVideoImageToVideoPipeline", "HunyuanSkyreelsImageToVideoPipeline"),
    idle=("x_embedder", "context_embedder", "rope"),
)

ROWS = (
    VIDEO,
    replace(
        VIDEO,
        model="HunyuanVideoFramepackTransformer3DModel",
        pipelines=("HunyuanVideoFramepackPipeline",),
        per_sample=False,
        idle=(),
    ),
    BlockSpec(
        "HunyuanVideo15Transformer3DModel",
        (_DUAL,),
        named={"time": "time_embed", "modulated": _MODULATED},
        layout="bcfhw",
        pipelines=("HunyuanVideo15Pipeline", "HunyuanVideo15ImageToVideoPipeline"),
    ),
    BlockSpec(
        "HunyuanImageTransformer2DModel",
        (_DUAL, _SINGLE),
        named={"time": "time_guidance_embed", "modulated": _MODULATED},
        pipelines=("HunyuanImagePipeline", "HunyuanImageRefinerPipeline"),
    ),
    # text and video are joined between the lists, and the single-stream blocks call both together `x`
    BlockSpec(
        "HYVideoDiffusionTransformer",
        (
            BlockList("double_blocks", ("img", "txt"), measured="img", parts_missing=NATIVE),
            blocks("single_blocks"),
        ),
        read_after=X,
        measured="x",
        latents="x",
        timestep="t",
        guidance="batched",
        pipelines=("HunyuanVideoPipeline",),
        module_prefix="hyvideo.modules",
        sources="Tencent/HunyuanVideo fa14b00",
    ),
)
