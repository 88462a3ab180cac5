"""Skip-DiT (2411.17616) written twice: the state that enters the last block is kept, its long skip is fresh.

The denoiser is of the method's own kind: block i hands what it returns to block L - 1 - i, which fuses both. The facts
leave open from where the interval counts; here, as in the policy, from the last step in which all blocks ran.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bwcache
from bwcache import SkipDiT
from tests.policies.proof import ANOTHER, NONE, ROUNDED, proves
from tests.policies.references.toy import Array, close
from tests.policies.test_skip_dit import ROW, Skipping
from tests.tiny import noise, seeded

TEXT = noise(1, 3, 8, seed=1).double()


def linear(layer: nn.Module, entering: Array) -> Array:
    weight, bias = (each.detach().numpy() for each in layer.parameters())
    left: Array = entering @ weight.T + bias
    return left


def fused(layer: nn.Sequential, entering: Array, skip: Array) -> Array:
    both = np.concatenate((entering, skip), axis=-1)
    normed = (both - both.mean(-1, keepdims=True)) / np.sqrt(both.var(-1, keepdims=True) + 1e-5)
    return linear(layer[1], normed)


@dataclass
class Reference:
    model: Skipping
    interval: int
    start: float
    stop: float
    kept: Array = field(default_factory=lambda: np.empty(0))
    letters: str = ""

    def _block(self, i: int, entering: Array, timestep: float, skip: Array | None = None) -> Array:
        block: Any = self.model.blocks[i]
        entering = entering if skip is None else fused(block.fuse, entering, skip)
        text = TEXT.numpy().mean(1, keepdims=True)
        return entering + np.tanh(linear(block.mix, entering) + text) * (1 + timestep / 1000)

    def denoise(self, latents: Array, step: int, timestep: float) -> Array:
        count = len(self.model.blocks)
        since = len(self.letters) - self.letters.rfind("C")
        full = since >= self.interval or not self.stop < timestep < self.start
        self.letters += "C" if full else "r"
        skips = [self._block(0, latents, timestep)]
        if full:
            for i in range(1, count // 2):
                skips.append(self._block(i, skips[-1], timestep))
            self.kept = skips[-1]
            for i in range(count // 2, count - 1):
                self.kept = self._block(i, self.kept, timestep, skips[count - 1 - i])
        return linear(self.model.proj_out, self._block(count - 1, self.kept, timestep, skips[0]))


@proves(SkipDiT, ANOTHER, ROUNDED, on={"a small model with long skips": (NONE,)})
@pytest.mark.parametrize("case", [(2, 700.0, 50.0), (3, 900.0, 150.0)], ids=["video", "classes"])
def test_policy_and_reference_decide_and_make_the_same(case: tuple[int, float, float]) -> None:
    steps, model = 20, seeded(Skipping).double()
    reference = Reference(model, *case)
    expected, played = [], []
    latents = noise(1, 6, 8).double().numpy()
    for step in range(steps):
        expected.append(reference.denoise(latents, step, 1000 - 50.0 * step))
        latents = latents - 0.05 * expected[-1]
    latents = noise(1, 6, 8).double().numpy()
    with bwcache.attach(model, SkipDiT(*case), steps=steps, spec=ROW) as session, torch.no_grad():
        for step in range(steps):
            with session.step(step, steps, "cond"):
                time = torch.tensor([1000 - 50.0 * step], dtype=torch.float64)
                played.append(model(torch.from_numpy(latents), time, TEXT).numpy())
            latents = latents - 0.05 * played[-1]
    rows = [event for event in session.trace.events if event.site == session.trace.events[0].site]
    assert "".join("C" if event.action == "compute" else "r" for event in rows) == reference.letters
    assert close(played, expected)
