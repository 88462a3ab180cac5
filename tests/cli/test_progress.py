import io
import re

import pytest
from rich.console import Console

from bwcache.cli.progress import Bars, quiet_libraries
from bwcache.measure.call import Progress


def shown(terminal):
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=100, legacy_windows=False)
    with Bars(console) as bars:
        with bars.loading("shapes"):
            bars._bars.refresh()
        for done in range(9):
            bars.show(Progress("prompt 1/2, cached", "sampling", done, 8))
            bars._bars.refresh()
        for done in range(2):
            bars.show(Progress("prompt 1/2, cached", "decoding", done, 1))
            bars._bars.refresh()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.getvalue())


def test_a_terminal_sees_bars():
    text = shown(terminal=True)
    for part in (
        "loading shapes",
        "prompt 1/2, cached: sampling",
        "3/8 steps",
        "8/8 steps",
        "prompt 1/2, cached: decoding",
    ):
        assert part in text, part


def test_a_file_sees_one_line_per_video():
    assert shown(terminal=False) == "prompt 1/2, cached: 8 steps\n"


@pytest.mark.parametrize("name", ["[/x]", "[bold", "[link=x]y[/link]", ":cat:", "\\[/]"])
@pytest.mark.parametrize("terminal", [True, False])
def test_names_are_no_markup(name, terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, legacy_windows=False)
    with Bars(console) as bars:
        with bars.loading(name):
            bars._bars.refresh()
        bars.show(Progress(name, "sampling", 1, 8))
        bars._bars.refresh()
        bars.writing(name)
        bars._bars.refresh()
        bars.overall(name, 1, 2)
        bars._bars.refresh()
        bars.say(name)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())  # type: ignore[attr-defined]
    assert name in text
    assert not terminal or (f"loading {name}" in text and f"writing {name}" in text)


def test_libraries_are_quiet_only_meanwhile(monkeypatch):
    import transformers.utils.logging as library

    said = []
    logger = library.get_logger("transformers.any")
    monkeypatch.setattr(logger, "handle", said.append)
    before = library.get_verbosity()
    with quiet_libraries():
        logger.error("advice")
        assert said == []
    assert library.get_verbosity() == before
    logger.error("advice")
    assert [record.getMessage() for record in said] == ["advice"]
