"""The decisions of BWCache against a second implementation of the paper, and against sequences worked out by hand."""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bwcache import BWCache, Decision, SettingError, Step
from bwcache.policies import Observation, Readings
from tests.policies.proof import ALONE, proves

SITE = "transformer/stack"
Numbers = tuple[tuple[float, ...], tuple[float, ...]]
"""Numerators and denominators of one branch in one step, one entry per block."""


def at(index: int, total: int | None, branch: str = "cond") -> Step:
    return Step(0, index, total, 1000.0 - index, None, branch)


def drive(policy: BWCache, table: Sequence[dict[str, Numbers]]) -> list[dict[str, Decision]]:
    """The policy's decisions where `table[step][branch]` is what a computation of that step would measure.

    As in the engine: a first computation measures nothing, and what a step measured is told before the next decision.
    """
    state, taken = policy.init(), []
    seen: set[str] = set()
    waiting: list[Observation] = []
    for index, row in enumerate(table):
        taken.append({})
        for branch, (numerators, denominators) in row.items():
            for observation in waiting:
                policy.refresh(observation, state)
            waiting.clear()
            step = at(index, len(table), branch)
            decision = policy.decide(Observation(step, SITE), state)
            taken[-1][branch] = decision
            if decision.action == "compute":
                measured = Readings(numerators, denominators) if branch in seen else None
                seen.add(branch)
                waiting.append(Observation(step, SITE, measured))
    return taken


def letters(taken: list[dict[str, Decision]], branch: str = "cond") -> str:
    return "".join("r" if row[branch].action == "reuse" else "C" for row in taken)


class Paper:
    """PAPER in plain Python, for the branches that decide together: given each step's ARL1 / N, who computes?

    Written as the text tells it: state is "plain computing" or "in a window", and a trigger asks the step before.
    """

    def __init__(self, total: int, delta: float, interval: float, guard: float) -> None:
        self.total, self.delta = total, delta
        share = Fraction(str(interval))
        self.window = max(1, math.floor(share * total + Fraction(1, 2))) if share < 1 else int(share)
        self.guard = Fraction(str(guard))
        self.k: int | None = None

    def guarded(self, step: int) -> bool:
        """Whether the step is one of the last ceil(guard * k), after the first trigger."""
        return self.k is not None and self.total - step <= math.ceil(self.guard * self.k)

    def sequence(self, indicator: Sequence[float | None]) -> str:
        """`indicator[step]` is what a computation there measures; None where there is nothing to compare with."""
        said = ""
        for step in range(self.total):
            run_of_reuse = len(said) - len(said.rstrip("r"))
            if step == 0 or self.guarded(step) or run_of_reuse == self.window:
                said += "C"
            elif run_of_reuse > 0:
                said += "r"
            else:
                said += self._after_a_computation(step, None if step == 1 else indicator[step - 1])
        return said

    def _after_a_computation(self, step: int, measured: float | None) -> str:
        if measured is None or not math.isfinite(measured) or not measured < self.delta:
            return "C"
        if self.k is None:
            self.k = step
        return "C" if self.guarded(step) else "r"


def pooled(row: dict[str, Numbers]) -> float:
    """Mean over the blocks of Eq. 5, numerators and denominators added over the branches first."""
    blocks = len(next(iter(row.values()))[0])
    distances = []
    for block in range(blocks):
        numerator = sum(numbers[0][block] for numbers in row.values())
        denominator = sum(numbers[1][block] for numbers in row.values())
        if numerator or denominator:  # nothing at all is of a block that was not called
            distances.append(numerator / denominator if denominator else math.inf)
    return sum(distances) / len(distances) if distances else 0.0


def expected(policy: BWCache, table: Sequence[dict[str, Numbers]]) -> dict[str, str]:
    """What the paper does with this table, by branch."""
    settings = (len(table), policy.threshold, policy.reuse_interval, policy.tail_guard)
    branches = list(table[0])
    if policy.decision == "shared":
        together = Paper(*settings).sequence([pooled(row) for row in table])
        return dict.fromkeys(branches, together)
    return {branch: Paper(*settings).sequence([pooled({branch: row[branch]}) for row in table]) for branch in branches}


numerators = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.15, math.inf, math.nan]))
denominators = st.one_of(st.floats(0.5, 4), st.sampled_from([1.0, 1.0, 0.0]))


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, Numbers]]:
    total = draw(st.integers(1, 60))
    blocks = draw(st.integers(1, 4))
    branches = draw(st.sampled_from([("cond",), ("cond", "uncond")]))
    calm = draw(st.booleans())  # mostly small changes, so that windows open and close
    ups = st.floats(0, 0.2) if calm else numerators
    downs = st.just(1.0) if calm else denominators
    numbers = st.tuples(st.tuples(*[ups] * blocks), st.tuples(*[downs] * blocks))
    return [{branch: draw(numbers) for branch in branches} for _ in range(total)]


