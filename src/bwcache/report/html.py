"""One HTML file that shows what a comparison found: it opens from disk and fetches nothing.

Videos and pictures are inside of it as data, text is escaped by jinja2, and the little script that plays the videos in
step and sorts the tables is inline.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bwcache.core.trace import Event, Trace
from bwcache.errors import SettingError, TraceError, complaint
from bwcache.measure.results import PARTS
from bwcache.report.files import SUMMARY, run_folder
from bwcache.report.tables import decibels, percent, size, times
from bwcache.report.timeline import reasons

VIDEOS = 12
"""Prompts whose videos are shown, the worst first, where nothing else is asked for: each weighs some megabytes."""

COLUMNS = {"uncached": "uncached", "cached": "cached", "difference": "difference"}
PART_COLOURS = {
    "before": "#9aa7bd",
    "blocks": "#2a6fbb",
    "indicator": "#c0392b",
    "rest": "#7fb0e0",
    "between": "#e08a2e",
    "after": "#6a51a3",
}


@dataclass(frozen=True)
class Shown:
    """One prompt as the page shows it.

    Attributes:
        run: its row of the summary.
        trace: every decision.
        files: of this prompt: names of videos and pictures to their contents.
    """

    run: dict[str, Any]
    trace: Trace
    files: dict[str, bytes]

    def uri(self, name: str) -> str | None:
        """A file as a data address, or None where it is not there."""
        kind = {"mp4": "video/mp4", "png": "image/png"}[name.rsplit(".", 1)[1]]
        return data_uri(self.files[name], kind) if name in self.files else None

    @property
    def quality(self) -> str:
        """PSNR and SSIM, or that nothing differs."""
        if self.run["identical"]:
            return "identical"
        return f"{decibels(self.run['psnr'])} PSNR, SSIM {self.run['ssim']:.3f}"

    @property
    def reasons(self) -> list[str]:
        """Why steps were computed or reused, in words."""
        return reasons(self.trace)

    @property
    def branches(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """The timeline: for each branch its steps, with what was done and why."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for event in self.trace.events:
            rows.setdefault(_lane(event), []).append({"kind": _kind(event), "step": event.step, "why": _why(event)})
        return list(rows.items())

    @cached_property
    def heatmap(self) -> dict[str, Any] | None:
        """Changes by block and step, with colours; None where the blocks were not measured."""
        return heatmap(self.trace)


@dataclass(frozen=True)
class Report:
    """Everything on the page.

    Attributes:
        summary: of the comparison, as it was written.
        shown: the prompts whose videos are shown.
        pictures: of a profile, a sweep or a bench: title, caption, PNG.
        tables: of a sweep or a bench: title, header, rows.
    """

    summary: dict[str, Any]
    shown: tuple[Shown, ...]
    pictures: tuple[tuple[str, str, bytes], ...] = ()
    tables: tuple[tuple[str, tuple[str, ...], tuple[tuple[Any, ...], ...]], ...] = ()

    @property
    def runs(self) -> list[dict[str, Any]]:
        """All prompts."""
        return self.summary["runs"]

    @property
    def total(self) -> dict[str, Any]:
        """Of all prompts."""
        return self.summary["total"]

    @property
    def answer(self) -> str:
        """The question answered in a sentence."""
        total, count = self.total, len(self.runs)
        videos = "The video" if count == 1 else f"The {count} videos"
        took = f"{videos} took {seconds(total['uncached_seconds'])} without caching and "
        took += f"{seconds(total['cached_seconds'])} with it: {times(total['speedup'])} as fast"
        if total["psnr"] is None:
            return f"{took}, and not a pixel differs."
        close = f"{took}, at {decibels(total['psnr'])} PSNR and {total['ssim']:.3f} SSIM"
        return close + (f"; the worst has {decibels(total['worst_psnr'])}." if count > 1 else ".")

    @property
    def worst(self) -> dict[str, Any] | None:
        """The prompt whose video differs most."""
        differing = [run for run in self.runs if not run["identical"]]
        return min(differing, key=lambda run: run["psnr"]) if differing else None

    @property
    def figures(self) -> list[tuple[str, str, str]]:
        """The table at the top: name, value, what it means."""
        total, worst = self.total, self.worst
        rows = [
            ("Speed, whole call", times(total["speedup"]), "uncached over cached seconds"),
            ("Speed, denoising", times(total["denoise_speedup"]), "first to last forward of the denoiser"),
            ("Possible at this reuse", times(total["ideal_denoise_speedup"]), "if a reused step cost nothing"),
            ("Reused", percent(total["reuse_rate"]), "share of the denoiser's forwards"),
            ("PSNR", _psnr(total["psnr"]), "mean over the videos that differ; per frame, before compression"),
            ("SSIM", f"{total['ssim']:.3f}", f"worst {total['worst_ssim']:.3f}"),
        ]
        if worst is not None and len(self.runs) > 1:
            rows.insert(5, ("PSNR of the worst", decibels(worst["psnr"]), worst["prompt"]))
        for name, label in (("ms_ssim", "MS-SSIM"), ("lpips", "LPIPS")):
            value = total.get(name)
            why = next((note for run in self.runs for note in run.get("unmeasured", ()) if label in note), "")
            rows.append((label, "not measured" if value is None else f"{value:.3f}", why if value is None else ""))
        rows.append(("Extra memory", size(total["extra_memory_bytes"]), "kept between steps"))
        rows.append(("Indicator", percent(total["indicator_share"]), "share of the cached denoising time"))
        return rows

    @cached_property
    def split(self) -> dict[str, dict[str, float]] | None:
        """Seconds by part of the uncached and the cached calls, all prompts added; None where it is unknown."""
        sides: dict[str, dict[str, float]] = {}
        for side in ("uncached", "cached"):
            rows = [row for run in self.runs if (row := run.get(f"{side}_parts")) is not None]
            if len(rows) < len(self.runs):
                return None
            sides[side] = {part: sum(row[part] for row in rows) for part in PARTS}
        return sides

    @property
    def why_not_more(self) -> list[str]:
        """Why so many reused steps save just so much time, from this comparison's own figures."""
        split = self.split
        if split is None:
            return []
        return explained(split["uncached"], split["cached"], self.total["reuse_rate"])

    @property
    def left_out(self) -> int:
        """Prompts whose videos are not shown."""
        return len(self.runs) - len(self.shown)


