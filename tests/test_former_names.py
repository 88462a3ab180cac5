"""Former names are understood for one release: in code with a warning that says the new one, in files silently."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import bwcache
from bwcache import errors, former_names
from bwcache.cli.grids import read_grid
from bwcache.cli.sets import sorted_out
from bwcache.models import BlockSpec
from bwcache.policies import known, named
from bwcache.policies.base import Observation
from bwcache.study import Folder, UnderPolicy, Video
from bwcache.study.folder import Cell
from bwcache.study.study import Study, count_finished

MODULES = ("bwcache", "bwcache.errors", "bwcache.models", "bwcache.policies", "bwcache.study")
ALIASES = [
    (module, old, new)
    for module in MODULES
    for old, new in former_names.NAMES.items()
    if new in dir(importlib.import_module(module))
]
KINDS: dict[str, Any] = {"BWCache": bwcache.BWCache, "BlockSpec": BlockSpec, "Observation": Observation, "Study": Study}
OTHER: dict[str, Any] = {
    "interval_unit": "progress",
    "sample": 0.5,
    "cache_fill_flags": ("flag",),
    "read_after": ("x",),
    "module_prefix": "mine",
    "interleaved": True,
    "methods": (),
    "videos": (Video("a", 0),),
}
FIELDS = [(kind, old, new) for kind, fields in former_names.FIELDS.items() for old, new in fields.items()]
TAKEN = [one for one in FIELDS if one[0] != "Observation"]  # which the engine alone makes
NEEDED: dict[str, dict[str, Any]] = {
    "BlockSpec": {"model": "M", "lists": ()},
    "Study": {"methods": (), "videos": (), "request": None},
}


def made(kind: str, **fields: Any) -> Any:
    needed = {name: value for name, value in NEEDED.get(kind, {}).items() if name not in fields}
    return KINDS[kind](**needed, **fields)


def former(kind: str, old: str, new: str) -> Any:
    """Made with a field's former name, without its warning."""
    needed = {name: value for name, value in NEEDED.get(kind, {}).items() if name != new}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return KINDS[kind](**needed, **{old: OTHER[new]})


def test_they_go_in_a_release_to_come() -> None:
    assert bwcache.__version__ < former_names.GOES_IN


@pytest.mark.parametrize(("module", "old", "new"), ALIASES)
def test_an_alias_is_the_same_object_and_warns_each_time(module: str, old: str, new: str) -> None:
    where = importlib.import_module(module)
    text = rf"{module}\.{old} is called {module}\.{new} now.*0\.2\.0"
    for _ in range(2):
        with pytest.warns(DeprecationWarning, match=text) as caught:
            assert getattr(where, old) is getattr(where, new)
        assert caught[0].filename == __file__
    assert old not in dir(where)


def test_every_former_name_is_somebodys() -> None:
    assert {old for _, old, _ in ALIASES} == set(former_names.NAMES)
    assert {(old, new) for module, old, new in ALIASES if module == "bwcache"} >= {
        ("Compute", "NeverReuse"), ("Scheduled", "StepList"), ("AlreadyAttached", "AlreadyAttachedError")
    }  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_what_never_was_is_still_an_attribute_error(module: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'NeverWas'"):
        _ = importlib.import_module(module).NeverWas
    with pytest.raises(AttributeError, match="has no attribute 'race'"):
        _ = errors.race  # type: ignore[attr-defined]


def test_a_former_error_is_caught() -> None:
    with pytest.warns(DeprecationWarning, match="OverBudgetError"):
        caught = bwcache.OverBudget
    with pytest.raises(caught):
        raise errors.OverBudgetError("too much")


def test_errors_end_in_error_and_warnings_in_warning() -> None:
    mine = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)]
    assert mine
    for one in mine:
        assert one.__name__.endswith("Warning" if issubclass(one, Warning) else "Error")


@pytest.mark.parametrize(("kind", "old", "new"), TAKEN)
def test_a_former_keyword_is_taken_with_a_warning(kind: str, old: str, new: str) -> None:
    needed = {name: value for name, value in NEEDED.get(kind, {}).items() if name != new}
    with pytest.warns(DeprecationWarning, match=rf"{kind}\({old}=\) is called {kind}\({new}=\) now") as caught:
        found = KINDS[kind](**needed, **{old: OTHER[new]})
    assert caught[0].filename == __file__
    assert found == made(kind, **{new: OTHER[new]})
    assert getattr(found, new) == OTHER[new]


