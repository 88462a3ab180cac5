"""How close the video shall stay, in one word: for those who want no number. What each gave is in docs/planned.md."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from bwcache.core.words import shown
from bwcache.errors import SettingError, complaint
from bwcache.policies.planned import Planned

GRADES: Mapping[str, Planned] = {"near": Planned(0.02), "balanced": Planned(0.03), "fast": Planned(0.04)}


def graded(grade: str) -> Planned:
    """Return the policy of a grade: near, balanced or fast.

    Raises:
        SettingError: there is no such grade.
    """
    found = GRADES.get(grade.lower())
    if found is None:
        near = difflib.get_close_matches(grade.lower(), GRADES, 1)
        action = f"did you mean {near[0]}?" if near else "or pass a policy such as bwcache.BWCache()"
        raise SettingError(complaint(f"grade {shown(grade)}", " or ".join(GRADES), action))
    return found
