"""The three words for those who want no number, and the one thing that they mean in every command: a closeness.

A grade is a mean PSNR against the uncached videos. `bwcache tune` makes a plan for a model that keeps it, and measures
that. Without tuning it is what the grade's policy aims at: the one setting that comes nearest to it over models,
schedulers and numbers of steps. What that came to is in docs/tune.md.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from bwcache.core.files import named_without_suffix
from bwcache.core.words import plain_name, shown
from bwcache.errors import SettingError, complaint
from bwcache.policies.known import known
from bwcache.policies.planned import Planned
from bwcache.policies.policy_file import SUFFIX


@dataclass(frozen=True)
class Grade:
    """What a word means.

    Attributes:
        psnr: mean PSNR against the uncached videos, dB.
        policy: for a model that nobody has tuned.
    """

    psnr: float
    policy: Planned


GRADES: Mapping[str, Grade] = {
    "near": Grade(40.0, Planned(0.02)),
    "balanced": Grade(35.0, Planned(0.03)),
    "fast": Grade(30.0, Planned(0.04)),
}


def graded(word: str) -> Grade:
    """Return the grade of a word: near, balanced or fast.

    Raises:
        SettingError: there is no such grade.
    """
    found = GRADES.get(word.strip().lower())
    if found is None:
        raise SettingError(complaint(f"grade {shown(word)}", " or ".join(GRADES), _instead(word)))
    return found


def _instead(word: str) -> str:
    """What may be meant by another word."""
    file = named_without_suffix(word, SUFFIX)
    if file is not None:
        return f"{file} is there: name it so, in place of a policy"
    near = difflib.get_close_matches(word.lower(), GRADES, 1)
    if near:
        return f"did you mean {near[0]}?"
    method = next((name for name in known() if plain_name(name) == plain_name(word)), None)
    if method is not None:
        return f"the method of this name is bwcache.{method}(…), or --policy {method}"
    return "or name a policy, or a file of bwcache tune"
