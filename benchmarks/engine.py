"""What the engine costs on the shapes model: `python -m benchmarks.engine [--out FILE]`.

Four figures:

- realised over ideal denoising speedup: 1 / (1 - reuse rate * share of the blocks) is what reuse could give at best;
- the indicator's share of the time of the computed steps;
- what is kept between steps, in hidden states per branch;
- the cost of a session that never reuses, over no session.

A machine's speed wanders by more than what is measured. So all sides take turns, round after round on the same prompt,
and a side's time is the sum, over the forwards of a run, of each forward's median over the rounds. The last figure is
the smallest: there each forward is paired with the same one without a session, and two equal sides stand beside it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

import bwcache
from benchmarks.common import cached, captions, laps, load, publish, request, spread
from benchmarks.paired import over_prompts
from bwcache.measure.call import Request, call

DEFAULT = bwcache.BWCache()
SIDES: dict[str, bwcache.Policy[Any] | None] = {
    "no session": None,
    "default": DEFAULT,
    "adaptive": bwcache.Adaptive(),
}
PAIRED: dict[str, bwcache.Policy[Any] | None] = {
    "no_session": None,
    "never_reuses": bwcache.BWCache(threshold=0),
    "measures_only": bwcache.NeverReuse(measures="default"),
}
TIMED: dict[str, bwcache.Policy[Any]] = {
    "compute only": bwcache.NeverReuse(),
    "default": DEFAULT,
    "adaptive": bwcache.Adaptive(),
    "exact": bwcache.BWCache(sample=1),
}


@dataclass(frozen=True)
class Prompt:
    """What the rounds on one prompt gave; all lists of one side have the same forwards in the same order.

    Attributes:
        laps: side -> rounds of seconds per forward, without timing inside.
        traces: timed side -> rounds of traces.
        timed_laps: timed side -> rounds of seconds per forward.
    """

    laps: dict[str, list[list[float]]]
    traces: dict[str, list[bwcache.Trace]]
    timed_laps: dict[str, list[list[float]]]

    def seconds(self, side: str) -> float:
        """Denoising time of a side."""
        return steady(self.laps[side])

    def share_of_blocks(self) -> float:
        """Share of the denoising time spent inside the blocks of an uncached run."""
        return self._inside("compute only", lambda event: event.seconds) / steady(self.timed_laps["compute only"])

    def share_of_indicator(self, side: str) -> float:
        """The indicator's part of the time of the computed steps' blocks and itself."""
        indicator = self._inside(side, lambda event: event.indicator_seconds)
        return indicator / (indicator + self._inside(side, lambda event: event.seconds))

    def share_of_steps(self, side: str) -> float:
        """The indicator's part of the time of the computed steps: blocks, what is around them, guidance, scheduler."""
        computed = [event.action == "compute" for event in self.traces[side][0].events]
        rounds = [[lap for lap, real in zip(laps, computed, strict=True) if real] for laps in self.timed_laps[side]]
        return self._inside(side, lambda event: event.indicator_seconds) / steady(rounds)

    def _inside(self, side: str, of: Callable[[bwcache.Event], float | None]) -> float:
        rounds = [[of(e) or 0.0 for e in trace.events if e.action == "compute"] for trace in self.traces[side]]
        return steady(rounds)

    def kept(self, side: str) -> float:
        """What is kept between steps, in hidden states per branch."""
        trace = self.traces[side][0]
        return trace.peak_bytes / (trace.hidden_bytes * len({event.branch for event in trace.events}))


def steady(rounds: Sequence[Sequence[float]]) -> float:
    """The sum of each place's median over the rounds, in seconds."""
    return sum(statistics.median(place) for place in zip(*rounds, strict=True))


def measured(pipe: Any, asked: Request, rounds: int) -> Prompt:
    """All sides in turns; each round begins with another one."""
    result = Prompt({side: [] for side in SIDES}, {side: [] for side in TIMED}, {side: [] for side in TIMED})
    jobs: list[tuple[bool, str]] = [(False, side) for side in SIDES] + [(True, side) for side in TIMED]
    for i in range(rounds):
        for timed, side in jobs[i % len(jobs) :] + jobs[: i % len(jobs)]:
            with laps(pipe) as seconds:
                if timed:
                    result.traces[side].append(cached(pipe, TIMED[side], asked)[1])
                elif (policy := SIDES[side]) is None:
                    call(pipe, asked)
                else:
                    cached(pipe, policy, asked, timing=False)
            (result.timed_laps if timed else result.laps)[side].append(seconds)
    return result


def gained(prompts: list[Prompt], side: str) -> dict[str, Any]:
    """How much of what the reuse rate allows is really gained."""
    shares = [prompt.share_of_blocks() for prompt in prompts]
    rates = [prompt.traces[side][0].reuse_rate for prompt in prompts]
    speedups = [prompt.seconds("no session") / prompt.seconds(side) for prompt in prompts]
    ideals = [1 / (1 - rate * share) for rate, share in zip(rates, shares, strict=True)]
    return {
        "block_share": statistics.median(shares),
        "reuse_rate": statistics.fmean(rates),
        "denoise_speedup": spread(speedups),
        "ideal_denoise_speedup": spread(ideals),
        "realised_over_ideal": spread([real / ideal for real, ideal in zip(speedups, ideals, strict=True)]),
    }


def indicator(prompts: list[Prompt], side: str) -> dict[str, Any]:
    """What a timed side's indicator costs in time and memory."""
    return {
        "indicator_share_of_computed_steps": spread([prompt.share_of_steps(side) for prompt in prompts]),
        "indicator_share_of_their_blocks": spread([prompt.share_of_indicator(side) for prompt in prompts]),
        "hidden_states_kept_per_branch": max(prompt.kept(side) for prompt in prompts),
    }


def main(
    prompts: Annotated[int, typer.Option(help="prompts, each measured for itself")] = 4,
    rounds: Annotated[int, typer.Option(help="rounds on each prompt")] = 15,
    out: Annotated[Path | None, typer.Option(help="also write the JSON here")] = None,
) -> None:
    """Measure what the engine costs."""
    pipe = load()
    requests = [request(prompt, seed=i) for i, prompt in enumerate(captions(prompts))]
    measured(pipe, requests[0], 1)
    found = [measured(pipe, asked, rounds) for asked in tqdm(requests, "engine")]
    over_no_session = over_prompts(pipe, PAIRED, requests, rounds)
    figures = {
        "prompts": prompts,
        "rounds": rounds,
        "default": gained(found, "default") | indicator(found, "default"),
        "adaptive": gained(found, "adaptive") | indicator(found, "adaptive"),
        "exact_indicator": indicator(found, "exact"),
        "over_no_session": over_no_session,
        "two_by_two": True,
    }
    publish(pipe, figures, out)


if __name__ == "__main__":
    typer.run(main)
