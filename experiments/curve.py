"""Experiment 2: the indicator over the steps, at 30 and at 50 steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from tqdm import tqdm

from experiments.common import captions, exact_trace, indicator, load, picture, publish, request

VIDEOS = 24


def main() -> None:
    """Runs and writes it."""
    pipe = load()
    found: dict[int, np.ndarray] = {}
    for steps in (30, 50):
        curves = [
            indicator(exact_trace(pipe, request(caption.text, steps, seed))[1])
            for seed, caption in enumerate(tqdm(captions(VIDEOS), f"{steps} steps"))
        ]
        found[steps] = np.array(curves)
    rows: list[list[Any]] = [
        ["steps", "second step", "lowest (at step)", "last step", "spread over videos, middle third"]
    ]
    figures: dict[str, Any] = {"videos": VIDEOS}
    for steps, runs in found.items():
        middle = np.nanmedian(runs, axis=0)
        low = int(np.nanargmin(middle))
        third = runs[:, steps // 3 : 2 * steps // 3]
        spread = float(np.mean(np.nanquantile(third, 0.9, axis=0) / np.nanquantile(third, 0.1, axis=0)))
        rows.append([steps, float(middle[1]), f"{middle[low]:.3f} ({low})", float(middle[-1]), f"x {spread:.2f}"])
        quantiles = np.nanquantile(runs[:, 1:], (0.1, 0.5, 0.9), axis=0)
        figures[str(steps)] = {
            "median": quantiles[1].tolist(),
            "low": quantiles[0].tolist(),
            "high": quantiles[2].tolist(),
        }
    publish("curve", figures, pipe, rows)
    with picture("curve") as axes:
        for steps, runs in found.items():
            low, middle, high = np.nanquantile(runs[:, 1:], (0.1, 0.5, 0.9), axis=0)
            at = np.arange(1, steps) / (steps - 1)
            (line,) = axes.plot(at, middle, label=f"{steps} steps")
            axes.fill_between(at, low, high, alpha=0.2, color=line.get_color(), lw=0)
        axes.set_xlabel("place in the run")
        axes.set_ylabel("indicator (median, 10 to 90 %)")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)


if __name__ == "__main__":
    main()
