"""The classes that sglang and vllm-omni have of their own: which step and branch a forward is of, their plugins say.

In sglang a block may hand a part of what it returns to the next one, and the last one has none to hand on: its models
are known as a whole.
"""

from __future__ import annotations

from dataclasses import replace

from bwcache.models.spec import BlockList, BlockSpec

SGLANG_WAN = BlockSpec(
    "WanTransformer3DModel",
    (),
    layout="bcfhw",
    guidance="separate",
    module_prefix="sglang.multimodal_gen.runtime.models.dits",
    sources="sglang 0.5.23",
)
VLLM_OMNI_WAN = replace(
    SGLANG_WAN,
    lists=(BlockList("blocks", parts_missing="nobody looked at what vllm-omni's blocks call inside"),),
    module_prefix="vllm_omni.diffusion.models.wan2_2",
    sources="vllm-omni 0.30.0",
)

ROWS = (SGLANG_WAN, VLLM_OMNI_WAN)
