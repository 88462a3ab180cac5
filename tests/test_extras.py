"""torch and numpy alone run the engine; whatever else is asked for says in one line which extra brings it."""

from __future__ import annotations

import os
import re
import site
import subprocess
import sys
import textwrap
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import bwcache
from bwcache import MissingExtraError, extras
from bwcache.extras import EXTRAS, need

SOURCE = Path(bwcache.__file__).parents[1]


def closure(names: tuple[str, ...]) -> set[str]:
    """These distributions and all that they require, by name."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        required = [Requirement(line) for line in distribution(name).requires or ()]
        waiting += [one.name for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of a Python whose packages are torch, numpy, what these two require, and bwcache."""
    packages = tmp_path_factory.mktemp("packages")
    for name in closure(("torch", "numpy")):
        here = distribution(name)
        for top in {file.parts[0] for file in here.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():  # several have a part of one folder
                (packages / top).symlink_to(Path(str(here.locate_file(top))))
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), str(SOURCE)])}


def run(bare: dict[str, str], code: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-S", "-c", textwrap.dedent(code)]
    return subprocess.run(line, env=bare, capture_output=True, text=True, timeout=120)


def test_a_bare_module_is_cached_with_torch_and_numpy_alone(bare: dict[str, str]) -> None:
    ended = run(
        bare,
        """
        import importlib.util, sys
        assert not any(importlib.util.find_spec(name) for name in ("diffusers", "typer", "rich", "PIL", "matplotlib"))
        import torch, bwcache
        from torch import nn

        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.mix = nn.Linear(8, 8)
            def forward(self, hidden_states):
                return hidden_states + self.mix(hidden_states)

        class Denoiser(nn.Module):
            def __init__(self):
                super().__init__()
                self.blocks = nn.ModuleList(Block() for _ in range(3))
            def forward(self, hidden_states, timestep):
                for block in self.blocks:
                    hidden_states = block(hidden_states)
                return hidden_states

        row = bwcache.BlockSpec(model="Denoiser", lists=(bwcache.BlockList("blocks", returns=("hidden_states",)),))
        model = Denoiser()
        for policy in (bwcache.BWCache(threshold=10.0), bwcache.Adaptive(tolerance=10.0), bwcache.FixedInterval()):
            with torch.no_grad(), bwcache.attach(model, policy, steps=12, spec=row) as session:
                for timestep in torch.linspace(900, 100, 12):
                    model(torch.ones(1, 4, 8), timestep.view(1))
            assert session.trace.reused > 0, policy
            assert "reused" in str(session.trace.summary())
        import bwcache.measure, bwcache.report, bwcache.shapes, bwcache.study
        """,
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("arguments", [(), ("--help",), ("compare",)])
def test_the_command_without_its_extra_says_which_one(bare: dict[str, str], arguments: tuple[str, ...]) -> None:
    ended = run(bare, f"import sys; sys.argv[1:] = {list(arguments)}; from bwcache.cli import main; main()")
    assert (ended.returncode, ended.stdout) == (2, "")
    said = "bwcache: found no typer, rich; expected bwcache with its extra cli; pip install 'bwcache[cli]'\n"
    assert ended.stderr == said


FUNCTIONS = {
    "bwcache.shapes.load()": "diffusers",
    "bwcache.measure.load_pipeline('some/model', device='cpu')": "diffusers",
    "bwcache.measure.quality(video, video)": "metrics",
    "bwcache.report.plot_similarity(bwcache.Trace([]), path)": "plots",
    "bwcache.report.storyboard(video, video, '')": "plots",
    "bwcache.report.write_video(path, video, 8)": "plots",
    "bwcache.report.html.render(None)": "plots",
    "bwcache.report.fronts.plot_fronts(None, path)": "plots",
    "bwcache.report.heatmaps.plot_heatmap(None, path)": "plots",
    "bwcache.report.bench.plot_methods(None, path)": "plots",
    "bwcache.report.comparison_table(None)": "cli",
}


def test_each_function_without_its_extra_says_which_one(bare: dict[str, str]) -> None:
    ended = run(
        bare,
        f"""
        import inspect, pathlib
        import numpy, bwcache, bwcache.measure, bwcache.report, bwcache.shapes
        import bwcache.report.html, bwcache.report.fronts, bwcache.report.heatmaps, bwcache.report.bench
        video, path = numpy.zeros((3, 32, 32, 3), numpy.float32), pathlib.Path("nowhere.png")
        for call in {list(FUNCTIONS)}:
            try:
                eval(call)
            except bwcache.MissingExtraError as error:
                print(str(error).rpartition("pip install ")[2])
            else:
                print("passed:", call)
        """,
    )
    assert ended.stdout.splitlines() == [f"'bwcache[{extra}]'" for extra in FUNCTIONS.values()], ended.stderr


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("compare", ("diffusers", "metrics", "plots")),
        ("generate", ("diffusers", "plots")),
        ("sweep", ("diffusers", "metrics", "plots")),
        ("profile", ("diffusers", "plots")),
        ("bench", ("diffusers", "metrics", "plots")),
        ("report", ("plots",)),
    ],
)
def test_each_command_asks_for_all_that_it_needs_before_it_starts(
    command: str, wanted: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    from bwcache.cli import main

    monkeypatch.chdir(tmp_path)
    there = {"typer", "rich"}
    monkeypatch.setattr(extras, "find_spec", lambda name: name if name in there else None)
    with pytest.raises(SystemExit) as ended:
        main([command, *(["somewhere"] if command == "report" else [])])
    said = capfd.readouterr().err
    assert ended.value.code == 2
    assert said.endswith(f"; pip install 'bwcache[{','.join(wanted)}]'\n")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extra", EXTRAS)
def test_one_missing_package_is_named_with_its_extra(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need(*(set(EXTRAS) - {"ray"}))  # which is large, and no part of what tests need
    gone = EXTRAS[extra][-1]
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == gone else name)
    with pytest.raises(MissingExtraError, match=re.escape(f"found no {gone}; ")) as raised:
        need(*EXTRAS)
    assert str(raised.value).endswith(f"with its extra {extra}; pip install 'bwcache[{extra}]'")
    assert isinstance(raised.value, ImportError)


def test_the_packages_of_this_environment_are_where_the_bare_one_looks() -> None:
    """Else the tests above would prove nothing: -S must hide what is installed here."""
    assert any(Path(str(distribution("typer").locate_file(""))).samefile(folder) for folder in site.getsitepackages())
