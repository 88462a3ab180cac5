"""A session says no where it must, warns once, leaves nothing behind, and copies of what it holds are clean."""

import copy
import io
import pickle
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, WanTransformer3DModel
from torch import nn

import bwcache
from bwcache import BlockList, BlockSpec, BWCache, NeverReuse
from bwcache.core.trace import reuse_line
from bwcache.models import denoisers
from tests.engine.test_restore import everything_on, snapshot
from tests.tiny import BY_NAME, VIDEO_TO_VIDEO, WAN, Case, Scripted, each_case, noise, wan, wan_transformer, wan_vae

CAREFREE = BWCache(threshold=10.0, reuse_interval=2)


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", ["pipeline", "module", "sharing"])
def test_what_is_held_cannot_be_attached_again(again: str) -> None:
    pipe = wan()
    target = {"pipeline": pipe, "module": pipe.transformer, "sharing": type(pipe).from_pipe(pipe)}[again]
    with bwcache.attach(pipe, BWCache(threshold=0.33)):
        before = snapshot(pipe)
        with pytest.raises(bwcache.AlreadyAttachedError, match=r"Session of WanPipeline.*threshold=0\.33.*disable"):
            bwcache.attach(target, CAREFREE)
        assert snapshot(pipe) == before
        WAN.run(pipe)
    bwcache.attach(target, CAREFREE).close()


def test_a_session_is_named_without_its_whole_policy() -> None:
    module = wan_transformer()
    with bwcache.attach(module, bwcache.MagCache((1.0,) * 1000), steps=1000):
        with pytest.raises(bwcache.AlreadyAttachedError, match=r"Session of WanTransformer3DModel, MagCache") as raised:
            bwcache.attach(module, CAREFREE)
        assert len(str(raised.value)) < 250
    with pytest.raises(bwcache.SettingError, match="as a policy") as refused:
        bwcache.attach(module, [0.5] * 1000)  # type: ignore[arg-type]
    assert len(str(refused.value)) < 250
    with bwcache.attach(module, CAREFREE):
        pass


