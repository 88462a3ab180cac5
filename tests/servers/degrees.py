"""How many ranks make one video within a server, and which one this process is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Degrees:
    """How many ranks make one video in each way.

    Attributes:
        tp, ulysses, ring, cfg: how many.
        rank: of this process.
        meeting: a file where they meet; none: it is alone.
    """

    tp: int = 1
    ulysses: int = 1
    ring: int = 1
    cfg: int = 1
    rank: int = 0
    meeting: str = ""

    @property
    def sequence(self) -> int:
        """Into how many parts the tokens of a video are cut."""
        return self.ulysses * self.ring

    @property
    def count(self) -> int:
        """All ranks."""
        return self.tp * self.sequence * self.cfg


DEGREES = [Degrees()]
"""What this process is; another one may be put there before anything is built."""
