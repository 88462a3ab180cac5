"""Around ComfyUI's sampling, by a look-alike of what it promises: which steps there are, whose features are whose."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import bwcache
from bwcache.comfy import words
from bwcache.comfy.lanes import Lanes
from bwcache.comfy.rehearsal import evaluations
from bwcache.comfy.rows import row_of as row_of_module
from bwcache.comfy.runs import KEPT_RUNS, Runs
from bwcache.comfy.sampling import POINTS, Around, Settings, cached, cost, line
from bwcache.core.trace import reuse_line
from bwcache.errors import BWCacheError
from bwcache.policies.planned import plan
from tests.comfy import look_alike
from tests.comfy.fake_api import ancestral
from tests.comfy.look_alike import CLASSES, EDM, SIGMAS, Sampler, euler, heun, model, prompt, sampled, unforeseen

BLOCKS, CLEAN = bwcache.FixedInterval(interval=3, warmup=1, tail=1), bwcache.Planned(0.1)
POLICIES: dict[str, bwcache.Policy[Any]] = {"blocks": BLOCKS, "clean": CLEAN}
APART = {"as one": lambda i: False, "apart": lambda i: True, "both": lambda i: i % 3 == 1}
STEPS = len(SIGMAS) - 1


def row_of(patcher: look_alike.Patcher) -> Any:
    return row_of_module(patcher.model.diffusion_model)


def computed(trace: bwcache.Trace) -> list[int]:
    return sorted({event.step for event in trace.events if event.action == "compute"})


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_model_is_reused_and_left_as_it_was(name: str, policy: str) -> None:
    patcher = model(name)
    plain = sampled(patcher)
    assert torch.equal(sampled(cached(patcher, Settings(bwcache.Planned(0)))[0]), plain)
    clone, runs = cached(patcher, Settings(POLICIES[policy]))
    made = sampled(clone)
    (trace,) = runs.traces
    assert torch.isfinite(made).all()
    assert not torch.equal(made, plain)
    assert 0 < len(computed(trace)) < trace.steps == STEPS
    assert torch.equal(sampled(patcher), plain)
    modules = [patcher.model.diffusion_model, *patcher.model.diffusion_model.modules()]
    assert not any("_compiled_call_impl" in vars(module) for module in modules)


@pytest.mark.parametrize(("sampler", "count"), [(euler, STEPS), (heun, 2 * STEPS - 1)])
@pytest.mark.parametrize("policy", POLICIES)
def test_evaluations_are_steps_and_known_beforehand(sampler: Any, count: int, policy: str) -> None:
    patcher = model()
    before = torch.random.get_rng_state()
    listed = evaluations(Sampler(sampler), patcher.model, SIGMAS, 5)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(listed) == count
    clone, runs = cached(patcher, Settings(POLICIES[policy]))
    sampled(clone, sampler)
    trace = runs.traces[-1]
    assert {event.total for event in trace.events} == {trace.steps} == {count}
    assert [event.sigma for event in trace.events if event.branch == "cond"] == pytest.approx(listed)
    assert line(trace).startswith(f"{STEPS} steps, {count} evaluations, {len(computed(trace))} computed")


def test_a_plan_is_made_of_the_noise_levels_that_come() -> None:
    clone, runs = cached(model(), Settings(CLEAN))
    sampled(clone)
    assert set(computed(runs.traces[-1])) == plan(tuple(SIGMAS.tolist()), CLEAN.tolerance)[0]


def test_a_video_is_inverted_as_by_flip_sigmas() -> None:
    """Noise rises, and windows counted in progress never ended."""
    sigmas = torch.linspace(0.05, 1.0, 21)
    patcher = model()
    policy = bwcache.BWCache(10.0, 0.2, interval_unit="progress", tail_guard=0)
    clone, runs = cached(patcher, Settings(policy))
    sampled(clone, sigmas=sigmas)
    row = reuse_line([event for event in runs.traces[-1].events if event.branch == "cond"])
    shares = [float(sigma) for sigma in sigmas]
    last = 1
    for i in range(2, 20):
        over = (i - last) / 20 + shares[i] - shares[last] > 2 * 0.2
        last = i if over else last
        assert row[i] == ("C" if over else "r"), row
    clone, runs = cached(patcher, Settings(bwcache.Planned(0.04)))
    with pytest.warns(bwcache.NeverReusedWarning, match="noise rises"):
        assert torch.equal(sampled(clone, sigmas=sigmas), sampled(patcher, sigmas=sigmas))


def test_a_sampler_that_does_otherwise_than_in_its_rehearsal_is_computed_from_there_on() -> None:
    patcher = model()
    clone, runs = cached(patcher, Settings(BLOCKS))
    with pytest.warns(bwcache.NeverReusedWarning, match="number of steps unknown"):
        made = sampled(clone, unforeseen)
    assert "had not made known" in runs.notes[-1]
    assert computed(runs.traces[-1]) == [event.step for event in runs.traces[-1].events if event.branch == "cond"]
    torch.testing.assert_close(made, sampled(patcher, unforeseen), atol=0.5, rtol=0.5)


def test_a_sampler_that_cannot_be_rehearsed_is_computed() -> None:
    class Strange(Sampler):
        def __init__(self) -> None:
            super().__init__(euler)
            self.own, self.sampler_function = self.sampler_function, None

        def sample(self, *args: Any, **kwargs: Any) -> Any:
            sampler = Sampler(self.own)
            return sampler.sample(*args, **kwargs)

    patcher = model()
    clone, runs = cached(patcher, Settings(BLOCKS))
    guider = look_alike.Guider(clone, [prompt(1)], [prompt(2)], 3.0)
    noise = torch.randn(1, 1, 2, 4, 4, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode(), pytest.warns(bwcache.NeverReusedWarning, match="number of steps unknown"):
        made = guider.sample(noise, SIGMAS, Strange())
    assert torch.equal(made, sampled(patcher))
    assert "could not be told beforehand" in runs.notes[-1]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "apart", [lambda i: False, lambda i: True, lambda i: i % 3 == 1], ids=["as one", "apart", "both"]
)
def test_branches_keep_what_is_theirs_however_they_come(policy: str, apart: Any) -> None:
    patcher = model()
    clone, runs = cached(patcher, Settings(POLICIES[policy]))
    made = sampled(clone, apart=apart)
    assert {event.branch for event in runs.traces[-1].events} == {"cond", "uncond"}
    torch.testing.assert_close(made, sampled(cached(patcher, Settings(POLICIES[policy]))[0]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("apart", [lambda i: False, lambda i: True], ids=["as one", "apart"])
def test_another_prompt_begins_with_nothing(policy: str, apart: Any) -> None:
    seen: list[tuple[Any, bool]] = []
    patcher = model()
    ran = [False]
    blocks: Any = patcher.model.diffusion_model.blocks
    blocks[-1].register_forward_pre_hook(lambda *_: ran.__setitem__(0, True))

    def see(executor: Any, *args: Any, **kwargs: Any) -> Any:
        ran[0] = False
        made = executor(*args, **kwargs)
        seen.append((args[5]["uuids"], ran[0]))
        return made

    patcher.add_wrapper_with_key("apply_model", "witness", see)
    clone, runs = cached(patcher, Settings(POLICIES[policy]))
    sampled(clone, positive=[prompt(5, end=0.4), prompt(6, start=0.4)], apart=apart)
    known: set[Any] = set()
    for ids, ran_here in seen:
        assert ran_here or set(ids) <= known
        known |= set(ids) if ran_here else set()
    assert {event.branch for event in runs.traces[-1].events} == {"cond", "cond 2", "uncond"}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_control_net_that_comes_and_goes_begins_with_nothing(policy: str) -> None:
    def control(sigma: float) -> Any:
        return {"output": [torch.ones(1)]} if 0.3 < sigma < 0.8 else None

    clone, runs = cached(model(), Settings(POLICIES[policy]))
    sampled(clone, positive=[prompt(1, control=control)])
    names = [event.branch for event in runs.traces[-1].events if event.branch.startswith("cond")]
    assert list(dict.fromkeys(names)) == ["cond", "cond 2"]
    first = next(event for event in runs.traces[-1].events if event.branch == "cond 2")
    assert first.action == "compute"


def test_hooks_that_change_the_weights_begin_with_nothing() -> None:
    patcher = model()
    clone, runs = cached(patcher, Settings(BLOCKS))

    class Hook:
        strength = 1.0

    hook = Hook()
    clone.current_hooks = type("Group", (), {"hooks": [hook]})()
    sampled(clone, callback=lambda said: setattr(hook, "strength", 1.0 if said["i"] < 4 else 0.5))
    names = dict.fromkeys(event.branch for event in runs.traces[-1].events)
    assert list(names) == ["cond", "uncond", "cond 2", "uncond 2"]


def test_cancelled_or_failed_leaves_nothing_on_the_model() -> None:
    patcher = model()
    plain = sampled(patcher)
    clone, runs = cached(patcher, Settings(CLEAN))
    undisturbed = sampled(clone)

    def cancel(said: Any) -> None:
        if said["i"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampled(clone, callback=cancel)
    assert runs.traces[-1].steps == 5
    assert torch.equal(sampled(patcher), plain)
    assert torch.equal(sampled(clone), undisturbed)


def test_a_sampling_within_another_one_takes_its_place_and_gives_it_back() -> None:
    patcher = model()
    clone, runs = cached(patcher, Settings(BLOCKS))
    other, inner_runs = cached(patcher, Settings(CLEAN))
    alone = sampled(other)
    inner: list[torch.Tensor] = []

    def within(said: Any) -> None:
        if said["i"] == 3:
            inner.append(sampled(other))

    made = sampled(clone, callback=within)
    assert torch.isfinite(made).all()
    assert torch.equal(inner[0], alone)
    assert [computed(trace) for trace in inner_runs.traces] == 2 * [computed(inner_runs.traces[0])]
    before, after = runs.traces
    assert [event.step for event in before.events if event.branch == "cond"] == [0, 1, 2, 3]
    assert computed(after)[0] == 4
    assert after.reuse_rate > 0


def test_a_session_of_somebody_else_is_left_alone() -> None:
    patcher = model()
    clone, runs = cached(patcher, Settings(CLEAN))
    with bwcache.attach(patcher.model.diffusion_model, bwcache.NeverReuse(), steps=STEPS, spec=row_of(patcher)) as own:
        made = sampled(clone)
    assert torch.equal(made, sampled(patcher))
    assert own.traces
    assert "another session holds this model" in runs.notes[-1]


def test_several_gpus_are_computed(caplog: pytest.LogCaptureFixture) -> None:
    patcher = model()
    clone, runs = cached(patcher, Settings(CLEAN))
    clone.model_options["multigpu_clones"] = [object()]
    assert torch.equal(sampled(clone), sampled(patcher))
    assert "several GPUs" in runs.notes[-1]
    assert not runs.traces


@pytest.mark.parametrize("policy", POLICIES)
def test_each_run_is_a_line_in_the_log_that_says_what_it_cost(policy: str, caplog: pytest.LogCaptureFixture) -> None:
    clone, runs = cached(model(), Settings(POLICIES[policy]))
    with caplog.at_level("INFO", "bwcache"):
        sampled(clone)
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith(f"bwcache: {STEPS} steps, {STEPS} evaluations, ")
    held = runs.traces[-1].peak_bytes
    assert held > 0
    assert said.endswith(f"x in the model's work; it kept {held / 1e6:.3g} MB between steps")


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_kept_waits_in_main_memory_where_that_is_asked_for(policy: str) -> None:
    clone, runs = cached(model(), Settings(POLICIES[policy], memory="offload"))
    made = sampled(clone)
    trace = runs.traces[-1]
    assert trace.host_bytes > 0
    assert f"{trace.host_bytes / 1e6:.3g} MB in main memory between steps" in cost(trace)
    assert torch.equal(made, sampled(cached(model(), Settings(POLICIES[policy]))[0]))


def test_start_and_end_are_shares_of_the_run() -> None:
    clone, runs = cached(model(), Settings(BLOCKS, start=0.3, end=0.8))
    sampled(clone)
    assert {0, 1, 2, 8, 9} <= set(computed(runs.traces[-1]))


def test_the_last_node_counts_and_old_runs_are_let_go() -> None:
    patcher = model()
    first, runs = cached(patcher, Settings(CLEAN))
    second, later = cached(first, Settings(BLOCKS))
    for _ in range(KEPT_RUNS + 2):
        sampled(second)
    assert not runs.traces
    assert len(later.traces) == KEPT_RUNS
    assert not any(isinstance(value, torch.Tensor) for trace in later.traces for value in trace.meta.values())


def test_what_a_model_cannot_carry_is_said_at_the_node() -> None:
    with pytest.raises(BWCacheError, match="with EDM"):
        cached(model(kind=EDM), Settings(CLEAN))
    unknown = type("SomeNet", (torch.nn.Module,), {"forward": lambda self, x, timesteps, context=None, **kwargs: x})
    patcher = look_alike.Patcher(look_alike.Base(unknown()))
    with pytest.raises(
        BWCacheError, match=r"a method that keeps blocks, on a SomeNet.*these fit as they are: .*Planned"
    ):
        cached(patcher, Settings(BLOCKS))
    with pytest.raises(BWCacheError, match="a method that keeps blocks, on a SomeNet"):
        cached(patcher, Settings(bwcache.Foresight()))
    assert cached(patcher, Settings(CLEAN))
    strange = type("Sound", (torch.nn.Module,), {"forward": lambda self, audio: audio})
    with pytest.raises(BWCacheError, match="whose forward takes audio"):
        cached(look_alike.Patcher(look_alike.Base(strange())), Settings(CLEAN))


class SomeNet(torch.nn.Module):
    """A class that no row is of."""

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: Any = None, **_: Any) -> torch.Tensor:
        return torch.tanh(x + timesteps.view(-1, 1, 1, 1, 1) + context.mean((1, 2)).view(-1, 1, 1, 1, 1))


@pytest.mark.parametrize("kind", ["comfy.ldm.wan.WanModel", "comfy.ldm.lightricks.LTXAVModel", "no row"])
@pytest.mark.parametrize("name", words.methods())
@pytest.mark.filterwarnings("ignore::bwcache.errors.NeverReusedWarning")
def test_each_method_samples_or_is_refused_at_the_node(name: str, kind: str) -> None:
    patcher = look_alike.Patcher(look_alike.Base(SomeNet())) if kind == "no row" else model(kind)
    plain = sampled(patcher)
    refusal, runs = "", Runs()
    try:
        clone, runs = cached(patcher, Settings(words.of_method(name, "")))
        assert torch.isfinite(sampled(clone, apart=lambda i: i % 3 == 1)).all()
    except BWCacheError as error:
        refusal = str(error)
    assert "expected" in refusal or [trace.steps for trace in runs.traces] == [STEPS]
    assert torch.equal(sampled(patcher), plain)


def test_arguments_that_nobody_knows_are_handed_on() -> None:
    around = Around(Settings(CLEAN), Runs())
    for point in POINTS:
        seen: list[Any] = []

        def executor(*args: Any, seen: list[Any] = seen, **kwargs: Any) -> str:
            seen.append((args, kwargs))
            return "made"

        executor.class_obj = object()  # type: ignore[attr-defined]
        sigmas = torch.tensor([1.0, 0.0])
        wrap = type("Wrap", (), {"inner_model": model().model})()
        given = (wrap, sigmas, {"model_options": {}}) if point == "sampler_sample" else (torch.ones(1), sigmas, {})
        assert getattr(around, point)(executor, *given, 7, latent_shapes=[1], later="too") == "made"
        ((args, kwargs),) = seen
        assert len(args) == 4
        assert {"latent_shapes": [1], "later": "too"}.items() <= kwargs.items()


def test_a_host_without_a_place_to_stand_at_is_said_at_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    points = type("WrappersMP", (), {point.upper(): point for point in POINTS if point != "predict_noise"})
    monkeypatch.setitem(sys.modules, "comfy.patcher_extension", SimpleNamespace(WrappersMP=points))
    monkeypatch.setitem(sys.modules, "comfyui_version", SimpleNamespace(__version__="0.3.40"))
    message = r"found ComfyUI 0\.3\.40 without predict_noise .* expected ComfyUI 0\.3\.64 or newer.* update ComfyUI"
    with pytest.raises(BWCacheError, match=message):
        cached(model(), Settings(CLEAN))


@pytest.mark.parametrize("point", ["sampler_sample", "predict_noise", "uuids"])
@pytest.mark.filterwarnings("ignore::bwcache.errors.NeverReusedWarning")
def test_a_host_that_no_longer_says_something_is_computed(point: str) -> None:
    patcher = model()
    clone, runs = cached(patcher, Settings(CLEAN))
    if point == "uuids":

        def renamed(executor: Any, *args: Any, **kwargs: Any) -> Any:
            options = {**args[5], "names": args[5]["uuids"]}
            del options["uuids"]
            return executor(*args[:5], options, *args[6:], **kwargs)

        clone.wrappers["apply_model"] = {"host": [renamed], **clone.wrappers["apply_model"]}
    else:
        clone.remove_wrappers_with_key(point, "bwcache")
    assert torch.equal(sampled(clone), sampled(patcher))
    assert "this ComfyUI did not say" in runs.notes[-1]


def test_options_of_a_forward_are_read_and_left_as_they_were() -> None:
    patcher = model()
    clone, runs = cached(patcher, Settings(CLEAN))
    theirs = object()
    seen: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def see(executor: Any, *args: Any, **kwargs: Any) -> Any:
        args[5]["theirs"] = theirs
        before = dict(args[5])
        made = executor(*args, **kwargs)
        seen.append((before, dict(args[5])))
        return made

    clone.wrappers["apply_model"] = {"theirs": [see], **clone.wrappers["apply_model"]}
    sampled(clone)
    assert runs.traces[-1].reuse_rate > 0
    assert seen
    for before, after in seen:
        assert before.keys() == after.keys()
        assert all(before[name] is after[name] for name in before)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("apart", APART.values(), ids=APART)
def test_weights_of_blocks_that_do_not_run_are_not_loaded_beforehand(policy: str, apart: Any) -> None:
    """Newer ComfyUI streams the weights of the next block while one runs, if an option of the forward says so."""
    patcher = model()
    asked: list[tuple[bool, bool]] = []
    ran = [False]
    module: Any = patcher.model.diffusion_model
    module.blocks[-1].register_forward_pre_hook(lambda *_: ran.__setitem__(0, True))
    begins = lambda _, args, kwargs: ran.__setitem__(0, False)  # noqa: E731
    ends = lambda _, args, kwargs, made: asked.append((kwargs["transformer_options"]["prefetch_dynamic_vbars"], ran[0]))  # noqa: E731
    module.register_forward_pre_hook(begins, with_kwargs=True)
    module.register_forward_hook(ends, with_kwargs=True)
    patcher.model_options["transformer_options"]["prefetch_dynamic_vbars"] = True
    clone, runs = cached(patcher, Settings(POLICIES[policy]))
    sampled(clone, apart=apart)
    assert runs.traces[-1].reuse_rate > 0
    assert all(wanted == blocks_ran for wanted, blocks_ran in asked)
    assert (False, False) in asked or policy == "clean"  # which does not call the model at all
    assert patcher.model_options["transformer_options"]["prefetch_dynamic_vbars"] is True


def test_planned_memory_is_switched_off_while_it_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = SimpleNamespace(disable_comfy_compiler=False)
    monkeypatch.setitem(sys.modules, "comfy.cli_args", SimpleNamespace(args=arguments))
    seen: list[bool] = []
    clone, _ = cached(model(), Settings(CLEAN))
    sampled(clone, callback=lambda said: seen.append(arguments.disable_comfy_compiler))
    assert seen == [True] * STEPS
    assert arguments.disable_comfy_compiler is False


def test_a_policy_looks_ahead_where_the_sampler_adds_no_noise() -> None:
    patcher = model()
    times: list[float] = []
    patcher.model.diffusion_model.register_forward_pre_hook(lambda _, args: times.append(float(args[1].flatten()[0])))
    clone, runs = cached(patcher, Settings(bwcache.Planned(0.02, ahead=0.5)))
    sigmas = torch.linspace(1, 0, 41)
    made = sampled(clone, sigmas=sigmas)
    trace = runs.traces[-1]
    ahead = [event for event in trace.events if event.evaluated_at is not None]
    assert ahead
    assert torch.isfinite(made).all()
    for event in ahead:
        assert event.sigma is not None
        assert event.evaluated_at is not None
        assert event.evaluated_at < event.sigma
        assert any(abs(event.evaluated_at - time) < 1e-5 for time in times)
    clone, runs = cached(patcher, Settings(bwcache.Planned(0.02, ahead=0.5)))
    sampled(clone, ancestral, sigmas=sigmas)
    assert not [event for event in runs.traces[-1].events if event.evaluated_at is not None]
    reasons = {event.reason for event in runs.traces[-1].events}
    assert any("in place: the host does not say the time of another noise level" in reason for reason in reasons)


def test_a_hook_is_known_by_itself_and_its_strength() -> None:
    def patcher(hook_ref: object, strength: float) -> Any:
        hook = type("Hook", (), {"hook_ref": hook_ref, "strength": strength})()
        return type("Patcher", (), {"current_hooks": type("Group", (), {"hooks": [hook]})()})()

    lanes, one, other = Lanes(), object(), object()
    options = {"cond_or_uncond": [0], "uuids": ["a"]}
    names = [lanes.of(options, None, patcher(*each)) for each in ((one, 1.0), (one, 1.0), (one, 0.5), (other, 1.0))]
    assert names == [("cond",), ("cond",), ("cond 2",), ("cond 3",)]


def test_a_window_without_a_list_of_frames_is_held_so_that_no_other_takes_its_place() -> None:
    lanes, window = Lanes(), type("Window", (), {})
    names = set()
    for _ in range(20):  # each is let go of before the next one is made
        options = {"cond_or_uncond": [0], "uuids": ["a"], "context_window": window()}
        names |= set(lanes.of(options, None, None))
    assert len(names) == 20
