"""Samples that are taken at the end of the forward are those that would have been taken at once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import bwcache
from bwcache.features import taps as module
from bwcache.features.taps import LateTaps, SampledTaps, Taps, taps

BLOCKS = 4
Between = Callable[[list[Tensor], int], object]


def features(step: int, shape: tuple[int, ...] = (1, 200, 8), dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """What the blocks return in a step."""
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(*shape, generator=generator).to(dtype) for _ in range(BLOCKS)]


def both(share: float | None = None, first: int = 0) -> tuple[SampledTaps, LateTaps]:
    return SampledTaps(BLOCKS, share, first), LateTaps(BLOCKS, share, first)


def record(
    tapped: Taps, returned: list[Tensor], between: Callable[[list[Tensor], int], object] | None = None
) -> object:
    """One forward; after each block the ones that follow may do something to what was returned before."""
    own = [feature.clone(memory_format=torch.preserve_format) for feature in returned]
    for tap, feature in enumerate(own):
        tapped.record(tap, feature)
        if between is not None:
            between(own, tap)
    measured = tapped.measure()
    return None if measured is None else measured.tolist()


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda x: x,
    "channels first": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "a slice": lambda x: torch.cat((x, x), 1)[:, : x.shape[1]],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("share", [None, 0.05, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_late_samples_are_those_taken_at_once_bit_for_bit(layout: str, share: float | None, dtype: torch.dtype) -> None:
    at_once, late = both(share, first=7)
    for step in range(5):
        returned = [LAYOUTS[layout](feature) for feature in features(step, dtype=dtype)]
        found = record(at_once, returned)
        assert (found is None) == (step == 0)
        assert record(late, returned) == found
        assert late.nbytes == at_once.nbytes


@given(st.lists(st.sampled_from([(1, 200, 8), (2, 90, 5), (1, 1, 1), (1, 2, 3, 4)]), min_size=1, max_size=6))
def test_whatever_comes_late_samples_are_those_taken_at_once(shapes: list[tuple[int, ...]]) -> None:
    at_once, late = both()
    for step, shape in enumerate(shapes):
        assert record(late, features(step, shape)) == record(at_once, features(step, shape))


def of_two_kinds(step: int) -> list[Tensor]:
    return [*features(step)[:2], *features(step, (8, 30, 3))[2:]]


def some_left_out(step: int) -> list[Tensor]:
    return features(step)[: BLOCKS - step % 2]


@pytest.mark.parametrize("returned", [of_two_kinds, some_left_out])
def test_late_samples_of_several_kinds_or_of_few_blocks(returned: Callable[[int], list[Tensor]]) -> None:
    at_once, late = both()
    for step in (0, 2, 3, 4, 6):
        assert record(late, returned(step)) == record(at_once, returned(step))


WRITES: dict[str, Between] = {
    "into the last one": lambda own, tap: own[tap - 1].add_(1.0) if tap else None,
    "into a view": lambda own, tap: own[0].view(-1)[: tap + 90].mul_(2.0),
    "unnoticed": lambda own, tap: own[0].data.mul_(2.0),
    "through numpy": lambda own, tap: own[0].numpy().fill(tap),
}


@pytest.mark.parametrize("between", WRITES.values(), ids=WRITES.keys())
def test_where_a_block_writes_into_what_an_earlier_one_returned_samples_are_taken_at_once(
    between: Between,
) -> None:
    at_once, late = both(share=0.5)
    for step in range(4):
        assert record(late, features(step), between) == record(at_once, features(step), between)


def test_a_block_that_begins_to_write_later_costs_one_measurement_and_no_more() -> None:
    at_once, late = both()
    write = WRITES["into the last one"]
    for step, between in enumerate([None, None, write, write, None, write]):
        expected, found = record(at_once, features(step), between), record(late, features(step), between)
        assert found == (None if step in (2, 3) else expected), step


@pytest.mark.parametrize("forwards", [1, 2, 3])
def test_no_feature_is_held_after_the_forward(forwards: int) -> None:
    late = LateTaps(BLOCKS, None)
    for step in range(forwards):
        returned = features(step)
        for tap, feature in enumerate(returned):
            late.record(tap, feature)
        late.measure()
    alive = [weakref.ref(feature) for feature in returned]
    del returned, feature
    gc.collect()
    assert [reference() for reference in alive] == [None] * BLOCKS


def test_in_inference_mode_nothing_tells_whether_a_tensor_was_written_into() -> None:
    at_once, late = both()
    with torch.inference_mode():
        for step in range(3):
            write = WRITES["into the last one"] if step else None
            assert record(late, features(step), write) == record(at_once, features(step), write)


def test_a_gradient_does_not_follow_the_samples() -> None:
    late = LateTaps(BLOCKS, None)
    for step in range(3):
        for tap, feature in enumerate(features(step)):
            late.record(tap, feature.requires_grad_() * 2)
        measured = late.measure()
    assert measured is not None
    assert not measured.requires_grad


def test_only_few_features_on_a_cpu_wait() -> None:
    few, many = torch.empty(1, 1000, 16), torch.empty(1, 2**20, 16, device="meta")
    assert type(taps(few, 30, None)) is LateTaps
    assert type(taps(few, 30, 1)) is LateTaps
    assert type(taps(few.to("meta"), 30, None)) is SampledTaps
    assert type(taps(many, 30, None)) is SampledTaps


class InPlace(nn.Module):
    """A block that writes its output over its input."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states.add_(self.inner(hidden_states))


class Chain(nn.Module):
    def __init__(self, block: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(block() for _ in range(BLOCKS))

    def forward(self, hidden_states: Tensor, timestep: float) -> Tensor:
        hidden_states = hidden_states * (1 + timestep / 1000)
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states


def indicators(at_once: bool, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, ...] | None]:
    """What the taps of a denoiser of such blocks measured in each step."""
    model, latents = Chain(InPlace), torch.randn(1, 64, 16, generator=torch.Generator().manual_seed(1))
    row = bwcache.BlockSpec("Chain", (bwcache.BlockList("blocks"),))
    with monkeypatch.context() as patched, torch.no_grad():
        if at_once:
            patched.setattr(module, "LateTaps", SampledTaps)
        with bwcache.attach(model, bwcache.NeverReuse(measures="default"), steps=6, spec=row) as session:
            for step in range(6):
                model(latents, 1000.0 - 100 * step)
    return [event.distances for event in session.trace.events]


def test_a_denoiser_whose_blocks_write_in_place_is_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found = indicators(False, monkeypatch)
    assert found == indicators(True, monkeypatch)
    assert found[0] is None
    assert all(distances is not None and min(distances) > 0 for distances in found[1:])
