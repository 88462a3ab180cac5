"""What caching gives on 1 to 64 GPUs, on paper.

    python -m benchmarks.scaling                              the tables of docs/many-gpus.md
    python -m benchmarks.scaling --measured DIR               of what `bwcache compare --out DIR` measured on one GPU
    python -m benchmarks.scaling --computed S --reused S …    of figures of your own

A model, not a measurement. Of a video of S steps, of which a share r is reused, N GPUs take

    S * ((1 - r) * (C / (N * e) + A) + r * R) + D        and without a cache        S * C / (N * e) + D

seconds: C of a step on one GPU, e the efficiency of N, A the agreement of the ranks on a computed step, R of a reused
step, which does not shrink, and D of all that is not denoising.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

GPUS = (1, 2, 4, 8, 16, 32, 64)
EFFICIENCY = dict(zip(GPUS, (1.0, 0.95, 0.90, 0.85, 0.80, 0.75, 0.70), strict=True))
"""Of splitting the tokens of one video: assumed, not measured."""


@dataclass(frozen=True)
class Setting:
    """A model on a machine.

    Attributes:
        name: for people.
        computed, reused: seconds of a step on one GPU.
        rest: seconds of all that is not denoising, on one GPU.
        steps, rate: of a video, and the share of them that is reused, 0..1.
        agreement: seconds that a computed step waits for the ranks to agree.
        splits_rest: whether the rest is split among the GPUs as well.
    """

    name: str
    computed: float
    reused: float
    rest: float
    steps: int = 50
    rate: float = 0.75
    agreement: float = 50e-6
    splits_rest: bool = False

    def speedups(self, gpus: int) -> tuple[float, float]:
        """Return how many times faster than without a cache: the denoising, and all of it."""
        shrinks = gpus * EFFICIENCY[gpus]
        step = self.computed / shrinks
        agreement = self.agreement if gpus > 1 else 0.0
        rest = self.rest / (shrinks if self.splits_rest else 1)
        without = self.steps * step
        cached = self.steps * ((1 - self.rate) * (step + agreement) + self.rate * self.reused)
        return without / cached, (without + rest) / (cached + rest)

    def seconds(self, gpus: int) -> tuple[float, float]:
        """Return how long a video takes without a cache and with it."""
        shrinks = gpus * EFFICIENCY[gpus]
        without = self.steps * self.computed / shrinks + (self.rest / shrinks if self.splits_rest else self.rest)
        return without, without / self.speedups(gpus)[1]


WAN = Setting("Wan 2.1 1.3B, compiled, two forwards a step", 2 * 0.732, 2 * 0.0023, 6.0)
HUNYUAN = Setting("HunyuanVideo, compiled, one forward a step", 60 / 9 * 1.635, 0.0049, 12.0)
"""Of steps measured on one NVIDIA H100 (docs/figures.md; of HunyuanVideo 9 of 60 blocks); the rest is assumed."""


@dataclass(frozen=True)
class Published:
    """A series that somebody published, and the seconds that follow from it.

    Attributes:
        gpus: how many.
        end_to_end, denoising: times faster than without a cache, as published.
        computed, reused, rest: seconds that follow from their figures.
    """

    gpus: int
    end_to_end: float
    denoising: float
    computed: float
    reused: float
    rest: float


SERIES = (Published(1, 2.84, 2.96, 6.64, 0.303, 7.1), Published(8, 1.93, 2.15, 1.33, 0.304, 7.2))
"""cache-dit on MiniMax-H3, 34 of 49 steps hit at every degree: https://github.com/sgl-project/sglang/issues/33827"""

SERIES_STEPS, SERIES_HITS = 49, 34


