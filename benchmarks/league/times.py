"""Speed by time, and how often the device is waited for: `python -m benchmarks.league.times --out RUNS`.

Of every method in a race the setting nearest to 35 dB: for how many seconds a video's denoising keeps this process at
work, beside the uncached video before it. Work of other processes beside it does not count. What is done is kept, and
written method by method.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from benchmarks.common import Kept, commit, laps
from benchmarks.league import __main__ as league
from benchmarks.league import page
from benchmarks.league.contenders import CONTENDERS, GUARDS, MODELS, SETTINGS
from benchmarks.race.command import chosen, merged
from benchmarks.race.figures import Standing
from benchmarks.race.race import MODELS as EVERY
from benchmarks.race.race import REGIMES, Race
from bwcache.core.files import read_json, write_json
from bwcache.measure.call import call
from bwcache.measure.environment import environment
from bwcache.study import Method

RESULTS = page.RESULTS.with_name("league-times.json")

ROUNDS = 2

READS = {"item", "tolist", "cpu", "numpy", "equal", "allclose", "is_nonzero"}
READS |= {"__bool__", "__float__", "__int__", "__index__", "__array__"}
"""What waits for the device, where the numbers are there."""


class Reads(TorchFunctionMode):
    """Counts how often Python asks for a number out of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.count += getattr(func, "__name__", "") in READS
        return func(*args, **(kwargs or {}))


def main(
    model: Annotated[list[str] | None, typer.Option(help="without it, all")] = None,
    regime: Annotated[list[str] | None, typer.Option(help="without it, all of a model")] = None,
    out: Annotated[Path, typer.Option(help="where the league's runs are kept")] = league.RUNS,
    results: Annotated[Path, typer.Option(help="where it is written to")] = RESULTS,
) -> None:
    """Measure speed by time of each method's setting nearest to 35 dB, on one video."""
    torch.set_num_threads(1)
    every = page.fields(page.read())
    for one in chosen("model", model, MODELS):
        for where in chosen("regime", regime, REGIMES):
            if where in every.get(one, {}) and where in EVERY[one].regimes:
                race = Race(one, where, out, CONTENDERS, GUARDS, SETTINGS.lengths)
                for row in timed(race, every[one][where]):
                    rows = {f"{one}/{where}": {row["family"]: row}}
                    found = {"environment": {one: environment(race.pipe)}, "races": rows}
                    there = read_json(results) if results.is_file() else {}
                    write_json(results, {**merged(there, found), "commit": commit(), "rounds": ROUNDS})


def timed(race: Race, field: Iterable[Standing]) -> Iterator[dict[str, Any]]:
    """Give a row for each family of a race whose setting nearest to 35 dB can be made here."""
    wanted = {one.middle.label: one for one in field}
    methods = {method.label: method for name in race.contenders for method in race.methods(name)}
    kept = Kept(race.pipe, f"league-times/{race.model}-{race.regime}")
    plain = cache(partial(counted, race))
    for label, one in tqdm(wanted.items(), f"{race.model}, {race.regime}: times"):
        if label in methods:
            yield kept.part(lambda: row(race, methods[label], plain()), label) | {"family": one.family}  # noqa: B023


def row(race: Race, method: Method, plain: int) -> dict[str, Any]:
    """Return how many times faster one setting is by time than the uncached run, and its reads per step beyond it."""
    reads = counted(race, method) - plain
    pairs = [(seconds(race), seconds(race, method)) for _ in range(ROUNDS)]
    return {
        "label": method.label,
        "speedup": statistics.median(uncached / own for uncached, own in pairs),
        "seconds": [list(pair) for pair in pairs],
        "reads_per_step": reads / race.steps,
    }


def counted(race: Race, method: Method | None = None) -> int:
    """Return how many numbers one call asks of the device."""
    with Reads() as reads:
        _make(race, method)
    return reads.count


def seconds(race: Race, method: Method | None = None) -> float:
    """Return for how many seconds the denoising of one call keeps this process at work."""
    with laps(race.pipe, time.process_time) as found:
        _make(race, method)
    return sum(found)


def _make(race: Race, method: Method | None) -> None:
    asked = race.request(race.lengths.final[0])
    if method is None:
        call(race.pipe, asked)
        return
    with method.at_work(race.pipe):
        call(race.pipe, method.request(asked))


if __name__ == "__main__":
    typer.run(main)
