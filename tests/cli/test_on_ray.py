"""`--ray [ADDRESS]` as it is written, without a cluster: what is said where none can be had."""

from __future__ import annotations

import socket
from importlib.util import find_spec
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
