"""`bwcache vbench` with an environment that looks like VBench's."""

import json
import shutil

import pytest

from bwcache.measure import vbench
from bwcache.report.files import run_folder
from tests.cli.vbench_like import Environment

PROMPTS = ["a red circle", "a red circle", 'and/or "$HOME" `x`']
SIZES = {"uncached": (900, 800, 700), "cached": (890, 700, 700)}


@pytest.fixture
def environment(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("vbench environment"))


def results(folder, prompts=PROMPTS, sizes=SIZES, named=False):
    """What compare (or, with names, generate) leaves: videos of these sizes in bytes."""
    runs = []
    for index, prompt in enumerate(prompts):
        name = run_folder(index, prompt)
        (folder / name).mkdir(parents=True)
        for side, some in sizes.items():
            (folder / name / f"{side}.mp4").write_bytes(bytes(some[index]))
        runs.append({"prompt": prompt} | ({"folder": name} if named else {}))
    (folder / "summary.json").write_text(json.dumps({"model": {}, "policy": {}, "runs": runs}))


@pytest.fixture
def made(tmp_path):
    results(tmp_path / "made")
    return tmp_path / "made"


def test_both_sides_are_scored_and_compared(bwcache_command, tmp_path, made, environment):
    asked = ["--dimension", "subject_consistency", "--dimension", "imaging_quality"]
    ended = bwcache_command("vbench", "made", "--python", environment.python, *asked)
    assert ended.code == 0, ended.err
    assert environment.calls == ["subject_consistency", "imaging_quality"] * 2
    found = json.loads((tmp_path / "made-vbench" / "vbench.json").read_text(), parse_constant=pytest.fail)
    for dimension in ("subject_consistency", "imaging_quality"):
        assert found["scores"]["uncached"][dimension]["mean"] == pytest.approx(0.8)
        assert list(found["scores"]["cached"][dimension]["videos"].values()) == pytest.approx([0.89, 0.7, 0.7])
    row = next(line for line in ended.out.splitlines() if "subject_consistency " in line and "..." not in line)
    assert row.split()[1:] == ["0.8000", "0.7633", "-0.0367", "-0.1000"]


def test_names_and_prompts_of_the_prepared_folder(bwcache_command, tmp_path, made, environment):
    ended = bwcache_command("vbench", "made", "--prepare")
    assert ended.code == 0, ended.err
    folder = tmp_path / "made-vbench" / "uncached"
    prompts = json.loads((folder / "prompts.json").read_text())
    assert list(prompts) == ["a red circle-0.mp4", "a red circle-1.mp4", 'and_or "$HOME" `x`-0.mp4']
    assert list(prompts.values()) == PROMPTS
    sizes = [(folder / "videos" / name).stat().st_size for name in prompts]
    assert sizes == list(SIZES["uncached"])
    assert "vbench evaluate --videos_path videos" in ended.out
    assert environment.calls == []


def test_a_second_call_scores_only_what_is_missing(bwcache_command, tmp_path, made, environment):
    call = ["vbench", "made", "--python", environment.python, "--dimension", "subject_consistency"]
    assert bwcache_command(*call).code == 0
    (written,) = (tmp_path / "made-vbench" / "cached" / "results").glob("*_eval_results.json")
    written.write_text(written.read_text()[:40])  # as an aborted run leaves it
    ended = bwcache_command(*call)
    assert ended.code == 0
    assert environment.calls == ["subject_consistency"] * 3
    shutil.rmtree(environment.folder)
    ended = bwcache_command(*call[:2], *call[4:])  # all is there: VBench need not be
    assert ended.code == 0
    assert "0.7633" in ended.out


def test_one_dimension_that_fails_costs_no_other(bwcache_command, tmp_path, made, environment):
    asked = ["--dimension", "dynamic_degree", "--dimension", "motion_smoothness"]
    ended = bwcache_command("vbench", "made", "--python", environment.python, *asked)
    assert ended.code == 0
    found = json.loads((tmp_path / "made-vbench" / "vbench.json").read_text())
    assert list(found["scores"]["cached"]) == ["motion_smoothness"]
    assert "RuntimeError: RAFT weights could not be downloaded" in found["failed"]["cached"]["dynamic_degree"]
    row = next(line for line in ended.out.splitlines() if "dynamic_degree " in line and "..." not in line)
    assert row.split()[1:] == ["-"] * 4


def test_no_score_at_all_is_an_error(bwcache_command, made, environment):
    ended = bwcache_command("vbench", "made", "--python", environment.python, "--dimension", "dynamic_degree")
    assert ended.code == 2
    assert "RAFT weights could not be downloaded" in ended.err


