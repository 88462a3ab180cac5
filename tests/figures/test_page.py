"""The page of figures is what the results say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import page

PUBLISHED = page.DOCS / "figures.md"

ENGINE: dict[str, dict[str, Any]] = {
    "frames": {"policies": {"BWCache()": {"reuse": {"calls": [120, 140], "files": [11, 11]}}}},
    "sites": {"sites": [{"sites": 36, "microseconds": {"compute": 39.6, "reuse": 20.2}}]},
    "starting": {"cpu_seconds": {"import bwcache": 0.0389}},
}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(page, "DOCS", tmp_path)
    for plot in ("plot_curves", "plot_front"):
        monkeypatch.setattr(page, plot, lambda *_: None)
    return tmp_path / "figures.md"


def test_what_is_published_is_what_the_results_say(written: Path) -> None:
    page.main()
    assert written.read_text() == PUBLISHED.read_text(), "run python -m benchmarks.page"


def test_the_engine_s_figures_are_lines_of_one_table(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = page.result("growing")["environment"]
    monkeypatch.setattr(page, "optional", lambda name: {**ENGINE[name], "environment": environment})
    page.main()
    table = written.read_text().partition("| figure | |\n|---|---|\n")[2].partition("\n\n")[0]
    assert table.splitlines() == [
        "| one reused forward under `BWCache()`: frames, files | 120 to 140, 11 |",
        "| 36 sites: microseconds per site call, computed and reused | 40, 20 |",
        "| `import bwcache`, CPU time | 39 ms |",
    ]
    monkeypatch.setattr(page, "optional", lambda name: {})
    page.main()
    assert "| figure | |\n" not in written.read_text()
