"""``bwcache generate``: videos with caching on, and the record of it."""

from __future__ import annotations

from typing import Any

from bwcache.cli.choices import Choices, check_options, choose
from bwcache.cli.loading import load
from bwcache.cli.output import Results, absolute, check_target, results
from bwcache.cli.progress import Bars
from bwcache.cli.settings import GenerateSettings


def run_generate(settings: GenerateSettings) -> None:
    """Make one video per prompt as the options say."""
    if settings.prompts is not None:
        from bwcache.cli.many import run_many

        run_many(settings)
        return
    check_options(settings)
    check_target(absolute(settings.out), settings.overwrite)
    choices = choose(settings)
    from bwcache.measure.environment import describe_pipeline, environment
    from bwcache.report.videos import check_rate

    check_rate(choices.fps)
    rows: list[dict[str, Any]] = []
    with results(settings.out, settings.overwrite) as made, Bars() as bars:
        pipe, choices = load(settings, choices, bars)
        summary = {
            "model": describe_pipeline(pipe, settings.model),
            "policy": choices.policy.describe() if settings.cache else None,
            "environment": environment(pipe),
            "runs": rows,
        }
        for index, request in enumerate(choices.requests()):
            rows.append(make_one(pipe, request, index, made, settings, choices, bars))
            made.record(summary)
    show(rows, str(settings.out))


def make_one(
    pipe: Any, request: Any, index: int, made: Results, settings: GenerateSettings, choices: Choices, bars: Bars
) -> dict[str, Any]:
    """Make and write one video; returns its row of the summary."""
    from bwcache.measure.call import call
    from bwcache.measure.compare import call_cached
    from bwcache.report.files import run_folder, write_generated

    what = f"prompt {index + 1}/{len(choices.prompts)}"
    trace: Any = None
    notes: tuple[str, ...] = ()
    if settings.cache:
        done, trace, notes = call_cached(
            pipe, choices.policy, request, what, bars.show, memory=settings.memory, max_memory=settings.max_memory
        )
    else:
        done = call(pipe, request, what, bars.show)
    name = run_folder(index, request.prompt)
    bars.writing(name)
    threshold = getattr(choices.policy, "threshold", None)
    with made.adding(name) as folder:
        write_generated(folder, request.prompt, done.frames, trace, choices.fps, threshold)
    row: dict[str, Any] = {
        "prompt": request.prompt,
        "seed": request.seed,
        "steps": request.steps,
        "seconds": done.seconds,
        "denoise_seconds": done.denoise_seconds,
        "before_seconds": done.before_seconds,
        "after_seconds": done.after_seconds,
        "folder": name,
        "notes": list(notes),
    }
    if trace is not None:
        from bwcache.report.timeline import timeline

        row |= {
            "computed": trace.computed,
            "reused": trace.reused,
            "first_trigger": trace.first_trigger,
            "reuse_rate": trace.reuse_rate,
            "timeline": timeline(trace),
        }
    return row


def show(rows: list[dict[str, Any]], out: str) -> None:
    """Print one line per video, and where they are."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    for index, row in enumerate(rows):
        console.print(Text(f"{index + 1}. {row['prompt']}"), soft_wrap=True)
        reused = f", {row['reused']} of {row['steps']} steps reused  {row['timeline']}" if "reused" in row else ""
        console.print(Text(f"   {row['seconds']:.1f} s{divided(row)}{reused}"), soft_wrap=True)
        for note in row["notes"]:
            console.print(Text(f"   note: {note}"), style="dim", soft_wrap=True)
    console.print(Text(f"Videos are in {out}"), soft_wrap=True)


def divided(row: dict[str, Any]) -> str:
    """Return how the seconds of a video divide, for a line; nothing where that is not known."""
    before, denoising, after = (row.get(f"{part}_seconds") for part in ("before", "denoise", "after"))
    if before is None or denoising is None or after is None:
        return ""
    return f" ({before:.1f} before denoising, {denoising:.1f} denoising, {after:.1f} decoding)"
