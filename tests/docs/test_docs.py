"""What the documentation says is so: code runs or compiles, commands exist, and nothing that exists is left out."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import typer.main

import bwcache
from bwcache import policies
from bwcache.cli.app import app
from bwcache.engine import reasons
from bwcache.models.refused import REFUSED
from bwcache.models.table import ROWS
from bwcache.models.verified import verified
from bwcache.policies.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
SKILL = ROOT / "skills" / "bwcache" / "SKILL.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", SKILL, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?P<run><!-- test: run -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, kind: str) -> list[re.Match[str]]:
    return [block for block in BLOCK.finditer(page.read_text(encoding="utf-8")) if block["kind"] == kind]


def hooks() -> Any:
    """The module that fills the pages when they are built."""
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def commands() -> list[str]:
    """Every line that a reader is told to type."""
    texts = [block["text"].replace("\\\n", " ") for each in PAGES for block in blocks(each, "console")]
    lines = [line for text in texts for line in text.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


@pytest.mark.parametrize("each", PAGES, ids=lambda path: path.name)
def test_python_blocks_compile(each: Path) -> None:
    for block in blocks(each, "python"):
        compile(block["text"], str(each), "exec")


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@pytest.mark.parametrize("each", [p for p in PAGES if any(b["run"] for b in blocks(p, "python"))], ids=lambda p: p.name)
def test_marked_python_blocks_run(each: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("documentation")
    monkeypatch.setitem(sys.modules, "documentation", module)
    for block in blocks(each, "python"):
        if block["run"]:
            exec(compile(block["text"], f"{each.name}, in the documentation", "exec", dont_inherit=True), vars(module))


def test_there_are_commands_and_runnable_blocks() -> None:
    assert len(commands()) >= 8
    assert sum(bool(block["run"]) for each in PAGES for block in blocks(each, "python")) >= 6


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("bwcache ")])
def test_commands_in_the_documentation_are_understood(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    root: Any = typer.main.get_command(app)
    assert name in root.commands
    root.commands[name].make_context(name, arguments)


@pytest.mark.parametrize("line", [line for line in commands() if not line.startswith("bwcache ")])
def test_other_commands_exist(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    elif words[:2] == ["python", "-m"]:
        module = ROOT / words[2].replace(".", "/")
        assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file()
    elif words[0] == "torchrun":
        options = words[words.index("-m") + 1 :]
        test_commands_in_the_documentation_are_understood(shlex.join(options))
    else:
        assert words[:2] == ["pip", "install"]


def test_every_command_and_option_is_documented() -> None:
    root: Any = typer.main.get_command(app)
    reference = hooks().command_line()
    assert "<!-- cli -->" in page("cli.md")
    for name, command in root.commands.items():
        section = reference.split(f"## `bwcache {name}`")[1].split("\n## ")[0]
        assert command.help
        for option in command.params:
            assert option.help, f"--{option.name} of {name} has no help"
            for spelling in option.opts:
                assert f"`{spelling}`" in section


def lines_of(table: str) -> list[str]:
    return [line for line in table.splitlines() if line.startswith("|")]


def test_every_model_is_documented() -> None:
    prose, made = page("models.md"), hooks()
    assert all(
        f"<!-- {name} -->\n" in prose for name in ("matrix", "native", "models", "parts", "idle", "presets", "refused")
    )
    ours, theirs = lines_of(made.matrix()), lines_of(made.native())
    assert len(ours) + len(theirs) == len(ROWS) + 4  # and the heads
    for row in ROWS:
        home = row.module_prefix
        named = (f"`{row.model}`",) if home == "diffusers." else (f"`{row.model}`", f"`{home.rstrip('.')}`")
        table = ours if home == "diffusers." else theirs
        line = next(line for line in table if all(name in line for name in named))
        assert line.endswith(f" {row.guidance} |")
        assert row.module_prefix == "diffusers." or row.sources in made.native()
        assert row.module_prefix != "diffusers." or all(f"`{name}`" in line for name in row.pipelines)
        assert f"`{row.model}`" in made.models()
        assert row.module_prefix != "diffusers." or f"`{row.model}`" in made.parts()
        assert all(blocks.parts_missing in made.parts() for blocks in row.lists if row.module_prefix == "diffusers.")


def test_what_is_verified_has_a_tick_and_nothing_else() -> None:
    made = hooks()
    for row in ROWS:
        shown = verified(row)
        assert made.denoiser(row) == f"`{row.model}`" + " ✓" * shown.model
        ticked = re.findall(r"`(\w+)` ✓", made.pipelines(row))
        assert ticked == [name for name in row.pipelines if name in shown.pipelines]


def test_every_refusal_and_every_preset_is_documented() -> None:
    made = hooks()
    assert all(f"`{name}`" in made.refused() and reason in made.refused() for name, reason in REFUSED.items())
    assert len(lines_of(made.presets())) == len(PRESETS) + 2
    assert all(preset.source in made.presets() for preset in PRESETS)


def test_families_stand_together() -> None:
    made = hooks()
    firsts = [line.split("|")[1].strip() for line in lines_of(made.matrix())[2:]]
    assert firsts[0] == "Wan"
    named = [name for name in firsts if name]
    assert (
        len(named)
        == len(set(named))
        == len({made.family(row.model) for row in ROWS if row.module_prefix == "diffusers."})
    )
    assert made.family("SkyReelsV2Transformer3DModel") == "SkyReels-V2"
    assert made.family("NovelTransformer3DModel") == "Novel"


def test_every_policy_is_documented() -> None:
    table, reference = hooks().policies(), page("api.md")
    assert "<!-- policies -->" in reference
    for name in policies.__all__:
        policy = getattr(policies, name)
        if inspect.isclass(policy) and issubclass(policy, policies.Policy) and policy is not policies.Policy:
            assert f"`{name}`" in table
            assert f"::: bwcache.{name}\n" in reference


def test_every_method_has_a_row_where_methods_are_compared() -> None:
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    first = text[text.index("| policy |") :].split("\n\n")[0]
    rows = {name for name in policies.__all__ if re.search(rf"^\| \[?`{name}`", first, re.MULTILINE)}
    made = {name for name in policies.__all__ if inspect.isclass(getattr(policies, name))}
    kinds = {name for name in made if issubclass(getattr(policies, name), policies.Policy)}
    assert kinds - rows == {"Policy", "NeverReuse", "Guarded", "PerDenoiser"}  # none of them is a method


def test_every_public_name_is_in_the_reference() -> None:
    reference = page("api.md")
    for name in bwcache.__all__:
        thing = getattr(bwcache, name)
        in_errors = inspect.isclass(thing) and thing.__module__ == "bwcache.errors"
        assert in_errors or f"::: bwcache.{name}\n" in reference, name


def test_every_error_is_in_the_architecture() -> None:
    tree = page("architecture.md")
    for name in bwcache.__all__:
        thing = getattr(bwcache, name)
        if inspect.isclass(thing) and thing.__module__ == "bwcache.errors":
            assert name in tree


def test_every_name_in_the_architecture_is_in_the_code() -> None:
    package = ROOT / "src" / "bwcache"
    files = [path.relative_to(ROOT).as_posix() for path in [*package.rglob("*.py"), *ROOT.glob("*.toml")]]
    words = {word for path in package.rglob("*.py") for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}
    words |= {part for file in files for part in Path(file).parts} | {path.name for path in ROOT.iterdir()}
    for name in set(re.findall(r"`([^`\n]+)`", page("architecture.md"))):
        if re.fullmatch(r"[\w/]+\.(py|toml)", name):
            assert [file for file in files if f"/{file}".endswith(f"/{name}")], name
        else:
            assert words.issuperset(re.findall(r"\w+", name)), name


def kinds_of_reasons() -> set[str]:
    """What decisions can say, from the source: what stands before the first bracket or figure."""
    found = set()
    for path in (ROOT / "src" / "bwcache").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", None) in ("compute", "reuse", "check")
                and node.args
            ):
                found.add(beginning(node.args[0]))
    found |= {beginning(ast.Constant(value)) for name, value in vars(reasons).items() if name.isupper()}
    return {kind for kind in found if kind}


def beginning(node: ast.expr | None) -> str:
    if isinstance(node, ast.JoinedStr):
        node = node.values[0]
    text = node.value if isinstance(node, ast.Constant) else ""
    return text.split(" (", 1)[0].strip() if isinstance(text, str) else ""


def test_every_reason_is_explained() -> None:
    explained = page("trace.md")
    kinds = kinds_of_reasons()
    assert {"still changing", "tail guard", "another shape, dtype or device than what is kept"} <= kinds
    for kind in kinds:
        assert f"| `{kind}`" in explained, kind


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in (ROOT / "docs").glob("*.md"):
        assert f": {path.name}\n" in navigation


def test_the_changelog_knows_this_version() -> None:
    assert f"## [{bwcache.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("each", PAGES, ids=lambda path: path.name)
def test_every_table_has_a_head(each: Path) -> None:
    """A row after an empty line is no row to Markdown, but a line of text with bars in it."""
    prose = re.sub(r"^```.*?^```$", "", each.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = ["", *prose.splitlines(), ""]
    firsts = [
        (line, lines[i + 2]) for i, line in enumerate(lines[1:-1]) if line.startswith("|") > lines[i].startswith("|")
    ]
    assert [line for line, below in firsts if not re.fullmatch(r"\|([ :-]+\|)+", below.strip())] == []


def test_links_of_contributing_lead_somewhere() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / target).exists(), target
