"""The figures of a comparison, for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bwcache.core import Trace
from bwcache.core.amounts import size
from bwcache.extras import need
from bwcache.measure.results import Comparison, Run, Total, ratio
from bwcache.report.verdict import Verdict, own_noise_shows

PROMPTS_PER_TABLE = 4

Row = tuple[str, Callable[[Run], str], Callable[[Total], str]]


def headline(comparison: Comparison) -> str:
    """The result in one sentence."""
    return Verdict.of(comparison.to_json()).headline


def comparison_table(comparison: Comparison, first: int = 0) -> Any:
    """A rich table: one column per prompt (four at most, from ``first`` on) and one for all of them."""
    need("cli")
    from rich.table import Table
    from rich.text import Text

    runs = comparison.runs[first : first + PROMPTS_PER_TABLE]
    table = Table(show_edge=True, pad_edge=True, header_style="bold", title_justify="left")
    table.add_column("", no_wrap=True)
    for index in range(first, first + len(runs)):
        table.add_column(f"prompt {index + 1}", justify="right", no_wrap=True)
    table.add_column("all", justify="right", style="bold", no_wrap=True)
    total = comparison.total
    for group in groups(comparison.runs):
        for name, of_run, of_total in group:
            cells = [*(of_run(run) for run in runs), of_total(total)]
            table.add_row(name, *(Text(cell) for cell in cells))
        table.add_section()
    return table


def groups(runs: Sequence[Run]) -> tuple[tuple[Row, ...], ...]:
    """The rows of the table: name, cell of a run, cell of all runs."""

    def over_runs(field: str) -> Callable[[Total], str]:
        values = [getattr(run, field) for run in runs if getattr(run, field) is not None]
        if not values:
            return lambda total: "-"
        low, high = min(values), max(values)
        return lambda total: str(low) if low == high else f"{low}-{high}"

    return (
        (
            ("steps", lambda run: str(run.steps), over_runs("steps")),
            ("computed", lambda run: str(run.computed), over_runs("computed")),
            ("reused", lambda run: str(run.reused), over_runs("reused")),
            ("first trigger k", lambda run: _or_dash(run.first_trigger), over_runs("first_trigger")),
            ("reuse rate", lambda run: percent(run.reuse_rate), lambda total: percent(total.reuse_rate)),
        ),
        (
            ("denoising, uncached", _seconds("uncached_denoise_seconds"), _seconds("uncached_denoise_seconds")),
            ("denoising, cached", _seconds("cached_denoise_seconds"), _seconds("cached_denoise_seconds")),
            ("denoising speedup", _of_reuse("denoise_speedup", times), _of_reuse("denoise_speedup", times)),
            (
                "  possible at this reuse rate",
                lambda run: times(run.ideal_denoise_speedup),
                lambda total: times(total.ideal_denoise_speedup),
            ),
            (
                "  realised of that",
                lambda run: _if_reused(run, percent(ratio(run.denoise_speedup, run.ideal_denoise_speedup))),
                _of_reuse("realised_share_of_ideal", percent),
            ),
            ("in all, uncached", _seconds("uncached_seconds"), _seconds("uncached_seconds")),
            ("in all, cached", _seconds("cached_seconds"), _seconds("cached_seconds")),
            ("speedup in all", _of_reuse("speedup", times), _of_reuse("speedup", times)),
        ),
        (
            ("PSNR", lambda run: psnr_words(run.to_json()), lambda total: decibels(total.psnr)),
            ("  worst", lambda run: "", lambda total: decibels(total.worst_psnr)),
            ("SSIM", lambda run: f"{run.ssim:.4f}", lambda total: f"{total.ssim:.4f}"),
            ("  worst", lambda run: "", lambda total: f"{total.worst_ssim:.4f}"),
            *_where_measured(runs),
        ),
        (
            (
                "time on the indicator",
                lambda run: percent(run.indicator_share, 2),
                lambda total: percent(total.indicator_share, 2),
            ),
            (
                "extra memory",
                lambda run: size(run.extra_memory_bytes),
                lambda total: size(total.extra_memory_bytes),
            ),
            *_planned(runs),
            (f"  {_kept_in(runs)} per branch", _hidden_states, lambda total: _hidden_states(max(runs, key=_held))),
        ),
    )


def _where_measured(runs: Sequence[Run]) -> tuple[Row, ...]:
    """MS-SSIM, LPIPS, VMAF, XPSNR and motion, if any run has them; a mean is there only where all runs have."""
    backbone = next((run.lpips_backbone for run in runs if run.lpips_backbone), None)
    names = {"ms_ssim": "MS-SSIM", "lpips": f"LPIPS ({backbone})", "vmaf": "VMAF", "xpsnr": "XPSNR"}
    names["motion_kept"] = "motion kept"
    measured = {field: name for field, name in names.items() if any(getattr(run, field) is not None for run in runs)}
    return tuple(
        row
        for field, name in measured.items()
        for row in (
            (name, _told(field, field), _told(field, field)),
            ("  worst", lambda run: "", _told(field, f"worst_{field}")),
        )
    )


def _planned(runs: Sequence[Run]) -> list[Row]:
    """What the plan said in advance, and what waited in main memory: rows only where there is something to say."""

    def row(name: str, of_trace: Callable[[Trace], int]) -> Row:
        return name, lambda run: size(of_trace(run.trace)), lambda total: size(max(of_trace(run.trace) for run in runs))

    wanted: dict[str, Callable[[Trace], int]] = {
        "  planned in advance": lambda trace: trace.planned_bytes,
        "  beside it, in main memory": lambda trace: trace.host_bytes,
    }
    return [row(name, of) for name, of in wanted.items() if any(of(run.trace) for run in runs)]


def percent(share: float | None, digits: int = 1) -> str:
    """0.412 as ``41.2 %``."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def times(factor: float | None) -> str:
    """1.534 as ``1.53x``."""
    return "-" if factor is None else f"{factor:.2f}x"


