"""SANA, SANA-Video and the first stage of SANA-WM."""

from __future__ import annotations

from bwcache.models.families.layouts import SELF_CROSS, X
from bwcache.models.spec import BlockList, BlockSpec, Part

_TIME = {"time": "time_embed[1]", "modulated": "time_embed[0]"}

ROWS = (
    BlockSpec(
        "SanaTransformer2DModel",
        (BlockList("transformer_blocks", parts=SELF_CROSS),),
        named=_TIME,
        guidance="batched",
        layout="bchw",
        pipelines=(
            "SanaPipeline",
            "SanaPAGPipeline",
            "SanaControlNetPipeline",
            "SanaSprintPipeline",
            "SanaSprintImg2ImgPipeline",
        ),
        idle=("patch_embed", "time_embed.linear", "caption_projection", "caption_norm"),
    ),
    BlockSpec(
        "SanaVideoTransformer3DModel",
        (BlockList("transformer_blocks", parts=SELF_CROSS),),
        named=_TIME,
        guidance="batched",
        layout="bcfhw",
        pipelines=("SanaVideoPipeline", "SanaImageToVideoPipeline"),
        idle=("rope", "patch_embedding", "time_embed.linear", "caption_projection", "caption_norm"),
    ),
    BlockSpec(
        "SanaWMTransformer3DModel",
        (BlockList("blocks", X, parts={"self": Part("attn", X), "cross": Part("cross_attn", X), "ffn": "mlp"}),),
        read_after=X,
        measured="x",
        named={"time": "t_embedder", "modulated": "t_block"},
        guidance="batched",
        prediction="unknown",
        pipelines=("SanaWMPipeline",),
        idle=("attention_y_norm", "t_block", "x_embedder", "y_embedder", "plucker_embedder", "rope"),
    ),
)

REFUSED = {
    "SanaWMLTX2RefinerTransformer3DModel": (
        "it refines in three steps, by a model distilled for that, so that no step is like the one before it"
    ),
}
