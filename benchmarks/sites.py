"""What the engine takes where many parts of a model are sites: `python -m benchmarks.sites` prints a table.

A chain of blocks of three parts each (two attentions and a feed-forward) that do nothing, every part a site, as the
methods that decide by kind of part need it: the time of a forward with a session less that of one without, over its
site calls, by the seconds that the one thread worked. Computed and reused forwards take turns. The hidden states are so
small that copying them takes next to nothing.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import bwcache
from benchmarks.common import publish
from benchmarks.goldens.policies import block_sites
from benchmarks.growing import Nothing, seconds

PARTS = ("attn1", "attn2", "ffn")
TOKENS, CHANNELS = 64, 16
SITES_ASKED = (3, 12, 36, 90)
STEPS = 1000


class Block(nn.Module):
    """A block whose three parts do nothing."""

    def __init__(self) -> None:
        super().__init__()
        for name in PARTS:
            self.add_module(name, Nothing())

    def forward(self, hidden_states: Tensor) -> Tensor:
        """`[B, N, C]`, as it came."""
        for name in PARTS:
            hidden_states = getattr(self, name)(hidden_states)
        return hidden_states


class Parts(nn.Module):
    """A denoiser of such blocks."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.weight = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, hidden_states: Tensor, timestep: float) -> Tensor:
        """`[B, N, C]`, as it came."""
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states


def row(blocks: int) -> bwcache.BlockSpec:
    """Every part a list of one element, in the order of the forward."""
    paths = [f"blocks.{i}.{name}" for i in range(blocks) for name in PARTS]
    return bwcache.BlockSpec("Parts", tuple(bwcache.BlockList(path) for path in paths))


@dataclass(frozen=True)
class EveryOther(bwcache.Policy[None]):
    """Every block of the row is a site; all compute in even steps and reuse in odd ones."""

    def sites(self, stack: Any) -> Any:
        """One per block."""
        return block_sites(stack)

    def init(self) -> None:
        """No state."""

    def decide(self, observation: bwcache.Observation, state: None) -> bwcache.Decision:
        """By the step alone."""
        return bwcache.Decision("reuse" if observation.step.index % 2 else "compute", "every other")


def measured(sites: int, forwards: int) -> dict[str, Any]:
    """Microseconds per site call, the median over the forwards, where they are computed and where they are reused.

    Args:
        sites: a multiple of three.
        forwards: with a session, half of them computed; as many without.
    """
    blocks = sites // len(PARTS)
    latents = torch.randn(1, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(0))
    plain, cached = Parts(blocks), Parts(blocks)
    spent: dict[str, list[float]] = {"plain": [], "compute": [], "reuse": []}
    with ExitStack() as undo, torch.no_grad():
        session = undo.enter_context(bwcache.attach(cached, EveryOther(), steps=STEPS, spec=row(blocks)))
        for i in range(forwards):
            time = float(STEPS - i)
            spent["plain"].append(seconds(lambda time=time: plain(latents, time)))  # type: ignore[misc]
            spent["reuse" if i % 2 else "compute"].append(seconds(lambda time=time: cached(latents, time)))  # type: ignore[misc]
    events = session.trace.events
    if len(events) != sites * forwards:
        raise RuntimeError(f"found {len(events)} rows, expected {sites * forwards}: not every part was a site")
    medians = {name: statistics.median(taken[len(taken) // 4 :]) for name, taken in spent.items()}
    own = {name: 1e6 * (medians[name] - medians["plain"]) / sites for name in ("compute", "reuse")}
    return {"sites": sites, "microseconds": own}


def quietest(sites: int, forwards: int, passes: int) -> dict[str, Any]:
    """Of several passes the one that took least: a machine that others use too is slower for seconds at a time."""
    taken = [measured(sites, forwards) for _ in range(passes)]
    return min(taken, key=lambda found: sum(found["microseconds"].values()))


def table(cells: list[dict[str, Any]]) -> str:
    """One line per number of sites."""
    lines = [f"{'sites':>6} {'computed, us per site call':>28} {'reused, us per site call':>26}"]
    for cell in cells:
        own = cell["microseconds"]
        lines.append(f"{cell['sites']:>6} {own['compute']:>28.1f} {own['reuse']:>26.1f}")
    return "\n".join(lines)


def main(
    sites: Annotated[list[int], typer.Option(help="numbers of sites, multiples of 3")] = list(SITES_ASKED),  # noqa: B006
    forwards: Annotated[int, typer.Option(help="forwards of each side in one pass, at most 1000")] = 100,
    passes: Annotated[int, typer.Option(help="passes, of which the quietest counts")] = 5,
    out: Annotated[Path | None, typer.Option(help="also write JSON here")] = None,
) -> None:
    """Measure what a site call takes."""
    torch.set_num_threads(1)
    cells = [quietest(count, forwards, passes) for count in sites]
    print(table(cells))
    if out is not None:
        publish(Parts(1), {"forwards": forwards, "passes": passes, "sites": cells}, out)


if __name__ == "__main__":
    typer.run(main)
