"""``bwcache models``: what is known, what is refused, what was verified."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from bwcache.cli.settings import ModelsSettings
from bwcache.errors import SettingError, complaint

if TYPE_CHECKING:
    from rich.table import Table

    from bwcache.models import BlockSpec

WIDTH = 100
VERIFIED, KNOWN = "✓", "·"
LEGEND = (
    f"{VERIFIED} passes the conformance suite with a tiny config and random weights; {KNOWN} read in the source only.",
    "Native code is no dependency: its ticks stand for modules that are called in the same way, written for the tests.",
    "Its pipelines need a GPU and their own packages and weights: not run here. All of diffusers' were.",
    "Blocks: the lists (+ then, & in turn) and what a block returns, * what is read of the last one.",
    "What else a replay skips, outside of the blocks, is in --json.",
    "Guidance: batched, in one forward; separate, in forwards of their own; either; none, distilled.",
    "Preset: threshold and interval published for BWCache; elsewhere its defaults are used.",
)


def run_models(settings: ModelsSettings) -> None:
    """Show the models, all or those that the name is part of.

    Raises:
        SettingError: no model or pipeline has such a name.
    """
    models, refused = found(settings.name)
    if settings.as_json:
        print(json.dumps({"models": [described(row) for row in models], "refused": refused}, indent=2))
    else:
        show(models, refused)


def found(name: str | None) -> tuple[list[BlockSpec], dict[str, str]]:
    """The rows and the refusals of which a class, pipeline or module is called like this; raises as `run_models`."""
    from bwcache.models.refused import REFUSED
    from bwcache.models.table import ROWS

    part = (name or "").lower()
    models = [
        row for row in ROWS if any(part in text.lower() for text in (row.model, row.module_prefix, *row.pipelines))
    ]
    refused = {model: reason for model, reason in REFUSED.items() if part in model.lower()}
    if not models and not refused:
        raise SettingError(
            complaint(
                f"no model with {name!r} in its name",
                "a part of the name of a denoiser, of a pipeline or of a module",
                "see 'bwcache models' for all of them",
            )
        )
    return models, refused


def described(row: BlockSpec) -> dict[str, Any]:
    """A row with all that belongs to it, ready for JSON."""
    from bwcache.models.verified import verified
    from bwcache.policies.presets import preset_of

    preset, shown = preset_of(row), verified(row)
    return {
        "model": row.model,
        "module": row.module_prefix,
        "pipelines": list(row.pipelines),
        "blocks": [{"path": part.path, "returns": list(part.returns)} for part in row.lists],
        "interleaved": row.interleaved,
        "read_after": list(row.read_after),
        "timestep": row.timestep,
        "idle": list(row.idle_paths),
        "guidance": row.guidance,
        "preset": preset and {"method": preset.method, "settings": dict(preset.settings), "source": preset.source},
        "verified": {"model": shown.model, "pipelines": list(shown.pipelines)},
        "source": row.sources,
    }


def show(models: list[BlockSpec], refused: dict[str, str]) -> None:
    """Print the rows as a table, and the refusals below."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH, color_system=None)
    if models:
        console.print(models_table(models))
        for line in LEGEND:
            console.print(Text(line), style="dim")
    if refused:
        console.print()
        console.print(refused_table(refused))
    console.print(f"{len(models)} models, {len(refused)} refused.")


def models_table(models: list[BlockSpec]) -> Table:
    """Class and pipelines, blocks and streams, guidance, preset."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for header, width in (("denoiser, and its pipelines", 50), ("blocks", 29), ("guidance", 8)):
        table.add_column(header, width=width, overflow="fold")
    table.add_column("preset", no_wrap=True)
    for row in models:
        table.add_row(_names(row), _blocks(row), row.guidance, _preset(row))
    return table


def refused_table(refused: dict[str, str]) -> Table:
    """Class and reason."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("refused", no_wrap=True)
    table.add_column("because")
    for model, reason in refused.items():
        table.add_row(model, reason)
    return table


def _names(row: BlockSpec) -> str:
    from bwcache.models.verified import verified

    shown = verified(row)
    lines = [f"[bold]{_mark(shown.model)} {row.model}[/bold]"]
    if row.module_prefix != "diffusers.":
        lines.append(f"  of {row.module_prefix.rstrip('.')}")
    lines += [f"  {_mark(name in shown.pipelines)} {name}" for name in row.pipelines]
    return "\n".join(lines)


def _mark(shown: bool) -> str:
    return VERIFIED if shown else KNOWN


def _blocks(row: BlockSpec) -> str:
    """The lists, and the streams below those that return them."""
    lines: list[str] = []
    for i, part in enumerate(row.lists):
        lines.append(("& " if row.interleaved else "+ ") * (i > 0) + part.path)
        following = row.lists[i + 1] if i + 1 < len(row.lists) else None
        if following is None or following.returns != part.returns:
            read = row.read_after if following is None else ()
            lines += [f"  {stream}{' *' if stream in read else ''}" for stream in part.returns]
    return "\n".join(lines)


def _preset(row: BlockSpec) -> str:
    from bwcache.policies.presets import preset_of

    found = preset_of(row)
    if found is None:
        return ""
    interval = found.settings["reuse_interval"]
    return f"{found.settings['threshold']:g} " + (f"{interval:.0%}" if interval < 1 else f"{interval:g}")
