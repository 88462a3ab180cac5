"""Token counts that differ between the forwards of a run: tiles, windows, frames that come and go."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import bwcache
from bwcache import BWCache
from bwcache.core.trace import reuse_line
from tests.runs.cases import BY_NAME, LTX2_TILES
from tests.runs.laws import CAREFREE, GREEDY, rows, run, same, told
from tests.runs.witness import Witness
from tests.tiny import Case, Scripted, noise, wan_transformer
from tests.zoo.skyreels import skyreels


def test_a_forward_for_each_tile_at_one_time() -> None:
    """LTX-2's last stage: each tile is a branch, and is compared with itself alone, whatever its size."""
    seen = told(LTX2_TILES)
    assert len({forward.shape for forward in seen.forwards}) == 2
    assert seen.branches() == [LTX2_TILES.branches] * 10
    assert seen.lines == ["CCrrCrrCCC"]


def tiled(module: Any, widths: list[int], times: list[float]) -> Tensor:
    """A loop over a bare denoiser that denoises a wide picture by tiles, and names none of them."""
    latents = noise(1, 4, 2, 4, sum(widths))
    for time in times:
        parts = []
        for part in latents.split(widths, dim=-1):
            with torch.no_grad():
                made = module(part.contiguous(), torch.tensor([time]), noise(1, 6, 8, seed=1), return_dict=False)[0]
            parts.append(made)
        latents = latents + 0.05 * torch.cat(parts, dim=-1)
    return latents


@pytest.mark.parametrize("widths", [[4, 4, 4], [4, 8]], ids=["alike", "uneven"])
def test_tiles_of_a_bare_module(widths: list[int]) -> None:
    module = wan_transformer()
    times = [1000.0 - 100 * i for i in range(10)]
    plain = tiled(module, widths, times)
    with bwcache.attach(module, BWCache(threshold=0), steps=10) as session:
        assert torch.equal(tiled(module, widths, times), plain)
    names = [f"call{i}" for i in range(len(widths))]
    assert rows(session.traces) == [(0, step, name) for step in range(10) for name in names]
    with bwcache.attach(module, Scripted(frozenset({2, 3})), steps=10) as session:
        made = tiled(module, widths, times)
    assert reuse_line(session.trace.events) == "CCrrCCCCCC"
    assert not torch.equal(made, plain)
    assert torch.equal(made, _tile_by_tile(widths, times))


def _tile_by_tile(widths: list[int], times: list[float]) -> Tensor:
    """The same with a denoiser and a session for each tile: no tile can see what is kept of another."""
    parts = []
    for part in noise(1, 4, 2, 4, sum(widths)).split(widths, dim=-1):
        module, latents = wan_transformer(), part.contiguous()
        with bwcache.attach(module, Scripted(frozenset({2, 3})), steps=10), torch.no_grad():
            for time in times:
                made = module(latents, torch.tensor([time]), noise(1, 6, 8, seed=1), return_dict=False)[0]
                latents = latents + 0.05 * made
        parts.append(latents)
    return torch.cat(parts, dim=-1)


def test_frames_that_are_dropped_in_the_middle() -> None:
    """ChronoEdit: after five steps only the first and the last frame go on. Their first step is computed."""
    seen = told(BY_NAME["ChronoEditPipeline reasoning"])
    shapes = [forward.shape for forward in seen.forwards if forward.branch == "call0"]
    changed = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
    assert 0 < changed < 9
    first = [event for event in seen.traces[0].events if event.step == changed]
    assert {event.action for event in first} == {"compute"}
    assert "r" in seen.lines[0][changed:]


@pytest.mark.parametrize("name", ["Flux2KleinKVPipeline", "QwenImage21Pipeline"])
def test_tokens_that_only_the_first_step_has(name: str) -> None:
    """It fills the model's own cache of keys and values with them. The second step has nothing of its size yet."""
    case = BY_NAME[name]
    pipe = case.build()
    plain = run(case, pipe)
    with bwcache.attach(pipe, BWCache(threshold=0)) as session:
        assert same(run(case, pipe), plain)
    assert rows(session.traces) == [(0, step, branch) for step in range(10) for branch in case.branches]
    with bwcache.attach(pipe, CAREFREE) as session:
        run(case, pipe)
    assert reuse_line(session.trace.events) == "CCCrrCrCCC"
    reasons = {event.reason for event in session.trace.events if event.step == 1}
    assert reasons == {"other arguments than before"}  # it reads the cache that the first one filled


class TwoSizes(Case):
    """As LTX's two stages are run: the pipeline once small, and once again at twice the size."""

    def run(self, pipe: Any, seed: int = 0, **changes: Any) -> Any:
        """The larger video."""
        super().run(pipe, seed, **changes)
        return super().run(pipe, seed, **{**changes, "height": 64, "width": 64})


