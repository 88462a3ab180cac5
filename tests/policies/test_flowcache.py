"""FlowCache: each chunk for itself, against a second implementation, on pipelines that make a video chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import FlowCache, SettingError
from tests import tiny
from tests.policies.plain import PlainStack
from tests.policies.proof import NONE, NUMPY, ROUNDED, TWO, proves
from tests.zoo import PIPELINES, skyreels, wan

STEPS = 8
CLOSE = 2e-5
EVERY = {one.name: one for one in (*PIPELINES, *skyreels.SPECIAL, *wan.SPECIAL)}
CHUNKS = {"HeliosPipeline chunks": 2, "AnyFlowFARPipeline chunks": 1}
"""Pipeline -> forwards in each step."""


class Plain(PlainStack):
    """The method as its text has it; a chunk begins where the time is set back."""

    def __init__(self, policy: FlowCache, pipe: Any, branches: int) -> None:
        super().__init__(pipe, branches)
        self.policy, self.filling, self.steps, self.time = policy, False, -1, 0.0
        self.sums: dict[int, float] = {}
        self.before: dict[int, np.ndarray] = {}
        self.latents = np.zeros(1)
        self.chunks = 0

    def _model(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        counted = super()._model(inner)

        def forward(*args: Any, **kwargs: Any) -> Any:
            self.filling = (kwargs.get("kv_cache_flag") or {}).get("is_cache_step", False)
            if self.filling:  # keys and values of a finished chunk: no step
                self.line.append("")
                made = inner(*args, **kwargs)
                self.line = [said for said in self.line[:-2] if said]
                return made
            time = float(kwargs["timestep"].max())
            if self.forwards < 0 or time > self.time:
                self.steps, self.chunks, self.sums, self.before = -1, self.chunks + 1, {}, {}
            self.time = time
            return counted(*args, **kwargs)

        return forward

    def begins(self, latents: Tensor) -> None:
        self.steps += self.branch == 0
        self.latents = latents.double().numpy()

    def computes(self) -> bool:
        if self.filling:
            return True
        said, own = self.policy, self.branch
        before, self.before[own] = self.before.get(own), self.latents
        spent, self.sums[own] = self.sums.get(own, 0.0), 0.0
        if before is None or self.steps < said.warmup or self.steps >= STEPS - said.tail:
            return True
        change = float(np.abs(self.latents - before).mean() / np.abs(before).mean())
        spent += float(np.polyval(said.coefficients, change))
        if spent >= said.threshold:
            return True
        self.sums[own] = spent
        return False

    def _keep(self, hidden: Tensor) -> None:
        if not self.filling:
            super()._keep(hidden)


def latents_of(pipe: Any, call: dict[str, Any]) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    made = pipe(**{**call, "num_inference_steps": STEPS, "output_type": "latent", "generator": generator})
    found: Tensor = made.frames
    return found


SETTINGS = [FlowCache(0.3, 1, 1), FlowCache(0.5, 2, 0, coefficients=(0.5, 0.01)), FlowCache(5.0, 3, 1)]


@proves(FlowCache, NUMPY, ROUNDED, on={"HeliosTransformer3DModel": (TWO,), "AnyFlowFARTransformer3DModel": (NONE,)})
@pytest.mark.parametrize("policy", SETTINGS, ids=str)
@pytest.mark.parametrize("name", CHUNKS)
def test_it_is_a_second_implementation(name: str, policy: FlowCache) -> None:
    case = EVERY[name]
    pipe = case.build()
    with bwcache.attach(pipe, policy) as session:
        made = latents_of(pipe, case.call)
    pipe = case.build()
    other = Plain(policy, pipe, CHUNKS[name])
    with torch.no_grad(), other.at_work():
        expected = latents_of(pipe, case.call)
    assert len(session.traces) == other.chunks > 1
    assert [event.action for trace in session.traces for event in trace.events] == other.line
    assert 0 < other.line.count("reuse") < len(other.line)
    assert (made - expected).abs().max() <= CLOSE * expected.abs().max()


@pytest.mark.parametrize("name", CHUNKS)
def test_each_chunk_begins_anew(name: str) -> None:
    """The first `warmup` steps of each chunk are computed, and nothing of one chunk is laid over another."""
    pipe = EVERY[name].build()
    with bwcache.attach(pipe, FlowCache(1e9, 3, 0)) as session:
        latents_of(pipe, EVERY[name].call)
    for trace in session.traces:
        said = {event.step: event.action for event in trace.events}
        assert [said[step] for step in range(STEPS)] == ["compute"] * 3 + ["reuse"] * (STEPS - 3)


def test_frames_in_turn_in_one_forward_are_computed() -> None:
    """SkyReels-V2 with `ar_step`: chunks of different times share a forward, and how many steps come is not said."""
    case = EVERY["SkyReelsV2DiffusionForcingPipeline in turn"]
    pipe = case.build()
    plain = latents_of(pipe, case.call)
    with (
        pytest.warns(bwcache.NeverReusedWarning, match="number of steps unknown"),
        bwcache.attach(pipe, FlowCache(1e9, 1, 1)) as session,
    ):
        assert torch.equal(latents_of(pipe, case.call), plain)
    assert session.trace.reused == 0
    with bwcache.attach(pipe, FlowCache(1e9, 1, 0)) as session:
        latents_of(pipe, case.call)
    said = [event.action for event in session.trace.events]
    assert {"reuse"} == set(said[said.index("reuse") :])


def test_the_modulation_of_skyreels() -> None:
    case = EVERY["SkyReelsV2DiffusionForcingPipeline"]
    pipe = case.build()
    with bwcache.attach(pipe, FlowCache(0.5, 1, 1, "modulated")) as session:
        latents_of(pipe, case.call)
    assert 0 < session.trace.reused < STEPS


def test_the_published_settings() -> None:
    assert FlowCache.published("MAGI-1 slow") == FlowCache()
    assert FlowCache.published("SkyReels-V2-DF-1.3B fast").input == "modulated"


def test_no_threshold_never_reuses() -> None:
    pipe = tiny.wan()
    plain = tiny.WAN.run(pipe)
    with bwcache.attach(pipe, FlowCache(0)) as session:
        assert torch.equal(tiny.WAN.run(pipe), plain)
    assert session.trace.peak_bytes == 0


@pytest.mark.parametrize(
    "bad",
    [{"threshold": -1}, {"warmup": 0.5}, {"tail": -1}, {"input": "time"}, {"coefficients": ()}, {"coefficients": "a"}],
    ids=str,
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        FlowCache(**bad)
