"""Offloading and compiling as they are on a GPU: real moves, real streams, torch's own compiler, CUDA graphs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

import bwcache
from tests.beside.attached import CAREFREE, LINE, lines, same
from tests.gpu.on_cuda import DEVICE, on_cuda, wan_case
from tests.tiny import BY_NAME, Case

CPU = torch.device("cpu")


@pytest.fixture
def case() -> Case:
    return wan_case()


def results(case: Case) -> tuple[Tensor, Tensor]:
    """Latents of the pipeline as it is, and with a session."""
    pipe = case.build()
    with bwcache.attach(pipe, CAREFREE):
        cached = case.run(pipe)
    return case.run(pipe), cached


def grouped(pipe: Any, kind: str, stream: bool) -> None:
    blocks = 2 if kind == "block_level" else None
    pipe.transformer.enable_group_offload(
        onload_device=DEVICE, offload_device=CPU, offload_type=kind, num_blocks_per_group=blocks, use_stream=stream
    )


OFFLOADS: dict[str, Callable[[Any], object]] = {
    "model": lambda pipe: pipe.enable_model_cpu_offload(device=DEVICE),
    "sequential": lambda pipe: pipe.enable_sequential_cpu_offload(device=DEVICE),
    "groups of blocks": functools.partial(grouped, kind="block_level", stream=False),
    "groups of blocks, streams": functools.partial(grouped, kind="block_level", stream=True),
    "layers": functools.partial(grouped, kind="leaf_level", stream=False),
    "layers, streams": functools.partial(grouped, kind="leaf_level", stream=True),
}


@pytest.mark.parametrize("memory", ["device", "offload"])
@pytest.mark.parametrize("name", OFFLOADS)
def test_offloading_changes_nothing(case: Case, name: str, memory: str) -> None:
    plain, cached = results(case)
    pipe = case.build().to(CPU)
    with bwcache.attach(pipe, CAREFREE, memory=memory) as session:
        OFFLOADS[name](pipe)
        same(case.run(pipe).to(DEVICE), cached)
        same(case.run(pipe).to(DEVICE), cached)
    assert lines(session) == [LINE, LINE]
    same(case.run(pipe).to(DEVICE), plain)
    with bwcache.attach(pipe, CAREFREE):
        same(case.run(pipe).to(DEVICE), cached)


@pytest.fixture
def forgotten() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def in_blocks(pipe: Any) -> None:
    pipe.transformer.compile_repeated_blocks(fullgraph=True)


def as_a_whole(pipe: Any) -> None:
    pipe.transformer.compile(fullgraph=True)


def as_a_whole_with_cuda_graphs(pipe: Any) -> None:
    pipe.transformer = torch.compile(pipe.transformer, mode="reduce-overhead", fullgraph=True)


def close(made: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(made, wanted, rtol=2e-3, atol=2e-3)


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("switch_on", [in_blocks, as_a_whole, as_a_whole_with_cuda_graphs])
def test_compiled_by_torch_s_own_compiler(switch_on: Callable[[Any], None]) -> None:
    """Without guidance: with it, the second forward's CUDA graph overwrites what the first one's returned."""
    case = on_cuda(BY_NAME["wan_unguided"])
    plain, cached = results(case)
    pipe = case.build()
    switch_on(pipe)
    close(case.run(pipe), plain)
    with bwcache.attach(pipe, CAREFREE) as session:
        close(case.run(pipe), cached)
        with torch._dynamo.config.patch(error_on_recompile=True):
            close(case.run(pipe), cached)
    assert lines(session) == [LINE, LINE]
    assert not counters["graph_break"]
    close(case.run(pipe), plain)


@pytest.mark.usefixtures("forgotten")
def test_blocks_in_cuda_graphs_of_their_own_are_refused_by_torch_without_a_session_too() -> None:
    """If this fails, there is a way to have them, and the engine should take it."""
    case = on_cuda(BY_NAME["wan_unguided"])
    pipe = case.build()
    pipe.transformer.compile_repeated_blocks(mode="reduce-overhead", fullgraph=True)
    with pytest.raises(RuntimeError, match="overwritten"):
        case.run(pipe)
