"""The nodes and the pack around them: what people's workflows rely on stays, and all of it is explained."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import bwcache
from bwcache.comfy import pictures, words
from bwcache.errors import SettingError
from bwcache.policies.known import known
from tests.comfy import look_alike
from tests.comfy.fake_api import comfy_api

ROOT = Path(__file__).resolve().parents[2]
PACK = ROOT / "comfyui"
IDS = {
    "BWCache": (["model", "grade", "method", "memory", "start", "end", "plan"], ["cached_model", "run"]),
    "BWCacheWanVideo": (["model", "grade", "method", "memory", "start", "end"], ["cached_model", "run"]),
    "BWCacheMethod": (["name", "settings"], ["method", "fields"]),
    "BWCacheTune": (
        [
            *("model", "positive", "negative", "latent_image", "vae", "positive_2", "positive_3", "positive_4", "name"),
            *("grade", "steps", "cfg", "sampler_name", "scheduler", "denoise", "first_seed", "calibrate", "verify"),
            *("budget", "again"),
        ],
        ["plan", "text"],
    ),
    "BWCacheReport": (["run", "samples"], ["same_samples", "picture", "text"]),
    "BWCacheCompare": (["uncached", "cached", "run"], ["images", "text"]),
    "BWCacheSaveTrace": (["run", "samples", "name"], []),
}
"""Written into people's workflows: none of it may ever change, only more may come."""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Any]:
    with comfy_api(tmp_path / "output") as loaded:
        yield loaded


def ran(node: Any, **inputs: Any) -> Any:
    return node.execute(**inputs)


def cached(nodes: Any, patcher: Any, grade: str = "balanced", **more: Any) -> Any:
    return ran(nodes.BWCache, model=patcher, grade=grade, memory="device", start=0.0, end=1.0, **more).args


def test_ids_never_change(nodes: Any) -> None:
    schemas = {node.define_schema().node_id: node.define_schema() for node in nodes.NODES}
    found = {
        name: ([one.id for one in schema.inputs], [one.id for one in schema.outputs])
        for name, schema in schemas.items()
    }
    assert found == IDS


def test_everything_is_explained(nodes: Any) -> None:
    for node in nodes.NODES:
        schema = node.define_schema()
        page = (PACK / "web" / "docs" / f"{schema.node_id}.md").read_text(encoding="utf-8")
        assert schema.description
        for one in schema.inputs:
            assert one.said["tooltip"].endswith(".")
            assert f"**{one.id}**" in page


def test_the_pack_loads_without_diffusers() -> None:
    code = "import sys, tempfile, pathlib; from tests.comfy.fake_api import comfy_api\n"
    code += "with comfy_api(pathlib.Path(tempfile.mkdtemp())): "
    code += "print({'diffusers', 'transformers'} & sys.modules.keys())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=120)
    assert done.stdout.strip() == "set()"


