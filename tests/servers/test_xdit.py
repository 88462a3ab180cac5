"""What docs/servers.md says of xDiT: its denoisers derive from those of diffusers, with a forward of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

import bwcache
from tests.tiny import WAN, wan, wan_transformer


class xFuserWanTransformer3DWrapper(WanTransformer3DModel):
    """As xDiT's: it runs the blocks itself."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what is predicted."""
        return super().forward(*args, **kwargs)


def test_a_grade_works_with_a_row_that_names_no_blocks() -> None:
    pipe = wan()
    pipe.register_modules(transformer=wan_transformer(model=xFuserWanTransformer3DWrapper))
    call = {name: value for name, value in WAN.call.items() if name != "generator"}
    with pytest.raises(bwcache.AttachError, match="which has a forward of its own"):
        bwcache.enable(pipe, "balanced")
    row = bwcache.BlockSpec(type(pipe.transformer).__name__, ())
    session = bwcache.enable(pipe, "balanced", spec=row)
    pipe(**{**call, "num_inference_steps": 20}, generator=torch.Generator().manual_seed(0))
    bwcache.disable(pipe)
    assert 1 < session.trace.computed < session.trace.steps == 20
    assert "_compiled_call_impl" not in vars(pipe.transformer)
