"""The file that `bwcache calibrate` writes: a policy with its table, what that was made for, and of what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bwcache.policies.base import Policy
from bwcache.policies.policy_file import PolicyFile, read, refused
from bwcache.policies.tuned_file import TunedFile


@dataclass(frozen=True)
class CalibratedFile(PolicyFile):
    """What such a file holds.

    Attributes:
        source: version of this package, the call, the prompts, and the settings of the calibration.
    """

    KIND = "bwcache-calibrated"
    MADE_BY = "bwcache calibrate"
    WORD = "calibrated"
    PARTS = ("made_for", "source")

    source: Mapping[str, Any]

    @property
    def denoiser(self) -> str:
        """Return the class of the denoiser that it was made for; "": any."""
        return self.made_for.get("denoiser") or ""

    @property
    def again(self) -> str:
        """Return the call that makes one for another model, without its options."""
        return f"calibrate here too: bwcache calibrate {type(self.policy).__name__} --model …"

    @property
    def is_of_a_schedule(self) -> bool:
        """Return what the method says."""
        entry = self.policy.entry
        return entry is not None and entry.table is not None and entry.table.holds_for != "model"

    @classmethod
    def expect_policy(cls, policy: Policy[Any], name: str) -> None:
        """Raises `SettingError` for one without a table."""
        if policy.entry is None or policy.entry.table is None:
            found = f"policy {type(policy).__name__} in {name}"
            raise refused(found, "one with a table", "attach that policy itself")


KINDS = (TunedFile, CalibratedFile)
"""All files that can be named in place of a policy."""


def read_policy_file(path: str | Path) -> PolicyFile:
    """Return what a file holds that stands in place of a policy.

    Raises:
        SettingError: it cannot be read, or is none of `bwcache tune` and `bwcache calibrate`.
    """
    found: PolicyFile = read(path, *KINDS)
    return found
