"""bwcache calibrate: a file for each method with a table, which other commands and attach take; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bwcache
from bwcache import shapes
from bwcache.policies.calibrated_file import CalibratedFile, read_policy_file
from bwcache.study.calibration import decides, settings_for
from tests.cli.saved import saved
from tests.policies.test_tables import WITH_TABLE

STEPS = 5
SMALL = ("--steps", STEPS, "--height", "32", "--width", "32", "--frames", "5")
PROMPTS = ("--prompt", "a red circle", "--prompt", "two blue squares")
SETTINGS: dict[str, tuple[str, ...]] = {
    "MagCache": ("--set", "threshold=9", "--set", "longest=2"),
    "TeaCache": ("--set", "threshold=9", "--set", "order=1", "--set", "warmup=2"),
    "SmoothCache": ("--set", "threshold=9", "--set", "kinds=['self', 'ffn']"),
    "SenCache": ("--set", "threshold=99", "--set", "early=99"),
    "BlockwiseAdaptiveCache": ("--set", "count=2", "--set", "union=0"),
    "MeanCache": ("--set", "computed=2"),
}


def calibrate(*more: Any) -> list[str]:
    return [str(word) for word in ("calibrate", *more[:1], "--model", saved("t2v"), *SMALL, *PROMPTS, *more[1:])]


def test_every_method_with_a_table_is_run_here() -> None:
    assert {*SETTINGS, "BlockCaching"} == {*WITH_TABLE}


@pytest.mark.parametrize("method", SETTINGS)
def test_a_file_is_made_and_taken(bwcache_command: Any, tmp_path: Path, method: str) -> None:
    ended = bwcache_command(*calibrate(method, *SETTINGS[method], "--out", "table.json"))
    assert ended.code == 0, ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]
    file = read_policy_file("table.json")
    assert isinstance(file, CalibratedFile)
    assert type(file.policy).__name__ == method
    assert file.policy.may_reuse
    assert file.made_for["denoiser"] == "WanTransformer3DModel"
    assert file.made_for["steps"] == STEPS
    assert file.made_for["scheduler"]["settings"]["shift"] == "1.0"
    assert file.source["prompts"] == ["a red circle", "two blue squares"]
    assert file.source["command"].startswith(f"bwcache calibrate {method} ")
    times = 3 if method == "SenCache" else 1
    assert f"2 uncached videos of {STEPS} steps" in ended.err
    assert f": {2 * STEPS * 2 * times} forwards, about " in ended.err
    assert "--policy table.json with compare, generate, sweep or serve" in ended.out

    taken = bwcache_command("generate", "--policy", "table.json", "--model", saved("t2v"), *SMALL, "--prompt", "a ring")
    assert taken.code == 0, taken.err
    run = json.loads((tmp_path / "bwcache-out" / "summary.json").read_text())["runs"][0]
    assert run["reuse_rate"] > 0


def test_the_model_in_the_box_is_calibrated_and_attached(bwcache_command: Any, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# few\na small red circle\n")
    words = ("--prompts", prompts, "--steps", 4, "--out", "table.json", "--set", "retention=0.5")
    assert bwcache_command("calibrate", "magcache", *words, "--set", "threshold=5").code == 0
    pipe = shapes.load()
    pipe.set_progress_bar_config(disable=True)
    with bwcache.attach(pipe, "table.json") as session:
        pipe("a ring", height=32, width=32, num_frames=9, num_inference_steps=4, output_type="latent")
    assert session.trace.meta["policy"] == read_policy_file("table.json").policy.describe()
    assert session.trace.reused == 2


def test_a_table_is_named_for_its_field(bwcache_command: Any, tmp_path: Path) -> None:
    assert bwcache_command(*calibrate("magcache", "--out", "table.json")).code == 0
    asked = ("--model", saved("t2v"), *SMALL, "--prompt", "a ring")
    (tmp_path / "published.json").write_text("[1.0, 1.0, 1.0, 1.0, 1.0]")
    tables = ("ratios=table.json", "ratios=published.json", "table=table.json", "policy.table=published.json")
    for number, table in enumerate(tables):
        out = f"out{number}"
        words = ("--policy", "magcache", "--set", table, "--set", "threshold=9", "--out", out)
        ended = bwcache_command("generate", *words, *asked)
        assert ended.code == 0, ended.err
        assert json.loads((tmp_path / out / "summary.json").read_text())["runs"][0]["reused"] > 0
    guarded = ("--policy", "guarded", "--set", "policy=MagCache(table=table.json, threshold=1e9)")
    ended = bwcache_command("generate", *guarded, "--set", "warmup=2", "--out", "guarded", *asked)
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "guarded/summary.json").read_text())["policy"]["policy"]["threshold"] == 1e9
    content = json.loads((tmp_path / "table.json").read_text())
    content["made_for"]["denoiser"] = "FluxTransformer2DModel"
    (tmp_path / "table.json").write_text(json.dumps(content))
    for method in (("--policy", "magcache", "--set", "ratios=table.json"), guarded):
        ended = bwcache_command("generate", *method, *asked)
        assert ended.code == 2
        assert "under a file calibrated for FluxTransformer2DModel" in ended.lines[-1]


def test_a_method_without_a_table_takes_none(bwcache_command: Any) -> None:
    words = ("--policy", "easycache", "--set", "table=table.json", "--model", saved("t2v"), *SMALL)
    ended = bwcache_command("generate", *words, "--prompt", "a ring")
    assert ended.code == 2
    assert "found --set 'table'; expected a field of EasyCache (threshold, warmup, published)" in ended.lines[-1]


def test_lists_for_another_number_of_steps_are_refused(bwcache_command: Any, tmp_path: Path) -> None:
    assert bwcache_command(*calibrate("smooth-cache", "--set", "threshold=9", "--out", "table.json")).code == 0
    asked = ("--model", saved("t2v"), "--steps", "6", "--height", "32", "--width", "32", "--frames", "5")
    ended = bwcache_command("generate", "--policy", "table.json", *asked, "--prompt", "a ring")
    assert ended.code == 2
    assert f"found lists for {STEPS} steps; expected for 6" in ended.lines[-1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("dbcache",), "found DBCache, which has no table to be calibrated; expected one of BlockCaching"),
        (("sortblock",), "what it needs is the polynomial of the model; three are published"),
        (("tuned",), "what it needs is steps and weights, by `bwcache tune`"),
        (("magcash",), "did you mean MagCache?"),
        (("magcache", "--out", "table.txt"), "expected a name that ends with .json"),
        (("magcache", "--out", "away/table.json"), "in a folder that is not there"),
        (("magcache", "--steps", "2"), "found --steps 2; expected at least 3"),
        (("magcache", "--set", "ratios=3"), "found --set 'ratios'; expected a field of a calibration of magcache"),
        (("magcache", "--set", "thres=3"), "did you mean threshold?"),
        (("magcache", "--set", "threshold=much"), "found --set threshold 'much'"),
        (("magcache", "--set", "threshold=-1"), "found threshold -1"),
        (("magcache", "--set", "retention=2"), "found retention 2"),
        (("smooth-cache", "--set", "threshold=-1"), "found threshold -1"),
        (("smooth-cache", "--set", "longest=0"), "found longest 0"),
        (("smooth-cache", "--set", "kinds=['wheel']"), "wheel"),
        (("teacache", "--set", "tail=-1"), "found tail -1"),
        (("sencache", "--set", "longest=0"), "found longest 0"),
        (("mean-cache", "--set", "power=0"), "found power 0"),
        (("block-caching",), "in whose blocks stand no spatial transformers"),
        (("magcache", "--prompt", "a red circle"), "twice"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_ends_in_one_line_before_the_weights_are_read(
    bwcache_command: Any, written: Any, options: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bwcache.measure.load.load_pipeline", lambda *_: pytest.fail("the weights were read"))
    ended = bwcache_command(*calibrate(*options))
    assert ended.code == 2
    assert len(ended.lines) == 1
    assert says in ended.lines[0]
    assert written() == []


def test_a_method_must_be_named(bwcache_command: Any, written: Any) -> None:
    ended = bwcache_command("calibrate")
    assert ended.code == 2
    assert len(ended.lines) == 1
    assert "METHOD" in ended.lines[0]
    assert written() == []


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_nothing_of_others_is_overwritten(bwcache_command: Any, tmp_path: Path, more: tuple[str, ...]) -> None:
    (tmp_path / "table.json").write_text('{"format": "bwcache-tuned-1"}')
    ended = bwcache_command(*calibrate("magcache", "--out", "table.json", *more))
    assert ended.code == 2
    assert (tmp_path / "table.json").read_text() == '{"format": "bwcache-tuned-1"}'


def test_an_earlier_table_is_replaced_where_that_is_said(bwcache_command: Any, tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text('{"format": "bwcache-calibrated-1"}')
    assert bwcache_command(*calibrate("magcache", "--out", "table.json")).code == 2
    assert bwcache_command(*calibrate("magcache", "--out", "table.json", "--overwrite")).code == 0
    assert read_policy_file("table.json").policy


def test_an_interrupted_calibration_leaves_nothing(
    bwcache_command: Any, written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bwcache.MagCache, "fitted", classmethod(stopped))
    ended = bwcache_command(*calibrate("magcache"))
    assert ended.code == 130
    assert written() == []


def test_a_folder_that_cannot_be_written_is_told_before_the_weights_are_read(
    bwcache_command: Any, written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", full)
    ended = bwcache_command(*calibrate("magcache"))
    assert ended.code == 2
    assert "in a folder that cannot be written (Permission denied)" in ended.lines[-1]
    assert written() == []


@pytest.mark.parametrize("method", WITH_TABLE.values(), ids=WITH_TABLE)
def test_what_decides_how_much_is_reused_can_be_said(method: Any) -> None:
    assert decides(method) in settings_for(method)


def test_what_can_be_said_of_a_calibration() -> None:
    assert {*settings_for(bwcache.TeaCache)} == {"threshold", "order", "input", "warmup", "tail"}
    assert {*settings_for(bwcache.MeanCache)} == {"computed", "power", "most"}
    assert {*settings_for(bwcache.SmoothCache)} == {"threshold", "longest", "kinds"}