def explained(uncached: dict[str, float], cached: dict[str, float], reuse_rate: float) -> list[str]:
    """The arithmetic between reused steps and saved seconds, in sentences.

    Args:
        uncached: seconds by part.
        cached: seconds by part.
        reuse_rate: share of the forwards that were reused, 0..1.
    """
    before, after = sum(uncached.values()), sum(cached.values())
    share = uncached["blocks"] / before
    outside = 1 - share
    possible = 1 / (1 - reuse_rate * share)
    named = sorted((part for part in PARTS if part != "blocks"), key=lambda part: -uncached[part])
    largest = " and ".join(f"{PARTS[part]} ({seconds(uncached[part])})" for part in named[:2])
    lines = [
        f"{percent(reuse_rate)} of the forwards were reused, and {percent(1 - after / before)} of the time was saved.",
        f"Reuse saves the blocks' time alone. Uncached, the blocks took {percent(share)} of the call; "
        f"{percent(outside)} lies outside of them, above all {largest}, and is the same with caching.",
        f"So at this reuse a call can become {times(possible)} as fast at best; it became {times(before / after)}.",
    ]
    lost = after - before / possible
    if lost > 0.02 * after:
        costs = [f"the indicator took {seconds(cached['indicator'])}"] if cached["indicator"] else []
        owed = {**uncached, "blocks": uncached["blocks"] * (1 - reuse_rate)}
        more = {part: cached[part] - owed[part] for part in owed if part != "indicator"}
        costs += [f"{PARTS[part]} took {seconds(extra)} more" for part, extra in more.items() if extra > 0.1 * lost]
        lines.append(f"The {seconds(lost)} between the two: {', '.join(costs) or 'the noise of the measurement'}.")
    return lines


def read(folder: Path, videos: int = VIDEOS) -> Report:
    """What `bwcache compare` left in a folder.

    Args:
        folder: as given to `--out`.
        videos: prompts whose videos are shown, those that differ most first.

    Raises:
        SettingError: the folder holds no comparison, or not all of it.
    """
    summary = _summary(folder)
    runs = summary["runs"]
    worst_first = sorted(range(len(runs)), key=lambda i: (runs[i]["identical"], runs[i]["psnr"] or 0.0))
    chosen = sorted(worst_first[:videos])
    return Report(summary, tuple(_shown(folder, i, runs[i]) for i in chosen))


