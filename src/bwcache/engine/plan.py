"""Where a policy acts on one stack: made once, when it is attached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any, get_args

from bwcache.core import Decision
from bwcache.engine import reasons
from bwcache.errors import AttachError, complaint
from bwcache.features import Predictor, Sample, relative_l1
from bwcache.features.looks import Look
from bwcache.models import BlockStack, Keeps, Place, Site, Tap
from bwcache.models.places import OUTSIDE
from bwcache.models.stack import NoBlocks
from bwcache.policies import Policy

Span = tuple[float, float]


@dataclass(frozen=True, eq=False, slots=True)
class Spot:
    """What there is to do at one place.

    Attributes:
        sites: the sites that it is a place of, the outermost first.
        closes: the sites that end here, the innermost first.
        since: the sites whose residual is taken from what enters here, though they begin later.
        enters: the looks at what enters here, by their number among the plan's `looks`.
        leaves: the same of what is returned here.
        before: the looks at a residual that is taken from what enters here, though they stand later.
        taps: the numbers of its taps among the plan's `samples`, and which of the returned values each reads.
        tap: the only one of these, where there is nothing else to look at in what it returns, a bare value; else None.
        looks: whether there is anything to look at in what it returns.
        begins: whether there is something to do before each run of it: looks, residuals, a site of this place alone.
        bare: whether it returns one stream, as a bare value.
        handed_on: of a place in the middle of a site that returns one stream: the argument that it hands on if it is
            skipped, by name and position.
    """

    place: Place
    sites: tuple[Site, ...] = ()
    closes: tuple[Site, ...] = ()
    since: tuple[Site, ...] = ()
    enters: tuple[int, ...] = ()
    leaves: tuple[int, ...] = ()
    before: tuple[int, ...] = ()
    taps: tuple[tuple[int, int], ...] = ()
    tap: int | None = None
    looks: bool = False
    begins: bool = False
    bare: bool = False
    handed_on: tuple[str, int] | None = None

    @property
    def is_marked(self) -> bool:
        """Whether anything begins, ends or is looked at here."""
        ends = bool(self.closes) or any(site.first is self.place for site in self.sites)
        return ends or bool(self.since or self.before or self.enters or self.leaves or self.taps)


@dataclass(frozen=True, eq=False)
class Plan:
    """Where a policy acts on one stack.

    Attributes:
        sites: in the order of the forward, outer ones before what lies in them.
        root: what there is to do at the denoiser itself, if anything.
        spots: what there is to do elsewhere, where there is anything: in call order for blocks.
        taps: as the policy named them; `samples` and `looks` are their places in this order, by how they are taken.
        columns: for each tap, whether it is a look, its number among the looks or samples, and how many lags it has.
        judged: for each look, the site whose computing makes what it saw its past; None: every step does.
        outer: by site, the sites that it lies in.
        whole: the site, where it is the only one and has all blocks; else None.
        alone: the same where it keeps their output: nothing else has a say in what a forward of it returns.
        keeps: whether the policy can reuse, so that features are kept for it.
        holds: whether anything is held between steps: features, or what taps compare.
        predictor, probes, needs_total, needs_errors: the policy's; `history`: the predictor's.
        where: how events name each site: with its denoiser.
        clean: whether a site keeps clean latents, so that the noise level is asked for.
        swaps: whether a tap has the denoiser evaluated once more.
        never: what is decided in every forward, by site, where nothing is held and nobody probes; else None.
        beside: whether a site keeps the difference to another branch, so that branches are told apart in a batch.
    """

    stack: BlockStack
    policy: Policy[Any]
    sites: tuple[Site, ...]
    root: Spot | None
    spots: tuple[Spot, ...]
    taps: tuple[Tap, ...]
    samples: tuple[int, ...]
    looks: tuple[int, ...]
    columns: tuple[tuple[bool, int, int], ...]
    judged: tuple[str | None, ...]
    outer: dict[str, tuple[str, ...]]
    whole: Site | None
    alone: Site | None
    keeps: bool
    holds: bool = field(init=False)
    predictor: Predictor | None = field(init=False)
    history: int = field(init=False)
    probes: bool = field(init=False)
    needs_total: bool = field(init=False)
    needs_errors: bool = field(init=False)
    where: dict[str, str] = field(init=False)
    never: dict[str, Decision] | None = field(init=False)
    clean: bool = field(init=False)
    swaps: bool = field(init=False)
    beside: bool = field(init=False)

    def __post_init__(self) -> None:
        policy, predictor = self.policy, self.policy.feature_predictor
        holds = self.keeps or bool(self.taps)
        never = {site.name: Decision("compute", reasons.NEVER) for site in self.sites}
        facts = {
            "holds": holds,
            "never": None if holds or policy.probes else never,
            "predictor": predictor,
            "history": 0 if predictor is None else predictor.history,
            "probes": policy.probes,
            "needs_total": policy.needs_total,
            "needs_errors": policy.needs_errors,
            "where": {site.name: f"{self.stack.name}/{site.name}" for site in self.sites},
            "clean": self.keeps and any(site.keeps == "clean" for site in self.sites),
            "swaps": any(tap.is_swapped for tap in self.taps),
            "beside": self.keeps and any(site.keeps == "beside" for site in self.sites),
        }
        for name, value in facts.items():
            object.__setattr__(self, name, value)

    @cached_property
    def channels(self) -> tuple[int, ...]:
        """The channel of each of these numbers; empty where there is but one."""
        found = tuple(tap.channel for tap in self.taps for _ in tap.lags)
        return found if any(found) else ()

    @cached_property
    def is_inside(self) -> bool:
        """Whether it acts on blocks or parts of them, and not on what stands before and around them alone."""
        kinds = {site.first.kind for site in self.sites} | {tap.place.kind for tap in self.taps}
        return not kinds <= set(OUTSIDE)

    @cached_property
    def places(self) -> tuple[str, ...]:
        """The name of the place of each of these numbers."""
        return tuple(tap.place.name for tap in self.taps for _ in tap.lags)

    @cached_property
    def readings(self) -> int:
        """How many numbers the taps of one forward come to, by tap and lag."""
        return sum(len(tap.lags) for tap in self.taps)

    def new_looks(self) -> list[Look]:
        """Return the looks of one lane, which have seen nothing yet."""
        chosen = (self.taps[number] for number in self.looks)
        return [
            Look(tap.view or Sample(self.policy.tap_share), tap.indicator or relative_l1, tap.lags) for tap in chosen
        ]

    @classmethod
    def of(cls, policy: Policy[Any], stack: BlockStack, timing: bool = False) -> Plan:
        """Return the plan of a policy for a stack.

        Args:
            timing: whether the time inside of the blocks is taken.

        Raises:
            AttachError: sites that cross or share a name, a residual of a stream that does not enter, or one guidance
                branch where one is to be made of another.
        """
        sites = _ordered(policy.sites(stack))
        if not sites and policy.may_reuse and isinstance(stack.blocks, NoBlocks):
            raise stack.blocks.wanted()
        for site in sites:
            _expect_outlines(stack, site)
            _expect_kept(stack, site)
        _expect_branches(stack, sites)
        taps = policy.taps(stack)
        for tap in taps:
            _expect_residual(tap)
            _expect_swapped(stack, tap)
        samples = tuple(i for i, tap in enumerate(taps) if not policy.probes and _is_sample(tap))
        looks = tuple(i for i in range(len(taps)) if i not in samples)
        by_place = {id(spot.place): spot for spot in _spots(stack, sites, taps, samples, looks)}
        busy = policy.may_reuse or timing or any(block.hook is not None for block in stack.blocks)
        root = next((spot for spot in by_place.values() if spot.place.kind == "root"), None)
        spots = tuple(spot for spot in by_place.values() if spot is not root and (busy or spot.is_marked))
        outer = {site.name: tuple(other.name for other in sites if _is_within(site, other)) for site in sites}
        one = sites[0] if len(sites) == 1 and sites[0].first.kind == "block" else None
        whole = one if one is not None and _span(one) == (0, len(stack.blocks) - 1) else None
        alone = whole if whole is not None and whole.keeps == "output" else None
        columns = tuple(
            (i in looks, (looks if i in looks else samples).index(i), len(tap.lags)) for i, tap in enumerate(taps)
        )
        judged = tuple(None if taps[i].against == "step" else _judging(sites, taps[i].place) for i in looks)
        keeps = policy.may_reuse
        return cls(stack, policy, sites, root, spots, taps, samples, looks, columns, judged, outer, whole, alone, keeps)


def _spots(
    stack: BlockStack,
    sites: tuple[Site, ...],
    taps: tuple[Tap, ...],
    samples: tuple[int, ...],
    looks: tuple[int, ...],
) -> Iterator[Spot]:
    """What there is to do at each place that lies in a site or is tapped."""
    spans = [_span(site) for site in sites]
    inside = [
        block
        for i, block in enumerate(stack.blocks)
        if any(a <= i <= b for site, (a, b) in zip(sites, spans, strict=True) if site.first.kind == "block")
    ]
    others = [place for site in sites for place in (site.first, site.last, site.since) if place is not None]
    others += [place for tap in taps for place in (tap.place, tap.since) if place is not None]
    for place in _distinct([*inside, *others]):
        sampled = [(number, taps[tap]) for number, tap in enumerate(samples) if taps[tap].place is place]
        own = tuple(site for site, span in zip(sites, spans, strict=True) if _has(site, span, place))
        since = tuple(site for site in sites if site.since is place and site.first is not place)
        looked = [(number, taps[tap]) for number, tap in enumerate(looks) if taps[tap].place is place]
        leaves = tuple(number for number, one in looked if one.end != "in" and not one.is_swapped)
        before = tuple(number for number, tap in enumerate(looks) if taps[tap].since is place)
        bare = len(place.streams) == 1 and place.index is None and place.kind != "root"
        alone = bare and len(sampled) == 1 and not leaves and not place.outlined
        yield Spot(
            place,
            sites=own,
            closes=tuple(site for site in reversed(sites) if site.last is place),
            since=since,
            begins=bool(
                since or before or any(one.end == "in" for _, one in looked) or (own and place.kind != "block")
            ),
            enters=tuple(number for number, one in looked if one.end == "in"),
            leaves=leaves,
            before=before,
            taps=tuple((number, place.position(one.stream)) for number, one in sampled),
            tap=sampled[0][0] if alone else None,
            looks=bool(sampled or leaves or place.outlined),
            bare=bare,
            handed_on=_handed_on(place) if not any(site.last is place for site in sites) else None,
        )


def _handed_on(place: Place) -> tuple[str, int] | None:
    stream = place.streams[0]
    alone = len(place.streams) == 1 and not place.outlined and stream.position is not None
    return (stream.name, stream.position) if alone and stream.position is not None else None


def _has(site: Site, span: Span, place: Place) -> bool:
    """Whether it is one of the site's own places, and does not just lie in one."""
    if site.first.kind != "block":
        return site.first is place
    return place.kind == "block" and place.block is not None and span[0] <= place.block <= span[1]


