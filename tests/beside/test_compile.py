"""Compiled blocks: one graph, whatever the session does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

import bwcache
from bwcache import BWCache
from bwcache.models import resolve
from tests.beside.attached import CAREFREE, COMPUTED, LINE, cached, lines, plain
from tests.beside.compiling import _forget_what_was_compiled, close, never_again  # noqa: F401
from tests.tiny import BY_NAME, WAN, Case, wan


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("when", ["before", "after", "between_runs"])
def test_repeated_blocks_are_one_whole_graph_and_compiled_once(when: str, backend: str) -> None:
    pipe, counted = wan(), CompileCounterWithBackend(backend)

    def compile_blocks() -> None:
        pipe.transformer.compile_repeated_blocks(backend=counted, fullgraph=True)

    if when == "before":
        compile_blocks()
    with bwcache.attach(pipe, CAREFREE) as session:
        if when == "between_runs":
            WAN.run(pipe)
        if when != "before":
            compile_blocks()
        close(WAN.run(pipe), cached())
        assert counted.frame_count == 1  # four blocks of one class, in two branches
        with never_again():
            close(WAN.run(pipe), cached())
    with never_again():
        close(WAN.run(pipe), plain())
    assert lines(session)[-2:] == [LINE, LINE]
    assert counted.frame_count == 1
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("case", [BY_NAME["cogvideox"], BY_NAME["hunyuan"]], ids=lambda case: case.name)
def test_a_session_makes_as_many_graphs_as_no_session(case: Case) -> None:
    """Blocks of two streams and of two classes. diffusers names none for CogVideoX: each is compiled by hand."""

    def graphs(policy: BWCache | None) -> int:
        torch._dynamo.reset()
        counters.clear()
        pipe, counted = case.build(), CompileCounterWithBackend("eager")
        for block in resolve("transformer", pipe.transformer).blocks:
            block.module.compile(backend=counted, fullgraph=True)
        if policy is None:
            case.run(pipe)
        else:
            with bwcache.attach(pipe, policy) as session:
                case.run(pipe)
                with never_again():
                    case.run(pipe)
            assert lines(session) == [LINE] * 2
        assert not counters["graph_break"]
        return counted.frame_count

    without = graphs(None)
    assert without > 0
    assert graphs(CAREFREE) == without


def compile_one(block: nn.Module, seen: list[int]) -> None:
    """Compiles a block in place, with a backend that runs what was traced and says that it did."""

    def backend(graph: Any, inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            seen.append(1)
            return graph.forward(*args)

        return run

    block.compile(backend=backend)


@pytest.mark.parametrize("when", ["before", "after", "between_runs"])
def test_a_compiled_block_stays_compiled_and_is_skipped(when: str) -> None:
    pipe, seen = wan(), list[int]()
    block = pipe.transformer.blocks[1]
    if when == "before":
        compile_one(block, seen)
    with bwcache.attach(pipe, CAREFREE) as session:
        if when == "between_runs":
            WAN.run(pipe)
        if when != "before":
            compile_one(block, seen)
        made = WAN.run(pipe)
    assert lines(session)[-1] == LINE
    assert len(seen) == COMPUTED
    close(made, cached())
    WAN.run(pipe)
    assert len(seen) == COMPUTED + 2 * 10  # after leaving it is as compiled as before
