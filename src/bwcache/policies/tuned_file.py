"""The file that `bwcache tune` writes: a policy, what it was made for, and what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bwcache.policies.base import Policy
from bwcache.policies.policy_file import PolicyFile, read, refused
from bwcache.policies.tuned import Tuned


@dataclass(frozen=True)
class TunedFile(PolicyFile):
    """What such a file holds.

    Attributes:
        quality: what was measured on videos that nothing was chosen on.
        speed: what is to be expected.
    """

    KIND = "bwcache-tuned"
    MADE_BY = "bwcache tune"
    WORD = "tuned"
    PARTS = ("made_for", "quality", "speed")

    policy: Tuned
    made_for: Mapping[str, Any]
    quality: Mapping[str, Any]
    speed: Mapping[str, Any]

    @property
    def denoiser(self) -> str:
        """Return the class of the denoiser that it was made for; "": any."""
        return self.policy.model

    @property
    def again(self) -> str:
        """Return the call that makes one for another model, without its options."""
        return "tune this model too: bwcache tune --model …"

    @property
    def is_of_a_schedule(self) -> bool:
        """No: it is carried over by noise level."""
        return False

    @classmethod
    def expect_policy(cls, policy: Policy[Any], name: str) -> None:
        """Raises `SettingError` for another one than `Tuned`."""
        if not isinstance(policy, Tuned):
            raise refused(f"policy {type(policy).__name__} in {name}", "Tuned", "attach that policy itself")


def read_tuned(path: str | Path) -> TunedFile:
    """Return what a file holds.

    Raises:
        SettingError: it cannot be read, or is none of `bwcache tune`.
    """
    found: TunedFile = read(path, TunedFile)
    return found
