"""A model is known again by every byte of what it holds, wherever that lies, and by nothing else."""

import copy
from typing import Any

import accelerate
import pytest
import torch
from torch import nn

from bwcache import shapes
from bwcache.errors import SettingError
from bwcache.study.fingerprint import fingerprint
from tests import tiny


class Holder:
    """A pipeline of one module."""

    def __init__(self, module):
        self.components = {"transformer": module}


def of(module):
    return fingerprint(Holder(module))["transformer"]


@pytest.fixture(scope="module")
def pipe():
    return shapes.load()


@pytest.fixture(scope="module")
def known(pipe):
    return fingerprint(pipe)


def changed(pipe, known):
    """The components that are others now."""
    now = fingerprint(pipe)
    assert now.keys() == known.keys()
    return {name for name in now if now[name] != known[name]}


def test_the_same_files_are_the_same_model(pipe, known):
    assert changed(shapes.load(), known) == set()
    assert set(known) == {"pipeline", *pipe.components}


def test_a_call_changes_nothing(pipe, known):
    pipe.set_progress_bar_config(disable=True)
    pipe("a red circle", height=16, width=16, num_frames=5, num_inference_steps=2)
    assert changed(pipe, known) == set()


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder"])
def test_the_last_entry_of_any_weight_counts(known, component):
    other = shapes.load()
    with torch.no_grad():
        last = list(other.components[component].parameters())[-1]
        last.flatten()[-1] += 0.01
    assert changed(other, known) == {component}


def test_weights_times_a_factor_beyond_their_first_entries_are_another_model(known):
    other = shapes.load()
    with torch.no_grad():
        for weight in other.transformer.parameters():
            weight.flatten()[4:] *= 1.5
    assert changed(other, known) == {"transformer"}


def test_what_is_said_of_the_scheduler_the_words_and_the_pipeline_counts(known):
    other = shapes.load()
    other.scheduler.register_to_config(shift=9.0)
    other.register_to_config(expand_timesteps=True)
    other.tokenizer.add_tokens(["rhombus"])
    assert changed(other, known) == {"scheduler", "pipeline", "tokenizer"}


def test_a_decoder_in_tiles_and_a_buffer_count():
    first = tiny.wan_vae()
    tiled = copy.deepcopy(first)
    tiled.enable_tiling()
    assert of(tiled) != of(first)
    module = nn.BatchNorm1d(3)
    before = of(module)
    module.running_mean[2] = 1.0
    assert of(module) != before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool])
def test_any_dtype_any_layout_and_no_entries_at_all(dtype):
    module: Any = nn.Module()
    module.register_buffer("values", torch.arange(12).reshape(3, 4).to(dtype))
    module.register_buffer("one", torch.ones((), dtype=dtype))
    module.register_buffer("none", torch.ones(0, dtype=dtype))
    turned: Any = nn.Module()
    turned.register_buffer("values", module.values.T.contiguous().T)
    turned.register_buffer("one", module.one.clone())
    turned.register_buffer("none", module.none.clone())
    assert of(turned) == of(module)
    turned.values[2, 3] = 0
    assert of(turned) != of(module)


class Quantised(nn.Linear):
    """Codes as weights, and their scale in no parameter and no buffer, as bitsandbytes has it."""

    scale = torch.ones(1)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight.absmax"] = self.scale


def test_the_scales_of_quantised_weights_count():
    module = tiny.seeded(lambda: Quantised(2, 2))
    before = of(module)
    module.scale = torch.full((1,), 1.5)
    assert of(module) != before


def test_a_tensor_of_several_is_read_to_the_last():
    def holding(last):
        module = nn.Module()
        module.register_buffer(
            "ragged", torch.nested.nested_tensor([torch.ones(2), torch.tensor([1.0, last])], layout=torch.jagged)
        )
        return module

    assert of(holding(1.0)) == of(holding(1.0))
    assert of(holding(1.0)) != of(holding(2.0))


def test_weights_that_wait_elsewhere_are_read_there():
    module = tiny.wan_transformer()
    before = of(module)
    accelerate.cpu_offload(module, execution_device=torch.device("cpu"), offload_buffers=True)
    assert all(weight.is_meta for weight in module.parameters())
    assert of(module) == before
    with pytest.raises(SettingError, match=r"no values of transformer\.bias"):
        of(nn.Linear(2, 2, device="meta"))
