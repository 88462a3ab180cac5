"""What a row says of the denoiser's output, on every pipeline: the scheduler is told that, or its negative."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bwcache.engine.clock.level import predicted_by
from bwcache.engine.returned import taken_apart
from bwcache.models import denoisers
from bwcache.models.table import row_of
from tests.conformance.test_pipelines import each_pipeline
from tests.zoo.kinds import Pipeline


def weights(told: Tensor, returned: list[Tensor]) -> list[float] | None:
    """Of which sum of a step's predictions it is that the scheduler is told: guidance weighs them with 1 in all."""
    rows = [part for one in returned for part in one.chunk(max(1, len(one) // len(told)))]
    if any(part.shape != told.shape for part in rows):
        return None  # packed, or cut
    columns = torch.stack([part.flatten().double() for part in rows], 1)
    found = torch.linalg.lstsq(columns, told.flatten().double()[:, None], driver="gelsd").solution.flatten()
    left = columns @ found - told.flatten()
    return found.tolist() if left.norm() < 0.05 * told.double().norm() else None


class Told(Exception):
    """Two steps are enough."""


@each_pipeline
def test_the_scheduler_is_told_what_the_row_says(case: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = case.build()
    returned: list[Tensor] = []
    found: list[list[float] | None] = []
    forwards: list[int] = []
    for module in denoisers(pipe).values():
        module.register_forward_hook(lambda *called: returned.append(next(iter(taken_apart(called[2])[0].values()))))
    step = pipe.scheduler.step

    def noted(told: Tensor, *args: Any, **kwargs: Any) -> Any:
        found.append(weights(told, returned) if returned else None)
        forwards.append(len(returned))
        returned.clear()
        if len(found) == 2:
            raise Told
        return step(told, *args, **kwargs)

    monkeypatch.setattr(pipe.scheduler, "step", noted)
    with pytest.raises(Told):
        case.run(pipe)
    rows = [row_of(type(module)) for module in denoisers(pipe).values()]
    said = {found_row.prediction for found_row in rows if found_row}
    if said == {"unknown"} or predicted_by(pipe.scheduler) is None or found[1] is None:
        pytest.skip("the scheduler or the row does not say it, or another form of it is told")
    backwards = "per_token_timesteps" in str(case.call) or case.name == "LTXConditionPipeline"
    sign = {"direct": 1.0, "negative": -1.0}[said.pop()] * (-1.0 if backwards else 1.0)
    assert sum(found[1]) == pytest.approx(sign, abs=0.02)
    order = rows[0].branches if rows[0] else ()
    if len(found[1]) == 2 and forwards[1] == 1 and order:  # both branches in one forward: the conditional one is added
        assert order[0 if sign * found[1][0] > 0 else 1] == "cond"
