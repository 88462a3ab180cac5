"""Who works on what, on a file system that several machines share: one file for each row that is taken.

    leases/NAME.0     made by whoever takes a row first; its content says who that is
    leases/NAME.1     made by whoever takes it over, because the one before is dead or gives no sign; and so on

A file is made so that only one can make it, and the one with the highest number holds the row. Nothing is ever renamed
or broken, so that two who find the same one dead cannot take it from each other. The holder renews its file while it
lives. How old a file is says the file system: its times are compared with that of a file just written there, never with
a machine's own clock. A process that is gone is seen at once by others on its machine.

A lease says who should work on a row. It cannot stop one that was taken for dead and comes back: what is made of a row
has to bear that two make it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
from pathlib import Path
from typing import Any

from bwcache.core.files import PART, parse_json, write_once

SECONDS = 300.0
"""Without a sign from a worker until it counts as dead."""
RENEWALS = 5
"""In that time, so that a few may be late: a busy machine, a slow file system, its caches."""


class Leases:
    """The leases of a folder.

    Args:
        folder: where they lie; it is there.
        seconds: without a sign from a holder until it counts as dead; the same for all who share the folder.
    """

    def __init__(self, folder: Path, seconds: float = SECONDS) -> None:
        self.folder = folder
        self.seconds = seconds

    def take(self, name: str) -> Lease | None:
        """Return the lease of a row that nobody holds, or whose holder is dead; None while somebody works on it."""
        last = max(self._numbers(name), default=None)
        if last is not None and not self._is_over(self._file(name, last)):
            return None
        number = 0 if last is None else last + 1
        mine = write_once(self._file(name, number), json.dumps(this_process()))
        return Lease(self, name, number) if mine else None

    def holder(self, name: str) -> str | None:
        """Return who holds a row, in words; None where nobody does."""
        last = max(self._numbers(name), default=None)
        if last is None:
            return None
        who = _read(self._file(name, last))
        return f"process {who['process']} on {who['host']}" if who else "somebody"

    def forget(self, name: str, last: int | None = None) -> None:
        """Remove the files of a row, up to a number if one is given: the highest first, which says who holds it."""
        for number in sorted(self._numbers(name), reverse=True):
            if last is None or number <= last:
                self._file(name, number).unlink(missing_ok=True)

    def names(self) -> set[str]:
        """Return the names of all rows with files here."""
        files = (path for path in self.folder.iterdir() if not path.name.startswith(PART))
        return {path.stem for path in files if path.suffix[1:].isdigit()}

    def now(self) -> float:
        """Return the file system's time, in seconds."""
        file = self.folder / f"{PART}{secrets.token_hex(4)}"
        file.touch()
        try:
            return file.stat().st_mtime
        finally:
            file.unlink(missing_ok=True)

    def _file(self, name: str, number: int) -> Path:
        return self.folder / f"{name}.{number}"

    def _numbers(self, name: str) -> list[int]:
        found = (entry.name.rpartition(".") for entry in os.scandir(self.folder) if entry.name.startswith(f"{name}."))
        return [int(number) for whose, _, number in found if whose == name and number.isdigit()]

    def _is_over(self, file: Path) -> bool:
        """Whether its holder is dead: gone from this machine, or without a sign for as long as the lease is."""
        try:
            who = _read(file)  # opened first: a network file system looks anew at what it opens
            written = file.stat().st_mtime
        except FileNotFoundError:  # given back in this moment
            return False
        return is_gone(who) or self.now() - written > self.seconds


class Lease:
    """A row that is taken, and renewed in a thread of its own until the block is left.

    Attributes:
        name: of the row.
        number: how many held it before, and died.
    """

    def __init__(self, leases: Leases, name: str, number: int) -> None:
        self.name, self.number = name, number
        self._leases = leases
        self._file = leases.folder / f"{name}.{number}"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease of {name}", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join(timeout=self._leases.seconds)
        if all(number <= self.number for number in self._leases._numbers(self.name)):  # else it was taken over
            self._leases.forget(self.name, self.number)

    def _renew(self) -> None:
        while not self._over.wait(self._leases.seconds / RENEWALS):
            with contextlib.suppress(OSError):  # taken over and done, or the file system is away: neither is an error
                os.utime(self._file)


def this_process() -> dict[str, Any]:
    """Return what a process is known by, ready for JSON: on its own machine by more than its number."""
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "machine": _machine(),
        "started": _started(os.getpid()),
    }


def is_gone(who: dict[str, Any] | None) -> bool:
    """Return whether a process of this machine has ended; False for another machine's, and where nobody can say."""
    if not who or who["machine"] is None or who["machine"] != _machine():
        return False
    return bool(who["started"] != _started(who["process"]))


def _machine() -> str | None:
    """This boot of this machine, and the space of process numbers in it; None where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(process: int) -> str | None:
    """When a process began, in ticks since the boot; None where it is not there, or is dead and not buried."""
    try:
        state, *rest = (
            Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        )
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else rest[18]


def _read(file: Path) -> dict[str, Any] | None:
    """What a holder wrote of itself; None where that is not whole yet."""
    try:
        who = parse_json(file.read_text(encoding="utf-8"))
        return who if set(who) == {"host", "process", "machine", "started"} else None
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError):
        return None
