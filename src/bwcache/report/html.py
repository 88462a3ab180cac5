"""One HTML file that shows what a comparison found: it opens from disk and fetches nothing.

Videos and pictures are inside of it as data, text is escaped by jinja2, and the little script that plays the videos in
step and sorts the tables is inline. A content security policy in the page forbids everything else.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from bwcache.core.amounts import size
from bwcache.core.files import write_text
from bwcache.core.kinds import is_number
from bwcache.core.trace import Trace
from bwcache.errors import SettingError, TraceError, complaint
from bwcache.extras import need
from bwcache.former_names import current_description
from bwcache.measure.results import TIME_PARTS
from bwcache.report.files import read_summary, run_folder
from bwcache.report.sections import SECTIONS, Section
from bwcache.report.studies import BESIDE, MEASURES
from bwcache.report.tables import decibels, measured_words, percent, psnr_words, times
from bwcache.report.timeline import reasons
from bwcache.report.timeline_svg import Curve, Heatmap, Mark, branches, columns, curve, heatmap, step_ticks
from bwcache.report.verdict import NOISE, Verdict, added_parts, is_too_fast, own_noise_shows

NAME = "report.html"
GENERATOR = "bwcache report"
"""By this a page is known again."""

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
        videos: name -> MP4.
        threshold: of the policy; None for policies without one.
    """

    run: dict[str, Any]
    trace: Trace
    videos: dict[str, bytes]
    threshold: float | None = None

    @property
    def steps(self) -> int:
        """Width of the timeline."""
        return columns(self.trace)

    @property
    def ticks(self) -> list[int]:
        """Steps that are named below them."""
        return step_ticks(self.steps)

    @property
    def result(self) -> str:
        """How much faster and how close; where nothing was reused, that."""
        if self.run["reuse_rate"] == 0:
            return f"nothing reused, {self.quality}"
        speed, denoising = times(self.run["speedup"]), times(self.run["denoise_speedup"])
        noise = f"; {NOISE}" if self.too_fast else ""
        return f"{speed} as fast ({denoising} in denoising{noise}), {self.quality}"

    @property
    def too_fast(self) -> bool:
        """Whether the measured speed is noise of the clock."""
        return too_fast(self.run)

    @property
    def quality(self) -> str:
        """PSNR and SSIM, or that nothing differs, or that what differs was not reuse."""
        if self.run["identical"]:
            return "identical"
        if own_noise_shows(self.run["reuse_rate"], self.run["identical"]):
            return "and what differs is the pipeline's own noise"
        return f"{decibels(self.run['psnr'])} PSNR, SSIM {self.run['ssim']:.3f}"

    @property
    def reasons(self) -> list[str]:
        """Why steps were computed or reused, in words."""
        return reasons(self.trace)

    @cached_property
    def branches(self) -> list[tuple[str, list[Mark]]]:
        """The timeline: for each branch its steps, with what was done and why."""
        return branches(self.trace)

    @cached_property
    def curve(self) -> Curve | None:
        """The indicator over the steps; None where it was never measured."""
        return curve(self.trace, self.threshold)

    @cached_property
    def heatmap(self) -> Heatmap | None:
        """Changes by block and step; None where the blocks were not measured."""
        return heatmap(self.trace)


