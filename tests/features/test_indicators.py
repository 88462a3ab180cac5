"""The indicator against numpy in float64, and samples against all entries."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bwcache.features import sampling
from bwcache.features.indicators import relative_l1
from bwcache.features.taps import ExactTaps, LateTaps, SampledTaps, Taps, taps
from tests.tiny import noise


def by_numpy(new: torch.Tensor, old: torch.Tensor) -> np.ndarray:
    """Eq. 5, numerators and denominators, one column per tap."""
    a, b = (tensor.detach().to(torch.float64).numpy().reshape(len(tensor), -1) for tensor in (new, old))
    return np.stack((np.abs(a - b).sum(axis=1), np.abs(b).sum(axis=1)))


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, every second entry of a larger tensor."""
    return torch.stack((tensor, torch.full_like(tensor, 9.0)), dim=-1)[..., 0]


SHAPES = [(1, 1, 1), (1, 2, 3), (3, 1, 7), (5, 2, 131), (40, 2, 4096), (2, 3, 5, 7, 11), (7, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "strided", "transposed"])
def test_relative_l1_is_numpys(shape: tuple[int, ...], layout: str) -> None:
    new, old = noise(*shape, seed=1), noise(*shape, seed=2)
    expected = by_numpy(new, old)
    if layout == "strided":
        new, old = strided(new), strided(old)
    if layout == "transposed":
        new, old = (t.transpose(1, -1).contiguous().transpose(1, -1) for t in (new, old))
    measured = relative_l1(new, old)
    assert measured.shape == (2, shape[0])
    assert measured.dtype == torch.float32
    np.testing.assert_allclose(measured.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_relative_l1_adds_up_half_precision_in_single(dtype: torch.dtype) -> None:
    old = noise(2, 1, 100_000, seed=1).to(dtype)
    new = (old.float() + 0.5 * noise(2, 1, 100_000, seed=2)).to(dtype)
    difference = (new - old).to(torch.float64).abs().numpy().sum(axis=(1, 2))
    measured = relative_l1(new, old).numpy()
    np.testing.assert_allclose(measured[0], difference, rtol=1e-4)
    np.testing.assert_allclose(measured[1], by_numpy(new, old)[1], rtol=1e-4)


def test_relative_l1_leaves_its_arguments_alone() -> None:
    new, old = noise(2, 1, 9, seed=1), noise(2, 1, 9, seed=2)
    kept = new.clone(), old.clone()
    relative_l1(new, old)
    assert torch.equal(new, kept[0])
    assert torch.equal(old, kept[1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_visible(value: float) -> None:
    new, old = noise(2, 1, 9, seed=1), noise(2, 1, 9, seed=2)
    new[1, 0, 4] = value
    measured = relative_l1(new, old)
    assert torch.isfinite(measured[:, 0]).all()
    assert not torch.isfinite(measured[0, 1])


def record(tapped: Taps, features: list[torch.Tensor]) -> torch.Tensor | None:
    for i, feature in enumerate(features):
        tapped.record(i, feature)
    return tapped.measure()


FEATURES = [(1, 16, 8), (2, 33, 12), (1, 7, 5), (3, 2, 3, 4), (1, 1, 1)]


@pytest.mark.parametrize("shape", FEATURES, ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_exact_taps_measure_eq_5(shape: tuple[int, ...], count: int) -> None:
    tapped = ExactTaps(count)
    steps = [[noise(*shape, seed=10 * step + i) for i in range(count)] for step in range(4)]
    assert record(tapped, steps[0]) is None
    for before, now in pairwise(steps):
        expected = by_numpy(torch.stack(now), torch.stack(before))
        np.testing.assert_allclose(record(tapped, now).numpy(), expected, rtol=1e-5)
    assert tapped.nbytes == count * steps[0][0].nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_all_entries_are_measured_to_a_ten_thousandth_whatever_their_precision(dtype: torch.dtype) -> None:
    for tapped in (SampledTaps(2, 1), ExactTaps(2)):
        before, now = ([noise(1, 16, 8, seed=10 * step + i).to(dtype) for i in range(2)] for step in range(2))
        record(tapped, before)
        expected = by_numpy(torch.stack(now), torch.stack(before))
        np.testing.assert_allclose(record(tapped, now).numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("shape", FEATURES, ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_a_sample_of_everything_measures_what_exact_taps_do(shape: tuple[int, ...], count: int) -> None:
    sampled, exact = SampledTaps(count, 1.0), ExactTaps(count)
    for step in range(4):
        features = [noise(*shape, seed=10 * step + i) for i in range(count)]
        a, b = record(sampled, features), record(exact, features)
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=0)


def smooth(step: float, shape: tuple[int, ...] = (1, 300, 64)) -> torch.Tensor:
    """A feature that changes smoothly over tokens and steps, with channels of their own."""
    tokens = torch.linspace(0, 9, shape[1])[None, :, None]
    channels = noise(1, 1, shape[2], seed=5)
    return torch.sin(tokens + step * channels) * (1 + channels.abs()) + 0.1 * noise(*shape, seed=6)


@pytest.mark.parametrize("share", [None, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("step", [0.05, 0.2, 1.0])
def test_a_sample_is_close_to_all_of_it(share: float | None, step: float) -> None:
    sampled, exact = SampledTaps(4, share), ExactTaps(4)
    for time in (0.0, step):
        features = [smooth(time + i) for i in range(4)]
        a, b = record(sampled, features), record(exact, features)
    torch.testing.assert_close(a[0] / a[1], b[0] / b[1], rtol=0.1, atol=0)


@pytest.mark.parametrize("blocks", [4, 12, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_samples_together_weigh_less_than_a_quarter_of_a_hidden_state(blocks: int, dtype: torch.dtype) -> None:
    tapped = SampledTaps(blocks, None)
    features = [noise(1, 4096, 48, seed=i).to(dtype) for i in range(blocks)]
    record(tapped, features)
    assert 0.17 <= tapped.nbytes / features[0].nbytes <= 0.24


@pytest.mark.parametrize(
    ("tokens", "width", "blocks"),
    [(32_760, 1536, 30), (32_760, 5120, 40), (67_320, 3072, 60), (75_600, 5120, 40)],
    ids=["wan_1.3b", "wan_14b", "hunyuan_video", "wan_14b_720p"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_of_large_hidden_states_a_small_share_is_enough(
    tokens: int, width: int, blocks: int, dtype: torch.dtype
) -> None:
    """A number of entries bounds the noise; each block's exceeds the width, so that each channel is looked at."""
    feature = torch.empty(2, tokens, width, dtype=dtype, device="meta")
    walk = sampling.Walk.through(feature, blocks, None)
    assert blocks * walk.entries * walk.dtype.itemsize < 0.01 * feature.nbytes
    assert max(width, 4000) < walk.entries <= sampling.MOST_ENTRIES // blocks


def test_a_small_share_is_close_to_all_of_it_though_few_channels_are_far_larger() -> None:
    """As in real transformers, where some channels are a hundred times as large as the others."""
    sizes = torch.ones(512).index_fill_(0, torch.arange(0, 512, 100), 100.0)
    sampled, exact = SampledTaps(8, None), ExactTaps(8)
    for step in range(2):
        features = [(noise(1, 8192, 512, seed=i) + 0.1 * step * noise(1, 8192, 512, seed=9)) * sizes for i in range(8)]
        a, b = record(sampled, features), record(exact, features)
    assert sampled.nbytes < 0.05 * features[0].nbytes
    torch.testing.assert_close((a[0] / a[1]).mean(), (b[0] / b[1]).mean(), rtol=0.01, atol=0)


SIZES = st.tuples(st.integers(1, 3), st.integers(1, 60), st.integers(1, 24))


@given(SIZES, st.integers(1, 60), st.one_of(st.none(), st.floats(0.001, 1)))
def test_a_tap_keeps_what_was_asked_for_and_never_too_few(size, taps: int, share: float | None) -> None:  # type: ignore[no-untyped-def]
    feature = torch.zeros(size)
    n = sampling.stride(feature, taps, share)
    kept = feature.numel() // n
    assert kept >= min(feature.numel(), sampling.FEWEST_ENTRIES)
    assert all(math.gcd(n, length) == 1 for length in size[1:])
    if share is not None and feature.numel() * share > 2 * sampling.FEWEST_ENTRIES:
        assert 1 / (1 / share + 12) <= 1 / n <= share + 1e-6


def sampled(feature: torch.Tensor, n: int, first: int = 0) -> torch.Tensor:
    return sampling.every(n, feature, first, feature.dtype)


@given(SIZES, st.integers(1, 99), st.integers(0, 200))
def test_a_sample_is_of_distinct_entries_whatever_the_tap(size, n: int, first: int) -> None:  # type: ignore[no-untyped-def]
    feature = torch.arange(math.prod(size)).reshape(size)
    kept = sampled(feature, n, first)
    assert kept.shape == (feature.numel() // n,)
    assert len(set(kept.tolist())) == len(kept)


def test_taps_and_branches_look_at_different_entries_until_all_are_seen() -> None:
    feature = torch.arange(80 * 128).reshape(1, 80, 128)
    seen = torch.cat([sampled(feature, 27, tap) for tap in range(27)])
    assert len(set(seen.tolist())) == len(seen) == 80 * 128 // 27 * 27


def test_a_sample_walks_through_channels_and_tokens() -> None:
    feature = torch.arange(300 * 64).reshape(1, 300, 64)
    kept = sampled(feature, sampling.stride(feature, 4, 0.05))
    assert len(set((kept % 64).tolist())) == 64
    assert len(set((kept // 64).tolist())) > 250


@pytest.mark.parametrize("share", [0.02, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("width", [12, 48, 63, 64])
def test_a_sample_reaches_the_last_tokens(share: float, width: int) -> None:
    feature = torch.arange(300 * width).reshape(1, 300, width)
    tokens = sampled(feature, sampling.stride(feature, 4, share)) // width
    thirds = [((tokens >= low) & (tokens < low + 100)).sum().item() for low in (0, 100, 200)]
    assert min(thirds) >= 0.75 * max(thirds)  # a motion in the last frames weighs as much as one in the first


Kind = Callable[[int], Taps]
each_kind = pytest.mark.parametrize(
    "kind",
    [
        lambda count: SampledTaps(count, None),
        lambda count: LateTaps(count, None),
        lambda count: SampledTaps(count, 1),
        lambda count: LateTaps(count, 1),
        ExactTaps,
    ],
    ids=["sampled", "sampled late", "exact", "exact, late", "exact, large"],
)


def test_all_entries_are_at_hand_twice_only_where_they_are_few() -> None:
    few, many = (torch.empty(1, tokens, 1536, dtype=torch.bfloat16, device="meta") for tokens in (300, 32_760))
    assert isinstance(taps(few, 30, 1), SampledTaps)
    assert isinstance(taps(many, 30, 1), ExactTaps)
    assert isinstance(taps(many, 30, None), SampledTaps)


LAYOUTS = {
    "channels first": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "batch last": lambda x: x.permute(1, 2, 0).contiguous().permute(2, 0, 1),
    "a slice": lambda x: torch.cat((x, x), 1)[:, : x.shape[1]],
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tap_does_not_care_how_its_block_lays_out_what_it_returns(layout: str, batch: int) -> None:
    """Nor whether that changes from step to step: as compilers do it."""
    before, after = ([noise(batch, 400, 8, seed=10 * step + i) for i in range(2)] for step in range(2))
    for first, then in (
        (lambda x: x, LAYOUTS[layout]),
        (LAYOUTS[layout], LAYOUTS[layout]),
        (LAYOUTS[layout], lambda x: x),
    ):
        ways = []
        for kind in (lambda count: SampledTaps(count, 0.3), ExactTaps):
            tapped = kind(2)
            assert record(tapped, [first(feature) for feature in before]) is None
            ways.append(record(tapped, [then(feature) for feature in after]))
            again = record(tapped, [first(feature) for feature in after])
            assert again[0].tolist() == [0, 0]
        sampled, exact = ((found[0] / found[1]).tolist() for found in ways)
        assert sampled == pytest.approx(exact, rel=0.15)


def test_a_feature_that_lies_channels_first_is_sampled_where_it_lies() -> None:
    from torch.profiler import ProfilerActivity, profile

    features = [LAYOUTS["channels first"](noise(1, 4096, 256, seed=step)) for step in range(3)]
    tapped = SampledTaps(1, 0.01)
    record(tapped, features[:1])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        record(tapped, features[1:2])
        record(tapped, features[2:])
    assert 0 < max(event.cpu_memory_usage for event in seen.events()) < 0.1 * features[0].nbytes


def test_taps_of_different_shapes_are_measured_each_for_itself() -> None:
    tapped = SampledTaps(2, None)
    before = [noise(1, 400, 8, seed=1), noise(8, 90, 8, seed=2)]
    record(tapped, before)
    measured = record(tapped, [1.5 * feature for feature in before])
    torch.testing.assert_close(measured[0] / measured[1], torch.tensor([0.5, 0.5]), rtol=0.01, atol=0)


@each_kind
def test_another_shape_is_not_compared(kind: Kind) -> None:
    tapped = kind(2)
    record(tapped, [noise(1, 400, 8, seed=i) for i in range(2)])
    assert record(tapped, [noise(1, 500, 8, seed=i) for i in range(2)]) is None
    assert record(tapped, [noise(1, 500, 8, seed=i) for i in range(2)]) is not None
    assert record(tapped, [noise(1, 500, 8, seed=i).bfloat16() for i in range(2)]) is None
    assert record(tapped, [noise(2, 500, 8, seed=i).bfloat16() for i in range(2)]) is None


@each_kind
def test_each_tap_keeps_its_own_past(kind: Kind) -> None:
    """A block that was left out is compared, when it comes by again, with what it returned the last time."""
    alone, tapped = [kind(3), kind(3)], kind(3)
    first, partly, third = ([noise(1, 400, 8, seed=10 * step + i) for i in range(3)] for step in range(3))
    assert record(tapped, first) is None
    some = record(tapped, partly[:2])
    assert some[:, 2].tolist() == [0.0, 0.0]
    found = record(tapped, third)
    for one, before in zip(alone, (first, partly), strict=True):
        record(one, before)
    since_first, since_partly = (record(one, third) for one in alone)
    assert torch.equal(found[:, 2], since_first[:, 2])
    assert torch.equal(found[:, :2], since_partly[:, :2])
    assert record(tapped, third).sum(dim=1)[0] == 0


@each_kind
def test_what_a_tap_keeps_is_a_copy(kind: Kind) -> None:
    tapped = kind(1)
    feature = noise(1, 400, 8)
    original = feature.clone()
    record(tapped, [feature])
    feature.zero_()
    numerators, _ = record(tapped, [original])
    assert numerators.item() == 0
