"""Every field of a results folder replaced by what it must not be: a page, or one line; never a traceback, and soon."""

import copy
import functools
import importlib
import json
import shutil

import pytest

from bwcache.cli.vbench import gather
from bwcache.errors import SettingError
from bwcache.report import sections, studies
from bwcache.report.files import read_summary
from bwcache.report.html import read, render
from bwcache.report.sections import SECTIONS
from tests.report.comparisons import comparison_folder, run
from tests.report.test_sections import SUMMARY, profiled, study

results = importlib.import_module("bwcache.study.results")
DEEP = json.loads("[" * 90 + "]" * 90)
WRONG = [None, [], "", {}, -1, 0, 10**9, 10**400, -0.5, 1e308, 5e-324, True, "nan", [None], [1, "a"], {"a": None}, DEEP]


def places(content, above=()):
    """Where all values of a JSON document are, those that hold others too."""
    if above:
        yield above
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in inner:
        yield from places(value, (*above, name))


def replaced(content, place, value):
    changed = copy.deepcopy(content)
    at = changed
    for name in place[:-1]:
        at = at[name]
    at[place[-1]] = value
    return changed


def survives(attempt, *arguments):
    """Whether all went well; False for one line that says why not."""
    try:
        attempt(*arguments)
    except SettingError as error:
        said = str(error)
    else:
        return True
    assert "; expected " in said
    assert len(said) < 2000
    return False


def some(whole, share):
    """All places, each with so large a share of the wrong values, in turn."""
    for i, place in enumerate(places(whole)):
        for wrong in WRONG[i % share :: share]:
            yield replaced(whole, place, wrong)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return comparison_folder(tmp_path_factory.mktemp("damage") / "out", run("a ball"), run("a cube", psnr=float("inf")))


def page(folder, videos):
    render(read(folder, videos=videos))


def test_every_field_of_a_summary(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "out")
    refused = 0
    for changed in some(json.loads((made / "summary.json").read_text()), 1):
        (folder / "summary.json").write_text(json.dumps(changed))
        refused += not survives(page, folder, 0)
        survives(gather, folder)
    assert refused > 300


def test_every_field_of_a_trace(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "out")
    trace = folder / "01-a-ball" / "trace.jsonl"
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    refused = 0
    for number in (0, 3):
        for changed in some(lines[number], 1):
            rows = [*lines[:number], changed, *lines[number + 1 :]]
            trace.write_text("".join(json.dumps(line) + "\n" for line in rows))
            refused += not survives(page, folder, 1)
    assert refused > 100


def grid_of(folder):
    return study(folder, grid={"threshold": [0.2]})


def methods_of(folder):
    return study(folder, methods=["bwcache"])


STUDIES = [
    ("profile", "profile.json", profiled),
    ("sweep", "results.json", grid_of),
    ("bench", "results.json", methods_of),
]


@pytest.mark.parametrize(("command", "name", "make"), STUDIES)
def test_every_field_of_a_study(tmp_path, monkeypatch, command, name, make):
    path = make(tmp_path / "study") / name
    whole = json.loads(path.read_text())
    monkeypatch.setattr(sections, "_drawn", lambda plot: b"")  # the next test draws
    monkeypatch.setattr(results, "DRAWS", 5)
    monkeypatch.setattr(studies, "speedup_interval", functools.partial(results.speedup_interval, draws=5))
    refused = 0
    for changed in some(whole, 6):
        path.write_text(json.dumps(changed))
        refused += not survives(SECTIONS[command], path.parent, SUMMARY)
    assert refused > 50


@pytest.mark.parametrize("wrong", [1e308, 5e-324])
@pytest.mark.parametrize(("command", "name", "make"), STUDIES[:2])
def test_figures_that_can_hardly_be_drawn(tmp_path, command, name, make, wrong):
    path = make(tmp_path / command) / name
    whole = json.loads(path.read_text())
    of_blocks, of_runs = {"seconds", "share"}, {"psnr", "denoise_seconds", "compute"}
    drawn = [
        place
        for place in places(whole)
        if (place[:2] == ("blocks", 0) and place[-1] in of_blocks)
        or (place[:2] == ("runs", 0) and place[-1] in of_runs)
    ]
    assert drawn
    for place in drawn[:4]:
        path.write_text(json.dumps(replaced(whole, place, wrong)))
        survives(SECTIONS[command], path.parent, SUMMARY)


NO_RECORD = ["", "{", "[]", "null", "NaN", "[" * 100_000, '{"a":' * 100_000, '{"runs": ' + "9" * 5000 + "}"]


@pytest.mark.parametrize("text", NO_RECORD, ids=range(len(NO_RECORD)))
def test_what_is_no_record(made, tmp_path, text):
    folder = shutil.copytree(made, tmp_path / "out")
    (folder / "summary.json").write_text(text)
    assert not survives(read_summary, folder)
    assert not survives(gather, folder)
