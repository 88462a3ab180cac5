"""What one row of the model table says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockList:
    """One list of blocks of a denoiser.

    Attributes:
        path: attribute path of the `ModuleList` in the denoiser.
        returns: what a block returns, in order, by the names that its own `forward` gives to the same streams as
            arguments. One name: the block returns a bare tensor. Skipping a block hands these arguments back.
    """

    path: str
    returns: tuple[str, ...] = ("hidden_states",)


@dataclass(frozen=True)
class BlockSpec:
    """A row: how the blocks of one denoiser class are laid out.

    Attributes:
        model: class name of the denoiser.
        lists: its lists of blocks in the order in which the forward runs them.
        decoded: the streams of the LAST block that the rest of the forward reads. Only these are kept and replayed.
        measured: the stream whose change is the indicator.
        timestep: name of the timestep argument of the denoiser's forward.
        sources: class or repository where the row was read.
    """

    model: str
    lists: tuple[BlockList, ...]
    decoded: tuple[str, ...] = ("hidden_states",)
    measured: str = "hidden_states"
    timestep: str = "timestep"
    sources: str = "diffusers 0.42.1"
