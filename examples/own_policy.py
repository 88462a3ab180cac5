"""A policy of your own: which steps to reuse, in one function."""

from dataclasses import dataclass

import bwcache
from bwcache import Decision, Observation, Policy, compute, reuse, shapes


@dataclass(frozen=True)
class EveryOther(Policy[dict[str, int]]):
    """Reuses each step after a computed one, but for the last `tail` steps."""

    tail: int = 2

    def init(self) -> dict[str, int]:  # the state of one run: of each branch, its last computed step
        return {}

    def decide(self, observation: Observation, state: dict[str, int]) -> Decision:
        step = observation.step
        if step.total is None or step.index >= step.total - self.tail:
            return compute("tail")
        return reuse("every other") if step.index == state[step.branch] + 1 else compute("its turn")

    def refresh(self, observation: Observation, state: dict[str, int]) -> None:
        state[observation.step.branch] = observation.step.index


pipe = shapes.load()
with bwcache.attach(pipe, EveryOther()) as session:
    pipe(shapes.PROMPTS[0], height=32, width=32, num_frames=9, num_inference_steps=20)
print(session.trace.summary())
