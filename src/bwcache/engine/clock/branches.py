"""The branches of a run: whoever names a forward says which it is; else its condition does; else the order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from bwcache.engine import reasons
from bwcache.engine.clock.conditions import Conditions, Known

if TYPE_CHECKING:
    from bwcache.engine.clock.call import Call
    from bwcache.engine.clock.latents import LatentsSample


@dataclass(eq=False, slots=True)
class Branch:
    """One branch, as it last came by.

    Attributes:
        name: in steps and traces.
        condition: what it is conditioned on, where somebody named it; else the number of that.
        options: how it was asked to run.
        step: ordinal of the step.
        latents: a few entries of its latents, where these tell something.
    """

    name: str
    condition: Known | int
    options: dict[str | int, Any]
    step: int
    latents: LatentsSample | None = None


class Branches:
    """The branches of one run.

    Forwards of one condition in one step are alike: among these the order decides, and where their latents show that it
    decided wrong, nothing of before is used.

    Attributes:
        here: those that came by in the present step.
        named_here: the names of those of them that somebody named.
        step: ordinal of that step, from 0, of those that had a forward.
        are_uncertain: whether the number of forwards in a step contradicts what was made of it.
    """

    def __init__(self) -> None:
        self.here: list[Branch] = []
        self.named_here: set[str | None] = set()
        self.step = 0
        self.are_uncertain = False
        self._conditions = Conditions()
        self._named: dict[str, Branch] = {}
        self._unnamed: list[Branch] = []
        self._before: Counter[Known | int] = Counter()
        self._most: Counter[Known | int] = Counter()
        self._widths: list[int] = []

    def is_complete(self, call: Call) -> bool:
        """Return whether this step already has all forwards of this kind, as far as the step before can tell."""
        if call.name is not None:
            return call.name in self.named_here
        condition = self._number(call)
        here = self._alike_here(condition)
        return self.step > 0 and 0 < here >= self._before[condition]

    def went_on(self, call: Call) -> bool:
        """Return whether the same branch was here in this step, with latents that have moved on. Reads the device."""
        if call.name is not None or self.step > 0:
            return False
        condition = self._number(call)
        before = next((branch.latents for branch in self.here if branch.condition == condition), None)
        return before is not None and call.sample is not None and call.sample.moved_from(before)

    def jumped(self, call: Call, ahead: bool = False) -> bool:
        """Return whether a forward has other latents than its branch can have had a step before. Reads the device.

        Args:
            ahead: whether it is the first forward of the next step.
        """
        if call.jumped is None:
            branch = self._of(call, [] if ahead else self.here)
            before = None if branch is None else branch.latents
            call.jumped = before is not None and call.sample is not None and call.sample.jumped_from(before)
        return call.jumped

    def next_step(self, nobody_knows: bool) -> None:
        """The next forward is of another step.

        Args:
            nobody_knows: whether nothing but the times tells the steps.
        """
        counts: Counter[Known | int] = Counter(
            [branch.condition for branch in self.here if isinstance(branch.condition, int)]
        )
        if nobody_knows and counts:
            self._note_width(counts)
        self._most |= counts
        self._before, self.here, self.named_here = counts, [], set()
        self.step += 1

    def _note_width(self, counts: Counter[Known | int]) -> None:
        """A number of forwards that goes up and down again tells nothing, unless known conditions come and go.

        Two steps whose times were rounded to the same look like one step with more branches.
        """
        if all(self._most[condition] == count == 1 for condition, count in counts.items()):
            return
        width = len(self.here)
        if not self._widths or width != self._widths[-1]:
            self._widths.append(width)
        ups = {a < b for a, b in pairwise(self._widths)}
        self.are_uncertain = len(ups) > 1

    def enter(self, call: Call, watched: bool) -> tuple[Branch, str | None]:
        """Return the branch of a forward, and why nothing that is kept of it may be used, or None.

        Args:
            watched: whether its latents are looked at in any case.
        """
        name, doubt = call.name, None
        branch = self._of(call, self.here) if name is None else self._named.get(name)
        if branch is None:
            branch, doubt = self._made(call)
        elif not isinstance(branch.condition, int):
            doubt = self._other_condition(branch, branch.condition, call)
        if name is None:
            watched = watched or self._is_alike(branch)
        else:
            self.named_here.add(name)
        if doubt is None and branch.options != call.options:
            doubt = reasons.OTHER_OPTIONS
        if doubt is None and watched and self.jumped(call):
            doubt = reasons.OTHER_LATENTS
        branch.options, branch.step = call.options, self.step
        branch.latents = call.sample if watched or name is None else None  # another one alike may come next
        self.here.append(branch)
        return branch, doubt

    def _of(self, call: Call, here: Sequence[Branch]) -> Branch | None:
        """The branch that a forward belongs to, if there is one; of those alike, one asked to run in its way."""
        if call.name is not None:
            return self._named.get(call.name)
        found: Branch | None = None
        number = self._number(call)
        for branch in self._unnamed:
            if branch.condition == number and branch not in here:
                if branch.options == call.options:
                    return branch
                found = found or branch
        return found

    def _made(self, call: Call) -> tuple[Branch, str | None]:
        """A branch for what was never here.

        Those that nobody names are called by their order. One that comes in the place of another takes its name: there
        are never more than forwards in a step, whatever becomes of the prompt.
        """
        if call.name is not None:
            branch = Branch(call.name, self._conditions.add(call.condition), call.options, self.step)
            self._named[call.name] = branch
            return branch, None
        unnamed = self._unnamed
        ordinal = sum(branch in unnamed for branch in self.here)
        free = next((branch for branch in unnamed[ordinal:] + unnamed[:ordinal] if branch not in self.here), None)
        if free is None:
            free = Branch(f"call{len(unnamed)}", self._number(call), call.options, self.step)
            unnamed.append(free)
            return free, None
        free.condition, free.options, free.latents = self._number(call), call.options, None
        return free, reasons.OTHER_CONDITION

    def _other_condition(self, branch: Branch, known: Known, call: Call) -> str | None:
        """Why a branch that is named is not the one that it was, or None.

        Reads the device where its condition lies elsewhere than before, or torch cannot tell whether it was written to.
        """
        trusted = call.condition.is_traced or call.scheduler is not None
        if (trusted and call.condition.place in known.places) or known.equals(call.condition):
            return None
        branch.condition = self._conditions.add(call.condition)
        return reasons.OTHER_CONDITION

    def _number(self, call: Call) -> int:
        if call.number is None:
            call.number = self._conditions.number(call.condition, trusting=call.scheduler is not None)
        return call.number

    def _is_alike(self, branch: Branch) -> bool:
        """Whether other forwards of one step have the same condition, so that only their order tells them apart."""
        if self._most.get(branch.condition, 0) > 1:
            return True
        return bool(self.here) and self._alike_here(branch.condition) > 0

    def _alike_here(self, condition: Known | int) -> int:
        return sum([branch.condition == condition for branch in self.here])
