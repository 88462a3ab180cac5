"""Kandinsky 5 and 6 (Kandinsky 3 is a U-Net)."""

from __future__ import annotations

from bwcache.models.families.layouts import X
from bwcache.models.spec import BlockList, BlockSpec, Part

ROWS = (
    # the few text blocks before are no part of the stack, they run in every step
    BlockSpec(
        "Kandinsky5Transformer3DModel",
        (
            BlockList(
                "visual_transformer_blocks",
                ("visual_embed",),
                parts={"self": "self_attention", "cross": "cross_attention", "ffn": Part("feed_forward", X)},
            ),
        ),
        read_after=("visual_embed",),
        measured="visual_embed",
        named={"time": "time_embeddings"},
        pipelines=(
            "Kandinsky5T2VPipeline",
            "Kandinsky5I2VPipeline",
            "Kandinsky5T2IPipeline",
            "Kandinsky5I2IPipeline",
        ),
        per_sample=False,
        idle=(
            "text_embeddings",
            "visual_embeddings",
            "text_rope_embeddings",
            "visual_rope_embeddings",
            "text_transformer_blocks",
        ),
    ),
    # video and audio: both are read after the last block
    BlockSpec(
        "Kandinsky6Transformer3DModel",
        (
            BlockList(
                "visual_transformer_blocks",
                ("vis", "aud"),
                parts={
                    "self": "video_dec_block.self_attention",
                    "cross": "video_dec_block.cross_attention",
                    "audio_self": "audio_dec_block.self_attention",
                    "audio_cross": "audio_dec_block.cross_attention",
                    "from_audio": "va_cross_attention",
                    "from_video": "av_cross_attention",
                    "ffn": "video_dec_block.feed_forward",
                    "audio_ffn": "audio_dec_block.feed_forward",
                },
            ),
        ),
        read_after=("vis", "aud"),
        measured="vis",
        also_measured=("aud",),
        named={"time": "video_time_embeddings"},
        pipelines=("Kandinsky6TI2VAPipeline",),
        idle=(
            "visual_embeddings",
            "visual_rope_embeddings",
            "audio_embeddings",
            "audio_rope_embeddings",
            "video_text_embeddings",
            "video_text_rope_embeddings",
            "video_text_transformer_blocks",
            "audio_text_embeddings",
            "audio_text_rope_embeddings",
            "audio_text_transformer_blocks",
            "visual_token_type_embeddings",
        ),
    ),
    BlockSpec(
        "Kandinsky6SRTransformer3DModel",
        (BlockList("visual_transformer_blocks", parts={"self": "self_attention", "ffn": "feed_forward"}),),
        named={"time": "time_embeddings"},
        guidance="none",
        pipelines=("Kandinsky6SRPipeline",),
        idle=("visual_embeddings", "visual_rope_embeddings"),
    ),
)
