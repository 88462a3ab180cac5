"""``bwcache profile``: watch, print, write."""

from __future__ import annotations

import dataclasses
from typing import Any

from bwcache.cli.choices import check_options, choose
from bwcache.cli.loading import load
from bwcache.cli.progress import Bars
from bwcache.cli.settings import ProfileSettings
from bwcache.cli.studies import check_study, claimed_study, resumable
from bwcache.errors import SettingError, complaint


def run_profile(settings: ProfileSettings) -> None:
    """Profile as the options say; what an earlier call of the same command left in the folder is used.

    Raises:
        SettingError: options that cannot work, or a folder of something else.
    """
    check_options(settings)
    if settings.shares_on < 0:
        raise SettingError(complaint(f"--shares-on {settings.shares_on}", "at least 0", "choose a larger one"))
    out = check_study(settings.out)
    choices = choose(settings)
    from bwcache.report.profiles import write_profile
    from bwcache.study.folder import Folder
    from bwcache.study.profile import profile, profile_identity
    from bwcache.study.study import Video

    request = dataclasses.replace(choices.requests()[0], prompt="")
    videos = [Video(text, settings.seed + i) for i in range(settings.seeds) for text in dict.fromkeys(choices.prompts)]
    with claimed_study(out), Bars() as bars:
        pipe, choices = load(settings, choices, bars)
        folder = Folder(out, profile_identity(pipe, request, settings.model))
        kept = (0, 0)

        def count(done: int, total: int, what: str) -> None:
            nonlocal kept
            kept = (done, total)
            bars.overall("all parts", done, total)
            bars.say(f"{done:>{len(str(total))}}/{total}  {what}")

        with resumable(out, lambda: f"{kept[0]} of {kept[1]} parts"):
            made = profile(
                pipe,
                videos,
                request,
                folder,
                shares_on=settings.shares_on,
                repeats=settings.repeats,
                name=settings.model,
                threshold=choices.policy.threshold,
                on_progress=bars.show,
                on_kept=count,
            )
        bars.writing("pictures")
        again = tuple(f"{name} was damaged and has been made again" for name in folder.damaged)
        made = dataclasses.replace(made, notes=made.notes + again)
        write_profile(out, made)
    show(made, str(settings.out))


def show(profile: Any, out: str) -> None:
    """Print what to do first and the answers, and where the tables, pictures and files are."""
    from rich.console import Console
    from rich.text import Text

    from bwcache.report.profiles import TABLES, sentences

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, emoji=False, width=120, color_system=None)
    first, *others = sentences(profile)
    console.print(Text(first), style="bold", soft_wrap=True)
    for line in others:
        console.print(Text(line), soft_wrap=True)
    console.print(Text(f"Each block and step: {out}/{TABLES}; pictures and profile.json beside it"), soft_wrap=True)
