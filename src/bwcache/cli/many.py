"""``bwcache generate --prompts``: the rows of a file, by as many workers as are started on one folder."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bwcache.cli.choices import check_options
from bwcache.cli.loading import read
from bwcache.cli.making import Count, Maker, Told, identity
from bwcache.cli.on_ray import wants_cuda
from bwcache.cli.output import absolute
from bwcache.cli.progress import Bars, quiet_libraries
from bwcache.cli.rows import Asked, Rows
from bwcache.cli.settings import GenerateSettings
from bwcache.cli.studies import resumable
from bwcache.errors import BWCacheError, SettingError, complaint
from bwcache.fleet.folder import VideoFolder, check_target
from bwcache.fleet.prompt_file import named, read_lines
from bwcache.fleet.table import write_table
from bwcache.fleet.worker import Worker

if TYPE_CHECKING:
    from bwcache.fleet.team import Make, Team

SHOWN = 3
"""So many bad lines are told."""
FAILED = 1


def run_many(settings: GenerateSettings) -> None:
    """Make the videos of a prompt file as the options say."""
    assert settings.prompts is not None
    file = settings.prompts.absolute()
    out = _target(settings)
    check_options(settings)
    from rich.console import Console

    from bwcache.fleet.team import check_size, follow, make_team, own_device, split_among
    from bwcache.measure.load import check_device, small_files
    from bwcache.measure.skeleton import check_known, pipeline_kind, skeleton
    from bwcache.report.videos import check_rate

    check_size(settings.gpus_per_video)
    device = "cpu" if settings.ray is not None else check_device(settings.device, settings.offload)
    device = own_device(device) if settings.device == "auto" else device
    with quiet_libraries():
        model = small_files(settings.model)
        kind = pipeline_kind(model)
        check_known(model, kind)
        rows = Rows(settings, kind, device, skeleton(model), file.parent)
        first, total = _check(file, rows, settings.skip_bad)
    check_rate(first.plan.choices.fps)
    if settings.ray is not None:
        _on_ray(settings, file, out, total)
        return
    team = make_team(settings.gpus_per_video, device) if settings.gpus_per_video > 1 else None
    with Bars(None if team is None or team.leads else Console(quiet=True)) as bars:
        maker = _maker(settings, device, file, out, bars)
        if team is not None:
            split_among(maker.pipe, team)
        if team is not None and not team.leads:
            follow(team, maker.make)
            return
        with resumable(out, lambda: f"{maker.done} of {total} videos"), _making(team, maker) as make:
            Worker(maker.folder, maker.rows, make, Told(maker, bars, total), bars.say).run()
        bars.writing("the table")
        _tidy(maker)
    _end(maker.done, maker.failed, total, out)


def _maker(settings: GenerateSettings, device: str, file: Path, out: Path, bars: Bars) -> Maker:
    """A loaded pipeline, with the folder that it makes videos for."""
    pipe = read(settings, device, bars)
    rows = Rows(settings, type(pipe), device, pipe, file.parent)
    return Maker(pipe, settings, rows, VideoFolder(out, identity(pipe), settings.lease), file)


def _tidy(maker: Maker) -> None:
    """What a worker does that has nothing more to do."""
    maker.folder.tidy()
    write_table(maker.folder.path, maker.table())


def _on_ray(settings: GenerateSettings, file: Path, out: Path, total: int) -> None:
    """Have workers on a Ray cluster do it, and tell of the rows as they do."""
    from bwcache.fleet.cluster import connected, gpus_of, run_workers

    assert settings.ray is not None
    if settings.gpus_per_video > 1:
        found = f"--gpus-per-video {settings.gpus_per_video} with --ray"
        raise _refused(found, "one GPU for each video", "start teams by torchrun, without --ray")
    count = Count(total)
    cuda = wants_cuda(settings.device, settings.ray)
    with Bars() as bars, connected(settings.ray, bars.say) as ray:
        bars.overall("all videos", 0, total)
        workers = settings.workers or (gpus_of(ray) if cuda else 0) or 1
        work = functools.partial(work_on_ray, settings, file, out)
        with resumable(out, lambda: f"{count.done} of {total} videos"):
            run_workers(ray, work, workers, int(cuda), lambda told: count.take(bars, *told), bars.say)
    _end(count.done, count.failed, total, out)


def work_on_ray(settings: GenerateSettings, file: Path, out: Path, tell: Callable[[Any], None]) -> None:
    """Do what one worker does, where Ray has placed it.

    Args:
        settings: of the command.
        file: with the prompts, as absolute path.
        out: where the videos go.
        tell: is given each row that is settled: its number, what was made of it, and why not.
    """
    from rich.console import Console

    from bwcache.measure.load import check_device

    with Bars(Console(quiet=True)) as bars:
        maker = _maker(settings, check_device(settings.device, settings.offload), file, out, bars)
        Worker(maker.folder, maker.rows, maker.make, lambda row, made, why: tell((row.number, made, why))).run()
        _tidy(maker)


def _making(team: Team | None, maker: Maker) -> contextlib.AbstractContextManager[Make]:
    """Gives what makes a row: this process, or its team."""
    from bwcache.fleet.team import leading

    return contextlib.nullcontext(maker.make) if team is None else leading(team, maker.make)


def _target(settings: GenerateSettings) -> Path:
    """Where the videos go; nothing is made yet."""
    out = absolute(settings.out)
    if settings.prompt:
        raise _refused("both --prompt and --prompts", "one of them", "leave one out")
    if settings.overwrite:
        found = "--overwrite with --prompts, whose folder others may be working on"
        raise _refused(found, "a folder to go on with", "leave it out, or remove the folder yourself")
    if out == Path.cwd() or out in Path.cwd().parents:
        found = f"--out {str(out)!r}, the current folder or one above it"
        raise _refused(found, "a folder of its own", "name a new one")
    if check_target(out) is not None and not settings.resume:
        raise _refused(f"videos in --out {str(out)!r}", "none yet, with --no-resume", "name another folder")
    return out


def _check(file: Path, rows: Rows, skip_bad: bool) -> tuple[Asked, int]:
    """The first row that can work, and how many there are.

    Raises:
        SettingError: there is none; or some cannot work, and are not to be left out.
    """
    first: Asked | None = None
    good = bad = 0
    faults: list[str] = []
    for line in read_lines(file):
        try:
            asked = rows.read(line)
        except BWCacheError as error:
            bad += 1
            if len(faults) < SHOWN:
                faults.append(f"line {line.number}: {error}")
            continue
        good += 1
        first = first or asked
    name = named(file)
    told = " | ".join(faults) + (f" | and {bad - SHOWN} more" if bad > SHOWN else "")
    if first is None:
        found = f"no row in {name} that can work ({told})" if bad else f"no prompt in {name}"
        raise _refused(found, "one prompt per line", "write at least one into the file")
    if bad and not skip_bad:
        found = f"{bad} bad row{'s' * (bad > 1)} in {name} ({told})"
        raise _refused(found, "rows that can work", "mend them, or add --skip-bad to make the others")
    if bad:
        print(f"bwcache: {bad} of {good + bad} rows are left out: {told}", file=sys.stderr)
    return first, good


def _end(done: int, failed: int, total: int, out: Path) -> None:
    print(f"{done} of {total} videos are in {out}, and table.csv has a line for each row")
    if failed:
        print(f"bwcache: {failed} of {total} videos could not be made: table.csv says why", file=sys.stderr)
        sys.exit(FAILED)


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
