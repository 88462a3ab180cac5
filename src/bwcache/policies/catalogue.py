"""The catalogue: what there is to say of a policy, gathered from its own file."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

from bwcache.policies.base import Policy
from bwcache.policies.presets import PRESETS
from bwcache.policies.published import CODE, PAPER, published_of

NO_DEFAULT = "must be given"

PROOFS = Path(__file__).with_name("proofs.json")
"""By policy: against what it was held, on which denoisers, what came out equal, in which test."""


def described(kind: type[Policy[Any]]) -> dict[str, Any]:
    """Return all that is known of a policy, ready for JSON.

    `rule` is the text at the head of its file. `fields` have a name, a default as it is written in Python, and what it
    means; `published` the model or checkpoint, the settings, and where they are from.
    """
    entry = kind.entry
    paper = entry.paper if entry else None
    return {
        "name": kind.__name__,
        "does": (inspect.getdoc(kind) or "").split("\n")[0],
        "paper": paper and {**dataclasses.asdict(paper), "year": paper.year},
        "origin": entry.origin if entry else "",
        "keeps": entry.keeps if entry else "",
        "reads": entry.reads if entry else "",
        "calibration": calibration_of(kind),
        "verified": entry.verified if entry else "",
        "proofs": proofs_of(kind),
        "rule": inspect.getdoc(sys.modules[kind.__module__]) or "",
        "fields": fields_of(kind),
        "published": published_for(kind),
        "bibtex": paper.bibtex if paper else "",
    }


def proofs_of(kind: type[Policy[Any]]) -> list[dict[str, Any]]:
    """Return its tests against something else: "against" what, "on" which denoisers and how guidance comes in each
    (denoiser -> one forward, two forwards, none), what is "equal", and the name of the "test".
    """
    proofs: list[dict[str, Any]] = json.loads(PROOFS.read_text(encoding="utf-8")).get(kind.__name__, [])
    return proofs if kind.entry else []


def calibration_of(kind: type[Policy[Any]]) -> str:
    """Return what must be found beforehand, with the command that finds it; empty: nothing."""
    entry = kind.entry
    if entry is None or entry.table is None:
        return entry.calibration if entry else ""
    return f"{entry.calibration}: `bwcache calibrate {kind.__name__}`"


def fields_of(kind: type[Policy[Any]]) -> list[dict[str, str]]:
    """Return name, default and meaning of each field, in order."""
    meanings = _meanings(inspect.getdoc(kind) or "")
    return [
        {"name": field.name, "default": _default(field), "meaning": meanings.get(field.name, "")}
        for field in dataclasses.fields(kind)
        if field.init
    ]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return NO_DEFAULT if field.default is dataclasses.MISSING else repr(field.default)


def _meanings(documented: str) -> dict[str, str]:
    """What stands under `Args:`, by the names before each colon."""
    found = re.search(r"^Args:\n((?:    .*\n?|\n)+)", documented, re.MULTILINE)
    meanings: dict[str, str] = {}
    for part in re.split(r"^    (?=\S)", found[1], flags=re.MULTILINE)[1:] if found else ():
        names, _, text = part.partition(": ")
        meanings |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return meanings


def published_for(kind: type[Policy[Any]]) -> list[dict[str, Any]]:
    """Return the published settings: those of the table of presets, and those of the policy's own file.

    Of some "calibrates" says that they are of a calibration, and no fields.
    """
    rows = [preset for preset in PRESETS if preset.method == kind.__name__]
    presets = [{"for": row.model, "settings": dict(row.settings), "source": row.source} for row in rows]
    paper = kind.entry.paper if kind.entry else None
    before = f"arXiv {paper.arxiv}, " if paper else ""
    own = published_of(kind).items()
    return [{**row, "calibrates": False} for row in presets] + [
        {
            "for": name,
            "settings": dict(one.settings),
            "source": before * one.source.startswith((CODE, PAPER)) + one.source,
            "calibrates": one.calibrates,
        }
        for name, one in own
    ]
