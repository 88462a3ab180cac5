"""What the page draws itself, one column per step: what was done, the indicator, the changes of every block."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bwcache.core.trace import Event, Trace
from bwcache.extras import need
from bwcache.report.plots import curve_name, curves, step_kinds

MOST_TICKS = 10


@dataclass(frozen=True)
class Mark:
    """One step of one branch.

    Attributes:
        kind: "computed", "reused", "guarded" (computed because of the tail guard), or "absent".
        why: in words; empty where the branch did not run.
    """

    kind: str
    why: str


@dataclass(frozen=True)
class Curve:
    """Indicator or prediction error, ready to be drawn in a box as wide as the steps and 100 high.

    Attributes:
        name: which of the two.
        lines: one per branch: name, and three SVG paths: solid, dotted (across reused steps) and points.
        shaded: first step, width and kind of what lies behind.
        threshold: height of the line, or None.
        ticks: height and label.
    """

    name: str
    lines: tuple[tuple[str, str, str, str], ...]
    shaded: tuple[tuple[int, int, str], ...]
    threshold: float | None
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Heatmap:
    """Changes by block and step.

    Attributes:
        rows: for each block the change at each step, relative L1; None where nothing was measured.
        picture: PNG of one pixel per change, dark small and bright large (logarithmic), clear where nothing is.
        low: the smallest change.
        high: the largest one.
    """

    rows: tuple[tuple[float | None, ...], ...]
    picture: bytes
    low: float
    high: float

    @property
    def values(self) -> str:
        """The rows as JSON, three digits each, for the page's script."""
        rounded = [[None if value is None else float(f"{value:.3g}") for value in row] for row in self.rows]
        return json.dumps(rounded, separators=(",", ":"))


def columns(trace: Trace) -> int:
    """How many steps wide the timeline is."""
    return max((event.step for event in trace.events), default=-1) + 1


def step_ticks(count: int) -> list[int]:
    """Steps that are named below the timeline."""
    every = next(width for width in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**9) if count <= width * MOST_TICKS)
    return list(range(0, count, every))


def branches(trace: Trace) -> list[tuple[str, list[Mark]]]:
    """The timeline: for each branch (and sample, and expert) a cell per step."""
    seen: dict[str, dict[int, list[Event]]] = {}
    for event in trace.events:
        seen.setdefault(_lane(event), {}).setdefault(event.step, []).append(event)
    return [(lane, [_mark(step, steps.get(step)) for step in range(columns(trace))]) for lane, steps in seen.items()]


def curve(trace: Trace, threshold: float | None) -> Curve | None:
    """Indicator or prediction error over the steps; None where neither was measured."""
    lines = curves(trace)
    if not lines:
        return None
    top = _above(max([value for line in lines.values() for _, value in line] + [threshold or 0.0]))

    def path(points: Sequence[tuple[int, float]]) -> str:
        return "M" + "L".join(f"{step + 0.5:g} {100 - 100 * value / top:.2f}" for step, value in points)

    drawn = []
    for branch, line in lines.items():
        pairs = list(pairwise(line))
        solid = "".join(path(pair) for pair in pairs if pair[1][0] == pair[0][0] + 1)
        dotted = "".join(path(pair) for pair in pairs if pair[1][0] != pair[0][0] + 1)
        drawn.append((branch, solid, dotted, "".join(f"{path([point])}h0" for point in line)))
    shaded = tuple((step, 1, kind) for step, kind in step_kinds(trace).items() if kind != "computed")
    ticks = tuple((100.0 * i / 4, f"{top * i / 4:.3g}") for i in range(5))
    return Curve(curve_name(trace), tuple(drawn), shaded, 100 * threshold / top if threshold else None, ticks)


def heatmap(trace: Trace) -> Heatmap | None:
    """Changes of the blocks of the first denoiser, branches averaged; None where the blocks were not measured."""
    found: dict[int, list[tuple[float, ...]]] = {}
    for event in trace.events:
        if event.distances and event.site.split("/")[0] == trace.events[0].site.split("/")[0]:
            found.setdefault(event.step, []).append(event.distances)
    widths = {len(one) for some in found.values() for one in some}
    if len(widths) != 1:
        return None
    means = {step: [sum(column) / len(some) for column in zip(*some, strict=True)] for step, some in found.items()}
    rows = tuple(
        tuple(_change(means.get(step), block) for step in range(columns(trace))) for block in range(widths.pop())
    )
    known = [value for row in rows for value in row if value is not None]
    return Heatmap(rows, _picture(rows, min(known), max(known)), min(known), max(known)) if known else None


def _mark(step: int, events: Sequence[Event] | None) -> Mark:
    if events is None:
        return Mark("absent", "")
    kinds = {_kind(event) for event in events}
    kind = kinds.pop() if len(kinds) == 1 else "computed"
    reasons = dict.fromkeys(f"{'reused' if one.action == 'reuse' else 'computed'}, {one.reason}" for one in events)
    return Mark(kind, f"step {step}: {'; '.join(reasons)}")


def _kind(event: Event) -> str:
    if event.action == "reuse":
        return "reused"
    return "guarded" if event.reason.startswith("tail guard") else "computed"


def _lane(event: Event) -> str:
    denoiser = event.site.split("/")[0]
    name = event.branch if event.sample is None else f"{event.branch}, sample {event.sample}"
    return name if denoiser in ("transformer", "model", "unet") else f"{name} ({denoiser})"


def _above(value: float) -> float:
    """A round number that is a little higher."""
    if not 1e-300 < value < 1e300:  # nothing that a curve could show
        return 1.0
    unit: float = 10.0 ** math.floor(math.log10(value))
    return next(unit * step for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 5, 6, 8, 10, 12) if unit * step >= value)


def _change(row: Sequence[float] | None, block: int) -> float | None:
    return row[block] if row is not None and row[block] > 0 and math.isfinite(row[block]) else None


def _picture(rows: Sequence[Sequence[float | None]], low: float, high: float) -> bytes:
    need("plots")
    import matplotlib
    import numpy as np
    from PIL import Image

    values = np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=float)
    width = math.log(high) - math.log(low)
    places = (np.log(values) - math.log(low)) / width if width > 0 else np.where(np.isnan(values), np.nan, 0.5)
    pixels = matplotlib.colormaps["viridis"](np.nan_to_num(places), bytes=True)
    pixels[np.isnan(places), 3] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()
