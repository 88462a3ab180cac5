"""What a page shows of a profile, a sweep and a bench, from the folders that they left."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bwcache.core.files import read_json
from bwcache.core.kinds import LIST, OBJECT, TEXT, each, fault, maybe
from bwcache.errors import SettingError, complaint
from bwcache.study.folder import Cell
from bwcache.study.results import Result

ROWS_NOTE = (
    "front: on the Pareto front of denoising speed against PSNR (P), SSIM (S), LPIPS (L). work saved: of the "
    "operations inside the blocks. speedup: of the denoising. kept: memory between steps."
)
LEVELS_NOTE = (
    "Along each family's own best settings; in brackets 95 % intervals over the videos; >=: even the fastest is better."
)
SHORT = 12
"""Letters in a cell that never breaks."""

SAME_MODEL = ("pipeline", "denoisers", "parameters")
SAME_SETTINGS = ("steps", "guidance_scale", "height", "width", "frames")

_RESULTS = {"study": OBJECT, "rows": each(OBJECT, least=1), "runs": each(OBJECT)}
_STUDY, _STUDY_MORE = {"model": OBJECT}, {"request": OBJECT}
_ROW = {"family": TEXT, "label": TEXT, "settings": OBJECT, "failed": maybe(TEXT)}


@dataclass(frozen=True)
class Table:
    """A table as the page shows it.

    Attributes:
        title: above it.
        heads: name of each column, and whether it holds numbers.
        rows: cells as text.
        note: what the columns mean, where it has to be said.
    """

    title: str
    heads: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each column holds: "number", "words" that may take several lines, or "short" ones."""
        longest = [max((len(row[i]) for row in self.rows), default=0) for i in range(len(self.heads))]
        return tuple(
            "number" if number else "words" if length > SHORT else "short"
            for (_, number), length in zip(self.heads, longest, strict=True)
        )


@dataclass(frozen=True)
class Section:
    """One study.

    Attributes:
        title: of the section.
        lines: what it found, in words.
        pictures: what each shows, and its PNG.
        tables: its figures.
        notes: what else a reader must know.
        folded: whether the tables open at a click.
    """

    title: str
    lines: tuple[str, ...]
    pictures: tuple[tuple[str, bytes], ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()
    folded: bool = False


def profile_section(folder: Path, summary: dict[str, Any]) -> Section:
    """Of what `bwcache profile` left.

    Args:
        folder: its `--out`.
        summary: of the comparison on the same page.

    Raises:
        SettingError: there is no whole profile, or it is of another model.
    """
    from bwcache.report.heatmaps import plot_curve, plot_heatmap, plot_latency
    from bwcache.report.profiles import block_table, fewer_table, sentences, time_table
    from bwcache.study.profile_results import Profile

    content = _read(folder, "profile.json", "profile")
    made = Profile.from_json(content)
    _check_model(folder, "profile", made.model, summary)
    pictures = {
        "Change of each block at each step": plot_heatmap,
        "The indicator over the steps, with its spread over the videos": plot_curve,
        "Where the time goes, and what reuse can save of it": plot_latency,
    }
    tables = (
        table("Where the time of an uncached call goes", time_table(made)),
        table("Blocks", block_table(made)),
        table("How few blocks and entries are enough", fewer_table(made)),
    )
    return Section(
        f"Profile: {_videos(len(made.videos))}, everything computed",
        (*_differences(made.environment, summary), *sentences(made)),
        tuple((what, _drawn(functools.partial(plot, made))) for what, plot in pictures.items()),
        tables,
        folded=True,
    )


def sweep_section(folder: Path, summary: dict[str, Any]) -> Section:
    """Of what `bwcache sweep` left; arguments and errors as of `profile_section`."""
    from bwcache.report.fronts import plot_fronts
    from bwcache.report.studies import levels_table, remarks, rows_table

    content, rows = _study(folder, "sweep", summary)
    return Section(
        f"Sweep: {len(rows)} settings on {_videos_of(rows)}",
        (*_differences(content["study"].get("request", {}), summary), _best(rows)),
        (("Speed against closeness to the uncached video", _drawn(lambda path: plot_fronts(rows, path))),),
        (
            table("Every setting, the fastest first", rows_table(rows), ROWS_NOTE),
            table("Denoising speedup at a given PSNR", levels_table(rows, "time"), LEVELS_NOTE),
        ),
        tuple(remarks(rows)),
    )


def bench_section(folder: Path, summary: dict[str, Any]) -> Section:
    """Of what `bwcache bench` left; arguments and errors as of `profile_section`."""
    from bwcache.report.bench import plot_methods, remarks
    from bwcache.report.studies import levels_table, rows_table

    content, rows = _study(folder, "bench", summary)
    said = tuple(f"{text} [{'; '.join(names)}]" for text, names in remarks(rows).items())
    return Section(
        f"Bench: {len(dict.fromkeys(row.family for row in rows))} methods on {_videos_of(rows)}",
        (*_differences(content["study"].get("request", {}), summary), _best(rows)),
        (("Each method along its own best settings", _drawn(lambda path: plot_methods(rows, path))),),
        (
            table("Denoising speedup at a given PSNR, as measured", levels_table(rows, "time"), LEVELS_NOTE),
            table("Speedup at a given PSNR by the blocks' work alone", levels_table(rows, "compute"), LEVELS_NOTE),
            table("Every setting, the fastest first", rows_table(rows), ROWS_NOTE),
        ),
        said,
    )


SECTIONS: dict[str, Callable[[Path, dict[str, Any]], Section]] = {
    "profile": profile_section,
    "sweep": sweep_section,
    "bench": bench_section,
}
"""Command -> reads what it left."""


def table(title: str, rich: Any, note: str = "") -> Table:
    """A rich table, as text; its caption, or else `note`, below it."""
    columns = [[str(cell) for cell in column.cells] for column in rich.columns]
    heads = tuple((str(column.header), column.justify == "right") for column in rich.columns)
    return Table(title, heads, tuple(zip(*columns, strict=True)), str(rich.caption or note))


def _study(folder: Path, command: str, summary: dict[str, Any]) -> tuple[dict[str, Any], list[Result]]:
    """The results of a sweep or a bench; rows in their order."""
    content = _read(folder, "results.json", command)
    own = {"methods": LIST} if command == "bench" else {"grid": OBJECT}
    wrong = fault(content, {**own, **_RESULTS}) or fault(content["study"], _STUDY, _STUDY_MORE, "study")
    wrong = wrong or next(filter(None, (fault(row, _ROW, where="row") for row in content["rows"])), None)
    try:
        cells = [] if wrong else list(map(Cell.from_json, content["runs"]))
    except ValueError as error:
        wrong = str(error)
    if wrong is not None:
        raise _refused(folder, f"a results.json that is not of a {command} ({wrong})", command)
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.label, []).append(cell)
    rows = [
        Result(row["family"], row["label"], row["settings"], tuple(found.get(row["label"], ())), row["failed"])
        for row in content["rows"]
    ]
    _check_model(folder, command, content["study"]["model"], summary)
    return content, rows