def test_the_standard_prompts(bwcache_command, tmp_path, made, environment):
    ended = bwcache_command("vbench", "made", "--python", environment.python, "--mode", "standard")
    assert ended.code == 2
    assert "can be a file name" in ended.err
    assert not (tmp_path / "made-vbench").exists()
    shutil.rmtree(made)
    results(made, PROMPTS[:2])
    ended = bwcache_command("vbench", "made", "--python", environment.python, "--mode", "standard")
    assert ended.code == 0, ended.err
    assert environment.calls == ["subject_consistency", "motion_smoothness"] * 2
    assert "subject_consistency has 2 of 5 videos" in ended.out
    found = json.loads((tmp_path / "made-vbench" / "vbench.json").read_text())
    assert found["videos_of_the_standard"]["temporal_flickering"] == {"found": 0, "expected": 5}


def test_what_generate_leaves(bwcache_command, tmp_path, environment):
    results(tmp_path / "one", ["a cat"], {"video": (500,)}, named=True)
    ended = bwcache_command("vbench", "one", "--python", environment.python, "--dimension", "aesthetic_quality")
    assert ended.code == 0, ended.err
    found = json.loads((tmp_path / "one-vbench" / "vbench.json").read_text())
    assert found["scores"]["video"]["aesthetic_quality"]["mean"] == pytest.approx(0.5)


def test_what_generate_leaves_of_a_prompt_file(bwcache_command, tmp_path, environment):
    from bwcache.fleet.folder import VideoFolder

    folder = VideoFolder(tmp_path / "many", {})
    for prompt in PROMPTS:
        with folder.adding(folder.name(prompt, len(list(tmp_path.glob("many/videos/*/*"))))) as part:
            part.mkdir()
            (part / "video.mp4").write_bytes(bytes(500))
            (part / "video.json").write_text(json.dumps({"prompt": prompt}))
    ended = bwcache_command("vbench", "many", "--python", environment.python, "--dimension", "aesthetic_quality")
    assert ended.code == 0, ended.err
    found = json.loads((tmp_path / "many-vbench" / "vbench.json").read_text())
    assert len(found["scores"]["video"]["aesthetic_quality"]["videos"]) == len(PROMPTS)


def test_scores_of_other_videos_are_refused(bwcache_command, made, environment):
    call = ["vbench", "made", "--python", environment.python, "--dimension", "subject_consistency"]
    bwcache_command(*call)
    next(made.glob("*/cached.mp4")).write_bytes(bytes(123))
    ended = bwcache_command(*call)
    assert ended.code == 2
    assert "scores of another videos" in ended.err
    missing = environment.folder / "bin" / "vbench"
    missing.rename(missing.with_name("away"))
    assert bwcache_command(*call, "--overwrite").code == 2
    assert (made.parent / "made-vbench" / "vbench.json").exists()  # nothing is lost to a call that cannot work
    missing.with_name("away").rename(missing)
    scores = made.parent / "made-vbench"
    for name in ("thesis.txt", "cached/videos/mine.mp4"):
        (scores / name).write_text("years of work")
        ended = bwcache_command(*call, "--overwrite")
        assert ended.code == 2
        assert repr(name) in ended.err
        (scores / name).unlink()
    assert bwcache_command(*call, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "no results with videos in 'nowhere'"),
        (["made", "--mode", "quick"], "--mode quick"),
        (["made", "--dimension", "beauty"], "--dimension beauty"),
        (["made", "--dimension", "scene"], "--dimension scene in mode custom"),
        (["made", "--out", "made"], "other things in --out"),
        (["made", "--python", "nowhere/python"], "no command vbench beside 'nowhere/python'"),
        (["made"], "no command vbench on the PATH"),
    ],
)
def test_bad_input(bwcache_command, made, written, monkeypatch, arguments, said):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    before = written()
    ended = bwcache_command("vbench", *arguments)
    assert ended.code == 2
    assert len(ended.lines) == 1
    assert said in ended.lines[0]
    assert written() == before


def test_without_vbench_it_says_how_to_install(bwcache_command, made, environment):
    shutil.rmtree(environment.site / "vbench")
    ended = bwcache_command("vbench", "made", "--python", environment.python)
    assert ended.code == 2
    assert "no package vbench" in ended.err
    assert "pip install vbench" in ended.err


def test_a_video_that_is_gone(bwcache_command, made):
    next(made.glob("*/cached.mp4")).unlink()
    ended = bwcache_command("vbench", "made", "--prepare")
    assert ended.code == 2
    assert "cached.mp4" in ended.err


def test_nothing_of_this_environment_reaches_the_other(monkeypatch, environment):
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
        monkeypatch.setenv(name, "/ours")
    found = vbench.find(str(environment.python))
    assert found.prompts == environment.site / "vbench" / "VBench_full_info.json"
    assert "--prompt_file" not in vbench.command_line(found, "scene", "standard")


def test_scores_that_are_no_numbers_are_passed_over(tmp_path):
    (tmp_path / "results_1_eval_results.json").write_text('{"scene": [NaN, []]}')
    (tmp_path / "results_2_eval_results.json").write_text(
        '{"color": [0.5, [{"video_path": "v/a-0.mp4", "video_results": true}]]}'
    )
    assert vbench.read(tmp_path) == {"color": vbench.Score(0.5, {"a-0.mp4": 1.0})}
