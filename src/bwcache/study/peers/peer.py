"""What every peer is: another library's cache, attached for one run, watched from outside, and taken off again.

A peer decides by itself when and what to skip; nothing of it is written anew here. Its settings are handed over in its
own words. What it holds is read from the state of its hooks between forwards.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import nn

from bwcache.errors import AttachError, BWCacheError, SettingError, complaint
from bwcache.models import BlockStack, denoisers, resolve
from bwcache.study.methods import Method, Seen
from bwcache.study.peers.kept_bytes import KeptBytes
from bwcache.study.peers.library_warnings import library_warnings
from bwcache.study.peers.restored import restored

States = Callable[[], Sequence[Any]]
"""Gives the objects in which a peer keeps its tensors, as they are now."""


@dataclass(frozen=True)
class Guards:
    """Steps that are always computed, the same for every method that can be told so.

    Args:
        warmup: number of steps at the beginning, >= 0.
        tail: number of steps at the end, >= 0.

    Raises:
        SettingError: a number below 0.
    """

    warmup: int = 2
    tail: int = 2

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 0:
                raise SettingError(complaint(f"{name} {value}", "at least 0", "choose a larger one"))

    def hold(self, pipe: Any) -> bool:
        """Whether the forward that begins now belongs to a guarded step; raises as `remaining`."""
        left, total = remaining(pipe)
        return left <= self.tail or total - left < self.warmup

    def check(self, steps: int) -> None:
        """Raises `SettingError` where a run of `steps` steps has none that is not guarded."""
        if self.warmup + self.tail >= steps:
            raise SettingError(
                complaint(
                    f"{self.warmup} steps of warm-up and a tail of {self.tail} in a run of {steps} steps",
                    "fewer guarded steps than the run has",
                    "lower --warmup or --tail, or raise --steps",
                )
            )


def remaining(pipe: Any) -> tuple[int, int]:
    """Steps from this one to the end, this one included, and steps of the run.

    As the pipeline's scheduler counts; where it does not count (DDIM), by the place of the pipeline's present timestep.

    Raises:
        AttachError: neither says which step this is.
    """
    scheduler: Any = getattr(pipe, "scheduler", None)
    timesteps = getattr(scheduler, "timesteps", ())
    present = getattr(pipe, "_current_timestep", None)
    if hasattr(scheduler, "step_index"):
        index = scheduler.step_index or 0
    elif present is not None and (places := (timesteps == present).nonzero()).numel():
        index = int(places[0])
    else:
        raise AttachError(
            complaint(
                f"{type(scheduler).__name__} and {type(pipe).__name__}, of which neither says which step it is",
                "a scheduler with a step_index, or a pipeline that names its timestep",
                "leave this method out, or choose another scheduler",
            )
        )
    return len(timesteps) - index, len(timesteps)


@dataclass(frozen=True)
class Peer(Method):
    """A cache of another library.

    Args:
        steps: of the run.
        guards: steps that are always computed.
    """

    method: ClassVar[str]
    shown: ClassVar[tuple[str, ...]]
    """The settings that its label names."""

    steps: int
    guards: Guards

    @property
    def family(self) -> str:
        """The method's name."""
        return self.method

    @property
    def label(self) -> str:
        """The method and its main settings; the tail where it is another one than by default."""
        plain = asdict(self)
        inside = [*(f"{name} {plain[name]:g}" for name in self.shown), f"warmup {self.guards.warmup}"]
        inside += [] if self.guards.tail == Guards().tail else [f"tail {self.guards.tail}"]
        return f"{self.family} ({', '.join(inside)})"

    def settings(self) -> dict[str, Any]:
        """All of them, ready for JSON."""
        return asdict(self)

    def remarks(self, pipe: Any) -> tuple[str, ...]:
        """What a person should know of how it was set on this pipeline."""
        return ()

    def load(self) -> None:
        """Loads its library: loggers that are made by then can be listened to."""

    @abstractmethod
    def attach(self, pipe: Any, stacks: Mapping[str, BlockStack], undo: ExitStack) -> States:
        """Puts the cache on the denoisers; what must be taken back is left in `undo`."""

    @contextmanager
    def at_work(self, pipe: Any) -> Iterator[Seen]:
        """Attached as long as it lasts; whatever it raises becomes an `AttachError`, with its words."""
        modules = denoisers(pipe)
        seen = Seen()
        try:
            self.load()
            with restored(pipe, modules.values()), library_warnings() as lines, ExitStack() as undo:
                stacks = {name: resolve(name, module) for name, module in modules.items()}
                held = KeptBytes(self.attach(pipe, stacks, undo))
                for module in modules.values():
                    undo.callback(module.register_forward_hook(held.look).remove)
                yield seen
                seen.kept_bytes = held.highest
                seen.notes = (*self.remarks(pipe), *lines)
        except BWCacheError:
            raise
        except Exception as error:
            what = " ".join(str(error).split())[:300] or "no text"
            raise AttachError(
                complaint(
                    f"{type(error).__name__} from {self.label}: {what}",
                    "a peer that runs on this pipeline",
                    "read its own documentation, or leave it out with --methods",
                )
            ) from error


def before_each_forward(modules: Sequence[nn.Module], call: Callable[[], None], undo: ExitStack) -> None:
    """Calls `call()` before every forward of the denoisers, until `undo` closes."""

    def before(module: nn.Module, inputs: Any) -> None:
        call()

    with contextlib.ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_pre_hook(before).remove)
        undo.push(hooks.pop_all())
