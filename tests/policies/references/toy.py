"""A denoiser small enough to be written twice: in numpy for the references, as a torch module for the policies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import bwcache
from bwcache import BlockList, BlockSpec, Policy
from bwcache.core import Trace

Array: TypeAlias = NDArray[np.float64]
Denoise: TypeAlias = Callable[[Array, int, str], Array]
"""Latents `[1, C, F, H, W]`, step and branch to the prediction, of the same shape."""

BLOCKS, WIDTH, HIDDEN, CHANNELS = 4, 16, 12, 4
FRAMES, SIDE = 3, 2
SHAPE = (1, CHANNELS, FRAMES, SIDE, SIDE)
TOKENS = FRAMES * SIDE * SIDE
BRANCHES = ("cond", "uncond")
GUIDANCE = 3.0
_FREQUENCIES = np.array([1.0, 2.0, 3.0, 5.0])


def _weights(*shape: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape) / np.sqrt(shape[0])


TEXT = {branch: _weights(1, 1, WIDTH, seed=900 + i) for i, branch in enumerate(BRANCHES)}
INTO = _weights(CHANNELS, WIDTH, seed=901)
OUT_OF = _weights(WIDTH, CHANNELS, seed=902)
TIME = _weights(2 * _FREQUENCIES.size, WIDTH, seed=903)


def sigma(step: int, steps: int) -> float:
    """The share of noise before this step, 1..0; that of the step behind the last one is 0."""
    return 1.0 - step / steps


def embedded(latents: Array) -> Array:
    """The tokens `[1, T, D]` that enter the first block."""
    tokens: Array = latents.reshape(1, CHANNELS, TOKENS).transpose(0, 2, 1) @ INTO
    return tokens


def timed(step: int, steps: int) -> Array:
    """The embedding of the time, `[1, D]`."""
    angle = sigma(step, steps) * _FREQUENCIES
    return np.tanh(np.concatenate([np.sin(angle), np.cos(angle)])[None] @ TIME)


def modulated(tokens: Array, time: Array, block: int) -> Array:
    scaled, shifted = np.split(time @ _weights(WIDTH, 2 * WIDTH, seed=10 * block), 2, axis=-1)
    return tokens * (1 + scaled[:, None]) + shifted[:, None]


def attention(modulated: Array, block: int) -> Array:
    """What a block adds first: every token and the mean of all."""
    own, mean = _weights(WIDTH, WIDTH, seed=10 * block + 1), _weights(WIDTH, WIDTH, seed=10 * block + 2)
    return np.tanh(modulated @ own + modulated.mean(1, keepdims=True) @ mean)


def cross(tokens: Array, text: Array, block: int) -> Array:
    return np.tanh(tokens @ _weights(WIDTH, WIDTH, seed=10 * block + 3) + text)


def feed_forward(tokens: Array, block: int) -> Array:
    inner = np.tanh(tokens @ _weights(WIDTH, HIDDEN, seed=10 * block + 4))
    added: Array = inner @ _weights(HIDDEN, WIDTH, seed=10 * block + 5)
    return added


def blocks(tokens: Array, time: Array, branch: str, first: int = 0, last: int = BLOCKS) -> Array:
    """What leaves block `last` - 1 where `tokens` enter block `first`."""
    for block in range(first, last):
        tokens = tokens + attention(modulated(tokens, time, block), block)
        tokens = tokens + cross(tokens, TEXT[branch], block)
        tokens = tokens + feed_forward(tokens, block)
    return tokens


def predicted(tokens: Array) -> Array:
    """The prediction that the rest of the forward makes of what leaves the last block."""
    output: Array = (tokens @ OUT_OF).transpose(0, 2, 1).reshape(SHAPE)
    return output


def denoised(latents: Array, step: int, steps: int, branch: str) -> Array:
    """A forward that caches nothing."""
    return predicted(blocks(embedded(latents), timed(step, steps), branch))


def noise(seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(SHAPE)


def sampled(denoise: Denoise, steps: int) -> list[Array]:
    """The guided velocity of each step and, last, the latents of an Euler run; the conditional branch comes first."""
    latents, played = noise(), []
    for step in range(steps):
        cond, uncond = (denoise(latents, step, branch) for branch in BRANCHES)
        velocity = uncond + GUIDANCE * (cond - uncond)
        played.append(velocity)
        latents = latents + (sigma(step + 1, steps) - sigma(step, steps)) * velocity
    return [*played, latents]


class _Linear(nn.Linear):
    def __init__(self, weight: Array) -> None:
        super().__init__(weight.shape[0], weight.shape[1], bias=False)
        self.weight.data = torch.from_numpy(weight.T.copy())


class _Modulation(nn.Module):
    def __init__(self, block: int) -> None:
        super().__init__()
        self.both = _Linear(_weights(WIDTH, 2 * WIDTH, seed=10 * block))

    def forward(self, hidden_states: Any, temb: Any) -> Any:
        scaled, shifted = self.both(temb).chunk(2, dim=-1)
        return hidden_states * (1 + scaled[:, None]) + shifted[:, None]


class _Attention(nn.Module):
    def __init__(self, block: int) -> None:
        super().__init__()
        self.own = _Linear(_weights(WIDTH, WIDTH, seed=10 * block + 1))
        self.mean = _Linear(_weights(WIDTH, WIDTH, seed=10 * block + 2))

    def forward(self, hidden_states: Any) -> Any:
        return torch.tanh(self.own(hidden_states) + self.mean(hidden_states.mean(1, keepdim=True)))


class _Cross(nn.Module):
    def __init__(self, block: int) -> None:
        super().__init__()
        self.own = _Linear(_weights(WIDTH, WIDTH, seed=10 * block + 3))

    def forward(self, hidden_states: Any, encoder_hidden_states: Any) -> Any:
        return torch.tanh(self.own(hidden_states) + encoder_hidden_states)


class _FeedForward(nn.Module):
    def __init__(self, block: int) -> None:
        super().__init__()
        self.wider = _Linear(_weights(WIDTH, HIDDEN, seed=10 * block + 4))
        self.back = _Linear(_weights(HIDDEN, WIDTH, seed=10 * block + 5))

    def forward(self, hidden_states: Any) -> Any:
        return self.back(torch.tanh(self.wider(hidden_states)))


class _Block(nn.Module):
    def __init__(self, block: int) -> None:
        super().__init__()
        self.norm1 = _Modulation(block)
        self.attn1, self.attn2, self.ff = _Attention(block), _Cross(block), _FeedForward(block)

    def forward(self, hidden_states: Any, encoder_hidden_states: Any, temb: Any) -> Any:
        hidden_states = hidden_states + self.attn1(self.norm1(hidden_states, temb))
        hidden_states = hidden_states + self.attn2(hidden_states, encoder_hidden_states)
        return hidden_states + self.ff(hidden_states)


class _Time(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = _Linear(TIME)

    def forward(self, timestep: Any) -> Any:
        angle = timestep.view(-1, 1) / 1000 * torch.from_numpy(_FREQUENCIES)
        return torch.tanh(self.own(torch.cat([angle.sin(), angle.cos()], dim=-1)))


class Toy(nn.Module):
    """The same denoiser for torch, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.time, self.out_of = _Linear(INTO), _Time(), _Linear(OUT_OF)
        self.transformer_blocks = nn.ModuleList(_Block(block) for block in range(BLOCKS))

    def forward(self, hidden_states: Any, timestep: Any, encoder_hidden_states: Any) -> Any:
        tokens, temb = self.into(hidden_states.flatten(2).transpose(1, 2)), self.time(timestep)
        for block in self.transformer_blocks:
            tokens = block(tokens, encoder_hidden_states, temb)
        return self.out_of(tokens).transpose(1, 2).reshape(hidden_states.shape)


