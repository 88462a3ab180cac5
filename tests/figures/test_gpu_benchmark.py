"""The benchmark for GPUs, run tiny on a CPU, so that it works on the day when there is one."""

import json
from pathlib import Path

import pytest
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks import gpu, page
from benchmarks.geometries import hunyuan, wan

RATES = 3


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("gpu") / "figures.json"
    gpu.main(small=True, out=out)
    return json.loads(out.read_text(encoding="utf-8"))


def test_every_geometry_is_measured_compiled_and_not(figures: dict) -> None:
    assert set(figures["geometries"]) == {"Wan 2.1, tiny", "HunyuanVideo, tiny"}
    for geometry in figures["geometries"].values():
        for how in ("not compiled", "compiled"):
            found = geometry[how]
            assert found["race"]["finite"]
            assert len(found["race"]["rates"]) == RATES
            assert [row["reuse_rate"] for row in found["race"]["rates"]] == pytest.approx([3 / 7, 4 / 7, 4 / 7])
            assert 0 < found["race"]["share_of_the_blocks"] < 1
            assert found["race"]["seconds_per_reused_step"] > 0
            assert 0 < found["indicator_sampled"]["share_of_computed_steps"] < 1
            assert found["compiled_again"] == 0
        assert geometry["compiled"]["graph_breaks"] == 0
        assert geometry["compiled"]["graphs"] > geometry["not compiled"]["graphs"]


def test_exact_keeps_a_hidden_state_for_each_block_and_one_more(figures: dict) -> None:
    for geometry in figures["geometries"].values():
        exact, sampled = (geometry["not compiled"][name] for name in ("indicator_exact", "indicator_sampled"))
        assert exact["kept_hidden_states"] == pytest.approx(geometry["blocks"] + 1)
        assert 1 < sampled["kept_hidden_states"] < exact["kept_hidden_states"]


def test_the_pass_over_the_data_is_right(figures: dict) -> None:
    ways = [found for name, found in figures["kernel"].items() if name != "used"]
    assert len(ways) == 4
    assert all(found["relative_error"] < 1e-4 and found["copied"] for found in ways)


def test_the_real_geometries_are_the_published_ones() -> None:
    assert (wan(False).tokens, wan(False).width, wan(False).blocks) == (32_760, 1536, 30)
    assert (hunyuan(False).tokens, hunyuan(False).width) == (67_320, 3072)


def test_where_time_is_short_the_race_is_shorter() -> None:
    assert gpu.affordable(0.1, 100) == (17, 2)
    assert gpu.affordable(1.0, 85) == (17, 1)
    assert gpu.affordable(1.0, 60) == (7, 1)
    assert gpu.affordable(10.0, 100) is None


def test_a_rate_is_met_by_steps_that_are_spread_evenly() -> None:
    assert [gpu.computed_for(rate, 17) for rate in gpu.RATES] == [10, 8, 7]
    assert gpu.evenly(7, 17) == (0, 3, 5, 8, 11, 13, 16)
    assert gpu.evenly(1, 5) == (0,)


def test_what_fails_leaves_what_is_there(tmp_path: Path) -> None:
    results = gpu.Results(tmp_path / "figures.json", {"small": True})
    results.add("geometries", "one", tokens=3)
    results.add("geometries", "one", failed="out of memory")
    written = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert written == {"small": True, "geometries": {"one": {"tokens": 3, "failed": "out of memory"}}}


def test_the_page_shows_what_there_is_of_a_run_that_was_cut_short() -> None:
    found = page.on_gpus()[0]
    environment = Environment(loader=FileSystemLoader(page.HERE), undefined=StrictUndefined, trim_blocks=True)
    template = environment.get_template("gpu.md.jinja")
    whole = template.render(gpus=[found], of=lambda figures: "")
    assert "further ones 0 and 0" in " ".join(whole.split())
    for geometry in found["geometries"].values():
        geometry["not compiled"].pop("race")
        geometry.pop("compiled")
    cut = template.render(gpus=[found], of=lambda figures: "")
    assert "not finished" in cut
    assert "further ones 0." in " ".join(cut.split())
