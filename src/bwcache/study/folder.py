"""A study on disk: who it is of, a cell per run, and the uncached videos.

    study.json            what all cells have in common: model, versions, sizes, steps, seeds
    cells/KEY.json        one run of one method
    references/KEY.npz    an uncached video, float32
    KIND/KEY.json         figures of another kind, such as a profile's
    KIND/KEY.npz          arrays of another kind, such as a tuning's recordings

Every file appears whole or not at all. A file that cannot be read is taken as not there, and said.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bwcache.core.files import CLAIM, read_json, whole_file, write_json
from bwcache.core.kinds import FLAG, NUMBER, OBJECT, SHARE, TEXT, WHOLE, between, check, each, maybe, table
from bwcache.errors import SettingError, complaint
from bwcache.measure.frames import Frames

FORMAT = "bwcache-study-1"
FOLDERS = ("cells", "references")
"""That are there from the beginning."""
KEY = 24
"""Hexadecimal digits of a key."""


@dataclass(frozen=True)
class Cell:
    """One run of one method.

    Attributes:
        family, label, settings: of the method.
        prompt, seed: of the video.
        compute: operations inside the blocks, as a share of the uncached run's, 0..1; None where it was not counted.
        steps, computed: steps of the run, and those with at least one branch computed; None without a trace.
        reuse_rate: share of the forwards that were reused, 0..1; None without a trace.
        seconds, denoise_seconds: of this run.
        uncached_seconds, uncached_denoise_seconds: of the uncached run beside it.
        quality: measure -> value against the uncached video; None where it could not be measured.
        identical: whether no pixel differs.
        kept_bytes: held between steps; None where it cannot be told.
        notes: what a person should know.
        unmeasured: why a measure is None.
        failed: why there is no result; the other figures are None then.
    """

    family: str
    label: str
    settings: dict[str, Any]
    prompt: str
    seed: int
    compute: float | None = None
    steps: int | None = None
    computed: int | None = None
    reuse_rate: float | None = None
    seconds: float | None = None
    denoise_seconds: float | None = None
    uncached_seconds: float | None = None
    uncached_denoise_seconds: float | None = None
    quality: dict[str, float | None] = field(default_factory=dict)
    identical: bool = False
    kept_bytes: int | None = None
    notes: tuple[str, ...] = ()
    failed: str | None = None
    unmeasured: tuple[str, ...] = ()

    @property
    def saved(self) -> float | None:
        """Share of the blocks' work that was not done, 0..1."""
        return None if self.compute is None else 1 - self.compute

    def to_json(self) -> dict[str, Any]:
        """Plain values, no infinities."""
        row = dataclasses.asdict(self)
        row |= {"notes": list(self.notes), "unmeasured": list(self.unmeasured)}
        row["quality"] = {name: _finite(value) for name, value in self.quality.items()}
        return row

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Cell:
        """The reverse. Raises `ValueError` for other fields than a cell's, or other kinds of values."""
        check(row, _CELL, _CELL_MORE, "cell")
        return cls(**{**row, **{name: tuple(row.get(name, ())) for name in ("notes", "unmeasured")}})


_CELL = {**dict.fromkeys(("family", "label", "prompt"), TEXT), "settings": OBJECT, "seed": WHOLE}
_CELL_MORE = {
    "compute": maybe(between(0)),
    **dict.fromkeys(("seconds", "denoise_seconds"), maybe(between(1e-9))),
    **dict.fromkeys(("uncached_seconds", "uncached_denoise_seconds"), maybe(between(1e-9))),
    **dict.fromkeys(("steps", "computed", "kept_bytes"), maybe(WHOLE)),
    "reuse_rate": maybe(SHARE),
    "quality": table(maybe(NUMBER)),
    "identical": FLAG,
    "failed": maybe(TEXT),
    **dict.fromkeys(("notes", "unmeasured"), each(TEXT)),
}