@pytest.mark.parametrize(
    ("target", "error", "named"),
    [
        (nn.Linear(2, 2), bwcache.NoBlocksFoundError, "Linear.*bwcache models.*bwcache.discover"),
        (SimpleNamespace(components={"vae": wan_vae()}), bwcache.NoBlocksFoundError, "AutoencoderKLWan"),
        (SimpleNamespace(components={}), bwcache.NoBlocksFoundError, "no modules"),
        (object(), bwcache.AttachError, "object"),
        (None, bwcache.AttachError, "NoneType"),
        ("wan", bwcache.AttachError, "str"),
    ],
    ids=["module", "pipeline", "empty", "object", "none", "name"],
)
def test_what_has_no_blocks_is_refused_by_name(target: Any, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        bwcache.attach(target, CAREFREE)
    with pytest.raises(bwcache.AttachError):
        bwcache.disable(target)


WAN_ROW = BlockSpec("WanTransformer3DModel", (BlockList("blocks"),))
WRONG_ROWS = {
    "renamed_timestep": (replace(WAN_ROW, timestep="time"), "time"),
    "renamed_argument": (replace(WAN_ROW, lists=(BlockList("blocks", ("x",)),), read_after=("x",)), "'x'"),
    "missing_list": (replace(WAN_ROW, lists=(BlockList("layers"),)), "layers.*blocks"),
    "not_a_list": (replace(WAN_ROW, lists=(BlockList("norm_out"),)), "norm_out"),
    "missing_path": (replace(WAN_ROW, lists=(BlockList("body.blocks"),)), r"body\.blocks"),
    "second_list_missing": (replace(WAN_ROW, lists=(BlockList("blocks"), BlockList("more"))), "more"),
    "read_after_not_returned": (replace(WAN_ROW, read_after=("encoder_hidden_states",)), "encoder_hidden_states"),
}


@pytest.mark.parametrize(("spec", "named"), WRONG_ROWS.values(), ids=WRONG_ROWS)
def test_a_row_that_does_not_describe_the_module_is_refused(spec: BlockSpec, named: str) -> None:
    pipe = wan()
    before = snapshot(pipe)
    with pytest.raises(bwcache.SpecMismatchError, match=named):
        bwcache.attach(pipe, CAREFREE, spec=spec)
    assert snapshot(pipe) == before


def test_a_measured_stream_that_no_block_returns_is_refused() -> None:
    with pytest.raises(bwcache.SpecMismatchError, match="temb"):
        bwcache.attach(wan(), CAREFREE, spec=replace(WAN_ROW, measured="temb"))


def test_another_arity_is_noticed_at_the_first_block() -> None:
    pipe = wan()
    both = BlockSpec("WanTransformer3DModel", (BlockList("blocks", ("hidden_states", "encoder_hidden_states")),))
    plain = WAN.run(pipe)
    with (
        bwcache.attach(pipe, CAREFREE, spec=both),
        pytest.raises(bwcache.SpecMismatchError, match=r"1 values.*blocks\.0.*2: hidden_states, encoder_hidden_states"),
    ):
        WAN.run(pipe)
    assert torch.equal(WAN.run(pipe), plain)


def test_another_cache_is_refused_and_named() -> None:
    pipe = wan()
    plain = WAN.run(pipe)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(bwcache.AttachError, match=r"FirstBlockCacheConfig.*transformer.*disable_cache"):
        bwcache.attach(pipe, CAREFREE)
    pipe.transformer.disable_cache()
    with bwcache.attach(pipe, BWCache(threshold=0)):
        assert torch.equal(WAN.run(pipe), plain)


def test_an_attach_that_fails_at_the_second_denoiser_lets_go_of_the_first() -> None:
    case = BY_NAME["wan_two_experts"]
    pipe = case.build()
    plain = case.run(pipe)
    pipe.transformer_2.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    before = everything_on(pipe.transformer)
    with pytest.raises(bwcache.AttachError, match="transformer_2"):
        bwcache.attach(pipe, CAREFREE)
    assert everything_on(pipe.transformer) == before
    pipe.transformer_2.disable_cache()
    assert torch.equal(case.run(pipe), plain)


@pytest.mark.parametrize("blocks", [(4,), (-5,), (0, 99)])
def test_a_block_that_is_not_there_is_refused(blocks: tuple[int, ...]) -> None:
    pipe = wan()
    before = snapshot(pipe)
    with pytest.raises(bwcache.SettingError, match="4 blocks"):
        bwcache.attach(pipe, BWCache(blocks=blocks))
    assert snapshot(pipe) == before


def test_blocks_are_counted_from_either_end_and_each_once() -> None:
    pipe = wan()
    with bwcache.attach(pipe, BWCache(blocks=(-1, 0, 3, 0))) as session:
        WAN.run(pipe)
    assert len(session.trace.events[-1].distances) == 2


# --- enable and disable -----------------------------------------------------------------------------------------------


@each_case
def test_enable_and_disable(case: Case) -> None:
    pipe = case.build()
    plain = case.run(pipe)
    before = snapshot(pipe)
    session = bwcache.enable(pipe, CAREFREE)
    assert not torch.equal(case.run(pipe), plain)
    bwcache.disable(pipe)
    assert snapshot(pipe) == before
    assert torch.equal(case.run(pipe), plain)
    assert len(session.traces) == 1
    with pytest.raises(bwcache.AttachError, match="no session"):
        bwcache.disable(pipe)


def test_closing_twice_is_closing_once() -> None:
    pipe = wan()
    session = bwcache.attach(pipe, CAREFREE)
    session.close()
    other = bwcache.attach(pipe, CAREFREE)
    session.close()
    WAN.run(pipe)
    assert session.traces == []
    assert len(other.traces) == 1


def test_a_session_of_one_expert_alone() -> None:
    case = BY_NAME["wan_two_experts"]
    pipe = case.build()
    with bwcache.attach(pipe.transformer_2, CAREFREE, steps=5) as session:
        case.run(pipe)
    assert {event.site for event in session.trace.events} == {"model/stack"}


def test_there_is_no_trace_before_the_first_run() -> None:
    with bwcache.attach(wan(), CAREFREE) as session:
        assert session.traces == []
        with pytest.raises(bwcache.BWCacheError, match="no run"):
            _ = session.trace


def test_a_trace_can_be_read_while_the_run_goes_on() -> None:
    pipe = wan()
    seen = []

    def look(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        seen.append((len(session.traces), session.trace.steps, reuse_line(session.trace.events)))
        return kwargs

    with bwcache.attach(pipe, CAREFREE) as session:
        watched = WAN.run(pipe, callback_on_step_end=look)
        assert torch.equal(WAN.run(pipe), watched)
    assert seen[4] == (1, 5, "CCrrC")


def test_the_paper_is_the_default() -> None:
    with bwcache.attach(wan()) as session:
        assert session.policy == BWCache()


def test_leaving_in_the_middle_of_a_run_computes_the_rest() -> None:
    pipe = wan()
    session = bwcache.attach(pipe, CAREFREE)

    def leave(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if index == 2:
            session.close()
        return kwargs

    blocks: list[int] = []
    pipe.transformer.blocks[0].register_forward_pre_hook(lambda *_: blocks.append(1))
    WAN.run(pipe, callback_on_step_end=leave)
    assert session.trace.steps == 3
    assert len(blocks) == 2 * (2 + 7)  # steps 0 and 1 computed, 2 reused, 3 to 9 computed


# --- warnings and settings --------------------------------------------------------------------------------------------


def test_a_session_that_never_reuses_says_so_after_each_run_and_why() -> None:
    pipe = wan()
    with warnings.catch_warnings(record=True) as caught, bwcache.attach(pipe, BWCache(threshold=1e-9)):
        warnings.simplefilter("always")
        WAN.run(pipe)
        WAN.run(pipe)
    assert [warning.category for warning in caught] == [bwcache.NeverReusedWarning] * 2
    assert "10 steps" in str(caught[0].message)
    assert "still changing" in str(caught[0].message)
    assert "lowest indicator" in str(caught[0].message)


def test_warnings_point_at_the_line_of_the_program_that_uses_it() -> None:
    """Some arise within a pipeline's call, or one of the session: neither diffusers nor bwcache is to be blamed."""
    pipe = wan()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with bwcache.attach(pipe, BWCache(threshold=1e-9)):
            WAN.run(pipe)  # warns as the pipeline says that its run is over
            pipe.transformer = wan().transformer
            WAN.run(pipe)  # warns as the pipeline shows its bar
        module = wan_transformer()
        with bwcache.attach(module, BWCache(threshold=1e-9), steps=4):
            for i in range(4):
                latents, text = noise(1, 4, 2, 4, 4) * (4 - i), noise(1, 6, 8, seed=1)
                with torch.no_grad():
                    module(latents, torch.tensor([1000.0 - 100 * i]), text, return_dict=False)
    assert [Path(warning.filename).name for warning in caught] == ["tiny.py", "tiny.py", "test_session.py"]


@pytest.mark.parametrize("policy", [BWCache(threshold=0), NeverReuse(), CAREFREE, Scripted()], ids=repr)
def test_no_warning_where_nothing_was_asked_for_or_something_was_reused(policy: bwcache.Policy) -> None:
    pipe = wan()
    with warnings.catch_warnings(), bwcache.attach(pipe, policy):
        warnings.simplefilter("error")
        WAN.run(pipe)


@pytest.mark.parametrize("case", [WAN, BY_NAME["ltx"], BY_NAME["cogvideox"], VIDEO_TO_VIDEO], ids=lambda c: c.name)
def test_an_interval_longer_than_the_run_is_refused_as_it_starts_and_the_next_run_works(case: Case) -> None:
    pipe = case.build()
    plain = case.run(pipe, num_inference_steps=5)
    policy = BWCache(threshold=10.0, reuse_interval=8, tail_guard=0)
    with bwcache.attach(pipe, policy) as session:
        expected = case.run(pipe, num_inference_steps=20)
    with bwcache.attach(pipe, policy) as session:
        with pytest.raises(bwcache.SettingError, match="reuse_interval"):
            case.run(pipe, num_inference_steps=5)
        assert session.traces == []
        assert torch.equal(case.run(pipe, num_inference_steps=20), expected)
        assert session.trace.reused > 0
    assert torch.equal(case.run(pipe, num_inference_steps=5), plain)


def test_an_interval_longer_than_a_marked_run_is_refused_too() -> None:
    module = wan_transformer()
    with bwcache.attach(module, BWCache(threshold=10.0, reuse_interval=8)) as session:
        with pytest.raises(bwcache.SettingError), session.run(steps=5):
            forward(module, 999)
        with session.run(steps=10):
            forward(module, 999)
    assert session.trace.steps == 1


# --- doubt ------------------------------------------------------------------------------------------------------------


def forward(module: nn.Module, timestep: float, size: int = 4) -> torch.Tensor:
    with torch.no_grad():
        return recorded(module, timestep, size)


def recorded(module: nn.Module, timestep: float, size: int = 4) -> torch.Tensor:
    return module(
        hidden_states=noise(1, 4, 2, size, size),
        timestep=torch.tensor([timestep]),
        encoder_hidden_states=noise(1, 6, 8, seed=1),
        return_dict=False,
    )[0]


EAGER = Scripted(frozenset(range(1, 100)))
"""Reuses whatever it may."""


def test_a_gradient_that_is_recorded_means_compute() -> None:
    module = wan_transformer().requires_grad_(True)
    with bwcache.attach(module, EAGER, steps=10) as session:
        forward(module, 900)
        forward(module, 800)
        made = recorded(module, 700)
        forward(module, 600)
    assert [event.action for event in session.trace.events] == ["compute", "reuse", "compute", "reuse"]
    assert "gradient" in session.trace.events[2].reason
    made.sum().backward()
    assert all(block.ffn.net[2].weight.grad is not None for block in module.blocks)


def test_frozen_weights_record_no_gradient() -> None:
    module = wan_transformer()
    with bwcache.attach(module, EAGER, steps=10) as session:
        recorded(module, 900)
        recorded(module, 800)
    assert [event.action for event in session.trace.events] == ["compute", "reuse"]


def spoiling(module: Any, block: int, at_call: int, entry: int, value: float) -> Any:
    """Puts one value into one entry of a block's output, at its n-th call."""
    calls = iter(range(1000))

    def spoil(called: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        if next(calls) != at_call:
            return None
        output = output.clone(memory_format=torch.contiguous_format)
        output.view(-1)[entry] = value
        return output

    return module.blocks[block].register_forward_hook(spoil)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("sample", [None, 1])
@pytest.mark.parametrize("block", [0, 3])
def test_a_feature_that_is_not_finite_means_compute(value: float, sample: float | None, block: int) -> None:
    module = wan_transformer()
    policy = BWCache(threshold=1e6, reuse_interval=1, tail_guard=0, sample=sample)
    spoiling(module, block, at_call=1, entry=0, value=value)
    with bwcache.attach(module, policy, steps=10) as session:
        for i in range(6):
            forward(module, 900 - 100 * i)
    events = session.trace.events
    # step 1 made it, so step 2 may not reuse; what step 2 measures against it is not finite either
    assert "".join(event.action[0] for event in events) == "ccccrc"
    assert "finite" in events[2].reason
    assert "finite" in events[3].reason


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_entry_outside_the_sample_that_is_not_finite_means_compute(value: float) -> None:
    from bwcache.features import sampling

    module = wan_transformer()
    feature = torch.arange(32 * 24).reshape(1, 32, 24)  # tokens of an 8 x 8 latent in 2 frames, and the width
    n = sampling.stride(feature.float(), 4, None)
    kept = sampling.every(n, feature, 3, feature.dtype)
    outside = min(set(range(feature.numel())) - set(kept.tolist()))
    policy = BWCache(threshold=1e6, reuse_interval=1, tail_guard=0)
    spoiling(module, 3, at_call=1, entry=outside, value=value)
    with bwcache.attach(module, policy, steps=10) as session:
        for i in range(5):
            forward(module, 900 - 100 * i, size=8)
    events = session.trace.events
    assert "".join(event.action[0] for event in events) == "cccrc"
    assert events[1].indicator < 1e6  # the sample saw nothing
    assert "finite" in events[2].reason


# --- memory -----------------------------------------------------------------------------------------------------------


@each_case
@pytest.mark.parametrize("predictor", [bwcache.Last(), bwcache.Linear()], ids=repr)
def test_the_trace_says_how_many_bytes_are_kept(case: Case, predictor: bwcache.Predictor) -> None:
    pipe = case.build()
    with bwcache.attach(pipe, replace(CAREFREE, predictor=predictor, sample=1)) as session:
        case.run(pipe)
    trace = session.trace
    streams = {name: len(getattr(module, "blocks", range(4))) for name, module in denoisers(pipe).items()}
    assert set(streams.values()) == {4}
    # each branch keeps as many hidden states as the predictor looks at, and with all tokens one per block
    assert trace.peak_bytes == len(case.branches) * (predictor.history + 4) * trace.hidden_bytes


def test_what_the_model_gets_is_never_what_is_kept() -> None:
    module = wan_transformer()
    got: list[torch.Tensor] = []

    def spoil(called: nn.Module, args: Any) -> None:
        got.append(args[0].clone())
        args[0].fill_(99)

    module.norm_out.register_forward_pre_hook(spoil)
    with bwcache.attach(module, EAGER, steps=10):
        for i in range(4):
            forward(module, 900 - i)
    assert not torch.equal(got[0], torch.full_like(got[0], 99))
    assert all(torch.equal(got[0], later) for later in got[1:])


# --- copies -----------------------------------------------------------------------------------------------------------


def test_a_deep_copy_of_an_attached_pipeline_is_clean() -> None:
    pipe = wan()
    plain = WAN.run(pipe)
    with bwcache.attach(pipe, CAREFREE) as session:
        copied = copy.deepcopy(pipe)
        assert torch.equal(WAN.run(copied), plain)
        assert session.traces == []
        cached = WAN.run(pipe)
        with bwcache.attach(copied, CAREFREE) as another:
            assert torch.equal(WAN.run(copied), cached)
        assert len(another.traces) == 1
        assert len(session.traces) == 1
        with pytest.raises(bwcache.AttachError, match="no session"):
            bwcache.disable(copied)
    assert torch.equal(WAN.run(copied), plain)


def test_a_copy_that_runs_does_not_disturb_a_run_of_the_original() -> None:
    pipe = wan()
    with bwcache.attach(pipe, CAREFREE) as session:
        expected = WAN.run(pipe)
        copied = copy.deepcopy(pipe)

        def aside(pipe: Any, index: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            if index == 3:
                WAN.run(copied, num_inference_steps=3)
            return kwargs

        assert torch.equal(WAN.run(pipe, callback_on_step_end=aside), expected)
    assert [trace.steps for trace in session.traces] == [10, 10]


def test_an_attached_model_can_be_pickled() -> None:
    pipe = wan()
    plain = forward(pipe.transformer, 900)
    with bwcache.attach(pipe, CAREFREE):
        loaded = pickle.loads(pickle.dumps(pipe.transformer))
    assert torch.equal(forward(loaded, 900), plain)
    bwcache.attach(loaded, CAREFREE).close()


def test_an_attached_model_can_be_saved_by_torch() -> None:
    pipe = wan()
    plain = forward(pipe.transformer, 900)
    file = io.BytesIO()
    with bwcache.attach(pipe, CAREFREE):
        torch.save(pipe.transformer, file)
    file.seek(0)
    assert torch.equal(forward(torch.load(file, weights_only=False), 900), plain)


def test_an_attached_model_is_saved_as_it_was(tmp_path: Path) -> None:
    module = wan_transformer()
    module.save_pretrained(tmp_path / "before")
    with bwcache.attach(module, CAREFREE, steps=10):
        module.save_pretrained(tmp_path / "attached")
        state = module.state_dict()
    assert list(state) == list(module.state_dict())
    for file in (tmp_path / "before").iterdir():
        assert file.read_bytes() == (tmp_path / "attached" / file.name).read_bytes()
    loaded = WanTransformer3DModel.from_pretrained(tmp_path / "attached").eval()
    torch.testing.assert_close(forward(loaded, 900), forward(module, 900))


# --- a policy of one's own ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TwoHalves(Scripted):
    """Two sites: the first two blocks, and the last two."""

    def sites(self, stack: Any) -> Any:
        whole = stack.whole()
        blocks = stack.blocks
        return (replace(whole, name="first", last=blocks[1]), replace(whole, name="second", first=blocks[2]))


def test_a_policy_may_have_more_than_one_site() -> None:
    pipe = wan()
    plain = WAN.run(pipe)
    with bwcache.attach(pipe, TwoHalves()) as session:
        assert torch.equal(WAN.run(pipe), plain)
    sites = [event.site for event in session.trace.events[:4]]
    assert sites == ["transformer/first", "transformer/second"] * 2
    with bwcache.attach(pipe, TwoHalves(frozenset({2, 3}))) as session:
        halves = WAN.run(pipe)
    with bwcache.attach(pipe, Scripted(frozenset({2, 3}))):
        assert torch.equal(WAN.run(pipe), halves)
    assert session.trace.reused == 2


# --- reads ------------------------------------------------------------------------------------------------------------


def test_numbers_are_read_once_per_computed_step_whatever_the_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    from bwcache.engine import run

    reads: list[list[int]] = []
    resolve = run.Run.resolve

    def resolving(one: run.Run) -> None:
        steps = sorted({row.step.index for row in one.pending})
        reads.extend([steps] if steps else [])
        resolve(one)

    monkeypatch.setattr(run.Run, "resolve", resolving)
    with bwcache.attach(pipe := WAN.build(), BWCache(threshold=10, reuse_interval=2)) as session:
        WAN.run(pipe)
    computed = sorted({event.step for event in session.trace.events if event.action == "compute"})
    assert len({event.branch for event in session.trace.events}) == 2
    assert reads == [[step] for step in computed]


@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
@each_case
def test_all_entries_measure_the_same_however_many_they_are(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few are at hand twice, many are compared one block at a time."""
    from bwcache.features import taps

    found = []
    for few in (taps.FEW, 0):
        monkeypatch.setattr(taps, "FEW", few)
        pipe = case.build()
        with bwcache.attach(pipe, BWCache(threshold=0.3, sample=1)) as session:
            case.run(pipe)
        found.append(session.trace)
    here, there = found
    assert [event.action for event in here.events] == [event.action for event in there.events]
    for a, b in zip(here.events, there.events, strict=True):
        assert a.distances == (b.distances and pytest.approx(b.distances, rel=1e-5))
    assert here.peak_bytes == there.peak_bytes
