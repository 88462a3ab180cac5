"""Which ranks decide together: those with parts of one video, and those that have to compute at the same time.

Several groups are the axes of a grid: what is done along one after the other is done among all.

A rank that skipped its blocks while another one waits for it inside them would hang, or make another video. So all that
is local to a rank is told to the others before anybody decides by it, and no rank refuses, stops or goes on alone.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from bwcache.engine.alike import SETTINGS
from bwcache.engine.unanimous import all_are_told
from bwcache.errors import RanksDifferError, SettingError, complaint, warn

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    Groups = tuple[dist.ProcessGroup, ...]

NAMED = "ranks="
"""How ranks were found that somebody named."""

AUTO = "auto"

ONE_PROCESS = "one process"
"""Why there is nobody to agree with, where there is no other rank at all."""


_RUNS: Counter[tuple[str, ...]] = Counter()
"""How many runs of several ranks began in this process: by their groups, and this rank."""


@dataclass(frozen=True)
class Ranks:
    """Who decides together with this rank: each a process group, a device mesh, or None.

    Attributes:
        parts: those that have parts of one video: tokens, or guidance branches. What they measure is added up.
        lockstep: those that make videos of their own and speak to each other inside of the blocks, as where they share
            the weights. If one of them computes, all do.
    """

    parts: Any = None
    lockstep: Any = None

    def __post_init__(self) -> None:
        for name, one in (("parts", self.parts), ("lockstep", self.lockstep)):
            _expect_ranks(f"Ranks({name}=)", one)


def asked(ranks: object) -> Ranks | None:
    """Return the ranks that `attach` was given; None: they are to be found.

    Raises:
        SettingError: it is none of what can be given, or a group without this rank.
    """
    if isinstance(ranks, str) and ranks == AUTO:
        return None
    if isinstance(ranks, Ranks):
        return ranks
    _expect_ranks(NAMED, ranks)
    return Ranks(parts=ranks)


def _expect_ranks(where: str, given: Any) -> None:
    expected = f'"{AUTO}", a process group, a device mesh, bwcache.Ranks(…) or None'
    if given is None:
        return
    if dist.is_available() and given is dist.GroupMember.NON_GROUP_MEMBER:
        action = "give each rank a group that it is a member of, or None"
        raise SettingError(complaint(f"a group without this rank as {where}", "one that it is a member of", action))
    is_group = dist.is_available() and isinstance(given, dist.ProcessGroup)
    if not (is_group or hasattr(given, "get_group")):
        raise SettingError(complaint(f"{given!r} as {where}", expected, "pass one of these"))


@dataclass(frozen=True)
class Parts:
    """Ranks that have parts of one video.

    Attributes:
        groups: their process groups.
        found: where they were found, in words.
        alike: whether all of them are given the same latents and prompts, as far as the model is known.
    """

    groups: Groups
    found: str
    alike: bool = False

    @property
    def count(self) -> int:
        """How many they are."""
        return count(self.groups)

    @property
    def device(self) -> torch.device:
        """Where what they measured has to lie."""
        return _devices(self.groups)[-1]

    @property
    def store(self) -> Store | None:
        """By what the group met; None where they are several, or it has none."""
        known = dist.distributed_c10d._world.pg_map  # torch says it nowhere else
        return known[self.groups[0]][1] if len(self.groups) == 1 and self.groups[0] in known else None

    @property
    def rank(self) -> int:
        """Which of them this one is, in the first group."""
        return dist.get_rank(self.groups[0])

    def next_run(self) -> int:
        """Return the ordinal of a run that begins now, of those of these ranks in this process."""
        key = (*(str(group.group_name) for group in self.groups), str(self.rank))
        _RUNS[key] += 1
        return _RUNS[key]

    def all_are_told(self, what: str, patience: float) -> bool:
        """Return whether all of them ask by these words, before one of them has waited for so many seconds.

        The same on all that ask. Never where they are several groups, which did not meet at one place.

        Args:
            what: what they were told, and when; it never comes again on this rank.
            patience: in seconds; at most a quarter of the time-out of their group.
        """
        store = self.store
        if store is None:
            return False
        return all_are_told(store, f"bwcache/{what}", self.rank, self.count, min(patience, self._timeout() / 4))

    def _timeout(self) -> float:
        """Seconds after which those that wait in a collective give up; without an end where the group does not say."""
        with contextlib.suppress(AttributeError, RuntimeError):
            backend = self.groups[0]._get_backend(self.device)
            return float(backend.options._timeout.total_seconds())
        return float("inf")

    def add_up(self, vector: torch.Tensor) -> dist.Work | None:
        """Replace a vector by the sum of those of all ranks; return what to wait for until it is, or None."""
        *axes, last = self.groups
        for group in axes:
            dist.all_reduce(vector, op=dist.ReduceOp.SUM, group=group)
        work: dist.Work | None = dist.all_reduce(vector, op=dist.ReduceOp.SUM, group=last, async_op=True)
        return work

    def any(self, here: bool) -> bool:
        """Return whether it holds on any rank; waits for all."""
        return bool(largest([int(here)], self.groups)[0])

    def expect_same(self, differing: Sequence[str]) -> None:
        """Raise where ranks were not given the same; the sums by which it shows are the same on all of them.

        Raises:
            RanksDifferError: they work on one video, or decide by other settings.
        """
        if not differing:
            return
        found = f"{' and '.join(differing)} that are not the same on {self.count} ranks that decide together"
        if self.alike or SETTINGS in differing:
            raise RanksDifferError(
                complaint(
                    f"{found} ({self.found})",
                    "the same seed, prompt, sizes, steps and policy on each, as for one video",
                    "give each rank a generator of the same seed, or, for videos of their own, groups of their own",
                )
            )
        if self.found == NAMED and len(differing) > 1:
            warn(
                f"found {found}; expected parts of one video, with the same prompts or the same latents; for "
                "videos of their own pass each rank a group of its own, or bwcache.Ranks(lockstep=…)",
                RuntimeWarning,
            )


@dataclass(frozen=True)
class Lockstep:
    """Ranks that compute at the same time, whatever each of them makes.

    Attributes:
        groups: their process groups.
        found: where they were found, in words.
    """

    groups: Groups
    found: str

    @property
    def count(self) -> int:
        """How many they are."""
        return count(self.groups)


@dataclass(frozen=True)
class Related:
    """The ranks that decide together with this one, and what is said of them; neither: it is alone."""

    parts: Parts | None = None
    lockstep: Lockstep | None = None
    why: str = ONE_PROCESS

    @cached_property
    def alone(self) -> bool:
        """Whether there is nobody to agree with."""
        return self.parts is None and self.lockstep is None

    @property
    def voters(self) -> Groups:
        """Those among whom is voted: all that compute at the same time, each with all that have parts of its video."""
        if self.lockstep is None:
            return ()
        within = self.parts is None or members(self.parts.groups) <= members(self.lockstep.groups)
        return self.lockstep.groups if within or self.parts is None else (*self.lockstep.groups, *self.parts.groups)

    def __str__(self) -> str:
        if self.alone:
            return f"alone ({self.why})"
        world, said = dist.get_world_size(), []
        if self.parts is not None:
            said.append(f"{self.parts.count} of {world} ranks have parts of this video ({self.parts.found})")
        if self.lockstep is not None:
            said.append(f"{self.lockstep.count} of {world} ranks compute in the same steps ({self.lockstep.found})")
        return "; ".join(said)


def members(groups: Groups) -> set[int]:
    """Return the ranks of the world that are in the groups: of one group all of them, of a grid those on its axes."""
    return {rank for group in groups for rank in dist.get_process_group_ranks(group)}


def count(groups: Groups) -> int:
    """Return how many ranks a grid with these axes has."""
    found = 1
    for group in groups:
        found *= dist.get_world_size(group)
    return found


def largest(numbers: Sequence[int], groups: Groups) -> list[int]:
    """Return of each number the largest that any rank has; waits for all."""
    vector = torch.tensor(numbers, dtype=torch.int64, device=_devices(groups)[0])
    for group in groups:
        dist.all_reduce(vector, op=dist.ReduceOp.MAX, group=group)
    found: list[int] = vector.tolist()
    return found


def _devices(groups: Groups) -> list[torch.device]:
    """Where the groups can exchange anything, the host first where it is one of them."""
    kinds = {kind for group in groups for kind in dist.get_backend_config(group).split(",")}
    on_host = not any("nccl" in kind for kind in kinds) or all(
        "cpu:gloo" in dist.get_backend_config(group) for group in groups
    )
    found = [torch.device("cpu")] if on_host else []
    if any("nccl" in kind for kind in kinds):
        found.append(torch.device("cuda", torch.cuda.current_device()))
    return found