def _distinct(places: Iterable[Place]) -> list[Place]:
    return list({id(place): place for place in places}.values())


def _is_sample(tap: Tap) -> bool:
    """Whether the fast way does: samples of an output by relative L1 against the last computed one."""
    plain = tap.end == "out" and tap.since is None and tap.view is None and tap.indicator is None
    return plain and tap.against == "computed" and tuple(tap.lags) == (1,) and tap.place.kind not in ("root", "named")


def _span(site: Site) -> Span:
    """From which block to which: a part lies within its block, everything within the root."""
    if site.first.kind == "root":
        return float("-inf"), float("inf")
    first, last = site.first.block, site.last.block
    assert first is not None
    assert last is not None
    return first, last


def _is_within(site: Site, other: Site) -> bool:
    if site is other:
        return False
    (a, b), (c, d) = _span(site), _span(other)
    same = (a, b) == (c, d)
    part, whole = site.first.kind not in ("root", "block"), other.first.kind in ("root", "block")
    return c <= a and b <= d and whole and (part or not same)


def _judging(sites: tuple[Site, ...], place: Place) -> str | None:
    """The innermost site that a place lies in, or else the next one that begins after it."""
    at = float("-inf") if place.block is None else float(place.block)
    around = [site for site in sites if _span(site)[0] <= at <= _span(site)[1]]
    if place.kind not in ("root", "block", "named"):
        around = [site for site in around if site.first.kind in ("root", "block") or site.first is place]
    if around:
        return around[-1].name
    return next((site.name for site in sites if _span(site)[0] > at), sites[-1].name if sites else None)


