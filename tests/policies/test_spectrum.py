"""Spectrum: windows and curve against a second implementation in numpy, on the forward of the last block."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import bwcache
from bwcache import SettingError, Spectrum
from tests.policies.proof import NUMPY, ROUNDED, proves
from tests.tiny import BY_NAME

STEPS = 14
CLOSE = 2e-5
"""Relative: one sum in float32 against least squares in float64, over all steps of a run."""


def windows(steps: int, window: float, growth: float, warmup: int) -> list[int]:
    """The steps that are computed: one in floor(N), and N grows with each after the warm-up."""
    computed, size, skipped = [], window, 0
    for step in range(steps):
        if step < warmup or step == 0 or (skipped + 1) % max(1, math.floor(size)) == 0:
            size += growth if step >= warmup else 0
            computed.append(step)
            skipped = 0
        else:
            skipped += 1
    return computed


def curve(kept: dict[int, np.ndarray], step: int, total: int, degree: int, ridge: float) -> np.ndarray:
    """Least squares with sqrt(ridge) times the coefficients as further rows; T[m] is cos(m arccos tau)."""

    def row(index: int) -> list[float]:
        tau = 2 * index / total - 1
        return [math.cos(m * math.acos(tau)) for m in range(degree + 1)]

    system = np.vstack([np.array([row(index) for index in kept]), math.sqrt(ridge) * np.eye(degree + 1)])
    values = np.stack([value.reshape(-1) for value in kept.values()])
    values = np.vstack([values, np.zeros((degree + 1, values.shape[1]))])
    coefficients = np.linalg.lstsq(system, values, rcond=None)[0]
    found: np.ndarray = np.array(row(step)) @ coefficients
    return found


def test_the_published_windows() -> None:
    for growth, count in ((0.75, 14), (3, 10)):
        expected = windows(50, 2, growth, 5)
        assert len(expected) == count
        policy = Spectrum(growth=growth)
        state, found = policy.init(), []
        for index in range(50):
            seen = bwcache.Observation(bwcache.Step(0, index, 50, None, None, "cond"), "stack")
            if index == 0 or not policy.decide(seen, state).reuses:
                policy.refresh(seen, state)
                found.append(index)
        assert found == expected


@proves(Spectrum, NUMPY, ROUNDED)
@pytest.mark.parametrize(
    ("window", "growth", "warmup", "degree", "ridge", "share"),
    [(2, 0.75, 3, 4, 0.1, 1.0), (3, 0, 2, 3, 0.01, 0.5), (2, 0.5, 1, 2, 0.001, 0.0)],
)
@pytest.mark.parametrize("name", ["wan", "wan_unguided", "cogvideox", "ltx", "hunyuan"])
def test_it_is_a_second_implementation_in_numpy(
    name: str, window: float, growth: float, warmup: int, degree: int, ridge: float, share: float
) -> None:
    case = BY_NAME[name]
    pipe = case.build()
    policy = Spectrum(window, growth, warmup, degree, ridge, share)
    with bwcache.attach(pipe, policy) as session:
        made = case.run(pipe, num_inference_steps=STEPS)
    computed = windows(STEPS, window, growth, warmup)
    lists = ("blocks", "transformer_blocks", "single_transformer_blocks")
    last = [block for part in lists for block in getattr(pipe.transformer, part, ())][-1]
    inner, calls = last.forward, [0]
    kept: dict[int, dict[int, np.ndarray]] = {}

    def forward(*args: Any, **kwargs: Any) -> Any:
        step, branch = divmod(calls[0], len(case.branches))
        calls[0] += 1
        own = kept.setdefault(branch, {})
        returned = inner(*args, **kwargs)
        first = returned[0] if isinstance(returned, tuple) else returned
        if step in computed:
            own[step] = first.numpy().astype(np.float64)
            return returned
        value = share * curve(own, step, STEPS, degree, ridge).reshape(first.shape)
        near, far = sorted(own)[-1], sorted(own)[-2] if len(own) > 1 else -1
        along = 0 if far < 0 else (step - near) / (near - far) * (own[near] - own[far])
        made = torch.from_numpy(value + (1 - share) * (own[near] + along)).to(first.dtype)
        return (made, *returned[1:]) if isinstance(returned, tuple) else made

    last.forward = forward
    expected = case.run(pipe, num_inference_steps=STEPS)
    first = case.branches[0]
    assert [e.step for e in session.trace.events if e.action == "compute" and e.branch == first] == computed
    assert session.trace.reused > 0
    assert (made - expected).abs().max() <= CLOSE * expected.abs().max()


def test_no_more_is_kept_than_it_says() -> None:
    case = BY_NAME["wan"]
    peaks = []
    for kept in (1, 2, 4):
        pipe = case.build()
        with bwcache.attach(pipe, Spectrum(2, 0, 4, kept=kept)) as session:
            case.run(pipe, num_inference_steps=STEPS)
        peaks.append(session.trace.peak_bytes / session.trace.hidden_bytes)
    assert peaks == [2, 4, 8]  # hidden states, of two branches


@pytest.mark.parametrize(
    "bad",
    [{"window": 0.5}, {"growth": -1}, {"warmup": -1}, {"degree": 21}, {"ridge": 0}, {"share": 1.5}, {"kept": 0}],
    ids=str,
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        Spectrum(**bad)
