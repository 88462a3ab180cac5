"""Pictures, videos, controls, schedulers and any other argument, from the command line to the pipeline's call."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.saved import make_files, saved, without_weights

SMALL = ["--prompt", "a red circle", "--steps", "4", "--threshold", "9"]
WAN = [*SMALL, "--height", "32", "--width", "32"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    make_files(tmp_path)
    return tmp_path


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "bwcache-out" / "summary.json").read_text())
    return found


def test_compare_from_a_picture(bwcache_command: Any, files: Path) -> None:
    ended = bwcache_command(
        "compare", "--model", saved("i2v"), *WAN, "--frames", "5", "--image", "start.png",
        "--negative-prompt", "blurry", "--set", "last_image=@end.jpg", "--set", "policy.tail_guard=0",
        "--scheduler", "unipc-multistep:solver_order=3",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = summary(files)
    assert found["runs"][0]["reused"] > 0
    assert found["policy"]["tail_guard"] == 0
    assert found["model"]["scheduler"] == "UniPCMultistepScheduler"
    arguments = found["environment"]["arguments"]
    assert set(arguments) == {"negative_prompt", "image", "last_image"}
    assert arguments["negative_prompt"] == "blurry"
    assert arguments["image"].startswith("picture 32x32, ")
    assert arguments["image"] != arguments["last_image"]


def test_compare_from_a_video(bwcache_command: Any, files: Path) -> None:
    ended = bwcache_command(
        "compare", "--model", saved("v2v"), *WAN, "--video", "walk.mp4", "--set", "strength=0.75"
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = summary(files)
    assert found["environment"]["arguments"]["video"].startswith("5 frames 32x32, ")
    assert found["environment"]["arguments"]["strength"] == 0.75
    assert found["runs"][0]["steps"] == 3


def test_generate_under_a_control(bwcache_command: Any, files: Path) -> None:
    ended = bwcache_command(
        "generate", "--model", saved("control"), *SMALL, "--height", "32", "--width", "32", "--control", "walk.mp4",
        "--set", "max_sequence_length=8",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert (files / "bwcache-out" / "01-a-red-circle" / "video.mp4").is_file()


def test_a_sweep_goes_on_only_with_the_same_picture(bwcache_command: Any, files: Path) -> None:
    asked = [
        "sweep", "--model", saved("i2v"), "--prompt", "a red circle", "--steps", "4", "--height", "32", "--width", "32",
        "--frames", "5", "--grid", "threshold=9", "--fewer-steps", "2", "--out", "study",
    ]  # fmt: skip
    ended = bwcache_command(*asked, "--image", "start.png")
    assert ended.code == 0, ended.err
    shutil.copy(files / "start.png", files / "again.png")
    ended = bwcache_command(*asked, "--image", "again.png")
    assert ended.code == 0, ended.err
    assert "4 runs, 4 of them finished" in ended.err
    ended = bwcache_command(*asked, "--image", "end.jpg")
    assert ended.code == 2
    assert "results of another image in" in ended.lines[-1]


BEFORE_LOADING = [
    ("i2v", [], "no image for WanImageToVideoPipeline; expected one: it needs image; add --image FILE"),
    ("i2v", ["--image", "start.png", "--video", "walk.mp4"], "--video with WanImageToVideoPipeline"),
    ("i2v", ["--image", "missing.png"], "'missing.png' that cannot be read (No such file"),
    ("i2v", ["--image", "words.png"], "'words.png' that cannot be decoded"),
    ("i2v", ["--image", "start.png", "--set", "image=@end.jpg"], "--set image beside an option for it"),
    ("i2v", ["--image", "start.png", "--set", "last_image=@missing.png"], "'missing.png' that cannot be read"),
    ("i2v", ["--image", "start.png", "--set", "last_image=@~nosuchuser/a.png"], "a home that is not known"),
    ("i2v", ["--image", "start.png", "--set", "last_image=4"], "last_image of WanImageToVideoPipeline '4'"),
    ("i2v", ["--image", "start.png", "--height", "40"], "height 40; expected a multiple of 16"),
    ("i2v", ["--image", "start.png", "--frames", "6"], "frames 6; expected a multiple of 4 plus 1"),
    ("i2v", ["--image", "start.png", "--set", "lats_image=@end.jpg"], "did you mean last_image"),
    ("i2v", ["--image", "start.png", "--policy", "adaptive", "--set", "blocks=3"], "--set 'blocks'"),
    ("i2v", ["--image", "start.png", "--set", "blocks=4"], "blocks 4; expected indices of the 4 blocks"),
    ("i2v", ["--image", "start.png", "--scheduler", "ddim"], "which does no flow matching"),
    ("v2v", [], "no video for WanVideoToVideoPipeline"),
    ("v2v", ["--video", "cut.mp4"], "'cut.mp4' that cannot be decoded"),
    ("v2v", ["--video", "walk.mp4", "--frames", "5"], "num_frames 5; expected only what WanVideoToVideoPipeline takes"),
    ("v2v", ["--video", "walk.mp4", "--set", "strength=much"], "strength of WanVideoToVideoPipeline 'much'"),
    (
        "control",
        [],
        "no control_video for CogVideoXFunControlPipeline; expected one: it needs control_video; add --con",
    ),
    ("control", ["--control", "walk.mp4", "--scheduler", "FlowMatchEulerDiscrete"], "which does flow matching, and"),
    ("control", ["--control", "walk.mp4", "--steps", "2000"], "2000 steps that CogVideoXDDIMScheduler refuses"),
]


@pytest.mark.parametrize(("model", "arguments", "said"), BEFORE_LOADING, ids=lambda value: str(value)[:50])
def test_what_cannot_work_is_said_without_the_weights(
    bwcache_command: Any, files: Path, written: Any, model: str, arguments: list[str], said: str
) -> None:
    shutil.copytree(saved(model), files / model)
    without_weights(files / model)
    before = written()
    ended = bwcache_command("compare", "--model", model, "--prompt", "a circle", *arguments)
    assert ended.code == 2
    assert len(ended.lines) == 1, ended.err
    assert said in ended.lines[0]
    assert "; expected " in ended.lines[0]
    assert written() == before


def test_without_weights_nothing_is_loaded(bwcache_command: Any, files: Path) -> None:
    shutil.copytree(saved("i2v"), files / "i2v")
    without_weights(files / "i2v")
    ended = bwcache_command("compare", "--model", "i2v", *WAN, "--image", "start.png")
    assert ended.code == 2
    assert "a folder 'i2v' that cannot be loaded" in ended.lines[-1]