@pytest.mark.parametrize(("kind", "old", "new"), TAKEN)
def test_a_former_attribute_is_read_with_a_warning(kind: str, old: str, new: str) -> None:
    found = made(kind, **{new: OTHER[new]})
    with pytest.warns(DeprecationWarning, match=rf"{kind}\.{old} is called {kind}\.{new} now") as caught:
        assert getattr(found, old) == OTHER[new]
    assert caught[0].filename == __file__


@pytest.mark.parametrize(("kind", "old", "new"), TAKEN)
def test_replace_takes_a_former_keyword(kind: str, old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=old):
        found = dataclasses.replace(made(kind), **{old: OTHER[new]})
    assert found == made(kind, **{new: OTHER[new]})


def test_an_observation_has_its_former_attributes() -> None:
    step = bwcache.Step(run=0, index=0, total=1, timestep=None, sigma=None, branch="cond")
    seen = Observation(step, "stack", last=bwcache.Readings((1.0,), (2.0,)))
    with pytest.warns(DeprecationWarning, match="Observation.last"):
        assert seen.measured is seen.last  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match="Observation.error"):
        assert seen.foretold is None  # type: ignore[attr-defined]


def test_a_predictor_of_ones_own_may_have_a_former_method() -> None:
    with pytest.warns(DeprecationWarning, match=r"Mine\.given is called Mine\.adapted_to now") as caught:

        class Mine(bwcache.Linear):
            def given(self, error: bwcache.PredictionError | None) -> bwcache.Predictor:
                return bwcache.Last()

    assert caught[0].filename == __file__
    assert Mine().adapted_to(None) == bwcache.Last()
    with pytest.warns(DeprecationWarning, match=r"Linear\.given is called Linear\.adapted_to now"):
        assert bwcache.Linear().given(None) == bwcache.Linear()  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Now(bwcache.Linear):
            def adapted_to(self, error: bwcache.PredictionError | None) -> bwcache.Predictor:
                return self

        assert Now().adapted_to(None) == Now()


def test_both_names_at_once_are_refused() -> None:
    with pytest.raises(TypeError, match="token_sample and sample, which are one"):
        bwcache.BWCache(sample=1, token_sample=0.5)  # type: ignore[call-arg]


def test_new_names_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in bwcache.__all__:
            getattr(bwcache, name)
        policy = bwcache.BWCache(interval_unit="progress", sample=1)
        assert dataclasses.replace(policy, sample=0.5).sample == 0.5
        assert bwcache.policy(policy.describe()) == policy
        assert read_grid(bwcache.BWCache, ["sample=1"]) == {"sample": (1,)}
        bwcache.BlockSpec("M", (), read_after=("x",), interleaved=True, module_prefix="", cache_fill_flags=("y",))


def test_a_policy_of_ones_own_may_use_a_former_name() -> None:
    @dataclasses.dataclass(frozen=True)
    class Mine(bwcache.BWCache):
        measure: str = "mine"  # type: ignore[assignment]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Mine(measure="own").measure == "own"
    assert former_names.current_field(Mine, "measure") == "measure"
    assert former_names.current_field(Mine, "token_sample") == "sample"