@dataclass(frozen=True)
class Report:
    """Everything on the page.

    Attributes:
        summary: of the comparison, as it was written.
        shown: the prompts whose videos are shown.
        sections: of a profile, a sweep and a bench.
    """

    summary: dict[str, Any]
    shown: tuple[Shown, ...]
    sections: tuple[Section, ...] = ()

    @property
    def runs(self) -> list[dict[str, Any]]:
        """All prompts."""
        runs: list[dict[str, Any]] = self.summary["runs"]
        return runs

    @property
    def total(self) -> dict[str, Any]:
        """Of all prompts."""
        total: dict[str, Any] = self.summary["total"]
        return total

    @cached_property
    def verdict(self) -> Verdict:
        """What may be said of the figures."""
        return Verdict.of(self.summary)

    @property
    def answer(self) -> str:
        """The question answered in a sentence."""
        if not self.verdict.plain:
            return " ".join((self.verdict.headline, *self.verdict.remarks))
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
        speed, denoising = (total[name] if self.verdict.reused else None for name in ("speedup", "denoise_speedup"))
        noise = f"; {NOISE}" if self.verdict.too_fast else ""
        rows = [
            ("Speed, whole call", times(speed), f"uncached over cached seconds{noise}"),
            ("Speed, denoising", times(denoising), f"first to last forward of the denoiser{noise}"),
            ("Possible in denoising", times(total["ideal_denoise_speedup"]), "if a reused step cost nothing"),
            ("Reused", percent(total["reuse_rate"]), "share of the denoiser's forwards"),
            ("PSNR", _psnr(total["psnr"]), "mean over the videos that differ; per frame, before compression"),
            ("SSIM", f"{total['ssim']:.3f}", f"worst {total['worst_ssim']:.3f}"),
        ]
        if worst is not None and len(self.runs) > 1:
            rows.insert(5, ("PSNR of the worst", decibels(worst["psnr"]), worst["prompt"]))
        for name in BESIDE:
            label = MEASURES[name]
            value = total.get(name)
            notes = (note for run in self.runs for note in run.get("unmeasured", ()))
            why = next((note for note in notes if note.startswith(label)), "")
            worst_value = total.get(f"worst_{name}")
            told = (
                why if value is None else "" if worst_value is None else f"worst {measured_words(name, worst_value, 3)}"
            )
            rows.append((label, "not measured" if value is None else measured_words(name, value, 3), told))
        rows.append(("Extra memory", size(total["extra_memory_bytes"]), "kept between steps"))
        rows.append(("Indicator", percent(total["indicator_share"]), "share of the cached denoising time"))
        return rows

    @cached_property
    def split(self) -> dict[str, dict[str, float]] | None:
        """Seconds by part of the uncached and the cached calls, all prompts added; None where it is unknown."""
        uncached, cached = (added_parts(self.runs, side) for side in ("uncached", "cached"))
        return None if uncached is None or cached is None else {"uncached": uncached, "cached": cached}

    @property
    def why_not_more(self) -> list[str]:
        """Why so many reused steps save just so much time, from this comparison's own figures."""
        split = self.split
        if split is None or not self.verdict.reused:
            return []
        return explained(split["uncached"], split["cached"], self.total["reuse_rate"])

    @property
    def made(self) -> list[tuple[str, str]]:
        """Policy, model and machine: name, value."""
        summary, policy = self.summary, current_description(self.summary["policy"])
        rows = {("policy" if name == "name" else name.replace("_", " ")): value for name, value in policy.items()}
        rows |= {("model" if name == "name" else name): value for name, value in summary["model"].items()}
        rows |= {name.replace("_", " "): value for name, value in summary["environment"].items()}
        found = [(name, _plain(value)) for name, value in rows.items() if value is not None]
        ranks = dict.fromkeys(str(one.trace.meta["ranks"]) for one in self.shown if "ranks" in one.trace.meta)
        return [*found, *(("ranks", said) for said in ranks)]

    @property
    def left_out(self) -> int:
        """Prompts whose videos are not shown."""
        return len(self.runs) - len(self.shown)


def too_fast(run: dict[str, Any]) -> bool:
    """Return whether the speed measured in a run of `summary.json` is more than its reuse can give."""
    return run["reuse_rate"] > 0 and is_too_fast(run["denoise_speedup"], run.get("ideal_denoise_speedup"))


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
    named = sorted((part for part in TIME_PARTS if part != "blocks"), key=lambda part: -uncached[part])
    largest = " and ".join(f"{TIME_PARTS[part]} ({seconds(uncached[part])})" for part in named[:2])
    gain = f"{percent(1 - after / before)} of the time was saved"
    if after > before:
        gain = f"the calls took {percent(after / before - 1)} longer"
    lines = [
        f"{percent(reuse_rate)} of the forwards were reused, and {gain}.",
        f"Reuse saves the blocks' time alone. Uncached, the blocks took {percent(share)} of the call; "
        f"{percent(outside)} lies outside of them, above all {largest}, and is the same with caching.",
        f"So at this reuse a call can become {times(possible)} as fast at best; it became {times(before / after)}.",
    ]
    lost = after - before / possible
    if lost > 0.02 * after:
        costs = [f"the indicator took {seconds(cached['indicator'])}"] if cached["indicator"] else []
        owed = {**uncached, "blocks": uncached["blocks"] * (1 - reuse_rate)}
        more = {part: cached[part] - owed[part] for part in owed if part != "indicator"}
        costs += [
            f"{TIME_PARTS[part]} took {seconds(extra)} more" for part, extra in more.items() if extra > 0.1 * lost
        ]
        lines.append(f"The {seconds(lost)} between the two: {', '.join(costs) or 'the noise of the measurement'}.")
    return lines


