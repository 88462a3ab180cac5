"""Ranks that compute at the same time, whatever each of them makes: a vote before each forward, in which compute wins.

Each decides by what it measured of its own. Blocks in which ranks speak to each other, as where they gather weights of
which each has a share, then run on all ranks or on none. All that is local to a rank goes into the same vote: what it
could not keep, what it was told to stop, a run that it has no room for.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bwcache.core import Decision
from bwcache.engine import reasons
from bwcache.engine.plan import Plan
from bwcache.engine.ranks import count, largest
from bwcache.errors import OverBudgetError, RanksDifferError, complaint

if TYPE_CHECKING:
    from bwcache.engine.ranks import Groups

Decided = Mapping[str, Decision]
"""What is decided, by site; without the sites that lie in a reused one."""

COMPUTED_ELSEWHERE = Decision("compute", reasons.ANOTHER_RANK)


class Votes:
    """The votes of one run of this rank.

    Attributes:
        wants_stop: whether this rank was told to stop.
        stops: whether any was, as all know by now.
        refusal: why this rank cannot hold what the run would keep, until all know it; or None.
    """

    def __init__(self, groups: Groups) -> None:
        """`groups`: the axes of those who vote."""
        self._groups = groups
        self.wants_stop = False
        self.stops = False
        self.refusal: OverBudgetError | None = None

    def agree(self, plan: Plan, decided: Sequence[Decided]) -> list[Decided]:
        """Return what is done in each lane of a forward: what any lane of any rank computes, all compute.

        Args:
            plan: what is decided about, the same on all ranks.
            decided: what each lane would do.

        Raises:
            OverBudgetError: on all ranks alike, if one has no room for its run.
            RanksDifferError: they decide about different sites.
        """
        computes = any(not one.reuses for lane in decided for one in lane.values())
        sites = zlib.crc32(f"{plan.probes} {[site.name for site in plan.sites]}".encode())
        refused, stop = int(self.refusal is not None), int(self.wants_stop)
        refused, stop, anybody, most, least = largest((refused, stop, int(computes), sites, -sites), self._groups)
        if most != -least:
            raise self._differ()
        if refused:
            raise self.refusal or self._no_room_elsewhere()
        self.stops = self.stops or bool(stop)
        if not anybody:
            return list(decided)
        return self._overruled(plan, decided)

    def any(self, here: bool) -> bool:
        """Return whether it holds on any rank; waits for all."""
        return bool(largest((int(here),), self._groups)[0])

    def _overruled(self, plan: Plan, decided: Sequence[Decided]) -> list[Decided]:
        """Site by site. One that lies in a reused one was not decided about: if that is overruled, it is computed."""
        own = [int(not all(site.name in lane and lane[site.name].reuses for lane in decided)) for site in plan.sites]
        votes = largest(own, self._groups) if len(own) > 1 else [1]
        computed = {site.name: bool(vote) for site, vote in zip(plan.sites, votes, strict=True)}
        found: list[Decided] = []
        for lane in decided:
            agreed: dict[str, Decision] = {}
            for site in plan.sites:
                if any(outer in agreed and agreed[outer].reuses for outer in plan.outer[site.name]):
                    continue
                mine = lane.get(site.name)
                if computed[site.name] and (mine is None or mine.reuses):
                    mine = COMPUTED_ELSEWHERE
                assert mine is not None  # of a site that nobody computes, everybody has decided to reuse it
                agreed[site.name] = mine
            found.append(agreed)
        return found

    def _differ(self) -> RanksDifferError:
        return RanksDifferError(
            complaint(
                f"policies that reuse other parts of the model on each of {count(self._groups)} ranks",
                "the same kind of policy on each",
                "attach the same one on all ranks; its settings may differ",
            )
        )

    def _no_room_elsewhere(self) -> OverBudgetError:
        return OverBudgetError(
            complaint(
                f"a run that one of {count(self._groups)} ranks that compute together would keep too much of",
                "room for it on each of them (max_memory)",
                "see what that rank says, or allow it more",
            )
        )
