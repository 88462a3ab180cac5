"""What a model holds, by which it is known again: every byte of its weights, its settings, the words of its tokenizer.

A study goes on with what is in its folder. Names and sizes do not tell whether that was the same model: a fine-tune, a
merged adapter, another decoder or text encoder has the same ones.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

from bwcache.errors import SettingError, complaint
from bwcache.models import denoisers

LATER = ("transformers_version", "name_or_path")
"""Settings that say where and by whom a component was saved, not what it does."""
SWITCHES = ("use_", "tile_")
"""How the attributes begin by which a decoder is told to work in tiles."""


def fingerprint(pipe: Any) -> dict[str, str]:
    """Return 16 hexadecimal digits for what each component of a pipeline holds, and for the pipeline's own settings.

    All bytes are read, by zlib's CRC-32 of each tensor, on as many threads as torch has: 3 GB/s on one core of a cloud
    machine. The model in the box (21 MB) takes .04 s. Wan 2.1 14B with its text encoder and decoder, 40 GB in bfloat16,
    would take 13 s on one core: less than to read it from most disks. Weights on an accelerator are copied to the host.

    Raises:
        SettingError: weights that are nowhere in memory.
    """
    parts = dict(getattr(pipe, "components", None) or denoisers(pipe))
    own = {name: value for name, value in _settings(pipe).items() if name not in parts}
    return {"pipeline": _digest([_json(own)]), **{name: _digest(_lines(name, part)) for name, part in parts.items()}}


def _lines(name: str, part: Any) -> Iterator[str]:
    """Everything that the work of a component depends on."""
    yield f"{type(part).__module__}.{type(part).__qualname__}"
    if part is None or isinstance(part, (bool, int, float, str)):
        yield repr(part)
    yield _json(_settings(part))
    if hasattr(part, "get_vocab"):
        yield _json(_words(part))
    if isinstance(part, nn.Module):
        yield _json({key: value for key, value in vars(part).items() if key.startswith(SWITCHES)})
        yield from _weights(name, part)


def _settings(part: Any) -> dict[str, Any]:
    """A component's configuration, without where it came from."""
    found: Any = getattr(part, "config", None)
    if hasattr(found, "to_dict"):
        found = found.to_dict()
    elif found is None and hasattr(part, "to_dict"):  # image processors
        found = part.to_dict()
    settings = dict(found) if isinstance(found, Mapping) else {}
    return {key: value for key, value in settings.items() if not key.startswith("_") and key not in LATER}


def _words(tokenizer: Any) -> dict[str, Any]:
    """How a tokenizer turns text into numbers."""
    own = ("model_max_length", "padding_side", "truncation_side", "special_tokens_map")
    found = {key: getattr(tokenizer, key, None) for key in own}
    found["vocabulary"] = sorted(tokenizer.get_vocab().items())
    if (fast := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        rules = json.loads(fast.to_str())
        found["rules"] = {key: rule for key, rule in rules.items() if key not in ("padding", "truncation")}  # of a call
    return found


def _weights(name: str, module: nn.Module) -> Iterator[str]:
    """A line for each tensor: parameters, buffers, and what a quantised layer saves beside them."""
    tensors = dict(module.state_dict()) | dict(module.named_parameters()) | dict(module.named_buffers())
    plain = [
        (inner, part)
        for inner in sorted(tensors)
        if isinstance(tensors[inner], torch.Tensor)
        for part in _plain(_in_memory(name, module, inner, tensors[inner]))
    ]
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        sums = threads.map(_checksum, (part for _, part in plain))
        for (inner, part), found in zip(plain, sums, strict=True):
            yield f"{inner} {tuple(part.shape)} {part.dtype} {found:08x}"


def _checksum(tensor: torch.Tensor) -> int:
    with torch.no_grad():
        row = tensor.detach().as_subclass(torch.Tensor).resolve_conj().resolve_neg().flatten().contiguous()
        return zlib.crc32(row.cpu().view(torch.uint8).numpy().data)


def _plain(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensors that one is made of: a quantised or sharded one has several."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for inner in names:
        yield from _plain(getattr(tensor, inner))


def _in_memory(name: str, module: nn.Module, inner: str, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor itself, or where accelerate keeps it while a layer does not run (sequential offloading)."""
    if tensor.device.type != "meta":
        return tensor
    path = inner.split(".")
    for place in reversed(range(len(path))):
        below = ".".join(path[place:])
        hook = getattr(module.get_submodule(".".join(path[:place])), "_hf_hook", None)
        for one in (hook, *getattr(hook, "hooks", ())):
            kept = getattr(one, "weights_map", None)
            if kept is not None and below in set(kept):
                waiting: torch.Tensor = kept[below]
                return waiting
    found = f"no values of {name}.{inner}, a weight on the meta device"
    raise SettingError(complaint(found, "weights in memory", "use offload none, model or sequential"))


def _digest(lines: Any) -> str:
    seen = hashlib.sha256()
    for line in lines:
        seen.update(line.encode() + b"\n")
    return seen.hexdigest()[:16]


def _json(content: Any) -> str:
    return json.dumps(content, sort_keys=True, default=_word, ensure_ascii=False)


def _word(value: Any) -> Any:
    """What JSON does not know, so that it is the same in every process."""
    if hasattr(value, "tolist"):
        return value.tolist()
    shown = repr(value)
    return type(value).__qualname__ if " at 0x" in shown else shown
