"""StepList: the steps of a list, one list for each sample of a batch."""

import pytest
import torch

import bwcache
from bwcache import SettingError, StepList
from bwcache.core.trace import reuse_line
from tests import tiny
from tests.policies.proof import ALONE, proves


@proves(StepList, "sequences worked out by hand", "decisions", on=ALONE)
@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_the_list_is_computed_and_the_first_step_always() -> None:
    pipe = tiny.wan()
    for steps, line in (((0, 2, 5), "CrCrrC"), ((4,), "CrrrCr"), ((0, 1, 2, 3, 4, 5, 9), "CCCCCC")):
        with bwcache.attach(pipe, StepList(steps)) as session:
            tiny.WAN.run(pipe, num_inference_steps=6)
        assert reuse_line(session.trace.events) == line
    assert {event.reason for event in session.trace.events} == {"first step", "on the list"}


def test_samples_have_lists_of_their_own_and_are_what_they_are_alone() -> None:
    pipe = tiny.wan()
    lists = ((0, 2, 5), (0, 1, 4))
    texts = {name: tiny.WAN.call[name].expand(2, -1, -1) for name in ("prompt_embeds", "negative_prompt_embeds")}
    latents = tiny.noise(1, 4, 2, 4, 4)
    with bwcache.attach(pipe, StepList(lists)):
        both = tiny.WAN.run(pipe, num_inference_steps=6, latents=latents.expand(2, -1, -1, -1, -1).clone(), **texts)
    for sample, steps in enumerate(lists):
        with bwcache.attach(pipe, StepList(steps)):
            alone = tiny.WAN.run(pipe, num_inference_steps=6, latents=latents.clone())
        torch.testing.assert_close(both[sample : sample + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [(), ((),), (-1,), (1.5,), "abc", ((0, 1), 2), 3])
def test_lists_that_cannot_work(steps: object) -> None:
    with pytest.raises(SettingError, match=r"found steps .*; expected step indices from 0; "):
        StepList(steps)  # type: ignore[arg-type]
