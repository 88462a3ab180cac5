"""``bwcache sweep``: every combination of a grid on the same videos, fewer steps beside them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bwcache.cli.choices import Choices, check_options, choose, policy_kind, steps_of
from bwcache.cli.grids import combinations, default_grid, read_grid
from bwcache.cli.loading import load
from bwcache.cli.progress import Bars
from bwcache.cli.settings import SweepSettings
from bwcache.cli.studies import check_study, check_twice, claimed_study, run_missing
from bwcache.core.words import read
from bwcache.errors import SettingError, complaint

FEWER = (0.25, 0.35, 0.45, 0.6, 0.75, 0.9)
"""Shares of the steps that are tried without any cache."""

NAME = "results"


@dataclass(frozen=True)
class Plan:
    """What is tried.

    Attributes:
        policy: its class.
        fixed: fields that are the same in all rows.
        grid: field -> values.
        counts: numbers of steps without a cache.
    """

    policy: type[Any]
    fixed: dict[str, Any]
    grid: dict[str, tuple[Any, ...]]
    counts: tuple[int, ...]

    def settings(self, base: Any | None = None) -> list[Any]:
        """The policy with every combination, over the fields of `base` if there is one.

        Raises:
            SettingError: a combination that cannot be.
        """
        start = base if base is not None else self.policy(**self.fixed)
        return [dataclasses.replace(start, **chosen) for chosen in combinations(self.grid)]


def plan(settings: SweepSettings, choices: Choices) -> Plan:
    """What the options amount to, checked.

    Raises:
        SettingError: for the first that cannot work.
    """
    policy = type(choices.policy)
    grid = read_grid(policy, settings.grid) if settings.grid else default_grid(policy, choices.fields)
    both = next((name for name in grid if name in choices.fields), None)
    if both is not None:
        raise _refused(f"--{both.replace('_', '-')} beside --grid {both}", "one of them", "leave one out")
    made = Plan(policy, choices.fields, grid, _counts(settings.fewer_steps, choices.steps))
    choices.check_policies(made.settings())
    check_twice(choices.prompts)
    return made


def check_grid(settings: SweepSettings) -> None:
    """Check what is to be tried by itself, before anything on disk is looked at.

    Raises:
        SettingError: for the first that cannot work.
    """
    if settings.grade is not None and settings.grid:
        found = f"--grid {settings.grid[0]} beside --grade {settings.grade}"
        raise _refused(found, "one of them", "leave one out, or name the method: --policy planned")
    read_grid(policy_kind(settings), settings.grid)
    _counts(settings.fewer_steps, steps_of(settings))


def run_sweep(settings: SweepSettings) -> None:
    """Sweep as the options say."""
    check_options(settings)
    check_grid(settings)
    out = check_study(settings.out)
    choices = choose(settings)
    planned = plan(settings, choices)
    from bwcache.study.folder import Folder
    from bwcache.study.study import Study, Video, identity

    with claimed_study(out), Bars() as bars:
        pipe, choices = load(settings, choices, bars)
        request = choices.requests()[0]
        seeds = range(settings.seed, settings.seed + settings.seeds)
        videos = tuple(Video(prompt, seed) for prompt in choices.prompts for seed in seeds)
        study = Study(methods(planned, choices, pipe), videos, request)
        folder = Folder(out, identity(pipe, request, settings.model))
        cells = run_missing(pipe, study, folder, bars)
        bars.writing(NAME)
        rows = _write(out, cells, planned, pipe, folder)
    show(rows, planned, folder.damaged, str(settings.out))


def methods(planned: Plan, choices: Choices, pipe: Any) -> tuple[Any, ...]:
    """The policy with every combination, and fewer steps: by the pipeline's own scheduler and by multistep solvers."""
    from bwcache.policies import BWCache
    from bwcache.study.methods import UnderPolicy
    from bwcache.study.solvers import fewer_steps

    base = choices.policy if planned.policy is BWCache else None
    shown = tuple(planned.grid)
    tried = [UnderPolicy(policy, shown) for policy in planned.settings(base)]
    return (*tried, *fewer_steps(planned.counts, pipe.scheduler))


def _write(out: Path, cells: Any, planned: Plan, pipe: Any, folder: Any) -> Any:
    from bwcache.measure.environment import environment
    from bwcache.report.fronts import plot_fronts
    from bwcache.report.studies import write_study
    from bwcache.study.results import results
    from bwcache.study.solvers import best_multistep

    rows = results(cells)
    content = {
        "study": folder.identity,
        "environment": environment(pipe),
        "policy": planned.policy.__name__,
        "grid": {name: [_plain(value) for value in values] for name, values in planned.grid.items()},
        "best_multistep": best_multistep(rows),
        "damaged": list(folder.damaged),
    }
    videos = len({(cell.prompt, cell.seed) for cell in cells})
    title = f"{planned.policy.__name__} beside fewer steps, {videos} video{'s' if videos > 1 else ''}"
    pictures = {
        "pareto.png": lambda path: plot_fronts(rows, path, title),
        "pareto-work.png": lambda path: plot_fronts(rows, path, title, "compute"),
    }
    write_study(out, NAME, rows, content, pictures)
    return rows


def show(rows: Any, planned: Plan, damaged: list[str], out: str) -> None:
    """Print the tables, what else must be known, and where the files are."""
    from rich.console import Console
    from rich.text import Text

    from bwcache.report.studies import levels_table, remarks, rows_table
    from bwcache.study.solvers import best_multistep

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=120, color_system=None)
    console.print(rows_table(rows))
    console.print(
        Text(
            "front: on the Pareto front of denoising speed against PSNR (P), SSIM (S), LPIPS (L). Quality is against "
            "the uncached video of all steps. work saved: of the operations inside the blocks."
        ),
        style="dim",
    )
    console.print(levels_table(rows, "time", "Denoising speedup"))
    console.print(levels_table(rows, "compute", "Speedup if nothing but the blocks' work took time"))
    solver = best_multistep(rows)
    if solver is not None:
        console.print(Text(f"The best multistep solver here, by PSNR at equal steps: {solver}."))
    common = {name: value for name, value in rows[0].settings.items() if name not in planned.grid}
    fixed = ", ".join(f"{name} {_plain(value)}" for name, value in common.items())
    for line in [f"the same in all rows of {planned.policy.__name__}: {fixed}" if fixed else "", *remarks(rows)]:
        if line:
            console.print(Text(line), style="dim", soft_wrap=True)
    for name in damaged:
        console.print(Text(f"{name} was damaged and has been made again"), style="dim", soft_wrap=True)
    console.print(Text(f"{NAME}.json, {NAME}.csv, pareto.png and pareto-work.png are in {out}"), soft_wrap=True)


def _counts(text: str | None, total: int) -> tuple[int, ...]:
    """Numbers of steps without a cache: those that are named, or `FEWER` of all."""
    from bwcache.study.solvers import compute_range

    if total < 2:
        raise _refused(f"--steps {total}", "at least 2, so that there can be fewer", "choose more")
    if text is None:
        return compute_range(FEWER, total) or (total - 1,)
    counts = tuple(read(one, int, "--fewer-steps") for one in text.split(","))
    for count in counts:
        if not 1 <= count < total:
            raise _refused(f"--fewer-steps {count}", f"at least 1 and fewer than the {total} steps", "name such")
    return counts


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value).removesuffix("()")


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
