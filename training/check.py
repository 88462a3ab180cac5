"""Measure a trained model from its pixels: ``python -m training.check``, with ``--model`` for the others.

Videos of held-out captions are generated with the model's pipeline, the shape is tracked through the frames and what
it shows is compared with what was asked. Exits 1 when a bound of the built-in model is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, WanPipeline
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torchmetrics.functional.image import peak_signal_noise_ratio
from tqdm import tqdm

from bwcache.shapes import FRAMES, GUIDANCE_SCALE, HEIGHT, STEPS, WIDTH
from training.data import BACKGROUNDS, CANVAS, COLORS, SHAPES, SYMMETRY, Caption, Track, draw_masks, make_videos, split
from training.models import IMAGE_FRAMES, UNET_FRAMES, load_image_model, load_joint, load_unet
from training.train import WEIGHTS

BOUNDS = {"color": 0.9, "motion": 0.9, "shape": 0.8, "psnr": 28.0}
REPORTED = ("color", "motion", "shape", "size", "speed", "background")
STILL = ("color", "shape", "size", "background")  # what one frame can show


class Tracked(NamedTuple):
    """What is seen of one shape: centers (F, 2) and radii (F,) in pixels of the 32 x 32 canvas, and its turn."""

    center: Tensor
    radius: Tensor
    turned: float  # radians from the first to the last frame, clockwise


def segment(video: Tensor) -> Tensor:
    """Coverage (F, H, W) in [0, 1] of the bright shape in a video (3, F, H, W) over its dim background."""
    return ((video.amax(0) - 0.3) / 0.65).clamp(0, 1)


def color_of(video: Tensor, mask: Tensor) -> str:
    """The palette's color nearest to the mean over the shape's inner pixels."""
    inner = mask > 0.9 * mask.max()
    mean = video[:, inner].mean(1)
    return min(COLORS, key=lambda name: (mean - torch.tensor(COLORS[name])).square().sum().item())


def centers_of(mask: Tensor) -> Tensor:
    """Centroids (F, 2) as x, y in canvas pixels."""
    pixel = CANVAS / mask.shape[-1]
    axis = (torch.arange(mask.shape[-1]) + 0.5) * pixel
    total = mask.sum((1, 2)).clamp_min(1e-6)
    return torch.stack([(mask * axis).sum((1, 2)), (mask * axis[:, None]).sum((1, 2))], -1) / total[:, None]


def templates(center: Tensor, area: Tensor, size: int) -> dict[str, tuple[Tensor, Tensor]]:
    """For each shape, masks (A, F, size, size) at A angles with the areas (F,) seen, and the radii (F,) that gives."""
    found = {}
    middle = torch.full((1, 1, 2), CANVAS / 2)
    for shape in SHAPES:
        unit = Track(middle, torch.tensor([[8.0]]), torch.zeros(1, 1))
        fill = draw_masks([shape], unit, 128).sum().item() * (CANVAS / 128) ** 2 / 8.0**2
        radius = (area / fill).sqrt()
        fold = SYMMETRY[shape]
        angles = torch.linspace(0, 2 * math.pi / fold, 13)[:-1] if fold else torch.zeros(1)
        count = len(angles)
        # a triangle's centroid is its center: both lie where its heights cross
        track = Track(center.expand(count, -1, -1), radius.expand(count, -1), angles[:, None].expand(-1, len(radius)))
        found[shape] = draw_masks([shape] * count, track, size), radius
    return found


def smooth(mask: Tensor) -> Tensor:
    """Mean over 3 x 3 pixels: what is left of an outline after a blur that a small autoencoder may add."""
    return avg_pool2d(mask, 3, stride=1, padding=1)


def shape_of(mask: Tensor, center: Tensor, area: Tensor) -> tuple[str, Tensor]:
    """The shape whose outline is nearest to the mask's, at the best angle in each frame, and its radii (F,)."""
    errors, radii = {}, {}
    for shape, (drawn, radius) in templates(center, area, mask.shape[-1]).items():
        error = (smooth(drawn) - smooth(mask)).square().sum((2, 3)) / area.clamp_min(1e-6)
        errors[shape], radii[shape] = error.amin(0).mean().item(), radius
    best = min(errors, key=errors.__getitem__)
    return best, radii[best]


