"""What methods share that compute each layer at the steps of a list of its own, which was found beforehand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping

from bwcache.core import Decision, compute, reuse
from bwcache.errors import SettingError, complaint
from bwcache.models import BlockStack
from bwcache.policies.base import Observation, Policy
from bwcache.policies.checks import expect, whole

Lists = Mapping[str, tuple[int, ...]]
"""By a layer's name, the steps at which it is computed."""


class LayerLists(Policy[None]):
    """Base of policies with a list of steps for each layer, or for each kind of them.

    Attributes:
        steps: of the runs on which the lists were found, and of those that can be made with them; None: any.
    """

    steps: int | None

    @property
    @abstractmethod
    def lists(self) -> Lists:
        """The field with the lists."""

    def layer(self, site: str) -> str:
        """Return the name under which the list of a site stands: by default its own."""
        return site

    def expect_lists(self, field: str, expected: str, instead: str, steps: int) -> None:
        """Raises `SettingError` where lists or number of steps cannot be; with what is expected, and examples."""
        fine = isinstance(self.lists, Mapping) and all(map(_is_list_of_steps, self.lists, self.lists.values()))
        expect(fine, field, self.lists, expected, instead)
        number = "a whole number >= 1, or None"
        expect(self.steps is None or whole(self.steps, 1), "steps", self.steps, number, str(steps))

    def expect_there(self, stack: BlockStack, layers: str, there: Iterable[str]) -> None:
        """Raises `SettingError` where a list is of none of the layers that are there."""
        known = tuple(dict.fromkeys(there))
        for name in self.lists:
            if name not in known:
                found = f"{layers} {name!r} of {stack.spec.model}"
                raise SettingError(
                    complaint(found, f"some of: {', '.join(known) or 'none'}", "calibrate on this model")
                )

    @property
    def may_reuse(self) -> bool:
        """Not where every step is on each list."""
        return self.steps is None or any(len(set(each)) < self.steps for each in self.lists.values())

    def init(self) -> None:
        """No state."""

    def decide(self, observation: Observation, state: None) -> Decision:
        """The list of the layer."""
        if observation.step.index in self.lists[self.layer(observation.site)]:
            return compute("on the list")
        return reuse("not on the list")

    def check(self, total: int) -> None:
        """Raises `SettingError` where the lists were found on runs of another number of steps."""
        if self.steps not in (None, total):
            raise SettingError(complaint(f"lists for {self.steps} steps", f"for {total}", "calibrate on as many"))


def _is_list_of_steps(name: object, steps: object) -> bool:
    some = steps if isinstance(steps, (tuple, list)) else ()
    return isinstance(name, str) and 0 in some and all(whole(step, 0) for step in some)