def _ordered(sites: tuple[Site, ...]) -> tuple[Site, ...]:
    """The sites, each after those that it lies in; checked."""
    for site in sites:
        if site.first is not site.last and {site.first.kind, site.last.kind} != {"block"}:
            raise AttachError(
                complaint(
                    f"a site from {site.first.name} to {site.last.name}", "one place, or a run of blocks", "split it"
                )
            )
    for one, other in combinations(sites, 2):
        (a, b), (c, d) = sorted((_span(one), _span(other)))
        blocks = one.first.kind == other.first.kind == "block"
        if one.name == other.name or one.first is other.first is one.last is other.last or (a < c <= b < d and blocks):
            raise AttachError(
                complaint(
                    f"sites {one.name!r} and {other.name!r} that cross", "sites apart or within each other", "move one"
                )
            )
    order = {id(site): i for i, site in enumerate(sites)}
    return tuple(
        sorted(
            sites,
            key=lambda site: (
                _span(site)[0],
                -_span(site)[1],
                site.first.kind not in ("root", "block"),
                order[id(site)],
            ),
        )
    )


def _expect_outlines(stack: BlockStack, site: Site) -> None:
    """Blocks that return something else than they take in have no residual, and only the last one's output is kept."""
    whole = site.last in stack.blocks[-1:] or len(site.last.streams) == 1
    if not site.last.outlined or (whole and site.keeps == "output"):
        return
    raise AttachError(
        complaint(
            f"a site from {site.first.name} to {site.last.name} of {stack.spec.model} that keeps its {site.keeps}",
            "the output of a site that ends at a block with one stream: others return what they do not take in",
            "choose a policy that reuses the whole stack or the denoiser",
        )
    )


