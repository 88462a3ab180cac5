"""Through ComfyUI's server, as the front end does it: workflows in, pictures out, and errors where the person looks."""

from __future__ import annotations

import urllib.request
from itertools import count
from typing import Any

import pytest

from tests.comfy.comfyui import needs_comfyui
from tests.comfy.server import Graph, Server, errors, until

pytestmark = needs_comfyui


def graph(node: bool = True, grade: str = "balanced", method: tuple[str, str] | None = None, **sampler: Any) -> Graph:
    """Loader, perhaps our node with its report, sampler, and the sum of its latents."""
    settings = {"seed": 3, "steps": 8, "cfg": 4.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    made: Graph = {
        "loader": of("UNETLoader", unet_name="tiny_wan.safetensors", weight_dtype="default"),
        "positive": of("TestPrompt", seed=1, width=4096),
        "negative": of("TestPrompt", seed=2, width=4096),
        "empty": of("TestLatent", frames=2, side=8),
        "sampler": of(
            "KSampler",
            model=["cache" if node else "loader", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["empty", 0],
            **{**settings, **sampler},
        ),
        "sum": of("TestSum", samples=["sampler", 0]),
    }
    if not node:
        return made
    made["cache"] = of("BWCache", model=["loader", 0], grade=grade, memory="device", start=0.0, end=1.0)
    made["report"] = of("BWCacheReport", run=["cache", 1], samples=["sampler", 0])
    if method:
        made["method"] = of("BWCacheMethod", name=method[0], settings=method[1])
        made["cache"]["inputs"]["method"] = ["method", 0]
    return made


def of(kind: str, **inputs: Any) -> dict[str, Any]:
    """A node."""
    return {"class_type": kind, "inputs": inputs}


def total(ran: Any) -> str:
    """The sum of the latents, in full."""
    assert ran["status"]["status_str"] == "success", errors(ran)
    found: str = ran["outputs"]["sum"]["text"][0]
    return found


def said(ran: Any) -> str:
    """The text of the report."""
    found: str = ran["outputs"]["report"]["text"][0]
    return found


@pytest.fixture(scope="module")
def plain(server: Server) -> str:
    """The sum without our node."""
    return total(server.ran(graph(node=False)))


def test_all_nodes_are_there_and_the_pack_is_served(server: Server) -> None:
    from tests.comfy.test_nodes import IDS

    for name, (inputs, _) in IDS.items():
        found = server.get(f"/object_info/{name}")[name]
        order = found["input_order"]
        assert sorted([*order.get("required", ()), *order.get("optional", ())]) == sorted(inputs)
    assert server.get("/workflow_templates")["bwcache"]

    for name in IDS:
        with urllib.request.urlopen(f"{server.address}/extensions/bwcache/docs/{name}.md", timeout=60) as page:
            assert page.read().decode().startswith("# BWCache")


def test_off_changes_no_bit(server: Server, plain: str) -> None:
    for method in (("Planned", "tolerance = 0"), ("NeverReuse", ""), ("BWCache", "threshold = 0")):
        assert total(server.ran(graph(method=method))) == plain


def test_a_workflow_goes_in_and_pictures_come_out(server: Server, plain: str) -> None:
    flow = graph(grade="fast")
    flow["frames"] = of("TestFrames", samples=["report", 0])
    flow["uncached"] = of("KSampler", **{**flow["sampler"]["inputs"], "model": ["loader", 0]})
    flow["uncached frames"] = of("TestFrames", samples=["uncached", 0])
    flow["compare"] = of("BWCacheCompare", uncached=["uncached frames", 0], cached=["frames", 0], run=["cache", 1])
    flow["trace"] = of("BWCacheSaveTrace", run=["cache", 1], samples=["sampler", 0], name="mine")
    ran = server.ran(flow)
    assert total(ran) != plain
    assert said(ran).startswith("8 steps, 8 evaluations, ")
    report = server.picture(ran["outputs"]["report"]["images"][0])
    assert report.shape[0] > 200
    assert report.std() > 10
    beside = server.picture(ran["outputs"]["compare"]["images"][0])
    assert beside.shape[1] == 3 * 128
    assert 128 < beside.shape[0] < 180  # with words above and below
    assert "PSNR" in ran["outputs"]["compare"]["text"][0]
    assert ran["outputs"]["trace"]["text"] == ["mine_00001.jsonl in the output folder"]
    assert (server.base / "output" / "mine_00001.jsonl").read_text().count("\n") > 8


def test_a_bypassed_node_leaves_what_is_behind_the_report(server: Server, plain: str) -> None:
    """As the front end queues it: the model goes past the node, and its run is linked to nothing."""
    flow = graph()
    del flow["cache"], flow["report"]["inputs"]["run"]
    flow["sampler"]["inputs"]["model"] = ["loader", 0]
    flow["sum"]["inputs"]["samples"] = ["report", 0]
    ran = server.ran(flow)
    assert total(ran) == plain
    assert said(ran) == "no run is linked, or the BWCache node is bypassed"


@pytest.mark.parametrize(("sampler", "evaluations"), [("heun", 15), ("uni_pc", 8)])
def test_evaluations_are_counted(server: Server, sampler: str, evaluations: int) -> None:
    report = said(server.ran(graph(sampler_name=sampler)))
    assert report.startswith(f"8 steps, {evaluations} evaluations, ")


def test_a_sampler_put_together_of_parts(server: Server) -> None:
    flow = graph()
    flow["sampler"] = of(
        "SamplerCustomAdvanced",
        noise=["noise", 0],
        guider=["guider", 0],
        sampler=["which", 0],
        sigmas=["sigmas", 0],
        latent_image=["empty", 0],
    )
    flow["noise"] = of("RandomNoise", noise_seed=3)
    flow["guider"] = of("CFGGuider", model=["cache", 0], positive=["positive", 0], negative=["negative", 0], cfg=4.0)
    flow["which"] = of("KSamplerSelect", sampler_name="dpmpp_sde")
    flow["sigmas"] = of("BasicScheduler", model=["cache", 0], scheduler="simple", steps=8, denoise=1.0)
    report = said(server.ran(flow))
    assert report.startswith("8 steps, 15 evaluations, ")
    assert "no run of this node" not in report


def test_a_second_prompt_runs_again_and_the_same_one_does_not(server: Server) -> None:
    first, other = server.ran(graph(seed=11)), server.ran(graph(seed=12))
    assert total(first) != total(other)
    assert said(other).startswith("8 steps")
    again = server.ran(graph(seed=12))
    assert dict(again["status"]["messages"])["execution_cached"]["nodes"]
    assert total(server.ran(graph(seed=11, denoise=1.0))) == total(first)


def test_interrupted_in_the_middle_leaves_nothing_behind(server: Server, plain: str) -> None:
    cached = total(server.ran(graph()))
    name = server.queued(graph(steps=3000, seed=77))
    until(server.sampling, "the sampling to begin")
    until(lambda: _interrupted(server, name), "the interrupt")
    ran = server.done(name)
    assert "execution_interrupted" in [kind for kind, _ in ran["status"]["messages"]]
    assert total(server.ran(fresh(graph(node=False)))) == plain
    assert total(server.ran(fresh(graph()))) == cached


def _interrupted(server: Server, name: str) -> bool:
    server.post("/interrupt", {})
    return name in server.get(f"/history/{name}")


def fresh(flow: Graph) -> Graph:
    """The same workflow with a prompt of which the server keeps nothing: its number is another one each time."""
    flow["positive"]["inputs"]["number"] = next(NUMBERS)
    return flow


NUMBERS = count(1)


def test_weights_that_were_freed_come_back(server: Server, plain: str) -> None:
    cached = total(server.ran(graph()))
    server.post("/free", {"unload_models": True, "free_memory": True})
    assert total(server.ran(fresh(graph()))) == cached
    server.post("/free", {"unload_models": True, "free_memory": True})
    assert total(server.ran(fresh(graph(node=False)))) == plain


def refused_at(server: Server, flow: Graph, node: str) -> str:
    """What is said at the one node that is wrong: by ComfyUI beforehand (0.3.64 looks into no list), or by itself."""
    answer = server.post("/prompt", {"prompt": flow})
    if answer.get("node_errors"):
        assert list(answer["node_errors"]) == [node]
        return str(answer["node_errors"][node]["errors"])
    ((found, told),) = errors(server.done(answer["prompt_id"]))
    assert found == node
    return told


def test_a_grade_that_there_is_not_is_refused_at_the_node(server: Server) -> None:
    assert "fastest" in refused_at(server, graph(grade="fastest"), "cache")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (("FixedInterval", "interval = -3"), "interval -3"),
        (("FixedInterval", "intervals = 3"), "did you mean interval"),
        (("FixedInterval", "interval"), "expected each field as field = value"),
    ],
)
def test_settings_that_cannot_be_meant_are_said_at_the_node(
    server: Server, method: tuple[str, str], message: str
) -> None:
    ((node, told),) = errors(server.ran(graph(method=method)))
    assert node == "method"
    assert message in told


