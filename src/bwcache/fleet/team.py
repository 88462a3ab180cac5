"""Several processes that make each video together, started by torchrun: the first of a team takes rows for all.

Each team is a worker like any other, and teams do not speak to each other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from bwcache.errors import SettingError, complaint
from bwcache.fleet.worker import FailedRowError, Made, Row
from bwcache.models import denoisers

Make = Callable[[Row], Made]

PATIENCE = timedelta(days=30)
"""How long the others wait for their first one to find a row. It ends at once where that one dies."""


@dataclass(frozen=True)
class Team:
    """The processes that make a video together.

    Attributes:
        group: in which they speak of rows, on the CPU.
        mesh: of all processes: videos, ring, ulysses.
    """

    group: dist.ProcessGroup
    mesh: Any

    @property
    def leads(self) -> bool:
        """Whether this process is the first of its team."""
        return dist.get_rank(self.group) == 0

    def tell(self, what: Any) -> None:
        """Give something to the others; only the first one does."""
        dist.broadcast_object_list([what], src=dist.get_global_rank(self.group, 0), group=self.group)

    def told(self) -> Any:
        """Return what the first one tells; all but that one wait for it."""
        found = [None]
        dist.broadcast_object_list(found, src=dist.get_global_rank(self.group, 0), group=self.group)
        return found[0]

    def any_of(self, here: str | None) -> str | None:
        """Return what the first of them says that says anything; all of them call it."""
        said: list[str | None] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(said, here, group=self.group)
        return next((one for one in said if one is not None), None)


def own_device(kind: str) -> str:
    """Return the device of this process among those of a machine, where torchrun or Slurm have started several.

    Args:
        kind: such as "cuda".
    """
    here = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
    count = torch.cuda.device_count() if kind == "cuda" else 0
    return f"{kind}:{int(here) % count}" if here is not None and count > 1 else kind


def check_size(size: int) -> None:
    """Raise where no teams of this size can be made of the processes that there are.

    Raises:
        SettingError: as said.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count % size:
        found = f"--gpus-per-video {size} with {count} process{'es' if count > 1 else ''}"
        action = f"start them by 'torchrun --nproc-per-node={size} -m bwcache generate …'"
        raise SettingError(complaint(found, f"a multiple of {size} that torchrun has started", action))


def make_team(size: int, device: str) -> Team:
    """Return the team of this process; all processes call it together.

    Args:
        size: processes in each team.
        device: of this process, such as "cuda:1".
    """
    kind = device.partition(":")[0]
    if kind == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo")
    count, rank = dist.get_world_size(), dist.get_rank()
    teams = [range(first, first + size) for first in range(0, count, size)]
    groups = [dist.new_group([*ranks], backend="gloo", timeout=PATIENCE) for ranks in teams]
    mesh = dist.device_mesh.init_device_mesh(
        kind, (count // size, 1, size), mesh_dim_names=("videos", "ring", "ulysses")
    )
    return Team(groups[rank // size], mesh)


def split_among(pipe: Any, team: Team) -> None:
    """Split the tokens of a pipeline's denoisers among a team, by the context parallelism of diffusers.

    Raises:
        SettingError: this version of diffusers cannot, or not for this denoiser.
    """
    try:
        from diffusers import ContextParallelConfig
    except ImportError as error:
        found = "--gpus-per-video with a diffusers that has no context parallelism"
        raise SettingError(complaint(found, "diffusers 0.36 or newer", "pip install -U diffusers")) from error
    size = team.mesh.size() // team.mesh.shape[0]
    anything = {"ulysses_anything": True} if hasattr(ContextParallelConfig, "ulysses_anything") else {}
    parts: dict[str, Any] = dict(denoisers(pipe))
    for name, module in parts.items():
        config = ContextParallelConfig(ulysses_degree=size, mesh=team.mesh, **anything)
        try:
            module.enable_parallelism(config=config)
        except (AttributeError, ValueError) as error:
            found = f"--gpus-per-video with {type(module).__name__}, the {name}, which diffusers cannot split"
            said = " ".join(str(error).split())
            raise SettingError(complaint(f"{found} ({said})", "a model that it can", "leave the option out")) from error


@contextlib.contextmanager
def leading(team: Team, make: Make) -> Iterator[Make]:
    """Give what makes a row with the whole team; when the block ends, the others end.

    Where this process ends in the middle of a row, the others are left to torchrun, which ends them.
    """
    making = False

    def together(row: Row) -> Made:
        nonlocal making
        making = True
        team.tell(row)
        try:
            made = _agreed(team, make, row)
        except FailedRowError:
            making = False
            raise
        making = False
        return made

    try:
        yield together
    finally:
        if not making:
            team.tell(None)


def follow(team: Team, make: Make) -> None:
    """Make what the first of the team tells, until it ends."""
    while (row := team.told()) is not None:
        with contextlib.suppress(FailedRowError):
            _agreed(team, make, row)


def _agreed(team: Team, make: Make, row: Row) -> Made:
    """What is made of a row, unless it failed for one of the team: then it did for all."""
    made, failed = None, None
    try:
        made = make(row)
    except FailedRowError as error:
        failed = str(error)
    failed = team.any_of(failed)
    if failed is not None or made is None:
        raise FailedRowError(failed)
    return made
