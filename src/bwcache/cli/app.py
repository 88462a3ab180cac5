"""The command ``bwcache`` and how it ends: 0; 2 and one line for bad input; 130 after Ctrl-C."""

from __future__ import annotations

import io
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
import typer.main

from bwcache.cli.on_ray import with_address
from bwcache.cli.output import called
from bwcache.cli.settings import (
    BenchSettings,
    CalibrateSettings,
    CompareSettings,
    GenerateSettings,
    MethodsSettings,
    ModelsSettings,
    PlanSettings,
    ProfileSettings,
    ReportSettings,
    ServeSettings,
    SweepSettings,
    TuneSettings,
    VBenchSettings,
    command_from,
)
from bwcache.errors import BWCacheError, complaint
from bwcache.extras import need
from bwcache.former_names import current_arguments

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130

app = typer.Typer(
    name="bwcache",
    help=(
        "Make video diffusion transformers faster by reusing what hardly changes from step to step.\n\n"
        "Start with [bold]bwcache compare[/bold]: it makes a few videos twice, without and with caching, with a small "
        "model that comes in the box, and shows how much faster, how close, and which steps were reused and why."
    ),
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"bwcache {version('bwcache')}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", callback=_show_version, is_eager=True)
    ] = False,
) -> None: ...


def _compare(settings: CompareSettings) -> None:
    """Make each video twice, without and with caching: how much faster, how close, which steps were reused and why.

    How close: PSNR, SSIM, VMAF, and MS-SSIM, LPIPS and XPSNR where they can be measured.

    Without options: the small model in the box on its own prompts, less than two minutes on a laptop.
    """
    need("diffusers", "metrics", "plots")
    from bwcache.cli.compare import run_compare

    run_compare(settings)


def _generate(settings: GenerateSettings) -> None:
    """Make videos with caching on."""
    need("diffusers", "plots", *(["ray"] if settings.ray is not None else []))
    from bwcache.cli.generate import run_generate

    run_generate(settings)


def _models(settings: ModelsSettings) -> None:
    """Show the models that are known: their blocks, pipelines and guidance, what is published and verified."""
    from bwcache.cli.models import run_models

    run_models(settings)


def _methods(settings: MethodsSettings) -> None:
    """Show the caching methods: papers, what is kept and read, calibration, what they are verified against."""
    from bwcache.cli.methods import run_methods

    run_methods(settings)


def _serve(settings: ServeSettings) -> None:
    """Make videos on request, over HTTP: a queue, progress step by step, cancelling, figures, and a page to watch it.

    Without options: the small model in the box, at http://127.0.0.1:8000.
    """
    need("diffusers", "plots", "serve", *(["ray"] if settings.ray is not None else []))
    from bwcache.cli.serve import run_serve

    run_serve(settings)


def _sweep(settings: SweepSettings) -> None:
    """Try many settings of a policy on the same videos, beside fewer steps: which of them are worth having.

    Without options: the paper's thresholds on the small model in the box. Stop it when you like, and go on later.
    """
    need("diffusers", "metrics", "plots")
    from bwcache.cli.sweep import run_sweep

    run_sweep(settings)


def _profile(settings: ProfileSettings) -> None:
    """Watch the model compute everything: what changes by block and step, the indicator's curve, where the time goes.

    Says whether the curve is a U, and how few blocks and entries are enough to measure it.
    """
    need("diffusers", "plots")
    from bwcache.cli.profile import run_profile

    run_profile(settings)


def _report(settings: ReportSettings) -> None:
    """One HTML page of what compare found, with the videos: it opens from disk and fetches nothing."""
    need("plots")
    from bwcache.cli.report import run_report

    run_report(settings)


def _bench(settings: BenchSettings) -> None:
    """Run caching methods on the same videos: BWCache, the caches of diffusers and of cache-dit, and fewer steps.

    Without options: all methods with all their settings on the small model in the box. Stop it when you like, and go
    on later.
    """
    need("diffusers", "metrics", "plots")
    from bwcache.cli.bench import run_bench

    run_bench(settings)