def _read(folder: Path, name: str, command: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise _refused(folder, "no folder", command)
    try:
        content = read_json(folder / name)
    except FileNotFoundError:
        raise _refused(folder, f"no {name}", command) from None
    except (OSError, ValueError) as error:
        raise _refused(folder, f"a {name} that cannot be read ({error})", command) from error
    if not isinstance(content, dict):
        raise _refused(folder, f"a {name} that holds no object", command)
    return content


def _check_model(folder: Path, command: str, model: dict[str, Any], summary: dict[str, Any]) -> None:
    """Raise where a study is of another model than the comparison."""
    for name in SAME_MODEL:
        theirs, ours = model.get(name), summary["model"].get(name)
        if theirs != ours:
            found = f"a {command} of a model with {name} {_words(theirs)} in {str(folder)!r}"
            expected = f"the comparison's, {_words(ours)}"
            raise SettingError(complaint(found, expected, f"name a {command} of that model"))


def _differences(theirs: dict[str, Any], summary: dict[str, Any]) -> tuple[str, ...]:
    """In which settings a study and the comparison differ, as one line."""
    ours = summary["environment"]
    differing = [
        f"{name} {_words(theirs[name])} (above: {_words(ours[name])})"
        for name in SAME_SETTINGS
        if theirs.get(name) is not None and ours.get(name) is not None and theirs[name] != ours[name]
    ]
    return (f"Made with other settings than the comparison: {', '.join(differing)}.",) if differing else ()


def _best(rows: Sequence[Result]) -> str:
    """The fastest setting that is still close, or that there is none."""
    close = [
        row
        for row in rows
        if row.cells and row.timed_speedup is not None and ((row.mean("psnr") or 0.0) >= 30.0 or not _differs(row))
    ]
    if not close:
        return "No setting reaches a mean of 30 dB PSNR."
    best = max(close, key=lambda row: row.timed_speedup or 0.0)
    worst = best.worst("psnr")
    quality = f"{best.mean('psnr'):.1f} dB" if _differs(best) else "no difference"
    return (
        f"The fastest with a mean of at least 30 dB PSNR: {best.label}, {best.timed_speedup:.2f}x as fast in "
        f"denoising, {quality}" + (f", the worst video {worst:.1f} dB." if worst is not None else ".")
    )


def _differs(row: Result) -> bool:
    return row.identical < len(row.cells)


def _videos_of(rows: Sequence[Result]) -> str:
    return _videos(len({(cell.prompt, cell.seed) for row in rows for cell in row.cells}))


def _videos(count: int) -> str:
    return f"{count} video{'' if count == 1 else 's'}"


def _drawn(plot: Callable[[Any], None]) -> bytes:
    picture = io.BytesIO()
    plot(picture)
    return picture.getvalue()


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _refused(folder: Path, found: str, command: str) -> SettingError:
    where = f"{found} {str(folder)!r}" if found == "no folder" else f"{found} in {str(folder)!r}"
    return SettingError(complaint(where, f"what 'bwcache {command}' wrote", "name that folder, or leave it out"))
