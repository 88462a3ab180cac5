"""CogVideoX and CogView, and what has their blocks: ConsisID, EasyAnimate, GLM-Image."""

from __future__ import annotations

from dataclasses import replace

from bwcache.models.families.layouts import HIDDEN_TEXT, NATIVE, after_norm
from bwcache.models.spec import BlockList, BlockSpec, Idle, Part

_JOINT = Part("attn1", HIDDEN_TEXT)
_MODULATED = after_norm("transformer_blocks")

VIDEO = BlockSpec(
    "CogVideoXTransformer3DModel",
    (BlockList("transformer_blocks", HIDDEN_TEXT, parts={"joint": _JOINT, "ffn": "ff"}),),
    named={"time": "time_embedding", "modulated": _MODULATED},
    guidance="batched",
    layout="bfchw",
    pipelines=(
        "CogVideoXPipeline",
        "CogVideoXImageToVideoPipeline",
        "CogVideoXVideoToVideoPipeline",
        "CogVideoXFunControlPipeline",
    ),
    idle=("patch_embed",),
)

VIEW = BlockSpec(
    "CogView4Transformer2DModel",
    (
        BlockList(
            "transformer_blocks",
            HIDDEN_TEXT,
            parts={"joint": _JOINT},
            parts_missing="the feed-forward net is called twice, for the picture and for the text",
        ),
    ),
    named={"time": "time_condition_embed", "modulated": _MODULATED},
    layout="bchw",
    pipelines=("CogView4Pipeline", "CogView4ControlPipeline"),
    idle=("rope", "patch_embed"),
)

ROWS = (
    VIDEO,
    replace(
        VIDEO,
        model="ConsisIDTransformer3DModel",
        pipelines=("ConsisIDPipeline",),
        idle=(
            "patch_embed",
            Idle("local_facial_extractor", config_entry="cross_attn_interval"),
            Idle("perceiver_cross_attention", config_entry="cross_attn_interval"),
        ),
    ),
    BlockSpec(
        "EasyAnimateTransformer3DModel",
        (
            BlockList(
                "transformer_blocks",
                HIDDEN_TEXT,
                parts={"joint": _JOINT, "text_ffn": "txt_ff"},
                parts_missing="the last block calls its feed-forward net twice, for the picture and for the text",
            ),
        ),
        named={"time": "time_embedding", "modulated": _MODULATED},
        guidance="batched",
        layout="bcfhw",
        pipelines=("EasyAnimatePipeline", "EasyAnimateInpaintPipeline", "EasyAnimateControlPipeline"),
        idle=("rope_embedding", "proj", "text_proj"),
    ),
    BlockSpec(
        "CogView3PlusTransformer2DModel",
        (BlockList("transformer_blocks", HIDDEN_TEXT, parts={"joint": _JOINT, "ffn": "ff"}),),
        named={"time": "time_condition_embed", "modulated": _MODULATED},
        guidance="batched",
        layout="bchw",
        pipelines=("CogView3PlusPipeline",),
        idle=("patch_embed",),
    ),
    VIEW,
    replace(
        VIEW,
        model="GlmImageTransformer2DModel",
        pipelines=("GlmImagePipeline",),
        cache_fill_flags=("kv_caches.caches.0.mode=write",),
        idle=(),
    ),
    # CogVideo on SwissArmyTransformer, which never calls its layers, but a hook with the number of each
    BlockSpec(
        "DiffusionTransformer",
        (BlockList("transformer.layers", hook="hooks.layer_forward", index="layer_id", parts_missing=NATIVE),),
        latents="x",
        timestep="timesteps",
        guidance="batched",
        module_prefix="dit_video_concat",
        sources="THUDM/CogVideo db49807 (sat)",
    ),
    BlockSpec(
        "CogVideoXTransformer3DModel",
        (BlockList("transformer_blocks", HIDDEN_TEXT, parts_missing=NATIVE),),
        guidance="batched",
        pipelines=("CogVideoXPipeline",),
        module_prefix="videosys.models",
        sources="NUS-HPC-AI-Lab/VideoSys 4cce477",
    ),
)
