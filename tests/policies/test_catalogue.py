"""The catalogue: every policy has an entry in its own file, and what it says agrees with the policy's text and code."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import bwcache
from bwcache import Policy
from bwcache.policies import known
from bwcache.policies.catalogue import NO_DEFAULT, described, fields_of
from bwcache.policies.entry import Entry, Paper
from bwcache.policies.presets import PRESETS
from tests.policies.test_known import EVERY

TESTS = Path(__file__).parent
TESTED_WITH = {"hierarchical_latent": "adacache", "per_denoiser": "guarded"}
"""File of a policy -> the file in whose test it is, where that is not its own."""

each_policy = pytest.mark.parametrize("kind", known().values(), ids=known())


def entry_of(kind: type[Policy[Any]]) -> Entry:
    entry = vars(kind).get("entry")
    assert isinstance(entry, Entry), f"{kind.__name__} has no entry of its own"
    return entry


def text_of(kind: type[Policy[Any]]) -> str:
    return " ".join((inspect.getdoc(sys.modules[kind.__module__]) or "").split())


@each_policy
def test_every_policy_has_an_entry_of_its_own(kind: type[Policy[Any]]) -> None:
    entry = entry_of(kind)
    assert all((entry.keeps, entry.reads, entry.verified))
    assert bool(entry.paper) != bool(entry.origin), "a paper, or else where it comes from"


@each_policy
def test_the_paper_is_the_one_that_the_file_names(kind: type[Policy[Any]]) -> None:
    paper, text = entry_of(kind).paper, text_of(kind)
    if paper is None:
        assert "no paper" in text.lower() or not re.search(r"\d{4}\.\d{5}", text)
        return
    assert paper.title in text
    assert paper.authors in text
    assert f"arXiv {paper.arxiv}" in text
    assert paper.venue in text
    assert re.fullmatch(r"\d{4}\.\d{5}", paper.arxiv)


@each_policy
def test_what_is_kept_is_what_the_predictor_asks_for(kind: type[Policy[Any]]) -> None:
    number = re.match(r"\d+", entry_of(kind).keeps)
    policy = next(one for one in EVERY if type(one) is kind)
    if all(field["default"] != NO_DEFAULT for field in fields_of(kind)):
        policy = kind()
    if number:
        assert policy.feature_predictor is not None
        assert policy.feature_predictor.history == int(number[0])


@each_policy
def test_what_has_a_table_says_how_it_is_made(kind: type[Policy[Any]]) -> None:
    has_table = kind.fitted.__func__ is not Policy.fitted.__func__  # type: ignore[attr-defined]
    table = entry_of(kind).table
    assert has_table == (table is not None)
    if table is not None:
        assert described(kind)["calibration"].endswith(f": `bwcache calibrate {kind.__name__}`")
        assert {*table.fields} <= {field["name"] for field in fields_of(kind)}
        assert bool(table.authors) == (kind.authors_table.__func__ is not Policy.authors_table.__func__)  # type: ignore[attr-defined]


@each_policy
def test_what_it_is_verified_against_is_in_a_test(kind: type[Policy[Any]]) -> None:
    file = kind.__module__.rpartition(".")[2]
    tests = list(TESTS.glob(f"test_{TESTED_WITH.get(file, file)}*.py"))
    assert any(kind.__name__ in test.read_text(encoding="utf-8") for test in tests)


@each_policy
def test_fields_have_their_meaning_from_the_docstring(kind: type[Policy[Any]]) -> None:
    fields = {field["name"]: field for field in fields_of(kind)}
    assert all(field["meaning"] for field in fields.values())
    for parameter in list(inspect.signature(kind).parameters.values())[: len(fields)]:
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            required = parameter.default is inspect.Parameter.empty
            assert (fields[parameter.name]["default"] == NO_DEFAULT) == required


def test_keys_of_citations_are_unlike() -> None:
    keys = [entry.paper.key for entry in map(entry_of, known().values()) if entry.paper]
    assert len(keys) == len(set(keys)) > 20


def test_a_citation_is_bibtex() -> None:
    assert bwcache.BWCache().citation() == (
        "@misc{cui2025bwcache,\n"
        "  title = {{BWCache: Accelerating Video Diffusion Transformers through Block-Wise Caching}},\n"
        "  author = {Cui and Tang and Xu and Yao and Zeng and Jia},\n"
        "  year = {2025},\n"
        "  eprint = {2509.13789},\n"
        "  archivePrefix = {arXiv},\n"
        "  note = {ICLR 2026},\n"
        "}"
    )
    assert "note" not in Paper("A", "B, others", "2301.00001").bibtex
    assert "author = {B and others}" in Paper("A", "B, others", "2301.00001").bibtex


def test_policies_around_others_cite_those() -> None:
    inside = bwcache.TeaCache()
    assert bwcache.Guarded(inside).citation() == inside.citation() != ""
    both = bwcache.PerDenoiser({"transformer": inside, "transformer_2": bwcache.BWCache(), "transformer_3": inside})
    assert both.citation() == f"{inside.citation()}\n\n{bwcache.BWCache().citation()}"
    assert bwcache.Adaptive().citation() == ""


def test_published_settings_are_those_of_the_table_and_of_the_file() -> None:
    ours = described(bwcache.BWCache)["published"]
    assert [row["source"] for row in ours] == [preset.source for preset in PRESETS]
    wan = next(row for row in described(bwcache.TeaCache)["published"] if row["for"] == "Wan2.1-T2V-1.3B")
    assert wan["settings"]["coefficients"] == bwcache.TeaCache.published("Wan2.1-T2V-1.3B").coefficients
    assert described(bwcache.Adaptive)["published"] == []


def test_a_policy_of_ones_own_needs_no_entry() -> None:
    class Own(bwcache.StepList):
        """Does as it is told."""

        entry = None

    said: Mapping[str, Any] = described(Own)
    assert (said["does"], said["paper"], said["bibtex"], said["keeps"]) == ("Does as it is told.", None, "", "")
    assert Own((0,)).citation() == ""