def render(report: Report) -> str:
    """The page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bwcache.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"seconds": seconds, "uri": lambda content: data_uri(content, "image/png")}
    environment.filters |= {"percent": percent, "times": times, "decibels": decibels, "shown": _plain}
    template = environment.get_template("report.html.jinja")
    return template.render(report=report, parts=PARTS, colours=PART_COLOURS, columns=COLUMNS)


def heatmap(trace: Trace) -> dict[str, Any] | None:
    """Rows of colours by block, columns by step, branches averaged; None where nothing was measured."""
    found: dict[int, list[tuple[float, ...]]] = {}
    for event in trace.events:
        if event.distances is not None and event.site.split("/")[0] == trace.events[0].site.split("/")[0]:
            found.setdefault(event.step, []).append(event.distances)
    widths = {len(one) for some in found.values() for one in some}
    if len(widths) != 1:
        return None
    means = {step: [sum(column) / len(some) for column in zip(*some, strict=True)] for step, some in found.items()}
    known = [value for row in means.values() for value in row if value > 0 and math.isfinite(value)]
    if not known:
        return None
    low, high = min(known), max(known)
    blocks = [
        [_cell(means.get(step), block, low, high) for step in range(trace.steps)] for block in range(widths.pop())
    ]
    return {"rows": blocks, "low": low, "high": high}


def data_uri(content: bytes, kind: str) -> str:
    """A file inside of the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def seconds(value: float) -> str:
    """A time as a person says it."""
    if value < 0.0995:
        return f"{value * 1000:.0f} ms"
    if value < 99.5:
        return f"{value:.1f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 100 else f"{value / 3600:.1f} h"


def _summary(folder: Path) -> dict[str, Any]:
    place = repr(str(folder))
    if not folder.is_dir():
        raise _refused(f"no folder {place}", "what `bwcache compare --out` made", "run bwcache compare first")
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _refused(f"no {SUMMARY} in {place}", "what `bwcache compare --out` made", "name that folder") from None
    except (OSError, ValueError) as error:
        raise _refused(f"a {SUMMARY} in {place} that cannot be read ({error})", "strict JSON", "compare anew") from None
    if not isinstance(summary, dict) or not {"model", "policy", "environment", "runs", "total"} <= set(summary):
        raise _refused(
            f"a {SUMMARY} in {place} that is not of a comparison", "one of `bwcache compare`", "name another"
        )
    if not summary["runs"] or any(row.keys() < {"prompt", "psnr", "identical"} for row in summary["runs"]):
        raise _refused(f"a {SUMMARY} in {place} without complete runs", "one run per prompt", "compare anew")
    return summary


def _shown(folder: Path, index: int, run: dict[str, Any]) -> Shown:
    place = folder / run_folder(index, run["prompt"])
    try:
        trace = Trace.from_jsonl(place / "trace.jsonl")
        names = [*(f"{name}.mp4" for name in COLUMNS), "similarity.png"]
        files = {name: (place / name).read_bytes() for name in names if (place / name).is_file()}
    except (OSError, TraceError) as error:
        raise _refused(
            f"no whole results of prompt {index + 1} in {str(place)!r} ({error})", "all files", "compare anew"
        ) from None
    missing = [name for name in ("uncached.mp4", "cached.mp4") if name not in files]
    if missing:
        raise _refused(f"no {missing[0]} in {str(place)!r}", "both videos", "compare anew")
    return Shown(run, trace, files)


def _kind(event: Event) -> str:
    if event.action == "reuse":
        return "reused"
    return "guarded" if event.reason.startswith("tail guard") else "computed"


def _why(event: Event) -> str:
    words = "reused" if event.action == "reuse" else "computed"
    return f"step {event.step}: {words}, {event.reason}"


def _lane(event: Event) -> str:
    denoiser = event.site.split("/")[0]
    name = event.branch if event.sample is None else f"{event.branch}, sample {event.sample}"
    return name if denoiser in ("transformer", "model", "unet") else f"{name} ({denoiser})"


def _cell(row: Sequence[float] | None, block: int, low: float, high: float) -> dict[str, Any]:
    if row is None:
        return {"colour": None, "value": None}
    value = row[block]
    if not value > 0 or not math.isfinite(value):
        return {"colour": "#000000", "value": value}
    place = math.log(value / low) / math.log(high / low) if high > low else 0.5
    return {"colour": _colour(place), "value": value}


def _colour(place: float) -> str:
    import matplotlib
    from matplotlib.colors import to_hex

    return to_hex(matplotlib.colormaps["viridis"](place))


def _psnr(value: float | None) -> str:
    return "identical" if value is None else decibels(value)


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