def of_series(one: Published, reused: float | None = None) -> tuple[float, float]:
    """Return what the model says of a published row, perhaps with another reused step: denoising, and end to end."""
    without = SERIES_STEPS * one.computed
    cached = (SERIES_STEPS - SERIES_HITS) * one.computed + SERIES_HITS * (one.reused if reused is None else reused)
    return without / cached, (without + one.rest) / (cached + one.rest)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table(setting: Setting) -> str:
    """Return the speedups of a setting as a table."""
    slow = replace(setting, reused=setting.computed * 0.3 / 6.64)
    split = replace(setting, splits_rest=True)
    rows = {
        "computed step, s": [f"{setting.computed / (n * EFFICIENCY[n]):.3g}" for n in GPUS],
        "denoising": [f"{setting.speedups(n)[0]:.2f}x" for n in GPUS],
        "end to end": [f"{setting.speedups(n)[1]:.2f}x" for n in GPUS],
        "end to end, all of it split": [f"{split.speedups(n)[1]:.2f}x" for n in GPUS],
        "denoising, if a reused step took 4.6 % of a step on one GPU": [f"{slow.speedups(n)[0]:.2f}x" for n in GPUS],
        "seconds without a cache, and with it": ["{:.3g}, {:.3g}".format(*setting.seconds(n)) for n in GPUS],
    }
    return _table([setting.name, *map(str, GPUS)], ([name, *found] for name, found in rows.items()))


def series() -> str:
    """Return the published series beside the model."""
    rows = []
    for one in SERIES:
        denoising, whole = of_series(one)
        faster = of_series(one, reused=0.005)
        rows.append(
            [
                str(one.gpus),
                f"{one.denoising:.2f}x, {one.end_to_end:.2f}x",
                f"{denoising:.2f}x, {whole:.2f}x",
                f"{one.computed}, {one.reused}, {one.rest}",
                f"{faster[0]:.2f}x, {faster[1]:.2f}x",
            ]
        )
    head = ("GPUs", "published: denoising, end to end", "model", "computed, reused, rest, s", "if reused took 5 ms")
    return _table(head, rows)


def measured(folder: Path) -> Setting:
    """Return the setting that a comparison measured: its steps, its reuse, its text encoder and decoder.

    Args:
        folder: that `bwcache compare` left.

    Raises:
        SystemExit: it holds no comparison, or one in which nothing was reused, or without the parts of its calls.
    """
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        runs = summary["runs"]
        parts = [(run["uncached_parts"], run["cached_parts"]) for run in runs]
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"found no comparison in {str(folder)!r}; expected a folder of bwcache compare") from error
    if any(None in both for both in parts) or not sum(run["reuse_rate"] for run in runs):
        raise SystemExit(f"found no reused step or no times in {str(folder)!r}; expected a comparison with both")
    steps = sum(run["steps"] for run in runs)
    rate = sum(run["steps"] * run["reuse_rate"] for run in runs) / steps
    computed, cached = (sum(map(_denoising, (both[side] for both in parts))) / steps for side in (0, 1))
    rest = sum(one["before"] + one["after"] for both in parts for one in both) / (2 * len(runs))
    reused = max((cached - (1 - rate) * computed) / rate, 0.0)
    return Setting(f"{summary['model'].get('name')}, as measured", computed, reused, rest, steps // len(runs), rate)


def _denoising(parts: dict[str, float]) -> float:
    """Seconds of a call that are neither text encoding nor decoding."""
    return sum(seconds for name, seconds in parts.items() if name not in ("before", "after"))


def page() -> str:
    """Return all that the page on many GPUs has of it."""
    return "\n\n".join((table(WAN), table(HUNYUAN), series()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, or one of figures of your own."""
    parser = argparse.ArgumentParser(description="What caching gives on 1 to 64 GPUs, on paper.")
    for name, text in (("computed", "seconds of a computed step on one GPU"), ("reused", "seconds of a reused step")):
        parser.add_argument(f"--{name}", type=float, help=text)
    parser.add_argument("--rest", type=float, default=0.0, help="seconds of text encoder, decoder and the like")
    parser.add_argument("--rate", type=float, default=0.75, help="share of the steps that is reused")
    parser.add_argument("--agreement", type=float, default=50e-6, help="seconds that ranks take to agree on a step")
    parser.add_argument("--steps", type=int, default=50, help="of a video")
    parser.add_argument("--measured", type=Path, metavar="DIR", help="take all of it from what bwcache compare left")
    given = parser.parse_args(arguments)
    if given.measured is not None:
        own = measured(given.measured)
        print(f"{own.rest:.3g} s of text encoding and decoding, {own.rate:.1%} of {own.steps} steps reused, ", end="")
        print(f"a reused step takes {own.reused:.3g} s\n\n{table(own)}")
        return
    if given.computed is None or given.reused is None:
        print(page())
        return
    own = Setting("yours", given.computed, given.reused, given.rest, given.steps, given.rate, given.agreement)
    print(table(own))


if __name__ == "__main__":
    main()
