"""Options of the commands that make videos: compare, generate, serve."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from bwcache.cli.settings.asked import Settings
from bwcache.cli.settings.option import (
    CACHE,
    MANY,
    OUTPUT,
    SERVER,
    WHAT,
    option,
)
from bwcache.cli.settings.parsers import path_of, real_number, whole_number


@dataclass(frozen=True)
class CompareSettings(Settings):
    """Options of ``bwcache compare``."""

    repeats: Annotated[
        int,
        option("--repeats", "Pairs of calls per prompt; times are their medians.", OUTPUT, whole_number, metavar="N"),
    ] = 1
    report: Annotated[
        bool, option("--report", "Write report.html too: everything on one page, with the videos.", OUTPUT)
    ] = False


@dataclass(frozen=True)
class GenerateSettings(Settings):
    """Options of ``bwcache generate``."""

    prompts: Annotated[
        Path | None,
        option(
            "--prompts",
            "File of many videos, one per row: .txt with prompts; .jsonl, .csv or .parquet with prompt, seed, steps, "
            "sizes, policy or any argument of the pipeline's call. Several workers may share --out; what is there is "
            "not made again.",
            WHAT,
            path_of,
        ),
    ] = None
    cache: Annotated[bool, option("--cache/--no-cache", "Whether to reuse blocks.", CACHE)] = True
    skip_bad: Annotated[
        bool, option("--skip-bad", "Leave out the rows of --prompts that cannot work, and make the others.", MANY)
    ] = False
    resume: Annotated[
        bool,
        option("--resume/--no-resume", "Whether to go on with the videos of --prompts that are in --out.", MANY),
    ] = True
    gpus_per_video: Annotated[
        int,
        option(
            "--gpus-per-video",
            "Processes of torchrun that make each video of --prompts together, each on a GPU of its own.",
            MANY,
            whole_number,
            metavar="N",
        ),
    ] = 1
    lease: Annotated[
        float,
        option(
            "--lease",
            "Seconds without a sign from a worker until its row is taken over by another one.",
            MANY,
            real_number,
            metavar="S",
        ),
    ] = 300.0
    ray: Annotated[
        str | None,
        option(
            "--ray",
            "Workers for --prompts on the Ray cluster at this address (auto: that of this machine), or on one that is "
            "started here.",
            MANY,
            show_default=False,
            metavar="[ADDRESS]",
        ),
    ] = None
    workers: Annotated[
        int | None,
        option(
            "--workers",
            "How many, with --ray.",
            MANY,
            whole_number,
            show_default="one for each GPU of the cluster, or one",
            metavar="N",
        ),
    ] = None


@dataclass(frozen=True)
class ServeSettings(Settings):
    """Options of ``bwcache serve``: what a request leaves open is as they say."""

    LEFT_OUT: ClassVar[tuple[str, ...]] = ("prompt", "prompts", "image", "video", "control", "out", "overwrite")
    """Options of the others that only a request, or nobody, can say."""

    host: Annotated[str, option("--host", "Address to answer on; 0.0.0.0 for all of this machine.", SERVER)] = (
        "127.0.0.1"
    )
    port: Annotated[int, option("--port", "0 takes any that is free.", SERVER, whole_number, metavar="N")] = 8000
    queue: Annotated[
        int,
        option("--queue", "Videos that may wait; whoever comes then is told when to ask again.", SERVER, whole_number),
    ] = 32
    batch: Annotated[
        int,
        option(
            "--batch",
            "Videos that are made together, where they have steps, sizes, guidance and policy in common.",
            SERVER,
            whole_number,
        ),
    ] = 1
    keep: Annotated[
        int, option("--keep", "Finished videos that stay; older ones are removed.", SERVER, whole_number)
    ] = 100
    max_steps: Annotated[int, option("--max-steps", "That a request may ask for.", SERVER, whole_number)] = 200
    max_pixels: Annotated[
        int | None,
        option(
            "--max-pixels",
            "Frames x height x width that a request may ask for.",
            SERVER,
            whole_number,
            show_default="no limit",
            metavar="N",
        ),
    ] = None
    folder: Annotated[
        Path | None,
        option("--folder", "For the finished videos.", OUTPUT, path_of, show_default="a temporary one"),
    ] = None
    ray: Annotated[
        str | None,
        option(
            "--ray",
            "Make the videos on the Ray cluster at this address (auto: that of this machine), or on one that is "
            "started here.",
            SERVER,
            show_default=False,
            metavar="[ADDRESS]",
        ),
    ] = None
    replicas: Annotated[
        int, option("--replicas", "Pipelines on the Ray cluster, at most.", SERVER, whole_number, metavar="N")
    ] = 1

    def as_generate(self) -> GenerateSettings:
        """Return the options that each request begins with, as those of ``bwcache generate``."""
        common = {field.name for field in dataclasses.fields(Settings)}
        return GenerateSettings(**{name: getattr(self, name) for name in common})
