"""Runs the laws on every model and pipeline, and writes down for which they hold: `python -m tests.conformance.record`.

Arguments are pytest's, such as `-k wan`: what they leave out stays as it was recorded.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from bwcache.models import denoisers
from bwcache.models.table import row_of
from bwcache.models.verified import PATH, facts, key

HERE = Path(__file__).parent
LAWS = (HERE / "test_models.py", HERE / "test_aborted.py", HERE / "test_pipelines.py")


class Recorder:
    """A plugin of pytest: the cases that ran, and those of which a law did not hold or was skipped."""

    def __init__(self) -> None:
        self.cases: dict[str, Any] = {}
        self.of: dict[str, str] = {}
        self.failed: set[str] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            case = next(iter(item.callspec.params.values()))  # type: ignore[attr-defined]
            self.of[item.nodeid], self.cases[case.name] = case.name, case

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self.failed.add(self.of[report.nodeid])

    @property
    def passed(self) -> list[Any]:
        return [case for name, case in self.cases.items() if name not in self.failed]


def updated(old: dict[str, dict[str, Any]], recorder: Recorder, known: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The facts after a run: what ran anew, and what did not run and is still known."""
    kept = set(known) - set(recorder.cases)
    found: dict[str, dict[str, set[str]]] = {}
    for name, fact in old.items():
        _add(found, name, "", kept & set(fact["model"]))
        for pipeline, cases in fact["pipelines"].items():
            _add(found, name, pipeline, kept & set(cases))
    for case in recorder.passed:
        made = case.build()
        modules = denoisers(made)
        pipeline = "" if modules.get("model") is made else _known(type(made))
        for module in modules.values():
            _add(found, key(row_of(type(module))), pipeline, {case.name})  # type: ignore[arg-type]
    return {
        name: {
            "model": sorted(cases.get("", ())),
            "pipelines": {pipeline: sorted(cases[pipeline]) for pipeline in sorted(cases) if pipeline},
        }
        for name, cases in sorted(found.items())
    }


def _known(kind: type) -> str:
    """The pipeline's name in diffusers: the zoo derives from a few of them to fill in what tiny components lack."""
    return next(base.__name__ for base in kind.__mro__ if base.__module__.startswith("diffusers."))


def _add(found: dict[str, dict[str, set[str]]], name: str, pipeline: str, cases: set[str]) -> None:
    if cases:
        found.setdefault(name, {}).setdefault(pipeline, set()).update(cases)


def zoo_names() -> list[str]:
    """Every case that the laws run on."""
    from tests.tiny import CASES
    from tests.zoo import MODELS, PIPELINES

    every: tuple[Any, ...] = (*MODELS, *CASES, *PIPELINES)
    return [case.name for case in every]


def main(arguments: list[str]) -> int:
    recorder = Recorder()
    code = pytest.main([*map(str, LAWS), *arguments], plugins=[recorder])
    logging.disable()  # diffusers writes to a stream that pytest has closed
    new = updated(facts(), recorder, zoo_names())
    PATH.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")
    print(f"{len(recorder.passed)} of {len(recorder.cases)} cases pass; written to {PATH}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
