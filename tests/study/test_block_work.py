"""Operations counted from outside: what ran is counted, what was skipped is not, whoever skipped it."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import bwcache
from bwcache.study.blocks import BlockWork, leaves
from tests.tiny import WAN, Scripted, wan

STEPS = 8


@pytest.fixture(scope="module")
def pipe():
    return wan()


@pytest.fixture(scope="module")
def work(pipe):
    return BlockWork.of(pipe, lambda: WAN.run(pipe, num_inference_steps=1))


def spent(pipe, work, steps=STEPS):
    with work.counted() as done:
        WAN.run(pipe, num_inference_steps=steps)
        return done()


def test_a_full_run_is_what_torch_counts_inside_the_blocks(pipe, work):
    with FlopCounterMode(display=False) as mode:
        WAN.run(pipe, num_inference_steps=STEPS)
    of_blocks = [
        sum(counts.values())
        for name, counts in mode.get_flop_counts().items()
        if name.rpartition(".")[0].endswith("blocks") and "WanTransformer3DModel" in name
    ]
    assert len(of_blocks) == len(pipe.transformer.blocks)
    assert spent(pipe, work) == sum(of_blocks) > 0


@pytest.mark.parametrize("reused", [set(), {1, 3, 5, 7}, {1}, set(range(1, STEPS))])
def test_a_skipped_step_does_no_work(pipe, work, reused):
    full = spent(pipe, work)
    with bwcache.attach(pipe, Scripted(frozenset(reused))):
        assert spent(pipe, work) * STEPS == full * (STEPS - len(reused))


def test_an_attention_that_is_skipped_alone_counts(pipe, work, monkeypatch):
    full = spent(pipe, work)
    attention = pipe.transformer.blocks[1].attn1
    monkeypatch.setattr(attention, "forward", lambda hidden_states, *rest, **more: torch.zeros_like(hidden_states))
    missing = sum(work._weights.get(leaf, 0) for leaf in leaves(attention))
    forwards = STEPS * 2  # with guidance
    assert missing > 0
    assert spent(pipe, work) == full - missing * forwards


def test_nothing_stays_on_the_layers(pipe, work):
    before = {leaf: len(leaf._forward_hooks) for leaf in pipe.transformer.modules()}
    with pytest.raises(KeyboardInterrupt), work.counted():
        raise KeyboardInterrupt
    BlockWork.of(pipe, lambda: WAN.run(pipe, num_inference_steps=1))
    assert {leaf: len(leaf._forward_hooks) for leaf in pipe.transformer.modules()} == before


def test_a_pipeline_that_is_not_known_is_said():
    with pytest.raises(bwcache.AttachError):
        BlockWork.of(SimpleNamespace(components={"transformer": torch.nn.Linear(2, 2)}), lambda: None)
