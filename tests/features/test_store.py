"""A slot keeps copies, knows its bytes, and forgets."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bwcache.features.store import Held, Slot
from tests.steps import at

SIGNATURE = ((1, 4, 2), torch.float32)


def feature(value: float) -> torch.Tensor:
    return torch.full((1, 4, 2), float(value))


def means(slot: Slot, stream: str = "x") -> list[tuple[float | None, float]]:
    """The sigmas and values of what is held."""
    return [(step.sigma, kept.mean().item()) for step, kept in slot.read()[stream]]


def test_what_is_stored_is_never_what_was_given() -> None:
    slot = Slot(Held())
    given_tensors = [feature(value) for value in (1.0, 2.0, 3.0)]
    for sigma, tensor in zip((0.9, 0.8, 0.7), given_tensors, strict=True):
        slot.push(SIGNATURE, at(sigma), {"x": tensor}, history=2)
        tensor.fill_(99)
    assert means(slot) == [(0.7, 3.0), (0.8, 2.0)]
    kept = {tensor.data_ptr() for _, tensor in slot.read()["x"]}
    assert len(kept) == 2
    assert kept.isdisjoint(tensor.data_ptr() for tensor in given_tensors)


@given(st.integers(1, 4), st.lists(st.integers(0, 100), min_size=1, max_size=12))
def test_the_newest_come_first_and_no_more_than_the_history(history: int, values: list[int]) -> None:
    slot = Slot(Held())
    for step, value in enumerate(values):
        slot.push(SIGNATURE, at(-float(step)), {"x": feature(value), "y": feature(-value)}, history)
    newest_first = list(enumerate(values))[::-1][:history]
    for stream, sign in (("x", 1), ("y", -1)):
        assert means(slot, stream) == [(-float(step), sign * value) for step, value in newest_first]
    assert slot.held.device == 2 * len(newest_first) * feature(0).nbytes


def test_another_signature_drops_the_past() -> None:
    slot = Slot(Held())
    slot.push(SIGNATURE, at(0.9), {"x": feature(1)}, history=2)
    slot.push(("another",), at(0.8), {"x": torch.ones(1, 6, 2)}, history=2)
    assert means(slot) == [(0.8, 1.0)]
    assert slot.held.device == 12 * 4


def test_the_bytes_of_all_slots_are_counted_as_they_come_and_go() -> None:
    held = Held()
    slots = [Slot(held) for _ in range(3)]
    for i, slot in enumerate(slots):
        slot.push(SIGNATURE, at(0.9), {"x": feature(1)}, history=1)
        slot.push(SIGNATURE, at(0.8), {"x": feature(2)}, history=1)
        assert held.device == (i + 1) * feature(0).nbytes
    slots[0].drop()
    slots[0].drop()
    assert slots[0].read() == {}
    assert means(slots[1]) == [(0.8, 2.0)]
    assert held.device == 2 * feature(0).nbytes
    for slot in slots:
        slot.drop()
    assert (held.device, held.host) == (0, 0)


def test_what_is_kept_carries_no_gradient() -> None:
    slot = Slot(Held())
    slot.push(SIGNATURE, at(0.9), {"x": feature(1).requires_grad_() * 2}, history=1)
    assert not slot.read()["x"][0][1].requires_grad


@pytest.mark.parametrize("modes", [(True, False), (False, True), (True, True)], ids=str)
def test_what_is_kept_outlives_inference_mode(modes: tuple[bool, bool]) -> None:
    """Torch refuses to write into an inference tensor outside of that mode: a kept one is none."""
    slot = Slot(Held())
    for value, inference in enumerate(modes):
        with torch.inference_mode(inference), torch.no_grad():
            slot.push(SIGNATURE, at(float(value)), {"x": feature(value) + 1}, history=1)
            assert not slot.read()["x"][0][1].is_inference()
    assert means(slot) == [(1.0, 2.0)]


@pytest.mark.parametrize("other", [torch.full((1, 6, 2), 2.0), torch.full((1, 4, 2), 2.0, dtype=torch.bfloat16)])
def test_a_feature_that_does_not_fit_over_the_oldest_takes_its_place(other: torch.Tensor) -> None:
    """A site may return another size or dtype than what entered it, and what entered it tells nothing of that."""
    slot = Slot(Held())
    slot.push(SIGNATURE, at(0.9), {"x": feature(1)}, history=1)
    slot.push(SIGNATURE, at(0.8), {"x": other}, history=1)
    ((_, kept),) = slot.read()["x"]
    assert (kept.shape, kept.dtype) == (other.shape, other.dtype)
    assert torch.equal(kept, other)
    assert slot.held.device == other.nbytes