def read(folder: Path, videos: int = VIDEOS, studies: dict[str, Path] | None = None) -> Report:
    """What `bwcache compare` left in a folder, and studies of the same model.

    Args:
        folder: as given to `--out`.
        videos: prompts whose videos are shown, those that differ most first.
        studies: "profile", "sweep" or "bench" -> the folder that the command of this name left.

    Raises:
        SettingError: the folder holds no comparison, or not all of it; a study is not whole, or of another model.
    """
    summary = read_summary(folder)
    runs = summary["runs"]
    worst_first = sorted(range(len(runs)), key=lambda i: (runs[i]["identical"], runs[i]["psnr"] or 0.0))
    shown = tuple(_shown(folder, i, runs[i], summary["policy"]) for i in sorted(worst_first[:videos]))
    sections = tuple(SECTIONS[name](place, summary) for name, place in (studies or {}).items())
    return Report(summary, shown, sections)


def render(report: Report) -> str:
    """The page."""
    return str(
        template("report.html.jinja").render(
            report=report, parts=TIME_PARTS, colours=PART_COLOURS, columns=COLUMNS, generator=GENERATOR
        )
    )


@lru_cache(maxsize=2)
def template(name: str) -> Any:
    """Return a page's template."""
    need("plots")
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bwcache.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"seconds": seconds, "percent": percent, "times": times, "psnr_words": psnr_words}
    environment.filters |= {"uri": data_uri, "shown": _plain, "too_fast": too_fast}
    return environment.get_template(name)


def write_report(path: Path, report: Report) -> None:
    """Write the page, whole or not at all."""
    write_text(path, render(report))


def is_report(path: Path) -> bool:
    """Whether a file is a page that was written here."""
    try:
        with path.open(encoding="utf-8") as file:
            return f'<meta name="generator" content="{GENERATOR}">' in file.read(1000)
    except (OSError, ValueError):
        return False


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """A file inside of the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def seconds(value: float) -> str:
    """A time as a person says it."""
    if value == 0:
        return "0 s"
    if value < 0.0995:
        return f"{value * 1000:.0f} ms"
    if value < 99.5:
        return f"{value:.1f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 100 else f"{value / 3600:.1f} h"


def _shown(folder: Path, index: int, run: dict[str, Any], policy: dict[str, Any]) -> Shown:
    place = folder / run_folder(index, run["prompt"])
    again = "make it anew with 'bwcache compare'"
    try:
        trace = Trace.from_jsonl(place / "trace.jsonl")
        found = {name: (place / f"{name}.mp4") for name in COLUMNS}
        videos = {name: path.read_bytes() for name, path in found.items() if path.is_file()}
    except (OSError, TraceError) as error:
        what = f"no whole results of prompt {index + 1} in {str(place)!r} ({error})"
        raise _refused(what, "trace and videos of every prompt", again) from error
    missing = next((name for name in ("uncached", "cached") if not videos.get(name)), None)
    if missing is not None:
        raise _refused(f"no {missing}.mp4 in {str(place)!r}", "both videos of every prompt", again)
    threshold = policy.get("threshold")
    return Shown(run, trace, videos, threshold if is_number(threshold) else None)


def _psnr(value: float | None) -> str:
    return "identical" if value is None else decibels(value)


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
