"""Goldens: recorded twice they are the same, and whatever changes is found and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from benchmarks.goldens import runs
from benchmarks.goldens.__main__ import app
from benchmarks.goldens.compare import difference
from benchmarks.goldens.record import event_row, read
from bwcache import Event

ONE = "^model/WanTransformer3DModel$"


def invoked(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("goldens") / "old.jsonl"
    ended = invoked("record", path, "--quick", "--only", ONE)
    assert ended.exit_code == 0, ended.output
    return path


def test_every_scenario_of_a_denoiser_reuses_something_and_raises_nothing(recorded: Path) -> None:
    _, cases = read(recorded)
    scenarios = {name.split("/")[2] for name in cases}
    assert scenarios == {"alone", "guided in two", "guided in one", "batch of two", "broken off", "bfloat16"}
    assert not [case for case in cases.values() if "raised" in case]
    for scenario in scenarios:
        rows = [row for name, case in cases.items() if f"/{scenario}/" in name for run in case["traces"] for row in run]
        assert {row["action"] for row in rows} == {"compute", "reuse"}, scenario
    assert {row["branch"] for row in cases["model/WanTransformer3DModel/guided in two/linear"]["traces"][0]} == {
        "call0",
        "call1",
    }
    assert {row["sample"] for row in cases["model/WanTransformer3DModel/batch of two/adaptive"]["traces"][0]} == {0, 1}
    assert len({row["site"] for row in cases["model/WanTransformer3DModel/alone/each block"]["traces"][0]}) == 4
    broken = cases["model/WanTransformer3DModel/broken off/linear"]
    assert len(broken["traces"]) == 2
    assert len(broken["traces"][0]) < len(broken["traces"][1]) == len(broken["outputs"]) == runs.STEPS


def test_recorded_again_they_are_the_same_and_what_is_there_is_not_run_again(recorded: Path, tmp_path: Path) -> None:
    again = tmp_path / "new.jsonl"
    assert invoked("record", again, "--quick", "--only", ONE).exit_code == 0
    ended = invoked("compare", recorded, again)
    assert (ended.exit_code, ended.output.splitlines()[-1].split(" of ")[0]) == (0, "0")
    before = again.read_bytes()
    assert "0 cases recorded" in invoked("record", again, "--quick", "--only", ONE).output
    assert again.read_bytes() == before


def test_a_line_that_was_cut_off_is_recorded_anew(recorded: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(recorded.read_bytes()[:-20])
    assert invoked("record", cut, "--quick", "--only", ONE).exit_code == 0
    assert read(cut) == read(recorded)


def test_what_differs_is_said_in_one_line_per_case(recorded: Path, tmp_path: Path) -> None:
    lines = recorded.read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows[1]["traces"][0][3]["reason"] = "another"
    rows[2]["outputs"][5] = "0" * 16
    (changed := tmp_path / "changed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    ended = invoked("compare", recorded, changed)
    found = ended.output.splitlines()
    assert ended.exit_code == 1
    assert f"{rows[1]['case']}: run 0, row 3 (step 3, call0): reason 'another', was " in found[0]
    assert found[1] == f"{rows[2]['case']}: outputs differ: 1 of 8, the first is number 5"
    assert found[2] == f"{rows[-1]['case']}: not recorded"
    assert found[3] == f"3 of {len(rows) - 1} cases differ"
    assert len(invoked("compare", recorded, changed, "--but", "reason").output.splitlines()) == 3


def test_goldens_of_other_code_are_not_added_to(recorded: Path, tmp_path: Path) -> None:
    head = json.loads(recorded.read_text().splitlines()[0])
    head["head"]["code"] = "another"
    (other := tmp_path / "other.jsonl").write_text(json.dumps(head) + "\n")
    (empty := tmp_path / "none.jsonl").write_text("{}\n")
    for path, word in ((other, "another"), (empty, "no goldens")):
        before = path.read_bytes()
        ended = invoked("record", path, "--quick", "--only", ONE)
        assert (ended.exit_code, path.read_bytes()) == (2, before)
        assert word in ended.output
    assert invoked("compare", recorded, empty).exit_code == 2


def test_floats_are_kept_exactly_and_shown_so_that_they_can_be_read() -> None:
    def case(indicator: float) -> dict[str, Any]:
        event = Event(0, 1, 2, None, None, "cond", "s", "compute", "r", indicator=indicator, distances=(0.5, indicator))
        return {"outputs": ["a"], "traces": [[event_row(event)]]}

    assert difference(case(0.1), case(0.1)) is None
    found = difference(case(0.1), case(0.1 + 2**-56))
    assert found == "run 0, row 0 (step 1, cond): indicator 0.10000000000000002, was 0.1"
    assert difference({"raised": "A: b"}, case(0.1)) == "goes through, was: A: b"


def test_a_digest_sees_bytes_shapes_and_dtypes() -> None:
    ones = torch.ones(2, 3)
    others = (ones.reshape(3, 2), ones.bfloat16(), ones * -1, torch.ones(2, 3, dtype=torch.int32))
    assert len({runs.digest([tensor]) for tensor in (ones, *others)}) == 5
    assert runs.digest([ones]) == runs.digest([torch.ones(3, 2).T])


def test_the_few_that_stand_for_all_are_there() -> None:
    names = {subject.name.partition("/")[2] for subject in runs.subjects(quick=True)}
    assert names >= runs.QUICK
    assert len(names) < len(runs.subjects()) / 5
