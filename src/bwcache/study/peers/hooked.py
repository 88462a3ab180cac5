"""The caches of diffusers: switched on by `enable_cache`, kept in hooks on the modules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import diffusers
from torch import nn

from bwcache.errors import AttachError, complaint
from bwcache.models import BlockStack
from bwcache.study.peers.peer import Peer, States, before_each_forward


@dataclass(frozen=True)
class HookedPeer(Peer):
    """A cache of diffusers."""

    @abstractmethod
    def config(self, pipe: Any, stack: BlockStack) -> Any:
        """What `enable_cache` of this denoiser is given."""

    def prepare(self, pipe: Any, hooks: Sequence[Any], modules: Sequence[nn.Module], undo: ExitStack) -> None:
        """What is to be done to the hooks once they are there."""

    def attach(self, pipe: Any, stacks: Mapping[str, BlockStack], undo: ExitStack) -> States:
        """Enables the cache on every denoiser, and looks whether hooks came onto its blocks.

        Raises:
            AttachError: the denoiser takes no cache, or none of its blocks was hooked.
        """
        modules = [stack.module for stack in stacks.values()]
        before = {id(hook) for module in modules for _, hook in hooks_of(module)}
        attached: list[Any] = []
        for stack in stacks.values():
            undo.callback(self._enable(stack, self.config(pipe, stack)))
            own = [(part, hook) for part, hook in hooks_of(stack.module) if id(hook) not in before]
            inside = {id(part) for block in stack.blocks for part in block.module.modules()}
            if not any(id(part) in inside for part, _ in own):
                raise AttachError(
                    complaint(
                        f"no block of {type(stack.module).__name__} that {self.family} attached to",
                        "hooks on its blocks",
                        "leave it out with --methods: diffusers does not know this model's blocks",
                    )
                )
            attached += [hook for _, hook in own]
        self.prepare(pipe, attached, modules, undo)
        return lambda: [state for hook in attached for state in states_of(hook)]

    def _enable(self, stack: BlockStack, config: Any) -> Any:
        enable = getattr(stack.module, "enable_cache", None)
        if enable is None:
            raise AttachError(
                complaint(
                    f"{type(stack.module).__name__}, on which diffusers offers no cache",
                    "a model with enable_cache",
                    "leave it out with --methods",
                )
            )
        enable(config)
        return stack.module.disable_cache

    def guard_by_threshold(
        self, pipe: Any, holders: Sequence[Any], threshold: float, modules: Sequence[nn.Module], undo: ExitStack
    ) -> None:
        """Guards that the method does not have: in guarded steps no change is small enough for its threshold."""

        def set_threshold() -> None:
            now = -1.0 if self.guards.hold(pipe) else threshold
            for holder in holders:
                holder.threshold = now

        before_each_forward(modules, set_threshold, undo)


def found_in_diffusers(name: str) -> Any:
    """A class of `diffusers.hooks`.

    Raises:
        AttachError: this release has none.
    """
    found = getattr(diffusers.hooks, name, None)
    if found is None:
        raise AttachError(
            complaint(f"diffusers {diffusers.__version__} without {name}", "a release that has it", "upgrade diffusers")
        )
    return found


def hooks_of(module: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    """The diffusers hooks on a module and inside of it, with the module that each is on."""
    for part in module.modules():
        registry = vars(part).get("_diffusers_hook")
        for hook in registry.hooks.values() if registry is not None else ():
            yield part, hook


def states_of(hook: Any) -> list[Any]:
    """Where a hook keeps tensors: its own state, and those of its branches."""
    managers = [value for value in vars(hook).values() if hasattr(value, "_state_cache")]
    kept = [state for manager in managers for state in manager._state_cache.values()]
    return [*kept, vars(hook).get("state")]


def by_branch(hook: Any, make: Any) -> None:
    """Gives a hook that knows no guidance branches a state for each of them.

    With guidance in two forwards, one state for both would hand the features of one branch to the other.
    """
    from diffusers.hooks.hooks import CacheContext, StateManager

    class ByBranch(type(hook)):  # type: ignore[misc]
        """The same hook, whose state is that of the branch that the pipeline names."""

        @property
        def state(self) -> Any:
            if self.branches._context is None:
                self.branches.set_context(CacheContext("all"))
            return self.branches.get_state()

        def reset_state(self, module: nn.Module) -> nn.Module:
            self.branches.reset()
            return module

    vars(hook).pop("state", None)
    hook.branches = StateManager(make)
    hook.__class__ = ByBranch