def test_a_model_that_nobody_knows_is_said_at_the_node(server: Server) -> None:
    flow = graph()
    flow["strange"] = of("TestStrangeModel", model=["loader", 0])
    flow["cache"]["inputs"]["model"] = ["strange", 0]
    ((node, told),) = errors(server.ran(flow))
    assert node == "cache"
    assert "Strange" in told
    assert "whose forward takes sound, picture" in told


def tuning(**changed: Any) -> Graph:
    """The workflow with a Tune node in it, whose plan goes into BWCache."""
    flow = graph()
    flow["vae"] = of("TestVae")
    settings = {"name": "mine", "grade": "fast", "steps": 8, "cfg": 4.0, "sampler_name": "euler", "scheduler": "simple"}
    settings |= {"denoise": 1.0, "first_seed": 20, "calibrate": 2, "verify": 2, "budget": 12.0, "again": False}
    flow["tune"] = of(
        "BWCacheTune",
        model=["loader", 0],
        positive=["positive", 0],
        negative=["negative", 0],
        latent_image=["empty", 0],
        vae=["vae", 0],
        **{**settings, **changed},
    )
    flow["cache"]["inputs"]["method"] = ["tune", 0]
    return flow


def planned(name: str, **sampler: Any) -> Graph:
    """The workflow with a plan by name."""
    flow = graph(**sampler)
    flow["cache"]["inputs"]["plan"] = name
    return flow


