"""A few processes that run the same cases, and what each of them reports."""

from __future__ import annotations

import os
import traceback
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig

import bwcache
from bwcache import BWCache, BWCacheError
from bwcache.core.trace import reuse_line
from tests.fleet.forked import ended, start
from tests.tiny import noise, wan_transformer

STEPS = 8
SIZE = (1, 4, 2, 4, 4)
POLICY = BWCache(threshold=0.3, reuse_interval=2)
Cases = Callable[[int], dict[str, Callable[[], Any]]]
"""(rank) -> the cases by name; each returns what `torch.save` can take. All ranks run them in the same order."""


def _work(rank: int, count: int, cases: Cases, folder: str) -> None:
    torch.set_num_threads(1)
    torch.accelerator.device_count = lambda: 1  # diffusers divides by it, and on a CPU it is 0
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    timeout = timedelta(seconds=120)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=count, timeout=timeout)
    said: dict[str, Any] = {}
    for name, case in cases(rank).items():
        try:
            said[name] = case()
        except BWCacheError as error:
            said[name] = (type(error).__name__, str(error))
        except BaseException:
            (Path(folder) / f"{rank}.txt").write_text(f"rank {rank} in the case {name!r}: {traceback.format_exc()}")
            raise
    torch.save(said, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def several_ranks(count: int, cases: Cases, folder: Path) -> list[dict[str, Any]]:
    """What each of so many ranks reports; one that hangs raises after its time-out."""
    processes = [start(_work, rank, count, cases, str(folder)) for rank in range(count)]
    codes = [ended(process) for process in processes]
    assert codes == [0] * count, "\n".join(path.read_text() for path in sorted(folder.glob("*.txt")))
    return [torch.load(folder / f"{rank}.pt") for rank in range(count)]


def two_ranks(cases: Cases, folder: Path) -> list[dict[str, Any]]:
    """What each of two ranks reports."""
    return several_ranks(2, cases, folder)


def video(
    module: Any, seed: int = 0, steps: int = STEPS, prompt: int = 1, pace: float = 0.05, size: Any = SIZE
) -> list[torch.Tensor]:
    """The outputs of a loop over a denoiser of Wan's kind, each laid upon the latents, as a sampler does."""
    latents, made = noise(*size, seed=seed), []
    for i in range(steps):
        with torch.no_grad():
            output = module(
                hidden_states=latents,
                timestep=torch.tensor([1000.0 - i]),
                encoder_hidden_states=noise(1, 6, 8, seed=prompt),
                return_dict=False,
            )
        made.append(output[0])
        latents = latents - pace * output[0]
    return made


def cached(module: Any, policy: Any, **how: Any) -> dict[str, Any]:
    """A video under a session: what was made, and what the trace says."""
    settings = {name: how.pop(name) for name in ("ranks", "max_memory", "memory", "per_sample") if name in how}
    with bwcache.attach(module, policy, steps=STEPS, **settings) as session, session.run(STEPS):
        made = video(module, **how)
    trace = session.trace
    return {
        "made": made,
        "line": reuse_line(trace.events),
        "indicators": [event.indicator for event in trace.events],
        "ranks": trace.meta.get("ranks"),
        "planned": trace.planned_bytes,
        "peak": trace.peak_bytes,
    }


def measured(said: dict[str, Any]) -> list[float]:
    """The indicators of a trace, -1 where there is none."""
    return [-1.0 if value is None else value for value in said["indicators"]]


def same(made: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    """Whether two videos are one, but for the order in which is added up."""
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(made, wanted, strict=True))


def identical(made: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    """Whether two videos are one, to the last bit."""
    return all(torch.equal(a, b) for a, b in zip(made, wanted, strict=True))


def split() -> Any:
    """A denoiser whose tokens are split among the ranks."""
    module = wan_transformer()
    module.enable_parallelism(config=ContextParallelConfig(ulysses_degree=dist.get_world_size()))
    return module


def several_calls(module: Any, paths: list[str]) -> Counter[str]:
    """What counts the calls of some modules within another; their forwards are wrapped, not hooked."""
    found: Counter[str] = Counter()
    for path in paths:
        part = module.get_submodule(path)
        part.forward = partial(_counted, found, path, part.forward)
    return found


def _counted(found: Counter[str], path: str, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    found[path] += 1
    return inner(*args, **kwargs)
