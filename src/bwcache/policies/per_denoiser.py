"""A policy for each denoiser of a pipeline: the two experts of Wan 2.2 make different parts of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bwcache.core import Decision
from bwcache.features import Predictor
from bwcache.models import BlockStack, Site, Tap
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect
from bwcache.policies.entry import Entry
from bwcache.policies.never_reuse import NeverReuse

States = dict[str, Any]


@dataclass(frozen=True)
class PerDenoiser(Policy[States]):
    """Asks for each denoiser the policy that is named for it; a denoiser of which nothing is said is always computed.

    Args:
        policies: by the name that the denoiser has in its pipeline, such as "transformer_2".

    Raises:
        SettingError: none, or something else than policies.
    """

    entry = Entry(
        keeps="as the policies inside",
        reads="as the policies inside",
        verified="decisions of each policy by itself",
        origin="this project",
    )

    policies: Mapping[str, Policy[Any]] = field(hash=False)

    def __post_init__(self) -> None:
        given = self.policies
        fine = isinstance(given, Mapping) and bool(given) and all(isinstance(name, str) for name in given)
        fine = fine and all(isinstance(each, Policy) for each in given.values())
        instead = '{"transformer": bwcache.BWCache()}'
        expect(fine, "policies", given, "a policy by the name of each denoiser", instead)

    @property
    def denoisers(self) -> tuple[str, ...]:
        """Those that are named."""
        return tuple(self.policies)

    def of_denoiser(self, name: str) -> Policy[Any]:
        """The policy that is named for it."""
        return self.policies[name].of_denoiser(name) if name in self.policies else NeverReuse()

    def citation(self) -> str:
        """Those of the policies inside, each once."""
        return "\n\n".join(dict.fromkeys(filter(None, (each.citation() for each in self.policies.values()))))

    @property
    def feature_predictor(self) -> Predictor | None:
        """The one that keeps most."""
        predictors = [each.feature_predictor for each in self.policies.values()]
        return max((one for one in predictors if one is not None), key=lambda one: one.history, default=None)

    @property
    def may_reuse(self) -> bool:
        """Whether one of them may."""
        return any(each.may_reuse for each in self.policies.values())

    def sites(self, stack: BlockStack) -> tuple[Site, ...]:
        """Those of the policy named for the denoiser."""
        return self.of_denoiser(stack.name).sites(stack)

    def taps(self, stack: BlockStack) -> tuple[Tap, ...]:
        """Those of the policy named for the denoiser."""
        return self.of_denoiser(stack.name).taps(stack)

    def init(self) -> States:
        """A fresh state of each."""
        return {name: each.init() for name, each in self.policies.items()}

    def decide(self, observation: Observation, state: States) -> Decision:
        """As the policy of the denoiser says."""
        name = observation.denoiser
        return self.policies.get(name, NeverReuse()).decide(observation, state.get(name))

    def refresh(self, observation: Observation, state: States) -> None:
        """Tells the policy of the denoiser."""
        name = observation.denoiser
        self.policies.get(name, NeverReuse()).refresh(observation, state.get(name))

    def check(self, total: int) -> None:
        """As each of them."""
        for each in self.policies.values():
            each.check(total)
