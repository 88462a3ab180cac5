"""How an option is written, the panels of the help, and options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from bwcache.cli.settings.parsers import whole_number


def option(name: str, text: str, panel: str, parser: Callable[[Any], Any] | None = None, **more: Any) -> Any:
    """Return an option of that name with ``text`` as its help, in one of the panels."""
    return typer.Option(name, help=text, rich_help_panel=panel, parser=parser, **more)


WHAT, MODEL, CACHE, OUTPUT = "What to make", "Model and machine", "Caching", "Output"
ELSE = "Anything else"
WITH = "On the same page"
MANY = "Many videos"
SERVER = "Server"

StudyFolder = Annotated[
    Path, option("--out", "Folder for the results; runs that are finished there are not made again.", OUTPUT)
]
FrameRate = Annotated[
    int | None,
    option("--fps", "Frames per second.", OUTPUT, whole_number, show_default="8 for shapes, else 16", metavar="N"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.", rich_help_panel=OUTPUT)]
