"""Writes docs/figures.md and its plots from benchmarks/results: `python -m benchmarks.page`.

So the page says what was measured, and nothing else. Run it after `benchmarks.engine`, `benchmarks.quality`,
`benchmarks.samples` and `benchmarks.sufficient`; `benchmarks.frames`, `benchmarks.sites` and `benchmarks.starting` add
to it, with `--out benchmarks/results/frames.json` and so on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent
RESULTS = HERE / "results"
DOCS = HERE.parent / "docs"
REBUILT = "2026-11-28"
"""When the engine was: what was measured on code before it is said to be."""


def result(name: str) -> dict[str, Any]:
    """What a script wrote."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def optional(name: str) -> dict[str, Any]:
    """What a script wrote, or nothing where it was not run for the page."""
    return result(name) if (RESULTS / f"{name}.json").exists() else {}


def on_gpus() -> list[dict[str, Any]]:
    """What `benchmarks.gpu` wrote on each GPU."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    ran = [figures for figures in found if isinstance(figures, dict) and figures.get("benchmark") == "gpu"]
    return [figures for figures in ran if not figures["small"]]


def shape_of(curve: list[float]) -> str:
    """The curve in words: its middle half against its first and last steps, a third apart at least to count."""
    quarter = max(1, len(curve) // 4)
    middle = sum(curve[quarter:-quarter]) / len(curve[quarter:-quarter])
    left, right = max(curve[:2]) > 1.33 * middle, max(curve[-2:]) > 1.33 * middle
    return {
        (True, True): "a U",
        (False, True): "an inverted L: low from the start, high at the end",
        (True, False): "an L: high at the start only",
        (False, False): "flat",
    }[left, right]


def plot_curves(curves: list[dict[str, Any]], target: Path) -> None:
    """The indicator over the run, one line per number of steps, the range over the prompts shaded."""
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for curve in curves:
        place = [(step + 1) / (curve["steps"] - 1) for step in range(len(curve["mean"]))]
        (line,) = axes.plot(place, curve["mean"], marker=".", label=f"{curve['steps']} steps")
        axes.fill_between(place, curve["min"], curve["max"], alpha=0.15, color=line.get_color(), linewidth=0)
    axes.set(
        xlabel="share of the denoising steps", ylabel="indicator (mean relative L1)", ylim=(0, None), xlim=(0, 1.01)
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(target, dpi=150)
    plt.close(figure)


def plot_front(quality: dict[str, Any], target: Path) -> None:
    """Speed by computed steps against PSNR: replay, prediction, fewer steps."""
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    rows = quality["thresholds"]["found"]
    series = {
        "BWCache, replay (the paper)": [row for name, row in rows.items() if "," not in name],
        "BWCache, linear in sigma": [row for name, row in rows.items() if name.endswith(", linear")],
        "fewer steps": list(quality["fewer_steps"]["found"].values()),
    }
    for label, points in series.items():
        points = sorted(points, key=lambda row: row["computed_steps"])
        axes.plot([p["computed_steps"] for p in points], [p["psnr"] for p in points], marker="o", label=label)
    axes.set(xlabel=f"computed steps of {quality['thresholds']['steps']}", ylabel="PSNR against uncached, dB")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(target, dpi=150)
    plt.close(figure)


def main() -> None:
    """Writes the page."""
    engine, quality, samples = result("engine"), result("quality"), result("samples")
    images = DOCS / "images"
    images.mkdir(parents=True, exist_ok=True)
    plot_curves(quality["curves"]["found"], images / "curves.png")
    plot_front(quality, images / "front.png")
    jinja = Environment(loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters["shape"] = shape_of
    page = jinja.get_template("page.md.jinja").render(
        engine=engine,
        quality=quality,
        samples=samples,
        sufficient=result("sufficient"),
        gpus=on_gpus(),
        growing=result("growing"),
        rebuilt=REBUILT,
        **{name: optional(name) for name in ("frames", "sites", "starting")},
    )
    (DOCS / "figures.md").write_text(page.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
