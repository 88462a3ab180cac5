"""Replay by brute force: each place hands out its own stored output, by plain patches of `forward`; no engine.

Told for each forward what was done at each site, by the site's name alone: "stack" (every block for itself), a block or
a part ("transformer_blocks.1.attn1"), "first-last" (what these blocks add to what enters them), or "root". Of some
sites it is told from which block on a residual is taken: "stack" too is what all blocks add then.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bwcache import Policy
from tests.fuzz.clean import Kept, foretold, level_of, predicted

LISTS = ("blocks", "transformer_blocks", "single_transformer_blocks", "down_blocks", "mid_block", "up_blocks")
STREAMS = ("hidden_states", "encoder_hidden_states")


@dataclass(frozen=True)
class Foretold:
    """How clean latents are made.

    Attributes:
        policy, scheduler: which do.
        steps, reasons: of each forward.
    """

    policy: Policy[Any]
    scheduler: Any
    steps: list[int]
    reasons: list[str]


class Brute:
    """Replays what the rows of a trace say.

    Args:
        rows: for each forward its branch, and the action at each site.
        clean: if the root keeps clean latents, how those of a skipped step are made.
        since: by site, the block from whose input on a residual is taken; its own first one where none is named.
    """

    def __init__(
        self,
        rows: list[tuple[str, dict[str, str]]],
        clean: Foretold | None = None,
        since: Mapping[str, str] | None = None,
    ) -> None:
        self.rows, self.forward, self.clean, self.since = rows, -1, clean, since or {}
        self.kept: dict[tuple[str, str], Any] = {}
        self.entered: dict[str, dict[str, Any]] = {}

    def attach(self, undo: ExitStack, denoiser: nn.Module) -> None:
        """Patch all places that the rows name."""
        blocks = blocks_of(denoiser)
        for site in self.rows[0][1]:
            if site == "stack" and site not in self.since:
                for name, block in blocks.items():
                    self._patch(undo, block, self._output(site, name, block.forward))
            elif "-" in site or site == "stack":
                every = list(blocks)
                first, last = site.split("-") if "-" in site else (every[0], every[-1])
                names = every[every.index(first) : every.index(last) + 1]
                since = self.since.get(site, first)
                if since not in names:
                    self._patch(undo, blocks[since], self._entering(site, blocks[since].forward))
                for name in names:
                    self._patch(undo, blocks[name], self._residual(site, names, name, blocks[name].forward))
            elif site != "root":
                module = denoiser.get_submodule(site)
                self._patch(undo, module, self._output(site, site, module.forward))
        self._patch(undo, denoiser, self._root(denoiser.forward))

    def _patch(self, undo: ExitStack, module: Any, forward: Callable[..., Any]) -> None:
        module.forward = forward
        undo.callback(delattr, module, "forward")

    def _reuses(self, site: str) -> bool:
        return self.rows[self.forward][1].get(site) == "reuse"

    def _key(self, name: str) -> tuple[str, str]:
        return (self.rows[self.forward][0], name)

    def _root(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            self.forward += 1
            x = args[0] if args else kwargs["hidden_states"]
            if self.clean is not None:
                time = kwargs["timestep"] if "timestep" in kwargs else args[1]
                level = level_of("", self.clean.scheduler, float(time.flatten()[0]), {})
                assert level is not None
                past, step = self.kept.setdefault(self._key("root"), []), self.clean.steps[self.forward]
                if self._reuses("root"):
                    means = foretold(self.clean.policy, past, level.share, self.clean.reasons[self.forward])
                    return (predicted(means, x, level).to(x.dtype),)
                returned = inner(*args, **kwargs)
                past.insert(0, Kept.of(x, returned[0], level, step))
                return returned
            if self._reuses("root"):
                return (self.kept[self._key("root")] + x,)
            returned = inner(*args, **kwargs)
            if "root" in self.rows[0][1]:
                self.kept[self._key("root")] = returned[0] - x
            return returned

        return forward

    def _output(self, site: str, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._reuses(site):
                return copied(self.kept[self._key(name)])
            returned = inner(*args, **kwargs)
            self.kept[self._key(name)] = copied(returned)
            return returned

        return forward

    def _entering(self, site: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(inner)

        def forward(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            self.entered[site] = {stream: copied(given.get(stream)) for stream in STREAMS}
            return inner(*args, **kwargs)

        return forward

    def _residual(self, site: str, names: list[str], name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(inner)

        def forward(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            if name == self.since.get(site, names[0]):
                self.entered[site] = {stream: copied(given.get(stream)) for stream in STREAMS}
            if not self._reuses(site):
                returned = inner(*args, **kwargs)
                if name == names[-1]:
                    pairs = zip(several(returned), STREAMS, strict=False)
                    self.kept[self._key(site)] = [value - self.entered[site][stream] for value, stream in pairs]
                self.kept[self._key(f"{site} values")] = len(several(returned))
                return returned
            count = self.kept[self._key(f"{site} values")]
            values = [given[stream] for stream in STREAMS[:count]]
            if name == names[-1]:
                entered = [self.entered[site][stream] for stream in STREAMS[:count]]
                values = [value + more for value, more in zip(entered, self.kept[self._key(site)], strict=True)]
            return values[0] if count == 1 else tuple(values)

        return forward


def blocks_of(denoiser: nn.Module) -> dict[str, nn.Module]:
    """The blocks by their paths, in call order."""
    found: dict[str, nn.Module] = {}
    for name in LISTS:
        part = getattr(denoiser, name, None)
        if isinstance(part, nn.ModuleList):
            found |= {f"{name}.{i}": block for i, block in enumerate(part)}
        elif part is not None:
            found[name] = part
    return found


def several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def copied(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(copied(item) for item in value)
    return value.clone() if isinstance(value, Tensor) else value