def turn_of(mask: Tensor, center: Tensor, fold: int) -> float:
    """Radians the shape turns over the video, from the phase of its outline's ``fold``-th angular Fourier term."""
    if not fold:
        return 0.0
    pixel = CANVAS / mask.shape[-1]
    axis = (torch.arange(mask.shape[-1]) + 0.5) * pixel
    x = axis - center[:, 0, None, None]
    y = axis[:, None] - center[:, 1, None, None]
    term = (mask * torch.complex(x, y) ** fold).sum((1, 2))
    return ((term[1:] * term[:-1].conj()).angle() / fold).sum().item()


def motion_of(track: Tracked) -> str:
    """The kind of motion of a tracked shape, or "still"."""
    steps = track.center.diff(dim=0)
    net, path = track.center[-1] - track.center[0], steps.norm(dim=1).sum()
    extent = track.center.amax(0) - track.center.amin(0)
    swell = (track.radius.amax() - track.radius.amin()) / track.radius.mean()
    if extent.max() < 3.5:
        if abs(track.turned) > math.radians(25):
            return "rotate"
        return "pulse" if swell > 0.2 else "still"
    if net.norm() > 0.85 * path:
        across, down = net.tolist()
        if abs(across) > abs(down):
            return "right" if across > 0 else "left"
        return "down" if down > 0 else "up"
    return "bounce" if extent[0] < 3.5 else "orbit"


def speed_of(track: Tracked, motion: str) -> str:
    """Slow or fast, by the quantity that the motion changes."""
    if motion == "rotate":
        return "fast" if abs(track.turned) > math.radians(110) else "slow"
    if motion == "pulse":
        return "fast" if track.radius.diff().abs().sum() / track.radius.mean() > 1.7 else "slow"
    path = track.center.diff(dim=0).norm(dim=1).sum()
    return "fast" if path > {"orbit": 28.0, "bounce": 25.0}.get(motion, 11.5) else "slow"


