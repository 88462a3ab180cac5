"""Several loops in one call: segments, sections, windows, chunks, stages, tiles. Each is a run of its own."""

from __future__ import annotations

from typing import Any

import pytest

import bwcache
from tests.runs.cases import BY_NAME, COSMOS_TRANSFER, unipc
from tests.runs.laws import GREEDY, told
from tests.tiny import VIDEO_TO_VIDEO, Case

FULL = "CCrrCrrCCC"

LOOPS = {
    "WanAnimatePipeline segments": [10, 10],
    "HunyuanVideoFramepackPipeline sections": [10, 10],
    "HeliosPipeline chunks": [10, 10],
    "SkyReelsV2DiffusionForcingPipeline long": [10, 10],
    "Kandinsky6SRPipeline": [10, 10, 10],
}


@pytest.mark.parametrize("name", LOOPS)
def test_each_loop_is_a_run_and_reuses_nothing_of_the_one_before(name: str) -> None:
    """All loops are of one size, and most of them start at the very timestep at which the last one did."""
    seen = told(BY_NAME[name])
    assert seen.lengths == LOOPS[name]
    assert len({forward.shape for forward in seen.forwards}) == 1
    assert seen.lines == [FULL] * len(LOOPS[name])


def test_chunks_between_which_a_cache_of_keys_and_values_is_filled() -> None:
    """AnyFlow FAR: the forward that fills it is none of the loop's, always runs, and is counted apart."""
    case = BY_NAME["AnyFlowFARPipeline chunks"]
    seen = told(case, aside=lambda kwargs: kwargs["kv_cache_flag"]["is_cache_step"])
    assert seen.lines == [FULL] * len(seen.lengths)
    assert len(seen.lines) > 1
    filled = [sum(trace.meta.get("cache_fills", {}).values()) for trace in seen.traces]
    assert sum(filled) == len(seen.lengths) - 1


def test_stages_of_rising_size() -> None:
    """Helios' pyramid: each stage has four times the tokens, and steps of its own."""
    seen = told(BY_NAME["HeliosPyramidPipeline"])
    assert len(seen.lengths) == 3
    assert len({forward.shape for forward in seen.forwards}) == 3
    assert all(line.startswith("CCrr") for line in seen.lines)


def test_chunks_that_begin_with_the_last_ones_end() -> None:
    """Cosmos Transfer 2.5: sigmas for each frame, a ControlNet beside, timesteps set anew for each chunk."""
    seen = told(COSMOS_TRANSFER)
    assert seen.lengths == [10, 10]
    assert set(seen.branches()) == {("call0", "call1")}
    assert seen.lines == [FULL] * 2


@pytest.mark.parametrize(
    "name", ["SanaSprintPipeline", "LTX2DFRTemporalRefinePipeline", "LTXI2VLongMultiPromptPipeline"]
)
def test_a_schedule_whose_last_time_is_only_where_it_leads_to(name: str) -> None:
    """Eleven times for ten steps: at the last one no noise is left, told by its sigma or, without sigmas, by the 0."""
    case = BY_NAME[name]
    pipe = case.build()
    seen = told(case, pipe)
    assert len(pipe.scheduler.timesteps) == 11
    assert seen.lengths == [10] * len(seen.lengths)
    assert seen.lines == [FULL] * len(seen.lengths)


def test_iterations_of_other_lengths() -> None:
    """AnimateDiff's FreeInit: five steps, then ten, from noise of which the low frequencies are the last video's."""
    seen = told(BY_NAME["animatediff_free_init"])
    assert seen.lengths == [5, 10]
    assert seen.lines == ["CCrCC", FULL]


class Twice(Case):
    """Two loops of one call, the second from what the scheduler was left with."""

    def run(self, pipe: Any, seed: int = 0, **changes: Any) -> Any:
        """What the second loop makes."""
        free = pipe.maybe_free_model_hooks
        pipe.maybe_free_model_hooks = lambda: None
        try:
            super().run(pipe, seed, **changes)
        finally:
            pipe.maybe_free_model_hooks = free
        return super().run(pipe, seed + 1, **changes)


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("name", ["wan", "wan_two_experts", "ltx", "cogvideox", "stable_diffusion"])
def test_two_loops_of_any_length_without_a_word_between(name: str, steps: int) -> None:
    case = BY_NAME[name]
    case = Twice(case.name, case.build, {**case.call, "num_inference_steps": steps}, case.branches)
    if steps == 1:  # nothing may be reused at all: two loops at one and the same timestep
        pipe = case.build()
        plain = case.run(pipe)
        with bwcache.attach(pipe, GREEDY) as session:
            assert case.run(pipe).equal(plain)
        assert [trace.steps for trace in session.traces] == [1, 1]
        assert [event.branch for trace in session.traces for event in trace.events] == list(case.branches) * 2
    else:
        assert told(case).lengths == [steps, steps]


def test_an_integer_schedule_that_starts_in_the_middle_twice() -> None:
    """UniPC's timesteps are whole numbers, and with a strength both loops begin at the third of them."""
    case = Twice(VIDEO_TO_VIDEO.name, VIDEO_TO_VIDEO.build, VIDEO_TO_VIDEO.call, VIDEO_TO_VIDEO.branches)
    pipe = case.build()
    pipe.scheduler = unipc()
    assert told(case, pipe).lengths == [8, 8]
