"""The commands themselves, on the model in the box."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import bwcache

SMALL = ["--steps", "6", "--frames", "5"]
COMMAND = [sys.executable, "-c", "from bwcache.cli import main; main()"]
FILES = {
    "uncached.mp4", "cached.mp4", "difference.mp4", "side_by_side.mp4", "storyboard.png", "similarity.png",
    "trace.jsonl",
}  # fmt: skip
TOTAL = {
    "speedup", "denoise_speedup", "ideal_denoise_speedup", "reuse_rate", "psnr", "ssim", "indicator_share",
    "extra_memory_bytes",
}  # fmt: skip


def test_compare_writes_and_prints_everything(bwcache_command, tmp_path):
    (tmp_path / "prompts.txt").write_text("# two of them\n\na red circle\na blue square\n")
    ended = bwcache_command("compare", *SMALL, "--prompts", "prompts.txt", "--threshold", "9", "--out", "deep/out")
    assert ended.code == 0, ended.err
    out = tmp_path / "deep" / "out"
    assert sorted(path.name for path in out.iterdir()) == ["01-a-red-circle", "02-a-blue-square", "summary.json"]
    for folder in ("01-a-red-circle", "02-a-blue-square"):
        assert {path.name for path in (out / folder).iterdir()} == FILES
        assert all(path.stat().st_size > 100 for path in (out / folder).iterdir())
    summary = json.loads((out / "summary.json").read_text(), parse_constant=pytest.fail)
    assert set(summary) == {"command", "findings", "model", "policy", "environment", "runs", "total"}
    assert summary["command"].startswith("bwcache compare --steps 6 ")
    assert "--out deep/out" in summary["command"]
    assert set(summary["total"]) >= TOTAL
    assert summary["policy"]["threshold"] == 9
    assert [run["prompt"] for run in summary["runs"]] == ["a red circle", "a blue square"]
    trace = bwcache.Trace.from_jsonl(out / "01-a-red-circle" / "trace.jsonl")
    assert trace.steps == 6
    assert trace.reused == summary["runs"][0]["reused"] > 0
    for words in (
        "steps",
        "reuse rate",
        "PSNR",
        "first trigger k",
        "time on the indicator",
        "extra memory",
        "reused: ",
    ):
        assert words in ended.out
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_nothing_reused_is_said_first_and_gives_no_speedup(bwcache_command, tmp_path):
    ended = bwcache_command("compare", "--steps", "2", "--frames", "5", "--prompt", "a red circle", "--report")
    assert ended.code == 0, ended.err
    first, second = ended.out.splitlines()[:2]
    assert first.startswith("Nothing was reused: ")
    assert second.startswith("2 steps are too few: ")
    assert "x as fast" not in ended.out
    assert json.loads((tmp_path / "bwcache-out" / "summary.json").read_text())["findings"] == [first, second]
    assert "x as fast" not in (tmp_path / "bwcache-out" / "report.html").read_text()


def test_a_sampler_that_cannot_be_seeded_is_seen_and_not_blamed_on_the_cache(bwcache_command, tmp_path, monkeypatch):
    from diffusers import FlowMatchEulerDiscreteScheduler

    step = FlowMatchEulerDiscreteScheduler.step

    def noisy(self, output, *rest, **settings):
        drawn = torch.from_numpy(np.random.default_rng().normal(size=tuple(output.shape))).to(output)
        return step(self, output + drawn, *rest, **settings)

    monkeypatch.setattr(FlowMatchEulerDiscreteScheduler, "step", noisy)
    ended = bwcache_command("compare", *SMALL, "--prompt", "a red circle", "--threshold", "0")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("Nothing was reused")
    assert "and yet the videos differ" in ended.out
    assert "PSNR" not in ended.out.splitlines()[0]
    reusing = bwcache_command("compare", *SMALL, "--prompt", "a red circle", "--threshold", "9", "--overwrite")
    assert "how close the videos are cannot be told" in reusing.out
    setting = json.loads((tmp_path / "bwcache-out" / "summary.json").read_text())["environment"]
    assert 0 < setting["own_noise_psnr"] < 60


def test_compare_with_another_policy(bwcache_command, tmp_path):
    ended = bwcache_command(
        "compare", "--steps", "10", "--frames", "5", "--prompt", "a red circle", "--policy", "adaptive",
        "--tolerance", "5", "--predictor", "linear", "--report",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    out = tmp_path / "bwcache-out"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["policy"] == {"name": "Adaptive", "tolerance": 5.0, "warmup": 0.1, "predictor": "Linear()"}
    assert summary["runs"][0]["computed"] < 10
    assert "within the tolerance" in ended.out
    assert "prediction error" in (out / "report.html").read_text()


def test_where_features_wait_and_how_much_may_be_held(bwcache_command, tmp_path):
    asked = ["compare", *SMALL, "--prompt", "a red circle", "--threshold", "9"]
    ended = bwcache_command(*asked, "--memory", "offload", "--max-memory", "64 KiB")
    assert ended.code == 0, ended.err
    run = json.loads((tmp_path / "bwcache-out" / "summary.json").read_text())["runs"][0]
    assert run["host_bytes"] == 2 * run["hidden_bytes"] > 0
    assert run["planned_bytes"] == run["extra_memory_bytes"] < run["hidden_bytes"]
    assert "planned in advance" in ended.out
    assert "in main memory" in ended.out
    for command in ("compare", "generate"):
        ended = bwcache_command(command, *asked[1:], "--max-memory", "20KiB", "--out", "other")
        assert ended.code == 2
        assert 'memory="offload"' in ended.err
        assert not (tmp_path / "other").exists()


def test_compare_again_needs_overwrite_and_then_replaces(bwcache_command, tmp_path):
    first = [*SMALL, "--prompt", "a red circle", "--prompt", "a blue square", "--predictor", "linear", "--seed", "3"]
    assert bwcache_command("generate", *first).code == 0
    out = tmp_path / "bwcache-out"
    assert sorted(path.name for path in out.iterdir()) == ["01-a-red-circle", "02-a-blue-square", "summary.json"]
    assert {path.name for path in (out / "01-a-red-circle").iterdir()} == {"video.mp4", "trace.jsonl", "similarity.png"}
    second = [*SMALL, "--prompt", "a green ring", "--no-cache"]
    assert bwcache_command("generate", *second).code == 2
    assert bwcache_command("generate", *second, "--overwrite").code == 0
    assert sorted(path.name for path in out.iterdir()) == ["01-a-green-ring", "summary.json"]
    assert [path.name for path in (out / "01-a-green-ring").iterdir()] == ["video.mp4"]
    assert [path.name for path in tmp_path.iterdir()] == ["bwcache-out"]


def test_help_and_version(bwcache_command):
    assert f"bwcache {bwcache.__version__}" in bwcache_command("--version").out
    everything = bwcache_command("compare", "--help").out
    for option in (
        "--model", "--prompt", "--prompts", "--steps", "--seed", "--guidance-scale", "--height", "--width", "--frames",
        "--device", "--dtype", "--offload", "--threshold", "--reuse-interval", "--tail-guard", "--sample",
        "--decision", "--predictor", "--repeats", "--out", "--overwrite", "--fps",
    ):  # fmt: skip
        assert option in everything
    assert "compare" in bwcache_command("--help").out


def start(folder, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heeds_interrupts,
    )


def heeds_interrupts():
    """A shell that starts the tests in the background lets them, and all they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def parts(folder):
    return list(folder.glob("out/.bwcache/unfinished"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(tmp_path, number):
    process = start(tmp_path, "compare", "--steps", "400", "--out", "out")
    deadline = time.monotonic() + 60
    while not parts(tmp_path) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    assert parts(tmp_path), process.communicate()
    line = process.stderr.readline()  # sampling has begun
    assert "warm-up" in line
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_bad_call_of_the_real_command(tmp_path):
    process = start(tmp_path, "compare", "--model", "./nowhere")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_broken_disk_is_one_line_too(bwcache_command, written, monkeypatch):
    import bwcache.report.files

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bwcache.report.files, "write_side_by_side", full)
    ended = bwcache_command("compare", *SMALL, "--prompt", "a red circle")
    assert ended.code == 1
    assert "No space left" in ended.lines[-1]
    assert "Traceback" not in ended.err
    made = ["trace.jsonl", "uncached.mp4", "cached.mp4", "difference.mp4"]  # they took minutes, and are whole
    folder = "bwcache-out/01-a-red-circle"
    assert written() == sorted(["bwcache-out", folder, *(f"{folder}/{name}" for name in made)])


def test_a_failure_in_a_later_video_leaves_the_finished_ones_with_their_record(bwcache_command, tmp_path, monkeypatch):
    modules = [importlib.import_module(f"bwcache.measure.{name}") for name in ("call", "compare")]
    made = modules[0].call

    def fail(pipe, request, *more, **settings):
        if request.prompt == "a blue square":
            raise bwcache.errors.OverBudgetError("found no memory; expected more; wait")
        return made(pipe, request, *more, **settings)

    for module in modules:
        monkeypatch.setattr(module, "call", fail)
    prompts = ["--prompt", "a red circle", "--prompt", "a blue square"]
    for command in ("generate", "compare"):
        ended = bwcache_command(command, *SMALL, *prompts, "--out", command)
        assert ended.code == 2
        assert ended.lines[-2:] == [
            f"bwcache: 1 finished video is in {tmp_path / command}",
            "bwcache: found no memory; expected more; wait",
        ]
        assert sorted(path.name for path in (tmp_path / command).iterdir()) == ["01-a-red-circle", "summary.json"]
        (run,) = json.loads((tmp_path / command / "summary.json").read_text())["runs"]
        assert run["prompt"] == "a red circle"
    assert bwcache_command("report", "compare").code == 0


def test_two_commands_on_one_folder(bwcache_command, tmp_path, written):
    from bwcache.cli.claims import claimed

    for command in ("generate", "compare", "sweep", "bench", "profile"):
        with claimed(tmp_path / "out"):
            before = written()
            ended = bwcache_command(command, *SMALL, "--prompt", "a red circle", "--out", "out")
            assert ended.code == 2
            assert f"'{tmp_path / 'out'}' in use by process {os.getpid()} on " in ended.lines[-1]
            assert written() == before


@pytest.mark.parametrize("option", ["--prompt", "--model", "--out", "--prompts"])
def test_an_argument_that_is_not_utf8_is_refused_at_the_start(tmp_path, option):
    process = start(tmp_path, "generate", "--steps", "2", option, b"caf\xe9")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("bwcache: found the argument 'caf\\udce9', which is not UTF-8; expected ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
