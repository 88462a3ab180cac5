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

import torch
from torch import Tensor, nn

from bwcache.engine.clock.call import PLAIN_VALUES, Inputs
from bwcache.errors import AttachError, complaint
from bwcache.features.shards import Sharding


@dataclass(frozen=True, slots=True)
class Outline:
    """What a block returned, without the values: enough for whoever only asks for shapes.

    Attributes:
        kind: of the value: a tensor's, a sequence's, or anything else's.
        size, dtype, device: of a tensor; its first size for one sample.
        items: of a sequence.
        value: anything else, as it was.
    """

    kind: type
    size: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    device: torch.device | None = None
    items: tuple[Outline, ...] = ()
    value: object = None

    @classmethod
    def of(cls, value: object, samples: int = 1) -> Outline:
        """The outline of what a block returned for so many samples."""
        if isinstance(value, Tensor):
            if Sharding.of(value) is not None:
                raise AttachError(
                    complaint(
                        f"a skipped block's value of {tuple(value.shape)} that lies on several ranks (a DTensor)",
                        "blocks that return what they take in",
                        "choose a policy that reuses the denoiser as a whole: those of 'bwcache methods' that keep "
                        "what is of the size of the latents",
                    )
                )
            return cls(Tensor, (len(value) // samples, *value.shape[1:]), value.dtype, value.device)
        if type(value) is list or type(value) is tuple:
            return cls(type(value), items=tuple(cls.of(item, samples) for item in value))
        return cls(object, value=value)

    def filled(self, samples: int = 1, value: float = 0.0) -> Any:
        """Return a value of this outline, whose tensors hold `value` everywhere; zeros where it is none of theirs."""
        if self.kind is Tensor:
            size = (self.size[0] * samples, *self.size[1:])
            own = value if self.dtype is not None and (self.dtype.is_floating_point or self.dtype.is_complex) else 0
            return torch.full(size, own, dtype=self.dtype, device=self.device)
        if self.kind in (list, tuple):
            return self.kind([item.filled(samples, value) for item in self.items])
        return self.value


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
