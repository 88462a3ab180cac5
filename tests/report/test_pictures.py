import dataclasses
import math

import av
import numpy as np
import pytest
from PIL import Image

from bwcache.core.trace import Event, Trace
from bwcache.measure.results import Pair
from bwcache.report.pictures import (
    FACTORS,
    VIEWED_HEIGHT,
    amplification,
    as_pictures,
    difference,
    difference_label,
    enlargement,
    labelled_row,
    storyboard,
)
from bwcache.report.plots import curve_name, curves, plot_similarity, step_kinds
from bwcache.report.videos import write_side_by_side, write_video


def video(frames=5, height=32, width=32, seed=0):
    """Plain colours that change from frame to frame: compression keeps them."""
    colours = np.random.default_rng(seed).uniform(0.2, 0.8, (frames, 1, 1, 3))
    return np.broadcast_to(colours, (frames, height, width, 3)).astype(np.float32)


def decoded(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        return (
            frames.astype(np.float64) / 255,
            stream.codec_context.name,
            stream.codec_context.pix_fmt,
            float(stream.average_rate),
        )


def test_a_video_file_holds_the_frames(tmp_path):
    frames = video()
    write_video(tmp_path / "a.mp4", frames, fps=8)
    found, codec, layout, rate = decoded(tmp_path / "a.mp4")
    assert (codec, layout, rate) == ("h264", "yuv420p", 8)
    assert found.shape == (5, 320, 320, 3)
    assert found.mean(axis=(1, 2)) == pytest.approx(frames.mean(axis=(1, 2)), abs=0.03)


@pytest.mark.parametrize("size", [(241, 331), (480, 832), (17, 9)])
def test_every_size_can_be_written(tmp_path, size):
    write_video(tmp_path / "a.mp4", video(2, *size), fps=5)
    found, *_ = decoded(tmp_path / "a.mp4")
    _, height, width, _ = found.shape
    assert height % 2 == width % 2 == 0
    enlarge = enlargement(size[0])
    assert 0 <= height - size[0] * enlarge <= 1
    assert 0 <= width - size[1] * enlarge <= 1


def test_side_by_side_shows_uncached_cached_and_their_difference(tmp_path):
    uncached = np.full((3, 32, 32, 3), 0.5, np.float32)
    cached = uncached + np.float32(0.02)
    write_side_by_side(tmp_path / "a.mp4", Pair(uncached, cached), fps=8)
    found, *_ = decoded(tmp_path / "a.mp4")
    middle = found.shape[1] // 2
    thirds = [found[1, middle, round(found.shape[2] * part)].mean() for part in (1 / 6, 1 / 2, 5 / 6)]
    assert thirds == pytest.approx([0.5, 0.52, 0.02 * 50], abs=0.02)


def test_small_frames_are_enlarged_by_whole_factors_and_large_ones_are_not():
    assert 256 <= 32 * enlargement(32) <= 384
    assert enlargement(480) == 1
    frames = video(1, 4, 4)
    assert (as_pictures(frames, 3)[:, ::3, ::3] == as_pictures(frames)).all()
    assert enlargement(VIEWED_HEIGHT) == 1


def test_the_difference_is_as_large_as_its_label_says():
    uncached, cached = video(seed=0), video(seed=0) + np.float32(0.004)
    factor = amplification(uncached, cached)
    assert factor in FACTORS
    assert difference_label(uncached, cached, factor) == f"difference x{factor}"
    assert difference(uncached, cached, factor) == pytest.approx(0.004 * factor, rel=1e-3)
    assert 0.3 < difference(uncached, cached, factor).max() <= 1
    assert amplification(video(seed=0), 1 - video(seed=0)) <= 2
    assert difference_label(uncached, uncached, 100) == "no difference"


def test_labels_do_not_cover_the_frames():
    column = as_pictures(video(2), 4)
    row = labelled_row({"uncached": column, "a label that is far too long for such a narrow column": column})
    assert row.shape[0] == 2
    assert row.shape[2] == 8 + 2 * (128 + 8)
    for left in (8, 8 + 128 + 8):
        assert np.array_equal(row[:, -8 - 128 : -8, left : left + 128], column)


def test_the_storyboard_shows_three_rows(tmp_path):
    picture = storyboard(video(9), video(9), "a prompt " * 60, "figures")
    picture.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as reopened:
        assert reopened.size == picture.size
        assert reopened.size[0] > 900
    storyboard(video(1, 480, 832), video(1, 480, 832, seed=1), "one frame")


def trace(indicators, actions, reason="still changing (x)"):
    return Trace(
        {},
        [
            Event(0, step, len(actions), None, None, branch, "stack", action, reason, value)
            for step, (action, values) in enumerate(zip(actions, indicators, strict=True))
            for branch, value in zip(("cond", "uncond"), values, strict=True)
        ],
    )


def test_the_plot_shows_what_the_trace_says(tmp_path):
    rows = trace(
        [(None, None), (0.3, 0.2), (None, None), (0.1, float("inf"))], ["compute", "compute", "reuse", "compute"]
    )
    assert curves(rows) == {"cond": [(1, 0.3), (3, 0.1)], "uncond": [(1, 0.2)]}
    assert step_kinds(rows) == {0: "computed", 1: "computed", 2: "reused", 3: "computed"}
    plot_similarity(rows, tmp_path / "a.png", threshold=0.15, title="a $prompt$ with _signs_ " * 9)
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.size[0] > 1000


def test_where_only_errors_were_measured_they_are_the_curve():
    told = [Event(0, i, 4, None, None, "cond", "transformer/stack", "compute", "always", error=e) for i, e in
            enumerate((None, 0.3, math.nan, 0.1))]  # fmt: skip
    assert curve_name(Trace(events=told)) == "prediction error"
    assert curves(Trace(events=told)) == {"cond": [(1, 0.3), (3, 0.1)]}
    measured = [dataclasses.replace(event, indicator=0.5) for event in told]
    assert curve_name(Trace(events=measured)) == "indicator"
    assert curves(Trace(events=measured))["cond"][1] == (1, 0.5)
    assert curve_name(Trace()) == "indicator"


def test_a_method_that_measures_by_itself_is_drawn_by_the_numbers_of_its_decisions():
    """No plot knows a method: what a policy says its decision rests on is the curve, in reused steps too."""
    told = [Event(0, i, 3, None, None, "cond", "model/root", action, "budget", value=v) for i, (action, v) in  # type: ignore[arg-type]
            enumerate((("compute", None), ("reuse", 0.03), ("compute", 0.06)))]  # fmt: skip
    assert curve_name(Trace(events=told)) == "number decided by"
    assert curves(Trace(events=told)) == {"cond": [(1, 0.03), (2, 0.06)]}


def test_branches_with_one_indicator_are_one_line():
    rows = trace([(0.3, 0.3), (0.2, 0.2)], ["compute", "compute"], "tail guard (the last 2 steps)")
    assert list(curves(rows)) == ["cond"]
    assert set(step_kinds(rows).values()) == {"guarded"}


def test_an_empty_trace_can_be_drawn(tmp_path):
    plot_similarity(Trace(), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 0