def _expect_branches(stack: BlockStack, sites: tuple[Site, ...]) -> None:
    """Where there is one branch, nothing can be made of another one."""
    if stack.spec.guidance == "none" and sites and all(site.keeps == "beside" for site in sites):
        found = f"one guidance branch of {stack.spec.model} in its row, and a policy that makes one of another"
        raise AttachError(complaint(found, "two branches", "choose another policy"))


def _expect_residual(tap: Tap) -> None:
    """A tap of a residual that begins elsewhere begins at a block that its stream enters."""
    if tap.since is None:
        return
    enters = [stream.name for stream in tap.since.streams if stream.position is not None]
    if tap.end == "residual" and tap.since.kind == tap.place.kind == "block" and tap.stream in enters:
        return
    found = f"a tap of the {tap.end} of {tap.stream!r} at {tap.place.name} since {tap.since.name}"
    expected = f"the residual of a block since another one, of {' or '.join(enters) or 'what enters it'}"
    raise AttachError(complaint(found, expected, "tap the place alone"))


def _expect_swapped(stack: BlockStack, tap: Tap) -> None:
    """The denoiser alone can be evaluated once more, and only where a forward leaves nothing behind."""
    if not tap.is_swapped:
        return
    if tap.place.kind != "root":
        raise AttachError(complaint(f"a tap {tap.end!r} at {tap.place.name}", "the root", "tap that"))
    if stack.cache_fill_flags or stack.fillings:
        found = f"a tap {tap.end!r} of {stack.spec.model}, whose forwards fill a cache"
        raise AttachError(complaint(found, "a denoiser that can be evaluated once more", "measure another model"))


def _expect_kept(stack: BlockStack, site: Site) -> None:
    found = f"a site {site.name!r} that keeps {site.keeps!r}"
    if site.keeps not in get_args(Keeps):
        raise AttachError(complaint(found, f"one of {', '.join(get_args(Keeps))}", "keep one of these"))
    if (site.keeps == "beside") != (site.beside is not None):
        raise AttachError(
            complaint(f"{found} and names {site.beside!r}", "a branch to stand beside", 'say beside="cond"')
        )
    if site.keeps == "clean" and site.first.kind != "root":
        raise AttachError(complaint(found, "the root: clean latents are told from what it predicts", "keep the output"))
    if site.keeps == "clean" and stack.spec.prediction == "unknown":
        found = f"clean latents to be kept of {stack.spec.model}, whose row does not say what it predicts"
        raise AttachError(complaint(found, '"direct" or "negative"', 'keep "output", or say `prediction=` in its row'))
    enters = [stream.name for stream in (site.since or site.first).streams]
    if not site.streams and site.last.kind == "block":
        leaves = ", ".join(stream.name for stream in site.last.streams)
        raise AttachError(
            complaint(
                f"a site from {site.first.name} ({', '.join(enters)}) to {site.last.name} ({leaves}) of "
                f"{stack.spec.model} that keeps nothing",
                "a stream that enters its first block and leaves its last one",
                "choose a policy that keeps outputs, such as bwcache.BWCache()",
            )
        )
    strange = [name for name in site.streams if name not in enters]
    if site.keeps == "residual" and strange and site.last.kind != "root":
        raise AttachError(
            complaint(
                f"a residual of {strange[0]!r}, which does not enter {(site.since or site.first).name}",
                f"one of {', '.join(enters)}",
                'keep "output" in this site',
            )
        )