def test_each_trap_that_is_named_has_a_test() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+)::(test_\w+)`", page)
    assert len(named) > 25
    for file, name in named:
        source = (ROOT / "tests" / "comfy" / f"{file}.py").read_text(encoding="utf-8")
        assert f"def {name}(" in source, name


def test_one_dial_is_to_be_seen(nodes: Any) -> None:
    inputs = nodes.BWCache.define_schema().inputs
    hidden = [one.id for one in inputs if one.extra_dict == {"advanced": True}]
    assert hidden == ["memory", "start", "end", "plan"]
    (grade,) = (one for one in inputs if one.id == "grade")
    assert grade.said["options"] == ["near", "balanced", "fast"]
    assert grade.said["default"] == "balanced"


def test_the_pack_is_what_the_registry_takes() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11")
    said = tomllib.loads((PACK / "pyproject.toml").read_text(encoding="utf-8"))
    own = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert said["project"]["version"] == own["project"]["version"]
    assert said["project"]["urls"]["Repository"] == own["project"]["urls"]["Repository"]
    assert "comfyui" not in said["project"]["name"].lower()
    assert said["tool"]["comfy"]["requires-comfyui"] == ">=0.3.64"
    needs = (PACK / "requirements.txt").read_text(encoding="utf-8").split()
    assert needs == said["project"]["dependencies"] == ["bwcache[metrics,plots]>=0.1.0"]
    tree = ast.parse((PACK / "__init__.py").read_text(encoding="utf-8"))
    assert [node.module for node in tree.body if isinstance(node, ast.ImportFrom)] == ["bwcache.comfy.nodes"]


CORE = {
    *("UNETLoader", "CLIPLoader", "VAELoader", "CLIPTextEncode", "EmptyHunyuanLatentVideo", "ModelSamplingSD3"),
    *("KSampler", "VAEDecode", "SaveAnimatedWEBP"),
}


def test_example_workflows_name_our_nodes_and_core_ones() -> None:
    paths = list((PACK / "example_workflows").glob("*.json"))
    assert paths
    for path in paths:
        assert path.with_suffix(".jpg").exists()
        flow = json.loads(path.read_text(encoding="utf-8"))
        kinds = {node["type"] for node in flow["nodes"]}
        assert kinds <= CORE | set(IDS)
        assert "BWCache" in kinds


def test_a_grade_reuses_and_the_report_says_what(nodes: Any) -> None:
    patcher = look_alike.model()
    clone, run = cached(nodes, patcher, "fast")
    samples = {"samples": look_alike.sampled(clone)}
    made = ran(nodes.BWCacheReport, run=run, samples=samples)
    same, picture, text = made.args
    assert same is samples
    assert (picture.shape[0], picture.shape[3]) == (1, 3)
    assert 0 < picture.min() + picture.std() < picture.max() == 1
    assert text.startswith("10 steps, 10 evaluations, ")
    assert "step 9 uncond: " in text
    assert "computed: planned, steps 2, 4" in text
    brief = made.ui["text"][0]
    assert text.startswith(brief)
    assert brief.count("\n") < 12  # as there is room for
    assert set(made.ui) == {"images", "text"}


def test_a_report_before_any_sampling_says_so(nodes: Any) -> None:
    _, run = cached(nodes, look_alike.model())
    text = ran(nodes.BWCacheReport, run=run, samples={}).args[2]
    assert text == "nothing was sampled with this model yet"


def test_without_a_run_as_where_the_node_is_bypassed_nothing_else_stops(nodes: Any, tmp_path: Path) -> None:
    samples = {"samples": torch.ones(1, 2, 4, 4)}
    same, picture, text = ran(nodes.BWCacheReport, samples=samples).args
    assert same is samples
    assert picture.shape[3] == 3
    assert picture.min() < 0.5  # with words on it
    assert text == "no run is linked, or the BWCache node is bypassed"
    frames = torch.rand(2, 16, 16, 3)
    assert ran(nodes.BWCacheCompare, uncached=frames, cached=frames).args[1].startswith("identical, bit for bit")
    ran(nodes.BWCacheSaveTrace, samples=samples, name="mine")
    assert not (tmp_path / "output" / "mine_00001.jsonl").exists()
    for node in (nodes.BWCacheReport, nodes.BWCacheCompare, nodes.BWCacheSaveTrace):
        (run,) = (one for one in node.define_schema().inputs if one.id == "run")
        assert run.said["optional"]


def test_a_report_of_other_samples_says_so(nodes: Any) -> None:
    clone, run = cached(nodes, look_alike.model())
    made = look_alike.sampled(clone)
    other = look_alike.sampled(look_alike.model(), positive=[look_alike.prompt(9)])
    assert "no run of this node" not in ran(nodes.BWCacheReport, run=run, samples={"samples": made}).args[2]
    assert "no run of this node" not in ran(nodes.BWCacheReport, run=run, samples={"samples": made.half()}).args[2]
    text = ran(nodes.BWCacheReport, run=run, samples={"samples": other}).args[2]
    assert (
        "no run of this node ended with these samples: is another model linked to the sampler?" in text.splitlines()[1]
    )


def test_of_several_samplings_with_one_node_each_report_is_of_its_own(nodes: Any, tmp_path: Path) -> None:
    clone, run = cached(nodes, look_alike.model())
    first = look_alike.sampled(clone)
    second = look_alike.sampled(clone, sigmas=torch.linspace(1, 0, 17))
    for samples, steps in ((first, 10), (second, 16)):
        text = ran(nodes.BWCacheReport, run=run, samples={"samples": samples}).args[2]
        assert text.startswith(f"{steps} steps, {steps} evaluations, ")
        ran(nodes.BWCacheSaveTrace, run=run, samples={"samples": samples}, name=f"of_{steps}")
        assert bwcache.Trace.from_jsonl(tmp_path / "output" / f"of_{steps}_00001.jsonl").steps == steps


def test_a_sampling_that_left_no_trace_is_not_reported_by_the_one_before(nodes: Any) -> None:
    clone, run = cached(nodes, look_alike.model())
    look_alike.sampled(clone)
    run.add((), "several GPUs share this sampling: everything was computed")
    assert ran(nodes.BWCacheReport, run=run, samples={}).args[2] == run.notes[-1]
    with pytest.raises(SettingError, match="several GPUs"):
        ran(nodes.BWCacheSaveTrace, run=run, samples={}, name="mine")


@pytest.mark.filterwarnings("ignore::bwcache.errors.NeverReusedWarning")
@pytest.mark.parametrize(("steps", "why"), [(4, "so few steps leave little to reuse"), (20, "never reuses with these")])
def test_where_everything_was_computed_the_first_line_says_why(nodes: Any, steps: int, why: str) -> None:
    method = bwcache.Planned(0) if steps == 20 else None
    clone, run = cached(nodes, look_alike.model(), method=method)
    look_alike.sampled(clone, sigmas=torch.linspace(1, 0, steps + 1))
    first = ran(nodes.BWCacheReport, run=run, samples={}).args[2].splitlines()[0]
    assert why in first
    assert f"{steps} computed: 1.00x" in first


def test_any_method_with_its_own_settings(nodes: Any) -> None:
    method = ran(nodes.BWCacheMethod, name="FixedInterval", settings="interval = 4\n\n# a remark\nwarmup=2 # two").args[
        0
    ]
    assert method == bwcache.FixedInterval(interval=4, warmup=2)
    clone, run = cached(nodes, look_alike.model(), method=method)
    look_alike.sampled(clone)
    assert run.traces[-1].meta["policy"]["name"] == "FixedInterval"


@pytest.mark.parametrize("name", words.methods())
def test_each_method_of_the_catalogue_can_be_chosen(name: str) -> None:
    missing = any(line.endswith("…") for line in words.defaults(name).splitlines())
    if missing:  # a table that only its own model has
        with pytest.raises(SettingError, match="must be said"):
            words.of_method(name, "")
        return
    policy = words.of_method(name, "")
    assert words.of_method(name, words.defaults(name)) == policy
    assert type(policy) is known()[name]
    assert all(field in words.defaults(name) for field in policy.describe() if field != "name")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("interval", "line 1: 'interval'"),
        ("interval = 2\ninterval = 3", "line 2: 'interval = 3'; expected each field once"),
        ("= 3", "line 1"),
        ("interval = much", "interval"),
        ("intervals = 3", "did you mean interval"),
    ],
)
def test_settings_that_cannot_be_meant(settings: str, said: str) -> None:
    with pytest.raises(SettingError, match=said.replace("?", r"\?")):
        words.of_method("FixedInterval", settings)


def test_start_must_be_before_end(nodes: Any) -> None:
    with pytest.raises(SettingError, match=r"start 0\.9 and end 0\.2"):
        ran(nodes.BWCache, model=look_alike.model(), grade="near", memory="device", start=0.9, end=0.2)


def test_two_videos_side_by_side(nodes: Any) -> None:
    clone, run = cached(nodes, look_alike.model())
    look_alike.sampled(clone)
    one = torch.rand(3, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    other = (one + 0.1).clamp(0, 1)
    images, text = ran(nodes.BWCacheCompare, uncached=one, cached=other, run=run).args
    assert images.shape == (3, 32, 96, 3)
    assert torch.equal(images[:, :, :32], one)
    assert all(part in text for part in ("PSNR 2", "SSIM", "10 evaluations"))
    assert pictures.beside(one, one)[1] == "identical, bit for bit"
    assert "PSNR" in pictures.beside(one[:, :4, :4], other[:, :4, :4])[1]
    shown = pictures.captioned(images[:1], ("uncached", "cached", "difference"), text)[0]
    at = next(row for row in range(len(shown)) if torch.equal(shown[row : row + 32], images[0]))
    assert 0 < at < len(shown) - 32
    assert not (shown[:at] == 1).all()
    assert not (shown[at + 32 :] == 1).all()
    with pytest.raises(SettingError, match="expected as many pictures of the same size"):
        pictures.beside(one, one[:2])


def test_a_trace_is_written_and_none_is_replaced(nodes: Any, tmp_path: Path) -> None:
    clone, run = cached(nodes, look_alike.model())
    with pytest.raises(SettingError, match="no run to save"):
        ran(nodes.BWCacheSaveTrace, run=run, samples={}, name="mine")
    look_alike.sampled(clone)
    for _ in range(2):
        ran(nodes.BWCacheSaveTrace, run=run, samples={}, name="mine")
    paths = sorted((tmp_path / "output").iterdir())
    assert [path.name for path in paths] == ["mine_00001.jsonl", "mine_00002.jsonl"]
    assert bwcache.Trace.from_jsonl(paths[0]).steps == 10
    for name in ("../out", "", " ", "a/b", ".hidden"):
        with pytest.raises(SettingError, match="beginning of a file's name"):
            ran(nodes.BWCacheSaveTrace, run=run, samples={}, name=name)
