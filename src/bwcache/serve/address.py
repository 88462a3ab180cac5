"""The port, taken before anything slow happens; nobody is let in until all is ready."""

from __future__ import annotations

import errno
import socket

from bwcache.core.words import shown
from bwcache.errors import SettingError, complaint

MINE = "an address of this machine, and a port that anybody may take"


def reserve(host: str, port: int) -> socket.socket:
    """Return a socket that is bound and does not listen yet.

    Args:
        host: name or number.
        port: 0 takes any that is free.

    Raises:
        SettingError: it is taken, or no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise _refused(f"host {shown(host)} that is not known ({error})", MINE, "try 127.0.0.1") from error
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(address)
    except OSError as error:
        opened.close()
        where = f"{host}:{port}"
        if error.errno == errno.EADDRINUSE:
            action = "end what is there, or name another by --port"
            raise _refused(f"{where} in use", "a port that is free", action) from error
        raise _refused(f"{where}, which cannot be taken ({error.strerror})", MINE, "name another --host") from error
    return opened


def _refused(found: str, expected: str, action: str) -> SettingError:
    return SettingError(complaint(found, expected, action))
