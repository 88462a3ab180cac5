import math

import numpy as np
import pytest
import torch

from bwcache import SettingError
from bwcache.measure.frames import as_frames
from bwcache.measure.quality import MS_SSIM_SIDE, frame_ms_ssim, frame_psnr, frame_ssim, ms_ssim, psnr, quality, ssim


def videos(frames=3, size=32, noise=0.05):
    random = np.random.default_rng(0)
    reference = random.random((frames, size, size, 3), dtype=np.float32)
    candidate = np.clip(reference + noise * random.standard_normal(reference.shape), 0, 1).astype(np.float32)
    return reference, candidate


def numpy_psnr(reference, candidate):
    errors = [np.mean((a.astype(np.float64) - b) ** 2) for a, b in zip(reference, candidate, strict=True)]
    return np.array([10 * math.log10(1 / error) for error in errors])


def numpy_ssim(reference, candidate, width=11, sigma=1.5):
    """SSIM as its paper writes it, one window at a time around every pixel, edges mirrored."""
    offsets = np.arange(width) - width // 2
    bell = np.exp(-(offsets**2) / (2 * sigma**2))
    window = np.outer(bell, bell) / bell.sum() ** 2
    values = []
    mirrored = [(width // 2, width // 2)] * 2 + [(0, 0)]
    for frames in zip(reference.astype(np.float64), candidate.astype(np.float64), strict=True):
        a, b = (np.pad(frame, mirrored, mode="reflect") for frame in frames)
        scores = []
        for y in range(a.shape[0] - width + 1):
            for x in range(a.shape[1] - width + 1):
                for colour in range(3):
                    p = a[y : y + width, x : x + width, colour]
                    q = b[y : y + width, x : x + width, colour]
                    p_mean, q_mean = (window * p).sum(), (window * q).sum()
                    p_var = (window * p**2).sum() - p_mean**2
                    q_var = (window * q**2).sum() - q_mean**2
                    both = (window * p * q).sum() - p_mean * q_mean
                    light = (2 * p_mean * q_mean + 0.01**2) / (p_mean**2 + q_mean**2 + 0.01**2)
                    scores.append(light * (2 * both + 0.03**2) / (p_var + q_var + 0.03**2))
        values.append(np.mean(scores))
    return np.array(values)


def numpy_ms_ssim(reference, candidate, weights=(0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
    """MS-SSIM as its paper writes it: contrast and structure on each scale, light on the coarsest alone."""
    offsets = np.arange(11) - 5
    bell = np.exp(-(offsets**2) / (2 * 1.5**2))
    bell /= bell.sum()

    def blurred(picture):  # pixels whose window lies inside
        for axis in (0, 1):
            picture = np.apply_along_axis(lambda line: np.convolve(line, bell, "valid"), axis, picture)
        return picture

    def halved(picture):
        return picture.reshape(picture.shape[0] // 2, 2, picture.shape[1] // 2, 2, 3).mean((1, 3))

    values = []
    for frames in zip(reference.astype(np.float64), candidate.astype(np.float64), strict=True):
        (a, b), value = frames, 1.0
        for scale, weight in enumerate(weights):
            p, q = (np.pad(x, [(5, 5), (5, 5), (0, 0)], mode="reflect") for x in (a, b))
            p_mean, q_mean = blurred(p), blurred(q)
            p_var, q_var = blurred(p * p) - p_mean**2, blurred(q * q) - q_mean**2
            part = (2 * (blurred(p * q) - p_mean * q_mean) + 0.03**2) / (p_var + q_var + 0.03**2)
            if scale < len(weights) - 1:
                part = part[5:-5, 5:-5]  # on the finer scales, the library looks at whole windows alone
                a, b = halved(a), halved(b)
            else:
                part = part * (2 * p_mean * q_mean + 0.01**2) / (p_mean**2 + q_mean**2 + 0.01**2)
            value *= max(part.mean(), 0) ** weight
        values.append(value)
    return np.array(values)


@pytest.mark.parametrize("noise", [0.001, 0.05, 0.5])
def test_psnr_agrees_with_numpy_frame_by_frame(noise):
    reference, candidate = videos(noise=noise)
    assert frame_psnr(reference, candidate) == pytest.approx(numpy_psnr(reference, candidate), rel=1e-6)
    assert psnr(reference, candidate) == pytest.approx(numpy_psnr(reference, candidate).mean(), rel=1e-6)


def test_ssim_agrees_with_numpy():
    reference, candidate = videos(frames=2, size=20, noise=0.2)
    assert frame_ssim(reference, candidate) == pytest.approx(numpy_ssim(reference, candidate), abs=1e-5)


def test_ms_ssim_agrees_with_numpy():
    reference, candidate = videos(frames=1, size=MS_SSIM_SIDE, noise=0.2)
    assert frame_ms_ssim(reference, candidate) == pytest.approx(numpy_ms_ssim(reference, candidate), abs=1e-4)
    assert quality(reference, candidate, None).ms_ssim == pytest.approx(frame_ms_ssim(reference, candidate).mean())
    assert quality(reference, candidate, None).notes == ()


def test_ms_ssim_of_frames_that_are_too_small():
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as measure

    reference, candidate = videos(frames=1, size=MS_SSIM_SIDE - 1)
    with pytest.raises(SettingError, match="175 x 175 pixels; expected at least 176"):
        ms_ssim(reference, candidate)
    found = quality(reference, candidate, None)
    assert found.ms_ssim is None
    assert found.notes[0].startswith("MS-SSIM: found frames of 175 x 175")
    small = (1, 3, MS_SSIM_SIDE - 1, 200)
    with pytest.raises(ValueError, match="must be larger"):  # the library's own limit, no stricter one
        measure(torch.rand(small), torch.rand(small), data_range=1.0)


def test_flat_bright_frames_need_double_precision():
    noise = 0.001 * np.random.default_rng(0).standard_normal((1, 16, 16, 3))
    reference = np.full((1, 16, 16, 3), 0.9, np.float32)
    candidate = (reference + noise).astype(np.float32)
    assert frame_ssim(reference, candidate) == pytest.approx(numpy_ssim(reference, candidate), abs=1e-6)


def test_a_known_difference():
    reference = np.full((2, 16, 16, 3), 0.5, np.float32)
    assert psnr(reference, reference + 0.1) == pytest.approx(20.0, abs=1e-4)


def test_identical_videos():
    reference, _ = videos()
    found = quality(reference, reference.copy())
    assert found.identical
    assert math.isinf(found.psnr)
    assert found.ssim == pytest.approx(1.0)


def test_frames_without_difference_do_not_raise_the_mean():
    reference, candidate = videos(frames=4)
    mixed = candidate.copy()
    mixed[1] = reference[1]
    assert psnr(reference, mixed) == pytest.approx(numpy_psnr(reference, candidate)[[0, 2, 3]].mean(), rel=1e-6)


def test_more_frames_than_are_measured_at_once():
    reference, candidate = videos(frames=19)
    assert len(frame_ssim(reference, candidate)) == 19
    assert ssim(reference, candidate) == pytest.approx(frame_ssim(reference, candidate).mean())


def test_videos_of_two_shapes_are_refused():
    reference, candidate = videos()
    with pytest.raises(ValueError, match="equal shapes"):
        psnr(reference, candidate[:, :16])


class Output:
    def __init__(self, **values):
        self.__dict__.update(values)


def test_frames_of_every_kind_of_output():
    from PIL import Image

    video = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    expected = video / 255
    pictures = [Image.fromarray(frame) for frame in video]
    for output in (Output(frames=expected[None]), Output(frames=[list(expected)]), Output(frames=[pictures])):
        assert as_frames(output) == pytest.approx(expected, abs=1e-6)
    assert as_frames(Output(images=expected[:1])).shape == (1, 8, 8, 3)
    with pytest.raises(ValueError, match="expected \\[frames"):
        as_frames(Output(frames=np.zeros((1, 8, 8))))
