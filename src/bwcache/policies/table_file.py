"""A table from a file: of `bwcache calibrate`, or as a method's authors publish it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bwcache.core.words import shown
from bwcache.errors import SettingError, complaint
from bwcache.policies.base import Own, Policy
from bwcache.policies.calibrated_file import CalibratedFile
from bwcache.policies.entry import Table
from bwcache.policies.policy_file import PolicyFile, kind_of, names_file, of_content, read_content, refused

ARRAYS = ".npz"
"""Of numpy, as some authors publish theirs."""


def table_of(kind: type[Policy[Any]]) -> Table | None:
    """Return which fields of a method are its table; None where it has none."""
    return kind.entry.table if kind.entry else None


def names_table(kind: type[Policy[Any]], field: str, value: object) -> bool:
    """Return whether a value of a policy's field names a file with its table."""
    table = table_of(kind)
    if table is None or field not in (table.fields[0], "table"):
        return False
    if field == "table":
        return isinstance(value, (str, Path))
    return names_file(value) or (isinstance(value, str) and value.lower().endswith(ARRAYS))


def table_fields(kind: type[Policy[Any]], path: str | Path) -> tuple[dict[str, Any], CalibratedFile | None]:
    """Return the fields that are the table of a file, and the file itself where it is one of `bwcache calibrate`.

    Args:
        kind: the method, which has a table.
        path: of the file.

    Raises:
        SettingError: it cannot be read, or holds no table of this method.
    """
    table, name = table_of(kind), shown(str(path))
    assert table is not None
    content = _arrays(path) if str(path).lower().endswith(ARRAYS) else read_content(path)
    if kind_of(content, CalibratedFile) is not None:
        file: CalibratedFile = of_content(content, name, CalibratedFile)
        _expect_of(kind, file, name)
        return {field: getattr(file.policy, field) for field in table.fields}, file
    try:
        found = kind.authors_table(content)
    except SettingError as error:
        raise SettingError(f"in {name}: {error}") from error
    if found is None:
        published = f", or as its authors publish it ({table.authors})" if table.authors else ""
        again = f"make one: bwcache calibrate {kind.__name__} --model …"
        raise refused(f"no table of {kind.__name__} in {name}", f"one of bwcache calibrate{published}", again)
    return found, None


def loaded(kind: type[Own], path: str | Path, settings: Mapping[str, Any]) -> Own:
    """Return a policy with the table of a file, and where `bwcache calibrate` wrote that, its other settings too.

    Raises:
        SettingError: as `table_fields`; the method has no table, or a setting cannot be.
    """
    from bwcache.policies.known import made

    if table_of(kind) is None:
        raise SettingError(complaint(f"a table for {kind.__name__}", "a policy that has one", "use it as it is"))
    fields, file = table_fields(kind, path)
    found = made(kind, {**fields, **settings}) if file is None else made(kind, settings, file.policy)
    assert isinstance(found, kind)
    return found


def _expect_of(kind: type[Policy[Any]], file: PolicyFile, name: str) -> None:
    other = type(file.policy).__name__
    if type(file.policy) is not kind:
        again = f"name that method, or calibrate this one: bwcache calibrate {kind.__name__} --model …"
        raise refused(f"a table of {other} in {name}", f"one of {kind.__name__}", again)


def _arrays(path: str | Path) -> dict[str, Any]:
    """The arrays of a file of numpy, as lists by name; nothing in it is run."""
    name = shown(str(path))
    try:
        with np.load(Path(path).expanduser(), allow_pickle=False) as arrays:
            return {each: arrays[each].tolist() for each in arrays.files}
    except Exception as error:  # whatever a damaged archive makes of it
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise refused(f"a file {name} that cannot be read ({reason})", "arrays of numpy", "check the path") from error
