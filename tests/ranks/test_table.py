"""What was once seen to fail where ranks make videos together, each row with the right outcome.

| seen | then | now: test |
|---|---|---|
| a group that is forgotten | ranks decide apart and hang | found: `test_a_threshold_between_what_ranks_measure` |
| all entries looked at, offload, samples of a batch | as one rank | `test_as_one_rank`, `test_context.py` |
| several data parallel videos beside | drag each other, or hang | `test_grid.py` |
| two experts of one schedule | - | `test_as_one_rank` |
| `max_memory` | refused by N times too much | `test_context.py::test_each_rank_plans_and_keeps_its_part` |
| residuals | a shard minus the whole | `test_context.py::test_the_video_is_that_of_one_rank` |
| idle modules | never skipped | `test_idle_modules_are_skipped`, `test_who_reads_one_is_seen_on_all` |
| a rank that raises | the others hang | `test_failures.py` |
| fully sharded weights, one video and others | pooled, or hang | `test_lockstep.py` |
| tensor parallel, with a group and without | alike | `test_tensor_parallel_alone`, `test_spread.py` |
| features that are DTensors | an error of torch | `test_spread.py` |
| guidance branches on ranks of their own | decide apart | `test_guidance_on_ranks_of_their_own` |
| other seeds | a video of two noises | `test_context.py::test_other_seeds_prompts_or_settings_are_an_error_on_all` |
| `_interrupt` on one rank | the others hang | `test_an_interrupt_of_one_rank_stops_all` |
| `session.stop()` on one rank | - | `test_an_interrupt_of_one_rank_stops_all` |
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig, FlowMatchHeunDiscreteScheduler

import bwcache
from bwcache import Adaptive, BWCache
from bwcache.core.trace import reuse_line
from tests.ranks.pair import POLICY, STEPS, cached, identical, several_calls, split, two_ranks
from tests.ranks.test_spread import tensor_parallel
from tests.tiny import BY_NAME, WAN, Scripted, noise, wan, wan_transformer

NEVER = BWCache(threshold=1e-9)
GUIDED = {"guided": BWCache(threshold=0.4, reuse_interval=2), "judged": Adaptive(0.5, 0.0)}


def apart(rank: int) -> Any:
    """What each would measure alone, and what they do with thresholds in between."""
    alone = [value for value in cached(split(), NEVER, ranks=None)["indicators"] if value is not None]
    several: list[list[float]] = [[], []]
    dist.all_gather_object(several, alone)
    between = sorted((a + b) / 2 for a, b in zip(*several, strict=True))
    chosen = [BWCache(threshold=each, reuse_interval=2) for each in between[::2]]
    found = [(cached(wan_transformer(), each), cached(split(), each)) for each in chosen]
    return several, found


def batch(make: Callable[[], Any], **how: Any) -> Any:
    """Two videos at once, of which one stands nearly still."""
    latents, pace = noise(2, 4, 2, 4, 4), torch.tensor([0.002, 0.3]).reshape(2, 1, 1, 1, 1)
    module, made = make(), []
    with bwcache.attach(module, BWCache(threshold=0.1, reuse_interval=2), steps=STEPS, **how) as session:
        for i in range(STEPS):
            with torch.no_grad():
                output = module(
                    hidden_states=latents,
                    timestep=torch.full((2,), 1000.0 - i),
                    encoder_hidden_states=noise(2, 6, 8, seed=1),
                    return_dict=False,
                )[0]
            made.append(output)
            latents = latents - pace * output
    events = session.trace.events
    lines = [reuse_line([event for event in events if event.sample == i]) for i in range(2)]
    return {"made": made, "line": " ".join(lines)}


def idle(make: Callable[[], Any], read: bool = False) -> Any:
    """How often modules ran that only blocks read; `read`: as if one were read by somebody else after all."""
    module = make()
    if read:
        embedder, output, seen = module.condition_embedder.forward, module.proj_out.forward, []

        def embedded(*args: Any, **kwargs: Any) -> Any:
            seen.append(embedder(*args, **kwargs))
            return seen[-1]

        def read_after(hidden_states: torch.Tensor) -> torch.Tensor:
            added: torch.Tensor = output(hidden_states) + 0 * seen[-1][2].mean()
            return added

        module.condition_embedder.forward, module.proj_out.forward = embedded, read_after
    found = several_calls(module, ["rope", "condition_embedder.text_embedder"])
    said = cached(module, Scripted(frozenset({2, 3, 5})))
    return said | {"calls": dict(found)}


def guided(branch: int | None, policy: Any, module: Any = None, ranks: Any = None, others: Any = None) -> Any:
    """Both branches one after the other, or one of them, and the other one on another rank of `others`."""
    module, latents, made = module or wan_transformer(), noise(1, 4, 2, 4, 4), []

    def forward(which: int, i: int) -> torch.Tensor:
        with torch.no_grad(), module.cache_context(("cond", "uncond")[which]):
            output: torch.Tensor = module(
                hidden_states=latents,
                timestep=torch.tensor([1000.0 - i]),
                encoder_hidden_states=noise(1, 6, 8, seed=1 + which),
                return_dict=False,
            )[0]
        return output

    with bwcache.attach(module, policy, steps=STEPS, ranks=ranks) as session, session.run(STEPS):
        for i in range(STEPS):
            if branch is None:
                both = [forward(0, i), forward(1, i)]
            else:
                own = forward(branch, i)
                both = [torch.empty_like(own) for _ in range(2)]
                dist.all_gather(both, own, group=others)
            output = both[1] + 3.0 * (both[0] - both[1])
            made.append(output)
            latents = latents - 0.05 * output
    events = [event for event in session.trace.events if branch is not None or event.branch == "cond"]
    return {"made": made, "line": reuse_line(events)}


def branches(rank: int, policy: Any) -> Callable[[], Any]:
    return lambda: guided(rank, policy, None, dist.group.WORLD, dist.group.WORLD)


def pipeline(
    rank: int, end: Callable[[Any, bwcache.Session], None] | None = None, scheduler: Any = None, after: int = 2
) -> Any:
    """A pipeline's call after whose third step something happens on the first rank; and one more call."""
    pipe = wan(scheduler)
    kind = type(pipe)
    pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    with bwcache.attach(pipe, Scripted(frozenset({2, 3, 5}))) as session:

        def during(_: Any, step: int, *args: Any) -> dict[str, Any]:
            if step == after and rank == 0 and end is not None:
                end(pipe, session)
            return {}

        made = [WAN.run(pipe, callback_on_step_end=during), WAN.run(pipe)]
    assert type(pipe) is kind
    lines = [reuse_line([event for event in trace.events if event.branch == "cond"]) for trace in session.traces]
    return {"made": made, "lines": lines}


