"""Options of the commands that show what is there, or what was made: models, methods, plan, report, vbench."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bwcache.cli.settings.option import (
    CACHE,
    OUTPUT,
    WHAT,
    WITH,
    AsJson,
    option,
)
from bwcache.cli.settings.parsers import path_of, real_number, whole_number


@dataclass(frozen=True)
class ModelsSettings:
    """What ``bwcache models`` takes."""

    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A part of the name of a denoiser, a pipeline or a module; without one, all are shown.",
            show_default=False,
        ),
    ] = None
    as_json: AsJson = False


@dataclass(frozen=True)
class MethodsSettings:
    """What ``bwcache methods`` takes."""

    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="The name of a policy, which is shown in full; without one, all are shown.",
            show_default=False,
        ),
    ] = None
    as_json: AsJson = False


@dataclass(frozen=True)
class PlanSettings:
    """Options of ``bwcache plan``."""

    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="What 'bwcache tune' wrote; without one, the plan that no model has been tuned for.",
            show_default=False,
            parser=path_of,
        ),
    ] = None
    steps: Annotated[
        int | None,
        option("--steps", "Denoising steps, without a file.", WHAT, whole_number, show_default=False, metavar="N"),
    ] = None
    shift: Annotated[
        float | None,
        option("--shift", "Of flow matching, without a file.", WHAT, real_number, show_default="1", metavar="X"),
    ] = None
    grade: Annotated[
        str | None,
        option("--grade", "near, balanced or fast, without a file.", CACHE, show_default="balanced", metavar="GRADE"),
    ] = None
    out: Annotated[Path | None, option("--out", "Write it as JSON too.", OUTPUT, show_default="only printed")] = None
    overwrite: Annotated[bool, option("--overwrite", "Replace an earlier file.", OUTPUT)] = False


@dataclass(frozen=True)
class ReportSettings:
    """Options of ``bwcache report``."""

    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="What 'bwcache compare' wrote.", show_default=False, parser=path_of),
    ]
    out: Annotated[Path | None, option("--out", "The page.", OUTPUT, show_default="DIR/report.html")] = None
    videos: Annotated[
        int,
        option(
            "--videos",
            "Prompts whose videos are shown, those that differ most first.",
            OUTPUT,
            whole_number,
            metavar="N",
        ),
    ] = 12
    overwrite: Annotated[bool, option("--overwrite", "Replace an earlier report.", OUTPUT)] = False
    profile: Annotated[
        Path | None,
        option("--profile", "What 'bwcache profile' wrote.", WITH, path_of, show_default="DIR/profile, if there"),
    ] = None
    sweep: Annotated[
        Path | None,
        option("--sweep", "What 'bwcache sweep' wrote.", WITH, path_of, show_default="DIR/sweep, if there"),
    ] = None
    bench: Annotated[
        Path | None,
        option("--bench", "What 'bwcache bench' wrote.", WITH, path_of, show_default="DIR/bench, if there"),
    ] = None


@dataclass(frozen=True)
class VBenchSettings:
    """Options of ``bwcache vbench``."""

    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="What 'bwcache compare' or 'bwcache generate' wrote.",
            show_default=False,
            parser=path_of,
        ),
    ]
    dimension: Annotated[
        list[str],
        typer.Option(
            "--dimension",
            help="What to score; may be given several times.",
            show_default="all that the mode has",
            metavar="NAME",
        ),
    ] = dataclasses.field(default_factory=list)
    mode: Annotated[
        str,
        typer.Option("--mode", help="custom, for any prompts; or standard, where the prompts are VBench's own."),
    ] = "custom"
    python: Annotated[
        str | None,
        typer.Option(
            "--python", help="The interpreter of VBench's environment.", show_default="that of the vbench on the PATH"
        ),
    ] = None
    prepare: Annotated[bool, typer.Option("--prepare", help="Only lay out the videos, to score elsewhere.")] = False
    out: Annotated[
        Path | None,
        option("--out", "Folder for videos and scores.", OUTPUT, show_default="DIR-vbench"),
    ] = None
    overwrite: Annotated[
        bool, option("--overwrite", "Replace the scores that an earlier call left in --out.", OUTPUT)
    ] = False
