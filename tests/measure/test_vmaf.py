"""VMAF, XPSNR and VMAF's motion by ffmpeg: what they say of videos that are known, and what cannot be measured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bwcache import SettingError
from bwcache.measure import ffmpeg
from bwcache.measure.motion import motion, vmafmotion
from bwcache.measure.quality import quality
from bwcache.measure.vmaf import frame_measures, frame_motion, vmaf, xpsnr


def moving(frames: int = 5, height: int = 48, width: int = 48, speed: int = 2) -> np.ndarray:
    """A bright disc that moves over a gradient, float32."""
    y, x = np.mgrid[0:height, 0:width]
    shades = [
        np.where(
            (x - width / 4 - speed * t) ** 2 + (y - height / 2) ** 2 < (height / 5) ** 2, 0.9, 0.1 + 0.4 * y / height
        )
        for t in range(frames)
    ]
    return np.repeat(np.stack(shades)[..., None], 3, axis=3).astype(np.float32)


def noisy(video: np.ndarray, noise: float) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.clip(video + noise * random.standard_normal(video.shape), 0, 1).astype(np.float32)


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    """What is known of ffmpeg is forgotten between tests."""
    yield
    ffmpeg.executable.cache_clear()
    ffmpeg.filters.cache_clear()


def has(name: str) -> Any:
    return pytest.mark.skipif(ffmpeg.problem(name) is not None, reason=str(ffmpeg.problem(name)))


with_vmaf, with_xpsnr, with_motion = has("libvmaf"), has("xpsnr"), has("vmafmotion")


@with_vmaf
def test_identical_videos_have_what_the_model_gives_them() -> None:
    found = frame_measures(moving(), moving(), ["vmaf"])["vmaf"]
    assert found[0] == pytest.approx(97.4, abs=0.1)  # as far as the model knows nothing moved yet
    assert 97.4 < found[1:].min() <= found.max() <= 100
    still = frame_measures(moving(speed=0), moving(speed=0), ["vmaf"])["vmaf"]
    assert still == pytest.approx(97.4, abs=0.1)


@with_vmaf
@pytest.mark.parametrize(("frames", "height", "width"), [(5, 32, 32), (1, 32, 32), (4, 33, 47), (3, 17, 64)])
def test_the_more_noise_the_less_vmaf(frames: int, height: int, width: int) -> None:
    video = moving(frames, height, width)
    found = [vmaf(video, noisy(video, noise)) for noise in (0, 0.01, 0.05, 0.2)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 96.5
    assert found[-1] < 60


@with_xpsnr
def test_xpsnr_falls_with_noise_and_is_infinite_without() -> None:
    video = moving()
    assert xpsnr(video, video) == np.inf
    found = [xpsnr(video, noisy(video, noise)) for noise in (0.01, 0.05, 0.2)]
    assert found == sorted(found, reverse=True)
    assert found[0] - found[2] > 10
    one = np.concatenate([video[:4], noisy(video[4:], 0.05)])
    values = frame_measures(video, one, ["xpsnr"])["xpsnr"]
    assert np.isinf(values[:4]).all()
    assert xpsnr(video, one) == values[4]  # frames whose luma does not differ are left out


@with_xpsnr
def test_xpsnr_weighs_errors_by_what_hides_them() -> None:
    random = np.random.default_rng(1)
    flat, rough = np.full((3, 64, 64, 3), 0.5, np.float32), random.random((3, 64, 64, 3), dtype=np.float32)
    assert xpsnr(rough, noisy(rough, 0.02)) > xpsnr(flat, noisy(flat, 0.02)) + 5


@with_vmaf
@with_xpsnr
def test_whatever_kind_of_floats_and_both_at_once() -> None:
    video, other = moving(), noisy(moving(), 0.05)
    both = frame_measures(video, other, ["vmaf", "xpsnr"])
    assert both["vmaf"].shape == both["xpsnr"].shape == (5,)
    for kind in (np.float16, np.float64):
        again = frame_measures(video.astype(kind), other.astype(kind), ["vmaf", "xpsnr"])
        assert again["vmaf"] == pytest.approx(both["vmaf"], abs=0.5)
    assert vmaf(video * 1.0, np.asfortranarray(other)) == pytest.approx(both["vmaf"].mean())
    over = video + np.where(video > 0.8, 5.0, 0.0).astype(np.float32)  # cut at 1
    assert vmaf(np.clip(over, 0, 1), over) == vmaf(np.clip(over, 0, 1), np.clip(over, 0, 1))


def test_luma_is_that_of_bt_709_in_ten_bits() -> None:
    colours = np.array([[[[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]]], np.float32)
    assert ffmpeg.luma(colours).tolist() == [[[64, 940, 250, 691, 127]]]


@with_motion
def test_motion_grows_with_speed_and_a_still_has_none() -> None:
    values = [vmafmotion(moving(speed=speed)) for speed in (0, 1, 3)]
    assert values[0] == 0 < values[1] < values[2]
    assert frame_motion(moving(5)).shape == (4,)
    assert motion(moving()).vmafmotion == vmafmotion(moving())


@with_motion
def test_how_much_motion_is_kept() -> None:
    lively, calm, still = moving(speed=3), moving(speed=1), moving(speed=0)
    kept = quality(lively, calm, None).motion_kept
    assert kept is not None
    assert 0 < kept < 1
    assert kept == pytest.approx(vmafmotion(calm) / vmafmotion(lively), rel=1e-4)
    assert quality(calm, lively, None).motion_kept == pytest.approx(1 / kept, rel=1e-3)
    assert quality(lively, lively, None).motion_kept == 1
    assert quality(lively, still, None).motion_kept == 0
    found = quality(still, still, None)
    assert found.motion_kept is None
    assert any(note.startswith("Motion kept: found a reference that is a still") for note in found.notes)


@with_motion
def test_an_image_has_no_motion_to_miss() -> None:
    found = quality(moving(1), moving(1), None)
    assert found.motion_kept is None
    assert not any(note.startswith("Motion") for note in found.notes)


@with_vmaf
def test_quality_has_them_and_says_what_is_missing() -> None:
    video = moving(height=32, width=32)
    found = quality(video, noisy(video, 0.05), None)
    assert found.vmaf is not None
    assert found.vmaf == vmaf(video, noisy(video, 0.05))
    assert found.xpsnr is None
    assert any(note.startswith("XPSNR: found frames of 32 x 32 pixels; expected at least 2025") for note in found.notes)


def test_sizes_that_cannot_be_measured_are_refused() -> None:
    with pytest.raises(SettingError, match="16 x 64 pixels; expected at least 17 on each side"):
        vmaf(moving(2, 16, 64), moving(2, 16, 64))
    with pytest.raises(SettingError, match="97 x 100 pixels; expected sides that are multiples of 4"):
        xpsnr(moving(2, 97, 100), moving(2, 97, 100))
    with pytest.raises(SettingError, match="16 x 64 pixels; expected at least 17 on each side"):
        frame_motion(moving(2, 16, 64))
    with pytest.raises(SettingError, match="1 frames; expected at least 2"):
        vmafmotion(moving(1))
    with pytest.raises(ValueError, match="equal shapes"):
        vmaf(moving(2), moving(3))


def test_an_ffmpeg_without_libvmaf_leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ffmpeg.filters
    monkeypatch.setattr(ffmpeg, "filters", lambda program: real(program) - {"libvmaf", "vmafmotion"})
    found = quality(moving(), noisy(moving(), 0.05), None)
    assert found.vmaf is None
    assert found.psnr > 20
    assert any(note.startswith("VMAF: found ffmpeg") and "without libvmaf" in note for note in found.notes)
    assert (found.xpsnr is None) == any(note.startswith("XPSNR") for note in found.notes)
    moved = motion(moving())
    assert moved.vmafmotion is None
    assert any(note.startswith("vmafmotion: found ffmpeg") for note in moved.notes)


def test_without_any_ffmpeg_nothing_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    ffmpeg.executable.cache_clear()
    found = quality(moving(), noisy(moving(), 0.05), None)
    assert found.vmaf is found.xpsnr is None
    assert found.motion_kept is None
    assert sum("no imageio-ffmpeg" in note and "bwcache[plots]" in note for note in found.notes) == 3


def test_an_ffmpeg_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(command: Any, **_: Any) -> Any:
        return subprocess.CompletedProcess(command, 1, b"", b"[libvmaf @ 0x1] could not load model\nError\n")

    monkeypatch.setattr(ffmpeg, "problem", lambda name: None)
    monkeypatch.setattr(subprocess, "run", failed)
    with pytest.raises(SettingError, match=r"^found an ffmpeg that failed \(could not load model\); expected .*"):
        vmaf(moving(), moving())
    found = quality(moving(), noisy(moving(), 0.05), None)
    assert found.vmaf is found.xpsnr is None
    assert len(found.notes) == 4  # MS-SSIM too

    def gone(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(subprocess, "run", gone)
    with pytest.raises(SettingError, match="that does not start"):
        vmaf(moving(), moving())


def test_what_it_writes_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    quality(moving(), noisy(moving(), 0.05), None)
    assert list(tmp_path.iterdir()) == []
