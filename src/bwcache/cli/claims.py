"""One command at a time writes to a folder.

A command keeps `.bwcache` in the folder while it runs: a locked file that names it, and what it has not finished. The
lock is the system's own and ends with its process, however that ends; what a killed command left is removed by the
next.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from bwcache.core.files import CLAIM
from bwcache.errors import SettingError, complaint

try:
    import fcntl
except ImportError:  # Windows, which has no such locks: nothing is claimed there
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"


@contextlib.contextmanager
def claimed(target: Path) -> Iterator[Path]:
    """Claim a folder, which is made if it is not there; gives an empty hidden one in it for what is not finished yet.

    Afterwards the hidden folder is gone, and so are `target` and the folders made for it, as far as they are empty.

    Raises:
        SettingError: another command writes to it, or nothing can be written there.
    """
    missing = [folder for folder in (target, *target.parents) if not folder.exists()]
    hidden = target / CLAIM
    unfinished = hidden / "unfinished"
    try:
        with _locked(target, hidden):
            shutil.rmtree(unfinished, ignore_errors=True)  # of a command that was killed
            try:
                unfinished.mkdir()
                yield unfinished
            finally:
                with uninterrupted():
                    shutil.rmtree(unfinished, ignore_errors=True)
                    (hidden / LOCK).unlink(missing_ok=True)
    finally:
        for folder in (hidden, *missing):  # from the deepest on; only while empty
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back for the moment that tidying up takes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _locked(target: Path, hidden: Path) -> Iterator[None]:
    try:
        descriptor = _lock(hidden / LOCK)
    except BlockingIOError as error:
        found = f"--out {str(target)!r} in use by {error.args[1]}"
        raise _refused(found, "a folder that no other command writes to", "wait for it or name another one") from None
    except OSError as error:
        found = f"--out {str(target)!r} that cannot be written ({error.strerror})"
        raise _refused(found, "one that can be", "name another one") from error
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path) -> int:
    """Make the file and lock it. Raises `BlockingIOError` with the name of who holds it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the one before has just removed its folder
            continue
        try:
            _hold(descriptor)
            if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the one before has removed what is locked now


def _hold(descriptor: int) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(
            error.errno, os.read(descriptor, 200).decode(errors="replace") or "another command"
        ) from None
    except OSError:  # a file system without locks
        return


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
