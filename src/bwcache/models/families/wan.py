"""Wan 2.1 and 2.2, what was made of them, and SkyReels-V2, which has their blocks."""

from __future__ import annotations

from dataclasses import replace

from bwcache.models.families.layouts import NATIVE, X, blocks
from bwcache.models.spec import BlockList, BlockSpec, Idle, Part

_TIME = {"time": "condition_embedder[0]", "modulated": "condition_embedder[1]"}
_TEXT = ("condition_embedder.time_proj", "condition_embedder.text_embedder")
_IMAGE = (*_TEXT, "condition_embedder.image_embedder")

WAN = BlockSpec(
    "WanTransformer3DModel",
    (BlockList("blocks", parts={"self": "attn1", "cross": "attn2", "ffn": "ffn"}),),
    named=_TIME,
    layout="bcfhw",
    pipelines=("WanPipeline", "WanImageToVideoPipeline", "WanVideoToVideoPipeline", "LucyEditPipeline"),
    idle=("rope", "patch_embedding", *_IMAGE),
)

# `vace_blocks` run before and are no part of the stack: they make hints that are added after some of the blocks
VACE = replace(
    WAN,
    model="WanVACETransformer3DModel",
    pipelines=("WanVACEPipeline",),
    per_sample=False,
    idle=tuple(
        Idle(path, config_entry="vace_layers")
        for path in ("rope", "patch_embedding", "vace_patch_embedding", *_TEXT, "vace_blocks")
    ),
)

ANIMATE = replace(
    WAN,
    model="WanAnimateTransformer3DModel",
    pipelines=("WanAnimatePipeline",),
    idle=(
        *("rope", "patch_embedding", "pose_patch_embedding", *_IMAGE),
        *(
            Idle(path, config_entry="inject_face_latents_blocks")
            for path in ("motion_encoder", "face_encoder", "face_adapter")
        ),
    ),
)

ANY_FLOW = replace(
    WAN,
    model="AnyFlowTransformer3DModel",
    layout="bfchw",
    guidance="batched",
    pipelines=("AnyFlowPipeline",),
    idle=("patch_embedding", *_TEXT),
)

NATIVE_WAN = BlockSpec(
    "WanModel",
    (blocks(),),
    read_after=X,
    measured="x",
    latents="x",
    timestep="t",
    forwards=(
        "wan.distributed.xdit_context_parallel.usp_dit_forward",
        "wan.distributed.sequence_parallel.sp_dit_forward",
    ),
    per_sample=False,
    pipelines=("WanT2V", "WanI2V", "WanFLF2V", "WanTI2V"),
    module_prefix="wan.modules",
    sources="Wan-Video/Wan2.1 9737cba, Wan-Video/Wan2.2 42bf4cf",
)

ROWS = (
    WAN,
    VACE,
    ANIMATE,
    replace(WAN, model="ChronoEditTransformer3DModel", pipelines=("ChronoEditPipeline",)),
    ANY_FLOW,
    # One forward for the segment of the driving video, and one for each chunk of a film, keeps keys and values of all
    # blocks. Without the prompt, Animate 2 leaves out block 9.
    BlockSpec(
        "WanAnimate2Transformer3DModel",
        (BlockList("blocks", parts={"self": "self_attn", "cross": "cross_attn", "ffn": Part("ffn", ("input",))}),),
        named={"time": "time_embedding", "modulated": "time_projection"},
        cache_fill_flags=("kv_cache_mode=extract",),
        prediction="unknown",
        per_sample=False,
    ),
    replace(
        ANY_FLOW,
        model="AnyFlowFARTransformer3DModel",
        cache_fill_flags=("kv_cache_flag.is_cache_step",),
        per_sample=False,
        pipelines=("AnyFlowFARPipeline",),
    ),
    replace(
        WAN,
        model="SkyReelsV2Transformer3DModel",
        pipelines=(
            "SkyReelsV2Pipeline",
            "SkyReelsV2ImageToVideoPipeline",
            "SkyReelsV2DiffusionForcingPipeline",
            "SkyReelsV2DiffusionForcingImageToVideoPipeline",
            "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        ),
        idle=("rope", "patch_embedding", *_IMAGE, "fps_embedding", "fps_projection"),
    ),
    # Helios: the history's tokens run along in the same stream, and its time is embedded first by the same module
    replace(
        WAN,
        model="HeliosTransformer3DModel",
        named={},
        pipelines=("HeliosPipeline", "HeliosPyramidPipeline"),
        idle=("rope", "patch_embedding", "patch_short", "patch_mid", "patch_long", *_TEXT),
    ),
    NATIVE_WAN,
    # a VACE block takes the video as `x` too, and its hint has that shape; hints are added inside of `blocks`
    replace(
        NATIVE_WAN,
        model="VaceWanModel",
        lists=(BlockList("vace_blocks", ("c", "x"), measured="c", parts_missing=NATIVE), blocks()),
        pipelines=("WanVace",),
        sources="Wan-Video/Wan2.1 9737cba",
    ),
    replace(NATIVE_WAN, model="WanModel_S2V", forwards=(), pipelines=("WanS2V",), sources="Wan-Video/Wan2.2 42bf4cf"),
    replace(
        NATIVE_WAN, model="WanAnimateModel", forwards=(), pipelines=("WanAnimate",), sources="Wan-Video/Wan2.2 42bf4cf"
    ),
    replace(
        NATIVE_WAN,
        forwards=(),
        per_sample=True,
        pipelines=("Text2VideoPipeline", "Image2VideoPipeline", "DiffusionForcingPipeline"),
        module_prefix="skyreels_v2_infer.modules",
        sources="SkyworkAI/SkyReels-V2 abed76f",
    ),
)
