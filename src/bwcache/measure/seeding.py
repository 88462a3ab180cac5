"""Whatever a call draws at random comes from its seed, and what is drawn outside of the call is left as it was.

Some samplers take no generator: stochastic flow matching, LCM, SDE and SA solvers draw from torch's global one. Left
alone, the two sides of a comparison would go along different noise, and the cache would be blamed for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[Callable[[], bool]]:
    """Seed the global generators of torch, numpy and Python while it lasts; afterwards they go on where they stood.

    Gives what tells whether anything was drawn from them so far.

    Args:
        seed: of the call.
        device: where the pipeline computes; the generators of all devices of this kind are seeded.
    """
    start = global_seed(seed)
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]), _device_seeded(start, device.type):
        try:
            torch.default_generator.manual_seed(start)
            random.seed(start)
            np.random.seed(start)
            before = _states(device)
            yield lambda: _states(device) != before
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


def global_seed(seed: int) -> int:
    """Return what the global generators start from, 0..2**32 - 1.

    It is another number than the seed: the latents are drawn from a generator with the seed itself, and a sampler that
    added the very same noise again would make another kind of video.
    """
    return int.from_bytes(hashlib.sha256(f"global {seed}".encode()).digest()[:4], "big")


def _states(device: torch.device) -> list[object]:
    """Where the global generators stand."""
    found: list[object] = [torch.default_generator.get_state().numpy().tobytes(), random.getstate()]
    name, keys, *rest = np.random.get_state()
    found += [name, np.asarray(keys).tobytes(), rest]
    if device.type in ("cuda", "xpu"):
        module = torch.get_device_module(device.type)
        found += [module.get_rng_state(number).numpy().tobytes() for number in range(module.device_count())]
    elif device.type == "mps":
        found.append(torch.mps.get_rng_state().numpy().tobytes())
    return found


@contextlib.contextmanager
def _device_seeded(start: int, kind: str) -> Iterator[None]:
    if kind not in ("cuda", "xpu", "mps"):
        yield
        return
    module = torch.get_device_module(kind)
    if kind == "mps":  # one device, whose functions take no number
        before = module.get_rng_state()
        module.manual_seed(start)
        try:
            yield
        finally:
            module.set_rng_state(before)
        return
    with torch.random.fork_rng(devices=range(module.device_count()), device_type=kind):
        module.manual_seed_all(start)
        yield