ROW = BlockSpec(
    model="Toy",
    lists=(BlockList("transformer_blocks", parts={"self": "attn1", "cross": "attn2", "ffn": "ff"}),),
    layout="bcfhw",
    named={"time": "time", "modulated": "transformer_blocks.0.norm1"},
)


@contextmanager
def _attached(policy: Policy[Any], steps: int) -> Iterator[tuple[Denoise, Any]]:
    model = Toy().double().eval().requires_grad_(False)
    with bwcache.attach(model, policy, steps=steps, spec=ROW) as session:
        schedule = [sigma(step, steps) for step in range(steps + 1)]

        def denoise(latents: Array, step: int, branch: str) -> Array:
            now, after = schedule[step], schedule[step + 1]
            with torch.no_grad(), session.step(step, steps, branch, now, (now, after), "flow", schedule):
                time = torch.tensor([1000 * schedule[step]], dtype=torch.float64)
                output: Array = model(torch.from_numpy(latents), time, torch.from_numpy(TEXT[branch])).numpy()
                return output

        yield denoise, session


def by_policy(policy: Policy[Any], steps: int) -> tuple[Trace, list[Array]]:
    """The trace of a run with this policy, and what `sampled` returns of it."""
    with _attached(policy, steps) as (denoise, session):
        played = sampled(denoise, steps)
    return session.trace, played


def decisions(trace: Trace, branch: str, site: str | None = None) -> str:
    """A letter for each step of a branch: C computed, r reused, v checked; of one site, or of the only one."""
    letters = {"compute": "C", "reuse": "r", "check": "v"}
    rows = [row for row in trace.events if row.branch == branch and site in (None, row.site)]
    assert len({row.site for row in rows}) == 1, sorted({row.site for row in rows})
    return "".join(letters[row.action] for row in rows)


def close(ours: list[Array], theirs: list[Array], within: float = 1e-9) -> bool:
    """Whether two runs made the same of every step, within a share of their size."""
    return all(np.abs(a - b).max() <= within * np.abs(b).max() for a, b in zip(ours, theirs, strict=True))


def mixed(letters: str) -> bool:
    """Whether a run both computed late and reused: else a comparison would say nothing."""
    return "r" in letters and "C" in letters[letters.index("r") :]
