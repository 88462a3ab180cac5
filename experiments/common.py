"""What the experiments share: the model, its captions, studies, pictures, tables."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import bwcache
from bwcache import shapes
from bwcache.core.files import write_text
from bwcache.measure.call import Request, call
from bwcache.measure.environment import environment
from bwcache.study import Cell, Folder, Method, Result, Study, UnderPolicy, Video, results, run_study
from bwcache.study.study import identity
from training.data import Caption, split

ROOT = Path(__file__).resolve().parent
RESULTS, RUNS = ROOT / "results", ROOT / "runs"
IMAGES = ROOT.parent / "docs" / "experiments" / "images"
COLOURS = ("#2a6fbb", "#e08a2e", "#2f8f83", "#c0392b", "#6a51a3", "#7f7f7f", "#b8860b", "#17a2b8")


def captions(count: int) -> list[Caption]:
    """Captions that the shapes model was not trained on, always the same ones."""
    return list(split()[1][:count])


def load() -> Any:
    """The shapes model, silent."""
    pipe: Any = shapes.load()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def request(prompt: str = "", steps: int = shapes.STEPS, seed: int = 0) -> Request:
    """A video of the shapes model at its own size and guidance."""
    return Request(prompt, steps, seed, shapes.GUIDANCE_SCALE, shapes.HEIGHT, shapes.WIDTH, shapes.FRAMES)


def videos(count: int, first: int = 0) -> tuple[Video, ...]:
    """So many held-out captions from the `first` on, each with a seed of its own."""
    return tuple(Video(caption.text, seed) for seed, caption in enumerate(captions(first + count)))[first:]


def study(
    name: str,
    methods: Sequence[Method],
    count: int,
    steps: int = shapes.STEPS,
    pipe: Any = None,
    frames: int = shapes.FRAMES,
    first: int = 0,
) -> tuple[list[Cell], list[Result]]:
    """Runs methods on so many videos, from the `first` on; what is there from an earlier call is not run again."""
    pipe = pipe or load()
    asked = dataclasses.replace(request(steps=steps), frames=frames)
    folder = Folder(RUNS / name, identity(pipe, asked, "shapes"))
    field = Study(tuple(methods), videos(count, first), asked)
    with tqdm(total=len(field), desc=name) as bar:
        cells = run_study(pipe, field, folder, on_cell=lambda cell: bar.update())
    return cells, results(cells)


def kept(name: str, pipe: Any, key: Sequence[Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what was made under a key in an earlier call, or make it now; of the same model and machine."""
    folder = Folder(RUNS / name, identity(pipe, request(), name))
    found = folder.figures("figures", *key)
    if found is None:
        folder.keep_figures("figures", make(), *key)
        found = folder.figures("figures", *key)
    assert found is not None
    return found


def policies(grid: Iterable[dict[str, Any]], shown: tuple[str, ...]) -> list[UnderPolicy]:
    """BWCache under each of these settings."""
    return [UnderPolicy(bwcache.BWCache(**settings), shown) for settings in grid]


class Record:
    """What left each block in each step of one call, as float32: `outputs[branch][step]` is `[N, B, T, C]`."""

    def __init__(self) -> None:
        self.outputs: dict[int, list[torch.Tensor]] = {}
        self.sigmas: list[float] = []

    def last(self, branch: int) -> list[torch.Tensor]:
        """What left the last block, per step."""
        return [outputs[-1] for outputs in self.outputs[branch]]


@contextmanager
def recording(pipe: Any, branches: int = 2) -> Iterator[Record]:
    """Keeps what leaves the blocks of the shapes model, forward after forward, guidance branches in turns."""
    record, now, count = Record(), [], [0]

    def left(module: Any, inputs: Any, output: torch.Tensor) -> None:
        now.append(output.detach().float().clone())

    def over(*_: Any) -> None:
        record.outputs.setdefault(count[0] % branches, []).append(torch.stack(now))
        count[0] += 1
        now.clear()

    hooks = [block.register_forward_hook(left) for block in pipe.transformer.blocks]
    hooks.append(pipe.transformer.register_forward_hook(over))
    try:
        yield record
    finally:
        for hook in hooks:
            hook.remove()
        record.sigmas = [float(s) for s in pipe.scheduler.sigmas.tolist()]


def exact_trace(pipe: Any, asked: Request) -> tuple[Any, bwcache.Trace]:
    """An uncached call with the paper's indicator, all entries of all blocks, and its trace."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=bwcache.NeverReusedWarning)
        with bwcache.attach(pipe, bwcache.NeverReuse(measures=1)) as session:
            made = call(pipe, asked)
    return made, session.trace


def indicator(trace: bwcache.Trace) -> list[float]:
    """The indicator per step, branches pooled as the policy does where they have equal denominators; nan if unknown."""
    values: dict[int, list[float]] = {}
    for event in trace.events:
        values.setdefault(event.step, []).append(math.nan if event.indicator is None else event.indicator)
    return [sum(found) / len(found) for _, found in sorted(values.items())]


def publish(name: str, figures: dict[str, Any], pipe: Any, rows: Sequence[Sequence[Any]] = ()) -> None:
    """Writes the figures with the machine; `rows`, the first of which is the header, also as a table for the page."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"environment": environment(pipe), **figures}, indent=1, allow_nan=False, default=float)
    write_text(RESULTS / f"{name}.json", text + "\n")
    if rows:
        write_text(RESULTS / f"{name}.md", table(rows))
        sys.stdout.write(table(rows))


def table(rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    header, *body = [[shown(value) for value in row] for row in rows]
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def shown(value: Any) -> str:
    """A value as a page shows it."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value)


@contextmanager
def picture(name: str, columns: int = 1, size: tuple[float, float] | None = None) -> Iterator[Any]:
    """Axes to draw on; the figure is written when all went well."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size or (5.2 * columns, 3.8), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(color="#e6e6e6", lw=0.6)
        one.set_axisbelow(True)
        one.set_prop_cycle(color=COLOURS)
    yield axes[0] if columns == 1 else axes
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGES / f"{name}.png")


def beside(axes: Any, text: str, x: float | None, y: float | None) -> None:
    """Writes beside a point."""
    axes.annotate(text, (x, y), fontsize=8, xytext=(4, 4), textcoords="offset points")


def result_rows(rows: Sequence[Result], name: Callable[[Result], str] | None = None) -> list[list[Any]]:
    """The usual table of results."""
    header = ["setting", "steps computed", "block work saved", "denoising", "PSNR", "worst", "SSIM", "worst"]
    body = []
    for row in rows:
        computed = [cell.computed for cell in row.cells if cell.computed is not None]
        body.append(
            [
                name(row) if name else row.label,
                sum(computed) / len(computed) if computed else row.settings.get("steps"),
                None if row.saved is None else f"{row.saved:.0%}",
                None if row.denoise_speedup is None else f"{row.denoise_speedup:.2f}x",
                row.mean("psnr"),
                row.worst("psnr"),
                row.mean("ssim"),
                row.worst("ssim"),
            ]
        )
    return [header, *body]
