"""Flux 1, 2 and 3, and what has their blocks: Chroma, Bria, LongCat-Image, Ovis-Image."""

from __future__ import annotations

from dataclasses import replace

from bwcache.models.families.layouts import (
    DUAL,
    DUAL_X,
    IN_ONE,
    SIDE_BY_SIDE,
    SINGLE,
    TEXT_HIDDEN,
    X,
    after_norm,
)
from bwcache.models.spec import BlockList, BlockSpec, Part

# text first in what a block returns, also in the single-stream blocks
_DUAL = BlockList("transformer_blocks", TEXT_HIDDEN, parts=DUAL)
_SINGLE = BlockList("single_transformer_blocks", TEXT_HIDDEN, parts=SINGLE, parts_missing=SIDE_BY_SIDE)
_JOINED = replace(_SINGLE, returns=("hidden_states",))
_MODULATED = after_norm("transformer_blocks")
_IDLE = ("pos_embed", "context_embedder", "x_embedder")

FLUX = BlockSpec(
    "FluxTransformer2DModel",
    (_DUAL, _SINGLE),
    named={"time": "time_text_embed", "modulated": _MODULATED},
    layout="bnc",
    pipelines=(
        "FluxPipeline",
        "FluxImg2ImgPipeline",
        "FluxInpaintPipeline",
        "FluxFillPipeline",
        "FluxControlPipeline",
        "FluxControlImg2ImgPipeline",
        "FluxControlInpaintPipeline",
        "FluxControlNetPipeline",
        "FluxControlNetImg2ImgPipeline",
        "FluxControlNetInpaintPipeline",
        "FluxKontextPipeline",
        "FluxKontextInpaintPipeline",
        "VisualClozeGenerationPipeline",
    ),
    idle=_IDLE,
)

BRIA = replace(
    FLUX,
    model="BriaTransformer2DModel",
    named={"time": "time_embed", "modulated": _MODULATED},
    guidance="batched",
    pipelines=("BriaPipeline",),
)

ROWS = (
    FLUX,
    # text and image in one row of tokens in the single-stream blocks
    BlockSpec(
        "Flux2Transformer2DModel",
        (
            BlockList("transformer_blocks", TEXT_HIDDEN, parts=DUAL_X),
            BlockList("single_transformer_blocks", parts={"joint": "attn"}, parts_missing=IN_ONE),
        ),
        named={"time": "time_guidance_embed", "modulated": "double_stream_modulation_img"},
        filling=("kv_cache_mode=extract",),
        layout="bnc",
        pipelines=("Flux2Pipeline", "Flux2KleinPipeline", "Flux2KleinInpaintPipeline", "Flux2KleinKVPipeline"),
        idle=(
            "pos_embed",
            "double_stream_modulation_img",
            "double_stream_modulation_txt",
            "single_stream_modulation",
            "x_embedder",
            "context_embedder",
        ),
    ),
    # of modular pipelines only: the few blocks on the text and on a reference, before, are no part of the stack
    BlockSpec(
        "Flux3Transformer2DModel",
        (
            BlockList("mode_blocks.image", parts={"self": "attn", "ffn": Part("ff", X)}),
            BlockList("single_transformer_blocks", TEXT_HIDDEN, parts={"joint": "attn", "ffn": Part("ff", X)}),
        ),
        named={"time": "timestep_embedder"},
        prediction="unknown",
        idle=(
            "pos_embed",
            "early_stream_modulations",
            "single_stream_modulations",
            "x_embedders",
            "context_embedder",
            "txt_mode_blocks",
            "mode_blocks.image_cond",
        ),
    ),
    replace(
        FLUX,
        model="ChromaTransformer2DModel",
        lists=(_DUAL, _JOINED),
        named={"time": "distilled_guidance_layer", "modulated": _MODULATED},
        pipelines=("ChromaPipeline", "ChromaImg2ImgPipeline", "ChromaInpaintPipeline"),
    ),
    BRIA,
    # half of the text's width is put in anew before every block
    replace(
        BRIA,
        model="BriaFiboTransformer2DModel",
        lists=(_DUAL, _JOINED),
        pipelines=("BriaFiboPipeline", "BriaFiboEditPipeline"),
        idle=(*_IDLE, "caption_projection"),
    ),
    BlockSpec(
        "BriaFibo2Transformer2DModel",
        (
            BlockList(
                "layers", X, parts={"joint": "attention", "cross": "cross_attention", "ffn": Part("feed_forward", X)}
            ),
        ),
        read_after=X,
        measured="x",
        named={"time": "t_embedder"},
        pipelines=("BriaFibo2Pipeline",),
    ),
    replace(
        FLUX,
        model="LongCatImageTransformer2DModel",
        named={"time": "time_embed", "modulated": _MODULATED},
        pipelines=("LongCatImagePipeline", "LongCatImageEditPipeline"),
    ),
    replace(
        FLUX,
        model="OvisImageTransformer2DModel",
        named={"time": "timestep_embedder", "modulated": _MODULATED},
        pipelines=("OvisImagePipeline",),
        idle=("pos_embed", "context_embedder_norm", "context_embedder", "x_embedder"),
    ),
)
