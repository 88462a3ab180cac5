"""DiT and what grew out of it: PixArt, Hunyuan-DiT, Latte, Allegro."""

from __future__ import annotations

from bwcache.models.families.layouts import NATIVE, SELF_CROSS, X, after_norm, blocks
from bwcache.models.spec import BlockList, BlockSpec

_TIME = {"time": "adaln_single[1]", "modulated": "adaln_single[0]"}
_SINGLE = ("adaln_single.linear", "caption_projection")

ROWS = (
    # after the blocks the first one's own `norm1.emb` is read, which is no call of the block
    BlockSpec(
        "DiTTransformer2DModel",
        (BlockList("transformer_blocks", parts={"self": "attn1", "ffn": "ff"}),),
        named={"modulated": after_norm("transformer_blocks")},
        guidance="batched",
        batch_order=("cond", "uncond"),
        layout="bchw",
        pipelines=("DiTPipeline",),
        idle=("pos_embed",),
    ),
    BlockSpec(
        "PixArtTransformer2DModel",
        (BlockList("transformer_blocks", parts=SELF_CROSS),),
        named=_TIME,
        guidance="batched",
        layout="bchw",
        pipelines=("PixArtAlphaPipeline", "PixArtSigmaPipeline", "PixArtSigmaPAGPipeline"),
        idle=("pos_embed", *_SINGLE),
    ),
    # what the first half of the blocks returned is an argument (`skip`) of the second half
    BlockSpec(
        "HunyuanDiT2DModel",
        (BlockList("blocks", parts=SELF_CROSS),),
        named={"time": "time_extra_emb", "modulated": "blocks.0.norm1"},
        long_skips=True,
        guidance="batched",
        pipelines=("HunyuanDiTPipeline", "HunyuanDiTPAGPipeline", "HunyuanDiTControlNetPipeline"),
        per_sample=False,
        idle=("text_embedder", "pos_embed"),
    ),
    # Latte: a spatial block, then a temporal one, in turn
    BlockSpec(
        "LatteTransformer3DModel",
        (
            BlockList("transformer_blocks", parts=SELF_CROSS),
            BlockList("temporal_transformer_blocks", parts={"temporal": "attn1", "temporal_ffn": "ff"}),
        ),
        named=_TIME,
        interleaved=True,
        guidance="batched",
        layout="bcfhw",
        pipelines=("LattePipeline",),
        idle=("pos_embed", *_SINGLE),
    ),
    # its autoencoder takes a whole number of groups of frames, and cuts off the rest
    BlockSpec(
        "AllegroTransformer3DModel",
        (BlockList("transformer_blocks", parts=SELF_CROSS),),
        named=_TIME,
        guidance="batched",
        layout="bcfhw",
        pipelines=("AllegroPipeline",),
        per_sample=False,
        any_length=True,
        idle=("pos_embed", *_SINGLE),
    ),
    # one list of spatial and temporal blocks in turn
    BlockSpec(
        "Latte",
        (blocks(),),
        read_after=X,
        measured="x",
        latents="x",
        timestep="t",
        entry="forward",
        guidance="batched",
        module_prefix="models.latte",
        sources="Vchitect/Latte b27c24a",
    ),
    BlockSpec(
        "LatteT2V",
        (
            BlockList("transformer_blocks", parts_missing=NATIVE),
            BlockList("temporal_transformer_blocks", parts_missing=NATIVE),
        ),
        interleaved=True,
        guidance="batched",
        pipelines=("LattePipeline",),
        module_prefix="models.latte_t2v",
        sources="Vchitect/Latte b27c24a",
    ),
)
