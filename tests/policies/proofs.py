"""All that tests prove of the policies, for the catalogue: `python -m tests.policies.proofs` writes it down."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from bwcache.policies import known
from bwcache.policies.catalogue import PROOFS
from tests.policies.proof import models_of

HERE = Path(__file__).parent


def gathered() -> dict[str, list[dict[str, Any]]]:
    """Return the proofs of each policy that has some: against what, on which models, what is equal, the test's name."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in known()}
    for path in sorted(HERE.rglob("test_*.py")):
        parts = path.relative_to(HERE.parent).with_suffix("").parts
        module = importlib.import_module(".".join(("tests", *parts)))
        for name, test in vars(module).items():
            for proof in getattr(test, "proofs", ()) if getattr(test, "__module__", "") == module.__name__ else ():
                row = {"against": proof.against, "on": models_of(proof, test), "equal": proof.equal}
                found[proof.policy].append({**row, "test": f"{'/'.join(parts)}.py::{name}"})
    return {name: proofs for name, proofs in found.items() if proofs}


def written() -> str:
    """Return them as they stand in the file."""
    return json.dumps(gathered(), indent=1) + "\n"


if __name__ == "__main__":
    PROOFS.write_text(written(), encoding="utf-8")
