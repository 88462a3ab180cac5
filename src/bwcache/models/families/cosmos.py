"""Cosmos: 1, Predict 2, Predict 2.5 and 3."""

from __future__ import annotations

from bwcache.models.families.layouts import SELF_CROSS, X, after_norm
from bwcache.models.spec import BlockList, BlockSpec, Part

ROWS = (
    BlockSpec(
        "CosmosTransformer3DModel",
        (BlockList("transformer_blocks", parts=SELF_CROSS),),
        named={"time": "time_embed[1]", "modulated": after_norm("transformer_blocks")},
        prediction="unknown",
        layout="bcfhw",
        pipelines=(
            "CosmosTextToWorldPipeline",
            "CosmosVideoToWorldPipeline",
            "Cosmos2TextToImagePipeline",
            "Cosmos2VideoToWorldPipeline",
            "Cosmos2_5_PredictBasePipeline",
            "Cosmos2_5_TransferPipeline",
        ),
        idle=("patch_embed", "rope", "learnable_pos_embed", "crossattn_proj", "img_context_proj"),
    ),
    # one packed row of tokens: text in `und_seq`, all that is generated in `gen_seq`, and only that is read
    BlockSpec(
        "Cosmos3OmniTransformer",
        (
            BlockList(
                "layers",
                ("und_seq", "gen_seq"),
                parts={
                    "joint": Part("self_attn", ("und_seq", "gen_seq")),
                    "text_ffn": Part("mlp", X),
                    "ffn": Part("mlp_moe_gen", X),
                },
            ),
        ),
        read_after=("gen_seq",),
        measured="gen_seq",
        latents="vision_tokens",
        named={"time": "time_embedder"},
        timestep="vision_timesteps",
        pipelines=("Cosmos3OmniPipeline",),
        per_sample=False,
        idle=("embed_tokens", "norm", "rotary_emb", "proj_in", "time_proj", "time_embedder", "audio_proj_in"),
    ),
)
