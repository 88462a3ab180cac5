"""A profile's pictures and words, also of what is hard to draw: one video, one step, two denoisers, nothing timed."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bwcache.report.heatmaps import plot_heatmap
from bwcache.report.profiles import advice, block_table, fewer_table, sentences, time_table, write_profile
from bwcache.study.profile_curves import THRESHOLDS, fewer_blocks, indicator, judged, share_below
from bwcache.study.profile_results import BlockFigures, Profile, TimeSplit, Watched


def table(changes):
    return tuple(tuple(None if np.isnan(value) else float(value) for value in row) for row in changes)


def made(changes, names=None, seconds=0.01, **more):
    """A profile of changes `[V, S, N]`."""
    names = names or [f"transformer/blocks.{i}" for i in range(changes.shape[2])]
    return Profile(
        model={"name": "made"},
        environment={},
        steps=tuple((None, None) for _ in range(changes.shape[1])),
        videos=tuple(Watched(f"video {i}", 0, table(one)) for i, one in enumerate(changes)),
        blocks=tuple(BlockFigures(name, seconds, seconds and 0.1, seconds and 10**9) for name in names),
        time=TimeSplit(0.1, 2.0, 0.5, 0.2, 0.4, 0.05, None, 3.2, 20, 1),
        fewer_blocks=tuple(fewer_blocks(changes)),
        **more,
    )


def changes(videos=3, steps=12, blocks=5):
    bowl = 0.05 + 0.3 * np.abs(np.linspace(-1, 1, steps)) ** 3
    found = bowl[None, :, None] * np.random.default_rng(0).uniform(0.8, 1.2, (videos, steps, blocks))
    found[:, 0] = np.nan
    return found


def two_denoisers():
    found = changes(2, 10, 6)
    found[:, :6, 3:] = np.nan
    found[:, 6:, :3] = np.nan
    return found


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "several videos": (changes(), {}),
    "one video": (changes(1), {"threshold": 0.12}),
    "one step": (changes(1, 1), {}),
    "one block": (changes(2, 12, 1), {}),
    "no change": (np.where(np.isnan(changes()), np.nan, 0.0), {}),
    "two denoisers": (two_denoisers(), {"names": [f"{t}/blocks.{i}" for t in ("high", "low") for i in range(3)]}),
    "blocks not timed": (changes(), {"seconds": None}),
    "many blocks": (changes(2, 10, 60), {}),
    "beyond the thresholds": (100 * changes(), {"threshold": 0.15}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_profile_is_drawn_and_told(case, tmp_path, recwarn):
    of, more = CASES[case]
    profile = made(of, **more)
    write_profile(tmp_path, profile)
    assert {path.name for path in tmp_path.iterdir()} == {
        "profile.json", "profile.csv", "profile.txt", "heatmap.png", "curve.png", "latency.png",
    }  # fmt: skip
    for picture in tmp_path.glob("*.png"):
        with Image.open(picture) as image:
            assert image.size[0] == 1344
    assert [str(one.message) for one in recwarn] == []
    assert all(len(one.columns) > 2 for one in (time_table(profile), block_table(profile), fewer_table(profile)))
    assert any("How few blocks" in line for line in sentences(profile))


def test_the_heatmap_shows_where_the_change_is(tmp_path):
    """A change at one block and step is a patch of another colour there, and nowhere else."""
    quiet = np.full((1, 8, 4), 0.05)
    quiet[:, 0] = np.nan
    quiet[0, 1, 3] = 0.06
    loud = quiet.copy()
    loud[0, 6, 1] = 0.06
    pictures = []
    for name, of in (("quiet", quiet), ("loud", loud)):
        plot_heatmap(made(of), tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as image:
            pictures.append(np.asarray(image.convert("RGB")).astype(int))
    down, across = np.nonzero(np.abs(pictures[0] - pictures[1]).sum(-1))
    height, width = pictures[0].shape[:2]
    assert len(down) > 500
    assert 0.6 * width < across.min() < across.max() < 0.85 * width
    assert np.ptp(down) < height / 4
    assert across.max() - across.min() < width / 7


def test_sentences_say_what_was_found():
    profile = made(changes(), notes=("a note",))
    words = " ".join(sentences(profile))
    assert "The curve of the indicator is a U" in words
    assert "3 of 3 videos" in words
    assert "The blocks take 74.1 % of the denoising time and 62.5 % of the whole call." in words
    assert "6 of 12 steps reused" in words
    assert "note: a note" in words


def test_the_smallest_choice_that_suffices_is_named():
    of = changes()
    whole = indicator(of)
    judged_ = [judged(f"sample={share}", whole * factor, whole, share) for share, factor in
               ((0.5, 1.0), (0.1, 1.01), (0.01, 2.0))]  # fmt: skip
    profile = dataclasses.replace(made(of), fewer_entries=tuple(judged_))
    assert any(line.startswith("How few entries: sample=0.1 with 10.0 % of the memory") for line in sentences(profile))
    nothing = dataclasses.replace(profile, fewer_entries=tuple(judged_[2:]))
    assert any("nothing smaller that was tried is enough" in line for line in sentences(nothing))


def test_what_to_do_first_rests_on_the_share_of_the_steps_and_says_on_how_many_videos():
    profile = made(changes())
    high, low = (dataclasses.replace(profile, threshold=delta) for delta in (1e9, 1e-9))
    assert advice(high).startswith("What to do first: bwcache compare --threshold 1e+09. 100 % of the steps")
    assert "(3 videos)" in advice(high)
    assert f"at most {1 / (1 - profile.time.saved(0.5)[1]):.2f}x as fast" in advice(high)
    found = float(advice(low).split("--threshold ")[1].split(". ")[0])
    assert found in THRESHOLDS
    assert share_below(profile.curves, found) >= 0.3
    assert share_below(profile.curves, found - 0.05) < 0.3
    assert advice(made(changes() * 1000)).startswith("What to do first: more steps.")
    assert sentences(profile)[0] == advice(profile)


@pytest.mark.parametrize(("videos", "chosen"), [(1, False), (3, False), (4, True), (12, True)])
def test_no_blocks_are_recommended_on_a_few_videos(videos, chosen):
    of = np.tile(changes()[:1], (videos, 1, 1))
    profile = dataclasses.replace(
        made(of), fewer_blocks=(judged("first block", indicator(of), indicator(of), 0.1, (0,)),)
    )
    (line,) = (line for line in sentences(profile) if line.startswith("How few blocks"))
    assert ("BWCache(blocks=(0,))" in line) is chosen
    assert ("cannot tell" in line) is not chosen
    assert ("--seeds 4" in line) is not chosen


def test_a_picture_that_fails_leaves_no_half_file(tmp_path, monkeypatch):
    from bwcache.report import profiles

    def broken(profile, path):
        path.write_bytes(b"half")
        raise RuntimeError

    monkeypatch.setitem(profiles.PICTURES, "curve.png", broken)
    with pytest.raises(RuntimeError):
        write_profile(tmp_path, made(changes()))
    assert not (tmp_path / "curve.png").exists()
    assert not list(tmp_path.glob(".*"))
