"""Files that appear whole or not at all, and strict JSON in them.

Text is written as UTF-8 whatever it holds: a letter that UTF-8 has no bytes for (half of a pair, as a file name that is
no UTF-8 is read) becomes its escape, which JSON reads back as the same letter.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

CLAIM = ".bwcache"
"""Of a folder inside an output folder: that of the command that writes there now."""

PART = ".bwcache-part-"
"""How the name of a file begins that is not finished."""

DEEPEST = 100
"""How often values may lie in one another: what is deeper can be read but not shown."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to, beside `path` and with its suffix; it takes the place of `path` if all goes well."""
    part = _part(path)
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8, whole or not at all."""
    with whole_file(path) as part:
        part.write_bytes(text.encode("utf-8", "backslashreplace"))


def write_once(path: Path, text: str) -> bool:
    """Write UTF-8 where no file is yet, whole or not at all; return whether this call did, and no other one before.

    On a file system without hard links the file may be seen half for a moment; it is written once there, too.
    """
    part = _part(path)
    try:
        part.write_bytes(text.encode("utf-8", "backslashreplace"))
        return _linked(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: Any, indent: int = 1) -> None:
    """Write strict JSON, whole or not at all. Raises `ValueError` for a number that is not finite."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def named_without_suffix(text: str, suffix: str) -> str | None:
    """Return the file that is there under a name with this suffix, where the text lacks it or has another one."""
    try:
        places = (Path(text + suffix), Path(text).with_suffix(suffix))
        return next((str(place) for place in places if place.is_file()), None)
    except (OSError, ValueError):  # no name of a file
        return None


def read_json(path: Path) -> Any:
    """Return what a file of strict JSON holds, with or without a byte order mark.

    Raises `OSError`, and `ValueError` as `parse_json`.
    """
    return parse_json(path.read_text(encoding="utf-8-sig"))


def parse_json(text: str) -> Any:
    """Return the value of strict JSON.

    Raises `ValueError`: no JSON, a number that is not finite, a name that says two things, nested too deeply.
    """
    try:
        value = json.loads(text, parse_constant=_not_finite, parse_float=_finite, object_pairs_hook=_once)
    except RecursionError:
        value = None
    if text.count("[") + text.count("{") > DEEPEST and (value is None or _deep(value)):
        raise ValueError(f"it is nested deeper than {DEEPEST} times")
    return value


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left unfinished in a folder that nobody else writes to, and in those inside it."""
    for path in [*folder.glob(f"{PART}*"), *folder.glob(f"*/{PART}*")]:
        path.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    return path.with_name(f"{PART}{secrets.token_hex(4)}{path.suffix}")


def _linked(part: Path, path: Path) -> bool:
    try:
        os.link(part, path)
    except FileExistsError:
        return part.stat().st_nlink == 2  # done, and the answer was lost on the way: asked again, a server says no
    except OSError:  # no links here
        return _created(path, part.read_bytes())
    return True


def _created(path: Path, content: bytes) -> bool:
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list))]
        level = [one for some in inner for one in some]
    return any(isinstance(one, (dict, list)) for one in level)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise ValueError(f"the name {name[:40]!r} stands there twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _not_finite(text)


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"the number {text[:20]} is not finite")
