"""What the engine reads from the device, forward by forward: on a GPU each such read waits for all work before it."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

import bwcache
from bwcache.engine.clock.times import HostTimesteps
from bwcache.features import taps
from bwcache.models import denoisers
from tests.tiny import CASES, VIDEO_TO_VIDEO, WAN, Case, Scripted

ENGINE = str(Path(bwcache.__file__).parent)

READS = {
    *("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "__contains__", "cpu", "numpy"),
    *("equal", "allclose", "nonzero", "is_nonzero"),
}
"""What hands numbers of a tensor to the host; a GPU has to be waited for."""


class Reads(TorchFunctionMode):
    """Counts what the engine reads in each forward, by the ordinal of the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = 0
        self.found: Counter[int] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in READS and self._asked_by_the_engine():
            self.found[self.forward] += 1
        return func(*args, **(kwargs or {}))

    def _asked_by_the_engine(self) -> bool:
        """Whether the nearest caller outside of torch is the package's own code, and not the denoiser within it."""
        frame = sys._getframe(2)
        while frame is not None and "/torch/" in frame.f_code.co_filename:
            frame = frame.f_back  # type: ignore[assignment]
        return frame is not None and frame.f_code.co_filename.startswith(ENGINE)


@pytest.fixture(autouse=True)
def _taps_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CPU does otherwise, it reads from its own memory."""
    monkeypatch.setattr(taps, "LateTaps", taps.SampledTaps)


def reads(case: Case, policy: bwcache.Policy[Any], **changes: Any) -> tuple[list[int], list[str]]:
    """The reads of each forward, and what was done in it."""
    pipe = case.build()
    counted = Reads()

    def passed(*_: Any) -> None:
        counted.forward += 1

    with bwcache.attach(pipe, policy) as session:
        for module in denoisers(pipe).values():
            module.register_forward_hook(passed)
        case.run(pipe, **changes)  # what is looked at once in a session is not looked at in the second call
        counted.forward = 0
        with counted:
            case.run(pipe, **changes)
        events = session.trace.events
    forwards = len({(event.step, event.branch) for event in events})
    actions = {(event.step, event.branch): event.action for event in events}
    assert counted.forward == forwards
    return [counted.found[i] for i in range(forwards)], list(actions.values())


CALLS = {case.name: (case, {}) for case in (*CASES, VIDEO_TO_VIDEO)} | {
    "wan_batch_of_2": (WAN, {"num_videos_per_prompt": 2})
}


@pytest.mark.parametrize("name", CALLS)
def test_a_reused_step_reads_nothing(name: str) -> None:
    """Only where something was computed before are its numbers read: once, by the decision that needs them."""
    case, changes = CALLS[name]
    found, actions = reads(case, Scripted(frozenset({3, 4, 5, 7, 8})), **changes)
    branches = len(case.branches)
    assert actions.count("reuse") >= 4 * branches
    for i, (read, action) in enumerate(zip(found, actions, strict=True)):
        first = i % branches == 0
        after_a_computed_one = i >= branches and actions[i - branches] == "compute"
        if i >= branches:
            assert read == (1 if first and after_a_computed_one else 0), (i, action, found)


@pytest.mark.parametrize("name", ["wan", "ltx", "cogvideox", "hunyuan"])
def test_in_a_window_of_the_paper_nothing_is_read(name: str) -> None:
    case = CALLS[name][0]
    found, actions = reads(case, bwcache.BWCache(threshold=10.0, reuse_interval=3))
    branches = len(case.branches)
    assert "reuse" in actions
    inside = [i for i in range(branches, len(found)) if actions[i] == actions[i - branches] == "reuse"]
    assert inside
    assert [found[i] for i in inside] == [0] * len(inside)


def test_the_count_sees_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the tests above can fail: without the list of the scheduler's times, each time is read."""
    monkeypatch.setattr(HostTimesteps, "value", lambda self, timestep: None)
    found, _ = reads(CALLS["cogvideox"][0], Scripted(frozenset({3, 4, 5})))
    assert all(found)


TIMES = torch.tensor([999.0, 666.5, 333.0])

HANDED_ON = {
    "one": (TIMES[1], 666.5),
    "expanded": (TIMES[2].expand(4), 333.0),
    "expanded twice": (TIMES[0][None, None].expand(4, 3), 999.0),
    "one of a slice": (TIMES[1:][0], 666.5),
    "a view of one": (TIMES[1].reshape(1), 666.5),
}


@pytest.mark.parametrize("name", HANDED_ON)
def test_a_view_of_a_scheduler_s_time_is_known(name: str) -> None:
    view, value = HANDED_ON[name]
    assert HostTimesteps(TIMES).value(view) == value


OTHERS = {
    "a copy": TIMES[1].clone(),
    "another dtype": TIMES[1].double(),
    "several": TIMES[:2],
    "all": TIMES,
    "none": TIMES[:0],
    "bits of one": TIMES.view(torch.int32)[1],
    "a number": 666.5,
    "nothing": None,
}


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_is_not(name: str) -> None:
    assert HostTimesteps(TIMES).value(OTHERS[name]) is None


def test_times_of_a_longer_tensor_and_of_every_second_place() -> None:
    long = torch.arange(12.0)
    listed = HostTimesteps(long[2:10:2])
    assert [listed.value(long[i]) for i in range(12)] == [None, None, 2, None, 4, None, 6, None, 8, None, None, None]


def test_times_that_were_written_into_are_read_again() -> None:
    times = TIMES.clone()
    listed = HostTimesteps(times)
    assert listed.value(times[0]) == 999.0
    times[0] = 5
    assert listed.value(times[0]) is None


@pytest.mark.parametrize(
    "times", [None, torch.zeros(0), torch.zeros(2, 2), [3, 2, 1], torch.ones(3, device="meta")], ids=str
)
def test_schedulers_without_such_times(times: Any) -> None:
    listed = HostTimesteps(times)
    assert listed.value(torch.tensor(1.0)) is None
    assert not isinstance(times, torch.Tensor) or listed.value(times[:1]) is None


def test_in_inference_mode() -> None:
    with torch.inference_mode():
        times = torch.tensor([2.0, 1.0])
        assert HostTimesteps(times).value(times[1]) == 1.0
