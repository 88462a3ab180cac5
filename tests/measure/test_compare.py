import dataclasses
import json
import math

import numpy as np
import pytest
import torch

import bwcache
from bwcache import shapes
from bwcache.measure import compare

TOTAL = {
    "speedup", "denoise_speedup", "ideal_denoise_speedup", "reuse_rate", "psnr", "ssim", "indicator_share",
    "extra_memory_bytes",
}  # fmt: skip
RUN = {
    "prompt", "seed", "steps", "computed", "reused", "first_trigger", "uncached_seconds", "cached_seconds", "psnr",
    "ssim",
}  # fmt: skip
PROMPTS = ["a red circle", "a blue square"]
STEPS = 8


@pytest.fixture(scope="module")
def pipe():
    pipe = shapes.load()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def measured(pipe, policy, **values):
    pairs = []
    settings = {"steps": STEPS, "height": 32, "width": 32, "frames": 5, "guidance_scale": 4.0} | values
    comparison = compare(pipe, policy, PROMPTS, on_run=lambda run, pair: pairs.append(pair), **settings)
    return comparison, pairs


def test_a_denoiser_that_is_reused_as_a_whole_saves_all_of_a_forward(pipe):
    run = measured(pipe, bwcache.Planned(computed=2))[0].runs[0]
    assert run.computed == 2
    assert run.ideal_denoise_speedup == pytest.approx(STEPS / 2)


def test_a_comparison_that_reuses(pipe):
    policy = bwcache.BWCache(threshold=10.0, reuse_interval=2)
    comparison, pairs = measured(pipe, policy, repeats=2, name="shapes")
    row = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert set(row) == {"model", "policy", "environment", "runs", "total"}
    assert set(row["total"]) >= TOTAL
    assert [run["prompt"] for run in row["runs"]] == PROMPTS
    for run, pair in zip(comparison.runs, pairs, strict=True):
        assert run.to_json().keys() >= RUN
        assert run.steps == STEPS == run.computed + run.reused
        assert run.reused > 0
        assert run.first_trigger is not None
        assert run.reuse_rate == pytest.approx(run.reused / STEPS)
        assert run.trace.steps == STEPS
        assert run.extra_memory_bytes > 0
        assert 0 < run.indicator_share < 1
        assert pair.uncached.shape == pair.cached.shape == (5, 32, 32, 3)
    assert 0.3 < comparison.block_share <= 1
    ideal = 1 / (1 - comparison.runs[0].reuse_rate * comparison.block_share)
    assert comparison.runs[0].ideal_denoise_speedup == pytest.approx(ideal)
    total = comparison.total
    assert total.speedup == pytest.approx(total.uncached_seconds / total.cached_seconds)
    assert total.denoise_speedup == pytest.approx(total.uncached_denoise_seconds / total.cached_denoise_seconds)
    assert total.worst_ssim <= total.ssim
    assert not pipe.transformer._forward_hooks


def test_what_is_reused_saves_time(pipe):
    """A machine that is busy meanwhile gets three tries."""
    policy = bwcache.BWCache(threshold=10.0, reuse_interval=2)
    tries = (measured(pipe, policy, repeats=2)[0].total.denoise_speedup for _ in range(3))
    assert any(speedup > 1.1 for speedup in tries)


def test_a_threshold_that_is_never_reached_gives_identical_videos_and_says_so(pipe):
    comparison, pairs = measured(pipe, bwcache.BWCache(threshold=1e-9))
    total = json.loads(json.dumps(comparison.to_json(), allow_nan=False))["total"]
    assert all(np.array_equal(pair.uncached, pair.cached) for pair in pairs)
    assert all(math.isinf(run.psnr) and run.identical for run in comparison.runs)
    assert total["psnr"] is None
    assert total["identical_runs"] == len(PROMPTS)
    assert total["reuse_rate"] == 0
    assert total["ideal_denoise_speedup"] == pytest.approx(1.0)
    assert comparison.runs[0].notes
    assert comparison.runs[0].to_json()["psnr"] is None


