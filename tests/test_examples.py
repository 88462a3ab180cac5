"""Every example runs as it stands, is short, and shows what its first line promises."""

from __future__ import annotations

import ast
import contextlib
import io
import math
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from bwcache import Session, Trace
from bwcache.fleet.cluster import IN_TIME
from tests.fleet.forked import ended, rank, start
from tests.serve.served import served

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))
LINES = 20


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs an example in an empty folder: its variables, and the lines that it printed."""

    def play(name: str) -> tuple[dict[str, Any], list[str]]:
        monkeypatch.chdir(tmp_path)
        path = next(path for path in EXAMPLES if path.stem == name)
        return runpy.run_path(str(path), run_name="__main__"), capsys.readouterr().out.splitlines()

    return play


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_short_and_says_what_it_shows(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert (ast.get_docstring(tree) or "").endswith(".")
    code = [line for line in path.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]
    assert len([line for line in code if not line.startswith(("import ", "from "))]) <= LINES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_has_a_test_of_its_own_and_a_line_in_the_list(path: Path) -> None:
    assert f"test_{path.stem}" in globals()
    assert f"`{path.name}`" in (path.parent / "README.md").read_text(encoding="utf-8")


def test_attach(run: Any) -> None:
    said, printed = run("attach")
    assert said["session"].trace.reused > 5
    assert said["video"].shape == (9, 32, 32, 3)
    assert printed[0].startswith("30 steps: ")


def test_enable(run: Any) -> None:
    said, printed = run("enable")
    assert len(said["session"].traces) == 2
    assert all(line.endswith("% of the steps reused") for line in printed)
    with Session(said["pipe"], said["session"].policy):  # nobody holds it any more
        pass


def test_adaptive(run: Any) -> None:
    _, (small, large) = run("adaptive")
    assert small.count("r") < large.count("r")


def test_bare_module(run: Any) -> None:
    _, printed = run("bare_module")
    assert printed == [f"seed {seed}: 12 of 20 steps reused" for seed in (0, 1)]


def test_own_policy(run: Any) -> None:
    said, printed = run("own_policy")
    computed = [event.step for event in said["session"].trace.events if event.action == "compute"]
    assert sorted(set(computed)) == [*range(0, 18, 2), 18, 19]
    assert "every other" in "\n".join(printed)


def test_read_trace(run: Any, tmp_path: Path) -> None:
    said, printed = run("read_trace")
    assert Trace.from_jsonl(tmp_path / "trace.jsonl").events == said["session"].trace.events
    assert printed[0] == "step 0 of 20, cond: compute, first step"


def test_offload(run: Any) -> None:
    said, printed = run("offload")
    assert said["session"].trace.host_bytes > 0
    assert printed[-1].startswith("found a run that would keep ")
    assert "expected at most 1.0 KiB" in printed[-1]


def test_compiled(run: Any) -> None:
    said, _ = run("compiled")
    assert said["session"].trace.reused > 0


def test_two_policies(run: Any) -> None:
    said, printed = run("two_policies")
    assert [line.split(":")[0] for line in printed] == ["BWCache", "Adaptive"]
    assert 15 < said["worst"] <= said["found"].total.psnr < math.inf


def test_serve_client(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(tmp_path) as server:
        monkeypatch.setenv("BWCACHE_SERVER", server.address)
        said, printed = run("serve_client")
    assert printed == [f"{''.join(said['letters'])} {said['said']['done']['reuse_rate']:.0%} reused"]
    assert len(said["letters"]) == 20
    assert set(said["letters"]) == {"c", "r"}
    assert (tmp_path / "video.mp4").read_bytes()[4:8] == b"ftyp"


@pytest.mark.ray
@pytest.mark.timeout(1500)
def test_on_ray(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else they come after everything else on the machine
    for left in reversed(range(IN_TIME)):
        try:
            said, printed = run("on_ray")
            break
        except Exception as error:  # on a busy machine Ray gives its own start up after 30 s
            ray.shutdown()
            if left == 0 or "timed out during startup" not in str(error):
                raise
    assert len(printed) == 3
    assert all(frames.shape == (9, 32, 32, 3) and trace.reused for frames, trace in said["made"])


def test_plot(run: Any, tmp_path: Path) -> None:
    run("plot")
    assert (tmp_path / "similarity.png").read_bytes().startswith(b"\x89PNG")


def _play(path: str, folder: str) -> None:
    """Runs a script as one of several ranks, as torchrun does."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        runpy.run_path(path, run_name="__main__")
    (Path(folder) / f"{dist.get_rank()}.txt").write_text(said.getvalue())


def test_more_than_one_gpu_in_the_readme(tmp_path: Path) -> None:
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    (tmp_path / "video.py").write_text(readme.split("## More than one GPU")[1].split("```")[1].removeprefix("python\n"))
    first, second = on_two_ranks(str(tmp_path / "video.py"), tmp_path)
    assert first == second == ["2 of 2 ranks have parts of this video (context parallelism of transformer)"]


def on_two_ranks(path: str, folder: Path) -> list[list[str]]:
    """The lines that each of two ranks prints."""
    processes = [start(rank, i, 2, folder / "meet", 120.0, _play, path, str(folder)) for i in range(2)]
    assert [ended(process) for process in processes] == [0, 0]
    return [(folder / f"{i}.txt").read_text().splitlines() for i in range(2)]


def test_context_parallel(tmp_path: Path) -> None:
    first, second = on_two_ranks(str(EXAMPLES[0].parent / "context_parallel.py"), tmp_path)
    assert first[0] == second[0] == "2 of 2 ranks have parts of this video (context parallelism of transformer)"
    assert first == second


def test_shared_weights(tmp_path: Path) -> None:
    first, second = on_two_ranks(str(EXAMPLES[0].parent / "shared_weights.py"), tmp_path)
    assert first[0] == second[0] == "2 of 2 ranks compute in the same steps (fully_shard of transformer)"
    assert first[1].partition(":")[0] == second[1].partition(":")[0]
