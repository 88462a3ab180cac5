"""The pack in other languages: the files that ComfyUI's front end reads have an entry for all that is to be seen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.comfy.comfyui import needs_comfyui
from tests.comfy.fake_api import comfy_api
from tests.comfy.server import Server

LOCALES = Path(__file__).resolve().parents[2] / "comfyui" / "locales"
LANGUAGES = sorted(path.name for path in LOCALES.iterdir())
SYNTAX = set("{}@|$")
"""With a meaning of their own in the front end's messages."""


@pytest.fixture
def schemas(tmp_path: Path) -> Iterator[list[Any]]:
    with comfy_api(tmp_path / "output") as loaded:
        yield [node.define_schema() for node in loaded.NODES]


def read(language: str, name: str) -> Any:
    return json.loads((LOCALES / language / f"{name}.json").read_text(encoding="utf-8"))


def words(content: Any) -> Iterator[str]:
    """All texts in it."""
    if isinstance(content, dict):
        for value in content.values():
            yield from words(value)
    else:
        yield content


def test_these_languages_are_there() -> None:
    assert {"en", "de", "zh", "ja"} <= set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_input_and_tooltip_has_an_entry(schemas: list[Any], language: str) -> None:
    found = read(language, "nodeDefs")
    assert list(found) == [schema.node_id for schema in schemas]
    for schema in schemas:
        node = found[schema.node_id]
        assert set(node) == {"display_name", "description", "inputs", "outputs"}
        assert list(node["inputs"]) == [one.id for one in schema.inputs]
        assert list(node["outputs"]) == [str(place) for place in range(len(schema.outputs))]
        assert all(set(one) == {"name", "tooltip"} for one in node["inputs"].values())
        assert all(set(one) == {"name"} for one in node["outputs"].values())
    types = {"BWCACHE_RUN", "BWCACHE_METHOD"}
    assert read(language, "main").keys() == {"nodeCategories", "dataTypes"}
    assert read(language, "main")["dataTypes"].keys() == types
    for text in (*words(found), *words(read(language, "main"))):
        assert text.strip()
        assert not SYNTAX & set(text)


def test_english_is_what_the_nodes_say_themselves(schemas: list[Any]) -> None:
    found = read("en", "nodeDefs")
    for schema in schemas:
        node = found[schema.node_id]
        assert (node["display_name"], node["description"]) == (schema.display_name, schema.description)
        for one in schema.inputs:
            assert node["inputs"][one.id] == {"name": one.id, "tooltip": one.said["tooltip"]}
        names = [one.said["display_name"] for one in schema.outputs]
        assert [one["name"] for one in node["outputs"].values()] == names


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "en"])
def test_other_languages_are_translated(language: str) -> None:
    english, found = read("en", "nodeDefs"), read(language, "nodeDefs")
    for name, node in english.items():
        assert found[name]["description"] != node["description"]
        for field, one in node["inputs"].items():
            assert found[name]["inputs"][field]["tooltip"] != one["tooltip"]


@needs_comfyui
def test_the_server_hands_them_on(server: Server) -> None:
    found = server.get("/i18n")
    for language in LANGUAGES:
        assert found[language]["nodeDefs"]["BWCacheTune"] == read(language, "nodeDefs")["BWCacheTune"]
        assert found[language]["nodeCategories"]["bwcache"] == "BWCache"
