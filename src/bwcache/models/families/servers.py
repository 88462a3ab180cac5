"""The classes that sglang and vllm-omni have of their own, where their blocks are known too.

Which step and branch a forward is of, and what it predicts, their plugins say; a class that has no row here is known
there as a whole. So are those in sglang whose blocks hand a part of what they return to the next one, which the last
one has none to hand on to: Wan, and Flux 2 in eight bits.
"""

from __future__ import annotations

from dataclasses import replace

from bwcache.models.families.layouts import HIDDEN_TEXT, TEXT_HIDDEN, X
from bwcache.models.spec import BlockList, BlockSpec

UNSEEN = "nobody looked at what the blocks of servers call inside"


def blocks(path: str = "transformer_blocks", *returns: str) -> BlockList:
    """Return a list of blocks; no name: they return `hidden_states`."""
    return BlockList(path, returns or ("hidden_states",), parts_missing=UNSEEN)


DUAL = blocks("transformer_blocks", *TEXT_HIDDEN)
DUAL_SINGLE = (DUAL, blocks("single_transformer_blocks", *TEXT_HIDDEN))

SGLANG = BlockSpec(
    "WanTransformer3DModel",
    (),
    layout="bcfhw",
    guidance="separate",
    module_prefix="sglang.multimodal_gen.runtime.models.dits",
    sources="sglang 0.5.23",
)
VLLM_OMNI = replace(
    SGLANG,
    lists=(blocks("blocks"),),
    module_prefix="vllm_omni.diffusion.models.wan2_2",
    sources="vllm-omni 0.30.0",
)

ROWS = (
    SGLANG,
    # the first list hands picture and text on, the second one both in one row of tokens
    replace(
        SGLANG,
        model="HunyuanVideoTransformer3DModel",
        lists=(replace(blocks("double_blocks", "img", "txt"), measured="img"), blocks("single_blocks", *X)),
        read_after=X,
        measured="x",
    ),
    replace(SGLANG, model="FluxTransformer2DModel", lists=DUAL_SINGLE, layout="bnc"),
    replace(SGLANG, model="LongCatImageTransformer2DModel", lists=DUAL_SINGLE, layout="bnc"),
    replace(SGLANG, model="QwenImageTransformer2DModel", lists=(DUAL,), layout="bnc"),
    replace(SGLANG, model="SD3Transformer2DModel", lists=(DUAL,), layout="bchw"),
    replace(SGLANG, model="SanaTransformer2DModel", lists=(blocks(),), layout="bchw"),
    replace(SGLANG, model="ZImageTransformer2DModel", lists=(blocks("layers", *X),), read_after=X, measured="x"),
    VLLM_OMNI,
    replace(
        VLLM_OMNI,
        model="HunyuanVideo15Transformer3DModel",
        lists=(blocks("transformer_blocks", *HIDDEN_TEXT),),
        module_prefix="vllm_omni.diffusion.models.hunyuan_video",
    ),
    *(
        replace(
            VLLM_OMNI,
            model=model,
            lists=lists,
            layout=layout,
            module_prefix=f"vllm_omni.diffusion.models.{module}",
        )
        for model, module, lists, layout in (
            ("FluxTransformer2DModel", "flux", DUAL_SINGLE, "bnc"),
            ("FluxKontextTransformer2DModel", "flux", DUAL_SINGLE, "bnc"),
            ("Flux2Transformer2DModel", "flux2", (DUAL, blocks("single_transformer_blocks")), "bnc"),  # and Klein
            ("LongCatImageTransformer2DModel", "longcat_image", DUAL_SINGLE, "bnc"),
            ("OvisImageTransformer2DModel", "ovis_image", DUAL_SINGLE, "bnc"),
            ("QwenImageTransformer2DModel", "qwen_image", (DUAL,), "bnc"),
            ("SD3Transformer2DModel", "sd3", (DUAL,), "bchw"),
        )
    ),
)
