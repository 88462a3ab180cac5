"""The stack of blocks of one denoiser in call order, and the sites and taps placed on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import Tensor, nn

from bwcache.errors import SettingError, complaint
from bwcache.features import Indicator, View
from bwcache.models.places import Hook, Place, named_place, parts_of
from bwcache.models.spec import BlockList, BlockSpec
from bwcache.models.streams import Stream, parameters, stream_of

__all__ = ["BlockStack", "Flag", "Hook", "Place", "Site", "Stream", "Tap"]

Keeps = Literal["output", "residual", "clean", "beside"]


@dataclass(frozen=True)
class Flag:
    """A sign that a forward is none of the run's: an argument, attributes in it, and the value (None: anything set)."""

    argument: Stream
    attributes: tuple[str, ...]
    value: str | None

    def holds(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Return whether this forward carries the sign."""
        found = self.argument.read(args, kwargs)
        for attribute in self.attributes:
            found = _inside(found, attribute)
        return found is not None and found is not False if self.value is None else str(found) == self.value


def _sign(
    said: tuple[str, ...], signs: tuple[Flag, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str | None:
    return next((words for words, sign in zip(said, signs, strict=True) if sign.holds(args, kwargs)), None)


def _inside(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(name)
    if isinstance(value, (list, tuple)) and name.isdigit():
        return value[int(name)] if int(name) < len(value) else None
    return getattr(value, name, None)


@dataclass(frozen=True)
class Site:
    """A run of places that is computed or reused as one.

    Attributes:
        name: such as "stack", "blocks.0", "blocks.1-blocks.3", "root".
        first, last: its first and its last place.
        streams: what is kept of what the last one returns.
        keeps: "output"; "residual": output minus what entered `since`; "clean", of the root: the estimate of the clean
            latents; "beside": the difference to the value of another branch in the same step.
        since: the place from whose input on a residual is taken; None: `first`.
        beside: the branch whose value is subtracted.
    """

    name: str
    first: Place
    last: Place
    streams: tuple[str, ...]
    keeps: Keeps = "output"
    since: Place | None = None
    beside: str | None = None


@dataclass(frozen=True)
class Tap:
    """A place at which a policy measures a stream.

    Attributes:
        place: where.
        stream: which of its streams.
        end: what is looked at: what goes "in", what comes "out", or the difference, the "residual". Of the root also
            what would have come out in the step before with the latents of now ("by latents"), or at the time of now
            ("by time"), against what did: each of these costs a forward.
        since: of a residual: the block from whose input on it is taken; None: the place itself.
        view: what of it is kept; None: the policy's share of the entries.
        indicator: how a change is measured; None: the relative L1 distance.
        against: what it is compared with: what was kept in the last "computed" forward, or in the last "step".
        lags: how many of these back, one number each.
        channel: the stream's ordinal among those that its place measures. Each channel has its own mean over the
            blocks, and the largest is the indicator.
    """

    place: Place
    stream: str
    end: Literal["in", "out", "residual", "by latents", "by time"] = "out"
    view: View | None = None
    indicator: Indicator | None = None
    against: Literal["computed", "step"] = "computed"
    lags: tuple[int, ...] = (1,)
    channel: int = 0
    since: Place | None = None

    @property
    def is_swapped(self) -> bool:
        """Whether the denoiser is evaluated once more for it."""
        return self.end in ("by latents", "by time")


class NoBlocks(tuple[Place, ...]):
    """The blocks of a denoiser whose row names none: whoever asks for one is told so.

    Args:
        model: class name of the denoiser.
    """

    def __new__(cls, model: str) -> NoBlocks:
        """Return it, empty."""
        made = super().__new__(cls)
        made.model = model
        return made

    model: str

    def __getitem__(self, index: Any) -> Any:
        """Return nothing of a slice.

        Raises:
            SettingError: one block is wanted.
        """
        if isinstance(index, slice):
            return ()
        raise self.wanted()

    def wanted(self) -> SettingError:
        """Return what a method that acts on blocks is refused with."""
        return SettingError(
            complaint(
                f"a method that keeps blocks, on a {self.model}, whose row names none",
                "a method that keeps the denoiser as a whole",
                "choose a grade, or a method that keeps clean latents or the prediction (bwcache methods)",
            )
        )


@dataclass(frozen=True, eq=False)
class BlockStack:
    """The blocks of one denoiser in call order, and what else of it is known.

    Attributes:
        name: the denoiser's name in its pipeline, such as "transformer_2"; "model" for a bare module.
        module: the denoiser.
        blocks: in the order of the forward.
        spec: the row.
        timestep: the argument of the denoiser's forward that carries the time.
        lists: for each block, the list of the row that it is of.
        cache_fill_flags, fillings, skips: what the row's `cache_fill_flags`, `filling` and `skips` name, found among
            the forward's arguments.
        idle: the row's idle modules that this denoiser has, by path.
    """

    name: str
    module: nn.Module
    blocks: tuple[Place, ...]
    spec: BlockSpec
    timestep: Stream
    lists: tuple[BlockList, ...]
    cache_fill_flags: tuple[Flag, ...] = ()
    fillings: tuple[Flag, ...] = ()
    skips: Stream | None = None
    idle: Mapping[str, nn.Module] = field(default_factory=dict)

    def fills_cache(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
        """Return the sign by which a forward is none of the run's, in words, or None."""
        return _sign(self.spec.cache_fill_flags, self.cache_fill_flags, args, kwargs)

    def filling(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
        """Return the sign by which a forward fills a cache and is a step all the same, in words, or None."""
        return _sign(self.spec.filling, self.fillings, args, kwargs)

    def skipped(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        """Return which rows of a batch pass over which blocks, `[blocks, batch]`; None where nothing says so."""
        found = None if self.skips is None else self.skips.read(args, kwargs)
        return found if isinstance(found, Tensor) else None

    @cached_property
    def argument_names(self) -> tuple[str, ...]:
        """The names of the arguments of the denoiser's forward, in order."""
        return tuple(parameters(self.module))

    @cached_property
    def condition_names(self) -> tuple[str, ...]:
        """The arguments that tell its guidance branches apart."""
        return tuple(name for name in self.spec.conditions if name in self.argument_names)

    @cached_property
    def known_arguments(self) -> frozenset[str]:
        """The time and the conditions among the arguments."""
        return frozenset((self.timestep.name, *self.condition_names))

    @cached_property
    def root(self) -> Place:
        """The denoiser as a place: latents in, prediction out.

        Raises:
            SpecMismatchError: its forward has no such argument as the row's `latents`.
        """
        stream = stream_of(self.module, self.spec.latents, type(self.module).__name__)
        return Place("root", self.module, (stream,), "root", stream.name)

    def axes(self, letters: str) -> tuple[int, ...]:
        """Return where those of these axes of the latents lie that they have, such as "fhw" for frames and picture.

        Raises:
            SettingError: they have none of them, or the row does not say.
        """
        found = tuple(self.spec.layout.index(letter) for letter in letters if letter in self.spec.layout)
        if not found:
            said = self.spec.layout or "nothing that its row says"
            raise SettingError(
                complaint(
                    f"latents of {self.spec.model} that lie as {said}",
                    f"some axis of {', '.join(letters)}",
                    "choose another policy" if self.spec.layout else 'say `layout=` in its row, such as "bcfhw"',
                )
            )
        return found

    def parts(self, *kinds: str) -> tuple[Place, ...]:
        """Return the parts of these kinds (of all, if none is named) of all blocks, in call order.

        Raises:
            SettingError: no block has a part of this kind.
            SpecMismatchError: a part's forward lacks an argument that the row names.
        """
        there = self.kinds
        for kind in kinds:
            if kind not in there:
                why = "; ".join(dict.fromkeys(part.parts_missing for part in self.spec.lists if part.parts_missing))
                raise SettingError(
                    complaint(
                        f"parts of kind {kind!r} of {self.spec.model}" + (f" ({why})" if why else ""),
                        f"one of {', '.join(there)}" if there else "blocks as a whole: it has no parts in its row",
                        "name one of these" if there else "choose another policy",
                    )
                )
        return tuple(place for place in self._parts if not kinds or place.kind in kinds)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of parts that the blocks have."""
        return tuple(dict.fromkeys(place.kind for place in self._parts))

    @cached_property
    def _parts(self) -> tuple[Place, ...]:
        each = zip(self.blocks, self.lists, strict=True)
        return tuple(place for block, part in each for place in parts_of(block, part))

    def named(self, name: str) -> Place:
        """Return a module that the row names, such as "modulated".

        Raises:
            SettingError: it names no such module, or this variant of the class lacks it.
        """
        if name not in self._named:
            there = ", ".join(self._named) or "none"
            raise SettingError(complaint(f"{name!r} of {self.spec.model}", f"one of: {there}", "name one of these"))
        return self._named[name]

    @cached_property
    def _named(self) -> dict[str, Place]:
        made = {name: named_place(self.module, name, path) for name, path in self.spec.named.items()}
        return {name: place for name, place in made.items() if place is not None}

    def site(
        self,
        first: Place,
        last: Place | None = None,
        *,
        streams: tuple[str, ...] | None = None,
        keeps: Keeps = "output",
        since: Place | None = None,
        beside: str | None = None,
        name: str | None = None,
    ) -> Site:
        """Return the places from `first` to `last` (None: `first` alone) as one site.

        Args:
            streams: what is kept; by default all that the last place returns, of the last block what is read after it.
            keeps, since, beside: as in `Site`.
            name: by default the place's, or "first-last".
        """
        last = first if last is None else last
        if streams is None:
            is_end = last in self.blocks[-1:]
            streams = self.read_after if is_end else tuple(stream.name for stream in last.streams)
        name = name or (first.name if last is first else f"{first.name}-{last.name}")
        return Site(name, first, last, streams, keeps, since, beside)

    @property
    def read_after(self) -> tuple[str, ...]:
        """The streams of the last block that the rest of the forward reads."""
        last = self.lists[-1]
        return self.spec.read_after if last is self.spec.lists[-1] else (last.measured or self.spec.measured,)

    def whole(self, keeps: Keeps = "output") -> Site:
        """Return all blocks as one site."""
        return self.site(self.blocks[0], self.blocks[-1], keeps=keeps, name="stack")

    def tap(self, place: Place | int, **how: Any) -> Tap:
        """Return a tap at a place, or at a block by its index; of its measured stream unless `stream=` says another."""
        place = self.blocks[place] if isinstance(place, int) else place
        return Tap(place, how.pop("stream", place.measured), **how)

    def taps(self, places: Iterable[Place | int] | None = None, **how: Any) -> tuple[Tap, ...]:
        """Return taps of all measured streams at these places, by default at all blocks: they make up the indicator."""
        chosen = self.blocks if places is None else [self.blocks[p] if isinstance(p, int) else p for p in places]
        return tuple(
            Tap(place, stream, channel=channel, **how)
            for place in chosen
            for channel, stream in enumerate((place.measured, *place.also_measured))
        )
