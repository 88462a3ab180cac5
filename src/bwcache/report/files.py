"""What each file of an output folder is called, and what is in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bwcache.core.files import read_json, whole_file, write_json
from bwcache.core.kinds import (
    FLAG,
    NUMBER,
    OBJECT,
    POSITIVE,
    SHARE,
    TEXT,
    WHOLE,
    Kind,
    below,
    between,
    count,
    each,
    fault,
    maybe,
    table,
)
from bwcache.core.trace import MOST_STEPS, Trace
from bwcache.errors import SettingError, complaint
from bwcache.measure.frames import Frames
from bwcache.measure.results import TIME_PARTS, Comparison, Pair, Run
from bwcache.report.pictures import save_storyboard
from bwcache.report.plots import plot_similarity
from bwcache.report.tables import decibels, times
from bwcache.report.verdict import is_too_fast
from bwcache.report.videos import write_difference, write_side_by_side, write_video

SUMMARY = "summary.json"
COMPARED = (
    "uncached.mp4",
    "cached.mp4",
    "difference.mp4",
    "side_by_side.mp4",
    "storyboard.png",
    "similarity.png",
    "trace.jsonl",
)
GENERATED = ("video.mp4", "similarity.png", "trace.jsonl")
"""What is written of one prompt."""

LONGEST_NAME = 48

_SUMMARY = {"model": OBJECT, "policy": OBJECT, "environment": OBJECT, "runs": each(OBJECT, least=1), "total": OBJECT}
_SUMMARY_MORE = {"command": maybe(TEXT)}
_NAMED = {"name": TEXT}
_ENVIRONMENT_MORE = {"repeats": count(1), "own_noise_psnr": maybe(NUMBER)}
_REUSED = below(SHARE, 1)  # the first step never is
_RUN = {
    "prompt": TEXT,
    "identical": FLAG,
    "notes": each(TEXT),
    "seed": WHOLE,
    "steps": count(1, MOST_STEPS),
    **dict.fromkeys(("computed", "reused"), count(0, MOST_STEPS)),
    "reuse_rate": _REUSED,
    "psnr": maybe(NUMBER),
    "ssim": NUMBER,
    "speedup": POSITIVE,
    "denoise_speedup": maybe(POSITIVE),
    **dict.fromkeys(("uncached_seconds", "cached_seconds"), between(0)),
}
_PARTS = Kind(
    "seconds by part of the call",
    lambda value: table(between(0)).holds(value) and (not set(TIME_PARTS) <= set(value) or sum(value.values()) > 0),
)
_RUN_MORE = {
    "unmeasured": each(TEXT),
    "ideal_denoise_speedup": maybe(POSITIVE),
    **dict.fromkeys(("uncached_parts", "cached_parts"), maybe(_PARTS)),
}
_TOTAL = {
    "speedup": POSITIVE,
    "reuse_rate": _REUSED,
    "extra_memory_bytes": WHOLE,
    **dict.fromkeys(("ssim", "worst_ssim"), NUMBER),
    **dict.fromkeys(("uncached_seconds", "cached_seconds"), between(0)),
    **dict.fromkeys(("psnr", "worst_psnr"), maybe(NUMBER)),
    **dict.fromkeys(("denoise_speedup", "ideal_denoise_speedup"), maybe(POSITIVE)),
    "indicator_share": maybe(between(0)),
}
_BESIDE = ("ms_ssim", "lpips", "vmaf", "xpsnr", "motion_kept")
_TOTAL_MORE = dict.fromkeys((*_BESIDE, *(f"worst_{name}" for name in _BESIDE)), maybe(NUMBER))
"""What a reader of `summary.json` relies on, and of which kind it is."""


def run_folder(index: int, prompt: str) -> str:
    """Name of the folder of prompt number ``index``, counted from 0: ``01-a-red-ball``."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    if len(words) > LONGEST_NAME:
        words = words[: LONGEST_NAME + 1].rpartition("-")[0] or words[:LONGEST_NAME]
    return f"{index + 1:02d}-{words or 'video'}"


def write_run(folder: Path, run: Run, pair: Pair, fps: int, threshold: float | None = None) -> None:
    """Write the videos, pictures and the trace of one prompt into ``folder``, which is made; each file whole."""
    folder.mkdir(parents=True)
    run.trace.to_jsonl(folder / "trace.jsonl")
    write_video(folder / "uncached.mp4", pair.uncached, fps)
    write_video(folder / "cached.mp4", pair.cached, fps)
    write_difference(folder / "difference.mp4", pair, fps)
    write_side_by_side(folder / "side_by_side.mp4", pair, fps)
    with whole_file(folder / "storyboard.png") as part:
        save_storyboard(pair.uncached, pair.cached, part, run.prompt, caption(run))
    with whole_file(folder / "similarity.png") as part:
        plot_similarity(run.trace, part, threshold, run.prompt)


def write_generated(
    folder: Path, prompt: str, frames: Frames, trace: Trace | None, fps: int, threshold: float | None = None
) -> None:
    """Write one generated video, and the trace of its making when caching was on, into ``folder``, which is made."""
    folder.mkdir(parents=True)
    write_video(folder / "video.mp4", frames, fps)
    if trace is not None:
        trace.to_jsonl(folder / "trace.jsonl")
        with whole_file(folder / "similarity.png") as part:
            plot_similarity(trace, part, threshold, prompt)


