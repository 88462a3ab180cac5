"""bwcache tune and plan: one file, what it promises, and what is refused."""

import json

import pytest

SMALL = ("--steps", "6", "--calibrate", "1", "--verify", "2")


def test_a_speed_is_tuned_exported_and_used(bwcache_command, tmp_path) -> None:
    ended = bwcache_command("tune", *SMALL, "--grade", "2x", "--out", "tuned.json")
    assert ended.code == 0, ended.err
    content = json.loads((tmp_path / "tuned.json").read_text())
    assert content["policy"]["name"] == "Tuned"
    assert content["policy"]["steps"][0] == 0
    assert len(content["policy"]["steps"]) == content["speed"]["computed"] == 3
    assert content["made_for"]["denoiser"] == "WanTransformer3DModel"
    assert content["made_for"]["scheduler"]["class"] == "FlowMatchEulerDiscreteScheduler"
    low, high = content["quality"]["interval"]
    assert low <= content["quality"]["psnr"] <= high
    assert content["quality"]["videos"] == 2
    assert "dB on 2 videos of prompts that were not used" in ended.out
    assert "6 steps" not in ended.out or "3 of 6 steps computed" in ended.out
    assert any("uncached videos" in line for line in ended.lines)

    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "tuned-parts" / "recordings").iterdir()}
    assert len(kept) == 3
    again = bwcache_command("tune", *SMALL, "--grade", "2x", "--out", "tuned.json", "--overwrite")
    assert again.code == 0, again.err
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert json.loads((tmp_path / "tuned.json").read_text())["policy"] == content["policy"]

    ended = bwcache_command("plan", "tuned.json", "--out", "plan.json")
    assert ended.code == 0, ended.err
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["computed"] == content["policy"]["steps"]
    assert [step for step, computed in enumerate(plan["compute"]) if computed] == plan["computed"]
    assert "3 of 6 steps computed (2.00x)" in ended.out

    ended = bwcache_command("compare", "--policy", "tuned.json", "--steps", "6", "--prompt", "a large red ring")
    assert ended.code == 0, ended.err
    run = json.loads((tmp_path / "bwcache-out" / "summary.json").read_text())["runs"][0]
    assert run["computed"] == 3
    assert run["reused"] == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--grade", "best"), "found grade 'best'; expected near, balanced, fast"),
        (("--prompt", "a ring"), "found 1 prompt, so that none is left to verify on"),
        (("--out", "tuned.txt"), "expected a name that ends with .json"),
        (("--out", "away/tuned.json"), "in a folder that is not there"),
        (("--verify", "1"), "found --verify 1; expected at least 2"),
    ],
)
def test_bad_input_ends_in_one_line_and_writes_nothing(bwcache_command, written, options, said) -> None:
    ended = bwcache_command("tune", *SMALL, *options)
    assert ended.code == 2
    assert len(ended.lines) == 1
    assert said in ended.lines[0]
    assert written() == []


def test_a_wish_out_of_reach_is_refused(bwcache_command, tmp_path) -> None:
    ended = bwcache_command("tune", *SMALL, "--grade", "80dB")
    assert ended.code == 2
    assert "found 80 dB, which no plan that was tried reaches; expected less (4 of 6 steps, 1.5x, come to" in ended.err
    assert not (tmp_path / "tuned.json").exists()


def test_a_speed_out_of_reach_is_refused(bwcache_command) -> None:
    ended = bwcache_command("tune", *SMALL, "--grade", "9x")
    assert ended.code == 2
    assert "found grade 9x of 6 steps; expected 1.5x to 3x" in ended.err


@pytest.mark.parametrize("command", ["plan", "compare"])
def test_broken_files_are_refused(bwcache_command, tmp_path, command) -> None:
    (tmp_path / "tuned.json").write_text("{")
    ended = bwcache_command(*(("plan", "tuned.json") if command == "plan" else ("compare", "--policy", "tuned.json")))
    assert ended.code == 2
    assert len(ended.lines) == 1
    assert "that is damaged" in ended.lines[0]


def test_an_untuned_plan_is_the_one_that_is_run(bwcache_command, tmp_path) -> None:
    ended = bwcache_command("plan", "--steps", "30", "--grade", "fast", "--out", "plan.json")
    assert ended.code == 0, ended.err
    plan = json.loads((tmp_path / "plan.json").read_text())
    ended = bwcache_command(
        "compare", "--policy", "planned", "--set", "tolerance=0.04", "--prompt", "a ring", "--steps", "30"
    )
    assert ended.code == 0, ended.err
    run = json.loads((tmp_path / "bwcache-out" / "summary.json").read_text())["runs"][0]
    assert run["computed"] == len(plan["computed"])
    assert 3 < len(plan["computed"]) < 15
    assert plan["compute"][0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "found neither a tuned file nor --steps; expected one of them"),
        (("--steps", "50", "--shift", "0"), "found --shift 0; expected more than 0"),
        (("--steps", "50", "--grade", "fest"), "did you mean fast?"),
        (("tuned.json", "--steps", "50"), "found --steps beside a tuned file"),
    ],
)
def test_plans_that_cannot_be(bwcache_command, written, options, said) -> None:
    ended = bwcache_command("plan", *options)
    assert ended.code == 2
    assert len(ended.lines) == 1
    assert said in ended.lines[0]
    assert written() == []


def test_nothing_is_overwritten_unasked(bwcache_command, tmp_path) -> None:
    (tmp_path / "tuned.json").write_text("mine")
    ended = bwcache_command("tune", *SMALL)
    assert ended.code == 2
    assert "add --overwrite" in ended.err
    assert (tmp_path / "tuned.json").read_text() == "mine"
