"""How far two features are apart."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def mean_change(new: NDArray[Any], old: NDArray[Any]) -> float:
    return float(np.abs(new - old).mean(dtype=np.float64))


def relative_l1(new: NDArray[Any], old: NDArray[Any]) -> float:
    return mean_change(new, old) / float(np.abs(old).mean(dtype=np.float64))
