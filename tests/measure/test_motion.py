"""Motion of videos whose motion is known, because they were made of it."""

import importlib.util

import numpy as np
import pytest

from bwcache import SettingError
from bwcache.measure.motion import difference, flow, frame_flow, motion, split

SIZE = 64
with_opencv = pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="no OpenCV")


def surface(size=3 * SIZE, smooth=2.5):
    """A picture of soft random patches, 0..1: noise under a Gaussian."""
    noise = np.random.default_rng(0).standard_normal((size, size))
    waves = np.fft.fftfreq(size)
    bell = np.exp(-2 * (np.pi * smooth) ** 2 * (waves[:, None] ** 2 + waves[None] ** 2))
    picture = np.fft.ifft2(np.fft.fft2(noise) * bell).real
    return (picture - picture.min()) / np.ptp(picture)


def moving(x, y=0, frames=6, contrast=1.0):
    """The surface seen through a window that moves by (x, y) pixels per frame."""
    whole = 0.5 + contrast * (surface() - 0.5)
    starts = [(SIZE + y * t, SIZE + x * t) for t in range(frames)]
    video = np.stack([whole[top : top + SIZE, left : left + SIZE] for top, left in starts])
    return np.repeat(video[..., None], 3, axis=-1).astype(np.float32)


@with_opencv
@pytest.mark.parametrize(("x", "y", "length"), [(0, 0, 0.0), (1, 0, 1.0), (0, 3, 3.0), (3, 4, 5.0)])
def test_flow_is_the_length_of_the_shift(x, y, length):
    assert frame_flow(moving(x, y)) == pytest.approx([length] * 5, abs=0.05)


@with_opencv
def test_flow_hardly_depends_on_contrast_as_the_difference_does():
    strong, faint = moving(2), moving(2, contrast=0.5)
    assert flow(faint) == pytest.approx(flow(strong), rel=0.05)
    assert difference(faint) == pytest.approx(difference(strong) / 2, rel=1e-3)


@with_opencv
def test_both_measures_of_a_video():
    found = motion(moving(2))
    assert found.difference == difference(moving(2))
    assert found.flow == pytest.approx(2.0, abs=0.05)
    assert found.notes == ()


def test_difference_of_frames_that_grow_brighter():
    steps = np.array([0.0, 0.1, 0.3, 0.3], np.float32)
    video = np.broadcast_to(steps[:, None, None, None], (4, 8, 8, 3))
    assert difference(video) == pytest.approx((0.1 + 0.2 + 0.0) / 3)


def test_difference_grows_with_speed():
    assert 0 == difference(moving(0)) < difference(moving(1)) < difference(moving(2))


def test_calm_and_lively():
    speeds = [3, 0, 2, 1]
    found = split([moving(speed) for speed in speeds])
    assert found.calm == (1, 3)
    assert found.lively == (0, 2)
    assert found.median == pytest.approx((found.values[2] + found.values[3]) / 2)


def test_the_median_itself_is_calm():
    assert split([moving(2), moving(0), moving(1)]).calm == (1, 2)
    assert split([moving(1), moving(1)]).lively == ()


@with_opencv
def test_split_by_another_measure():
    faint_but_fast = [moving(3, contrast=0.3), moving(1)]
    assert split(faint_but_fast).lively == (1,)
    assert split(faint_but_fast, flow).lively == (0,)


def test_what_cannot_be_measured():
    with pytest.raises(SettingError, match="1 frames; expected at least 2"):
        difference(moving(1, frames=1))
    with pytest.raises(SettingError, match="no videos"):
        split([])


def test_without_opencv(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "cv2" else real(name, *more))
    with pytest.raises(SettingError, match=r"no OpenCV; .*bwcache\[motion\]"):
        flow(moving(1))
    found = motion(moving(1))
    assert found.flow is None
    assert found.difference > 0
    assert "no OpenCV" in found.notes[0]