@pytest.mark.parametrize("name", ["ltx", "wan"])
def test_a_small_run_and_a_large_one_after_it(name: str) -> None:
    case = BY_NAME[name]
    seen = told(TwoSizes(case.name, case.build, case.call, case.branches))
    assert seen.lengths == [10, 10]
    assert seen.lines == ["CCrrCrrCCC"] * 2


# --- frame after frame ------------------------------------------------------------------------------------------------

IN_TURN = BY_NAME["SkyReelsV2DiffusionForcingPipeline in turn"]
LONG = {"num_frames": 13, "base_num_frames": 9, "overlap_history": 5}
"""Two loops: three frames, and then two more of which the first is given."""


@pytest.mark.parametrize(("changes", "line"), [({}, "C" * 14), (LONG, "CCrrCrrCCC")], ids=["short", "long"])
def test_frames_that_wait_for_their_turn(changes: dict[str, Any], line: str) -> None:
    """SkyReels-V2 with diffusion forcing: while a frame waits at the highest time, the mean of all times tells a step.

    There are more steps than the schedule has, so how many is unknown and all is computed. The loop over the last
    frames, in which all move together, is a run of as many steps as were asked for.
    """
    pipe = IN_TURN.build()
    witness = Witness()
    with witness.watching(pipe):
        plain = run(IN_TURN, pipe, **changes)
    allowed = witness.may_reuse()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bwcache.NeverReusedWarning)
        with bwcache.attach(pipe, BWCache(threshold=0)) as session:
            assert same(run(IN_TURN, pipe, **changes), plain)
        assert [name for _, _, name in rows(session.traces)] == [forward.branch for forward in witness.forwards]
        for policy in (GREEDY, CAREFREE):
            with bwcache.attach(pipe, policy) as session:
                run(IN_TURN, pipe, **changes)
            events = [event for trace in session.traces for event in trace.events]
            reused = [event.action == "reuse" for event in events]
            assert len(reused) == len(allowed)
            assert all(may for may, did in zip(allowed, reused, strict=True) if did)
            assert all(before.reason == "first step" for before in events if before.step == 0)
    assert reuse_line(session.traces[-1].events) == line
    assert sum(trace.steps for trace in session.traces) == len(witness.forwards) // 2 > 10


FRAMES, SEEN, LAG = 5, 3, 4


def sliding() -> list[tuple[slice, Tensor]]:
    """Which frames the denoiser sees in each step and the time of each: SkyReels' own code slides its window so."""
    steps = [999.0, 900.0, 800.0, 700.0, 600.0, 500.0, 400.0, 300.0, 200.0, 100.0, 0.0]
    rows = []
    for row in range(10 + LAG * (FRAMES - 1)):
        done = [min(max(row - LAG * frame, 0), 10) for frame in range(FRAMES)]
        end = max(SEEN, sum(row >= LAG * frame for frame in range(FRAMES)))
        window = slice(end - SEEN, end)
        rows.append((window, torch.tensor([[steps[i] for i in done[window]]])))
    return rows


def slide(module: Any, branches: tuple[str, ...] | None) -> Tensor:
    latents = noise(1, 4, FRAMES, 4, 4)
    for window, times in sliding():
        for i, name in enumerate(branches or ("", "")):
            text = noise(1, 6, 8, seed=i)
            with torch.no_grad(), module.cache_context(name) if name else nullcontext():
                made = module(latents[:, :, window], times, text, enable_diffusion_forcing=True, return_dict=False)[0]
            latents[:, :, window] += 0.05 * made
    return latents


@pytest.mark.parametrize("branches", [("cond", "uncond"), None], ids=["named", "unnamed"])
@pytest.mark.parametrize("policy", [GREEDY, CAREFREE], ids=["greedy", "carefree"])
def test_a_sliding_window_is_never_reused_over_its_slide(branches: Any, policy: bwcache.Policy[Any]) -> None:
    """Equal shapes, other frames: the highest time stays or rises, and so nothing of before is taken."""
    plain = slide(skyreels(), branches)
    windows = [window for window, _ in sliding() for _ in range(2)]
    module = skyreels()
    with bwcache.attach(module, BWCache(threshold=0), steps=10):
        assert torch.equal(slide(module, branches), plain)
    with bwcache.attach(module, policy, steps=10) as session:
        slide(module, branches)
    events = [event for trace in session.traces for event in trace.events]
    assert len(events) == len(windows)
    slid = [i for i in range(2, len(windows)) if windows[i] != windows[i - 2]]
    assert len(slid) == 2 * (FRAMES - SEEN)
    assert {events[i].action for i in slid} == {"compute"}
    kept: dict[tuple[int, str], slice] = {}
    for event, window in zip(events, windows, strict=True):
        if event.action == "reuse":
            assert kept[event.run, event.branch] == window
        kept[event.run, event.branch] = window
    assert any(event.action == "reuse" for event in events)
