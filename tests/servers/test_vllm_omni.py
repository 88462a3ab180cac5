"""vllm-omni's cache backend, by a look-alike of what it promises: in request mode and in step mode."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import bwcache
from bwcache.servers import vllm_omni as plugin
from tests.servers import look_alike
from tests.servers.look_alike import OMNI, SHARES, STEPS, Asking, State

FAST = "fast"
PLANNED = len(bwcache.policies.planned.plan(SHARES, 0.04)[0])


@pytest.fixture(autouse=True)
def host(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO, logger="vllm_omni.bwcache")
    with look_alike.installed(look_alike.omni):
        plugin.register()
        plugin.register()
        yield


def pipeline(**more: Any) -> Any:
    kind = sys.modules[f"{OMNI}models.wan2_2.wan2_2_transformer"].WanTransformer3DModel
    return sys.modules[f"{OMNI}models.wan2_2.pipeline_wan2_2"].Wan22Pipeline(kind(), **more)


def runner(pipe: Any = None, config: Any = None, backend: Any = "bwcache") -> Any:
    kind = sys.modules[f"{OMNI}worker.diffusion_model_runner"].DiffusionModelRunner
    return kind(pipe or pipeline(), backend, config)


def steps_of(trace: bwcache.Trace) -> str:
    return bwcache.core.trace.reuse_line(trace.events)


# --- request mode -----------------------------------------------------------------------------------------------------


def test_other_backends_are_as_they_were() -> None:
    assert runner(backend="none").cache_backend is None
    with pytest.raises(ValueError, match="Unsupported cache backend: deep"):
        runner(backend="deep")


@pytest.mark.parametrize("branches", [1, 2, 3])
def test_a_request_is_reused_as_its_trace_says_and_off_is_as_without(branches: int, caplog: Any) -> None:
    plain = runner(pipeline(branches=branches), backend="none").execute(Asking("1"))
    ran = runner(pipeline(branches=branches), {"policy": FAST})
    made = ran.execute(Asking("1"))
    (trace,) = ran.cache_backend.traces
    assert ran.pipeline.transformer.calls == branches * trace.computed == branches * PLANNED
    assert not torch.equal(made, plain)
    names = {1: {"cond"}, 2: {"cond", "uncond"}, 3: {"branch 0", "branch 1", "branch 2"}}
    assert {event.branch for event in trace.events} == names[branches]
    assert caplog.messages[-1].startswith(f"bwcache: request 1: fast, {STEPS} steps, {PLANNED} computed: ")
    assert torch.equal(ran.execute(Asking("2", "off")), plain)
    assert torch.equal(ran.execute(Asking("3", {"name": "Planned", "tolerance": 0})), plain)
    assert "_compiled_call_impl" not in vars(ran.pipeline.transformer)


def test_a_policy_on_blocks_works_too() -> None:
    ran = runner(config={"policy": {"name": "FixedInterval", "interval": 3}, "memory": "offload"})
    assert torch.isfinite(ran.execute(Asking("1"))).all()
    assert set(steps_of(ran.cache_backend.traces[-1])) == {"C", "r"}
    assert ran.cache_backend.traces[-1].meta["memory"] == "offload"


def test_a_server_that_says_no_more_is_balanced_and_one_may_be_off_for_all_that_do_not_ask(caplog: Any) -> None:
    usual, off = runner(), runner(config={"policy": "off"})
    usual.execute(Asking("1"))
    off.execute(Asking("1"))
    assert usual.cache_backend.settings.usual.word == "balanced"
    greeted = [text.rpartition("; ")[2] for text in caplog.messages if "around Pipeline" in text]
    assert greeted == ["requests that say nothing: balanced", "requests that say nothing: off"]
    assert len(usual.cache_backend.traces) == 1
    assert not off.cache_backend.traces
    off.execute(Asking("2", "near"))
    assert len(off.cache_backend.traces) == 1


def test_requests_in_one_batch_that_ask_for_the_same_go_along() -> None:
    ran = runner(config={"policy": FAST})
    both = ran.execute(Asking("1"), Asking("2", seed=2))
    assert ran.pipeline.transformer.calls == 2 * PLANNED
    alone = runner(config={"policy": FAST})
    torch.testing.assert_close(both[1:], alone.execute(Asking("2", seed=2)), atol=1e-5, rtol=1e-5)


def test_requests_that_ask_for_something_else_are_not_put_into_one_batch() -> None:
    key = sys.modules[f"{OMNI}sched.request_scheduler"].build_request_batch_sampling_params_key
    words = (None, "off", "near", {"name": "Planned", "computed": 3})
    assert len({key(Asking("1", word)) for word in words}) == len(words)
    assert key(Asking("1", "near")) == key(Asking("2", "near", seed=2))
    assert key(Asking("1")).condition_key is None


def test_a_plan_for_another_model_is_said_and_computed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ran = runner(config={"policy": "off", "policies": {"house": look_alike.plan_for_flux(tmp_path)}})
    plain = runner(backend="none").execute(Asking("1"))
    assert torch.equal(ran.execute(Asking("1", "house")), plain)
    made = stepped(ran, [State("1", "house")])
    assert torch.equal(made["1"], stepped(runner(backend="none"), [State("1")])["1"])
    problems = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert len(problems) == 2
    assert all("found WanTransformer3DModel under a file tuned for FluxTransformer2DModel" in one for one in problems)


def test_two_experts_keep_apart_what_is_theirs() -> None:
    kind = sys.modules[f"{OMNI}models.wan2_2.wan2_2_transformer"].WanTransformer3DModel
    ran = runner(pipeline(transformer_2=kind(seed=1)), {"policy": FAST})
    ran.execute(Asking("1"))
    first = next(step for step, share in enumerate(SHARES) if share < 0.5)
    assert steps_of(ran.cache_backend.traces[-1])[first] == "C"
    assert 0 < ran.pipeline.transformer_2.calls < STEPS


@pytest.mark.parametrize("backend", ["none", None])
def test_a_request_that_asks_a_server_that_was_not_told_is_not_passed_over(backend: Any, caplog: Any) -> None:
    ran = runner(backend=backend)
    plain = ran.execute(Asking("1"))
    assert torch.equal(ran.execute(Asking("1", "off")), plain)
    assert not caplog.records
    assert torch.equal(ran.execute(Asking("1", FAST)), plain)
    output = Scheduled(["1"], Asking("1", FAST))
    ran.state_cache["1"] = State("1")
    ran._execute_stepwise(output)
    for record in caplog.records:
        assert record.levelname == "ERROR"
        assert f"found bwcache 'fast' asked of a server with cache backend {backend!r}; expected" in record.message
    assert len(caplog.records) == 2


@pytest.mark.parametrize("backend", ["none", "bwcache"])
def test_a_runner_that_is_loaded_after_the_plugin_is_found_as_it_selects(backend: str, caplog: Any) -> None:
    """As in a worker, which imports it later: it has the function that selects from the selector by then."""
    with look_alike.installed(look_alike.omni):
        path = f"{OMNI}worker.diffusion_model_runner"
        later: Any = sys.modules.pop(path)
        plugin.register()
        later.get_cache_backend = sys.modules[f"{OMNI}cache.selector"].get_cache_backend
        sys.modules[path] = later
        ran = runner(config={"policy": "off"}, backend=backend)
        ran.execute(Asking("1", FAST))
        stepped(ran, [State("2", FAST)])
    assert ("asked of a server with cache backend 'none'" in caplog.text) == (backend == "none")
    assert ("request 2: fast" in caplog.text) == (backend == "bwcache")


class Scheduled(list[str]):
    """Who is sampled in a step, and who of them is new."""

    def __init__(self, names: list[str], *new: Any) -> None:
        super().__init__(names)
        self.scheduled_new_reqs = [SimpleNamespace(req=one) for one in new]


WRONG: dict[str, tuple[tuple[Asking, ...], str]] = {
    "word": ((Asking("1", "nearly"),), "found bwcache 'nearly'"),
    "file": ((Asking("1", "/plans/of/mine.json"),), "expected near or balanced or fast or off"),
    "import": ((Asking("1", {"name": "os:system"}),), "'os:system' in a request"),
    "policy": ((Asking("1", {"name": "DeepCache"}),), "no U-Net"),
    "batch": ((Asking("1", "near"), Asking("2", "off", 2)), "requests in one batch that ask for near and off"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_said_and_computed(name: str, caplog: pytest.LogCaptureFixture) -> None:
    requests, problem = WRONG[name]
    plain = runner(backend="none").execute(*[Asking(one.request_id, None, one.seed) for one in requests])
    ran = runner(config={"policy": "off"})
    assert torch.equal(ran.execute(*requests), plain)
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert problem in record.message
    ran.execute(Asking("3", FAST))  # the worker goes on
    assert steps_of(ran.cache_backend.traces[-1]).count("r") == STEPS - PLANNED


def test_a_pipeline_that_predicts_in_a_way_of_its_own_is_named(caplog: pytest.LogCaptureFixture) -> None:
    pipe = pipeline()
    pipe.own_loop = True
    ran = runner(pipe, {"policy": FAST})
    with pytest.warns(bwcache.NeverReusedWarning):
        ran.execute(Asking("1"))
    assert pipe.transformer.calls == STEPS
    assert any("does not predict by predict_noise_maybe_with_cfg" in text for text in caplog.messages)


@pytest.mark.parametrize(
    ("config", "found"), [({"policy": "nearly"}, "nearly"), ({"polity": "near"}, "polity"), ({"memory": "x"}, "x")]
)
def test_a_config_that_cannot_be_is_an_error_as_the_server_starts(config: Any, found: str) -> None:
    with pytest.raises(bwcache.SettingError, match=found):
        runner(config=config)


@pytest.mark.parametrize("door", ["cache.selector", "sched.request_scheduler", "worker.diffusion_model_runner"])
def test_another_vllm_omni_is_named(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "version", lambda name: "0.99.0")
    moved = sys.modules[f"{OMNI}{door}"]
    if door == "cache.selector":
        monkeypatch.setattr(moved, "get_cache_backend", lambda name: None)
    elif door == "sched.request_scheduler":
        monkeypatch.delattr(moved, plugin.ADMITS)
    else:
        monkeypatch.delattr(moved.DiffusionModelRunner, "_execute_stepwise")
    with pytest.raises(bwcache.AttachError, match=r"found vllm-omni 0\.99\.0 with .*; expected .*0\.30\.0; install"):
        plugin.register()


def test_an_error_of_the_model_is_the_requests_and_leaves_nothing() -> None:
    ran = runner(config={"policy": FAST})
    ran.pipeline.transformer.blocks[1].register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("gone")))
    with pytest.raises(RuntimeError, match="gone"):
        ran.execute(Asking("1"))
    assert "_compiled_call_impl" not in vars(ran.pipeline.transformer)


# --- step mode --------------------------------------------------------------------------------------------------------


def stepped(ran: Any, states: list[State], late: int = 0) -> dict[str, Tensor]:
    """Requests that come one after another, each `late` waves after the last, and are sampled in one batch."""
    waiting, made, waves = list(states), {}, 0
    while waiting or ran.state_cache:
        while waiting and waves >= late * (len(states) - len(waiting)):
            state = waiting.pop(0)
            ran.state_cache[state.request_id] = state
        made |= ran._execute_stepwise(list(ran.state_cache))
        waves += 1
    return made


def test_without_us_step_mode_has_no_cache_and_other_backends_are_still_refused() -> None:
    ran = runner(backend="none")
    ran.od_config.cache_backend = "tea_cache"
    with pytest.raises(ValueError, match="Step mode does not support"):
        ran._execute_stepwise([])


@pytest.mark.parametrize("late", [0, 3])
def test_each_request_is_what_it_is_alone_whoever_is_sampled_beside_it(late: int) -> None:
    said = ["fast", "off", {"name": "Planned", "computed": 3}, {"name": "FixedInterval", "interval": 2}, "near"]
    ran = runner(config={"policy": "off"})
    made = stepped(ran, [State(str(i), word, seed=i, steps=STEPS - i % 2) for i, word in enumerate(said)], late)
    around = ran.cache_backend
    assert ran.od_config.cache_backend == "bwcache"
    assert len(around.traces) == len(said) - 1
    for i, word in enumerate(said):
        alone = runner(config={"policy": "off"})
        one = stepped(alone, [State(str(i), word, seed=i, steps=STEPS - i % 2)])
        torch.testing.assert_close(made[str(i)], one[str(i)], atol=0 if word != "off" else 1e-5, rtol=0)
    assert "_compiled_call_impl" not in vars(ran.pipeline.transformer)


def test_those_that_ask_for_nothing_stay_in_one_batch() -> None:
    ran, sizes = runner(config={"policy": "off"}), []
    ran.pipeline.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    stepped(ran, [State("1"), State("2", seed=2), State("3", {"name": "Planned", "computed": 2}, seed=3)])
    assert sizes.count(2) == 2 * STEPS
    assert sizes.count(1) == 2 * 2


def test_one_that_is_given_up_is_freed_and_the_others_go_on() -> None:
    ran = runner(config={"policy": FAST})
    for i in (1, 2):
        ran.state_cache[str(i)] = State(str(i), seed=i)
    for _ in range(3):
        ran._execute_stepwise(["1", "2"])
    del ran.state_cache["1"]
    ran._execute_stepwise(["2"])
    assert [trace.steps for trace in ran.cache_backend.traces] == [3]
    made = stepped(ran, [])
    alone = stepped(runner(config={"policy": FAST}), [State("2", seed=2)])
    assert torch.equal(made["2"], alone["2"])
    assert "_compiled_call_impl" not in vars(ran.pipeline.transformer)


def test_one_that_pauses_goes_on_with_what_it_kept() -> None:
    ran = runner(config={"policy": FAST})
    ran.state_cache.update({str(i): State(str(i), seed=i) for i in (1, 2)})
    for wave in range(6):
        ran._execute_stepwise(["1"] if wave % 2 else ["2"])
    made = stepped(ran, [])
    for i in (1, 2):
        alone = stepped(runner(config={"policy": FAST}), [State(str(i), seed=i)])
        assert torch.equal(made[str(i)], alone[str(i)])


def test_memory_is_flat_over_many_requests() -> None:
    """Two at a time in step mode, some of which are given up; between them requests in request mode."""
    ran, held = runner(config={"policy": "off"}), []
    words = {"name": "Planned", "computed": 3}, {"name": "FixedInterval", "interval": 2}
    for i in range(100):
        pair = {str(2 * i + j): State(str(2 * i + j), word, seed=j, steps=8) for j, word in enumerate(words)}
        ran.state_cache |= pair
        while ran.state_cache:
            if i % 3 == 0:
                ran.state_cache.pop(str(2 * i), None)
            ran._execute_stepwise(list(ran.state_cache))
        del pair
        ran.execute(Asking("a", "fast" if i % 2 else "nearly"))
        if i in (9, 99):
            gc.collect()
            held.append(sum(isinstance(each, (Tensor, bwcache.Session)) for each in gc.get_objects()))
    assert held[0] == held[1]
    assert not ran.cache_backend._arounds[0]._requests
    assert len(ran.cache_backend.traces) == plugin.KEPT_TRACES


@pytest.mark.parametrize("wrong", ["nearly", {"name": "DeepCache"}, "chunks"])
def test_in_step_mode_what_cannot_be_is_said_once_and_computed(wrong: Any, caplog: pytest.LogCaptureFixture) -> None:
    ran = runner(config={"policy": "off"})
    bad = State("bad", "fast" if wrong == "chunks" else wrong, chunk_num_steps=4 if wrong == "chunks" else None)
    made = stepped(ran, [bad, State("good", "fast", seed=2)])
    plain = stepped(runner(backend="none"), [State("bad")])
    assert torch.equal(made["bad"], plain["bad"])
    problems = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(problems) == 1
    assert "request bad" in problems[0].message
    assert [steps_of(trace).count("C") for trace in ran.cache_backend.traces] == [PLANNED]