@st.composite
def policies(draw: st.DrawFn, total: int) -> BWCache:
    return BWCache(
        threshold=draw(st.one_of(st.floats(0, 0.5), st.sampled_from([0.0, 0.15, 0.2, 0.25, 10.0]))),
        reuse_interval=draw(
            st.one_of(st.integers(1, total), st.sampled_from([0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.45, 0.5, 0.999]))
        ),
        tail_guard=draw(st.sampled_from([0, 0.07, 0.1, 0.25, 0.3, 0.5, 0.7, 0.75, 1])),
        decision=draw(st.sampled_from(["shared", "per_branch"])),
    )


@proves(BWCache, "the paper's text in plain Python", "decisions, on drawn tables", on=ALONE)
@given(st.data())
def test_decisions_are_those_of_the_paper(data: st.DataObject) -> None:
    table = data.draw(tables())
    policy = data.draw(policies(len(table)))
    taken = drive(policy, table)
    assert {branch: letters(taken, branch) for branch in table[0]} == expected(policy, table)


@given(st.data())
def test_two_forwards_decide_as_one_batched_forward(data: st.DataObject) -> None:
    table = data.draw(tables())
    policy = BWCache(threshold=0.15, reuse_interval=data.draw(st.integers(1, len(table))))
    batched = [
        {
            "cond_uncond": (
                tuple(sum(n) for n in zip(*(numbers[0] for numbers in row.values()), strict=True)),
                tuple(sum(n) for n in zip(*(numbers[1] for numbers in row.values()), strict=True)),
            )
        }
        for row in table
    ]
    together = letters(drive(policy, batched), "cond_uncond")
    taken = drive(policy, table)
    assert {letters(taken, branch) for branch in table[0]} == {together}


def flat(indicator: Sequence[float]) -> list[dict[str, Numbers]]:
    """A table of one block and one branch."""
    return [{"cond": ((value,), (1.0,))} for value in indicator]


U30 = [9, 0.6, 0.4, 0.3, 0.2, 0.16, *[0.1] * 18, 0.16, 0.2, 0.2, 0.3, 0.4, 0.5]

BY_HAND = {
    # T=30: R=3. Step 6 is the first with a small change, so step 7 is the first reused: k=7, the last 4 steps computed.
    "paper_on_a_U": (BWCache(), U30, "CCCCCCC" + "rrrC" * 4 + "rrr" + "CCCC"),
    # T=50: R=5. Small from step 1 on: k=2, the last step computed.
    "small_at_once": (BWCache(), [9] + [0.1] * 49, "CC" + "rrrrrC" * 8),
    "never_below": (BWCache(), [0.15] * 20, "C" * 20),
    "threshold_0": (BWCache(threshold=0), [0.0] * 20, "C" * 20),
    # T=10: R=1, k=2, the last step guarded
    "one_step_windows": (BWCache(), [9] + [0.1] * 9, "CCrCrCrCrC"),
    # not below after the first window: plain computing goes on until the next small change
    "computing_goes_on": (
        BWCache(reuse_interval=2, tail_guard=0),
        [9, 0.1, 0, 0, 0.5, 0.5, 0.1, 0, 0, 0.1, 0, 0],
        "CCrrCCCrrCrr",
    ),
    # k=8 of 12: the last 4 steps are guarded, the window that opens at 8 cannot
    "guard_meets_trigger": (BWCache(reuse_interval=3), [9] * 7 + [0.1] * 5, "C" * 12),
    "guard_cuts_a_window": (BWCache(reuse_interval=9), [9, 9, 9, 0.1] + [0.1] * 6, "CCCC" + "rrrr" + "CC"),
    "no_guard": (BWCache(reuse_interval=9, tail_guard=0), [9, 9, 9, 0.1] + [0.1] * 6, "CCCC" + "rrrrrr"),
    "one_step": (BWCache(), [0.0], "C"),
    "two_steps": (BWCache(), [0.0, 0.0], "CC"),
    "nan_computes": (BWCache(reuse_interval=1, tail_guard=0), [9, math.nan, 0.1, 0, 0.1], "CCCrC"),
    "infinity_computes": (BWCache(reuse_interval=1, tail_guard=0), [9, math.inf, 0.1, 0, 0.1], "CCCrC"),
}


