"""Everything that is known of one branch of one sample in one run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bwcache.core import Step
from bwcache.engine import reasons
from bwcache.engine.idle import Outline
from bwcache.features.looks import Look
from bwcache.features.prediction_error import PredictionSamples
from bwcache.features.shards import Sharding
from bwcache.features.store import Held, Slot
from bwcache.features.taps import Taps
from bwcache.policies import Readings


@dataclass(eq=False, slots=True)
class Lane:
    """One lane: `forget` drops all that was kept of it, and what stays says who it is and where it came by last.

    Attributes:
        name, branch, held: which it is, and what counts its bytes.
        visited: the index of the step in which it last came by.
        denoiser: which one ran it last; what another one left is of no use.
        refused: why nothing is kept of it, or None.
        slots: past features by site.
        not_finite: the sites whose last computed feature was not finite.
        routes: by site, the blocks that ran when it was last computed.
        latents: shape, dtype and device of the denoiser's latents when anything was last computed.
        shapes: of all tensors that the denoiser was given then.
        inputs: all that is told of the arguments with which it was last computed; None: not enough.
        outlines: what blocks returned that return something else than they take in, by the block's ordinal.
        returned: what the denoiser returned, without its tensors.
        wrapped: the sites whose last place returns its one stream in a tuple.
        shardings: by site, how the streams that are kept of it lie on the ranks, where they do.
        taps, looks: the pasts of its taps.
        samples: by site, samples of the past by which predictions are judged.
        told: whether it was told to forget, and nothing was kept since.
        last: what the taps measured in the last computed forward.
    """

    name: str
    branch: str
    held: Held
    visited: int = -1
    denoiser: str | None = None
    refused: str | None = None
    slots: dict[str, Slot] = field(default_factory=dict)
    not_finite: set[str] = field(default_factory=set)
    routes: dict[str, list[int]] = field(default_factory=dict)
    latents: object = None
    shapes: object = None
    inputs: object = None
    outlines: dict[int, Outline] = field(default_factory=dict)
    returned: Any = None
    wrapped: set[str] = field(default_factory=set)
    shardings: dict[str, dict[str, Sharding]] = field(default_factory=dict)
    taps: Taps | None = None
    looks: list[Look] | None = None
    samples: dict[str, PredictionSamples] = field(default_factory=dict)
    last: Readings | None = None
    told: bool = False
    _sampled: int = 0

    def slot(self, site: str) -> Slot:
        """Return what is kept of a site; empty at first."""
        found = self.slots.get(site)
        if found is None:
            found = self.slots[site] = Slot(self.held)
        return found

    def nothing_kept(self, site: str, step: Step, denoiser: str) -> str:
        """Return why there is nothing to reuse at a site."""
        if step.index == 0:
            return reasons.FIRST_STEP
        if site in self.not_finite:
            return reasons.NOT_FINITE
        return f"{reasons.FORGOTTEN if self.told else reasons.NOTHING_KEPT} (of {self.name} at {denoiser})"

    def forget(self) -> None:
        """Drop all that was kept."""
        for slot in self.slots.values():
            slot.drop()
        self.slots.clear()
        self.taps, self.looks, self.returned = None, None, None
        self.samples.clear()
        self.held.sampled -= self._sampled
        self._sampled = 0

    def count_samples(self) -> None:
        """Count the bytes that taps hold, and the samples by which predictions are judged."""
        now = 0 if self.taps is None else self.taps.nbytes
        for kept in (*(self.looks or ()), *self.samples.values()):
            now += kept.nbytes
        self.held.sampled += now - self._sampled
        self._sampled = now
