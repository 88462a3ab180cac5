"""Modules whose output nothing but blocks reads: in a replay they are skipped as well.

A replay that is decided before the forward begins skips them, if the arguments of the denoiser are those of the forward
that filled what is kept, in shape, dtype and device. A skipped module hands back empty tensors of the shapes that it
last returned. The first replay of its kind in a session is made with NaN in the place of every skipped output, and the
result is looked at: if somebody does read such a module, the forward runs again with all of them, as do all to come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from bwcache.engine.clock.call import PLAIN_VALUES, Inputs
from bwcache.engine.returned import Outline

Outlines = dict[tuple[str, int], Outline]
"""What the idle modules returned in one forward, by path and ordinal of the call."""


@dataclass(eq=False)
class IdleModules:
    """The idle modules of one denoiser in one session.

    Attributes:
        modules: by path.
        proven: of which inputs a replay was seen to be the same without them.
        read: whether somebody was seen to read one: then none is skipped any more.
    """

    modules: Mapping[str, nn.Module]
    proven: set[Inputs] = field(default_factory=set)
    read: bool = False
    _hooks: list[Mapping[int, Any]] = field(init=False)

    def __post_init__(self) -> None:
        modules = self.modules.values()
        self._hooks = [hooks for part in modules for hooks in (part._forward_hooks, part._forward_pre_hooks)]

    @property
    def is_watched(self) -> bool:
        """Whether somebody's forward hook waits at one of them to be called."""
        return any(self._hooks)


@dataclass(eq=False, slots=True)
class IdleCalls:
    """The idle modules in one forward: skipped, or looked at.

    Attributes:
        idle: which there are.
        inputs: what is told of the forward's arguments.
        known: what they returned with such inputs in this run: they are skipped; None: not seen yet.
        outlines: what they return here, where it is not known.
        skipped: whether one was.
    """

    idle: IdleModules
    inputs: Inputs
    known: Outlines | None
    outlines: Outlines = field(default_factory=dict)
    skipped: bool = False
    _calls: dict[str, int] = field(default_factory=dict)

    def call(self, path: str, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call of an idle module: run, or answered by its outline."""
        known = self.known
        key = (path, self._calls.get(path, 0))
        self._calls[path] = key[1] + 1
        if known is None:
            returned = inner(*args, **kwargs)
            self.outlines[key] = Outline.of(returned)
            return returned
        if key not in known:
            return inner(*args, **kwargs)
        self.skipped = True
        return known[key].filled(value=0.0 if self.inputs in self.idle.proven else float("nan"))

    def was_read(self, output: object, agree: Callable[[bool], bool] = bool) -> bool:
        """Whether what a replay returned shows that somebody read them; looks at the first of its kind alone.

        Args:
            output: what was returned: of several ranks with parts of one video, perhaps only this one's part.
            agree: makes of what this rank sees what all see.
        """
        if not self.skipped or self.inputs in self.idle.proven:
            return False
        if agree(not is_finite(output)):
            self.idle.read = True
        else:
            self.idle.proven.add(self.inputs)
        return self.idle.read


def is_finite(output: object) -> bool:
    """Whether all numbers in a denoiser's output are; not where it cannot be looked into."""
    found = list(_tensors(output))
    return bool(found) and all(part is not None and bool(part.isfinite().all()) for part in found)


def _tensors(value: object) -> Iterator[Tensor | None]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
    elif not isinstance(value, PLAIN_VALUES):
        yield None
