"""How a live module is intercepted, one instance at a time, and how it becomes again what it was.

By what torch, diffusers or the model itself look up on every call:

- `Module._compiled_call_impl` is what `module(...)` runs if it is set (torch sets it in `Module.compile`). An
  interceptor there stands outside of everything else: forward patches of accelerate and of diffusers' hooks, forward
  hooks, and compiled code, which stays free of graph breaks. Nothing that patches or restores `forward` can lose it,
  torch leaves it out of copies and pickles, and a skipped block does not even load offloaded weights. Only a later
  `module.compile()` overwrites it: `Override.intact` tells.
- Where blocks are never called, but a function in a mapping for each of them, that entry is set.
- `cache_context` and `_reset_stateful_cache` are how pipelines tell a model the branch, the step and the end of a run.
- `progress_bar` is where a pipeline says how many steps its loop has.

The denoiser's own call is intercepted in the first way too, or its `forward`, where that is what callers call.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import nn

from bwcache.engine.clock.clock import heard
from bwcache.errors import SpecMismatchError, complaint
from bwcache.models.stack import Hook, Place

if TYPE_CHECKING:
    from bwcache.engine.session import Session

CALL = "_compiled_call_impl"
"""The instance attribute that `nn.Module.__call__` runs in place of `_call_impl`."""

Interceptor = Callable[[Callable[..., Any]], Callable[..., Any]]
"""What a module's call is, made into what it is to be."""

_ABSENT = object()


class Override:
    """An instance attribute set over whatever the object had under that name, until `restore`.

    Attributes:
        holder, name, value: the mapping that holds it, under which name, and what was set.
    """

    def __init__(self, target: Any, name: str, make: Callable[[Any], Any]) -> None:
        """`make` turns the present value (looked up as usual) into the new one."""
        self._target, self.name, self._make = target, name, make
        self.holder: Mapping[str, Any] = self._held()
        self.renew()

    def _held(self) -> Mapping[str, Any]:
        held: Mapping[str, Any] = vars(self._target)
        return held

    def _present(self) -> Any:
        return getattr(self._target, self.name)

    def _set(self, value: Any) -> None:
        setattr(self._target, self.name, value)

    def renew(self) -> None:
        """Set it, also over what somebody else has put there meanwhile."""
        self._own = self.holder.get(self.name, _ABSENT)
        self.value = self._make(self._present())
        self._set(self.value)

    def restore(self) -> None:
        """Put back what was there; leave alone what somebody else has put there meanwhile."""
        if self.holder.get(self.name) is not self.value:
            return
        if self._own is _ABSENT:
            delattr(self._target, self.name)
        else:
            self._set(self._own)


class Entry(Override):
    """The same for an entry that a mapping has."""

    def _held(self) -> Mapping[str, Any]:
        held: Mapping[str, Any] = self._target
        return held

    def _present(self) -> Any:
        return self._target[self.name]

    def _set(self, value: Any) -> None:
        self._target[self.name] = value

    def restore_in(self, module: nn.Module) -> None:
        """Puts back what was there in other mappings of the module too, into which it was copied meanwhile."""
        held = (value for part in module.modules() for value in vars(part).values() if isinstance(value, dict))
        for mapping in held:
            if mapping.get(self.name) is self.value:
                mapping[self.name] = self._own


def intercept_places(
    undo: ExitStack, module: nn.Module, places: Sequence[Place], arounds: Sequence[Interceptor]
) -> list[Override]:
    """Runs `around(inner)` in place of each call of a place of this module, or of what is called in its place."""
    overrides: list[Override] = []
    entries: dict[tuple[int, str], tuple[Hook, dict[int, Interceptor]]] = {}
    for place, around in zip(places, arounds, strict=True):
        if place.hook is None:
            overrides.append(intercept(place.module, around))
            undo.callback(overrides[-1].restore)
        else:
            key = (id(place.hook.owner), place.hook.name)
            entries.setdefault(key, (place.hook, {}))[1][place.hook.number] = around
    for hook, numbered in entries.values():
        make = functools.partial(_Stand, functools.partial(_by_number, hook.index, numbered))
        entry = Entry(hook.owner, hook.name, make)
        overrides.append(entry)
        undo.callback(entry.restore_in, module)
        undo.callback(entry.restore)
    return overrides


