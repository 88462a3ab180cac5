"""A pipeline by name: the model in the box, a folder, or a hub id; on a device, in a dtype."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

from bwcache.core.words import shown
from bwcache.errors import SettingError, complaint
from bwcache.extras import need

SHAPES = "shapes"
DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
DTYPES = ("auto", "float32", "bfloat16", "float16")
OFFLOADS = ("none", "model", "sequential", "group")
SMALL_FILES = ("model_index.json", "*/config.json", "*/scheduler_config.json")
OFFLINE_WORDS = ("offline", "connect", "resolve host", "name resolution", "network", "proxy", "outgoing traffic")


def check_source(model: str) -> None:
    """Raise when ``model`` cannot name a pipeline; costs no import and no network.

    Raises:
        SettingError: for a folder that is not there or does not hold a pipeline.
    """
    if model == SHAPES:
        return
    folder = folder_of(model)
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise _refused(
                f"no model_index.json in folder {model!r}",
                "a saved diffusers pipeline",
                "name the folder that DiffusionPipeline.save_pretrained wrote",
            )
    elif folder.exists():
        raise _refused(f"the file {model!r}", "the folder of a diffusers pipeline", "name that folder")
    elif model.startswith((".", "/", "~")) or model.count("/") != 1 or not all(model.split("/")):
        raise _refused(
            f"no folder {model!r}",
            f"a folder, a hub id such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers, or {SHAPES!r}",
            "check the spelling",
        )


def folder_of(model: str) -> Path:
    """Return the path that a name would mean as a folder.

    Raises:
        SettingError: no path that the system can follow.
    """
    try:
        folder = Path(model).expanduser()
        folder.is_dir()
        os.stat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return folder
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise _refused(
            f"model {shown(model)} ({reason})", "a folder that can be read, or a hub id", "name another"
        ) from error
    return folder


def small_files(model: str) -> Path:
    """Return a folder with a pipeline's index and configs; of a hub id they are fetched, and no weights.

    Raises:
        SettingError: it names no pipeline, or the hub does not give them.
    """
    check_source(model)
    need("diffusers")
    if model == SHAPES:
        from bwcache import shapes

        return shapes.PATH
    folder = folder_of(model)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=list(SMALL_FILES)))
    except Exception as error:  # whatever the hub, the network or the cache throw, the reader needs one line
        raise SettingError(_why_not(model, False, error)) from error


def check_device(device: str, offload: str = "none") -> str:
    """The device to use; "auto" takes a GPU when there is one.

    Raises:
        SettingError: for a device that is not there, and for offloading without an accelerator.
    """
    import torch

    kind, colon, index = device.partition(":")
    if kind not in DEVICES or (kind == "auto" and colon):
        raise _refused(f"device {shown(device)}", ", ".join(DEVICES), "name one of them")
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
        "xpu": torch.xpu.device_count() if hasattr(torch, "xpu") else 0,
    }
    if device == "auto":
        kind = device = next((name for name in ("cuda", "xpu", "mps") if there[name]), "cpu")
    if (colon and not re.fullmatch("[0-9]{1,4}", index)) or int(index or 0) >= there[kind]:
        raise _refused(
            f"device {shown(device)} but {there[kind]} such devices that torch {torch.__version__} can use",
            "one that is there",
            "use device cpu, or install a torch built for yours",
        )
    if offload != "none" and kind in ("cpu", "mps"):
        raise _refused(f"offload {offload!r} with device {device!r}", "a GPU to offload from", "use offload none")
    return device


def load_pipeline(model: str, device: str = "auto", dtype: str = "auto", offload: str = "none") -> Any:
    """Load a pipeline.

    Args:
        model: "shapes", a folder that holds a saved diffusers pipeline, or a hub id.
        device: "auto", "cpu", "cuda", "cuda:1", "mps", "xpu".
        dtype: "float32", "bfloat16", "float16"; "auto" is float32 on a CPU and for the shapes model, else bfloat16.
        offload: "none", "model" (one component on the GPU at a time), "sequential" (one layer) or "group" (groups of
            layers, the next ones prefetched).

    Raises:
        SettingError: when it cannot be loaded; the message says what to do.
    """
    check_source(model)
    device = check_device(device, offload)
    import torch

    if dtype not in DTYPES:
        raise _refused(f"dtype {dtype!r}", ", ".join(DTYPES), "name one of them")
    if dtype == "auto":
        dtype = "float32" if model == SHAPES or device == "cpu" else "bfloat16"
    pipe = _read(model, getattr(torch, dtype))
    _place(pipe, device, offload)
    return pipe


def _read(model: str, dtype: Any) -> Any:
    if model == SHAPES:
        from bwcache import shapes

        return shapes.load(dtype=dtype)
    need("diffusers")
    from diffusers import DiffusionPipeline

    folder = folder_of(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the old name of dtype works in every version so far
            return DiffusionPipeline.from_pretrained(str(folder) if folder.is_dir() else model, torch_dtype=dtype)
    except Exception as error:  # whatever a broken folder or an unknown class throws, the reader needs one line
        raise SettingError(_why_not(model, folder.is_dir(), error)) from error


def _why_not(model: str, is_folder: bool, error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    short = text if len(text) <= 120 else text[:117] + "..."
    if is_folder:
        return complaint(
            f"a folder {model!r} that cannot be loaded ({short})", "a saved diffusers pipeline", "save it anew"
        )
    offline = any(word in text.lower() for word in OFFLINE_WORDS)
    reason = "the hub cannot be reached and no copy is on this disk" if offline else short
    return complaint(
        f"no pipeline for the hub id {model!r} ({reason})",
        "the id of a diffusers pipeline, or a folder",
        "go online once or name a folder" if offline else "check the spelling and your access to it",
    )


def _place(pipe: Any, device: str, offload: str) -> None:
    import torch

    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    elif offload == "group":
        pipe.enable_group_offload(
            torch.device(device),
            offload_type="leaf_level",
            use_stream=device.startswith("cuda"),
            low_cpu_mem_usage=True,
        )
    else:
        pipe.to(device)


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
