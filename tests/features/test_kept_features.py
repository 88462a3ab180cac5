"""Features that wait in main memory are what they were, whatever the model does with its own meanwhile."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bwcache.features.offload import Offload
from bwcache.features.store import Held, Slot
from tests.steps import at
from tests.tiny import noise

SIGNATURE = ((1, 4, 2), torch.float32)

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]
on_each_device = pytest.mark.parametrize("device", DEVICES)

LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(1, 2),
    "strided": lambda x: x[..., ::2],
    "expanded": lambda x: x[:, :1].expand_as(x),
}


@on_each_device
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_there_and_back(device: str, layout: str, dtype: torch.dtype) -> None:
    """Also a second time over the same memory."""
    offload, home = Offload(), None
    for seed in range(3):
        feature = LAYOUTS[layout](noise(2, 33, 16, seed=seed).to(device, dtype))
        expected = feature.clone()
        before, home = home, offload.out(feature, home)
        assert home.device.type == "cpu"
        assert home.is_pinned() == (device == "cuda")
        assert before is None or home is before
        back = offload.back(home, feature.device).taken()
        assert back.device == feature.device
        assert back.stride() == expected.stride()
        assert back.data_ptr() not in (home.data_ptr(), feature.data_ptr())
        assert torch.equal(back, expected)


@on_each_device
def test_what_the_model_writes_into_its_own_tensor_afterwards_is_not_kept(device: str) -> None:
    """On CUDA the feature is so large that the copy is still under way."""
    feature = torch.ones(64 if device == "cuda" else 1, 2**20, device=device)
    offload = Offload()
    home = offload.out(feature)
    feature.fill_(2)
    assert (offload.back(home, feature.device).taken() == 1).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_many_features_in_flight_stay_apart() -> None:
    """Out over memory that is being read, back before it is out, and memory that the allocator hands on at once."""
    offload = Offload()
    size = 2**24
    homes: list[torch.Tensor | None] = [None, None]
    for round in range(8):
        arrivals = []
        for i in range(2):
            homes[i] = offload.out(torch.full((size,), float(10 * round + i), device="cuda"), homes[i])
            arrivals.append(offload.back(homes[i], torch.device("cuda", torch.cuda.current_device())))
        scratch = [torch.full((size,), -1.0, device="cuda") for _ in range(4)]
        dropped = offload.back(homes[0], scratch[0].device)
        del dropped, scratch  # nobody waited for it
        for i, arrival in enumerate(arrivals):
            taken = arrival.taken()
            assert (taken == 10 * round + i).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_host_waits_for_nothing() -> None:
    offload, feature = Offload(), torch.ones(2**24, device="cuda")
    home = offload.out(feature)  # the first pinned memory takes its time
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            home = offload.out(feature, home)
            offload.back(home, feature.device).taken()
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_between_steps_the_device_holds_nothing() -> None:
    slot = Slot(Held(Offload()))
    feature = torch.ones(2**24, device="cuda")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for step in range(4):
        slot.push(SIGNATURE, at(-float(step)), {"x": feature}, history=2)
    assert len(slot.read()["x"]) == 2
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before
    assert (slot.held.device, slot.held.host) == (0, 2 * feature.nbytes)


def feature(value: float) -> torch.Tensor:
    return torch.full((1, 4, 2), float(value))


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=1, max_size=12))
def test_a_slot_in_main_memory_gives_what_one_on_the_device_does(history: int, values: list[tuple[int, bool]]) -> None:
    here, away = Slot(Held()), Slot(Held(Offload()))
    for step, (value, expected) in enumerate(values):
        for slot in (here, away):
            slot.push(SIGNATURE, at(-float(step)), {"x": feature(value), "y": feature(-value)}, history)
            if expected:
                slot.prefetch()
        assert (away.held.host, away.held.device) == (here.held.device, here.held.device * expected)
        assert here.held.host == 0
        found, same = here.read(), away.read()
        assert found.keys() == same.keys()
        for name, entries in found.items():
            assert [step for step, _ in entries] == [step for step, _ in same[name]]
            assert all(torch.equal(a, b) for (_, a), (_, b) in zip(entries, same[name], strict=True))
        assert away.held.device == 0


def test_what_is_expected_is_let_go_of_when_it_is_forgotten() -> None:
    slot = Slot(Held(Offload()))
    slot.push(SIGNATURE, at(0.9), {"x": feature(1)}, history=1)
    slot.prefetch()
    assert slot.held.device == slot.held.host == feature(1).nbytes
    slot.drop()
    assert (slot.held.device, slot.held.host) == (0, 0)
    assert slot.read() == {}


def test_what_was_expected_before_a_new_feature_came_is_not_handed_out() -> None:
    slot = Slot(Held(Offload()))
    slot.push(SIGNATURE, at(0.9), {"x": feature(1)}, history=1)
    slot.prefetch()
    slot.push(SIGNATURE, at(0.8), {"x": feature(2)}, history=1)
    assert [(step.sigma, x.mean().item()) for step, x in slot.read()["x"]] == [(0.8, 2.0)]


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("history", [1, 2, 3])
def test_growth_is_what_a_feature_and_those_to_come_add(offload: bool, history: int) -> None:
    held = Held(Offload() if offload else None)
    slot = Slot(held)
    for signature, streams in [
        (SIGNATURE, {"x": feature(1)}),
        (("another",), {"x": torch.ones(1, 6, 2)}),
        (SIGNATURE, {"x": feature(1), "y": feature(2)}),
    ]:
        foreseen = [held.device + slot.growth(signature, streams, history)]
        for _ in range(history + 1):
            slot.push(signature, at(0.5), streams, history)
            foreseen.append(held.device + slot.growth(signature, streams, history))
            assert slot.full_bytes(history) == foreseen[0]
        assert foreseen == [held.device] * (history + 2)
