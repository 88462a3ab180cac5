"""bwcache tune and plan: one file and one page, what they promise, how they go on, and what is refused."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bwcache.cli import main
from bwcache.cli.tune import calls, summary
from bwcache.policies.tuned_file import read_tuned
from bwcache.study.tuning.runs import Runs
from bwcache.study.tuning.videos import Videos
from tests.cli.saved import saved

STEPS = 6
SMALL = ("--steps", STEPS, "--height", "32", "--width", "32", "--frames", "5")
PROMPTS = ("--prompt", "one", "--prompt", "two", "--prompt", "three", "--prompt", "four")
FEW = ("--calibrate", "2", "--verify", "2", "--budget", "12")


def words(*more: Any) -> list[str]:
    return [str(word) for word in ("tune", "--model", saved("t2v"), *SMALL, *PROMPTS, *FEW, *more)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """One tuning: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("tuned")
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(SystemExit) as ended, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        main(words("--grade", "2x", "--out", folder / "tuned.json"))
    assert ended.value.code == 0, err.getvalue()
    return folder, out.getvalue(), err.getvalue()


@pytest.fixture
def content(made: tuple[Path, str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((made[0] / "tuned.json").read_text())
    return found


def test_a_file_says_what_it_is_and_what_was_measured(content: dict[str, Any]) -> None:
    assert content["policy"]["name"] == "Tuned"
    assert content["policy"]["steps"][0] == 0
    assert len(content["policy"]["steps"]) == content["speed"]["computed"] == 3
    assert content["made_for"]["denoiser"] == "WanTransformer3DModel"
    assert content["made_for"]["scheduler"]["class"] == "FlowMatchEulerDiscreteScheduler"
    low, high = content["quality"]["interval"]
    assert low <= content["quality"]["psnr"] <= high
    assert content["quality"]["videos"] == 2
    assert content["quality"]["kept"]
    assert list(content["quality"]["expected"]) == ["3"]


def test_it_says_what_it_will_take_and_what_it_found(made: tuple[Path, str, str]) -> None:
    _, out, err = made
    assert "2 videos to calibrate on, 2 of other prompts to verify on" in err
    assert "at most 72 steps computed, the work of 12 uncached videos" in err
    assert "3 of 6 steps computed: 2x of the denoiser's time" in out
    assert "dB on 2 videos of prompts that were not used" in out


def test_what_it_says_to_go_on_with_is_taken_as_it_stands(made: tuple[Path, str, str]) -> None:
    last = summary(read_tuned(made[0] / "tuned.json"), Path("plans/of mine/tüned.json"))[-1]
    assert 'bwcache.attach(pipe, "plans/of mine/tüned.json")' in last
    assert "--policy 'plans/of mine/tüned.json' with compare" in last


@pytest.mark.parametrize("budget", [6, 12, 1000])
@pytest.mark.parametrize("page", [True, False])
def test_calls_are_counted_for_what_they_take_besides_their_steps(budget: float, page: bool) -> None:
    videos = Videos.of(list("abcdefgh"), 2, 3, 0)
    runs = SimpleNamespace(allowed=budget * 50, steps=50)
    most = 5 + (budget - 5) * 25
    assert calls(videos, runs, page) == min(most, 5 + 4 * 2 + (8 if page else 1) * 3)


def test_file_and_page_are_all_that_is_left(made: tuple[Path, str, str]) -> None:
    assert sorted(path.name for path in made[0].iterdir()) == ["tuned.html", "tuned.json"]
    page = (made[0] / "tuned.html").read_text()
    assert '<meta name="generator" content="bwcache tune">' in page
    settings = page.count("<tr data-rung")
    assert settings == 3
    assert page.count("data:video/mp4;base64,") == 2 + 2 * settings


def test_the_list_is_exported(bwcache_command: Any, made: Any, content: dict[str, Any], tmp_path: Path) -> None:
    shutil.copy(made[0] / "tuned.json", tmp_path)
    ended = bwcache_command("plan", "tuned.json", "--out", "plan.json")
    assert ended.code == 0, ended.err
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["computed"] == content["policy"]["steps"]
    assert [step for step, computed in enumerate(plan["compute"]) if computed] == plan["computed"]
    assert "3 of 6 steps computed (2.00x)" in ended.out


def test_other_commands_take_the_file(bwcache_command: Any, made: Any, tmp_path: Path) -> None:
    file = made[0] / "tuned.json"
    asked = ("--model", saved("t2v"), *SMALL, "--prompt", "five")
    ended = bwcache_command("generate", "--policy", file, *asked)
    assert ended.code == 0, ended.err
    run = json.loads((tmp_path / "bwcache-out" / "summary.json").read_text())["runs"][0]
    assert run["computed"] == run["reused"] == 3


def test_an_interrupted_tuning_goes_on(
    bwcache_command: Any, content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Runs, "shown", stopped)
        ended = bwcache_command(*words("--grade", "2x", "--no-page"))
    assert ended.code == 130
    assert "10 runs are kept in" in ended.lines[-1]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "tuned-parts").rglob("*.npz")}
    assert len(kept) == 4 + 4 + 6  # uncached frames, recordings of these, and of three passes over two videos

    def nothing_left(*_: Any) -> None:
        now = {path: path.stat().st_mtime_ns for path in kept}
        assert now == kept

    with monkeypatch.context() as patched:
        patched.setattr("bwcache.cli.tune.tuned_file", lambda *_: nothing_left() or stopped())
        assert bwcache_command(*words("--grade", "2x", "--no-page")).code == 130
    ended = bwcache_command(*words("--grade", "2x", "--no-page"))
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "tuned.json").read_text()) == content
    assert [path.name for path in tmp_path.iterdir()] == ["tuned.json"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--grade", "best"), "found grade 'best'; expected near, balanced, fast"),
        (("--grade", "9x"), "found grade 9x of 6 steps, which is less than one computed; expected 1.5x (4 computed)"),
        (("--grade", "6x"), "found grade 6x of 6 steps, which is 1 computed; expected 1.5x (4 computed) to 3x (2)"),
        (("--grade", "1.1x"), "found grade 1.1x of 6 steps, which is 5 computed; expected 1.5x (4 computed)"),
        (("--out", "tuned.txt"), "expected a name that ends with .json"),
        (("--out", "away/tuned.json"), "in a folder that is not there"),
        (("--verify", "1"), "found --verify 1; expected at least 2"),
        (("--calibrate", "1"), "found --calibrate 1; expected at least 2"),
        (("--scheduler", "FlowMatchHeunDiscrete"), "found FlowMatchHeunDiscreteScheduler, of which the clean latents"),
        (("--budget", "5"), "found --budget 5 for 4 videos, 2 of them to verify on; expected at least 6"),
        (("--budget", "5.9"), "found --budget 5.9 for 4 videos, 2 of them to verify on; expected at least 6"),
    ],
)
def test_bad_input_ends_in_one_line_and_writes_nothing(
    bwcache_command: Any, written: Any, options: tuple[str, ...], said: str
) -> None:
    ended = bwcache_command(*words(*options))
    assert ended.code == 2
    assert len(ended.lines) == 1
    assert said in ended.lines[0]
    assert written() == []


