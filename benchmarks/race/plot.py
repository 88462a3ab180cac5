"""The fronts of races: mean PSNR over speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.race.choice import decibels
from benchmarks.race.figures import Standing
from bwcache.study import front

Style = Callable[[Standing], Mapping[str, Any]]
"""How the line of a family looks, as matplotlib has it; a `label` stands in the place of its name."""

THIN: Mapping[str, Any] = {"lw": 1, "marker": "."}
GREY: Mapping[str, Any] = {"color": "#888888", "ls": "--"}


def draw(panels: Mapping[str, Sequence[Standing]], styles: Callable[[], Style], target: Path) -> None:
    """Write a picture with one panel for each race, by its title.

    Args:
        panels: who stands how in it.
        styles: makes the style of one panel.
        target: a PNG.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(8.5 * len(panels), 4.6), layout="constrained", squeeze=False)
    for panel, (title, field) in zip(axes[0], panels.items(), strict=True):
        style = styles()
        for one in field:
            points = [(row.compute_speedup, decibels(row)) for row in front(one.rows, axis="compute")]
            note = "" if one.stage == "final" else f" ({one.videos} videos)"
            usual = {**THIN, "ls": "-" if one.stage == "final" else ":", "label": f"{one.family}{note}"}
            panel.plot(*np.array(points).T, **{**usual, **style(one)})
        panel.set(xlabel="blocks' work, uncached over done", ylabel="mean PSNR, dB", ylim=(22, 50), xlim=(1, None))
        panel.set_title(title, fontsize=10)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=7, ncols=2, loc="upper right")
    figure.savefig(target, dpi=130)
    plt.close(figure)
