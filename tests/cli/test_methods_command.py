"""`bwcache methods`: every policy in a table, one in full, both as JSON, and as a page."""

from __future__ import annotations

import json
from typing import Any

import pytest

import bwcache
from bwcache.cli.methods import WIDTH
from bwcache.policies import known
from bwcache.policies.catalogue import described
from tests.docs.test_docs import hooks, page


def test_the_table_has_every_policy_with_its_paper(bwcache_command: Any) -> None:
    ended = bwcache_command("methods")
    assert (ended.code, ended.err) == (0, "")
    lines = [line.split("  ")[0].strip() for line in ended.out.splitlines()]
    for name, kind in known().items():
        assert name in lines
        assert kind.entry is not None
        assert kind.entry.paper is None or f"arXiv {kind.entry.paper.arxiv}" in ended.out
    assert f"{len(known())} policies." in ended.out


def test_the_table_fits_a_hundred_columns_and_cuts_nothing(bwcache_command: Any) -> None:
    out = bwcache_command("methods").out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= WIDTH
    assert "…" not in out


@pytest.mark.parametrize("name", known())
def test_one_in_full(name: str, bwcache_command: Any) -> None:
    ended = bwcache_command("methods", name.lower())
    assert (ended.code, ended.err) == (0, "")
    one = described(known()[name])
    assert ended.out.startswith(f"{name}\n{one['does']}\n")
    assert one["rule"] in ended.out
    assert one["bibtex"] in ended.out
    assert all(f"\n  {field['name']} = {field['default']}\n" in ended.out for field in one["fields"])
    assert all(f"\n  {row['for']}: {row['source']}\n" in ended.out for row in one["published"])


def test_json_says_all_that_is_known(bwcache_command: Any) -> None:
    everything = json.loads(bwcache_command("methods", "--json").out)["methods"]
    assert [one["name"] for one in everything] == list(known())
    assert everything == json.loads(json.dumps([described(kind) for kind in known().values()]))
    (one,) = json.loads(bwcache_command("methods", "BWCache", "--json").out)["methods"]
    assert one["paper"]["arxiv"] == "2509.13789"
    assert one["bibtex"] == bwcache.BWCache().citation()


def test_an_unknown_name_is_one_line(bwcache_command: Any) -> None:
    for more in ([], ["--json"]):
        ended = bwcache_command("methods", "teecache", *more)
        assert (ended.code, ended.out, len(ended.lines)) == (2, "", 1)
        assert "did you mean TeaCache?" in ended.err


def test_the_page_says_what_the_command_says() -> None:
    pytest.importorskip("mkdocs")
    made = hooks().catalogue()
    assert "<!-- catalogue -->" in page("catalogue.md")
    for name, kind in known().items():
        one = described(kind)
        line = next(line for line in made.splitlines() if line.startswith(f"| [`{name}`](#{name.lower()})"))
        assert all(one[fact] in line for fact in ("keeps", "reads", "calibration", "verified"))
        assert f"## {name} {{ #{name.lower()} }}" in made
        assert one["rule"] in made
        assert one["bibtex"] in made
