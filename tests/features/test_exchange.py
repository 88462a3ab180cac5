"""A kept feature compared and overwritten in one pass, against numpy in float64: by torch, and by the Triton kernel.

Without CUDA the kernel runs in Triton's interpreter: `TRITON_INTERPRET=1 python -m pytest tests/features`.
"""

import importlib.util
import os
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bwcache.features import exchange as by_torch
from tests.tiny import noise

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(scope="module")
def kernel() -> ModuleType:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed: pip install triton")
    if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("without CUDA the kernel needs Triton's interpreter: set TRITON_INTERPRET=1")
    from bwcache.features import kernel

    return kernel


def layouts(values: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values, lying otherwise in memory."""
    if layout == "strided":
        return torch.stack((values, torch.full_like(values, 9.0)), dim=-1)[..., 0]
    if layout == "transposed":
        return values.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "reversed":
        return values.permute(*reversed(range(values.ndim))).contiguous().permute(*reversed(range(values.ndim)))
    if layout == "padded":
        return torch.nn.functional.pad(values, (2, 3))[..., 2 : 2 + values.shape[-1]]
    if layout == "repeated":
        return values[:1].expand_as(values)
    return values


LAYOUTS = ["contiguous", "strided", "transposed", "reversed", "padded", "repeated"]
SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=6).map(tuple)


def check(exchange, shape, dtype, layout, seed=0, tolerance=1e-4) -> None:  # type: ignore[no-untyped-def]
    old = noise(*shape, seed=seed).to(dtype).to(DEVICE)
    new = layouts(noise(*shape, seed=seed + 1).to(dtype).to(DEVICE), layout)
    kept, original = old.clone(), new.clone()
    changed, before = exchange(kept, new)
    a, b = (tensor.double().cpu().numpy() for tensor in (new, old))
    assert changed.dtype == before.dtype == torch.float32
    np.testing.assert_allclose(changed.item(), np.abs(a - b).sum(), rtol=tolerance, atol=1e-30)
    np.testing.assert_allclose(before.item(), np.abs(b).sum(), rtol=tolerance)
    assert torch.equal(kept, original)
    assert torch.equal(new, original)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, layout=st.sampled_from(LAYOUTS), seed=st.integers(0, 99))
def test_by_torch_it_is_numpys(dtype: torch.dtype, shape: tuple[int, ...], layout: str, seed: int) -> None:
    check(by_torch.exchange, shape, dtype, layout, seed)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=25, deadline=None)
@given(shape=SHAPES, layout=st.sampled_from(LAYOUTS), seed=st.integers(0, 99))
def test_by_the_kernel_it_is_numpys(
    kernel: ModuleType, dtype: torch.dtype, shape: tuple[int, ...], layout: str, seed: int
) -> None:
    check(kernel.exchange, shape, dtype, layout, seed)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_piece_by_piece_it_is_the_same(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large features go through in pieces, along memory or along an axis."""
    monkeypatch.setitem(by_torch.PIECE, "cpu", 100)
    monkeypatch.setattr(by_torch, "LARGE_PIECE", 100)
    for shape in ((3, 70, 11), (1000,), (7, 5, 300), (2, 2, 2)):
        check(by_torch.by_pieces, shape, torch.float32, layout)


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "padded"])
def test_the_kernel_adds_up_many_blocks_in_many_parts(
    kernel: ModuleType, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "PROGRAMS", 3)  # so that each program walks on
    check(kernel.exchange, (5, 131, 13), torch.bfloat16, layout)


def test_the_kernel_can_count_in_64_bits(kernel: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_reach", lambda axes: 1 << 31)
    check(kernel.exchange, (3, 17, 70), torch.float32, "padded")


def test_axes_that_lie_together_are_one(kernel: ModuleType) -> None:
    feature = noise(2, 3, 4, 5)
    assert kernel.joined_axes(feature, feature.clone()) == [(120, 1, 1)]
    swapped = feature.transpose(1, 2)
    assert kernel.joined_axes(swapped.clone(), swapped) == [(120, 1, 1)]
    assert kernel.joined_axes(swapped.contiguous(), swapped) == [(2, 60, 60), (4, 15, 5), (3, 5, 20), (5, 1, 1)]
    assert kernel.joined_axes(noise(1, 1), noise(1, 1)) == [(1, 1, 1)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_visible(value: float) -> None:
    kept, new = noise(4, 9, seed=1), noise(4, 9, seed=2)
    new[2, 3] = value
    changed, before = by_torch.exchange(kept, new)
    assert not torch.isfinite(changed)
    assert torch.isfinite(before)
    changed, before = by_torch.exchange(kept, noise(4, 9, seed=3))
    assert not torch.isfinite(changed)
    assert not torch.isfinite(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_of_a_features_size_is_allocated(dtype: torch.dtype) -> None:
    from torch.profiler import ProfilerActivity, profile

    kept = noise(8, 1 << 20).to(dtype)
    new = kept.clone()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        by_torch.by_pieces(kept, new)
    largest = max(event.cpu_memory_usage for event in seen.events())
    assert 0 < largest <= 2 * 4 * by_torch.PIECE["cpu"] < 4 * kept.numel()


@pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA")
def test_on_cuda_the_kernel_is_used_and_nothing_waits() -> None:
    kept, new = torch.zeros(3, 70, 11, device="cuda"), torch.ones(3, 70, 11, device="cuda")
    assert by_torch._fused(new.device) is not None
    torch.cuda.set_sync_debug_mode("error")
    try:
        changed, _ = by_torch.exchange(kept, new)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert changed.item() == 3 * 70 * 11
