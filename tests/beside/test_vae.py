"""Decoding in tiles and slices: after the last step, and no step of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import bwcache
from tests.beside.attached import CAREFREE, LINE, lines, same
from tests.tiny import WAN, wan


def tiling(pipe: Any) -> None:
    pipe.vae.enable_tiling(
        tile_sample_min_height=16,
        tile_sample_min_width=16,
        tile_sample_stride_height=8,
        tile_sample_stride_width=8,
    )


def slicing(pipe: Any) -> None:
    pipe.vae.enable_slicing()


def video(pipe: Any) -> Tensor:
    return WAN.run(pipe, output_type="pt", num_videos_per_prompt=2)


def decodings(pipe: Any) -> list[int]:
    """How often the decoder runs from now on."""
    seen: list[int] = []
    pipe.vae.decoder.register_forward_pre_hook(lambda *_: seen.append(1))
    return seen


@pytest.mark.parametrize("switch_on", [tiling, slicing])
def test_decoding_in_parts(switch_on: Any) -> None:
    whole = wan()
    counted = decodings(whole)
    with bwcache.attach(whole, CAREFREE):
        made_whole = video(whole)
    assert made_whole.shape[0] == 2

    before = wan()
    switch_on(before)
    parts = decodings(before)
    without = video(before)
    assert len(parts) > len(counted), "it was decoded as a whole: the test shows nothing"
    with bwcache.attach(before, CAREFREE) as session:
        made = video(before)
    assert lines(session) == [LINE]
    assert not torch.equal(made, without)
    same(video(before), without)

    later = wan()
    with bwcache.attach(later, CAREFREE) as session:
        same(video(later), made_whole)
        switch_on(later)
        same(video(later), made)
    assert lines(session) == [LINE, LINE]
    same(video(later), without)
