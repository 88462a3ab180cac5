"""``bwcache methods``: the catalogue of the policies, and one of them in full."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

from bwcache.cli.settings import MethodsSettings

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 100
LEGEND = (
    "Kept: hidden states that wait from step to step, for each guidance branch.",
    "Verified against: what the test of the policy holds its decisions and results against.",
    "'bwcache methods NAME' shows one in full: its rule, fields, published settings and BibTeX.",
)


def run_methods(settings: MethodsSettings) -> None:
    """Show all policies, or the one of the name in full.

    Raises:
        SettingError: no policy has such a name.
    """
    from bwcache.policies import known, named
    from bwcache.policies.catalogue import described

    kinds = [named(settings.name)] if settings.name else [*known().values()]
    methods = [described(kind) for kind in kinds]
    if settings.as_json:
        print(json.dumps({"methods": methods}, indent=2))
    elif settings.name:
        print("\n".join(in_full(methods[0])))
    else:
        show(methods)


def show(methods: list[dict[str, Any]]) -> None:
    """Print the catalogue as a table."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH, color_system=None)
    console.print(table(methods))
    for line in LEGEND:
        console.print(Text(line), style="dim")
    console.print(f"{len(methods)} policies.")


def table(methods: list[dict[str, Any]]) -> Table:
    """Policy and paper; what is kept, read and calibrated, and what it is verified against."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), show_edge=False, show_lines=True)
    made.add_column("policy, and where it is from", width=46)
    made.add_column("what is known of it")
    for one in methods:
        known = (Text.assemble((f"{name}: ", "dim"), fact) for name, fact in facts(one).items())
        made.add_row(Text.assemble((one["name"], "bold"), "\n", source(one)), Text("\n").join(known))
    return made


def facts(one: dict[str, Any]) -> dict[str, str]:
    """What is kept, read and calibrated, and what it is verified against; nothing of a policy without an entry."""
    found = {"kept": one["keeps"], "read": one["reads"], "calibration": one["calibration"] or "none"}
    return {**found, "verified against": one["verified"]} if one["keeps"] else {}


def source(one: dict[str, Any]) -> str:
    """Title, arXiv number and venue; of a method without a paper where it comes from."""
    paper = one["paper"]
    if not paper:
        return str(one["origin"])
    return f"{paper['title']}\narXiv {paper['arxiv']}" + (f", {paper['venue']}" if paper["venue"] else "")


def in_full(one: dict[str, Any]) -> list[str]:
    """Return the lines that say all of one policy."""
    lines = [one["name"], one["does"], "", *source(one).split("\n"), ""]
    lines += [f"{name}: {fact}" for name, fact in facts(one).items()]
    lines += ["", LEGEND[0]] if facts(one) else []
    lines += ["", "Held against", *(line for row in one["proofs"] for line in proof(row))] if one["proofs"] else []
    lines += ["", one["rule"], "", "Fields"]
    for field in one["fields"]:
        lines += [f"  {field['name']} = {field['default']}", *wrapped(field["meaning"])]
    if one["published"]:
        lines += ["", "Published settings"]
    for row in one["published"]:
        how = "calibrated with " if row["calibrates"] else ""
        lines += [f"  {row['for']}: {row['source']}", *wrapped(how + shown(row["settings"]))]
    return lines + (["", one["bibtex"]] if one["bibtex"] else [])


def proof(row: dict[str, Any]) -> list[str]:
    """Return the lines of one test: against what, what is equal, on which denoisers and how guidance comes there."""
    return [f"  {row['against']}: {row['equal']}", *wrapped(f"on {models(row)}"), *wrapped(row["test"])]


def models(row: dict[str, Any]) -> str:
    """Return the denoisers of a test, and how guidance comes in each."""
    return ", ".join(f"{name} ({', '.join(how)})" if how else name for name, how in row["on"].items())


def wrapped(text: str) -> list[str]:
    """Return lines that are not too long, set in."""
    return textwrap.wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


def shown(settings: Any) -> str:
    """Settings as one writes them in Python."""
    if isinstance(settings, dict):
        return ", ".join(f"{name}={value!r}" for name, value in settings.items())
    return repr(settings)
