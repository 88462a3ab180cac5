"""Qwen-Image, and what has its blocks: JoyImage, Nucleus."""

from __future__ import annotations

from dataclasses import replace

from bwcache.models.families.layouts import HIDDEN_TEXT, TEXT_HIDDEN, Parts
from bwcache.models.spec import BlockList, BlockSpec, Part

_DUAL: Parts = {"joint": Part("attn", HIDDEN_TEXT), "ffn": "img_mlp", "text_ffn": "txt_mlp"}

JOY = BlockSpec(
    "JoyImageEditTransformer3DModel",
    (BlockList("double_blocks", HIDDEN_TEXT, parts=_DUAL),),
    named={"time": "condition_embedder[0]", "modulated": "condition_embedder[1]"},
    pipelines=("JoyImageEditPipeline",),
    idle=("img_in", "condition_embedder"),
)

ROWS = (
    BlockSpec(
        "QwenImageTransformer2DModel",
        (BlockList("transformer_blocks", TEXT_HIDDEN, parts=_DUAL),),
        named={"time": "time_text_embed", "modulated": "transformer_blocks.0.img_mod"},
        layout="bnc",
        pipelines=(
            "QwenImagePipeline",
            "QwenImageImg2ImgPipeline",
            "QwenImageInpaintPipeline",
            "QwenImageEditPipeline",
            "QwenImageEditInpaintPipeline",
            "QwenImageEditPlusPipeline",
            "QwenImageLayeredPipeline",
            "QwenImageControlNetPipeline",
            "QwenImageControlNetInpaintPipeline",
        ),
        idle=("pos_embed", "txt_norm", "img_in", "txt_in"),
    ),
    # the first step of a branch also fills a key-value cache, and has more tokens than the others
    BlockSpec(
        "QwenImage21Transformer2DModel",
        (BlockList("transformer_blocks", parts={"joint": "attn", "ffn": "img_mlp"}),),
        named={"time": "time_text_embed", "modulated": "modulation"},
        filling=("kv_cache_mode=extract",),
        pipelines=("QwenImage21Pipeline",),
    ),
    JOY,
    replace(
        JOY,
        model="JoyImageEditPlusTransformer3DModel",
        guidance="batched",
        pipelines=("JoyImageEditPlusPipeline",),
        per_sample=False,
    ),
    BlockSpec(
        "NucleusMoEImageTransformer2DModel",
        (BlockList("transformer_blocks", parts={"joint": "attn", "ffn": "img_mlp"}),),
        named={"time": "time_text_embed", "modulated": "transformer_blocks.0.img_mod"},
        prediction="negative",
        pipelines=("NucleusMoEImagePipeline",),
        idle=("pos_embed", "txt_norm", "img_in"),
    ),
)
