"""Spatio-temporal guidance within a batch: a mask `[blocks, batch]` says which rows pass over which blocks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import Decision, Observation, Policy, compute, reuse
from bwcache.core.trace import reuse_line
from tests.runs.laws import GREEDY
from tests.tiny import Scripted, noise
from tests.zoo.kinds import seeded
from tests.zoo.native import FRAMES, HEIGHT, TEXT, C, Transformer3DModel

STEPS, CONDITIONS = 8, 3
"""Conditions: without text, with it, perturbed."""

TOKENS = FRAMES * HEIGHT * HEIGHT


def mask(blocks: int, skipped: tuple[int, ...], prompts: int) -> Tensor:
    """As the code of LTX-Video makes it: the rows of the last condition pass over some blocks."""
    made = torch.ones(blocks, CONDITIONS * prompts)
    made[list(skipped), -prompts:] = 0
    return made


def model(blocks: int = 3) -> Any:
    made = seeded(Transformer3DModel)
    while len(made.transformer_blocks) < blocks:
        made.transformer_blocks.append(copy.deepcopy(made.transformer_blocks[0]))
    return made


def sample(module: Any, prompts: tuple[int, ...] = (0,), skipped: Any = lambda i: (1,)) -> Tensor:
    """The latents `[prompts, tokens, C]` after a run; each prompt has noise and text of its own."""
    latents = torch.cat([noise(1, TOKENS, C, seed=prompt) for prompt in prompts])
    text = torch.cat([noise(1, TEXT, C, seed=10 + prompt) for prompt in prompts])
    rows = CONDITIONS * len(prompts)
    for i in range(STEPS):
        with torch.no_grad():
            made = module(
                latents.repeat(CONDITIONS, 1, 1),
                noise(1, 3, TOKENS, seed=5).expand(rows, -1, -1),
                torch.cat([0 * text, text, text]),
                torch.full((rows, 1), 1 - i / STEPS),
                skip_layer_mask=mask(len(module.transformer_blocks), skipped(i), len(prompts)),
                return_dict=False,
            )[0]
        unconditional, conditional, perturbed = made.chunk(CONDITIONS)
        guided = unconditional + 3 * (conditional - unconditional) + (conditional - perturbed)
        latents = latents - 0.05 * guided
    return latents


REUSED = {0: (2, 3, 5), 1: (1, 3, 6)}


class Apart(Policy[None]):
    """Two samples that reuse in other steps."""

    def init(self) -> None:
        return None

    def decide(self, observation: Observation, state: None) -> Decision:
        step = observation.step
        return reuse("scripted") if step.index in REUSED[step.sample or 0] else compute("scripted")

    def refresh(self, observation: Observation, state: None) -> None:
        return None


@pytest.mark.parametrize("blocks", [3, 2 * CONDITIONS])
def test_prompts_in_one_batch_are_what_they_are_alone(blocks: int) -> None:
    """The samples of a forward are cut out of the mask's columns, and not of its rows, even if there are as many."""
    module = model(blocks)
    with bwcache.attach(module, Apart(), steps=STEPS) as session:
        both = sample(module, (0, 1))
    reused = {i: {e.step for e in session.trace.events if e.sample == i and e.action == "reuse"} for i in (0, 1)}
    assert reused == {i: set(REUSED[i]) for i in (0, 1)}
    for i in (0, 1):
        with bwcache.attach(module, Scripted(frozenset(REUSED[i])), steps=STEPS):
            alone = sample(module, (i,))
        torch.testing.assert_close(both[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(both, sample(module, (0, 1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prompts", [(0,), (0, 1)], ids=len)
def test_other_blocks_to_pass_over_are_computed_anew(prompts: tuple[int, ...]) -> None:
    """LTX-Video's larger models pass over other blocks in other steps: what was kept of these is another thing."""
    module = model()

    def changing(i: int) -> tuple[int, ...]:
        return ((0, 2), (0, 2), (1,), (1,), (1,), (2,), (2,), (2,))[i]

    plain = sample(module, prompts, changing)
    with bwcache.attach(module, GREEDY, steps=STEPS) as session:
        made = sample(module, prompts, changing)
    assert reuse_line(session.trace.events) == "CrCrrCrr"
    assert {e.reason.split(" (")[0] for e in session.trace.events if e.step in (2, 5)} == {"nothing kept to reuse"}
    assert not torch.equal(made, plain)
