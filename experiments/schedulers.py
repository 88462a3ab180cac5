"""Experiment 8: does the indicator's curve keep its shape under other schedulers and shifts? Against what is it one?

Every curve is of the change per forward that computes. It is plotted against the place in the run, sigma, and
log((1 - sigma) / sigma); as it is, and divided by how far each of these moved. Curves fall onto one if they differ
little at equal places: their spread over their mean, averaged over the range that all of them share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments.common import captions, exact_trace, indicator, load, picture, publish, request

STEPS, VIDEOS = 30, 6
SHIFTS = (1.0, 3.0, 5.0)
GRID = 40


def solvers() -> dict[str, Callable[[float], Any]]:
    """Schedulers for flow matching, by name; each takes the shift."""
    import diffusers

    def flow(kind: Any) -> Callable[[float], Any]:
        return lambda shift: kind(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)

    return {
        "Euler": lambda shift: diffusers.FlowMatchEulerDiscreteScheduler(shift=shift),
        "Heun": lambda shift: diffusers.FlowMatchHeunDiscreteScheduler(shift=shift),
        "UniPC": flow(diffusers.UniPCMultistepScheduler),
        "DPM++ 2M": flow(diffusers.DPMSolverMultistepScheduler),
    }


PLACES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "place in the run": lambda sigma: np.arange(len(sigma)) / (len(sigma) - 1),
    "sigma": lambda sigma: 1 - sigma,
    "log-SNR": lambda sigma: np.log((1 - sigma).clip(1e-4) / sigma.clip(1e-4)),
}
"""Each rises along the run."""


def main() -> None:
    """Runs and writes it."""
    pipe = load()
    own = pipe.scheduler
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, make in solvers().items():
        for shift in SHIFTS:
            label = f"{name}, shift {shift:g}"
            steps = STEPS if name != "Heun" else STEPS // 2 + 1
            pipe.scheduler = make(shift)
            curves[label] = curve(pipe, steps, label)
    pipe.scheduler = own
    rows: list[list[Any]] = [["curve", "shape", "early", "lowest (at)", "late"]]
    for label, (_, values) in curves.items():
        low = int(np.nanargmin(values))
        ends = float(values[: max(3, len(values) // 8)].max()), float(values[-max(2, len(values) // 10) :].max())
        rows.append([label, shape(values), ends[0], f"{values[low]:.3f} ({low / (len(values) - 1):.0%})", ends[1]])
    spreads = collapse(curves)
    publish("schedulers", {"curves": {k: [a.tolist() for a in v] for k, v in curves.items()}}, pipe, rows)
    body: list[list[Any]] = [["ordinate", *PLACES]]
    body += [[ordinate, *(spreads[ordinate, place] for place in PLACES)] for ordinate in ("indicator", *over())]
    publish("schedulers_collapse", {"spread": {" | ".join(k): v for k, v in spreads.items()}}, pipe, body)
    draw(curves, spreads)


def over() -> list[str]:
    """What the indicator is divided by."""
    return [f"indicator per {place}" for place in PLACES]


def curve(pipe: Any, steps: int, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Sigma and indicator at each step but the first, medians over the videos; repeated times (Heun) taken together."""
    runs, sigmas = [], []
    for seed, caption in enumerate(tqdm(captions(VIDEOS), label)):
        _, trace = exact_trace(pipe, request(caption.text, steps, seed))
        per_step = {event.step: event.sigma for event in trace.events}
        sigmas = [math.nan if per_step[step] is None else float(per_step[step] or 0.0) for step in sorted(per_step)]
        runs.append(indicator(trace))
    sigma, values = np.array(sigmas), np.nanmedian(runs, axis=0)
    moved = np.concatenate([[False], np.diff(sigma) != 0])
    return sigma[moved], values[moved]


def shape(values: np.ndarray) -> str:
    """U: both ends at least twice the middle third; else what is high."""
    third = len(values) // 3
    middle = float(np.median(values[third : 2 * third]))
    left, right = values[: max(2, third // 3)].max() > 2 * middle, values[-max(2, third // 3) :].max() > 2 * middle
    return {(True, True): "U", (True, False): "falls", (False, True): "rises at the end"}.get((left, right), "flat")


def collapse(curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[tuple[str, str], float]:
    """Spread over mean for each way to plot the curves: 0 if they are one."""
    found = {}
    for place, at in PLACES.items():
        for ordinate in ("indicator", *over()):
            lines = [line(sigma, values, at, ordinate) for sigma, values in curves.values()]
            low, high = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
            grid = np.linspace(low, high, GRID + 2)[1:-1]
            heights = np.array([np.interp(grid, x, y) for x, y in lines])
            found[ordinate, place] = float(np.mean(heights.std(axis=0) / heights.mean(axis=0)))
    return found


def line(sigma: np.ndarray, values: np.ndarray, at: Callable[[np.ndarray], np.ndarray], ordinate: str) -> Any:
    """One curve as (x, y), x in the middle of the step whose change it is."""
    x = at(sigma)
    y = values[1:]
    if ordinate != "indicator":
        y = y / np.diff(PLACES[ordinate.removeprefix("indicator per ")](sigma))
    return (x[1:] + x[:-1]) / 2, y


def draw(curves: dict[str, tuple[np.ndarray, np.ndarray]], spreads: dict[tuple[str, str], float]) -> None:
    """As it comes, and the way in which the curves are nearest to one."""
    best = min(spreads, key=lambda key: spreads[key])
    styles = dict(zip(solvers(), ("-", "--", ":", "-."), strict=True))
    colours = dict(zip(SHIFTS, ("#2a6fbb", "#e08a2e", "#2f8f83"), strict=True))
    with picture("schedulers", 2, (11.5, 4.4)) as (left, right):
        for axes, (ordinate, place) in ((left, ("indicator", "place in the run")), (right, best)):
            for label, (sigma, values) in curves.items():
                name, shift = label.split(", shift ")
                x, y = line(sigma, values, PLACES[place], ordinate)
                axes.semilogy(x, y, styles[name], color=colours[float(shift)], lw=1.4, label=label)
            axes.set_xlabel(place if place != "sigma" else "1 - sigma")
            axes.set_ylabel(ordinate)
            axes.set_title(f"spread over mean {spreads[ordinate, place]:.2f}", fontsize=10)
        right.legend(frameon=False, fontsize=7, ncols=2)


if __name__ == "__main__":
    main()
