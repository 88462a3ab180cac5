"""What forwards measured arrives on the host in order, and on CUDA without anybody waiting in between."""

import pytest
import torch

import bwcache
from bwcache.engine.reading import Reading, arrived

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]


@pytest.mark.parametrize("device", DEVICES)
def test_all_numbers_arrive_in_order(device: str) -> None:
    parts = [torch.arange(float(n), device=device) + n for n in (1, 3, 2)]
    readings = [Reading(parts[:2]), Reading([]), Reading(parts[2:])]
    assert arrived(readings) == [1.0, 3.0, 4.0, 5.0, 2.0, 3.0]
    assert arrived([]) == []
    assert arrived([Reading([])]) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_nothing_waits_that_torch_would_call_synchronizing() -> None:
    module = torch.nn.Linear(64, 64, device="cuda")
    with torch.no_grad():
        value = module(torch.ones(8, 64, device="cuda"))
        Reading([value.abs().sum()[None]])  # the pinned memory is there from now on
        torch.cuda.set_sync_debug_mode("error")
        try:
            reading = Reading([value.sum()[None], value[0]])
            numbers = arrived([reading])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert numbers[0] == pytest.approx(value.sum().item())
    assert len(numbers) == 65


def test_numbers_set_out_when_their_forward_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that whoever waits for them waits for nothing that came after it."""
    from tests.tiny import wan_transformer

    order: list[str] = []
    set_out, told = Reading.__init__, bwcache.BWCache.refresh

    def setting_out(self: Reading, parts: list[torch.Tensor]) -> None:
        order.append(f"out {forwards}")
        set_out(self, parts)

    def telling(self: bwcache.BWCache, *args: object) -> None:
        order.append(f"told {forwards}")
        told(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Reading, "__init__", setting_out)
    monkeypatch.setattr(bwcache.BWCache, "refresh", telling)
    module, forwards = wan_transformer(), 0
    with torch.no_grad(), bwcache.attach(module, bwcache.BWCache(threshold=1e-9), steps=3):
        for forwards in range(3):
            latents, text = torch.ones(1, 4, 2, 8, 8), torch.ones(1, 3, 8)
            module(latents, torch.tensor([900 - 100 * forwards]), text)
    assert order[:4] == ["out 0", "told 1", "out 1", "told 2"]