def test_what_cannot_be_is_said_before_the_model_is_loaded(
    bwcache_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bwcache.cli.tune.load", lambda *_: pytest.fail("the model was loaded"))
    assert bwcache_command(*words("--grade", "99x")).code == 2


def test_one_prompt_is_too_few(bwcache_command: Any, written: Any) -> None:
    ended = bwcache_command("tune", "--model", saved("t2v"), *SMALL, "--prompt", "a ring")
    assert ended.code == 2
    assert len(ended.lines) == 1
    assert "found 1 prompt, so that none is left to verify on; expected at least 2, better 8" in ended.lines[0]
    assert written() == []


def test_a_wish_out_of_reach_is_refused_and_nothing_is_lost(bwcache_command: Any, tmp_path: Path) -> None:
    ended = bwcache_command(*words("--grade", "80dB"))
    assert ended.code == 2
    last = ended.lines[-1]
    assert "found 80 dB, which no plan reaches here; expected less (4 of 6 steps, 1.5x, come to" in last
    assert "tuned-parts" in "".join(path.name for path in tmp_path.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["tuned-parts"]


@pytest.mark.parametrize("command", ["plan", "compare"])
def test_broken_files_are_refused(bwcache_command: Any, tmp_path: Path, command: str) -> None:
    (tmp_path / "tuned.json").write_text("{")
    ended = bwcache_command(*(("plan", "tuned.json") if command == "plan" else ("compare", "--policy", "tuned.json")))
    assert ended.code == 2
    assert len(ended.lines) == 1
    assert "that is damaged" in ended.lines[0]


def test_an_untuned_plan_is_the_one_that_is_run(bwcache_command: Any, tmp_path: Path) -> None:
    ended = bwcache_command("plan", "--steps", "30", "--grade", "fast", "--out", "plan.json")
    assert ended.code == 0, ended.err
    plan = json.loads((tmp_path / "plan.json").read_text())
    asked = ("--model", saved("t2v"), "--height", "32", "--width", "32", "--frames", "5", "--prompt", "a ring")
    ended = bwcache_command("generate", "--grade", "fast", *asked, "--steps", "30")
    assert ended.code == 0, ended.err
    run = json.loads((tmp_path / "bwcache-out" / "summary.json").read_text())["runs"][0]
    assert run["timeline"] == "".join("C" if each else "r" for each in plan["compute"])
    assert 3 < len(plan["computed"]) < 15


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "found neither a tuned file nor --steps; expected one of them"),
        (("--steps", "50", "--shift", "0"), "found --shift 0; expected more than 0"),
        (("--steps", "50", "--grade", "fest"), "did you mean fast?"),
        (("tuned.json", "--steps", "50"), "found --steps beside a tuned file"),
    ],
)
def test_plans_that_cannot_be(bwcache_command: Any, written: Any, options: tuple[str, ...], said: str) -> None:
    ended = bwcache_command("plan", *options)
    assert ended.code == 2
    assert len(ended.lines) == 1
    assert said in ended.lines[0]
    assert written() == []


