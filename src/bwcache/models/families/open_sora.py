"""Native code only: Open-Sora, Open-Sora-Plan, the models of VideoSys, MAGI-1."""

from __future__ import annotations

from dataclasses import replace

from bwcache.models.families.layouts import NATIVE, TEXT_HIDDEN, X, blocks
from bwcache.models.spec import BlockList, BlockSpec

_VIDEOSYS = "NUS-HPC-AI-Lab/VideoSys 4cce477"

# Open-Sora doubles the latents of a batch for guidance, and neither the text's mask nor the sizes: not to be cut
STDIT = BlockSpec(
    "STDiT",
    (blocks(),),
    read_after=X,
    measured="x",
    latents="x",
    entry="forward",
    guidance="batched",
    per_sample=False,
    module_prefix="opensora.models.stdit",
    sources="hpcaitech/Open-Sora v1.0.0",
)

STDIT_3 = replace(
    STDIT,
    model="STDiT3",
    lists=(blocks("spatial_blocks"), blocks("temporal_blocks")),
    interleaved=True,
    entry="call",
    sources="hpcaitech/Open-Sora v1.2.0, v1.3",
)

# Open-Sora-Plan 1.1 has the blocks of Latte, 1.2 and 1.3 attention over space and time at once
PLAN_1 = BlockSpec(
    "LatteT2V",
    (
        BlockList("transformer_blocks", parts_missing=NATIVE),
        BlockList("temporal_transformer_blocks", parts_missing=NATIVE),
    ),
    interleaved=True,
    guidance="batched",
    pipelines=("VideoGenPipeline",),
    module_prefix="opensora.models.diffusion.latte",
    sources="PKU-YuanGroup/Open-Sora-Plan v1.1.0",
)

PLAN_2 = BlockSpec(
    "OpenSoraT2V",
    (BlockList("transformer_blocks", parts_missing=NATIVE),),
    guidance="batched",
    pipelines=("OpenSoraPipeline",),
    module_prefix="opensora.models.diffusion.opensora.",
    sources="PKU-YuanGroup/Open-Sora-Plan v1.2.0",
)

ROWS = (
    STDIT,
    replace(STDIT, model="STDiT2", sources="hpcaitech/Open-Sora v1.1.0"),
    STDIT_3,
    # text and video are joined between the lists, and the single-stream blocks call both together `x`
    BlockSpec(
        "MMDiTModel",
        (
            BlockList("double_blocks", ("img", "txt"), measured="img", parts_missing=NATIVE),
            blocks("single_blocks"),
        ),
        read_after=X,
        measured="x",
        latents="img",
        timestep="timesteps",
        guidance="batched",
        module_prefix="opensora.models.mmdit",
        sources="hpcaitech/Open-Sora 7ad6a96 (2.0)",
    ),
    PLAN_1,
    PLAN_2,
    replace(
        PLAN_2,
        model="OpenSoraT2V_v1_3",
        module_prefix="opensora.models.diffusion.opensora_v1_3",
        sources="PKU-YuanGroup/Open-Sora-Plan v1.3.0",
        batch_axis=1,
    ),
    # VideoSys: classes of its own, of the same names
    replace(STDIT_3, pipelines=("OpenSoraPipeline",), module_prefix="videosys.models", sources=_VIDEOSYS),
    replace(
        PLAN_1, pipelines=("LattePipeline", "OpenSoraPlanPipeline"), module_prefix="videosys.models", sources=_VIDEOSYS
    ),
    replace(PLAN_2, pipelines=("OpenSoraPlanPipeline",), module_prefix="videosys.models", sources=_VIDEOSYS),
    BlockSpec(
        "VchitectXLTransformerModel",
        (BlockList("transformer_blocks", TEXT_HIDDEN, parts_missing=NATIVE),),
        pipelines=("VchitectXLPipeline",),
        module_prefix="videosys.models",
        sources=_VIDEOSYS,
    ),
    # MAGI-1: one of the three forwards of a step fills the key-value cache; a batch is of chunks, or of nothing
    BlockSpec(
        "VideoDiTModel",
        (BlockList("videodit_blocks.layers", parts_missing=NATIVE),),
        latents="x",
        timestep="t",
        cache_fill_flags=("inference_params.update_kv_cache",),
        entry="forward",
        per_sample=False,
        batch_axis=1,
        module_prefix="inference.model.dit",
        sources="SandAI-org/MAGI-1 2d21d8d",
    ),
)