def one_rank() -> Any:
    pipe = wan()
    with bwcache.attach(pipe, Scripted(frozenset({2, 3, 5}))) as session:
        made = WAN.run(pipe)
    return {"made": [made], "line": reuse_line([one for one in session.trace.events if one.branch == "cond"])}


def experts(spread: bool) -> Any:
    """Two denoisers that share a schedule; `spread`: the tokens of both are split."""
    case = BY_NAME["wan_two_experts"]
    pipe = case.build()
    for module in (pipe.transformer, pipe.transformer_2) if spread else ():
        module.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    with bwcache.attach(pipe, BWCache(threshold=0.4, reuse_interval=2)) as session:
        made = case.run(pipe)
    events = [event for event in session.trace.events if event.branch == "cond"]
    assert len({event.site.split("/")[0] for event in events}) == 2
    return {"made": [made], "line": reuse_line(events)}


def interrupted(pipe: Any, session: bwcache.Session) -> None:
    pipe._interrupt = True


def cases(rank: int) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {"apart": lambda: apart(rank)}
    exact = BWCache(threshold=0.3, reuse_interval=2, sample=1)
    found["exact, one rank"], found["exact"] = lambda: cached(wan_transformer(), exact), lambda: cached(split(), exact)
    found["batch, one rank"], found["batch"] = partial(batch, wan_transformer), partial(batch, split)
    found["idle, one rank"], found["idle"] = partial(idle, wan_transformer), partial(idle, split)
    found["idle, read"] = partial(idle, split, read=True)
    found["tensor parallel, alone"] = lambda: cached(tensor_parallel(), POLICY, ranks=None)
    found["one rank"] = lambda: cached(wan_transformer(), POLICY)
    for name, policy in GUIDED.items():
        found[f"{name}, one rank"], found[name] = partial(guided, None, policy), branches(rank, policy)
    found["pipeline, one rank"], found["pipeline"] = one_rank, lambda: pipeline(rank)
    found["experts, one rank"], found["experts"] = partial(experts, False), partial(experts, True)
    found["interrupted"] = lambda: pipeline(rank, interrupted)
    found["stopped"] = lambda: pipeline(rank, lambda pipe, session: session.stop())
    for after in (2, 3):
        found[f"second order, after {after}"] = partial(
            pipeline, rank, interrupted, FlowMatchHeunDiscreteScheduler(), after
        )
    return found


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return two_ranks(cases, tmp_path_factory.mktemp("table"))


