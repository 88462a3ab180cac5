"""What the catalogue says of a policy. Each policy has its entry in its own file; there is no other list of them."""

from __future__ import annotations

import re
from dataclasses import dataclass


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
class Entry:
    """The facts of a policy that its code does not say by itself.

    Attributes:
        keeps: what waits from step to step to be reused, for each guidance branch, in hidden states; of the size of the
            latents where it says so.
        reads: what it looks at to decide.
        verified: what its decisions and results are held against in its test.
        calibration: what must be found beforehand, and how; empty: nothing.
        origin: where a method without a paper comes from.
        paper: None for methods without one.
    """

    keeps: str
    reads: str
    verified: str
    calibration: str = ""
    origin: str = ""
    paper: Paper | None = None
