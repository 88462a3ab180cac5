"""`comfy_api.latest` and `folder_paths` as far as nodes are declared with them: keeps what it is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


class Told:
    """An input or output, with all that was said of it."""

    def __init__(self, id: str = "", **said: Any) -> None:
        self.id, self.said = id, said


def _kind(name: str) -> Any:
    return SimpleNamespace(
        name=name, Input=type(f"{name}Input", (Told,), {}), Output=type(f"{name}Output", (Told,), {})
    )


class ComfyNode:
    """What nodes derive from."""

    hidden = None


class NodeOutput:
    """What a node returns."""

    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args, self.ui = args, ui


class Shown:
    """What a node shows."""

    def __init__(self, value: Any, **_: Any) -> None:
        self.value = value

    def as_dict(self) -> dict[str, Any]:
        """As the front end gets it."""
        return {"text": (self.value,)} if isinstance(self.value, str) else {"images": [tuple(self.value.shape)]}


@contextmanager
def comfy_api(output: Path) -> Iterator[Any]:
    """The nodes, loaded with stand-ins for what only ComfyUI has; `output` is its output folder."""
    kinds = ("Model", "Combo", "Float", "Int", "String", "Latent", "Image", "Conditioning")
    io = SimpleNamespace(
        ComfyNode=ComfyNode, NodeOutput=NodeOutput, Custom=_kind, Schema=SimpleNamespace, **{k: _kind(k) for k in kinds}
    )
    latest = ModuleType("comfy_api.latest")
    vars(latest).update(ComfyExtension=object, io=io, ui=SimpleNamespace(PreviewText=Shown, PreviewImage=Shown))
    paths = ModuleType("folder_paths")
    vars(paths).update(get_output_directory=lambda: str(output))
    fakes = {"comfy_api": ModuleType("comfy_api"), "comfy_api.latest": latest, "folder_paths": paths}
    before = {name: sys.modules.get(name) for name in (*fakes, "bwcache.comfy.nodes")}
    sys.modules.update(fakes)
    sys.modules.pop("bwcache.comfy.nodes", None)
    try:
        import bwcache.comfy.nodes as nodes

        yield nodes
    finally:
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
