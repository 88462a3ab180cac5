"""`NeverReuse` that measures: what BWCache would have measured, and nothing else changes."""

import pytest
import torch

import bwcache
from bwcache.errors import SettingError
from bwcache.policies import NeverReuse
from tests import tiny
from tests.policies.proof import proves


def run(model, policy=None):
    latents, text = torch.ones(1, 4, 3, 4, 4), torch.ones(1, 4, 8)

    def sample():
        now = latents
        for timestep in torch.linspace(900, 100, 5):
            now = now - 0.1 * model(now, timestep.view(1), text, return_dict=False)[0]
        return now

    with torch.no_grad():
        if policy is None:
            return sample(), None
        with bwcache.attach(model, policy, steps=5) as session:
            return sample(), session.trace


@proves(NeverReuse, "the readings of BWCache", "what is measured", on=("wan",))
@pytest.mark.parametrize(("measures", "sample"), [(1, 1), (0.5, 0.5), ("default", None)])
@pytest.mark.filterwarnings("ignore::bwcache.NeverReusedWarning")
def test_measures_as_bwcache_does(measures, sample):
    model = tiny.wan_transformer()
    plain, _ = run(model)
    computed, trace = run(model, NeverReuse(measures))
    _, expected = run(model, bwcache.BWCache(threshold=1e-12, sample=sample))
    assert torch.equal(computed, plain)
    assert [event.distances for event in trace.events] == [event.distances for event in expected.events]
    assert trace.events[1].indicator > 0
    assert {event.reason for event in trace.events} == {"never reuses with these settings"}
    assert trace.meta["policy"] == {"name": "NeverReuse", "measures": measures}


def test_measures_nothing_if_not_asked():
    _, trace = run(tiny.wan_transformer(), NeverReuse())
    assert all(event.indicator is None and event.distances is None for event in trace.events)
    assert trace.peak_bytes == 0


@pytest.mark.parametrize("measures", [0, -0.1, 1.5, "all", True, float("nan")])
def test_shares_that_cannot_be(measures):
    with pytest.raises(SettingError, match="expected a share"):
        NeverReuse(measures)