def test_a_threshold_between_what_ranks_measure(said: list[dict[str, Any]]) -> None:
    for rank in range(2):
        alone, found = said[rank]["apart"]
        assert all(a != b for a, b in zip(*alone, strict=True))
        assert len({together["line"] for _, together in found}) > 1
        for single, together in found:
            assert together["line"] == single["line"]
            assert identical(together["made"], single["made"])


@pytest.mark.parametrize("case", ["exact", "batch", "idle", "pipeline", "experts"])
def test_as_one_rank(said: list[dict[str, Any]], case: str) -> None:
    single = said[0][f"{case}, one rank"]
    assert {"C", "r"} <= set(single["line"])
    for rank in range(2):
        found = said[rank][case]
        assert found.get("line", found.get("lines", [None])[0]) == single["line"]
        assert identical(found["made"][: len(single["made"])], single["made"])


def test_samples_of_a_batch_decide_apart(said: list[dict[str, Any]]) -> None:
    first, second = said[0]["batch"]["line"].split()
    assert first != second


def test_idle_modules_are_skipped(said: list[dict[str, Any]]) -> None:
    """Three of eight steps are reused."""
    assert set(said[0]["idle, one rank"]["calls"].values()) == {5}
    for rank in range(2):
        assert said[rank]["idle"]["calls"] == said[0]["idle, one rank"]["calls"]


def test_who_reads_one_is_seen_on_all(said: list[dict[str, Any]]) -> None:
    """The first replay is made again with all modules, and later ones skip none."""
    for rank in range(2):
        assert said[rank]["idle, read"]["line"] == said[0]["idle, one rank"]["line"]
        assert set(said[rank]["idle, read"]["calls"].values()) == {8}
        assert identical(said[rank]["idle, read"]["made"], said[0]["idle, one rank"]["made"])


def test_tensor_parallel_alone(said: list[dict[str, Any]]) -> None:
    for rank in range(2):
        assert said[rank]["tensor parallel, alone"]["ranks"] == "alone (as said by ranks=)"
        assert said[rank]["tensor parallel, alone"]["line"] == said[0]["one rank"]["line"]


@pytest.mark.parametrize("name", GUIDED)
def test_guidance_on_ranks_of_their_own(said: list[dict[str, Any]], name: str) -> None:
    single = said[0][f"{name}, one rank"]
    assert {"C", "r"} <= set(single["line"])
    for rank in range(2):
        assert said[rank][name]["line"] == single["line"]
        assert identical(said[rank][name]["made"], single["made"])


@pytest.mark.parametrize("case", ["interrupted", "stopped"])
def test_an_interrupt_of_one_rank_stops_all(said: list[dict[str, Any]], case: str) -> None:
    """Told after step 2: all hear of it after step 4, the next that is computed, before step 5 (which still runs)."""
    for rank in range(2):
        assert said[rank][case]["lines"] == ["CCrrCr", said[rank]["pipeline"]["lines"][1]]
        assert identical(said[rank][case]["made"][1:], said[rank]["pipeline"]["made"][1:])


@pytest.mark.parametrize("after", [2, 3])
def test_an_interrupt_within_a_step_of_second_order(said: list[dict[str, Any]], after: int) -> None:
    """Its bar moves at every other forward: one that heard of an interrupt there alone went on by itself meanwhile."""
    first, second = (said[rank][f"second order, after {after}"] for rank in range(2))
    assert first["lines"] == second["lines"]
    assert 3 < len(first["lines"][0]) < len(first["lines"][1])
    assert identical(first["made"], second["made"])
