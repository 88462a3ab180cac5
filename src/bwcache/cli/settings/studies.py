"""Options of the commands that make many runs to learn something: sweep, profile, bench, tune, calibrate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bwcache.cli.settings.asked import Asked, Caching
from bwcache.cli.settings.option import (
    CACHE,
    ELSE,
    OUTPUT,
    WHAT,
    FrameRate,
    StudyFolder,
    option,
)
from bwcache.cli.settings.parsers import real_number, whole_number


@dataclass(frozen=True)
class StudySettings(Asked):
    """The options of the commands that make many runs and keep each of them."""

    seeds: Annotated[
        int,
        option(
            "--seeds",
            "Videos per prompt, of seeds one after the other from --seed on.",
            WHAT,
            whole_number,
            metavar="N",
        ),
    ] = 1
    out: StudyFolder = Path("bwcache-study")


@dataclass(frozen=True)
class SweepSettings(StudySettings, Caching):
    """Options of ``bwcache sweep``."""

    grid: Annotated[
        list[str],
        option(
            "--grid",
            "A field of the policy and the values to try, such as threshold=0.1,0.2 or predictor=last,linear; may be "
            "given several times, and then all combinations are tried.",
            CACHE,
            show_default="the paper's thresholds, both predictors",
            metavar="FIELD=V1,V2",
        ),
    ] = dataclasses.field(default_factory=list)
    fewer_steps: Annotated[
        str | None,
        option(
            "--fewer-steps",
            "Numbers of steps of the uncached runs that every setting is compared with, such as 10,15,20.",
            WHAT,
            show_default="six, from a quarter of the steps to nine tenths",
            metavar="N1,N2",
        ),
    ] = None
    out: StudyFolder = Path("bwcache-sweep")


@dataclass(frozen=True)
class ProfileSettings(StudySettings):
    """Options of ``bwcache profile``."""

    shares_on: Annotated[
        int,
        option(
            "--shares-on",
            "Videos that are made again with samples of the entries (four calls each); 0 leaves that out.",
            WHAT,
            whole_number,
            metavar="N",
        ),
    ] = 2
    repeats: Annotated[
        int, option("--repeats", "Timed calls of each of three kinds.", OUTPUT, whole_number, metavar="N")
    ] = 3
    out: StudyFolder = Path("bwcache-profile")


@dataclass(frozen=True)
class BenchSettings(StudySettings):
    """Options of ``bwcache bench``."""

    methods: Annotated[
        str | None,
        option(
            "--methods",
            "Who takes part, such as bwcache,seacache,fewer-steps; a wrong name shows all of them.",
            CACHE,
            show_default="all",
            metavar="M1,M2",
        ),
    ] = None
    warmup: Annotated[
        str | None,
        option(
            "--warmup",
            "First steps that every method computes, where it can be told so; several numbers are all tried.",
            CACHE,
            show_default="2 and a fifth of the steps",
            metavar="N1,N2",
        ),
    ] = None
    tail: Annotated[
        int,
        option(
            "--tail",
            "Last steps that every method computes, where it can be told so.",
            CACHE,
            whole_number,
            metavar="N",
        ),
    ] = 2
    quick: Annotated[bool, option("--quick", "Two settings of each method instead of all.", CACHE)] = False
    out: StudyFolder = Path("bwcache-bench")


@dataclass(frozen=True)
class TuneSettings(Asked):
    """Options of ``bwcache tune``."""

    grade: Annotated[
        str,
        option(
            "--grade",
            "What is wanted: near (40 dB), balanced (35 dB), fast (30 dB), a mean PSNR such as 35dB, or a speed such "
            "as 3x.",
            CACHE,
            metavar="GRADE",
        ),
    ] = "balanced"
    calibrate: Annotated[
        int, option("--calibrate", "Videos that the plan is made of, at most.", WHAT, whole_number, metavar="N")
    ] = 3
    verify: Annotated[
        int,
        option("--verify", "Videos of other prompts that it is proved on.", WHAT, whole_number, metavar="N"),
    ] = 4
    budget: Annotated[
        float | None,
        option(
            "--budget",
            "The work allowed, proof and page included, in uncached videos.",
            WHAT,
            real_number,
            show_default="24 for shapes, else 12",
            metavar="X",
        ),
    ] = None
    out: Annotated[Path, option("--out", "The file. Runs wait in a folder beside it until all is done.", OUTPUT)] = (
        Path("tuned.json")
    )
    page: Annotated[
        bool,
        option("--page/--no-page", "Whether to write a page too: the same video at several speeds.", OUTPUT),
    ] = True
    fps: FrameRate = None
    overwrite: Annotated[bool, option("--overwrite", "Replace an earlier file and page.", OUTPUT)] = False


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings(Asked):
    """Options of ``bwcache calibrate``."""

    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="The method whose table is made, such as magcache or smooth-cache.",
            show_default=False,
        ),
    ]
    sets: Annotated[
        list[str],
        option(
            "--set",
            "What the calibration takes, such as threshold=0.18 (a wrong name shows all), or any other argument "
            "of the pipeline's call; may be given several times.",
            ELSE,
            metavar="NAME=VALUE",
        ),
    ] = dataclasses.field(default_factory=list)
    out: Annotated[Path, option("--out", "The file.", OUTPUT)] = Path("calibrated.json")
    overwrite: Annotated[bool, option("--overwrite", "Replace an earlier file.", OUTPUT)] = False
