"""What a pipeline really did, seen from outside of bwcache: its forwards, where its schedules began, its steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from diffusers.models.cache_utils import CacheMixin
from torch import Tensor

from bwcache.models import denoisers


@dataclass(frozen=True)
class Forward:
    """One forward of a denoiser: the loop it belongs to, the step in it, and how it differs from others of that step.

    Attributes:
        run: ordinal of the loop: one for each time that timesteps were set.
        step: how often the scheduler had stepped since.
        branch: the cache context that the pipeline named, or else the ordinal of the forward in the step.
        denoiser: which of them.
        shape: of what it works on.
    """

    run: int
    step: int
    branch: str
    denoiser: str
    shape: tuple[Any, ...]


@dataclass
class Witness:
    """Writes down the forwards of everything that happens while `watching`."""

    forwards: list[Forward] = field(default_factory=list)
    _run: int = 0
    _step: int = 0
    _set: bool = False
    _stepped: bool = False
    _names: list[str] = field(default_factory=list)

    def lengths(self) -> list[int]:
        """How many steps each loop had."""
        runs = sorted({forward.run for forward in self.forwards})
        return [len({forward.step for forward in self.forwards if forward.run == run}) for run in runs]

    def rows(self) -> list[tuple[int, int, str]]:
        return [(forward.run, forward.step, forward.branch) for forward in self.forwards]

    def may_reuse(self) -> list[bool]:
        """For each forward, whether what its branch last computed is of this loop, denoiser and size, and fresh."""
        last: dict[tuple[int, str], Forward] = {}
        allowed = []
        for now in self.forwards:
            before = last.get((now.run, now.branch))
            same = before is not None and (before.denoiser, before.shape) == (now.denoiser, now.shape)
            allowed.append(same and before is not None and before.step == now.step - 1)
            last[now.run, now.branch] = now
        return allowed

    @contextmanager
    def watching(self, pipe: Any, aside: Callable[[dict[str, Any]], bool] = lambda kwargs: False) -> Iterator[None]:
        """Watches this pipeline; `aside` tells by a forward's arguments that it is none of the loop's."""
        with ExitStack() as undo:
            for name, module in denoisers(pipe).items():
                undo.callback(module.register_forward_pre_hook(self._at(name, aside), with_kwargs=True).remove)
            kind = type(pipe.scheduler)
            undo.enter_context(mock.patch.object(kind, "set_timesteps", self._noting(kind.set_timesteps, "_set")))
            undo.enter_context(mock.patch.object(kind, "step", self._noting(kind.step, "_stepped")))
            undo.enter_context(mock.patch.object(CacheMixin, "cache_context", self._naming(CacheMixin.cache_context)))
            yield

    def _noting(self, inner: Callable[..., Any], mark: str) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            setattr(self, mark, True)
            return inner(*args, **kwargs)

        noted.__signature__ = inspect.signature(inner)  # type: ignore[attr-defined]
        return noted

    def _naming(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def cache_context(module: Any, name: str, **said: Any) -> Iterator[None]:
            self._names.append(name)
            with inner(module, name, **said):
                yield
            self._names.pop()

        return cache_context

    def _at(self, name: str, aside: Callable[[dict[str, Any]], bool]) -> Callable[..., None]:
        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if aside(kwargs):
                return
            if self._set and self.forwards:
                self._run, self._step = self._run + 1, 0
            elif self._stepped and self.forwards:
                self._step += 1
            self._set = self._stepped = False
            here = [forward for forward in self.forwards if (forward.run, forward.step) == (self._run, self._step)]
            branch = self._names[-1] if self._names else f"call{len(here)}"
            self.forwards.append(Forward(self._run, self._step, branch, name, _shape((*args, *kwargs.values()))))

        return before


def _shape(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Of the first tensor that is more than a list of numbers, or of a list of such."""
    for value in values:
        if isinstance(value, Tensor) and value.ndim >= 3:
            return tuple(value.shape)
        if isinstance(value, list) and value and isinstance(value[0], Tensor):
            return (len(value), *value[0].shape)
    return ()
