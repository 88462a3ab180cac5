"""``--ray [ADDRESS]``: what the commands share that work on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence

LOCAL = "local"
"""A cluster of this machine's own."""


def with_address(words: Sequence[str]) -> list[str]:
    """Return the words of a call in which `--ray` has an address: the local one where it is left out."""
    found: list[str] = []
    for place, word in enumerate(words):
        found.append(word)
        after = words[place + 1] if place + 1 < len(words) else "--"
        if word == "--ray" and after.startswith("-"):
            found.append(LOCAL)
    return found


def wants_cuda(device: str, address: str) -> bool:
    """Return whether a worker takes a GPU of the cluster: it is asked for, or nothing is and there is one here.

    Args:
        device: as of `--device`.
        address: of the cluster; another machine's may have GPUs that this one lacks.
    """
    if device != "auto":
        return device.startswith("cuda")
    import torch

    return torch.cuda.is_available()