def write_summary(folder: Path, summary: Comparison | dict[str, Any]) -> None:
    """Write ``summary.json``: strict JSON, unknown values null."""
    write_json(folder / SUMMARY, summary.to_json() if isinstance(summary, Comparison) else summary, indent=2)


def written_files(summary: Any) -> set[str]:
    """The files that a summary says were written: paths below its folder, its own among them.

    Raises:
        ValueError: it is not the summary of a comparison or of generated videos.
    """
    if not isinstance(summary, dict) or not {"model", "policy", "runs"} <= set(summary):
        raise ValueError("no summary of a comparison or of generated videos")
    folders = [run_folder(i, prompt) for i, prompt in enumerate(listed_prompts(summary))]
    return {SUMMARY} | {f"{folder}/{name}" for folder in folders for name in {*COMPARED, *GENERATED}}


def listed_prompts(summary: Any) -> list[str]:
    """The prompts whose videos a summary lists, in the order of their folders.

    Raises:
        ValueError: it is no summary.
    """
    wrong = fault(summary, {"runs": each(OBJECT)})
    wrong = wrong or next(filter(None, (fault(run, {"prompt": TEXT}, where="run") for run in summary["runs"])), None)
    if wrong is not None:
        raise ValueError(wrong)
    return [run["prompt"] for run in summary["runs"]]


def read_summary(folder: Path) -> dict[str, Any]:
    """What `bwcache compare` wrote into ``summary.json``.

    Raises:
        SettingError: there is none, it cannot be read, or it is not of a comparison or not of this version.
    """
    place, again = repr(str(folder)), "make it anew with 'bwcache compare'"
    if not folder.is_dir():
        raise _refused(f"no folder {place}", "one that 'bwcache compare' wrote", "run 'bwcache compare' first")
    try:
        summary: dict[str, Any] = read_json(folder / SUMMARY)
    except FileNotFoundError:
        raise _refused(*_of_another_command(folder, place)) from None
    except (OSError, ValueError) as error:
        found = f"a {SUMMARY} in {place} that cannot be read ({error})"
        raise _refused(found, "strict JSON", again) from None
    if _is_of_generate(summary):
        raise _refused(
            f"videos of 'bwcache generate' in {place}, made once each",
            "a comparison, which has each video without and with caching",
            "run 'bwcache compare' with the same options, and name its folder",
        )
    wrong = _summary_fault(summary)
    if wrong is not None:
        found = f"a {SUMMARY} in {place} with {wrong}"
        raise _refused(found, "the whole record of a comparison by this version", again)
    return summary


def _is_of_generate(summary: Any) -> bool:
    """Whether it is the record of videos that were made once each: they are compared with nothing."""
    runs = summary.get("runs") if isinstance(summary, dict) and "total" not in summary else None
    return isinstance(runs, list) and not any("speedup" in run for run in runs if isinstance(run, dict))


def caption(run: Run) -> str:
    """The figures of a run in one line."""
    if run.reuse_rate == 0:
        closeness = "identical" if run.identical else "what differs is the pipeline's own noise"
        return f"nothing reused: all of {run.steps} steps computed, {closeness}"
    quality = "identical" if run.identical else f"PSNR {decibels(run.psnr)}, SSIM {run.ssim:.3f}"
    speed = run.denoise_speedup if run.denoise_speedup is not None else run.speedup
    noise = " (noise of the clock)" if is_too_fast(run.denoise_speedup, run.ideal_denoise_speedup) else ""
    return f"{run.computed} of {run.steps} steps computed, denoising {times(speed)} as fast{noise}, {quality}"


def _of_another_command(folder: Path, place: str) -> tuple[str, str, str]:
    """What a folder without a summary is: found, expected, what to do."""
    expected = "a folder that 'bwcache compare' wrote"
    for command, file in (("profile", "profile.json"), ("sweep or bench", "results.json")):
        if (folder / file).is_file():
            option = " or ".join(f"--{name} {folder}" for name in command.split(" or "))
            return f"what 'bwcache {command}' wrote in {place}", expected, f"name a comparison's, and add {option}"
    if (folder / "plan.json").is_file():
        return f"what 'bwcache vbench' wrote in {place}", expected, "name the folder whose videos it scored"
    return f"no {SUMMARY} in {place}", expected, "name that folder"


def _summary_fault(summary: Any) -> str | None:
    """The first thing in a summary that is not there, of another kind, or contradicts another one."""
    wrong = fault(summary, _SUMMARY, _SUMMARY_MORE)
    if wrong is not None:
        return wrong
    found = [fault(summary[name], _NAMED, where=name) for name in ("model", "policy")]
    found.append(fault(summary["environment"], {}, _ENVIRONMENT_MORE, "environment"))
    found += [fault(run, _RUN, _RUN_MORE, f"runs[{i}]") for i, run in enumerate(summary["runs"])]
    found.append(fault(summary["total"], _TOTAL, _TOTAL_MORE, "total"))
    return next((wrong for wrong in found if wrong is not None), None) or _contradiction(summary)


def _contradiction(summary: dict[str, Any]) -> str | None:
    """Videos have a PSNR where they differ, and nowhere else."""
    runs, total = summary["runs"], summary["total"]
    for i, run in enumerate(runs):
        if run["identical"] != (run["psnr"] is None):
            return f"runs[{i}].psnr {run['psnr']} where identical is {run['identical']}"
    alike = all(run["identical"] for run in runs)
    wrong = next((name for name in ("psnr", "worst_psnr") if alike != (total[name] is None)), None)
    return None if wrong is None else f"total.{wrong} {total[wrong]}, which contradicts its runs"


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
