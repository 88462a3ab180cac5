"""Every option of the command, once: its type, default and help. Commands take theirs from these dataclasses."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_type_hints

import typer

from bwcache.core.amounts import in_bytes
from bwcache.core.words import shown
from bwcache.errors import SettingError, complaint


def whole_number(text: str | int) -> int:
    """Parse an integer."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(complaint(shown(text), "a whole number", "write it in digits")) from None


def real_number(text: str | float) -> float:
    """Parse a finite number."""
    try:
        value = float(text)
    except (ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(complaint(shown(text), "a number", "write it in digits, such as 4.5"))
    return value


def amount_of_memory(text: str | int) -> int:
    """Parse bytes, or a number with a unit."""
    try:
        return in_bytes(text)
    except SettingError as error:
        raise typer.BadParameter(str(error)) from None


def path_of(text: str | Path) -> Path:
    """Parse a path: with the home folder of ``~``, and such as the system can follow."""
    name = shown(str(text))
    try:
        path = Path(text).expanduser()
        path.stat()
    except RuntimeError:
        found = f"{name}, a home that is not known"
        raise typer.BadParameter(complaint(found, "a path", "write it in full")) from None
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # what is done with it says so
    except (OSError, ValueError) as error:
        found = f"{name} ({getattr(error, 'strerror', None) or error})"
        raise typer.BadParameter(complaint(found, "a path that can be followed", "name another")) from None
    return path


def _option(name: str, text: str, panel: str, parser: Callable[[Any], Any] | None = None, **more: Any) -> Any:
    return typer.Option(name, help=text, rich_help_panel=panel, parser=parser, **more)


WHAT, MODEL, CACHE, OUTPUT = "What to make", "Model and machine", "Caching", "Output"
ELSE = "Anything else"
WITH = "On the same page"
MANY = "Many videos"
SERVER = "Server"

StudyFolder = Annotated[
    Path, _option("--out", "Folder for the results; runs that are finished there are not made again.", OUTPUT)
]
FrameRate = Annotated[
    int | None,
    _option("--fps", "Frames per second.", OUTPUT, whole_number, show_default="8 for shapes, else 16", metavar="N"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.", rich_help_panel=OUTPUT)]


@dataclass(frozen=True)
class Asked:
    """The options that every command shares which makes videos. None leaves a value to the model."""

    prompt: Annotated[list[str], _option("--prompt", "Text of one video; may be given several times.", WHAT)] = (
        dataclasses.field(default_factory=list)
    )
    prompts: Annotated[
        Path | None,
        _option(
            "--prompts", "Text file with one prompt per line; empty lines and lines with # are left out.", WHAT, path_of
        ),
    ] = None
    negative_prompt: Annotated[
        str | None, _option("--negative-prompt", "What no video should show.", WHAT, metavar="TEXT")
    ] = None
    image: Annotated[
        Path | None, _option("--image", "Picture to begin with, or to edit.", WHAT, path_of, metavar="FILE")
    ] = None
    video: Annotated[
        Path | None, _option("--video", "Video to go on from, or to change.", WHAT, path_of, metavar="FILE")
    ] = None
    control: Annotated[
        Path | None,
        _option("--control", "Picture or video of edges, depth or poses to follow.", WHAT, path_of, metavar="FILE"),
    ] = None
    steps: Annotated[
        int | None,
        _option("--steps", "Denoising steps.", WHAT, whole_number, show_default="30 for shapes, else 50", metavar="N"),
    ] = None
    seed: Annotated[
        int, _option("--seed", "Of the noise, the same for every prompt.", WHAT, whole_number, metavar="N")
    ] = 0
    guidance_scale: Annotated[
        float | None,
        _option(
            "--guidance-scale", "Strength of guidance.", WHAT, real_number, show_default="the model's", metavar="X"
        ),
    ] = None
    height: Annotated[
        int | None, _option("--height", "Pixels.", WHAT, whole_number, show_default="the model's", metavar="N")
    ] = None
    width: Annotated[
        int | None, _option("--width", "Pixels.", WHAT, whole_number, show_default="the model's", metavar="N")
    ] = None
    frames: Annotated[
        int | None,
        _option("--frames", "Length of the video.", WHAT, whole_number, show_default="the model's", metavar="N"),
    ] = None

    model: Annotated[
        str,
        _option(
            "--model", "'shapes', the small model in the box; or a folder or hub id of a diffusers pipeline.", MODEL
        ),
    ] = "shapes"
    scheduler: Annotated[
        str | None,
        _option(
            "--scheduler",
            "In place of the model's own, with settings if need be: UniPCMultistep:solver_order=3.",
            MODEL,
            show_default="the model's",
            metavar="NAME[:KEY=VALUE,...]",
        ),
    ] = None
    device: Annotated[str, _option("--device", "auto, cpu, cuda, cuda:1, mps or xpu.", MODEL)] = "auto"
    dtype: Annotated[
        str, _option("--dtype", "auto, float32, bfloat16 or float16; auto is float32 on a CPU.", MODEL)
    ] = "auto"
    offload: Annotated[
        str, _option("--offload", "What waits in main memory: none, model, sequential or group.", MODEL)
    ] = "none"
    sets: Annotated[
        list[str],
        _option(
            "--set",
            "Any other argument of the pipeline's call, such as true_cfg_scale=4 or last_image=@end.png; may be given "
            "several times.",
            ELSE,
            metavar="NAME=VALUE",
        ),
    ] = dataclasses.field(default_factory=list)


def _shorthand(name: str, text: str, default: str) -> Any:
    """An option for a field of the policy; `--set` reads its text as it would its own."""
    return _option(name, text, CACHE, show_default=default, metavar="X")


_PUBLISHED = "published for the model, else "


@dataclass(frozen=True)
class Caching(Asked):
    """The policy. None leaves a field to what is published for the model, or to the policy."""

    sets: Annotated[
        list[str],
        _option(
            "--set",
            "Any field of the policy, such as warmup=3, or any other argument of the pipeline's call, such as "
            "true_cfg_scale=4 or last_image=@end.png; may be given several times.",
            ELSE,
            metavar="NAME=VALUE",
        ),
    ] = dataclasses.field(default_factory=list)
    grade: Annotated[
        str | None,
        _option(
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
        _option(
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
        _option("--memory", "Where kept features wait between steps: device, or offload for main memory.", CACHE),
    ] = "device"
    max_memory: Annotated[
        int | None,
        _option(
            "--max-memory",
            "What may be held on the device between steps; a run that needs more is refused before it begins.",
            CACHE,
            amount_of_memory,
            show_default="no limit",
            metavar="2GiB",
        ),
    ] = None
    out: Annotated[Path, _option("--out", "Folder for the results; made whole or not at all.", OUTPUT)] = Path(
        "bwcache-out"
    )
    overwrite: Annotated[
        bool, _option("--overwrite", "Replace the results that an earlier call left in --out.", OUTPUT)
    ] = False
    fps: FrameRate = None


@dataclass(frozen=True)
class CompareSettings(Settings):
    """Options of ``bwcache compare``."""

    repeats: Annotated[
        int,
        _option("--repeats", "Pairs of calls per prompt; times are their medians.", OUTPUT, whole_number, metavar="N"),
    ] = 1
    report: Annotated[
        bool, _option("--report", "Write report.html too: everything on one page, with the videos.", OUTPUT)
    ] = False


@dataclass(frozen=True)
class GenerateSettings(Settings):
    """Options of ``bwcache generate``."""

    prompts: Annotated[
        Path | None,
        _option(
            "--prompts",
            "File of many videos, one per row: .txt with prompts; .jsonl, .csv or .parquet with prompt, seed, steps, "
            "sizes, policy or any argument of the pipeline's call. Several workers may share --out; what is there is "
            "not made again.",
            WHAT,
            path_of,
        ),
    ] = None
    cache: Annotated[bool, _option("--cache/--no-cache", "Whether to reuse blocks.", CACHE)] = True
    skip_bad: Annotated[
        bool, _option("--skip-bad", "Leave out the rows of --prompts that cannot work, and make the others.", MANY)
    ] = False
    resume: Annotated[
        bool,
        _option("--resume/--no-resume", "Whether to go on with the videos of --prompts that are in --out.", MANY),
    ] = True
    gpus_per_video: Annotated[
        int,
        _option(
            "--gpus-per-video",
            "Processes of torchrun that make each video of --prompts together, each on a GPU of its own.",
            MANY,
            whole_number,
            metavar="N",
        ),
    ] = 1
    lease: Annotated[
        float,
        _option(
            "--lease",
            "Seconds without a sign from a worker until its row is taken over by another one.",
            MANY,
            real_number,
            metavar="S",
        ),
    ] = 300.0
    ray: Annotated[
        str | None,
        _option(
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
        _option(
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

    host: Annotated[str, _option("--host", "Address to answer on; 0.0.0.0 for all of this machine.", SERVER)] = (
        "127.0.0.1"
    )
    port: Annotated[int, _option("--port", "0 takes any that is free.", SERVER, whole_number, metavar="N")] = 8000
    queue: Annotated[
        int,
        _option("--queue", "Videos that may wait; whoever comes then is told when to ask again.", SERVER, whole_number),
    ] = 32
    batch: Annotated[
        int,
        _option(
            "--batch",
            "Videos that are made together, where they have steps, sizes, guidance and policy in common.",
            SERVER,
            whole_number,
        ),
    ] = 1
    keep: Annotated[
        int, _option("--keep", "Finished videos that stay; older ones are removed.", SERVER, whole_number)
    ] = 100
    max_steps: Annotated[int, _option("--max-steps", "That a request may ask for.", SERVER, whole_number)] = 200
    max_pixels: Annotated[
        int | None,
        _option(
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
        _option("--folder", "For the finished videos.", OUTPUT, path_of, show_default="a temporary one"),
    ] = None
    ray: Annotated[
        str | None,
        _option(
            "--ray",
            "Make the videos on the Ray cluster at this address (auto: that of this machine), or on one that is "
            "started here.",
            SERVER,
            show_default=False,
            metavar="[ADDRESS]",
        ),
    ] = None
    replicas: Annotated[
        int, _option("--replicas", "Pipelines on the Ray cluster, at most.", SERVER, whole_number, metavar="N")
    ] = 1

    def as_generate(self) -> GenerateSettings:
        """Return the options that each request begins with, as those of ``bwcache generate``."""
        common = {field.name for field in dataclasses.fields(Settings)}
        return GenerateSettings(**{name: getattr(self, name) for name in common})


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
class StudySettings(Asked):
    """The options of the commands that make many runs and keep each of them."""

    seeds: Annotated[
        int,
        _option(
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
        _option(
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
        _option(
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
        _option(
            "--shares-on",
            "Videos that are made again with samples of the entries (four calls each); 0 leaves that out.",
            WHAT,
            whole_number,
            metavar="N",
        ),
    ] = 2
    repeats: Annotated[
        int, _option("--repeats", "Timed calls of each of three kinds.", OUTPUT, whole_number, metavar="N")
    ] = 3
    out: StudyFolder = Path("bwcache-profile")


@dataclass(frozen=True)
class BenchSettings(StudySettings):
    """Options of ``bwcache bench``."""

    methods: Annotated[
        str | None,
        _option(
            "--methods",
            "Who takes part, such as bwcache,seacache,fewer-steps; a wrong name shows all of them.",
            CACHE,
            show_default="all",
            metavar="M1,M2",
        ),
    ] = None
    warmup: Annotated[
        str | None,
        _option(
            "--warmup",
            "First steps that every method computes, where it can be told so; several numbers are all tried.",
            CACHE,
            show_default="2 and a fifth of the steps",
            metavar="N1,N2",
        ),
    ] = None
    tail: Annotated[
        int,
        _option(
            "--tail",
            "Last steps that every method computes, where it can be told so.",
            CACHE,
            whole_number,
            metavar="N",
        ),
    ] = 2
    quick: Annotated[bool, _option("--quick", "Two settings of each method instead of all.", CACHE)] = False
    out: StudyFolder = Path("bwcache-bench")


@dataclass(frozen=True)
class TuneSettings(Asked):
    """Options of ``bwcache tune``."""

    grade: Annotated[
        str,
        _option(
            "--grade",
            "What is wanted: near (40 dB), balanced (35 dB), fast (30 dB), a mean PSNR such as 35dB, or a speed such "
            "as 3x.",
            CACHE,
            metavar="GRADE",
        ),
    ] = "balanced"
    calibrate: Annotated[
        int, _option("--calibrate", "Videos that the plan is made of, at most.", WHAT, whole_number, metavar="N")
    ] = 3
    verify: Annotated[
        int,
        _option("--verify", "Videos of other prompts that it is proved on.", WHAT, whole_number, metavar="N"),
    ] = 4
    budget: Annotated[
        float | None,
        _option(
            "--budget",
            "The work allowed, proof and page included, in uncached videos.",
            WHAT,
            real_number,
            show_default="24 for shapes, else 12",
            metavar="X",
        ),
    ] = None
    out: Annotated[Path, _option("--out", "The file. Runs wait in a folder beside it until all is done.", OUTPUT)] = (
        Path("tuned.json")
    )
    page: Annotated[
        bool,
        _option("--page/--no-page", "Whether to write a page too: the same video at several speeds.", OUTPUT),
    ] = True
    fps: FrameRate = None
    overwrite: Annotated[bool, _option("--overwrite", "Replace an earlier file and page.", OUTPUT)] = False


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
        _option(
            "--set",
            "What the calibration takes, such as threshold=0.18 (a wrong name shows all), or any other argument "
            "of the pipeline's call; may be given several times.",
            ELSE,
            metavar="NAME=VALUE",
        ),
    ] = dataclasses.field(default_factory=list)
    out: Annotated[Path, _option("--out", "The file.", OUTPUT)] = Path("calibrated.json")
    overwrite: Annotated[bool, _option("--overwrite", "Replace an earlier file.", OUTPUT)] = False


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
        _option("--steps", "Denoising steps, without a file.", WHAT, whole_number, show_default=False, metavar="N"),
    ] = None
    shift: Annotated[
        float | None,
        _option("--shift", "Of flow matching, without a file.", WHAT, real_number, show_default="1", metavar="X"),
    ] = None
    grade: Annotated[
        str | None,
        _option("--grade", "near, balanced or fast, without a file.", CACHE, show_default="balanced", metavar="GRADE"),
    ] = None
    out: Annotated[Path | None, _option("--out", "Write it as JSON too.", OUTPUT, show_default="only printed")] = None
    overwrite: Annotated[bool, _option("--overwrite", "Replace an earlier file.", OUTPUT)] = False


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
        _option("--out", "Folder for videos and scores.", OUTPUT, show_default="DIR-vbench"),
    ] = None
    overwrite: Annotated[
        bool, _option("--overwrite", "Replace the scores that an earlier call left in --out.", OUTPUT)
    ] = False


@dataclass(frozen=True)
class ReportSettings:
    """Options of ``bwcache report``."""

    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="What 'bwcache compare' wrote.", show_default=False, parser=path_of),
    ]
    out: Annotated[Path | None, _option("--out", "The page.", OUTPUT, show_default="DIR/report.html")] = None
    videos: Annotated[
        int,
        _option(
            "--videos",
            "Prompts whose videos are shown, those that differ most first.",
            OUTPUT,
            whole_number,
            metavar="N",
        ),
    ] = 12
    overwrite: Annotated[bool, _option("--overwrite", "Replace an earlier report.", OUTPUT)] = False
    profile: Annotated[
        Path | None,
        _option("--profile", "What 'bwcache profile' wrote.", WITH, path_of, show_default="DIR/profile, if there"),
    ] = None
    sweep: Annotated[
        Path | None,
        _option("--sweep", "What 'bwcache sweep' wrote.", WITH, path_of, show_default="DIR/sweep, if there"),
    ] = None
    bench: Annotated[
        Path | None,
        _option("--bench", "What 'bwcache bench' wrote.", WITH, path_of, show_default="DIR/bench, if there"),
    ] = None


def command_from(settings: type[Any], run: Callable[[Any], None]) -> Callable[..., None]:
    """A function for typer with one parameter per field of ``settings``; it calls ``run`` with the filled dataclass."""
    hints = get_type_hints(settings, include_extras=True)
    fields = [field for field in dataclasses.fields(settings) if field.name not in getattr(settings, "LEFT_OUT", ())]

    def command(**values: Any) -> None:
        run(settings(**values))

    parameters = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=hints[field.name]
        )
        for field in fields
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {field.name: hints[field.name] for field in fields}
    command.__doc__ = run.__doc__
    return command


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return inspect.Parameter.empty if field.default_factory is dataclasses.MISSING else field.default_factory()
