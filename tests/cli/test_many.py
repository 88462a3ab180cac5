"""``bwcache generate --prompts``: a folder of many videos, gone on with and shared."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

import bwcache
from bwcache.cli import many
from bwcache.cli.rows import Rows
from bwcache.cli.settings import GenerateSettings
from bwcache.core.files import write_json
from bwcache.fleet.prompt_file import Line
from bwcache.measure.load import small_files
from bwcache.measure.skeleton import pipeline_kind, skeleton
from bwcache.policies.calibrated_file import CalibratedFile

SMALL = ("--steps", "2", "--frames", "5")
GENERATE = ("generate", "--prompts", "rows.jsonl", "--out", "out", *SMALL)


@pytest.fixture
def rows(tmp_path):
    """Writes the prompt file."""

    def write(*lines):
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (tmp_path / "rows.jsonl").write_text(text)

    return write


@pytest.fixture
def table(tmp_path):
    """What the table says."""

    def read():
        with (tmp_path / "out" / "table.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    return read


def cells(folder):
    return sorted(path.parent.name for path in folder.glob("out/videos/*/*/video.json"))


def left(folder):
    return [str(path) for name in ("leases", "unfinished") for path in (folder / "out" / name).iterdir()]


def fails_at(monkeypatch, prompt, error):
    """Calls of the pipeline with this prompt raise."""
    modules = [importlib.import_module(f"bwcache.measure.{name}") for name in ("call", "compare")]
    made, calls = modules[0].call, []

    def fail(pipe, request, *more, **settings):
        calls.append(request.prompt)
        if request.prompt == prompt:
            raise error
        return made(pipe, request, *more, **settings)

    for module in modules:
        monkeypatch.setattr(module, "call", fail)
    return calls


def test_rows_become_cells_and_a_table_and_are_not_made_again(bwcache_command, tmp_path, rows, table, monkeypatch):
    rows(
        {"prompt": "a red circle", "seed": 3, "steps": 8, "policy": "fixed-interval", "interval": 3},
        {"prompt": "a blue square", "grade": "fast"},
        {"prompt": "a red circle", "seed": 3, "steps": 8, "policy": {"name": "FixedInterval", "interval": 3}},
    )
    ended = bwcache_command(*GENERATE)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1].startswith("3 of 3 videos are in ")
    first, second, third = table()
    assert [one["state"] for one in table()] == ["made"] * 3
    assert (first["line"], second["line"], third["line"]) == ("1", "2", "3")
    assert first["folder"] == third["folder"] != second["folder"]
    assert (first["policy"], second["policy"]) == ("FixedInterval", "Planned")
    assert (first["grade"], second["grade"]) == ("", "fast")
    assert json.loads(first["settings"])["interval"] == 3
    assert (first["seed"], first["steps"], first["frames"], second["steps"]) == ("3", "8", "5", "2")
    assert first["timeline"] == "CrrCrrCC"
    assert 1 < float(first["estimated_speedup"]) <= 8 / 4
    assert float(first["reuse_rate"]) == 0.5
    assert "within the interval" in first["reasons"]
    assert int(first["device_bytes"]) > 0
    assert len(cells(tmp_path)) == 2
    cell = tmp_path / "out" / first["folder"]
    assert {path.name for path in cell.iterdir()} == {"video.mp4", "trace.jsonl", "similarity.png", "video.json"}
    assert left(tmp_path) == []

    calls = fails_at(monkeypatch, None, AssertionError())
    rows({"prompt": "a blue square", "grade": "fast"}, {"prompt": "a green ring"})
    assert bwcache_command(*GENERATE).code == 0
    assert calls == ["a green ring"]
    assert [one["folder"] for one in table()] == [second["folder"], *{one["folder"] for one in table()[1:]}]
    assert len(cells(tmp_path)) == 3


def test_bad_rows_are_refused_before_anything_is_read_or_the_rest_is_made(
    bwcache_command, tmp_path, rows, table, written, monkeypatch
):
    def never(*arguments, **settings):
        raise AssertionError("weights were read")

    load = importlib.import_module("bwcache.measure.load")
    loads = load.load_pipeline
    monkeypatch.setattr(load, "load_pipeline", never)
    rows(
        {"prompt": "a red circle"},
        "no JSON",
        {"prompt": "a red circle", "steps": 0},
        {"prompt": "a red circle", "height": 33},
        {"prompt": " "},
    )
    before = written()
    ended = bwcache_command(*GENERATE)
    assert (ended.code, len(ended.lines), written()) == (2, 1, before)
    assert "found 4 bad rows in 'rows.jsonl'" not in ended.err
    assert "found 4 bad rows in " in ended.err
    assert "line 2: found 'no JSON', no JSON" in ended.err
    assert "line 3: found --steps 0; expected at least 1" in ended.err
    assert "line 4: found height 33" in ended.err
    assert "and 1 more" in ended.err
    assert ended.err.rstrip().endswith("mend them, or add --skip-bad to make the others")

    monkeypatch.setattr(load, "load_pipeline", loads)
    ended = bwcache_command(*GENERATE, "--skip-bad")
    assert ended.code == 0, ended.err
    assert "4 of 5 rows are left out: line 2: " in ended.err
    assert ended.out.splitlines()[-1].startswith("1 of 1 videos are in ")
    assert [one["state"] for one in table()] == ["made", "bad", "bad", "bad", "bad"]
    assert "expected at least 1" in table()[2]["failed"]
    assert len(cells(tmp_path)) == 1


REFUSED = [
    (("--prompt", "a"), "both --prompt and --prompts"),
    (("--overwrite",), "--overwrite with --prompts"),
    (("--out", "."), "the current folder"),
    (("--lease", "0"), "--lease 0.0; expected at least 1"),
    (("--policy", "anycache"), "policy 'anycache'"),
    (("--steps", "0"), "--steps 0"),
    (("--scheduler", "ddim"), "which does no flow matching"),
    (("--prompts", "missing.jsonl"), "that cannot be read (No such file"),
    (("--prompts", "empty.jsonl"), "no prompt in "),
    (("--prompts", "bad.csv"), "no row in "),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_what_cannot_work_is_one_line_and_nothing_is_written(bwcache_command, tmp_path, rows, written, options, said):
    rows({"prompt": "a red circle"})
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bad.csv").write_text("prompt,sead\na,1\n")
    before = written()
    ended = bwcache_command(*GENERATE, *options)
    assert (ended.code, len(ended.lines), written()) == (2, 1, before)
    assert said in ended.err


def test_a_folder_with_other_things_or_of_another_version_stays_as_it_is(
    bwcache_command, tmp_path, rows, written, monkeypatch
):
    rows({"prompt": "a red circle"})
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    before = written()
    ended = bwcache_command(*GENERATE, "--out", "thesis")
    assert (ended.code, len(ended.lines), written()) == (2, 1, before)
    assert "other things than videos of a prompt file" in ended.err
    assert bwcache_command(*GENERATE).code == 0
    before = written()
    ended = bwcache_command(*GENERATE, "--no-resume")
    assert (ended.code, written()) == (2, before)
    assert "videos in --out " in ended.err
    ended = bwcache_command("generate", "--prompt", "a red circle", *SMALL, "--out", "out")
    assert (ended.code, written()) == (2, before)
    environment = importlib.import_module("bwcache.measure.environment")
    version = environment._version
    monkeypatch.setattr(environment, "_version", lambda name: "9" if name == "torch" else version(name))
    ended = bwcache_command(*GENERATE)
    assert (ended.code, len(ended.lines), written()) == (2, 1, before)
    assert "found results of another torch in " in ended.err
    assert "expected the same as now (9)" in ended.err


def test_a_row_that_fails_is_said_and_the_others_are_made(bwcache_command, tmp_path, rows, table, monkeypatch):
    rows({"prompt": "a red circle"}, {"prompt": "a blue square"}, {"prompt": "a green ring"})
    with monkeypatch.context() as patch:
        fails_at(patch, "a blue square", bwcache.errors.OverBudgetError("found no memory; expected more; wait"))
        ended = bwcache_command(*GENERATE)
    assert ended.code == 1
    assert "line 2 failed: found no memory; expected more; wait" in ended.lines
    assert ended.lines[-1] == "bwcache: 1 of 3 videos could not be made: table.csv says why"
    assert [one["state"] for one in table()] == ["made", "failed", "made"]
    assert (table()[1]["prompt"], table()[1]["failed"]) == ("a blue square", "found no memory; expected more; wait")
    assert bwcache_command(*GENERATE).code == 0
    assert [one["state"] for one in table()] == ["made"] * 3
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted; 1 of 2 videos are kept in "),
        (RuntimeError("a bug"), None, None),
    ],
)
def test_whatever_ends_it_leaves_what_is_finished_and_nothing_half(
    bwcache_command, tmp_path, rows, monkeypatch, error, code, said
):
    import bwcache.report.files as files

    rows({"prompt": "a red circle"}, {"prompt": "a blue square"})
    write = files.write_generated

    def fail(folder, prompt, *more):
        write(folder, prompt, *more)
        if prompt == "a blue square":
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_generated", fail)
        if code is None:
            with pytest.raises(RuntimeError, match="a bug"):
                bwcache_command(*GENERATE)
        else:
            ended = bwcache_command(*GENERATE)
            assert ended.code == code
            assert said in ended.lines[-1]
            assert "Traceback" not in ended.err
    assert len(cells(tmp_path)) == 1
    assert left(tmp_path) == []
    assert bwcache_command(*GENERATE).code == 0
    assert len(cells(tmp_path)) == 2


def reader(folder=Path(), **settings):
    model = small_files("shapes")
    kind = pipeline_kind(model)
    return Rows(GenerateSettings(**settings), kind, "cpu", skeleton(model), folder)


def asked(values, **settings):
    return reader(**settings).read(Line(1, values))


def described(values, **settings):
    return asked(values, **settings).parts["policy"]


def test_a_row_goes_over_the_options_of_the_command():
    common = {"steps": 12, "guidance_scale": 2.0, "policy": "adaptive", "tolerance": "0.3"}
    found = asked({"prompt": "a", "guidance_scale": 3, "frames": "5"}, **common).parts
    assert (found["steps"], found["guidance_scale"], found["sizes"][0]) == (12, 3, 5)
    assert found["policy"]["tolerance"] == 0.3
    assert described({"prompt": "a", "tolerance": 0.1}, **common)["tolerance"] == 0.1
    assert described({"prompt": "a", "tolerance": 0.1}, policy="adaptive", sets=["tolerance=0.2"])["tolerance"] == 0.1
    assert described({"prompt": "a", "warmup": 0.5}, policy="adaptive", sets=["policy.warmup=0.2"])["warmup"] == 0.5
    other = described({"prompt": "a", "policy": "bwcache"}, **common, sets=["warmup=0.2", "max_sequence_length=64"])
    assert (other["name"], other["threshold"]) == ("BWCache", 0.15)
    assert described({"prompt": "a", "grade": "near"}, **common)["name"] == "Planned"
    assert described({"prompt": "a", "policy": "bwcache", "predictor": "taylor:2"})["predictor"] == "Taylor(order=2)"
    whole = reader(**common).whole(asked({"prompt": "a", "seed": 5, "max_sequence_length": 64}, **common))
    assert (whole.prompts, whole.seed, whole.arguments) == (("a",), 5, {"max_sequence_length": 64})
    assert described({"prompt": "a"}, cache=False) is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"seed": 1}, "found no prompt; expected a text in the column prompt"),
        ({"prompt": 3}, "found prompt 3; expected a text"),
        ({"prompt": "a \x1b"}, "the control character '\\x1b' in prompt"),
        ({"prompt": "a", "seed": -1}, "found seed -1; expected at least 0"),
        ({"prompt": "a", "seed": 1.5}, "found seed 1.5; expected a whole number"),
        ({"prompt": "a", "seed": True}, "found seed True; expected a whole number"),
        ({"prompt": "a", "steps": "many"}, "found steps 'many'; expected a whole number"),
        ({"prompt": "a", "frames": 8}, "frames 8; expected a multiple of 2 plus 1"),
        ({"prompt": "a", "guidance_scale": 1e300}, "found guidance_scale 1e+300"),
        ({"prompt": "a", "sead": 3}, "found --set 'sead'"),
        ({"prompt": "a", "num_frames": 5}, "use --frames"),
        ({"prompt": "a", "policy": 3}, "found policy 3; expected a text"),
        ({"prompt": "a", "policy": {"interval": 3}}, "found the name in policy None; expected a text"),
        ({"prompt": "a", "policy": "bwcache", "grade": "near"}, "--policy 'bwcache' beside --grade 'near'"),
        ({"prompt": "a", "grade": "superb"}, "found grade 'superb'"),
        ({"prompt": "a", "blocks": 99}, "blocks 99; expected indices of the 12 blocks"),
        (
            {"prompt": "a", "negative-prompt": "b", "negative_prompt": "c"},
            "found two columns that mean 'negative_prompt'",
        ),
        ({"prompt": "a", "image": "missing.png"}, "missing.png', which is no file"),
        ({"prompt": "a", "policy": "missing.json"}, "missing.json', which is no file; expected a file that is there"),
        ({"prompt": "a", "max_sequence_length": "@missing.png"}, "missing.png', which is no file"),
    ],
)
def test_what_a_row_cannot_say(values, said):
    with pytest.raises(bwcache.BWCacheError) as raised:
        asked(values)
    assert said in str(raised.value)


def test_tables_and_files_in_place_of_a_policy_lie_beside_the_prompt_file(tmp_path, monkeypatch):
    """Not where the command was started: there may lie another one of the name."""
    folders = [tmp_path / "prompts", tmp_path / "here"]
    for folder, threshold in zip(folders, (0.25, 0.75), strict=True):
        folder.mkdir()
        policy = bwcache.MagCache((1.0, threshold), threshold)
        write_json(folder / "mag.json", CalibratedFile(policy, {}, {}).to_json())
    monkeypatch.chdir(folders[1])
    kind = pipeline_kind(small_files("shapes"))
    read = Rows(GenerateSettings(), kind, "cpu", skeleton(small_files("shapes")), folders[0]).read
    for values in ({"policy": "mag.json"}, {"policy": "magcache", "ratios": "mag.json", "threshold": 0.25}):
        found = read(Line(1, {"prompt": "a", **values})).parts["policy"]
        assert (tuple(found["ratios"]), found["threshold"]) == ((1.0, 0.25), 0.25)
    nested = {"name": "MagCache", "ratios": "mag.json"}
    assert tuple(read(Line(1, {"prompt": "a", "policy": nested})).parts["policy"]["ratios"]) == (1.0, 0.25)


def test_a_video_is_named_by_all_that_it_depends_on():
    one: dict[str, Any] = {"prompt": "a", "seed": 1, "steps": 9}
    base = asked(one).parts
    assert asked({**one, "threshold": 0.15}).parts == base  # the default, said
    assert asked({**one, "policy": "BWCache"}).parts == base
    assert asked({"prompt": "a", "seed": "1"}, steps=9).parts == base
    assert asked(one, memory="offload").parts == base
    others: list[dict[str, Any]] = [
        {"prompt": "b"},
        {"seed": 2},
        {"steps": 8},
        {"frames": 5},
        {"width": 64},
        {"guidance_scale": 1.5},
        {"negative_prompt": "blurry"},
        {"threshold": 0.2},
        {"policy": "adaptive"},
        {"max_sequence_length": 64},
    ]
    keys = [json.dumps(asked({**one, **other}).parts, sort_keys=True) for other in others]
    keys += [json.dumps(found.parts, sort_keys=True) for found in (asked(one, cache=False), asked(one, fps=4))]
    assert len({*keys, json.dumps(base, sort_keys=True)}) == len(keys) + 1


def test_another_scheduler_makes_other_videos(bwcache_command, tmp_path, rows):
    rows({"prompt": "a red circle"})
    ended = bwcache_command(*GENERATE, "--scheduler", "UniPCMultistep")
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "out" / "videos.json").read_text())["model"]["scheduler"].startswith("UniPC")
    ended = bwcache_command(*GENERATE)
    assert (ended.code, len(cells(tmp_path))) == (2, 1)
    assert "results of another " in ended.err


def test_many_kinds_of_rows_are_not_all_remembered(monkeypatch):
    import bwcache.cli.rows as module

    monkeypatch.setattr(module, "MOST_PLANS", 3)
    found = reader()
    for steps in range(2, 9):
        assert found.read(Line(1, {"prompt": "a", "steps": steps})).parts["steps"] == steps
    assert len(found._plans) <= 3


def test_a_row_that_turns_bad_while_it_runs_is_named(bwcache_command, tmp_path, rows, monkeypatch):
    rows({"prompt": "a red circle"})
    check = many._check

    def then_changed(*arguments):
        found = check(*arguments)
        rows({"prompt": "a red circle"}, {"prompt": "b", "steps": 0})
        return found

    monkeypatch.setattr(many, "_check", then_changed)
    ended = bwcache_command(*GENERATE)
    assert ended.code == 2
    assert "found --steps 0" in ended.lines[-1]
    assert "line 2 of " in ended.lines[-1]
    assert len(cells(tmp_path)) == 1
