"""What every command is asked that makes videos, and how they are cached."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from bwcache.cli.settings.option import (
    CACHE,
    ELSE,
    MODEL,
    OUTPUT,
    WHAT,
    FrameRate,
    option,
)
from bwcache.cli.settings.parsers import amount_of_memory, path_of, real_number, whole_number


@dataclass(frozen=True)
class Asked:
    """The options that every command shares which makes videos. None leaves a value to the model."""

    prompt: Annotated[list[str], option("--prompt", "Text of one video; may be given several times.", WHAT)] = (
        dataclasses.field(default_factory=list)
    )
    prompts: Annotated[
        Path | None,
        option(
            "--prompts", "Text file with one prompt per line; empty lines and lines with # are left out.", WHAT, path_of
        ),
    ] = None
    negative_prompt: Annotated[
        str | None, option("--negative-prompt", "What no video should show.", WHAT, metavar="TEXT")
    ] = None
    image: Annotated[
        Path | None, option("--image", "Picture to begin with, or to edit.", WHAT, path_of, metavar="FILE")
    ] = None
    video: Annotated[
        Path | None, option("--video", "Video to go on from, or to change.", WHAT, path_of, metavar="FILE")
    ] = None
    control: Annotated[
        Path | None,
        option("--control", "Picture or video of edges, depth or poses to follow.", WHAT, path_of, metavar="FILE"),
    ] = None
    steps: Annotated[
        int | None,
        option("--steps", "Denoising steps.", WHAT, whole_number, show_default="30 for shapes, else 50", metavar="N"),
    ] = None
    seed: Annotated[
        int, option("--seed", "Of the noise, the same for every prompt.", WHAT, whole_number, metavar="N")
    ] = 0
    guidance_scale: Annotated[
        float | None,
        option("--guidance-scale", "Strength of guidance.", WHAT, real_number, show_default="the model's", metavar="X"),
    ] = None
    height: Annotated[
        int | None, option("--height", "Pixels.", WHAT, whole_number, show_default="the model's", metavar="N")
    ] = None
    width: Annotated[
        int | None, option("--width", "Pixels.", WHAT, whole_number, show_default="the model's", metavar="N")
    ] = None
    frames: Annotated[
        int | None,
        option("--frames", "Length of the video.", WHAT, whole_number, show_default="the model's", metavar="N"),
    ] = None

    model: Annotated[
        str,
        option(
            "--model", "'shapes', the small model in the box; or a folder or hub id of a diffusers pipeline.", MODEL
        ),
    ] = "shapes"
    scheduler: Annotated[
        str | None,
        option(
            "--scheduler",
            "In place of the model's own, with settings if need be: UniPCMultistep:solver_order=3.",
            MODEL,
            show_default="the model's",
            metavar="NAME[:KEY=VALUE,...]",
        ),
    ] = None
    device: Annotated[str, option("--device", "auto, cpu, cuda, cuda:1, mps or xpu.", MODEL)] = "auto"
    dtype: Annotated[str, option("--dtype", "auto, float32, bfloat16 or float16; auto is float32 on a CPU.", MODEL)] = (
        "auto"
    )
    offload: Annotated[
        str, option("--offload", "What waits in main memory: none, model, sequential or group.", MODEL)
    ] = "none"
    sets: Annotated[
        list[str],
        option(
            "--set",
            "Any other argument of the pipeline's call, such as true_cfg_scale=4 or last_image=@end.png; may be given "
            "several times.",
            ELSE,
            metavar="NAME=VALUE",
        ),
    ] = dataclasses.field(default_factory=list)


def _shorthand(name: str, text: str, default: str) -> Any:
    """An option for a field of the policy; `--set` reads its text as it would its own."""
    return option(name, text, CACHE, show_default=default, metavar="X")


_PUBLISHED = "published for the model, else "


@dataclass(frozen=True)
class Caching(Asked):
    """The policy. None leaves a field to what is published for the model, or to the policy."""

    sets: Annotated[
        list[str],
        option(
            "--set",
            "Any field of the policy, such as warmup=3, or any other argument of the pipeline's call, such as "
            "true_cfg_scale=4 or last_image=@end.png; may be given several times.",
            ELSE,
            metavar="NAME=VALUE",
        ),
    ] = dataclasses.field(default_factory=list)
    grade: Annotated[
        str | None,
        option(
            "--grade",
            "In place of a method, how close the video shall stay: near, balanced or fast. They aim at a mean PSNR "
            "of 40, 35 and 30 dB, which 'bwcache tune' makes sure of for one model.",
            CACHE,
            show_default=False,
            metavar="GRADE",
        ),
    ] = None
    policy: Annotated[
        str | None,
        option(
            "--policy",
            "The method: bwcache, adaptive, fixed-interval or another policy's name; module:Class for one of yours; or "
            "a file that 'bwcache tune' or 'bwcache calibrate' wrote.",
            CACHE,
            show_default="bwcache",
            metavar="NAME",
        ),
    ] = None
    tolerance: Annotated[
        str | None,
        _shorthand(
            "--tolerance",
            "Of adaptive and planned: damage that one window of reused steps (adaptive) or the whole run (planned) may "
            "do; 0 never reuses.",
            "0.02, of planned 0.03",
        ),
    ] = None
    threshold: Annotated[
        str | None,
        _shorthand(
            "--threshold",
            "Reuse while the blocks change by less than this; 0 never reuses, and measures nothing.",
            _PUBLISHED + "0.15",
        ),
    ] = None
    reuse_interval: Annotated[
        str | None,
        _shorthand(
            "--reuse-interval",
            "Steps that one computed step may serve: a share of all (0.1) or a number (3).",
            _PUBLISHED + "0.1",
        ),
    ] = None
    tail_guard: Annotated[
        str | None,
        _shorthand(
            "--tail-guard",
            "Always compute the last steps: this share of the steps before the first reuse.",
            _PUBLISHED + "0.5",
        ),
    ] = None
    sample: Annotated[
        str | None,
        _shorthand("--sample", "Share of the entries that the indicator looks at; 1 is the paper's.", "a small sample"),
    ] = None
    decision: Annotated[
        str | None,
        _shorthand("--decision", "With guidance in two forwards: shared or per_branch.", "shared"),
    ] = None
    predictor: Annotated[
        str | None,
        _shorthand(
            "--predictor",
            "How a skipped step is made: last (the paper's), linear, damped or taylor:2.",
            "the policy's",
        ),
    ] = None


@dataclass(frozen=True)
class Settings(Caching):
    """The options that `compare` and `generate` share."""

    memory: Annotated[
        str,
        option("--memory", "Where kept features wait between steps: device, or offload for main memory.", CACHE),
    ] = "device"
    max_memory: Annotated[
        int | None,
        option(
            "--max-memory",
            "What may be held on the device between steps; a run that needs more is refused before it begins.",
            CACHE,
            amount_of_memory,
            show_default="no limit",
            metavar="2GiB",
        ),
    ] = None
    out: Annotated[Path, option("--out", "Folder for the results; made whole or not at all.", OUTPUT)] = Path(
        "bwcache-out"
    )
    overwrite: Annotated[
        bool, option("--overwrite", "Replace the results that an earlier call left in --out.", OUTPUT)
    ] = False
    fps: FrameRate = None
