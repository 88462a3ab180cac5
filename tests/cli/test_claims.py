"""One command at a time in a folder; a killed one holds nothing and leaves nothing."""

import os
import signal
import subprocess
import sys

import pytest

from bwcache.cli.claims import claimed
from bwcache.errors import SettingError

HOLD = """
import pathlib, sys
from bwcache.cli.claims import claimed
with claimed(pathlib.Path(sys.argv[1])) as unfinished:
    (unfinished / "01-a").mkdir()
    print("claimed", flush=True)
    sys.stdin.read()
"""


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def holder(target):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "claimed\n"
    return process


def test_a_folder_in_use_is_refused_and_its_holder_is_named(tmp_path):
    target = tmp_path / "deep" / "out"
    process = holder(target)
    with (
        pytest.raises(SettingError, match=rf"in use by process {process.pid} on .+; expected .+; wait"),
        claimed(target),
    ):
        pytest.fail("the folder was given twice")
    assert everything(target) == [".bwcache", ".bwcache/lock", ".bwcache/unfinished", ".bwcache/unfinished/01-a"]
    process.communicate("")
    assert process.returncode == 0
    assert everything(tmp_path) == []
    with claimed(target):
        pass
    assert everything(tmp_path) == []


def test_twice_in_one_process(tmp_path):
    with claimed(tmp_path / "out"):
        with pytest.raises(SettingError, match=f"in use by process {os.getpid()} "), claimed(tmp_path / "out"):
            pytest.fail("the folder was given twice")
        with claimed(tmp_path / "other"):
            pass


def test_what_a_killed_command_left_is_removed_and_nothing_else(tmp_path):
    target = tmp_path / "out"
    process = holder(target)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (target / ".bwcache" / "unfinished" / "01-a").is_dir()
    (target / ".bwcache" / "mine.txt").write_text("years of work")
    with claimed(target) as unfinished:
        assert list(unfinished.iterdir()) == []
    assert everything(target) == [".bwcache", ".bwcache/mine.txt"]


def test_folders_that_were_there_stay(tmp_path):
    (tmp_path / "a").mkdir()
    with claimed(tmp_path / "a"):
        pass
    with claimed(tmp_path / "a" / "b" / "c"):
        (tmp_path / "a" / "b" / "c" / "kept").write_text("")
    assert everything(tmp_path) == ["a", "a/b", "a/b/c", "a/b/c/kept"]
