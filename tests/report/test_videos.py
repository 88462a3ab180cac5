"""A video is whole, decodes to as many frames as it was given, or there is none and an error says why."""

import os
import resource
import stat

import imageio_ffmpeg
import numpy as np
import pytest

from bwcache.errors import SettingError
from bwcache.report.videos import check_rate, count_frames, write_pictures

PICTURES = np.random.default_rng(0).integers(0, 256, (7, 65, 64, 3), dtype=np.uint8)


def instead_of_ffmpeg(monkeypatch, folder, script):
    """A program that is called in its place; $FFMPEG is the real one."""
    program = folder / "ffmpeg"
    program.write_text(f"#!/bin/sh\nFFMPEG={imageio_ffmpeg.get_ffmpeg_exe()}\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))


def test_what_is_written_has_its_frames(tmp_path):
    for count in (1, 7):
        write_pictures(tmp_path / "video.mp4", PICTURES[:count], 8)
        assert count_frames(tmp_path / "video.mp4") == count
    assert os.listdir(tmp_path) == ["video.mp4"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ('case "$*" in *-xerror*) exec "$FFMPEG" "$@";; *) kill -9 $$;; esac', "status -9"),
        ("head -c 1000 >/dev/null; echo 'No space left on device' >&2; exit 228", "No space left on device"),
        ('case "$*" in *-xerror*) exec "$FFMPEG" "$@";; *) cat >/dev/null; exit 0;; esac', "failure of ffmpeg"),
        (
            'case "$*" in *-xerror*) exec "$FFMPEG" "$@";; *) head -c 50688 | "$FFMPEG" "$@";; esac',
            "4 frames at '.+video.mp4', of 7",
        ),
        ('case "$*" in *-xerror*) echo frame=0;; *) exec "$FFMPEG" "$@";; esac', "0 frames"),
    ],
    ids=["killed", "disk full", "nothing written", "frames lost", "does not decode"],
)
def test_an_ffmpeg_that_fails_late_is_noticed(tmp_path, monkeypatch, script, said):
    instead_of_ffmpeg(monkeypatch, tmp_path, script)
    (tmp_path / "out").mkdir()
    with pytest.raises(OSError, match=said):
        write_pictures(tmp_path / "out" / "video.mp4", PICTURES, 8)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_limit_on_the_size_of_files_is_noticed(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="failure of ffmpeg"):
            write_pictures(tmp_path / "video.mp4", PICTURES, 8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_cut_or_spoilt_file_does_not_count(tmp_path):
    path = tmp_path / "video.mp4"
    write_pictures(path, PICTURES, 8)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match="failure of ffmpeg"):
        count_frames(path)


def test_rates_are_tried_before_anything_is_made(tmp_path, monkeypatch):
    check_rate(16)
    with pytest.raises(SettingError, match="found --fps 10000000000, with which no video can be written"):
        check_rate(10**10)
    with pytest.raises(SettingError, match="--fps"):
        check_rate(10**400)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(tmp_path / "nowhere"))
    with pytest.raises(SettingError, match="no video can be written"):
        check_rate(16)
