"""ComfyUI's own classes of all these models: their blocks are modules and hand streams on by the names of `forward`.

Which branch, step and noise level a forward is of, and what it predicts, its sampler says (`bwcache.comfy`); a class
that has no row here is known there as a whole.
"""

from __future__ import annotations

from dataclasses import replace

from bwcache.models.families.layouts import X
from bwcache.models.spec import BlockList, BlockSpec, Part

UNSEEN = "nobody looked at what ComfyUI's blocks call inside"


def blocks(path: str = "blocks", *returns: str) -> BlockList:
    """Return a list of blocks; no name: they return `x`."""
    return BlockList(path, returns or X, parts_missing=UNSEEN)


WAN_PARTS = {"self": Part("self_attn", X), "cross": Part("cross_attn", X), "ffn": Part("ffn", ("input",))}
WAN = BlockSpec(
    "WanModel",
    (BlockList("blocks", X, parts=WAN_PARTS),),
    read_after=X,
    measured="x",
    latents="x",
    layout="bcfhw",
    guidance="either",
    module_prefix="comfy.ldm.wan",
    sources="ComfyUI 0.3.64, 0.18.2",
)
DOUBLE_SINGLE = (
    BlockList("double_blocks", ("img", "txt"), measured="img", parts_missing=UNSEEN),
    replace(blocks("single_blocks"), optional=True),  # HunyuanVideo 1.5 has none
)
FLUX = replace(WAN, model="Flux", lists=DOUBLE_SINGLE, layout="bchw", module_prefix="comfy.ldm.flux")

ROWS = (
    WAN,
    replace(WAN, model="VaceWanModel"),
    replace(WAN, model="CameraWanModel"),
    replace(WAN, model="WanModel_S2V"),
    replace(WAN, model="HumoWanModel"),
    replace(WAN, model="SCAILWanModel"),
    replace(WAN, model="AnimateWanModel"),
    replace(WAN, model="HunyuanVideo", lists=DOUBLE_SINGLE, module_prefix="comfy.ldm.hunyuan_video"),
    replace(WAN, model="LTXVModel", lists=(blocks("transformer_blocks"),), module_prefix="comfy.ldm.lightricks"),
    # picture and sound: latents in a list, and blocks that take and return a pair
    replace(
        WAN,
        model="LTXAVModel",
        lists=(blocks("transformer_blocks", "x[0]", "x[1]"),),
        read_after=("x[0]", "x[1]"),
        measured="x[0]",
        also_measured=("x[1]",),
        latents_listed=True,
        layout="",
        module_prefix="comfy.ldm.lightricks",
        sources="ComfyUI 0.18.2",
    ),
    # the first axes of its streams are frames, height and width
    replace(
        WAN, model="GeneralDIT", lists=(blocks(),), timestep="timesteps", batch_axis=3, module_prefix="comfy.ldm.cosmos"
    ),
    replace(
        WAN,
        model="MiniTrainDIT",
        lists=(blocks("blocks", "x_B_T_H_W_D"),),
        read_after=("x_B_T_H_W_D",),
        measured="x_B_T_H_W_D",
        timestep="timesteps",
        module_prefix="comfy.ldm.cosmos",
    ),
    replace(WAN, model="AsymmDiTJoint", lists=(blocks("blocks", "x", "y"),), module_prefix="comfy.ldm.genmo"),
    replace(
        WAN,
        model="Kandinsky5",
        lists=(blocks("visual_transformer_blocks", "visual_embed"),),
        read_after=("visual_embed",),
        measured="visual_embed",
        module_prefix="comfy.ldm.kandinsky5",
    ),
    FLUX,
    replace(FLUX, model="Chroma", module_prefix="comfy.ldm.chroma"),
    replace(FLUX, model="ChromaRadiance", module_prefix="comfy.ldm.chroma_radiance"),
    replace(
        FLUX,
        model="QwenImageTransformer2DModel",
        lists=(blocks("transformer_blocks", "encoder_hidden_states", "hidden_states"),),
        read_after=("hidden_states",),
        measured="hidden_states",
        module_prefix="comfy.ldm.qwen_image",
    ),
    replace(FLUX, model="NextDiT", lists=(blocks("layers"),), timestep="timesteps", module_prefix="comfy.ldm.lumina"),
)
