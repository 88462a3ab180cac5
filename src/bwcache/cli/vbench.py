"""``bwcache vbench``: videos of ``compare`` or ``generate``, scored by VBench where that is installed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bwcache.cli.claims import claimed
from bwcache.cli.output import absolute, remove, strangers
from bwcache.cli.settings import VBenchSettings
from bwcache.core.files import CLAIM, read_json, remove_parts, write_json
from bwcache.errors import SettingError, complaint

if TYPE_CHECKING:
    from rich.table import Table

    from bwcache.measure.vbench import Installation, Sample, Score

SIDES = ("uncached", "cached", "video")  # the videos that a folder of results has of each prompt
PLAN, SUMMARY, FORMAT = "plan.json", "vbench.json", "bwcache-vbench-1"


@dataclass
class Scored:
    """What is known so far: by side and dimension, the scores, and why one is missing."""

    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)


def run_vbench(settings: VBenchSettings) -> None:
    """Prepare, score what is not yet scored, write and print.

    Raises:
        SettingError: for options that cannot work, a folder without videos, a place that holds other things, VBench
            missing, and when it gave no score at all.
    """
    from bwcache.measure import vbench

    check_options(settings)
    samples = gather(settings.folder)
    named = {side: vbench.layout(some, settings.mode) for side, some in samples.items()}
    out = target(settings)
    plan = {"format": FORMAT, "mode": settings.mode, "videos": digests(samples)}
    check_target(out, plan, settings.overwrite)
    with claimed(out):
        remove_parts(out)
        fill(settings, samples, named, out, plan)


def fill(
    settings: VBenchSettings,
    samples: dict[str, list[Sample]],
    named: dict[str, dict[str, Sample]],
    out: Path,
    plan: dict[str, Any],
) -> None:
    """Score what is not yet scored in a folder that is claimed, write and print."""
    from bwcache.measure import vbench

    fresh = check_target(out, plan, settings.overwrite)
    scored = Scored({side: {} if fresh else vbench.read(out / side / vbench.RESULTS) for side in samples})
    dimensions = tuple(settings.dimension) or vbench.ANY_PROMPT
    installation, covered = None, {}
    if not settings.prepare and (settings.mode == "standard" or missing(scored, dimensions)):
        installation = vbench.find(settings.python)
        if settings.mode == "standard":
            covered = coverage(installation, next(iter(named.values())))
            dimensions = tuple(settings.dimension) or tuple(name for name, (have, _) in covered.items() if have)
    if fresh:
        remove(out, recorded(out))
    write_json(out / PLAN, plan)
    for side, some in named.items():
        vbench.prepare(some, out / side)
    if settings.prepare:
        say_how(out, settings.mode)
        return
    if installation is not None:
        score(installation, out, dimensions, settings.mode, scored)
    found = {
        side: {name: one for name, one in some.items() if name in dimensions} for side, some in scored.scores.items()
    }
    scored.scores = found
    write_json(out / SUMMARY, summary(settings, scored, covered))
    show(scored, dimensions, covered, out)
    if len(missing(scored, dimensions)) == len(dimensions) * len(samples):
        raise SettingError(next(reason for some in scored.failed.values() for reason in some.values()))


def check_options(settings: VBenchSettings) -> None:
    """Raise for a mode or a dimension that is none."""
    from bwcache.measure.vbench import ANY_PROMPT, MODES, STANDARD

    if settings.mode not in MODES:
        raise SettingError(complaint(f"--mode {settings.mode}", " or ".join(MODES), "name one of them"))
    possible = STANDARD if settings.mode == "standard" else ANY_PROMPT
    for name in settings.dimension:
        if name not in possible:
            raise SettingError(
                complaint(f"--dimension {name} in mode {settings.mode}", ", ".join(possible), "name one")
            )


def gather(folder: Path) -> dict[str, list[Sample]]:
    """The videos in a folder of results, by side.

    Raises:
        SettingError: it holds no results, or results without videos.
    """
    from bwcache.fleet.folder import RECORD, cells
    from bwcache.measure.vbench import Sample
    from bwcache.report.files import listed_prompts, run_folder

    if (folder / RECORD).is_file():
        many = [Sample(figures["prompt"], place / "video.mp4") for place, figures in cells(folder)]
        if many:
            return {"video": many}
    try:
        prompts = listed_prompts(read_json(folder / "summary.json"))
    except (OSError, ValueError) as error:
        raise SettingError(
            complaint(
                f"no results with videos in {str(folder)!r} ({type(error).__name__})",
                "a folder that 'bwcache compare' or 'bwcache generate' wrote; sweeps keep no videos",
                "name that folder",
            )
        ) from error
    listed = [(prompt, folder / run_folder(i, prompt)) for i, prompt in enumerate(prompts)]
    samples = {side: [Sample(prompt, path / f"{side}.mp4") for prompt, path in listed] for side in SIDES}
    there = {side: some for side, some in samples.items() if any(sample.video.is_file() for sample in some)}
    lost = [str(sample.video) for some in there.values() for sample in some if not sample.video.is_file()]
    if lost or not there:
        found = f"no {lost[0]!r}" if lost else f"no videos in {str(folder)!r}"
        raise SettingError(complaint(found, "the videos of every run", "make the results anew"))
    return there


def target(settings: VBenchSettings) -> Path:
    """Where the prepared videos and the scores go: beside the results, where it is not named."""
    source = settings.folder.resolve()
    return absolute(settings.out) if settings.out else source.with_name(f"{source.name}-vbench")


def digests(samples: dict[str, list[Sample]]) -> dict[str, list[str]]:
    """What each video file holds, to know it again."""
    return {
        side: [hashlib.sha256(sample.video.read_bytes()).hexdigest()[:16] for sample in some]
        for side, some in samples.items()
    }


def check_target(out: Path, plan: dict[str, Any], overwrite: bool) -> bool:
    """Whether to begin anew: ``out`` holds nothing, or what may be overwritten.

    Raises:
        SettingError: it holds other things than this plan's scores.
    """
    if out.exists() and not out.is_dir():
        raise SettingError(complaint(f"a file at --out {str(out)!r}", "a folder", "name another one"))
    if not out.is_dir() or not any(entry.name != CLAIM for entry in out.iterdir()):
        return True
    try:
        before = read_json(out / PLAN)
    except (OSError, ValueError):
        before = {}
    if not isinstance(before, dict) or before.get("format") != FORMAT:
        raise SettingError(complaint(f"other things in --out {str(out)!r}", "an empty folder", "name another one"))
    if before != plan and not overwrite:
        differing = " and ".join(name for name in plan if before.get(name) != plan[name])
        found = f"scores of another {differing} in --out {str(out)!r}"
        raise SettingError(complaint(found, "those of this call", "add --overwrite or name another one"))
    strange = strangers(out, recorded(out)) if overwrite else []
    if strange:
        found = f"{strange[0]!r}, which is not of a score, in --out {str(out)!r}"
        raise SettingError(complaint(found, "scores alone", "name another folder"))
    return overwrite


def recorded(out: Path) -> set[str]:
    """The files in a folder of scores, relative to it, that this command and VBench write: what its records list."""
    from bwcache.measure.vbench import written_files

    return {PLAN, SUMMARY} | {f"{side}/{name}" for side in SIDES for name in written_files(out / side)}


def coverage(installation: Installation, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Of each dimension, the videos that are there and those that VBench expects.

    Raises:
        SettingError: none of the prompts is one of VBench's.
    """
    from bwcache.measure import vbench

    covered = vbench.coverage(installation.prompts, names)
    if not any(have for have, _ in covered.values()):
        raise SettingError(
            complaint(
                "no prompt of VBench among the videos", "its standard prompts, word for word", "use --mode custom"
            )
        )
    return covered


