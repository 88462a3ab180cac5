"""What the engine costs on the shapes model: `python -m benchmarks.engine [--out FILE]`.

Four figures, each from pairs of calls that alternate in one run, after a warm-up:

- realised over ideal denoising speedup: 1 / (1 - reuse rate * share of the blocks) is what reuse could give at best;
- the indicator's share of the time of the computed steps' blocks;
- what is kept between steps, in hidden states per branch;
- the cost of a session that never reuses, over no session.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated, Any

import typer

import bwcache
from benchmarks.common import cached, captions, load, publish, request, spread
from bwcache.measure.call import Request, call
from bwcache.measure.results import add, ratio

NEVER = bwcache.BWCache(threshold=0)
BARE = bwcache.Compute()
DEFAULT = bwcache.BWCache()


def denoise_seconds(pipe: Any, policy: bwcache.Policy[Any] | None, asked: Request) -> float:
    """Denoising time of one call, without a session or with one."""
    made = call(pipe, asked) if policy is None else cached(pipe, policy, asked, timing=False)[0]
    assert made.denoise_seconds is not None
    return made.denoise_seconds


def paired(pipe: Any, policy: bwcache.Policy[Any], requests: list[Request]) -> list[float]:
    """For each request, time with the policy over time without; which goes first takes turns."""
    ratios = []
    for i, asked in enumerate(requests):
        order: list[bwcache.Policy[Any] | None] = [None, policy] if i % 2 else [policy, None]
        seconds = {side: denoise_seconds(pipe, side, asked) for side in order}
        ratios.append(seconds[policy] / seconds[None])
    return ratios


def block_share(pipe: Any, asked: Request) -> float:
    """Share of the denoising time spent inside the blocks of an uncached run."""
    made, trace = cached(pipe, BARE, asked)
    share = ratio(add(event.seconds for event in trace.events), made.denoise_seconds)
    assert share is not None
    return share


def realised_over_ideal(pipe: Any, requests: list[Request]) -> dict[str, Any]:
    """How much of what the reuse rate allows is really gained, at the default policy."""
    shares, rates, speedups = [], [], []
    for i, asked in enumerate(requests):
        shares.append(block_share(pipe, asked))
        rates.append(cached(pipe, DEFAULT, asked)[1].reuse_rate)
        speedups.append(1 / paired(pipe, DEFAULT, [asked, asked])[i % 2])
    share, rate = statistics.median(shares), statistics.fmean(rates)
    ideals = [1 / (1 - r * share) for r in rates]
    realised = [speedup / ideal for speedup, ideal in zip(speedups, ideals, strict=True)]
    return {
        "block_share": share,
        "reuse_rate": rate,
        "denoise_speedup": spread(speedups),
        "ideal_denoise_speedup": spread(ideals),
        "realised_over_ideal": spread(realised),
    }


def indicator_and_memory(pipe: Any, policy: bwcache.BWCache, requests: list[Request]) -> dict[str, Any]:
    """The indicator's share of the computed steps, and what is kept, in hidden states per branch."""
    shares, kept = [], []
    for asked in requests:
        _, trace = cached(pipe, policy, asked)
        computed = [event for event in trace.events if event.action == "compute"]
        indicator = sum(event.indicator_seconds or 0.0 for event in computed)
        shares.append(indicator / (indicator + sum(event.seconds or 0.0 for event in computed)))
        branches = len({event.branch for event in trace.events})
        kept.append(trace.peak_bytes / (trace.hidden_bytes * branches))
    return {"indicator_share_of_computed_steps": spread(shares), "hidden_states_kept_per_branch": max(kept)}


def main(
    pairs: Annotated[int, typer.Option(help="pairs of calls for each figure")] = 12,
    out: Annotated[Path | None, typer.Option(help="also write the JSON here")] = None,
) -> None:
    """Measure what the engine costs."""
    pipe = load()
    requests = [request(prompt, seed=i) for i, prompt in enumerate(captions(pairs))]
    for policy in (None, DEFAULT):
        denoise_seconds(pipe, policy, requests[0])
    exact = bwcache.BWCache(token_sample=1)
    figures = {
        "pairs": pairs,
        "default": realised_over_ideal(pipe, requests) | indicator_and_memory(pipe, DEFAULT, requests),
        "exact_indicator": indicator_and_memory(pipe, exact, requests),
        "never_reuses_over_no_session": spread(paired(pipe, NEVER, requests)),
        "compute_only_over_no_session": spread(paired(pipe, BARE, requests)),
    }
    publish(pipe, figures, out)


if __name__ == "__main__":
    typer.run(main)
