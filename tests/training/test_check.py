"""The measurement: it reads rendered videos right, also when they are blurred or noisy."""

import pytest
import torch

from training.check import REPORTED, measure, score
from training.data import CAPTIONS, Caption, make_videos


def test_reads_rendered_videos() -> None:
    captions = list(CAPTIONS[::7])
    shares = score(captions, make_videos(captions, torch.Generator().manual_seed(0)))
    assert set(shares) == set(REPORTED)
    assert min(shares.values()) >= 0.99


def test_reads_videos_at_28_decibels() -> None:
    captions = list(CAPTIONS[::7])
    generator = torch.Generator().manual_seed(0)
    videos = make_videos(captions, generator)
    noisy = (videos + 10 ** (-28 / 20) * torch.randn(videos.shape, generator=generator)).clamp(0, 1)
    shares = score(captions, noisy)
    assert min(shares[name] for name in ("color", "motion", "shape")) >= 0.95


@pytest.mark.parametrize("value", [0.0, 0.2, 1.0])
def test_sees_no_motion_in_an_empty_video(value: float) -> None:
    assert measure(torch.full((3, 9, 32, 32), value)).motion == "still"


def test_sees_a_frozen_video_as_still() -> None:
    caption = Caption("large", "red", "square", "left", "fast", "plain")
    video = make_videos([caption], torch.Generator().manual_seed(0))[0]
    seen = measure(video[:, :1].expand(-1, 9, -1, -1))
    assert seen._replace(motion="left", speed="fast") == caption
    assert seen.motion == "still"


def test_reads_a_reversed_video_as_the_opposite_motion() -> None:
    caption = Caption("large", "red", "square", "left", "fast", "plain")
    video = make_videos([caption], torch.Generator().manual_seed(0))[0]
    assert measure(video.flip(1)).motion == "right"
