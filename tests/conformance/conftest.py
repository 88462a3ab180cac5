"""Says at the end of a run what of the zoo was run, and what was left out and why."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

HERE = "tests/conformance/"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    passed = [report for report in terminalreporter.getreports("passed") if report.nodeid.startswith(HERE)]
    if not passed:
        return
    laws: dict[str, set[str]] = {}
    for report in passed:
        found = re.match(rf"{HERE}(\w+)\.py::\w+\[(.*)\]", report.nodeid)
        if found and report.when == "call":
            laws.setdefault(found[1], set()).add(found[2])
    skipped = [report for report in terminalreporter.getreports("skipped") if report.nodeid.startswith(HERE)]
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    models, pipelines = laws.get("test_models", set()), laws.get("test_pipelines", set())
    classes = {name.split("-")[0] for name in models}
    terminalreporter.write_line(
        f"conformance: {len(models)} denoisers and variants of {len(classes)} classes, {len(pipelines)} pipelines"
    )
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"  {count} left out: {reason[:150]}")
