"""Experiment 5: how much of the end is computed (0, 1/4, 1/3, 1/2, 2/3 of the steps before the first reuse)."""

from __future__ import annotations

from experiments.common import load, picture, policies, publish, result_rows, study

GUARDS = {"0": 0.0, "1/4": 0.25, "1/3": 1 / 3, "1/2": 0.5, "2/3": 2 / 3}
THRESHOLDS = (0.10, 0.15, 0.20)
VIDEOS = 12


def main() -> None:
    """Runs and writes it."""
    pipe = load()
    grid = [{"tail_guard": guard, "threshold": t} for t in THRESHOLDS for guard in GUARDS.values()]
    _, rows = study("tail_guard", policies(grid, ("threshold", "tail_guard")), VIDEOS, pipe=pipe)
    names = {value: name for name, value in GUARDS.items()}
    figures = {"videos": VIDEOS, "rows": [row.to_json() for row in rows]}
    publish(
        "tail_guard",
        figures,
        pipe,
        result_rows(
            rows, lambda row: f"threshold {row.settings['threshold']:g}, guard {names[row.settings['tail_guard']]}"
        ),
    )
    with picture("tail_guard") as axes:
        for threshold in THRESHOLDS:
            some = [row for row in rows if row.settings["threshold"] == threshold]
            points = [row.compute_speedup for row in some], [row.mean("psnr") for row in some]
            axes.plot(*points, "o-", label=f"threshold {threshold:g}")
            for row, speed, psnr in zip(some, *points, strict=True):
                axes.annotate(
                    names[row.settings["tail_guard"]],
                    (speed, psnr),
                    fontsize=8,
                    xytext=(4, 4),
                    textcoords="offset points",
                )
        axes.set_xlabel("block work, uncached / done")
        axes.set_ylabel("PSNR, mean of the videos (dB)")
        axes.legend(frameon=False)


if __name__ == "__main__":
    main()
