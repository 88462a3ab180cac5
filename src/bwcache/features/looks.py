"""A look at one place in one lane: any view, any indicator, against the last computed step or the last step at all.

Each look keeps its own past, as far back as its lags reach. The fast way for samples of outputs is `taps.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bwcache.core import Step
from bwcache.features.store import outside_inference_mode
from bwcache.features.views import View

Indicator = Callable[[Tensor, Tensor], Tensor]
"""(new `[1, …]`, past `[1, …]`) -> `[2, 1]` float32: numerator and denominator, to be added before dividing."""


class Look:
    """What one tap saw in one lane.

    Args:
        view: what is looked at.
        indicator: what is made of it and of an earlier one.
        lags: how many looks back it compares, such as (1,) or (1, 2).
    """

    def __init__(self, view: View, indicator: Indicator, lags: Sequence[int]) -> None:
        self._view, self._indicator, self._lags = view, indicator, tuple(lags)
        self._past: list[Tensor] = []
        self._new: Tensor | None = None

    def take(self, feature: Tensor, step: Step) -> Tensor | None:
        """Return `[2, lags]` numerators and denominators against the past; None where there is none.

        Of several lags, those that reach further back than the past are zeros.
        """
        with outside_inference_mode():
            self._new = self._view.take(feature, step)
        new, columns = self._new, []
        for lag in self._lags:
            old = self._past[lag - 1] if lag <= len(self._past) else None
            fits = old is not None and old.shape == new.shape and old.device == new.device
            columns.append(self._indicator(new[None], old[None]) if fits and old is not None else None)
        if all(column is None for column in columns):
            return None
        return torch.cat([_nothing(new) if column is None else column for column in columns], dim=1)

    def keep(self) -> None:
        """Make what was seen last the newest of the past."""
        if self._new is not None:
            self._past.insert(0, self._new)
            del self._past[max(self._lags) :]
            self._new = None

    def let_go(self) -> None:
        """Forget what was seen last: it does not count."""
        self._new = None

    @property
    def nbytes(self) -> int:
        """Bytes held between steps."""
        return sum(seen.nbytes for seen in self._past)


def _nothing(like: Tensor) -> Tensor:
    return torch.zeros(2, 1, device=like.device)
