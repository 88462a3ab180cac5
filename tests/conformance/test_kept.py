"""What is kept between steps, on every denoiser class, bare: in main memory, planned, and within a limit."""

from __future__ import annotations

import pytest

import bwcache
from bwcache.models import resolve
from tests.conformance.test_aborted import each_model, inputs, outputs, same
from tests.conformance.test_batches import STEPS
from tests.tiny import Scripted
from tests.zoo.kinds import Model

POLICY = Scripted(frozenset({2, 3, 5}), bwcache.Linear())

JOINED = {
    "Flux2Transformer2DModel", "Flux3Transformer2DModel", "ChromaTransformer2DModel", "BriaFiboTransformer2DModel",
    "HiDreamImageTransformer2DModel", "AuraFlowTransformer2DModel", "Kandinsky6Transformer3DModel", "MMDiTModel",
    "HYVideoDiffusionTransformer", "Latte", "LatteT2V",
}  # fmt: skip
"""They join or fold streams on the way: the last block returns more or less than what enters the first."""


@each_model
def test_features_wait_in_main_memory_and_a_limit_is_kept(model: Model) -> None:
    module = model.build()
    stack = resolve("model", module)
    with bwcache.attach(module, POLICY, steps=STEPS) as session:
        expected = outputs(module, inputs(model))
        here = session.trace
    with bwcache.attach(module, POLICY, steps=STEPS, memory="offload") as session:
        assert same(outputs(module, inputs(model)), expected)
        away = session.trace
    assert away.events == here.events
    assert away.host_bytes + away.peak_bytes == here.peak_bytes
    assert away.host_bytes >= away.hidden_bytes
    if type(module).__name__ in JOINED or any(block.outlined for block in stack.blocks):
        assert 0.5 < here.planned_bytes / here.peak_bytes < 2
    else:
        assert (here.planned_bytes, away.planned_bytes) == (here.peak_bytes, away.peak_bytes)
    with (
        bwcache.attach(module, POLICY, steps=STEPS, max_memory=here.peak_bytes - 1),
        pytest.raises(bwcache.OverBudgetError),
    ):
        outputs(module, inputs(model))