def test_the_uncached_side_is_the_plain_pipeline(pipe):
    from bwcache.measure.call import Request, call

    _, pairs = measured(pipe, bwcache.BWCache(threshold=10.0), seed=3)
    plain = call(pipe, Request(PROMPTS[1], STEPS, 3, 4.0, 32, 32, 5))
    assert np.array_equal(plain.frames, pairs[1].uncached)


def test_a_window_longer_than_the_warm_up(pipe):
    comparison, _ = measured(pipe, bwcache.BWCache(threshold=10.0, reuse_interval=7))
    assert comparison.runs[0].reused > 0


def test_policies_are_described_in_plain_values():
    row = json.loads(json.dumps(bwcache.BWCache(blocks=(0, 3), predictor=bwcache.Linear()).describe()))
    assert row["name"] == "BWCache"
    assert row["blocks"] == [0, 3]
    assert "Linear" in row["predictor"]


@pytest.fixture
def strong_output(pipe):
    """With strong weights at the output, reuse shows in the video, whatever the model has learned."""
    weight = pipe.transformer.proj_out.weight
    kept = weight.clone()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        weight.copy_(torch.randn_like(weight) * 0.1)
        yield
        weight.copy_(kept)


def test_quality_is_that_of_the_two_videos(pipe, strong_output):
    from bwcache.measure.quality import psnr, ssim

    comparison, pairs = measured(pipe, bwcache.BWCache(threshold=10.0, reuse_interval=3))
    for run, pair in zip(comparison.runs, pairs, strict=True):
        assert run.psnr == pytest.approx(psnr(pair.uncached, pair.cached))
        assert run.ssim == pytest.approx(ssim(pair.uncached, pair.cached))
        assert not run.identical
        assert run.psnr < 80
    total = comparison.total
    assert total.worst_psnr == min(run.psnr for run in comparison.runs)
    assert total.identical_runs == 0


def test_vmaf_stands_beside_them(pipe, strong_output):
    from bwcache.measure import ffmpeg
    from bwcache.measure.vmaf import vmaf

    if (why := ffmpeg.problem("libvmaf")) is not None:
        pytest.skip(why)
    comparison, pairs = measured(pipe, bwcache.BWCache(threshold=10.0, reuse_interval=3))
    for run, pair in zip(comparison.runs, pairs, strict=True):
        assert run.vmaf == pytest.approx(vmaf(pair.uncached, pair.cached))
    assert comparison.total.worst_vmaf == min(run.vmaf for run in comparison.runs)
    kept = [run.motion_kept for run in comparison.runs]
    assert all(kept)
    assert comparison.total.motion_kept == pytest.approx(sum(kept) / len(kept))
    assert comparison.total.worst_motion_kept == max(kept, key=lambda value: abs(value - 1))


def test_what_cannot_be_measured_is_none_with_a_reason_and_not_averaged_away(pipe):
    comparison, _ = measured(pipe, bwcache.BWCache(threshold=10.0))
    row = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert row["runs"][0]["ms_ssim"] is None
    assert row["runs"][0]["lpips_backbone"] == "alex"
    assert "32 x 32 pixels" in row["runs"][0]["unmeasured"][0]
    runs = [
        dataclasses.replace(run, ms_ssim=value, lpips=1 - value, vmaf=100 * value, xpsnr=xpsnr)
        for run, value, xpsnr in zip(comparison.runs, (0.8, 0.9), (30.0, math.inf), strict=True)
    ]
    total = dataclasses.replace(comparison, runs=tuple(runs)).total
    assert (total.ms_ssim, total.worst_ms_ssim) == pytest.approx((0.85, 0.8))
    assert (total.lpips, total.worst_lpips) == pytest.approx((0.15, 0.2))
    assert (total.vmaf, total.worst_vmaf) == pytest.approx((85, 80))
    assert (total.xpsnr, total.worst_xpsnr) == (30, 30)  # of the video whose luma differs
    assert runs[1].to_json()["xpsnr"] is None
    runs[0] = dataclasses.replace(runs[0], lpips=None)
    total = dataclasses.replace(comparison, runs=tuple(runs)).total
    assert total.lpips is None
    assert total.worst_lpips is None
    assert total.ms_ssim == pytest.approx(0.85)