class Folder:
    """A study on disk.

    Args:
        path: made if it is not there.
        identity: what all cells have in common; a folder of another identity is refused.

    Raises:
        SettingError: the folder is of another study (the difference is named), holds other things, or cannot be
            written.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self.identity = json.loads(json.dumps(identity))
        self.damaged: list[str] = []
        self._check()
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / "study.json", {"format": FORMAT, **self.identity})
            for name in FOLDERS:
                (path / name).mkdir(exist_ok=True)
        except OSError as error:
            found = f"a folder {str(path)!r} that cannot be written ({error.strerror})"
            raise _refused(found, "one that can be", "name another one") from error

    def cell(self, *parts: Any) -> Cell | None:
        """The cell of a key, or None where it is not there or damaged."""
        path = self._place("cells", parts, ".json")
        try:
            kept = read_json(path)
            if kept["key"] != json.loads(json.dumps(parts)):
                raise ValueError("the cell of another key")
            return Cell.from_json(kept["cell"])
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, OSError):
            self._note_damage(path)
            return None

    def keep(self, cell: Cell, *parts: Any) -> None:
        """Writes a cell under a key."""
        write_json(self._place("cells", parts, ".json"), {"key": list(parts), "cell": cell.to_json()})

    def figures(self, kind: str, *parts: Any) -> dict[str, Any] | None:
        """What was kept under a kind and a key, or None where it is not there or damaged."""
        path = self._place(kind, parts, ".json")
        try:
            kept = read_json(path)
            found = kept["figures"] if kept["key"] == json.loads(json.dumps(parts)) else None
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, OSError):
            found = None
        if isinstance(found, dict):
            return found
        self._note_damage(path)
        return None

    def keep_figures(self, kind: str, figures: dict[str, Any], *parts: Any) -> None:
        """Writes plain values under a kind, which becomes a folder, and a key."""
        (self.path / kind).mkdir(exist_ok=True)
        write_json(self._place(kind, parts, ".json"), {"key": list(parts), "figures": figures})

    def reference(self, *parts: Any) -> Frames | None:
        """The uncached video of a key, or None where it is not there or damaged."""
        kept = self.arrays("references", ("frames",), *parts)
        return None if kept is None else kept["frames"]

    def keep_reference(self, frames: Frames, *parts: Any) -> None:
        """Writes an uncached video under a key."""
        self.keep_arrays("references", {"frames": frames.astype(np.float32, copy=False)}, *parts)

    def arrays(self, kind: str, names: Sequence[str], *parts: Any) -> dict[str, np.ndarray] | None:
        """The arrays of these names that were kept under a kind and a key; None where not all are there and whole."""
        path = self._place(kind, parts, ".npz")
        try:
            with path.open("rb") as file, np.load(file) as kept:
                return {name: kept[name] for name in names}
        except FileNotFoundError:
            return None
        except Exception:  # numpy and zipfile raise many kinds for a file that was cut short
            self._note_damage(path)
            return None

    def keep_arrays(self, kind: str, arrays: Mapping[str, Any], *parts: Any) -> None:
        """Writes arrays under a kind, which becomes a folder, and a key."""
        (self.path / kind).mkdir(exist_ok=True)
        with whole_file(self._place(kind, parts, ".npz")) as part, part.open("wb") as file:
            np.savez_compressed(file, **arrays)

    def remove(self) -> None:
        """Remove all that a study writes, and each folder that is empty then; whatever else lies there stays."""
        ours = [path for path in self.path.glob("*/*") if path.suffix in (".json", ".npz") and _is_key(path.stem)]
        for path in (*ours, self.path / "study.json"):
            path.unlink(missing_ok=True)
        for folder in (*{path.parent for path in ours}, *(self.path / name for name in FOLDERS), self.path):
            with contextlib.suppress(OSError):  # it is not empty, or not there
                folder.rmdir()

    def _place(self, kind: str, parts: tuple[Any, ...], suffix: str) -> Path:
        return self.path / kind / f"{key(self.identity, *parts)}{suffix}"

    def _note_damage(self, path: Path) -> None:
        name = str(path.relative_to(self.path))
        if name not in self.damaged:
            self.damaged.append(name)

    def _check(self) -> None:
        there = check_target(self.path)
        if there is not None:
            check_same(self.path, there, self.identity)


def check_same(path: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raise where the results in a folder are of another identity.

    Raises:
        SettingError: with the first difference.
    """
    for name, found, expected in differences(there, here):
        raise _refused(
            f"results of another {name} in {str(path)!r} ({found})",
            f"the same as now ({expected})",
            "name another folder",
        )


def check_target(
    path: Path, record: str = "study.json", form: str = FORMAT, what: str = "a study"
) -> dict[str, Any] | None:
    """What the results at a place have in common; None where there are none yet. Makes nothing.

    Args:
        path: of the folder.
        record: the file in it that says what they have in common.
        form: the format of that file.
        what: the results, in words.

    Raises:
        SettingError: it is a file, holds other things, or lies where nothing can be written.
    """
    where = repr(str(path))
    above = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if path.exists() and not path.is_dir():
        raise _refused(f"a file at {where}", "a folder", "name another one")
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise _refused(f"a folder {where} that cannot be written", "one that can be", "name another one")
    if not path.is_dir() or not any(not entry.name.startswith(CLAIM) for entry in path.iterdir()):
        return None
    try:
        there: dict[str, Any] = read_json(path / record)
        ours = there.pop("format", None) == form
    except FileNotFoundError:
        ours = False
    except (OSError, ValueError, AttributeError) as error:
        found = f"a {record} in {where} that cannot be read"
        raise _refused(found, "that of an earlier run", "name another folder, or delete this one") from error
    if not ours:
        raise _refused(f"other things than {what} in {where}", "an empty folder", "name another one")
    return there


def key(*parts: Any) -> str:
    """A short name for whatever a result depends on."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:KEY]


def _is_key(text: str) -> bool:
    return len(text) == KEY and set(text) <= set(string.hexdigits)


def differences(there: Any, here: Any, name: str = "study") -> Iterator[tuple[str, Any, Any]]:
    """Where two identities differ: the name of the value, what is there, what is here."""
    if isinstance(there, dict) and isinstance(here, dict):
        for inner in sorted(there.keys() | here.keys()):
            yield from differences(there.get(inner), here.get(inner), inner)
    elif there != here:
        yield name, there, here


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
