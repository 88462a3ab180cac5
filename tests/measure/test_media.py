"""Pictures and videos that a pipeline is given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bwcache import SettingError
from bwcache.measure import media
from bwcache.measure.call import Request
from bwcache.measure.media import read_media, read_picture, read_video, recorded
from bwcache.report.videos import write_pictures


@pytest.fixture
def pixels() -> np.ndarray:
    smooth = np.linspace(0, 255, 32 * 32, dtype=np.uint8).reshape(32, 32)
    return np.stack([np.roll(np.stack([smooth] * 3, -1), 3 * i, axis=1) for i in range(5)])


def test_a_picture_is_read_as_it_is(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    found = read_media(tmp_path / "a.png")
    assert isinstance(found, Image.Image)
    assert np.array_equal(np.asarray(found), pixels[0])
    Image.fromarray(pixels[0]).convert("L").save(tmp_path / "grey.png")
    assert read_picture(tmp_path / "grey.png").mode == "RGB"


def test_a_picture_is_turned_as_the_camera_says(tmp_path: Path) -> None:
    wide = Image.new("RGB", (40, 20))
    exif = wide.getexif()
    exif[0x0112] = 6
    wide.save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").size == (20, 40)


def test_a_video_has_all_its_frames(tmp_path: Path, pixels: np.ndarray) -> None:
    write_pictures(tmp_path / "a.mp4", pixels, 8)
    frames = read_media(tmp_path / "a.mp4")
    assert isinstance(frames, list)
    assert [frame.size for frame in frames] == [(32, 32)] * 5
    assert np.abs(np.asarray(frames[2], int) - pixels[2]).mean() < 8


@pytest.mark.parametrize("name", ["missing.png", "missing.mp4", "folder", "words.png", "words.mp4", "empty.mp4"])
def test_what_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    for words in ("words.png", "words.mp4"):
        (tmp_path / words).write_text("neither")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(SettingError) as error:
        read_media(tmp_path / name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert "name another file" in str(error.value)


def test_an_endless_video_is_refused(tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MOST_FRAMES", 4)
    write_pictures(tmp_path / "a.mp4", pixels, 8)
    with pytest.raises(SettingError, match="more than 4 frames"):
        read_video(tmp_path / "a.mp4")


def test_a_record_tells_pictures_apart_by_their_pixels(pixels: np.ndarray) -> None:
    one, same, other = (Image.fromarray(pixels[i]) for i in (0, 0, 1))
    assert recorded(one) == recorded(same) != recorded(other)
    assert recorded([one, other]).startswith("2 frames 32x32, ")
    assert recorded([one, other]) != recorded([other, one])
    request = Request("a", 5, arguments={"image": one, "strength": 0.5, "sigmas": [1.0, 0.5], "extra": {"x": one}})
    written = json.loads(json.dumps(request.record()))
    assert written["arguments"] == {
        "image": recorded(one),
        "strength": 0.5,
        "sigmas": [1.0, 0.5],
        "extra": {"x": recorded(one)},
    }
    assert "arguments" not in Request("a", 5).record()
    assert hash(request) == hash(Request("a", 5))
