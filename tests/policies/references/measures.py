"""How far two features are apart."""

import numpy as np

from tests.policies.references.toy import Array


def mean_change(new: Array, old: Array) -> float:
    return float(np.abs(new - old).mean())


def relative_l1(new: Array, old: Array) -> float:
    return mean_change(new, old) / float(np.abs(old).mean())
