"""The proofs of the catalogue: those that the tests name, on two models and with guidance in one forward and in two."""

from __future__ import annotations

from typing import Any

import pytest

from bwcache import Policy
from bwcache.policies import known
from bwcache.policies.catalogue import PROOFS, described
from tests.policies.proof import ONE, TWO
from tests.policies.proofs import written

PIPELINES = "it acts inside of pipelines that make a video chunk by chunk; no checkpoint guides in one forward"

EXCEPT = {
    "FlashBlock": f"{PIPELINES}; one of them tells its attention what is needed",
    "FlowCache": PIPELINES,
}
"""Why a method of a paper has fewer."""


def test_the_file_is_what_the_tests_say() -> None:
    """After a change: `python -m tests.policies.proofs`."""
    assert PROOFS.read_text(encoding="utf-8") == written()


@pytest.mark.parametrize("kind", known().values(), ids=known())
def test_every_method_is_held_against_something_on_two_models_with_guidance_of_both_kinds(
    kind: type[Policy[Any]],
) -> None:
    proofs: list[dict[str, Any]] = described(kind)["proofs"]
    assert proofs
    models = {model for proof in proofs for model in proof["on"]}
    how = {one for proof in proofs for each in proof["on"].values() for one in each}
    whole = len(models) > 1 and {ONE, TWO} <= how
    if kind.entry is not None and kind.entry.paper:
        assert whole == (kind.__name__ not in EXCEPT)
