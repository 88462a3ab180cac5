"""``bwcache report``: one page of what was found."""

from __future__ import annotations

from pathlib import Path

from bwcache.cli.output import REPORT, absolute
from bwcache.cli.progress import Bars
from bwcache.cli.settings import ReportSettings
from bwcache.errors import SettingError, complaint


def run_report(settings: ReportSettings) -> None:
    """Write the page as the options say.

    Raises:
        SettingError: options that cannot work, or folders that do not hold what they should.
    """
    if settings.videos < 0:
        raise _refused(f"--videos {settings.videos}", "at least 0", "choose a larger one")
    folder = settings.folder.expanduser()
    out = absolute(settings.out) if settings.out else folder / REPORT
    from bwcache.report.html import read, write_report

    with Bars() as bars:
        bars.writing(str(out))
        report = read(folder, settings.videos, studies(settings, folder))
        check_page(out, settings.overwrite)
        write_report(out, report)
    show(report.answer, out)


def studies(settings: ReportSettings, folder: Path) -> dict[str, Path]:
    """The folders of studies: those that are named, and those that lie in the comparison's under their usual names."""
    named = {"profile": settings.profile, "sweep": settings.sweep, "bench": settings.bench}
    found = {}
    for name, place in named.items():
        if place is not None:
            found[name] = place.expanduser()
        elif (folder / name).is_dir():
            found[name] = folder / name
    return found


def check_page(out: Path, overwrite: bool) -> None:
    """Raise when the page cannot or must not be put at `out`.

    Raises:
        SettingError: it is a folder or another file, its folder is not there, or it is an earlier report and
            `overwrite` is not set.
    """
    from bwcache.report.html import is_report

    shown = repr(str(out))
    if out.is_dir():
        raise _refused(f"a folder at --out {shown}", "a file to write", "name one, such as report.html")
    if not out.parent.is_dir():
        raise _refused(f"no folder for --out {shown}", "one that is there", "make it or name another one")
    if not out.exists():
        return
    if not is_report(out):
        raise _refused(f"a file at --out {shown} that is no report", "no file or an earlier report", "name another one")
    if not overwrite:
        raise _refused(f"an earlier report at {shown}", "no file there", "add --overwrite or name another one")


def show(answer: str, out: Path) -> None:
    """Print the answer and where the page is."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    console.print(Text(answer), style="bold", soft_wrap=True)
    console.print(Text(f"{out} ({out.stat().st_size / 1e6:.1f} MB) opens in any browser"), soft_wrap=True)


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