def missing(scored: Scored, dimensions: Sequence[str]) -> list[tuple[str, str]]:
    """Sides and dimensions that have no score yet."""
    return [(side, name) for side, some in scored.scores.items() for name in dimensions if name not in some]


def score(installation: Installation, out: Path, dimensions: Sequence[str], mode: str, scored: Scored) -> None:
    """Let VBench score what is missing, one dimension at a time; a failure costs that dimension alone."""
    from bwcache.measure import vbench

    left = missing(scored, dimensions)
    for number, (side, name) in enumerate(left):
        print(f"{number + 1}/{len(left)} {side}: {name} ...", flush=True)
        try:
            scored.scores[side][name] = vbench.evaluate(installation, out / side, name, mode)
        except SettingError as error:
            scored.failed.setdefault(side, {})[name] = str(error)


def summary(settings: VBenchSettings, scored: Scored, covered: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """What ``vbench.json`` holds."""
    return {
        "format": FORMAT,
        "source": str(settings.folder),
        "mode": settings.mode,
        "scores": {side: {name: asdict(one) for name, one in some.items()} for side, some in scored.scores.items()},
        "failed": scored.failed,
        "videos_of_the_standard": {name: {"found": have, "expected": of} for name, (have, of) in covered.items()},
    }


def say_how(out: Path, mode: str) -> None:
    """Print how to score prepared videos by hand."""
    from bwcache.measure.vbench import MODES

    prompts = " --prompt_file prompts.json" if mode == "custom" else ""
    print(f"Videos for VBench are in {out}. In each folder there, for each dimension:")
    print(
        f"  vbench evaluate --videos_path videos --output_path results --mode {MODES[mode]}{prompts} --dimension NAME"
    )
    print("The same call of bwcache vbench without --prepare then reads the scores.")


def show(scored: Scored, dimensions: Sequence[str], covered: dict[str, tuple[int, int]], out: Path) -> None:
    """Print the table, what failed and what the scores may be compared with."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=100, color_system=None)
    console.print(score_table(scored, dimensions))
    for side, some in scored.failed.items():
        for reason in some.values():
            console.print(Text(f"{side}: {reason}"), style="dim", soft_wrap=True)
    short = [name for name in dimensions if name in covered and covered[name][0] < covered[name][1]]
    if short:
        have, expected = covered[short[0]]
        console.print(f"Not to be compared with the leaderboard: {short[0]} has {have} of {expected} videos.")
    console.print(Text(f"Scores are in {out / SUMMARY}"), soft_wrap=True)


def score_table(scored: Scored, dimensions: Sequence[str]) -> Table:
    """Dimensions down, sides across, and the change by caching: the mean and the video that lost most."""
    from rich import box
    from rich.table import Table

    sides = list(scored.scores)
    both = {"uncached", "cached"} <= set(sides)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("dimension (higher is better)")
    for header in [*sides, *(["change", "worst video"] if both else [])]:
        table.add_column(header, justify="right")
    for name in dimensions:
        found = {side: scored.scores[side].get(name) for side in sides}
        cells = [f"{one.mean:.4f}" if one else "-" for one in found.values()]
        table.add_row(name, *cells, *(change(found["uncached"], found["cached"]) if both else ()))
    return table


def change(uncached: Score | None, cached: Score | None) -> tuple[str, str]:
    """Cached less uncached, of the means and of the video that lost most."""
    if uncached is None or cached is None:
        return "-", "-"
    videos = [cached.videos[name] - value for name, value in uncached.videos.items() if name in cached.videos]
    return f"{cached.mean - uncached.mean:+.4f}", f"{min(videos):+.4f}" if videos else "-"