def background_of(video: Tensor, mask: Tensor) -> str:
    """The background by the mean brightness of 4 x 4 pixel cells that the shape never covers."""
    light = video.amax(0).masked_fill(mask > 0.02, float("nan")).nanmean(0)
    side = light.shape[-1] // 8
    cells = light.reshape(8, side, 8, side).transpose(1, 2).flatten(2).nanmean(-1)
    cells = (cells - cells[~cells.isnan()].mean()) / cells[~cells.isnan()].mean()
    row, column = torch.arange(8)[:, None].expand(8, 8), torch.arange(8).expand(8, 8)
    patterns = {
        "gradient": (row - 3.5) / 8.2,
        "striped": torch.where(column % 2 == 0, 0.48, -0.48),
        "checkered": torch.where((column // 2 + row // 2) % 2 == 0, 0.48, -0.48),
    }
    errors = {"plain": cells.square().nanmean().item()}
    for name, pattern in patterns.items():
        errors[name] = min((cells - sign * pattern).square().nanmean().item() for sign in (1, -1))
    return min(BACKGROUNDS, key=errors.__getitem__)


def measure(video: Tensor) -> Caption:
    """What a video (3, F, H, W) in [0, 1] shows, as a caption; its motion may be "still"."""
    mask = segment(video)
    center, area = centers_of(mask), mask.sum((1, 2)) * (CANVAS / mask.shape[-1]) ** 2
    shape, radius = shape_of(mask, center, area)
    track = Tracked(center, radius, turn_of(mask, center, SYMMETRY[shape]))
    motion = motion_of(track)
    size = "large" if radius.median() > (6.5 if motion != "pulse" else 5.6) else "small"
    return Caption(size, color_of(video, mask), shape, motion, speed_of(track, motion), background_of(video, mask))


def generate(
    pipeline: DiffusionPipeline,
    captions: list[Caption],
    scale: float,
    steps: int,
    frames: int = FRAMES,
    batch: int = 32,
) -> Tensor:
    """Videos (N, 3, F, H, W) in [0, 1] of the captions, each from a seed of its own; frames as the pipeline counts."""
    pipeline.set_progress_bar_config(disable=True)
    videos = []
    for start in tqdm(range(0, len(captions), batch), "generate", leave=False):
        chunk = captions[start : start + batch]
        result = pipeline(
            [caption.text for caption in chunk],
            height=HEIGHT,
            width=WIDTH,
            num_frames=frames,
            num_inference_steps=steps,
            guidance_scale=scale,
            generator=[torch.Generator().manual_seed(start + i) for i in range(len(chunk))],
            output_type="pt",
        )
        videos.append(result.frames.transpose(1, 2).float().cpu())
    return torch.cat(videos)


@torch.no_grad()
def autoencoder_psnr(vae: AutoencoderKLWan, captions: list[Caption]) -> float:
    """PSNR in decibels of held-out videos sent through the autoencoder, averaged over videos."""
    videos = make_videos(captions, torch.Generator().manual_seed(1), HEIGHT, FRAMES)
    outputs = torch.cat([vae(2 * chunk - 1).sample for chunk in videos.split(32)]) / 2 + 0.5
    return peak_signal_noise_ratio(outputs, videos, data_range=1.0, dim=(1, 2, 3, 4)).item()


def score(captions: list[Caption], videos: Tensor, asked: Sequence[str] = REPORTED) -> dict[str, float]:
    """Share of the videos that show what their caption asks, for each field asked for."""
    seen = [measure(video) for video in videos]
    return {
        field: sum(getattr(a, field) == getattr(b, field) for a, b in zip(captions, seen, strict=True)) / len(seen)
        for field in asked
    }


def open_model(model: str, weights: Path | None) -> tuple[DiffusionPipeline, int]:
    """The pipeline of a model by name, and how many frames it is asked for."""
    if model == "joint":
        return (load_joint(weights) if weights else load_joint()), FRAMES
    if model == "unet":
        return (load_unet(weights) if weights else load_unet()), UNET_FRAMES
    if model == "image":
        return (load_image_model(weights) if weights else load_image_model()), IMAGE_FRAMES
    return WanPipeline.from_pretrained(weights or WEIGHTS, local_files_only=True), FRAMES


def show(results: dict[str, float], count: int, model: str) -> None:
    """Print the results as a table beside their bounds, if the model has any."""
    table = Table(title=f"Model {model} on {count} held-out captions")
    for column in ("measured", "value", "bound", ""):
        table.add_column(column, justify="left" if column == "measured" else "right")
    for name, value in results.items():
        text = f"{value:.1f} dB" if name == "psnr" else f"{value:.1%}"
        bound = BOUNDS.get(name) if model == "shapes" else None
        limit = "" if bound is None else f"{bound:.0f} dB" if name == "psnr" else f"{bound:.0%}"
        table.add_row(name, text, limit, "" if bound is None else "ok" if value >= bound else "missed")
    Console().print(table)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("shapes", "joint", "unet", "image"), default="shapes")
    parser.add_argument("--weights", type=Path, help="folder of the weights, if not the committed ones")
    parser.add_argument("--captions", type=int, default=128, help="how many held-out captions")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance-scale", type=float, default=GUIDANCE_SCALE)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args()
    captions = split()[1][: given.captions]
    pipeline, frames = open_model(given.model, given.weights)
    videos = generate(pipeline, captions, given.guidance_scale, given.steps, frames)
    results = score(captions, videos, STILL if given.model == "image" else REPORTED)
    if given.model == "shapes":
        results["psnr"] = autoencoder_psnr(pipeline.vae, captions)
    if given.json:
        print(json.dumps({"captions": len(captions), **results}))
    else:
        show(results, len(captions), given.model)
    sys.exit(given.model == "shapes" and any(results[name] < bound for name, bound in BOUNDS.items()))


if __name__ == "__main__":
    main()
