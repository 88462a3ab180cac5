"""The pinned versions and the ranges of the project say the same."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bwcache.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[2]


def pins(file: str = "constraints.txt") -> dict[str, Requirement]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in found}


def project() -> dict[str, Any]:
    read = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, Any] = read["project"]
    return found


def dependencies() -> list[Requirement]:
    """What `.[dev]` installs, without the other extras that it names, and without the servers that plugins are for."""
    found = project()
    lines = [*found["dependencies"], *(line for lines in found["optional-dependencies"].values() for line in lines)]
    every = [Requirement(line) for line in lines]
    return [one for one in every if one.name not in ("bwcache", "torchvision", "sglang", "vllm-omni")]


def imported_as(requirement: Requirement) -> str:
    return {"pillow": "PIL"}.get(requirement.name, requirement.name.replace("-", "_"))


def test_torch_and_numpy_alone_are_needed() -> None:
    assert [Requirement(line).name for line in project()["dependencies"]] == ["torch", "numpy"]


def test_each_extra_brings_what_the_code_asks_of_it() -> None:
    extras = project()["optional-dependencies"]
    brought = {name: tuple(imported_as(Requirement(line)) for line in extras[name]) for name in EXTRAS}
    assert brought == EXTRAS


def test_all_is_every_extra_that_a_command_needs_on_one_machine() -> None:
    (everything,) = (Requirement(line) for line in project()["optional-dependencies"]["all"])
    assert everything.name == "bwcache"
    assert everything.extras == set(EXTRAS) - {"serve", "ray"}  # for those who answer others, or have a cluster


def test_every_pin_is_one_public_version() -> None:
    for pin in pins().values():
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin


def test_every_dependency_is_pinned_within_its_range() -> None:
    pinned = pins()
    for dependency in dependencies():
        version = str(pinned[canonicalize_name(dependency.name)].specifier).removeprefix("==")
        assert dependency.specifier.contains(version), f"{dependency} against {version}"


def test_nothing_that_brings_cuda_is_pinned() -> None:
    assert not [name for name in pins() if name.startswith(("nvidia", "triton", "cuda", "torchvision", "torchaudio"))]


def test_the_documented_torch_is_the_pinned_one() -> None:
    pinned = f"torch{pins()['torch'].specifier}"
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for named in re.findall(r"\btorch==[\w.]+", page.read_text(encoding="utf-8")):
            assert named == pinned, page.name


def repository() -> str:
    """Where the project lives: said once, in pyproject.toml."""
    found: str = project()["urls"]["Repository"]
    return found


def test_links_of_the_readme_work_where_there_is_no_repository_around_it() -> None:
    """On an index page a relative link leads nowhere: each is named, and defined at the end with the whole address."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not re.findall(r"\]\((?!https://)[^)]*\)", text)
    named = set(re.findall(r"\[[^\]]+\]\[([^\]]+)\]", text))
    defined = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", text, re.MULTILINE))
    assert named == set(defined)
    for target, address in defined.items():
        raw = repository().replace("github.com", "raw.githubusercontent.com") + "/main/"
        assert address == (raw if target.endswith(".png") else f"{repository()}/blob/main/") + target
        assert (ROOT / target.partition("#")[0]).exists(), target


def test_the_repository_has_one_address() -> None:
    files = [*ROOT.glob("*.*"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.*")]
    for path in [path for path in files if path.suffix in (".md", ".toml", ".cff", ".yml")]:
        for found in re.findall(r"https://github\.com/[\w-]+/bwcache\b", path.read_text(encoding="utf-8")):
            assert found == repository(), path


def test_the_citation_says_the_version_and_where() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert "cff-version: 1.2.0\n" in citation
    assert f"\nversion: {project()['version']}\n" in citation
    assert f'\nrepository-code: "{repository()}"\n' in citation
    assert f"\nlicense: {project()['license']}\n" in citation


def test_the_oldest_that_is_tried_is_what_the_ranges_begin_with() -> None:
    oldest = pins("constraints-oldest.txt")
    begin = {one.name: next(iter(one.specifier)).version for one in dependencies() if one.name in oldest}
    assert set(begin) == {"torch", "diffusers", "transformers", "accelerate"}
    for name, pin in oldest.items():
        version = str(pin.specifier).removeprefix("==")
        assert version == begin[name] or version.startswith(begin[name] + "."), f"{version} against {begin[name]}"


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_workflows_call_targets_that_exist() -> None:
    made = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    called = {target for path in WORKFLOWS for target in re.findall(r"\bmake ([\w-]+)", path.read_text("utf-8"))}
    assert {"test", "test-torchao", "check", "dist", "oldest"} <= called <= made


def test_every_python_that_is_claimed_is_tried() -> None:
    claimed = {line.rpartition(" ")[2] for line in project()["classifiers"] if "Python :: 3." in line}
    text = "".join(path.read_text("utf-8") for path in WORKFLOWS)
    assert claimed == {"3.10", "3.11", "3.12", "3.13"}
    assert project()["requires-python"] == ">=3.10"
    assert claimed <= set(re.findall(r'"(3\.\d+)"', text))


def test_ci_runs_the_command_that_the_readme_names() -> None:
    assert "$ make test\n" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^make test\b", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_source_distribution_leaves_nothing_out() -> None:
    """Whatever is versioned is in a folder that MANIFEST.in takes as a whole, or named in it."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0 or not (ROOT / ".git").exists():
        pytest.skip("no clone")
    lines = [line.split() for line in (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()]
    folders = tuple(f"{line[1]}/" for line in lines if line[:1] == ["graft"])
    named = {name for line in lines if line[:1] == ["include"] for name in line[1:]}
    of_itself = {"MANIFEST.in", "pyproject.toml", ".gitignore"}
    left_out = [name for name in listed.stdout.splitlines() if not name.startswith(folders)]
    assert set(left_out) - named - of_itself == set()
    assert all((ROOT / name).exists() for name in named)