def decibels(value: float | None) -> str:
    """30.21 as ``30.2 dB``; None, for videos without any difference, as ``identical``."""
    return "identical" if value is None else f"{value:.1f} dB"


def psnr_words(run: dict[str, Any]) -> str:
    """PSNR of a run of `summary.json`, or what stands in its place: "identical", or "own noise" of the pipeline."""
    return "own noise" if own_noise_shows(run["reuse_rate"], run["identical"]) else decibels(run["psnr"])


def _of_reuse(field: str, words: Callable[[Any], str]) -> Callable[[Any], str]:
    """A figure that says something only where something was reused."""
    return lambda row: _if_reused(row, words(getattr(row, field)))


def _if_reused(row: Run | Total, text: str) -> str:
    return text if row.reuse_rate > 0 else "-"


def _held(run: Run) -> int:
    return run.extra_memory_bytes


def _kept_in(runs: Sequence[Run]) -> str:
    """The unit in which all runs of a comparison keep: they are of one policy."""
    return next((run.trace.kept_in for run in runs), "hidden states")


def _hidden_states(run: Run) -> str:
    count = run.hidden_states_per_branch
    return "-" if count is None else f"{count:.2f}"


def _seconds(field: str) -> Callable[[Any], str]:
    def cell(row: Run | Total) -> str:
        value = getattr(row, field)
        return "-" if value is None else f"{value:.2f} s"

    return cell


def measured_words(measure: str, value: float | None, digits: int = 4) -> str:
    """A value of a measure; VMAF and XPSNR, which run to 100 and more, with one digit, motion in percent."""
    if value is None:
        return "-"
    ways = {"vmaf": f"{value:.1f}", "xpsnr": f"{value:.1f} dB", "motion_kept": percent(value)}
    return ways.get(measure, f"{value:.{digits}f}")


def _told(measure: str, field: str) -> Callable[[Any], str]:
    def cell(row: Run | Total) -> str:
        return measured_words(measure, getattr(row, field))

    return cell


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)
