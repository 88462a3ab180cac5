"""What the libraries have to say while a peer is at work: collected as notes, instead of lines between the bars."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LIBRARIES = ("diffusers", "CACHE_DIT", "cache_dit")
LONGEST = 200


class Lines(logging.Handler):
    """Keeps each different line once, in order."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Takes note of a line."""
        text = " ".join(record.getMessage().split())
        text = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
        if text not in self.lines:
            self.lines.append(text)


@contextmanager
def library_warnings() -> Iterator[list[str]]:
    """The warnings of the libraries' loggers, as they come; nothing of them is printed meanwhile.

    A library that is loaded meanwhile makes loggers that print: what they say below a warning is held back too.
    """
    kept = Lines()
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    loggers += [logging.getLogger(name) for name, one in logging.Logger.manager.loggerDict.items() if _talks(name, one)]
    before = [(one, one.handlers[:], one.level, one.propagate) for one in loggers]
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.INFO))
    for one in loggers:
        one.handlers[:] = [kept]
        one.setLevel(logging.WARNING)
        one.propagate = False
    try:
        yield kept.lines
    finally:
        logging.disable(disabled)
        for one, handlers, level, propagate in before:
            one.handlers[:] = handlers
            one.setLevel(level)
            one.propagate = propagate


def _talks(name: str, logger: object) -> bool:
    """Whether this is a library's logger with handlers of its own."""
    return name.startswith(tuple(f"{one}." for one in LIBRARIES)) and bool(getattr(logger, "handlers", None))