@pytest.mark.parametrize(
    ("described", "expected"),
    [
        ({"name": "Compute", "measures": 0.5}, bwcache.NeverReuse(0.5)),
        ({"name": "Scheduled", "steps": [0, 3], "predictor": "linear"}, bwcache.StepList((0, 3), bwcache.Linear())),
        ({"name": "BWCache", "token_sample": 1}, bwcache.BWCache(sample=1)),
        ({"name": "bw-cache", "measure": "progress"}, bwcache.BWCache(interval_unit="progress")),
    ],
)
def test_a_former_description_is_read_silently(described: dict[str, Any], expected: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bwcache.policy(described) == expected


@pytest.mark.parametrize("name", ["compute", "Compute", "scheduled", "Scheduled"])
def test_a_former_name_chooses_a_policy(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert named(name) is known()[former_names.POLICIES[name.capitalize()]]


def test_former_names_on_the_command_line() -> None:
    words = ["compare", "--token-sample", "1", "--token-sample=0.5", "--prompt", "--token-sample is text"]
    now = ["compare", "--sample", "1", "--sample=0.5", "--prompt", "--token-sample is text"]
    assert former_names.current_arguments(words) == now
    assert read_grid(bwcache.BWCache, ["token_sample=1,none"]) == {"sample": (1, None)}
    former, fields = former_names.former_fields(bwcache.BWCache), ("sample", "interval_unit")
    found = sorted_out(["token_sample=1", "policy.measure=steps"], fields, (), "BWCache", "P", former)
    assert found.fields == {"sample": "1", "interval_unit": "steps"}
    found = sorted_out(["measure=2"], fields, ("measure",), "BWCache", "P", former)
    assert (found.fields, found.arguments) == ({}, {"measure": "2"}), "what the pipeline takes is the pipeline's"


def test_a_former_option_is_taken_by_the_command() -> None:
    code = "from bwcache.cli.app import main; main(['compare', '--token-sample', '0'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "found sample 0; expected a share in (0, 1]" in done.stderr


def test_a_former_trace_is_read(tmp_path: Path) -> None:
    trace = bwcache.Trace(meta={"cache_fills": {"x": 2}, "policy": bwcache.BWCache(sample=0.5).describe()})
    trace.to_jsonl(tmp_path / "now.jsonl")
    text = (tmp_path / "now.jsonl").read_text()
    for now, former in (("cache_fills", "aside"), ("sample", "token_sample"), ("interval_unit", "measure")):
        assert text.count(f'"{now}"') == 1
        text = text.replace(f'"{now}"', f'"{former}"')
    (tmp_path / "former.jsonl").write_text(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bwcache.Trace.from_jsonl(tmp_path / "former.jsonl")
        assert found == bwcache.Trace.from_jsonl(tmp_path / "now.jsonl")
        assert bwcache.policy(found.meta["policy"]) == bwcache.BWCache(sample=0.5)


def test_a_description_inside_another_is_read() -> None:
    inner = {"name": "BWCache", "token_sample": 1}
    found = former_names.current_description({"name": "Mine", "policy": inner, "more": [{"name": "Compute"}]})
    assert found == {"name": "Mine", "policy": {"name": "BWCache", "sample": 1}, "more": [{"name": "NeverReuse"}]}
    assert former_names.current_description({"name": ["damaged"]}) == {"name": ["damaged"]}
    assert former_names.current_meta({"policy": None, "model": 1}) == {"policy": None, "model": 1}


@pytest.mark.parametrize(
    ("method", "family", "settings"),
    [
        (
            UnderPolicy(bwcache.BWCache(0.2, sample=1)),
            "BWCache",
            {"threshold": 0.2, "reuse_interval": 0.1, "tail_guard": 0.5, "measure": "steps", "token_sample": 1,
             "blocks": None, "decision": "shared", "predictor": "Last()"},
        ),
        (UnderPolicy(bwcache.StepList((0, 2))), "Scheduled", {"steps": [0, 2], "predictor": "Last()"}),
    ],
    ids=["fields", "class"],
)  # fmt: skip
def test_former_results_of_a_study_are_found(
    tmp_path: Path, method: UnderPolicy, family: str, settings: dict[str, Any]
) -> None:
    from bwcache.study.study import _finished

    folder, video = Folder(tmp_path / "study", {"model": "m"}), Video("a", 0)
    cell = Cell(family, "as it was called", settings, "a", 0, seconds=1.0)
    folder.keep(cell, family, settings, "a", 0)
    found = _finished(folder, method, video)
    assert found is not None
    assert (found.family, found.label, found.seconds) == (method.family, method.label, 1.0)
    assert json.loads(json.dumps(found.settings)) == json.loads(json.dumps(method.settings()))
    assert count_finished(Study((method,), (video,), None), folder) == 1  # type: ignore[arg-type]
    assert folder.damaged == []


def test_methods_without_former_names_are_looked_up_once() -> None:
    assert UnderPolicy(bwcache.Adaptive()).former is None


def test_the_page_names_all_of_them() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "former-names.md").read_text(encoding="utf-8")
    of_classes = [*former_names.FIELDS.values(), *former_names.METHODS.values()]
    fields = [pair for names in of_classes for pair in names.items()]
    for old, new in [*former_names.NAMES.items(), *fields, *former_names.META.items(), *former_names.OPTIONS.items()]:
        assert re.search(rf"^\|.*(?<!\w){old}\b.*\|.*(?<!\w){new}\b.*\|$", text, re.MULTILINE), old
    assert former_names.GOES_IN in text


def test_no_other_file_knows_a_former_name() -> None:
    """They go with one file: no other one of the package holds such a string or such a name of a class."""
    words = {"Block", "Compute", "Race", "Standing", "Unit", "race", "standings"}
    names = "|".join([*(former_names.NAMES.keys() - words), "token_sample"])
    pattern = re.compile(rf"\b({names})\b")
    root = Path(bwcache.__file__).parent
    for path in root.rglob("*.py"):
        if path.name != "former_names.py":
            assert not pattern.search(path.read_text(encoding="utf-8")), path
