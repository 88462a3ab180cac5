"""``bwcache bench``: this project's methods, baselines and peers on the same videos, one run beside the other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from bwcache.cli.choices import Choices, check_options, choose, steps_of
from bwcache.cli.loading import load
from bwcache.cli.progress import Bars
from bwcache.cli.settings import BenchSettings
from bwcache.cli.studies import check_study, check_twice, claimed_study, run_missing
from bwcache.core.words import read
from bwcache.errors import BWCacheError

NAME = "results"
PICTURE = "bench.png"
WARMUP_SHARE = 0.2
"""Of the steps: what MagCache's paper has, and the longest of the peers' own."""


def run_bench(settings: BenchSettings) -> None:
    """Bench as the options say."""
    from bwcache.study.folder import Folder
    from bwcache.study.peers import Guards
    from bwcache.study.peers.ladders import chosen
    from bwcache.study.study import Study, Video, identity

    check_options(settings)
    steps = steps_of(settings)
    methods = chosen(settings.methods)
    guards = tuple(Guards(warmup, settings.tail) for warmup in warmups(settings.warmup, steps))
    for one in guards:
        one.check(steps)
    out = check_study(settings.out)
    choices = choose(settings)
    check_twice(choices.prompts)
    with claimed_study(out), Bars() as bars:
        pipe, choices = load(settings, choices, bars)
        request = choices.requests()[0]
        seeds = range(settings.seed, settings.seed + settings.seeds)
        videos = tuple(Video(prompt, seed) for prompt in choices.prompts for seed in seeds)
        folder = Folder(out, identity(pipe, request, settings.model))
        taking_part = field(settings, methods, guards, choices, pipe, request, folder, bars)
        cells = run_missing(pipe, Study(taking_part, videos, request), folder, bars)
        bars.writing(NAME)
        rows = _write(out, cells, methods, guards, pipe, folder)
    show(rows, folder.damaged, str(settings.out))


def warmups(text: str | None, steps: int) -> tuple[int, ...]:
    """The numbers of steps that a text names; for None, two and a fifth of the steps.

    Raises:
        SettingError: for other things than numbers.
    """
    if text is None:
        return tuple(dict.fromkeys((2, max(2, round(steps * WARMUP_SHARE)))))
    return tuple(dict.fromkeys(read(one, int, "--warmup") for one in text.split(",")))


def field(
    settings: BenchSettings,
    methods: tuple[str, ...],
    guards: tuple[Any, ...],
    choices: Choices,
    pipe: Any,
    request: Any,
    folder: Any,
    bars: Bars,
) -> tuple[Any, ...]:
    """All methods; MagCache is calibrated for them, on the first prompt with a seed that no video has."""
    from bwcache.study.peers import calibrated
    from bwcache.study.peers.ladders import Terms, ladders

    ratios: tuple[float, ...] = ()
    reason = ""
    if "magcache" in methods:
        try:
            apart = dataclasses.replace(request, seed=settings.seed + settings.seeds)
            ratios = calibrated(folder.path, pipe, apart, bars.show)
        except BWCacheError as error:
            reason = str(error)
    terms = [Terms(choices.steps, one, pipe.scheduler, ratios, reason) for one in guards]
    return ladders(methods, terms, settings.quick)


def _write(out: Path, cells: Any, methods: tuple[str, ...], guards: tuple[Any, ...], pipe: Any, folder: Any) -> Any:
    from bwcache.measure.environment import environment
    from bwcache.report.bench import plot_methods, saved_nothing
    from bwcache.report.studies import write_study
    from bwcache.study.results import results
    from bwcache.study.solvers import best_multistep

    rows = results(cells)
    content = {
        "study": folder.identity,
        "environment": environment(pipe),
        "methods": list(methods),
        "guards": [dataclasses.asdict(one) for one in guards],
        "best_multistep": best_multistep(rows),
        "saved_nothing": saved_nothing(rows),
        "damaged": list(folder.damaged),
    }
    videos = len({(cell.prompt, cell.seed) for cell in cells})
    name = folder.identity["model"]["name"]
    title = f"{name}: each method along its own best settings, {videos} video{'s' if videos > 1 else ''}"
    write_study(out, NAME, rows, content, {PICTURE: lambda path: plot_methods(rows, path, title)})
    return rows


def show(rows: Any, damaged: list[str], out: str) -> None:
    """Print the tables, what else must be known, and where the files are."""
    from rich.console import Console
    from rich.text import Text

    from bwcache.report.bench import remarks
    from bwcache.report.studies import levels_table, rows_table

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=120, color_system=None)
    console.print(rows_table(rows))
    console.print(levels_table(rows, "compute", "If only the blocks' work took time"))
    console.print(levels_table(rows, "time", "Denoising time as measured"))
    for text, names in remarks(rows).items():
        console.print(Text(f"{text}  [{'; '.join(names)}]"), style="dim", soft_wrap=True)
    for name in damaged:
        console.print(Text(f"{name} was damaged and has been made again"), style="dim", soft_wrap=True)
    console.print(Text(f"{NAME}.json, {NAME}.csv and {PICTURE} are in {out}"), soft_wrap=True)
