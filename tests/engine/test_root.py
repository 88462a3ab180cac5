"""Which latents and predictions lie alike, so that one can be told from the other."""

from __future__ import annotations

import pytest
import torch

from bwcache.engine.root import axis_apart, on_shared


@pytest.mark.parametrize(
    ("latents", "prediction", "axis"),
    [
        ((2, 4, 3), (2, 4, 3), 0),
        ((2, 8, 3), (2, 4, 3), 1),  # a picture beside the latents
        ((2, 4, 3), (2, 8, 3), 1),  # a variance beside the prediction
        ((2, 4, 3), (1, 4, 3), None),  # another batch: nobody knows which row is whose
        ((2, 4, 3), (2, 8, 6), None),
        ((2, 4, 3), (2, 4), None),
    ],
)
def test_the_axis_along_which_they_differ(latents: tuple[int, ...], prediction: tuple[int, ...], axis: int) -> None:
    assert axis_apart(torch.zeros(latents), torch.zeros(prediction)) == axis
    made = on_shared(torch.add, torch.ones(latents), torch.ones(prediction))
    if axis is None:
        assert made is None
    else:
        assert made is not None
        assert made.shape == prediction
        assert made.sum() == prediction[0] * prediction[1] * prediction[2] + 2 * 4 * 3
