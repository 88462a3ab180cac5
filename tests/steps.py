"""Steps for tests that need no more of one than where it stands."""

from bwcache import Step


def at(sigma: float, index: int = 0, branch: str = "cond") -> Step:
    """A step at this sigma, of a run whose length nobody knows."""
    return Step(0, index, None, None, sigma, branch)
