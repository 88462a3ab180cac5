"""LTX-Video and LTX-2."""

from __future__ import annotations

from bwcache.models.families.layouts import NATIVE, SELF_CROSS
from bwcache.models.spec import BlockList, BlockSpec

_TIME = {"time": "time_embed[1]", "modulated": "time_embed[0]"}

ROWS = (
    BlockSpec(
        "LTXVideoTransformer3DModel",
        (BlockList("transformer_blocks", parts=SELF_CROSS),),
        named=_TIME,
        guidance="batched",
        layout="bnc",
        pipelines=("LTXPipeline", "LTXImageToVideoPipeline", "LTXConditionPipeline", "LTXI2VLongMultiPromptPipeline"),
        idle=("proj_in", "time_embed.linear", "caption_projection", "rope"),
    ),
    # video and audio: both are read after the last block
    BlockSpec(
        "LTX2VideoTransformer3DModel",
        (
            BlockList(
                "transformer_blocks",
                ("hidden_states", "audio_hidden_states"),
                parts={
                    "self": "attn1",
                    "audio_self": "audio_attn1",
                    "cross": "attn2",
                    "audio_cross": "audio_attn2",
                    "from_audio": "audio_to_video_attn",
                    "from_video": "video_to_audio_attn",
                    "ffn": "ff",
                    "audio_ffn": "audio_ff",
                },
            ),
        ),
        read_after=("hidden_states", "audio_hidden_states"),
        also_measured=("audio_hidden_states",),
        named=_TIME,
        guidance="batched",
        layout="bnc",
        pipelines=(
            "LTX2Pipeline",
            "LTX2ImageToVideoPipeline",
            "LTX2ConditionPipeline",
            "LTX2InContextPipeline",
            "LTX2HDRPipeline",
            "LTX2DFRPipeline",
            "LTX2DFRTemporalRefinePipeline",
        ),
        idle=(
            "proj_in",
            "audio_proj_in",
            "caption_projection",
            "audio_caption_projection",
            "time_embed.linear",
            "audio_time_embed.linear",
            "av_cross_attn_video_scale_shift",
            "av_cross_attn_audio_scale_shift",
            "av_cross_attn_video_a2v_gate",
            "av_cross_attn_audio_v2a_gate",
            "rope",
            "audio_rope",
            "cross_attn_rope",
            "cross_attn_audio_rope",
            "prompt_adaln",
            "audio_prompt_adaln",
        ),
    ),
    BlockSpec(
        "Transformer3DModel",
        (BlockList("transformer_blocks", parts_missing=NATIVE),),
        skips="skip_layer_mask",
        guidance="batched",
        pipelines=("LTXVideoPipeline", "LTXMultiScalePipeline"),
        module_prefix="ltx_video.models",
        sources="Lightricks/LTX-Video 5260738",
    ),
)
