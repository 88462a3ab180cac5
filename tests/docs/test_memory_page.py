"""The page on memory shows what the engine plans."""

from pathlib import Path
from typing import Any

from benchmarks.memory import GEOMETRIES, table

PAGE = Path(__file__).parents[2] / "docs" / "memory.md"


def test_the_table_is_what_the_engine_plans() -> None:
    assert table() in PAGE.read_text(encoding="utf-8"), "write it anew: python -m benchmarks.memory"


def test_the_geometries_are_those_of_the_models() -> None:
    for geometry in GEOMETRIES:
        config: Any = geometry.stack().module.config
        assert config.num_attention_heads * config.attention_head_dim == geometry.width