def _vbench(settings: VBenchSettings) -> None:
    """Score videos by VBench, cached and uncached alike, where it is installed in an environment of its own."""
    from bwcache.cli.vbench import run_vbench

    run_vbench(settings)


def _tune(settings: TuneSettings) -> None:
    """Make the plan that keeps a wish for one model, scheduler and number of steps, and prove it on other prompts.

    Without options: 35 dB on the small model in the box. Stop it when you like, and go on later.
    """
    need("diffusers", "metrics")
    from bwcache.cli.tune import run_tune

    run_tune(settings)


def _calibrate(settings: CalibrateSettings) -> None:
    """Measure the table that a method needs, such as MagCache's ratios, on a few uncached videos.

    The file stands in place of a policy with compare, generate, sweep and serve: --policy calibrated.json.
    """
    need("diffusers")
    from bwcache.cli.calibrate import run_calibrate

    run_calibrate(settings)


def _plan(settings: PlanSettings) -> None:
    """Print the list of steps of a tuned file and its weights, or export them for an engine that takes a list.

    Without a file, but with --steps: the list that is planned from the noise levels alone, for any model.
    """
    need("diffusers")
    from bwcache.cli.plan import run_plan

    run_plan(settings)


app.command("bench")(command_from(BenchSettings, _bench))
app.command("calibrate")(command_from(CalibrateSettings, _calibrate))
app.command("compare")(command_from(CompareSettings, _compare))
app.command("generate")(command_from(GenerateSettings, _generate))
app.command("methods")(command_from(MethodsSettings, _methods))
app.command("models")(command_from(ModelsSettings, _models))
app.command("plan")(command_from(PlanSettings, _plan))
app.command("profile")(command_from(ProfileSettings, _profile))
app.command("report")(command_from(ReportSettings, _report))
app.command("serve")(command_from(ServeSettings, _serve))
app.command("sweep")(command_from(SweepSettings, _sweep))
app.command("tune")(command_from(TuneSettings, _tune))
app.command("vbench")(command_from(VBenchSettings, _vbench))


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command; ``arguments`` are those of the process when not given."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a letter must not end what runs
            stream.reconfigure(errors="backslashreplace")
    arguments = with_address(current_arguments(sys.argv[1:] if arguments is None else arguments))
    try:
        called(arguments)
        code = typer.main.get_command(app).main(arguments, prog_name="bwcache", standalone_mode=False)
    except BWCacheError as error:
        _end(BAD_INPUT, str(error))
    except (KeyboardInterrupt, typer.Abort):
        _end(INTERRUPTED, "interrupted; no unfinished file is left")
    except OSError as error:
        _end(FAILED, f"found {error}; expected to read and write files; free some space or name another --out")
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        _end(BAD_INPUT, usage_complaint(error))
    if code == INTERRUPTED:
        _end(INTERRUPTED, "interrupted; no unfinished file is left")
    sys.exit(code if isinstance(code, int) else 0)


def usage_complaint(error: Any) -> str:
    """One line for options that cannot be understood."""
    names = getattr(getattr(error, "param", None), "opts", None)
    where = getattr(getattr(error, "ctx", None), "command_path", None) or "bwcache"
    text = (error.message if names else "") or error.format_message()
    if names and text.startswith("found "):
        return f"found {names[0]} {text.removeprefix('found ')}"
    found = f"a call that cannot be understood ({text.rstrip('.')})"
    return complaint(found, f"options of '{where}'", f"see '{where} --help'")


def _terminate(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _end(code: int, text: str) -> NoReturn:
    """Leave with one line on stderr."""
    print("bwcache: " + " ".join(text.split()), file=sys.stderr)
    warnings.simplefilter("ignore")
    sys.exit(code)
