"""What a test proves of a policy, said where the test is: against what, on which models, what came out equal.

`tests/policies/proofs.py` gathers them for the catalogue, so that it can name no test that is not there, and no
model that one does not go through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias, TypeVar

from tests.tiny import BY_NAME

Test = TypeVar("Test", bound=Callable[..., Any])

ONE, TWO, NONE = "one forward", "two forwards", "none"
"""How guidance comes."""

BITS = "decisions, and latents bit for bit"
ROUNDED = "decisions, and latents up to rounding"

PATCHES = "a second implementation by plain patches"
HOOKS = "a second implementation by plain hooks"
NUMPY = "a second implementation in numpy"
ANOTHER = "a second one in numpy, by another hand"
"""`tests/policies/references`."""

On: TypeAlias = "Mapping[str, Sequence[str]] | tuple[str, ...]"
"""Class of the denoiser -> how guidance comes; or names of tiny pipelines."""

TOY: On = {"a denoiser written twice": (TWO,)}
"""`tests/policies/references/toy.py`."""

ALONE: On = {"decisions alone": ()}


@dataclass(frozen=True)
class Proof:
    """One test of one policy.

    Attributes:
        policy: its name.
        against: what it is held against.
        equal: what came out equal.
        on: the models; None: the tiny pipelines that the test's argument `name` goes through.
    """

    policy: str
    against: str
    equal: str
    on: On | None


def proves(policy: type[Any], against: str, equal: str = BITS, on: On | None = None) -> Callable[[Test], Test]:
    """Return what marks a test as a proof of a policy."""

    def marked(test: Test) -> Test:
        proofs = (*getattr(test, "proofs", ()), Proof(policy.__name__, against, equal, on))
        test.proofs = proofs  # type: ignore[attr-defined]
        return test

    return marked


def models_of(proof: Proof, test: Callable[..., Any]) -> dict[str, list[str]]:
    """Return the models of a proof, and how guidance comes in each."""
    if isinstance(proof.on, Mapping):
        return {model: list(how) for model, how in proof.on.items()}
    found: dict[str, list[str]] = {}
    for name in names_of(test) if proof.on is None else proof.on:
        how = found.setdefault(denoiser_of(name), [])
        if guidance_of(name) not in how:
            how.append(guidance_of(name))
    return found


def names_of(test: Callable[..., Any]) -> list[str]:
    """Return what the test's argument `name` goes through."""
    for mark in getattr(test, "pytestmark", ()):
        arguments = mark.args[0] if mark.name == "parametrize" else ()
        arguments = [arguments] if isinstance(arguments, str) else list(arguments)
        if "name" in arguments:
            values = [each if len(arguments) > 1 else (each,) for each in mark.args[1]]
            return list(dict.fromkeys(each[arguments.index("name")] for each in values))
    raise AssertionError(f"{test.__name__} goes through no models: say `on=`")


@cache
def denoiser_of(name: str) -> str:
    """Return the class of the denoiser of a tiny pipeline."""
    return type(BY_NAME[name].build().transformer).__name__


def guidance_of(name: str) -> str:
    """Return how guidance comes in a tiny pipeline."""
    branches = BY_NAME[name].branches
    return TWO if len(branches) > 1 else ONE if branches == ("cond_uncond",) else NONE
