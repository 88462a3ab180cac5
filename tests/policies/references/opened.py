"""Real denoisers, opened for references: at named modules a reference in numpy says what comes out.

A reference sees arrays alone, float32, so that it can be right bit for bit. Where guidance comes in one forward with
named branches, it is taken apart, the conditional half first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import bwcache
from bwcache import Policy
from bwcache.core import Trace
from tests.policies.halves import halves
from tests.policies.plain import LISTS
from tests.tiny import BY_NAME

Streams: TypeAlias = tuple[NDArray[Any], ...]
Compute: TypeAlias = Callable[[], Streams]
STREAMS = ("hidden_states", "encoder_hidden_states")
"""What enters a place, in this order, where it is there."""


class Reference(Protocol):
    """What a method's second implementation answers."""

    def begins(self, step: int, branch: int) -> None:
        """A forward begins; branch 0 is the conditional one."""

    def at(self, place: str, entering: Streams, compute: Compute) -> Streams:
        """Return what leaves a place, "" for the denoiser; `compute` runs it."""


def blocks_of(model: nn.Module) -> list[str]:
    """The names of a denoiser's blocks, in the order of their calls."""
    return [f"{name}.{i}" for name in LISTS for i in range(len(getattr(model, name, ())))]


def in_arrays(given: Any) -> Streams:
    tensors = given if isinstance(given, tuple) else (given,)
    return tuple(tensor.detach().clone().numpy() for tensor in tensors if isinstance(tensor, Tensor))


class _Opened:
    def __init__(self, model: nn.Module, reference: Reference, branches: int) -> None:
        self.model, self.reference, self.branches, self.forwards = model, reference, branches, -1

    def counting(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """The denoiser's forward that tells the reference where it is."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            self.forwards += 1
            self.reference.begins(*divmod(self.forwards, self.branches))
            return inner(*args, **kwargs)

        return forward

    def asking(self, place: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        """A module's forward that asks the reference."""
        signature, single = inspect.signature(inner), True

        def forward(*args: Any, **kwargs: Any) -> Any:
            given, made = signature.bind(*args, **kwargs).arguments, []

            def compute() -> Streams:
                nonlocal single
                returned = inner(*args, **kwargs)
                single = not isinstance(returned, tuple)
                made[:] = returned, in_arrays(returned)
                return made[1]

            left = self.reference.at(place, in_arrays(tuple(given.get(name) for name in STREAMS)), compute)
            if made and left is made[1]:
                return made[0]
            tensors = tuple(torch.from_numpy(np.ascontiguousarray(each)) for each in left)
            return tensors[0] if single and place else tensors

        return forward


@contextmanager
def opened(model: nn.Module, reference: Reference, places: Sequence[str], branches: Sequence[str]) -> Iterator[None]:
    """Ask a reference at the denoiser and at these modules of it.

    Args:
        model: the denoiser, called by name with `return_dict=False`.
        reference: who is asked.
        places: names of modules, "" the denoiser.
        branches: those of a pipeline's forwards, as in `tests.tiny.Case`.
    """
    joined = branches == ("cond_uncond",)
    with ExitStack() as undo:
        both = _Opened(model, reference, 2 if joined else len(branches))
        for place in places:
            _put(undo, model.get_submodule(place), partial(both.asking, place))
        _put(undo, model, both.counting)
        if joined:
            model.forward = halves(model.forward)
        yield


def _put(undo: ExitStack, module: Any, around: Callable[[Any], Any]) -> None:
    before = vars(module).get("forward")
    module.forward = around(module.forward)
    if before is None:
        undo.callback(delattr, module, "forward")


def by_reference(name: str, reference: Reference, places: Sequence[str], steps: int) -> Tensor:
    """The latents that a tiny pipeline makes where a reference is asked."""
    case, pipe = BY_NAME[name], BY_NAME[name].build()
    with opened(pipe.transformer, reference, ("", *places), case.branches):
        return case.run(pipe, num_inference_steps=steps)


def by_policy(name: str, policy: Policy[Any], steps: int) -> tuple[Trace, Tensor]:
    """The trace, and the latents that it makes with a policy."""
    case, pipe = BY_NAME[name], BY_NAME[name].build()
    with bwcache.attach(pipe, policy) as session:
        made = case.run(pipe, num_inference_steps=steps)
    return session.trace, made


def close(made: Tensor, expected: Tensor, within: float) -> bool:
    """Whether two runs made the same, within a share of its size."""
    return bool((made - expected).abs().max() <= within * expected.abs().max())