@pytest.mark.parametrize(("policy", "indicator", "line"), BY_HAND.values(), ids=BY_HAND)
def test_sequences_worked_out_by_hand(policy: BWCache, indicator: list[float], line: str) -> None:
    assert len(indicator) == len(line)
    assert letters(drive(policy, flat(indicator))) == line
    assert expected(policy, flat(indicator)) == {"cond": line}


def test_the_defaults_are_the_papers() -> None:
    policy = BWCache()
    assert (policy.threshold, policy.reuse_interval, policy.tail_guard) == (0.15, 0.10, 0.5)
    assert (policy.decision, policy.blocks) == ("shared", None)


@pytest.mark.parametrize(
    ("interval", "total", "steps"),
    [(0.1, 30, 3), (0.1, 50, 5), (0.05, 30, 2), (0.2, 30, 6), (0.1, 4, 1), (0.1, 15, 2), (0.1, 25, 3), (7, 30, 7)],
)
def test_the_interval_in_steps(interval: float, total: int, steps: int) -> None:
    assert BWCache(reuse_interval=interval).window(total) == steps


@given(st.floats(0.001, 0.999), st.integers(1, 200))
def test_a_share_is_at_least_one_step_and_within_half_a_step_of_it(share: float, total: int) -> None:
    steps = BWCache(reuse_interval=share).window(total)
    assert steps >= 1
    assert steps == 1 or abs(steps - share * total) <= 0.5 + 1e-9


def test_an_interval_longer_than_the_run_is_refused() -> None:
    with pytest.raises(SettingError, match="at most the 5 steps"):
        BWCache(reuse_interval=6).check(5)
    BWCache(reuse_interval=5).check(5)


def test_branches_of_their_own_decide_on_their_own() -> None:
    table: list[dict[str, Numbers]] = [
        {"cond": ((cond,), (1.0,)), "uncond": ((uncond,), (1.0,))}
        for cond, uncond in [(9, 9), (0.1, 9), (0, 0.1), (0.1, 0), (0, 9), (0.1, 9)]
    ]
    taken = drive(BWCache(reuse_interval=1, tail_guard=0, decision="per_branch"), table)
    assert (letters(taken, "cond"), letters(taken, "uncond")) == ("CCrCrC", "CCCrCC")


def test_the_total_must_be_known() -> None:
    policy = BWCache(threshold=10.0)
    state = policy.init()
    for index in range(5):
        decision = policy.decide(Observation(at(index, None), SITE), state)
        assert decision.action == "compute"
        assert "steps=" in decision.reason
        policy.refresh(Observation(at(index, None), SITE, Readings((0.1,), (1.0,)) if index else None), state)


def test_a_computation_that_nobody_asked_for_ends_the_window() -> None:
    policy = BWCache(threshold=1.0, reuse_interval=4, tail_guard=0)
    state = policy.init()
    measured = Readings((0.1,), (1.0,))
    for index in range(2):
        policy.decide(Observation(at(index, 20), SITE), state)
        policy.refresh(Observation(at(index, 20), SITE, measured if index else None), state)
    assert policy.decide(Observation(at(2, 20), SITE), state).reuses
    policy.refresh(Observation(at(3, 20), SITE, Readings((9.0,), (1.0,))), state)  # the engine was in doubt at step 3
    assert not policy.decide(Observation(at(4, 20), SITE), state).reuses


def test_every_reason_says_what_the_decision_rests_on() -> None:
    taken = [row["cond"] for row in drive(BWCache(), flat(U30))]
    for step, decision in enumerate(taken):
        if "indicator" in decision.reason:
            assert decision.value == U30[step - 1]
            assert f"{decision.value:.4f}" in decision.reason
    kinds = {decision.reason.split(" (")[0] for decision in taken}
    assert kinds == {
        "first step",
        "nothing to compare with yet",
        "still changing",
        "opens a window",
        "reuse window",
        "window over",
        "tail guard",
    }


BAD_SETTINGS = [
    *itertools.product(["threshold"], [-0.1, math.nan, math.inf, "0.1", None, True]),
    *itertools.product(["reuse_interval"], [0, -1, 1.5, math.nan, math.inf, "0.1", None, True]),
    *itertools.product(["tail_guard"], [-0.1, 1.1, math.nan, "0.5", None, True]),
    *itertools.product(["sample"], [0, -0.1, 1.1, math.nan, "1", True]),
    *itertools.product(["decision"], ["both", None, "", 1]),
    *itertools.product(["blocks"], [(), ("0",), (1.5,), 3]),
    *itertools.product(["predictor"], [None, "linear", 1]),
]


