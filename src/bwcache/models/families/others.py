"""Families of one class each, by name."""

from __future__ import annotations

from bwcache.models.families.layouts import DUAL, HIDDEN_TEXT, SIDE_BY_SIDE, SINGLE_TEXT, X, after_norm
from bwcache.models.spec import BlockList, BlockSpec, Part

ROWS = (
    # tokens come before the batch
    BlockSpec(
        "ErnieImageTransformer2DModel",
        (BlockList("layers", X, parts={"joint": "self_attention", "ffn": Part("mlp", X)}),),
        read_after=X,
        measured="x",
        named={"time": "time_embedding", "modulated": "adaLN_modulation"},
        batch_axis=1,
        guidance="batched",
        pipelines=("ErnieImagePipeline",),
        idle=("x_embedder", "text_proj", "pos_embed", "adaLN_modulation"),
    ),
    # the language model's tokens of each layer are put in before a block and cut off after it
    BlockSpec(
        "HiDreamImageTransformer2DModel",
        (
            BlockList(
                "double_stream_blocks",
                HIDDEN_TEXT,
                parts={
                    "joint": Part("block.attn1", ("norm_hidden_states", "norm_encoder_hidden_states")),
                    "ffn": Part("block.ff_i", X),
                    "text_ffn": Part("block.ff_t", X),
                },
            ),
            BlockList(
                "single_stream_blocks",
                parts={"joint": Part("block.attn1", ("norm_hidden_states",)), "ffn": Part("block.ff_i", X)},
            ),
        ),
        named={"time": "t_embedder"},
        timestep="timesteps",
        guidance="batched",
        prediction="negative",
        pipelines=("HiDreamImagePipeline",),
        per_sample=False,
        idle=("x_embedder", "pe_embedder", "caption_projection"),
    ),
    # a denoiser of its own for the unconditional branch
    BlockSpec(
        "Ideogram4Transformer2DModel",
        (BlockList("layers", parts={"joint": "attention", "ffn": Part("feed_forward", X)}),),
        named={"time": "t_embedding", "modulated": "adaln_proj"},
        prediction="negative",
        pipelines=("Ideogram4Pipeline",),
        idle=("input_proj", "llm_cond_norm", "llm_cond_proj", "embed_image_indicator", "rotary_emb"),
    ),
    BlockSpec(
        "Krea2Transformer2DModel",
        (BlockList("transformer_blocks", parts={"joint": "attn", "ffn": "ff"}),),
        named={"time": "time_embed", "modulated": "time_mod_proj"},
        pipelines=("Krea2Pipeline",),
        idle=("img_in", "time_mod_proj", "text_fusion", "txt_in", "rotary_emb"),
    ),
    # of modular pipelines only
    BlockSpec(
        "MiniMaxH3Transformer3DModel",
        (BlockList("transformer_blocks", parts={"joint": "attn", "ffn": "ff"}),),
        named={"time": "time_embedder"},
        guidance="none",
        prediction="unknown",
        per_sample=False,
        idle=("proj_in", "audio_proj_in", "context_embedder", "rope", "token_refiner"),
    ),
    # the last single-stream blocks begin anew and read the others' result in the place of the text
    BlockSpec(
        "MotifVideoTransformer3DModel",
        (
            BlockList("transformer_blocks", HIDDEN_TEXT, parts={"joint": DUAL["joint"], "cross": "cross_attn", **DUAL}),
            BlockList(
                "single_transformer_blocks",
                HIDDEN_TEXT,
                parts={"joint": Part("attn", HIDDEN_TEXT), "cross": "cross_attn", "out": SINGLE_TEXT["out"]},
                parts_missing=SIDE_BY_SIDE,
            ),
        ),
        named={"time": "time_text_embed", "modulated": after_norm("transformer_blocks")},
        layout="bcfhw",
        pipelines=("MotifVideoPipeline", "MotifVideoImage2VideoPipeline"),
        idle=("x_embedder", "context_embedder", "rope", "image_embedder"),
    ),
    BlockSpec(
        "PRXTransformer2DModel",
        (
            BlockList(
                "blocks",
                parts={"joint": "attention"},
                parts_missing="the feed-forward net is no module: three projections that the block joins itself",
            ),
        ),
        named={"time": "time_in"},
        guidance="batched",
        prediction="unknown",
        pipelines=("PRXPipeline", "PRXPixelPipeline"),
        idle=("pe_embedder", "img_in", "txt_in"),
    ),
)
