"""A pipeline without its weights: its class, its schedule and its empty modules, from the small files beside them.

What a pipeline can make is known from `model_index.json` and the configs. Its modules are built on torch's "meta"
device, where a weight has a shape and no memory, so that the pipeline itself and its own checks can be asked before
gigabytes are read.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
from pathlib import Path
from typing import Any

from bwcache.core.words import shown
from bwcache.errors import SettingError, complaint
from bwcache.models.refused import reason_of
from bwcache.models.table import row_of, supported

INDEX = "model_index.json"


def pipeline_kind(folder: Path) -> type[Any]:
    """Return the class of the pipeline that is saved in a folder.

    Raises:
        SettingError: the index cannot be read, or diffusers has no such class.
    """
    import diffusers

    name = _index(folder).get("_class_name")
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not inspect.isclass(kind) or not issubclass(kind, diffusers.DiffusionPipeline):
        near = difflib.get_close_matches(str(name), [one for one in dir(diffusers) if one.endswith("Pipeline")], 1)
        found = f"pipeline {shown(name)} in {folder.name!r}"
        action = f"did you mean {near[0]}?" if near else "take it where its own code is, and attach in Python"
        raise _refused(found, f"a pipeline class of diffusers {diffusers.__version__}", action)
    return kind


def check_known(folder: Path, kind: type[Any]) -> None:
    """Raise where none of the saved components is a denoiser that is in the table.

    Raises:
        SettingError: with the reasons why those that are there are not, where they were refused.
    """
    found = {name: one for name, one in _component_kinds(folder).items() if one is not None}
    if any(row_of(one) for one in found.values()):
        return
    unknown = [f"{name}: {one.__name__}" for name, one in found.items() if hasattr(one, "from_config")]
    reasons = [f"{one.__name__}: {reason_of(one)}" for one in found.values() if reason_of(one)]
    listed = f"{kind.__name__} with {', '.join(unknown) or 'no modules'}"
    raise _refused(
        f"{listed} ({'; '.join(reasons)})" if reasons else listed,
        f"one of the {len(supported())} denoisers that `bwcache models` lists",
        "in Python, find its row with bwcache.discover(module, inputs) and pass it as attach(…, spec=row)",
    )


def skeleton(folder: Path) -> Any | None:
    """Return the pipeline that is saved in a folder, without weights, tokenizers and processors.

    None where it cannot be built without them: then it can only be asked once it is loaded.

    Raises:
        SettingError: as `pipeline_kind` and `check_known`.
    """
    kind = pipeline_kind(folder)
    check_known(folder, kind)
    index = _index(folder)
    components = {name: _built(folder, name, one) for name, one in _component_kinds(folder).items()}
    settings = {name: value for name, value in index.items() if not name.startswith("_") and not _is_component(value)}
    taken = inspect.signature(kind.__init__).parameters
    given = {name: value for name, value in (settings | components).items() if name in taken}
    required = [name for name, one in taken.items() if name != "self" and one.default is one.empty]
    try:
        return kind(**dict.fromkeys(required) | given)
    except Exception:  # it looks into something that has been left out
        return None


def _index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        found = f"{INDEX} in {str(folder)!r} that cannot be read ({reason})"
        raise _refused(found, "that of a saved diffusers pipeline", "save it anew") from error
    if not isinstance(index, dict):
        raise _refused(f"{INDEX} in {str(folder)!r} with {shown(index)}", "a saved diffusers pipeline", "save it anew")
    return index


def _is_component(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(one, (str, type(None))) for one in value)


def _component_kinds(folder: Path) -> dict[str, type[Any] | None]:
    """Component -> its class; None for one that the pipeline lacks, or whose class cannot be imported."""
    listed = {name: value for name, value in _index(folder).items() if _is_component(value)}
    return {name: None if None in value else _class_of(*value) for name, value in listed.items()}


def _class_of(library: str, name: str) -> type[Any] | None:
    for module in (library, f"diffusers.pipelines.{library}"):
        try:
            found = getattr(importlib.import_module(module), name)
        except Exception:  # not there, or broken: loading says so, where it matters
            continue
        if inspect.isclass(found):
            return found
    return None


def _built(folder: Path, name: str, kind: type[Any] | None) -> Any | None:
    """A component without weights; None for what is no module and no scheduler."""
    import torch

    if kind is None:
        return None
    try:
        if issubclass(kind, torch.nn.Module):
            with torch.device("meta"):
                return _empty(folder / name, kind)
        if hasattr(kind, "set_timesteps") or hasattr(kind, "SCHEDULER_CONFIG_NAME"):
            return kind.from_config(kind.load_config(folder / name))
    except Exception:  # a module that computes while it is made
        return None
    return None


def _empty(path: Path, kind: type[Any]) -> Any:
    if hasattr(kind, "load_config"):  # diffusers
        return kind.from_config(kind.load_config(path))
    return kind(kind.config_class.from_pretrained(path))  # transformers


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
