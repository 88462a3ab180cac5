"""What the page on native code says to do works, on look-alikes of that code."""

from types import MethodType, SimpleNamespace

import pytest
import torch

import bwcache
from bwcache.models import table
from tests.zoo import native

STEPS = 10
OFTEN = bwcache.BWCache(threshold=100.0, reuse_interval=2, tail_guard=0.0)


def model(name):
    return next(model for model in native.MODELS if model.name == name)


def sample(wan, module, steps=STEPS, first=0):
    """Guidance in two forwards, as `WanT2V.generate` does it."""
    for i in range(first, first + steps):
        for text in (0.0, 1.0):
            inputs = wan.inputs(i / STEPS)
            with torch.no_grad():
                module(**inputs | {"context": [some + text for some in inputs["context"]]})


def test_a_bare_denoiser_with_its_number_of_steps():
    wan = model("Wan2.1 WanModel")
    module = wan.build()
    with bwcache.attach(module, OFTEN, steps=STEPS) as session:
        sample(wan, module)
        sample(wan, module)
    assert len(session.traces) == 2, "a run begins by itself where the time jumps back"
    for trace in session.traces:
        assert trace.steps == STEPS
        assert trace.reused > 0
        assert {event.branch for event in trace.events} == {"call0", "call1"}


def test_without_a_number_of_steps_everything_is_computed_and_a_warning_says_so():
    wan = model("Wan2.1 WanModel")
    module = wan.build()
    with pytest.warns(bwcache.NeverReusedWarning, match="steps="), bwcache.attach(module, OFTEN) as session:
        sample(wan, module)
    assert session.trace.reused == 0


def test_runs_of_other_lengths_are_marked():
    wan = model("Wan2.1 WanModel")
    module = wan.build()
    with bwcache.attach(module, OFTEN) as session:
        for steps in (4, 6):
            with session.run(steps=steps):
                sample(wan, module, steps)
    assert [trace.steps for trace in session.traces] == [4, 6]
    assert all(trace.reused > 0 for trace in session.traces)


def test_two_experts_are_one_session():
    wan = model("Wan2.2 WanModel per token")
    high, low = wan.build(), wan.build()
    experts = SimpleNamespace(components={"high": high, "low": low})
    with bwcache.attach(experts, OFTEN, steps=STEPS) as session:
        sample(wan, high, 4)
        sample(wan, low, STEPS - 4, first=4)
    assert len(session.traces) == 1
    assert session.trace.steps == STEPS
    actions = {event.step: event.action for event in session.trace.events}
    assert actions[4] == "compute", "the second expert has nothing to reuse"
    assert "reuse" in {actions[step] for step in range(4)}
    assert "reuse" in {actions[step] for step in range(5, STEPS)}


def test_a_pipeline_of_ones_own_says_how_many_steps_there_are():
    """What a pipeline needs for it: components and a scheduler, which may be another one in each call."""
    hunyuan = model("HunyuanVideo HYVideoDiffusionTransformer")
    pipe = SimpleNamespace(components={"transformer": hunyuan.build()}, scheduler=None)
    with bwcache.attach(pipe, OFTEN) as session:
        for steps in (8, 6):
            pipe.scheduler = SimpleNamespace(timesteps=torch.tensor([1000 * (1 - i / steps) for i in range(steps)]))
            for i in range(steps):
                hunyuan.run(pipe.components["transformer"], i / steps)
    assert [trace.meta["total"] for trace in session.traces] == [8, 6]
    assert all(trace.reused > 0 for trace in session.traces)


def test_a_replaced_forward_is_attached_with_its_row():
    """What sequence parallelism does to Wan when it is built."""
    wan = model("Wan2.1 WanModel")
    module = wan.build()
    original = type(module).forward

    def sharded(self, x, t, context, seq_len):
        return original(self, x, t, context, seq_len)

    module.forward = MethodType(sharded, module)
    with pytest.raises(bwcache.AttachError, match="spec="):
        bwcache.attach(module, OFTEN, steps=STEPS)
    with bwcache.attach(module, OFTEN, steps=STEPS, spec=table.row("WanModel", "wan.modules")) as session:
        sample(wan, module)
    assert session.trace.reused > 0
