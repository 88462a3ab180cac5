"""Importing from a repository on a machine that lacks what it is made for: fused kernels, CUDA, trackers."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _Kind(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Placeholder()


class Placeholder(metaclass=_Kind):
    """Stands for whatever a stubbed module would have: a class to derive from, a decorator, a value nobody reads."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """The decorated thing itself, where it is used as a decorator."""
        decorated = len(args) == 1 and not kwargs and (inspect.isfunction(args[0]) or inspect.isclass(args[0]))
        return args[0] if decorated else super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Placeholder()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Another placeholder."""
        return type(self)(*args, **kwargs)


class _Stub(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        kind = type(name, (Placeholder,), {"__module__": self.__name__})
        setattr(self, name, kind)
        return kind


class _Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if any(fullname == name or fullname.startswith(f"{name}.") for name in self.names):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def stub(*names: str) -> None:
    """Lets these modules, and all below them, be imported as placeholders."""
    for asks in ("torch", "transformers", "diffusers", "peft"):  # what they find installed is settled before
        importlib.import_module(asks)
    sys.meta_path.insert(0, _Stubs(names))


def stub_absent(*names: str) -> tuple[str, ...]:
    """Stubs those of these packages that are not installed, and says which."""
    absent = tuple(name for name in names if importlib.util.find_spec(name) is None)
    stub(*absent)
    return absent


def shell(name: str, folder: Path) -> ModuleType:
    """A package of the repository whose `__init__` is not run, since it imports much that is not needed here."""
    module = ModuleType(name)
    module.__path__ = [str(folder)]
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    return module


def provide(name: str, **values: Any) -> ModuleType:
    """A module of that name with these values and nothing else."""
    module = ModuleType(name)
    vars(module).update(values, __path__=[])
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)
    return module


class BlockDiagonalMask:
    """That of xformers: rows of different lengths in one, each of which sees its own part of the other."""

    def __init__(self, queries: list[int], keys: list[int]) -> None:
        self.queries, self.keys = queries, keys

    @classmethod
    def from_seqlens(cls, queries: list[int], keys: list[int] | None = None) -> BlockDiagonalMask:
        """From the lengths of the rows."""
        return cls(list(queries), list(keys or queries))

    def dense(self) -> Tensor:
        """As a mask of `[queries, keys]`."""
        mine = torch.repeat_interleave(torch.arange(len(self.queries)), torch.tensor(self.queries))
        theirs = torch.repeat_interleave(torch.arange(len(self.keys)), torch.tensor(self.keys))
        return mine[:, None] == theirs[None]


def attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, attn_bias: Any = None, **kwargs: Any) -> Tensor:
    """The fused kernels' attention in plain torch: `[B, N, heads, C]`."""
    seen = attn_bias.dense() if isinstance(attn_bias, BlockDiagonalMask) else attn_bias
    q_, k_, v_ = (x.transpose(1, 2).to(v.dtype) for x in (q, k, v))
    made = F.scaled_dot_product_attention(q_, k_, v_, attn_mask=seen)
    return made.transpose(1, 2).to(q.dtype)


def provide_xformers() -> None:
    """The two things of xformers that the repositories use."""
    fmha = SimpleNamespace(BlockDiagonalMask=BlockDiagonalMask)
    provide("xformers")
    provide("xformers.ops", memory_efficient_attention=attention, fmha=fmha)


def on_cpu() -> None:
    """Where the code asks CUDA for its device, it gets the CPU."""
    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment,return-value]
    torch.cuda.synchronize = lambda *_: None
    provide("colossalai")
    provide("colossalai.utils", get_current_device=lambda: torch.device("cpu"))
