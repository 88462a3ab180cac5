"""How few entries and blocks suffice: the parts of the benchmark, and its whole on one video."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import sufficient
from tests.tiny import noise


def test_a_comparison_of_all_entries_is_eq_5() -> None:
    exact = sufficient.Comparison(None)
    steps = [[noise(1, 20, 9, seed=10 * step + block) for block in range(3)] for step in range(2)]
    for features in steps:
        for block, feature in enumerate(features):
            exact.record(0, block, 3, feature)
        exact.compare(0)
    (found,) = exact.found
    for block, (old, new) in enumerate(zip(*steps, strict=True)):
        torch.testing.assert_close(float(found[0, block]), float((new - old).abs().sum()), rtol=1e-5, atol=0)
        torch.testing.assert_close(float(found[1, block]), float(old.abs().sum()), rtol=1e-5, atol=0)


def test_branches_are_pooled_by_adding_before_the_division() -> None:
    exact = sufficient.Comparison(None)
    for step in range(2):
        for branch, size in enumerate((1.0, 3.0)):
            exact.record(branch, 0, 1, torch.full((1, 4, 2), size * (1 + step * branch)))
            exact.compare(branch)
    assert sufficient.means(exact.found, [0]) == pytest.approx([24 / 32])


def test_a_sample_has_about_as_many_entries_as_asked_for() -> None:
    for entries in (16, 128, 384):
        sample = sufficient.Comparison(entries)
        sample.record(0, 0, 1, noise(1, 80, 128))
        assert 0.9 * entries < sample.taken < 1.1 * entries


def test_blocks_are_spaced_evenly_and_the_last_is_among_them() -> None:
    assert sufficient.chosen(12, 12) == list(range(12))
    assert sufficient.chosen(4, 12) == [2, 5, 8, 11]
    assert sufficient.chosen(1, 12) == [11]


def test_agreement_counts_sides_of_every_threshold() -> None:
    assert sufficient.agreement([0.12, 0.3], [0.13, 0.4]) == 1
    assert sufficient.agreement([0.12, 0.3], [0.16, 0.3]) == 0.9


def test_on_one_video_all_entries_of_all_blocks_agree_and_one_block_is_further_off(tmp_path: Path) -> None:
    sufficient.main(prompts=1, out=tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    rows = {(row["all_entries"], row["entries_per_block"], row["blocks"]): row for row in figures["rows"]}
    assert figures["compared_steps"] == figures["steps"] - 1
    assert rows[True, 10240, 12]["agreement"] == 1
    assert rows[True, 10240, 12]["relative_error_max"] == 0
    assert rows[False, 379, 12]["relative_error_mean"] < 0.02
    assert rows[True, 10240, 1]["relative_error_mean"] > 10 * rows[False, 379, 12]["relative_error_mean"]