def test_a_plan_is_made_kept_and_taken_by_name(server: Server) -> None:
    tuned = server.ran(tuning())
    assert tuned["status"]["status_str"] == "success", errors(tuned)
    (words,) = tuned["outputs"]["tune"]["text"]
    assert words.startswith("mine: ")
    assert "of 8 steps" in words
    assert [path.name for path in (server.base / "models" / "bwcache").iterdir()] == ["mine.json"]
    assert "mine" in str(server.get("/object_info/BWCache")["BWCache"]["input"]["optional"]["plan"])
    by_name = server.ran(fresh(planned("mine")))
    assert total(by_name) == total(tuned)
    assert said(by_name).split(":")[0] == said(tuned).split(":")[0]
    again = server.ran(tuning(name="mine", budget=11.0))
    assert again["outputs"]["tune"]["text"] == [words]


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ({"steps": 9}, "found 9 steps under the plan mine; expected 8 (8 steps, euler, simple)"),
        ({"sampler_name": "dpmpp_2m"}, "found sampler dpmpp_2m under the plan mine; expected euler"),
        ({"scheduler": "beta"}, "found another scheduler, shift or denoise under the plan mine"),
    ],
)
def test_another_sampling_than_planned_is_an_error_at_the_sampler(
    server: Server, sampler: dict[str, Any], message: str
) -> None:
    ((node, told),) = errors(server.ran(planned("mine", **sampler)))
    assert node == "sampler"
    assert message in told


def test_a_plan_that_there_is_not_is_refused_at_the_node(server: Server) -> None:
    assert "yours" in refused_at(server, planned("yours"), "cache")


@pytest.mark.parametrize(
    ("sampler", "message"),
    [("heun", "evaluates the model 15 times in 8 steps"), ("euler_ancestral", "adds noise in its steps")],
)
def test_a_sampler_without_plans_is_said_at_the_tune_node(server: Server, sampler: str, message: str) -> None:
    ((node, told),) = errors(server.ran(tuning(name="other", sampler_name=sampler)))
    assert node == "tune"
    assert message in told
    assert not list((server.base / "models" / "bwcache").glob("other*"))


def test_a_tuning_is_interrupted_and_goes_on(server: Server) -> None:
    folder = server.base / "models" / "bwcache"
    name = server.queued(tuning(name="long", first_seed=500))
    until(lambda: list(folder.glob("long-parts/references/*.npz")), "the first sampling of the tuning")
    until(lambda: _interrupted(server, name), "the interrupt")
    assert "execution_interrupted" in [kind for kind, _ in server.done(name)["status"]["messages"]]
    assert not (folder / "long.json").exists()
    ran = server.ran(tuning(name="long", first_seed=500))
    assert ran["status"]["status_str"] == "success", errors(ran)
    assert (folder / "long.json").exists()
    assert not (folder / "long-parts").exists()