@pytest.mark.parametrize(
    ("name", "options"), [("tuned.json", ()), ("tuned.html", ()), ("tuned.html", ("--overwrite",))]
)
def test_nothing_of_others_is_overwritten(
    bwcache_command: Any, tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    (tmp_path / name).write_text("mine")
    ended = bwcache_command(*words(*options))
    assert ended.code == 2
    assert len(ended.lines) == 1
    assert "add --overwrite" in ended.err or "--no-page" in ended.err
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("there", [json.dumps({"format": "bwcache-tuned-1"}), "{}", "notes", "[]"])
def test_a_plan_takes_the_place_of_plans_alone(bwcache_command: Any, tmp_path: Path, there: str) -> None:
    target = tmp_path / "mine.json"
    target.write_text(there)
    ended = bwcache_command("plan", "--steps", "6", "--out", "mine.json", "--overwrite")
    assert ended.code == 2
    assert "found something else at --out 'mine.json'; expected nothing, or an earlier bwcache-plan" in ended.lines[-1]
    assert target.read_text() == there


def test_the_tuned_file_outlives_its_own_plan(bwcache_command: Any, made: Any, tmp_path: Path) -> None:
    kept = (made[0] / "tuned.json").read_text()
    (tmp_path / "tuned.json").write_text(kept)
    assert bwcache_command("plan", "tuned.json", "--out", "tuned.json", "--overwrite").code == 2
    assert (tmp_path / "tuned.json").read_text() == kept
    for more in ((), ("--overwrite",)):
        assert bwcache_command("plan", "tuned.json", "--out", "plan.json", *more).code == 0


def test_a_tuning_takes_the_place_of_tunings_alone(bwcache_command: Any, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"name": "mine"}')
    ended = bwcache_command("tune", "--out", "package.json", "--overwrite")
    assert ended.code == 2
    assert "found something else at --out 'package.json'" in ended.lines[-1]
    assert (tmp_path / "package.json").read_text() == '{"name": "mine"}'


def test_a_plan_needs_a_folder_that_is_there(bwcache_command: Any, written: Any) -> None:
    ended = bwcache_command("plan", "--steps", "6", "--out", "no/where/plan.json")
    assert ended.code == 2
    assert "found --out 'no/where/plan.json', in a folder that is not there" in ended.lines[-1]
    assert written() == []


@pytest.mark.parametrize("steps", ["1", "2"])
def test_too_few_steps_are_refused_before_anything_is_run(bwcache_command: Any, written: Any, steps: str) -> None:
    ended = bwcache_command("tune", "--steps", steps)
    assert ended.code == 2
    assert f"found --steps {steps}; expected at least 3" in ended.lines[-1]
    assert written() == []
