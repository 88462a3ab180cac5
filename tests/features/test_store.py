"""The store keeps copies, knows its bytes, and forgets."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from bwcache.features import FeatureStore

KEY = ("cond", "transformer/stack")
SIGNATURE = ((1, 4, 2), torch.float32)


def feature(value: float) -> torch.Tensor:
    return torch.full((1, 4, 2), float(value))


def test_what_is_stored_is_never_what_was_given() -> None:
    store = FeatureStore()
    given_tensors = [feature(value) for value in (1.0, 2.0, 3.0)]
    for coordinate, tensor in zip((0.9, 0.8, 0.7), given_tensors, strict=True):
        store.put(KEY, SIGNATURE, coordinate, {"x": tensor}, history=2)
        tensor.fill_(99)
    assert [(c, t.mean().item()) for c, t in store.past(KEY)["x"]] == [(0.7, 3.0), (0.8, 2.0)]
    kept = {tensor.data_ptr() for _, tensor in store.past(KEY)["x"]}
    assert len(kept) == 2
    assert kept.isdisjoint(tensor.data_ptr() for tensor in given_tensors)


@given(st.integers(1, 4), st.lists(st.integers(0, 100), min_size=1, max_size=12))
def test_the_newest_come_first_and_no_more_than_the_history(history: int, values: list[int]) -> None:
    store = FeatureStore()
    for step, value in enumerate(values):
        store.put(KEY, SIGNATURE, -float(step), {"x": feature(value), "y": feature(-value)}, history)
    newest_first = list(enumerate(values))[::-1][:history]
    for stream, sign in (("x", 1), ("y", -1)):
        held = store.past(KEY)[stream]
        assert [(c, t.mean().item()) for c, t in held] == [(-float(step), sign * value) for step, value in newest_first]
    assert store.nbytes == 2 * len(newest_first) * feature(0).nbytes


def test_another_signature_drops_the_past() -> None:
    store = FeatureStore()
    store.put(KEY, SIGNATURE, 0.9, {"x": feature(1)}, history=2)
    store.put(KEY, ("another",), 0.8, {"x": torch.ones(1, 6, 2)}, history=2)
    assert [c for c, _ in store.past(KEY)["x"]] == [0.8]
    assert store.nbytes == 12 * 4


def test_branches_and_sites_are_kept_apart() -> None:
    store = FeatureStore()
    other = ("uncond", KEY[1])
    store.put(KEY, SIGNATURE, 0.9, {"x": feature(1)}, history=1)
    store.put(other, SIGNATURE, 0.9, {"x": feature(2)}, history=1)
    assert store.nbytes == 2 * feature(0).nbytes
    store.drop(KEY)
    store.drop(KEY)
    assert store.get(KEY) is None
    assert store.past(other)["x"][0][1].mean() == 2
    assert store.nbytes == feature(0).nbytes
    store.drop_lane(other[0])
    assert store.nbytes == 0


def test_an_empty_store_holds_nothing() -> None:
    assert FeatureStore().nbytes == 0
    assert FeatureStore().get(KEY) is None


def test_what_is_kept_carries_no_gradient() -> None:
    store = FeatureStore()
    grown = feature(1).requires_grad_() * 2
    store.put(KEY, SIGNATURE, 0.9, {"x": grown}, history=1)
    assert not store.past(KEY)["x"][0][1].requires_grad
