"""The same prompts and the same noise, without and with a policy: how much faster, how close, at what price.

Protocol: both sides run once with few steps to warm up; the share of the denoising time that lies inside the blocks is
measured on a run that never reuses, and its video is held against the uncached one: what differs there is the
pipeline's own noise. Then uncached and cached calls alternate, in turned order at every other repeat. Times are medians
over the repeats. Videos, decisions and indicators are those of the first repeat: where there is no such noise they do
not vary.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from bwcache.core.trace import Trace
from bwcache.engine import Session, attach
from bwcache.errors import MuchKeptWarning, NeverReusedWarning
from bwcache.measure.call import Call, OnProgress, Request, call
from bwcache.measure.environment import describe_pipeline, environment
from bwcache.measure.latency import computing_device
from bwcache.measure.quality import Quality, psnr, quality
from bwcache.measure.results import Comparison, Pair, Run, add, median, ratio
from bwcache.policies import NeverReuse, Policy

WARMUP_STEPS = 4

OnRun = Callable[[Run, Pair], None]
OnComparison = Callable[[Comparison], None]

Attached = Callable[..., Session]
"""Attaches the policy; takes what else `attach` is to be told."""


def compare(
    pipe: Any,
    policy: Policy[Any],
    prompts: Sequence[str],
    *,
    seed: int = 0,
    steps: int = 30,
    guidance_scale: float | None = None,
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    repeats: int = 1,
    memory: str = "device",
    max_memory: int | str | None = None,
    name: str | None = None,
    on_progress: OnProgress | None = None,
    on_run: OnRun | None = None,
    on_comparison: OnComparison | None = None,
) -> Comparison:
    """Make each prompt's video twice from the same noise, without and with ``policy``, and measure both.

    Args:
        pipe: a diffusers pipeline, loaded and on its device.
        policy: what decides which steps are reused.
        prompts: one video each.
        seed: of the noise; the same for every prompt.
        steps: denoising steps.
        guidance_scale: strength of guidance; None leaves it to the pipeline, as the following sizes.
        height: pixels.
        width: pixels.
        frames: number of frames.
        arguments: whatever else the pipeline's call is given, by name, such as an image.
        repeats: pairs of calls per prompt; times are their medians.
        memory: as in `attach`.
        max_memory: as in `attach`.
        name: of the model, for the record.
        on_progress: called at every step.
        on_run: called with each finished run and its two videos; they are not kept afterwards.
        on_comparison: called after it with all runs so far, so that what is measured can be written down as it comes.

    Raises:
        SettingError: for settings that the pipeline or the policy cannot take.
        AttachError: when the pipeline has no blocks that could be reused.
        OverBudgetError: when more than ``max_memory`` would be kept.
    """
    attached = partial(attach, pipe, policy, memory=memory, max_memory=max_memory)
    sizes = (guidance_scale, height, width, frames)
    requests = [Request(text, steps, seed, *sizes, arguments or {}) for text in prompts]
    block_share, own_noise = warm_up(pipe, policy, attached, requests[0], on_progress)
    runs: list[Run] = []
    for index, request in enumerate(requests):
        label = f"prompt {index + 1}/{len(requests)}"
        run, pair = compare_one(pipe, attached, request, block_share, repeats, label, on_progress)
        runs.append(run)
        if on_run is not None:
            on_run(run, pair)
        settings = {
            "steps": steps,
            "repeats": repeats,
            "warmup_steps": min(steps, WARMUP_STEPS),
            "guidance_scale": guidance_scale,
            "frames": pair.uncached.shape[0],
            "height": pair.uncached.shape[1],
            "width": pair.uncached.shape[2],
            "own_noise_psnr": own_noise,
        }
        if arguments:
            settings["arguments"] = requests[0].record()["arguments"]
        comparison = Comparison(
            model=describe_pipeline(pipe, name),
            policy=policy.describe(),
            environment=environment(pipe) | settings,
            block_share=block_share,
            runs=tuple(runs),
        )
        if on_comparison is not None:
            on_comparison(comparison)
    return comparison


def warm_up(
    pipe: Any, policy: Policy[Any], attached: Attached, request: Request, on_progress: OnProgress | None = None
) -> tuple[float | None, float | None]:
    """Run both sides once, briefly.

    Returns:
        The share of the denoising time inside the blocks, 0..1; and the PSNR in dB between two calls that computed
        everything from one seed, None where they are identical, as they should be.
    """
    few = dataclasses.replace(request, steps=min(request.steps, WARMUP_STEPS))
    window = getattr(policy, "window", None)
    enough = window(request.steps) + 2 if window is not None else 0  # a shorter run would not hold a whole window
    some = dataclasses.replace(request, steps=min(request.steps, max(WARMUP_STEPS, enough)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a few steps say nothing about whether the policy fits
        with attached():
            call(pipe, some, "warm-up, cached", on_progress)
        plain = call(pipe, few, "warm-up, uncached", on_progress)
        with attach(pipe, NeverReuse(), timing=True) as session:
            timed = call(pipe, few, "time inside the blocks", on_progress)
    share = ratio(add(event.seconds for event in session.trace.events), timed.denoise_seconds)
    apart = psnr(plain.frames, timed.frames)
    return share, apart if math.isfinite(apart) else None


def _possible(trace: Trace, block_share: float | None) -> float | None:
    """How much faster denoising can be: a reused forward saves its blocks, or all of it where it is itself reused."""
    whole = bool(trace.sites) and all(site.endswith("/root") for site in trace.sites)
    return None if block_share is None else 1 / (1 - trace.reuse_rate * (1.0 if whole else block_share))


def compare_one(
    pipe: Any,
    attached: Attached,
    request: Request,
    block_share: float | None,
    repeats: int = 1,
    label: str = "prompt",
    on_progress: OnProgress | None = None,
) -> tuple[Run, Pair]:
    """One prompt, ``repeats`` pairs of calls."""
    uncached: list[Call] = []
    cached: list[tuple[Call, Trace, tuple[str, ...]]] = []
    for repeat in range(repeats):
        sides = ["uncached", "cached"] if repeat % 2 == 0 else ["cached", "uncached"]
        for side in sides:
            what = f"{label}, {side}" + (f", repeat {repeat + 1}/{repeats}" if repeats > 1 else "")
            if side == "uncached":
                uncached.append(call(pipe, request, what, on_progress))
            else:
                cached.append(_recorded(pipe, attached, request, what, on_progress))
    first, trace, notes = cached[0]
    pair = Pair(uncached[0].frames, first.frames)
    device = computing_device(pipe)
    measured = quality(pair.uncached, pair.cached, device=device if device.type == "cuda" else "cpu")
    shares = [
        share
        for one, seen, _ in cached
        if (share := ratio(add(event.indicator_seconds for event in seen.events), one.denoise_seconds)) is not None
    ]
    run = Run(
        prompt=request.prompt,
        seed=request.seed,
        steps=trace.steps,
        computed=trace.computed,
        reused=trace.reused,
        first_trigger=trace.first_trigger,
        reuse_rate=trace.reuse_rate,
        uncached_seconds=statistics.median(one.seconds for one in uncached),
        cached_seconds=statistics.median(one.seconds for one, _, _ in cached),
        uncached_denoise_seconds=median(one.denoise_seconds for one in uncached),
        cached_denoise_seconds=median(one.denoise_seconds for one, _, _ in cached),
        ideal_denoise_speedup=_possible(trace, block_share),
        psnr=measured.psnr,
        ssim=measured.ssim,
        indicator_share=statistics.median(shares) if shares else None,
        extra_memory_bytes=trace.peak_bytes,
        hidden_bytes=trace.hidden_bytes,
        notes=(*notes, *_contradiction(trace, measured)),
        trace=trace,
        ms_ssim=measured.ms_ssim,
        lpips=measured.lpips,
        lpips_backbone=measured.backbone,
        unmeasured=measured.notes,
        vmaf=measured.vmaf,
        xpsnr=measured.xpsnr,
        motion_kept=measured.motion_kept,
        uncached_parts=_middle(_parts(one, _share(one.denoise_seconds, block_share)) for one in uncached),
        cached_parts=_middle(
            _parts(one, add(e.seconds for e in seen.events), add(e.indicator_seconds for e in seen.events))
            for one, seen, _ in cached
        ),
    )
    return run, pair


def _contradiction(trace: Trace, measured: Quality) -> tuple[str, ...]:
    """A note where the videos differ though nothing was reused."""
    if trace.reuse_rate > 0 or measured.identical:
        return ()
    return (
        f"nothing was reused, and yet the videos differ ({measured.psnr:.1f} dB): the pipeline's own noise, which it "
        "does not draw from the seed",
    )


def _parts(made: Call, blocks: float | None, indicator: float | None = None) -> dict[str, float] | None:
    """Where the time of a call went, by the names of `TIME_PARTS`."""
    before, inside, denoising = made.before_seconds, made.forward_seconds, made.denoise_seconds
    after = made.after_seconds
    if before is None or inside is None or denoising is None or after is None or blocks is None:
        return None
    return {
        "before": before,
        "blocks": blocks,
        "indicator": indicator or 0.0,
        "rest": max(inside - blocks - (indicator or 0.0), 0.0),
        "between": max(denoising - inside, 0.0),
        "after": after,
    }


def _share(seconds: float | None, share: float | None) -> float | None:
    return None if seconds is None or share is None else seconds * share


def _middle(found: Iterable[dict[str, float] | None]) -> dict[str, float] | None:
    """Of all repeats, the parts of the one that took the middle time; None where one of them is unknown."""
    rows = list(found)
    known = sorted((row for row in rows if row is not None), key=lambda row: sum(row.values()))
    return known[len(known) // 2] if len(known) == len(rows) else None


def call_cached(
    pipe: Any,
    policy: Policy[Any],
    request: Request,
    what: str = "video",
    on_progress: OnProgress | None = None,
    **settings: Any,
) -> tuple[Call, Trace, tuple[str, ...]]:
    """One call with ``policy`` attached: the call, its trace, and what the session warned about.

    Further settings are those of `attach`.
    """
    return _recorded(pipe, partial(attach, pipe, policy, **settings), request, what, on_progress)


def _recorded(
    pipe: Any, attached: Attached, request: Request, what: str, on_progress: OnProgress | None
) -> tuple[Call, Trace, tuple[str, ...]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        for category in (NeverReusedWarning, MuchKeptWarning):
            warnings.simplefilter("always", category=category)
        with attached(timing=True) as session:
            done = call(pipe, request, what, on_progress)
    return done, session.trace, tuple(dict.fromkeys(str(one.message) for one in caught))
