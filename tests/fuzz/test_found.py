"""What the fuzzer found, as small as it could be made: each runs as soon as its dimension has left `KNOWN`."""

from __future__ import annotations

import pytest

from tests.fuzz.oracle import check, quietly
from tests.fuzz.policies import Chosen
from tests.fuzz.scenario import DIMENSIONS, KNOWN, Action, Break, Call, Cast, Do, Enter, Leave, Scenario, Stop

IN_TURNS = Chosen("StepList", (("steps", "((0, 2), (0, 1))"),))
ADAPTIVE = Chosen("Adaptive", (("tolerance", "0.15"),))
GREEDY = Chosen("BWCache", (("threshold", "10.0"),))


def calls(*called: Action, **settings: object) -> Scenario:
    """A session around these calls."""
    return Scenario(script=(Enter(), *called, Leave()), **settings)  # type: ignore[arg-type]


def bare(*called: Action, **settings: object) -> Scenario:
    """The same of a denoiser in a loop of its own."""
    return calls(*called, bare=True, target="module", **settings)


FOUND: dict[str, tuple[Scenario, ...]] = {
    "A2: one denoiser in two pipelines at once": (
        calls(Call(beside="shared nested")),
        calls(Call(beside="shared thread")),
    ),
    "A3: repeated times, and no scheduler to ask": (
        calls(Call(), kind="animatediff", scheduler="pndm", target="module"),
    ),
    "A3, A11: guidance that changes in a bare loop": (
        bare(Call(order="uc", off=2, steps=5)),
        bare(Call(on=3)),
        bare(Call(order="cup", on=2, steps=5)),
    ),
    "A5: samples from one seed": (
        calls(Call(batch=2, one_seed=True), kind="sd3 perturbed"),
        calls(Call(batch=2, one_seed=True, guided=False), kind="sd3", policy=IN_TURNS),
    ),
    "A6: the trace is read during a run": (
        calls(Call(reads="steps", steps=6), policy=ADAPTIVE),
        calls(Call(reads="forwards", steps=6), policy=ADAPTIVE),
    ),
    "B5: broken off between forwards, or by Ctrl-C": (
        calls(Call(breaks=Break("callback"))),
        calls(Call(breaks=Break("after", 2))),
        calls(Call(breaks=Break("block", 2, "KeyboardInterrupt"))),
    ),
    "D1: an interval of 1": (calls(Call(), policy=Chosen("FixedInterval", (("interval", "1"),))),),
    "D2: grad modes mixed in a run": (
        bare(Call(grad="mixed")),
        bare(Call(grad="mixed", steps=6), policy=GREEDY),
        bare(Call(grad="autocast", steps=6)),
    ),
    "new: a marked run says how long later ones are": (bare(Call(marked=True, steps=5), Call(), told=False),),
    "new: EasyCache where more channels come out than go in": (
        calls(Call(), kind="latte", policy=Chosen("EasyCache")),
    ),
    "new: stopped while nothing runs": (
        calls(Stop(), Call()),
        bare(Call(), Stop(), Call()),
        calls(Call(does=(Do("stop", at=3),)), Stop(), Call(), target="module"),
    ),
    "new: forgotten in the middle of a forward": (calls(Call(does=(Do(where="block", at=0),))),),
    "new: a run whose thread has ended": (
        calls(
            Call(beside="shared thread"),
            Call(breaks=Break("denoiser")),
            kind="sd3 skipped layers",
            target="module",
        ),
    ),
    "new: latents of rounded times are held": (
        Scenario(bare=True, target="module", script=(Cast(), Enter(), Call(breaks=Break("block")), Leave())),
    ),
    "new: samples that are refused late are run apart": (
        calls(Call(batch=2, off=2, steps=5), kind="sd3", policy=IN_TURNS),
    ),
}

MENDED = [(name, scenario) for name, scenarios in FOUND.items() if name not in KNOWN for scenario in scenarios]


def test_everything_found_has_its_dimension() -> None:
    assert set(FOUND) == set(DIMENSIONS)
    for name, scenarios in FOUND.items():
        assert all(DIMENSIONS[name](scenario) for scenario in scenarios), name


@pytest.mark.parametrize(("name", "scenario"), MENDED)
def test_what_was_found_is_mended(name: str, scenario: Scenario) -> None:
    with quietly():
        assert check(scenario) == [], name