def _by_number(index: str, arounds: Mapping[int, Interceptor], inner: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is called for each block, with what stands around each of these calls."""
    calls = {number: around(inner) for number, around in arounds.items()}

    def called(*args: Any, **kwargs: Any) -> Any:
        number = kwargs.get(index)
        call = None if number is None else calls.get(int(number))
        if call is None:
            raise SpecMismatchError(
                complaint(
                    f"a call with {index}={number}",
                    f"one of 0 to {len(calls) - 1}",
                    "correct `index` in the model's row",
                )
            )
        return call(*args, **kwargs)

    return called


def intercept(module: nn.Module, around: Interceptor) -> Override:
    """Runs `around(inner)` in place of each call of this one module; `inner` is the call itself."""

    def make(compiled: Callable[..., Any] | None) -> Callable[..., Any]:
        call = around(module._call_impl if compiled is None else compiled)
        call.__dict__["beneath"] = compiled
        return call

    return Override(module, CALL, make)


def compiled_call(module: nn.Module) -> Any:
    """Return what a module runs in place of its own call, beneath all interceptors; None: nothing."""
    call: Any = getattr(module, CALL, None)
    while hasattr(call, "beneath"):
        call = call.beneath
    return call


def intercept_all(
    undo: ExitStack, modules: Mapping[str, nn.Module], around: Callable[[str], Interceptor]
) -> list[Override]:
    """Intercepts modules, each by what stands around it: told by its name."""
    overrides = [intercept(module, around(name)) for name, module in modules.items()]
    for override in overrides:
        undo.callback(override.restore)
    return overrides


_held: WeakKeyDictionary[nn.Module, weakref.ref[Session]] = WeakKeyDictionary()


def hold(undo: ExitStack, module: nn.Module, session: Session) -> None:
    """Take note of the session that holds a module, until it is undone."""
    _held[module] = weakref.ref(session)
    undo.callback(_held.pop, module, None)


def holder(module: nn.Module) -> Session | None:
    """Return the session that holds this module, or None."""
    found = _held.get(module)
    return None if found is None else found()


def sessions() -> list[Session]:
    """Return the sessions that hold any module."""
    found = (reference() for reference in list(_held.values()))
    return list({id(session): session for session in found if session is not None}.values())


def listen(undo: ExitStack, module: nn.Module, here: Any, end: Callable[[], None]) -> None:
    """Tells the clock that is `here` of each cache context (None as a pipeline leaves it), and of the end of a run."""

    def ending(inner: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(inner)
        def reset_stateful_cache(*args: Any, **kwargs: Any) -> Any:
            end()
            return inner(*args, **kwargs)

        return reset_stateful_cache

    stand_before(undo, module, "cache_context", functools.partial(functools.partial, heard, here))
    stand_before(undo, module, "_reset_stateful_cache", ending)


def forbid(undo: ExitStack, module: nn.Module, name: str, refuse: Callable[..., None]) -> None:
    """Lets `refuse` raise in place of a call of one of the module's methods."""
    stand_before(undo, module, name, lambda inner: refuse)


def stand_before(undo: ExitStack, module: Any, name: str, make: Interceptor) -> None:
    """Runs `make(method)` in place of one of the module's methods, if it has it."""
    if hasattr(module, name):
        undo.callback(Override(module, name, functools.partial(_Listener, module, name, make)).restore)
        undo.callback(_State.of(module).let_go)


class _Stand(functools.partial[Any]):
    """What stands in a mapping in the place of a function; a copy has the function itself, of the copied object."""

    def __new__(cls, make: Callable[[Any], Any], inner: Callable[..., Any]) -> _Stand:
        stand = super().__new__(cls, make(inner))
        functools.update_wrapper(stand, inner)
        stand._inner = inner
        return stand

    _inner: Callable[..., Any]

    def __reduce__(self) -> Any:
        return _itself, (self._inner,)


def _itself(value: Any) -> Any:
    return value


class _Listener(functools.partial[Any]):
    """A method set over one of the module's own; a copy of the module has its own method back."""

    def __new__(cls, module: Any, name: str, make: Callable[[Any], Any], inner: Callable[..., Any]) -> _Listener:
        listener = super().__new__(cls, make(inner))
        functools.update_wrapper(listener, inner)
        listener._module, listener._name = module, name
        listener.own = vars(module).get(name, _ABSENT)
        return listener

    _module: Any
    _name: str
    own: Any

    def __reduce__(self) -> Any:
        return getattr, (self._module, self._name)


class _State:
    """What copies and pickles are made of, of an object with listeners: of everything but these.

    A shallow copy would share them, and with them speak to the session of the object that it was copied from.
    """

    def __init__(self, target: Any) -> None:
        self._target, self._listeners = target, 0

    @classmethod
    def of(cls, target: Any) -> _State:
        """Return the one of this object, for one listener more."""
        state = vars(target).get("__getstate__")
        if not isinstance(state, cls):
            state = cls(target)
            target.__getstate__ = state
        state._listeners += 1
        return state

    def let_go(self) -> None:
        """A listener is gone."""
        self._listeners -= 1
        if self._listeners == 0 and vars(self._target).get("__getstate__") is self:
            del self._target.__getstate__

    def __call__(self) -> Any:
        kind: Any = type(self._target)
        state = kind.__getstate__(self._target) if hasattr(kind, "__getstate__") else dict(vars(self._target))
        if not isinstance(state, dict):
            return state
        return {name: _beneath(value) for name, value in state.items() if _beneath(value) is not _ABSENT}


def _beneath(value: Any) -> Any:
    """What an attribute is without what was set over it."""
    while isinstance(value, _Listener):
        value = value.own
    return _ABSENT if isinstance(value, _State) else value
