"""Rendered videos: deterministic, within range, and a split that shows training every attribute."""

import pytest
import torch

from training.data import CAPTIONS, Caption, draw_backgrounds, make_videos, split, visible


def test_same_seed_same_videos() -> None:
    first, second = (make_videos(list(CAPTIONS[::97]), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    other = make_videos(list(CAPTIONS[::97]), torch.Generator().manual_seed(4))
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("size", "frames"), [(32, 9), (64, 5)])
def test_videos_are_bright_shapes_on_dim_backgrounds(size: int, frames: int) -> None:
    captions = list(CAPTIONS[::97])
    videos = make_videos(captions, torch.Generator().manual_seed(0), size, frames)
    assert videos.shape == (len(captions), 3, frames, size, size)
    assert videos.min() >= 0
    assert videos.max() <= 1
    assert (videos.amax((1, 3, 4)) >= 0.89).all()
    assert draw_backgrounds(captions, size, torch.Generator().manual_seed(0)).max() <= 0.31


def test_split_is_disjoint_and_training_sees_every_attribute() -> None:
    training, held_out = split()
    assert len(held_out) >= 64
    assert not set(training) & set(held_out)
    assert set(training) | set(held_out) == set(CAPTIONS)
    for field in Caption._fields:
        assert {getattr(caption, field) for caption in training} == {getattr(caption, field) for caption in CAPTIONS}
    assert split() == (training, held_out)


def test_captions_are_distinct_and_visible() -> None:
    assert len({caption.text for caption in CAPTIONS}) == len(CAPTIONS)
    assert all(map(visible, CAPTIONS))
    assert Caption("small", "red", "circle", "left", "slow", "striped").text == (
        "a small red circle moving left slowly over a striped background"
    )
