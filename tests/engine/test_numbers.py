"""What forwards measured arrives on the host in order, and on CUDA without anybody waiting in between."""

import pytest
import torch

import bwcache
from bwcache.engine.numbers import Numbers

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]


@pytest.mark.parametrize("device", DEVICES)
def test_each_part_is_read_where_it_was_put(device: str) -> None:
    parts = [torch.arange(float(n), device=device) + n for n in (1, 3, 2)]
    numbers = Numbers()
    places = [numbers.add(part, len(part)) for part in parts[:2]]
    assert numbers.add(None, 5) is None
    places.append(numbers.add(parts[2], 2))
    numbers.set_out()
    assert [numbers.read(place) for place in places] == [[1.0], [3.0, 4.0, 5.0], [2.0, 3.0]]
    assert numbers.read(None) is None


def test_of_nothing_there_is_nothing_to_read() -> None:
    numbers = Numbers()
    numbers.set_out()
    assert numbers.read(None) is None
    assert numbers.read(slice(0, 1)) is None


def test_parts_of_one_vector_lie_on_several_devices_and_in_several_shapes() -> None:
    numbers = Numbers()
    places = [numbers.add(torch.ones(2, 3), 6), numbers.add(torch.tensor(7.0), 1)]
    numbers.set_out()
    assert [numbers.read(place) for place in places] == [[1.0] * 6, [7.0]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_nothing_waits_that_torch_would_call_synchronizing() -> None:
    module = torch.nn.Linear(64, 64, device="cuda")
    with torch.no_grad():
        value = module(torch.ones(8, 64, device="cuda"))
        first = Numbers()
        first.add(value.abs().sum()[None], 1)
        first.set_out()  # the pinned memory is there from now on
        torch.cuda.set_sync_debug_mode("error")
        try:
            numbers = Numbers()
            places = numbers.add(value.sum()[None], 1), numbers.add(value[0], 64)
            numbers.set_out()
            read = [numbers.read(place) for place in places]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert read[0] == [pytest.approx(value.sum().item())]
    assert len(read[1] or []) == 64


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_numbers_set_out_when_their_forward_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that whoever waits for them waits for nothing that came after it."""
    from tests.tiny import wan_transformer

    order: list[str] = []
    set_out, told = Numbers.set_out, bwcache.BWCache.refresh

    def setting_out(self: Numbers) -> None:
        order.append(f"out {forwards}")
        set_out(self)

    def telling(self: bwcache.BWCache, *args: object) -> None:
        order.append(f"told {forwards}")
        told(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Numbers, "set_out", setting_out)
    monkeypatch.setattr(bwcache.BWCache, "refresh", telling)
    module, forwards = wan_transformer(), 0
    with torch.no_grad(), bwcache.attach(module, bwcache.BWCache(threshold=1e-9), steps=3):
        for forwards in range(3):
            latents, text = torch.ones(1, 4, 2, 8, 8), torch.ones(1, 3, 8)
            module(latents, torch.tensor([900 - 100 * forwards]), text)
    assert order[:4] == ["out 0", "told 1", "out 1", "told 2"]
