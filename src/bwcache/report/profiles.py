"""A profile for a terminal, and as files."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bwcache.core.files import whole_file, write_json, write_text
from bwcache.extras import need
from bwcache.report.heatmaps import plot_curve, plot_heatmap, plot_latency
from bwcache.report.tables import percent
from bwcache.study.profile_curves import CLOSE, ENOUGH, THRESHOLDS, Fewer, share_below
from bwcache.study.profile_results import UNCACHED_PARTS, BlockFigures, Profile

PICTURES = {"heatmap.png": plot_heatmap, "curve.png": plot_curve, "latency.png": plot_latency}
TABLES = "profile.txt"
ENOUGH_BELOW = 0.3
"""Share of the steps below a threshold at which it is worth a try: interval and tail guard come on top."""
FEW_VIDEOS = 4
"""Fewer say nothing of which blocks to choose: each half of the videos is judged by what the other half chose."""
MOST_BLOCKS = 24
"""Longer stacks are shown by their slowest blocks."""


def write_profile(folder: Path, profile: Profile) -> None:
    """Write profile.json, profile.csv, tables and pictures into a folder that is there; each whole or not at all."""
    write_json(folder / "profile.json", profile.to_json())
    lines = io.StringIO(newline="")
    csv.writer(lines, lineterminator="\n").writerows(profile.rows())
    write_text(folder / "profile.csv", lines.getvalue())
    write_text(folder / TABLES, tables_text(profile))
    for name, plot in PICTURES.items():
        with whole_file(folder / name) as part:
            plot(profile, part)


def advice(profile: Profile) -> str:
    """What to do first, and on how much that rests."""
    gain = profile.time.saved(0.5)[1]
    steps = f"{len(profile.videos)} video{'' if len(profile.videos) == 1 else 's'}"
    tried = [delta for delta in (profile.threshold, *THRESHOLDS) if delta is not None]
    delta = next((one for one in tried if share_below(profile.curves, one) >= ENOUGH_BELOW), None)
    if delta is None:
        return (
            f"What to do first: more steps. Not even a threshold of {max(tried):g} is above the change of "
            f"{percent(ENOUGH_BELOW, 0)} of the steps ({steps}), so little would be reused."
        )
    most = f"a call at most {1 / (1 - gain):.2f}x as fast" if gain > 0 else "no call faster"
    return (
        f"What to do first: bwcache compare --threshold {delta:g}. {percent(share_below(profile.curves, delta), 0)} of "
        f"the steps change by less ({steps}); half of the steps reused would make {most}."
    )


def sentences(profile: Profile) -> list[str]:
    """The answers in words: what to do first, shape, time, what a saved step is worth, how few suffice."""
    count, split = len(profile.videos), profile.time
    found = [advice(profile), f"The curve of the indicator is {_article(profile.shape.kind)}{profile.shape}."]
    if count > 1:
        found.append(f"{profile.alike} of {count} videos have a curve of this shape by themselves.")
    found.append(
        f"The blocks take {percent(split.block_share)} of the denoising time and "
        f"{percent(split.blocks / split.seconds)} of the whole call."
    )
    found.append(f"{split.explain(max(1, len(profile.steps) // 2), len(profile.steps))}.")
    found.append(_enough("blocks", profile.fewer_blocks))
    if profile.fewer_entries:
        found.append(_enough("entries", profile.fewer_entries))
    return found + [f"note: {note}" for note in profile.notes]


def tables_text(profile: Profile) -> str:
    """All tables, as text."""
    from rich.console import Console

    console = Console(file=io.StringIO(), highlight=False, width=120, color_system=None)
    for table in (time_table(profile), block_table(profile), fewer_table(profile)):
        console.print(table)
        console.print()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def time_table(profile: Profile) -> Any:
    """A rich table: the parts of a call in order."""
    split = profile.time
    table = _table("where the time of a call goes", "seconds", "of the call", "of the denoising")
    for part, name in UNCACHED_PARTS.items():
        value = getattr(split, part)
        inside = percent(value / split.denoising) if part in ("blocks", "rest", "between") else "-"
        table.add_row(name, f"{value:.3f}", percent(value / split.seconds), inside)
    table.add_row("all", f"{split.seconds:.3f}", "", "", style="bold")
    table.add_section()
    table.add_row("without the hooks of this measurement", f"{split.plain_seconds:.3f}", "", "")
    for name, value in (
        ("indicator added, default sample", split.indicator),
        ("indicator added, all entries", split.exact_indicator),
    ):
        if value is not None:
            table.add_row(name, f"{value:.3f}", percent(value / split.seconds), percent(value / split.denoising))
    return table


def block_table(profile: Profile) -> Any:
    """A rich table: time, operations and change of each block."""
    import numpy as np

    shown = _shown(profile.blocks)
    title = "block" if len(shown) == len(profile.blocks) else f"block (the {len(shown)} slowest)"
    table = _table(title, "ms a call", "of the denoising", "GFLOP a call", "change, median")
    with np.errstate(all="ignore"):
        changes = [_median(profile.changes[..., i]) for i in range(len(profile.blocks))]
    for i in shown:
        block = profile.blocks[i]
        table.add_row(
            block.name,
            "-" if block.seconds is None else f"{1000 * block.seconds:.2f}",
            percent(block.share),
            "-" if block.flops is None else f"{block.flops / 1e9:.4g}",
            "-" if changes[i] is None else f"{changes[i]:.4f}",
        )
    return table


def fewer_table(profile: Profile) -> Any:
    """A rich table: subsets and samples beside the whole indicator."""
    heads = [f"{delta:.2f}" for delta in THRESHOLDS]
    table = _table("measured on", "memory", *heads, "ratio", "off by", "rank corr.")
    table.caption = (
        "0.05 … 0.30: steps on the same side of this threshold as with all blocks and entries. "
        "Ratio: to the whole indicator, median. Off by: 90 % of the steps, at most. * suffices"
    )
    shares = [percent(share, 0) for share in profile.below]
    table.add_row("  (steps below it)", "", *shares, "", "", "", style="dim")
    for group in (profile.fewer_blocks, profile.fewer_entries):
        table.add_section()
        for one in group:
            correlation = "-" if one.correlation is None else f"{one.correlation:.3f}"
            table.add_row(
                f"{'*' if one.suffices else ' '} {_name(one)}",
                "-" if one.memory is None else percent(one.memory),
                *(percent(share, 0) for share in one.agreement),
                f"{one.ratio:.2f}",
                percent(one.error, 0),
                correlation,
            )
    return table


def _enough(of: str, rows: Sequence[Fewer]) -> str:
    """The one that needs least and suffices."""
    rule = (
        f"{percent(ENOUGH, 0)} of the decisions equal at each threshold, nine of ten steps within {percent(CLOSE, 0)}"
    )
    enough = [one for one in rows if one.suffices]
    if not enough:
        return f"How few {of}: nothing smaller that was tried is enough ({rule})."
    least = min(enough, key=lambda one: (one.memory if one.memory is not None else 1.0, one.error))
    videos = f"{least.videos} video{'' if least.videos == 1 else 's'}"
    if least.blocks is not None and least.videos < FEW_VIDEOS:
        them = "it" if least.videos == 1 else "them"
        return (
            f"How few {of}: {videos} cannot tell. On {them} {least.what} would be enough ({rule}), but at least "
            f"{FEW_VIDEOS} are needed to choose by: add --seeds {FEW_VIDEOS} to the same command, which goes on with "
            "what is there."
        )
    setting = "" if least.blocks is None else f", BWCache(blocks={least.blocks})"
    what = f"{least.what}{setting} with {percent(least.memory)} of the memory"
    return f"How few {of}: {what} is enough on {videos} ({rule})."


def _name(one: Fewer) -> str:
    if one.blocks is None:
        return one.what
    shown = ", ".join(map(str, one.blocks)) if len(one.blocks) <= 4 else ""
    return f"{one.what} ({shown})" if shown else one.what


def _shown(blocks: Sequence[BlockFigures]) -> list[int]:
    if len(blocks) <= MOST_BLOCKS:
        return list(range(len(blocks)))
    slowest = sorted(range(len(blocks)), key=lambda i: -(blocks[i].seconds or 0.0))[:MOST_BLOCKS]
    return sorted(slowest)


def _median(values: Any) -> float | None:
    known = [value for value in values.ravel().tolist() if value == value]
    return statistics.median(known) if known else None


def _article(kind: str) -> str:
    return {"U": "a ", "inverted L": "an "}.get(kind, "")


def _table(first: str, *others: str) -> Any:
    need("cli")
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, caption_justify="left")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table