@pytest.mark.parametrize(("name", "value"), BAD_SETTINGS, ids=str)
def test_a_setting_that_cannot_work_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=name) as caught:
        BWCache(**{name: value})
    assert "expected" in str(caught.value)
    assert "try" in str(caught.value)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        BWCache().threshold = 0.2  # type: ignore[misc]


@pytest.mark.parametrize(("threshold", "may"), [(0, False), (0.15, True)])
def test_says_whether_it_may_reuse_at_all(threshold: float, may: bool) -> None:
    assert BWCache(threshold=threshold).may_reuse is may


def in_progress(noises: list[float], reuse_interval: float) -> str:
    """A letter per step where every computed step changes little: windows follow one another."""
    policy = BWCache(threshold=1.0, reuse_interval=reuse_interval, tail_guard=0, interval_unit="progress")
    state, line, total = policy.init(), "", len(noises)
    for index, noise in enumerate(noises):
        step = Step(0, index, total, None, None, "cond", None, noise)
        computes = index == 0 or policy.decide(Observation(step, SITE), state).action == "compute"
        line += "C" if computes else "r"
        if computes:
            policy.refresh(Observation(step, SITE, Readings((0.1,), (1.0,)) if index else None), state)
    return line


def test_windows_counted_in_progress_are_the_papers_where_steps_are_even() -> None:
    even = [1 - i / 20 for i in range(20)]
    assert in_progress(even, 0.10) == "CC" + "rrC" * 6
    assert in_progress(even, 0.15) == ("CC" + "rrrC" * 5)[:20]


def test_windows_counted_in_progress_are_longer_where_steps_are_small() -> None:
    """Steps that first take away little noise, then much, as with a shift."""
    noises = [3 * s / (1 + 2 * s) for s in (1 - i / 30 for i in range(30))]
    line = in_progress(noises, 0.10)
    windows = [len(window) for window in line.split("C") if window]
    assert windows[0] > windows[-2]
    for start in (i for i in range(29) if line[i] == "C" and line[i + 1] == "r"):
        end = next((i for i in range(start + 1, 30) if line[i] == "C"), 30) - 1
        assert (end - start) / 30 / 2 + (noises[start] - noises[end]) / 2 <= 0.10 + 1e-6


def test_a_window_that_nothing_tells_the_progress_of_is_one_step() -> None:
    policy = BWCache(threshold=1.0, reuse_interval=0.3, tail_guard=0, interval_unit="progress")
    state = policy.init()
    for index in (0, 1):
        step = Step(0, index, 10, None, None, "cond")
        policy.refresh(Observation(step, SITE, Readings((0.1,), (1.0,)) if index else None), state)
    actions = [policy.decide(Observation(Step(0, i, 10, None, None, "cond"), SITE), state).action for i in (2, 3)]
    assert actions == ["reuse", "compute"]


def test_progress_needs_a_share() -> None:
    with pytest.raises(SettingError, match="found reuse_interval 3; expected a share of the run"):
        BWCache(reuse_interval=3, interval_unit="progress")
    with pytest.raises(SettingError, match="found interval_unit 'sigma'"):
        BWCache(interval_unit="sigma")  # type: ignore[arg-type]


def test_a_tail_that_floating_point_would_make_one_step_longer() -> None:
    """100 steps of which .07 are guarded are 7, though 100 * .07 is 7.000000000000001."""
    assert math.ceil(100 * 0.07) == 8
    policy = BWCache(threshold=0.15, reuse_interval=1, tail_guard=0.07)
    table: list[dict[str, Numbers]] = [{"cond": ((9.0 if index < 99 else 0.01,), (1.0,))} for index in range(120)]
    taken = drive(policy, table)
    assert letters(taken).index("r") == 100
    guarded = [index for index, row in enumerate(taken) if row["cond"].reason.startswith("tail guard")]
    assert guarded == list(range(113, 120))


def test_a_step_that_one_branch_could_not_measure_opens_no_window() -> None:
    """Guidance comes on in step 1: what its branch changed is not known before step 2."""
    still: Numbers = ((0.01,), (1.0,))
    table: list[dict[str, Numbers]] = [{"cond": still}, *[{"cond": still, "uncond": still}] * 5]
    taken = drive(BWCache(threshold=0.15, reuse_interval=1, tail_guard=0), table)
    assert taken[2]["cond"].reason == "nothing to compare with yet"
    assert letters(taken) == "CCCrCr"
