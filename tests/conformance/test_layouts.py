"""How latents lie is what the rows say, on every denoiser class whose row says it."""

import pytest
from torch import Tensor

from tests.zoo import MODELS
from tests.zoo.kinds import Model

SAID = [model for model in MODELS if model.stack.spec.layout]


@pytest.mark.parametrize("model", SAID, ids=lambda model: model.name.replace(" ", "-"))
def test_latents_have_the_axes_of_the_row(model: Model) -> None:
    latents, config = model.inputs(0.5)[model.stack.spec.latents], vars(model.stack.module)["_internal_dict"]
    assert isinstance(latents, Tensor)
    layout = model.stack.spec.layout
    assert latents.ndim == len(layout) == len(set(layout))
    channels = {config.get("in_channels"), config.get("out_channels"), config.get("latent_channels")}
    assert latents.shape[layout.index("c")] in channels


def test_there_are_some_of_each_kind() -> None:
    assert {model.stack.spec.layout for model in SAID} == {"bcfhw", "bfchw", "bchw", "bnc"}
