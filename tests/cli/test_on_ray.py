"""`--ray [ADDRESS]` as it is written, without a cluster: what is said where none can be had."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bwcache import SettingError, extras
from bwcache.cli.on_ray import with_address
from bwcache.fleet.cluster import connected


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("serve --ray", "serve --ray local"),
        ("serve --ray --port 1", "serve --ray local --port 1"),
        ("serve --ray auto --port 1", "serve --ray auto --port 1"),
        ("serve --ray=auto", "serve --ray=auto"),
        ("serve --port 1", "serve --port 1"),
    ],
)
def test_an_address_may_be_left_out(words: str, found: str) -> None:
    assert with_address(words.split()) == found.split()


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:port", "head:0", ""])
def test_what_is_no_address_is_said(address: str) -> None:
    with pytest.raises(SettingError, match="expected nothing, auto, or host:port; call it on a machine of the cluster"):
        connected(address).__enter__()


def test_where_nobody_answers_it_is_said_at_once() -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SettingError, match=f"found no Ray cluster at --ray '{address}' \\(Connection refused\\); "):
            connected(address).__enter__()


@pytest.mark.parametrize("command", [["serve"], ["generate", "--prompts", "rows.txt"]])
def test_without_ray_its_extra_is_named(command: list[str], bwcache_command: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "ray" else find_spec(name))
    ended = bwcache_command(*command, "--ray")
    assert ended.code == 2
    assert ended.err == "bwcache: found no ray; expected bwcache with its extra ray; pip install 'bwcache[ray]'\n"


def test_teams_and_ray_are_not_for_one_video(bwcache_command: Any, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "rows.txt").write_text("a ball\n")
    ended = bwcache_command("generate", "--prompts", "rows.txt", "--out", "out", "--ray", "--gpus-per-video", "2")
    assert ended.code == 2
    assert "found --gpus-per-video 2 with --ray; expected one GPU for each video; " in ended.err
    assert not (tmp_path / "out").exists()


class Busy:
    """A Ray whose start fails some times, each time with a process that it leaves behind."""

    def __init__(self, fails: int, how: str) -> None:
        self.fails, self.how, self.left = fails, how, list[subprocess.Popen[bytes]]()

    def init(self, address: str, **options: Any) -> None:
        self.left.append(subprocess.Popen(["sleep", "600"]))
        if len(self.left) <= self.fails:
            raise RuntimeError(self.how)

    def shutdown(self) -> None:
        pass


LATE, BROKEN = "The current node timed out during startup.", "no space left"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs a system that says which processes there are")
@pytest.mark.parametrize(
    ("how", "fails", "tried", "starts"),
    [(BROKEN, 2, 3, True), (BROKEN, 3, 3, False), (LATE, 7, 8, True), (LATE, 9, 8, False)],
)
def test_a_start_that_fails_is_tried_again_and_leaves_no_process_behind(
    how: str, fails: int, tried: int, starts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray, said = Busy(fails, how), list[str]()
    monkeypatch.setitem(sys.modules, "ray", ray)
    try:
        given: list[Any] = []
        with contextlib.suppress(SettingError), connected("local", said.append) as found:
            given.append(found)
        assert given == ([ray] if starts else [])
        assert len(ray.left) == tried
        for process in ray.left[:-1] if starts else ray.left:
            assert process.wait(10) == -9
        assert not starts or ray.left[-1].poll() is None
        why = " after 30 s" if how == LATE else ""
        assert said == [f"Ray gave its start up{why}; once more ({i} of {tried})" for i in range(2, tried + 1)]
    finally:
        for process in ray.left:
            process.kill()
            process.wait()


@pytest.mark.parametrize("mode", [None, "token"])
def test_a_cluster_that_may_ask_for_a_token_is_told_of(mode: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Guarded:
        def init(self, address: str, **options: Any) -> None:
            raise ConnectionError(f"Failed to connect to Ray cluster at {address}")

        def shutdown(self) -> None:
            pass

    monkeypatch.setitem(sys.modules, "ray", Guarded())
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(SettingError) as caught:
        connected(f"127.0.0.1:{server.getsockname()[1]}").__enter__()
    assert "(Failed to connect to Ray cluster at 127.0.0.1:" in str(caught.value)
    assert ("set RAY_AUTH_MODE=token" in str(caught.value)) is (mode is None)
