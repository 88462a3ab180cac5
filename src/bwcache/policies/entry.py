"""What the catalogue says of a policy. Each policy has its entry in its own file; there is no other list of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Paper:
    """Where a method was published.

    Attributes:
        title: in full.
        authors: surnames in their order, with commas between; "others" at the end for those that are left out.
        arxiv: number, without a version.
        venue: conference and year; empty where it is a preprint.
    """

    title: str
    authors: str
    arxiv: str
    venue: str = ""

    @property
    def year(self) -> int:
        """Return that of the first version."""
        return 2000 + int(self.arxiv[:2])

    @property
    def key(self) -> str:
        """Return the name by which BibTeX cites it: first author, year, first word of the title."""
        author, word = re.sub(r"\W", "", self.authors.split(",")[0]), re.split(r"\W", self.title)[0]
        return f"{author}{self.year}{word}".lower()

    @property
    def bibtex(self) -> str:
        """Return its BibTeX entry, without a line's end."""
        lines = {
            "title": f"{{{self.title}}}",
            "author": self.authors.replace(", ", " and "),
            "year": self.year,
            "eprint": self.arxiv,
            "archivePrefix": "arXiv",
            **({"note": self.venue} if self.venue else {}),
        }
        return "\n".join([f"@misc{{{self.key},", *(f"  {name} = {{{value}}}," for name, value in lines.items()), "}"])


@dataclass(frozen=True)
class Table:
    """What of a policy is found beforehand, by `Policy.measuring` and `Policy.fitted`: `bwcache calibrate`.

    Attributes:
        fields: that are found; the first one holds the table.
        holds_for: the "model" it was made on; that model on its "schedule" of noise, in any number of steps; or only
            "runs" of that schedule in as many steps.
        authors: what a file of the method's authors holds, in words; empty: they publish none that could be read.
        forwards: how often the denoiser is evaluated in each step that is measured.
        smallest: a value of the first field with which other settings are checked before anything is measured, where
            it has no default.
    """

    fields: tuple[str, ...]
    holds_for: Literal["model", "schedule", "runs"]
    authors: str = ""
    forwards: int = 1
    smallest: object = None


@dataclass(frozen=True)
class Entry:
    """The facts of a policy that its code does not say by itself.

    Attributes:
        keeps: what waits from step to step to be reused, for each guidance branch, in hidden states; of the size of the
            latents where it says so.
        reads: what it looks at to decide.
        verified: what its decisions and results are held against in its test.
        calibration: what must be found beforehand; empty: nothing.
        table: of that, what `bwcache calibrate` finds; None: nothing.
        origin: where a method without a paper comes from.
        paper: None for methods without one.
    """

    keeps: str
    reads: str
    verified: str
    calibration: str = ""
    table: Table | None = None
    origin: str = ""
    paper: Paper | None = None
