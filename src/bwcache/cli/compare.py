"""``bwcache compare``: run, print, write."""

from __future__ import annotations

import shlex
from typing import Any

from bwcache.cli.choices import check_options, choose
from bwcache.cli.loading import load
from bwcache.cli.output import REPORT, absolute, check_target, command_line, results
from bwcache.cli.progress import Bars
from bwcache.cli.settings import CompareSettings


def run_compare(settings: CompareSettings) -> None:
    """Compare with and without caching as the options say."""
    check_options(settings)
    check_target(absolute(settings.out), settings.overwrite)
    choices = choose(settings)
    from bwcache.measure import Comparison, Pair, Run, compare
    from bwcache.report.files import run_folder, write_run
    from bwcache.report.verdict import Verdict
    from bwcache.report.videos import check_rate

    check_rate(choices.fps)
    with results(settings.out, settings.overwrite) as made, Bars() as bars:
        pipe, choices = load(settings, choices, bars)

        def write(run: Run, pair: Pair) -> None:
            name = run_folder(made.finished, run.prompt)
            bars.writing(name)
            with made.adding(name) as folder:
                write_run(folder, run, pair, choices.fps, getattr(choices.policy, "threshold", None))

        def record(so_far: Comparison) -> None:
            content = so_far.to_json()
            found = Verdict.of(content)
            said = [found.headline, *found.remarks, *([found.division] if found.division else [])]
            made.record({"command": command_line(), "findings": said, **content})

        comparison = compare(
            pipe,
            choices.policy,
            choices.prompts,
            seed=settings.seed,
            steps=choices.steps,
            guidance_scale=choices.guidance_scale,
            height=choices.height,
            width=choices.width,
            frames=choices.frames,
            arguments=choices.arguments,
            repeats=settings.repeats,
            memory=settings.memory,
            max_memory=settings.max_memory,
            name=settings.model,
            on_progress=bars.show,
            on_run=write,
            on_comparison=record,
        )
        if settings.report:
            from bwcache.report.html import read, write_report

            bars.writing(REPORT)
            write_report(made.path / REPORT, read(made.path))
    show(comparison, str(settings.out), settings.report)


def show(comparison: Any, out: str, report: bool = False) -> None:
    """Print the tables, the decisions in words, and where the files are."""
    from rich.console import Console
    from rich.text import Text

    from bwcache.report.tables import PROMPTS_PER_TABLE, comparison_table
    from bwcache.report.timeline import legend, reasons, timeline
    from bwcache.report.verdict import Verdict

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=100, color_system=None)
    found = Verdict.of(comparison.to_json())
    if not found.plain:
        console.print(Text(found.headline), style="bold", soft_wrap=True)
    for line in found.remarks:
        console.print(Text(line), soft_wrap=True)
    for first in range(0, len(comparison.runs), PROMPTS_PER_TABLE):
        console.print(comparison_table(comparison, first))
    letters = legend(timeline(run.trace) for run in comparison.runs)
    console.print(f"Which steps were reused, and why ({letters}):", style="bold")
    for index, run in enumerate(comparison.runs):
        console.print(Text(f"{index + 1}. {run.prompt}"))
        console.print(Text(f"   {timeline(run.trace)}"), soft_wrap=True)
        for line in [*reasons(run.trace), *(f"note: {note}" for note in run.notes)]:
            console.print(Text(f"   {line}"), style="dim", soft_wrap=True)
    for text in dict.fromkeys(run.trace.meta.get("ranks") for run in comparison.runs):
        if text is not None:
            console.print(Text(f"ranks: {text}"), soft_wrap=True)
    if found.division is not None:
        console.print(Text(found.division), soft_wrap=True)
    if found.plain:
        console.print(Text(found.headline), style="bold", soft_wrap=True)
    console.print(Text(f"Videos, pictures and traces are in {out}"), soft_wrap=True)
    line = f"{out}/{REPORT} shows all of it" if report else f"All of it on one page: bwcache report {shlex.quote(out)}"
    console.print(Text(line), soft_wrap=True)
