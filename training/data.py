"""Captioned videos of moving shapes, rendered by code.

A caption fixes size, colour, shape, motion, speed and background. Position, phase and background tint are drawn
from a generator. Lengths are in pixels of a 32 x 32 canvas (a larger canvas scales them), angles in radians.
"""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

CANVAS = 32.0
RADII = {"small": 5.5, "large": 7.5}
COLORS = {
    "red": (1.0, 0.1, 0.1),
    "green": (0.1, 0.9, 0.15),
    "blue": (0.15, 0.3, 1.0),
    "yellow": (1.0, 0.9, 0.1),
    "magenta": (1.0, 0.15, 0.9),
    "cyan": (0.1, 0.9, 1.0),
    "white": (1.0, 1.0, 1.0),
}
SYMMETRY = {"circle": 0, "square": 4, "triangle": 3, "cross": 4, "ring": 0}
SHAPES = tuple(SYMMETRY)
MOTIONS = {
    "left": "moving left",
    "right": "moving right",
    "up": "moving up",
    "down": "moving down",
    "orbit": "orbiting",
    "pulse": "pulsing",
    "bounce": "bouncing",
    "rotate": "rotating",
}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SPEEDS = {"slow": "slowly", "fast": "fast"}
BACKGROUNDS = ("plain", "gradient", "striped", "checkered")
TINTS = (
    (0.24, 0.24, 0.24),
    (0.07, 0.1, 0.3),
    (0.3, 0.08, 0.08),
    (0.08, 0.25, 0.1),
    (0.22, 0.08, 0.28),
    (0.06, 0.22, 0.24),
)


class Caption(NamedTuple):
    """What one video shows; ``text`` is the prompt."""

    size: str
    color: str
    shape: str
    motion: str
    speed: str
    background: str

    @property
    def text(self) -> str:
        """The caption as a sentence of the grammar."""
        motion = f"{MOTIONS[self.motion]} {SPEEDS[self.speed]}"
        return f"a {self.size} {self.color} {self.shape} {motion} over a {self.background} background"


class Track(NamedTuple):
    """Where the shape is in each frame: ``center`` (N, F, 2) as x, y; ``radius`` (N, F); ``angle`` (N, F)."""

    center: Tensor
    radius: Tensor
    angle: Tensor


def visible(caption: Caption) -> bool:
    """Whether the motion can be seen: a circle or a ring that rotates looks still."""
    return caption.motion != "rotate" or SYMMETRY[caption.shape] > 0


CAPTIONS = tuple(filter(visible, map(Caption._make, product(RADII, COLORS, SHAPES, MOTIONS, SPEEDS, BACKGROUNDS))))


def split(held_out: int = 128, seed: int = 0) -> tuple[list[Caption], list[Caption]]:
    """All captions as (training, held out in random order), disjoint and fixed by the seed."""
    order = torch.randperm(len(CAPTIONS), generator=torch.Generator().manual_seed(seed)).tolist()
    return [CAPTIONS[i] for i in sorted(order[held_out:])], [CAPTIONS[i] for i in order[:held_out]]


def is_one_of(captions: list[Caption], field: str, value: str) -> Tensor:
    """(N, 1) mask of the captions whose field has the value."""
    return torch.tensor([[getattr(caption, field) == value] for caption in captions])


def uniform(shape: tuple[int, ...], low: float | Tensor, high: float | Tensor, generator: torch.Generator) -> Tensor:
    """Uniform random numbers between low and high."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def draw_track(captions: list[Caption], frames: int, generator: torch.Generator) -> Track:
    """Random start, phase and place for each caption's motion; the shape stays inside the canvas."""
    count = len(captions)
    time = torch.linspace(0, 1, frames)[None]
    fast = is_one_of(captions, "speed", "fast")
    moves = {motion: is_one_of(captions, "motion", motion) for motion in MOTIONS}
    phase = uniform((count, 1), 0.0, 1.0, generator)

    heading = torch.tensor([DIRECTIONS.get(caption.motion, (0, 0)) for caption in captions])[:, None].float()
    travel = torch.where(fast, 15.0, 8.0)[..., None]
    slack = 3.5 - heading.abs() * torch.where(fast[..., None], 3.5, 0.0)
    slack = torch.where(moves["orbit"][..., None], 2.0, slack)
    slack = torch.where(moves["bounce"][..., None], torch.tensor([3.5, 1.0]), slack)
    center = CANVAS / 2 + uniform((count, 1, 2), -1.0, 1.0, generator) * slack
    center = center + heading * travel * (time[..., None] - 0.5)

    turn = 2 * math.pi * (torch.where(fast, 1.2, 0.6) * time + phase)
    circle = 5.0 * torch.stack([turn.cos(), turn.sin()], -1)
    hops = (math.pi * (torch.where(fast, 2.0, 1.0) * time + 0.2 * (phase - 0.5))).sin().abs()
    hop = torch.stack([torch.zeros_like(hops), 5.0 - 10.0 * hops], -1)
    center = center + circle * moves["orbit"][..., None] + hop * moves["bounce"][..., None]

    swell = 0.85 + 0.25 * (2 * math.pi * (torch.where(fast, 2.0, 1.0) * time + phase)).sin()
    radius = torch.tensor([[RADII[caption.size]] for caption in captions]) * torch.where(moves["pulse"], swell, 1.0)
    spin = math.pi * torch.where(fast, 1.0, 1 / 3) * time + 2 * math.pi * phase
    return Track(center, radius.expand(count, frames), torch.where(moves["rotate"], spin, 0.0).expand(count, frames))


def distance(shape: str, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance in pixels to the outline of an upright shape at the origin, negative inside."""
    if shape == "circle":
        return torch.hypot(x, y) - radius
    if shape == "ring":
        return (torch.hypot(x, y) - 0.72 * radius).abs() - 0.28 * radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.85 * radius
    if shape == "triangle":
        slope = 0.75**0.5 * x.abs() - 0.5 * y
        return torch.maximum(slope, y) - 0.6 * radius
    long, wide = torch.maximum(x.abs(), y.abs()) - radius, torch.minimum(x.abs(), y.abs()) - radius / 3
    return torch.maximum(long, wide)


def draw_masks(shapes: list[str], track: Track, size: int) -> Tensor:
    """Antialiased coverage (N, F, size, size) in [0, 1] of each shape along its track."""
    pixel = CANVAS / size
    axis = (torch.arange(size) + 0.5) * pixel
    masks = torch.empty(*track.radius.shape, size, size)
    for shape in set(shapes):
        rows = torch.tensor([i for i, name in enumerate(shapes) if name == shape])
        center, radius, angle = (value[rows] for value in track)
        x = axis - center[..., 0, None, None]
        y = axis[:, None] - center[..., 1, None, None]
        if angle.any():
            cos, sin = angle.cos()[..., None, None], angle.sin()[..., None, None]
            x, y = cos * x + sin * y, cos * y - sin * x
        masks[rows] = (0.5 - distance(shape, x, y, radius[..., None, None]) / pixel).clamp(0, 1)
    return masks


def draw_backgrounds(captions: list[Caption], size: int, generator: torch.Generator) -> Tensor:
    """Dim still backgrounds (N, 3, size, size), at most 0.3 bright; tint and offset vary with the generator."""
    count = len(captions)
    tint = torch.tensor(TINTS)[torch.randint(len(TINTS), (count,), generator=generator)]
    offset = torch.randint(2, (count, 1, 1), generator=generator)
    cell = (torch.arange(size) * CANVAS / size / 4).long()
    column, row = cell[None, None, :], cell[None, :, None]
    flat = torch.ones(count, size, size)
    light = {
        "plain": flat,
        "gradient": flat * torch.linspace(0.15, 1, size)[None, :, None],
        "striped": flat * torch.where((column + offset) % 2 == 0, 1.0, 0.35),
        "checkered": flat * torch.where((column // 2 + row // 2 + offset) % 2 == 0, 1.0, 0.35),
    }
    shade = torch.stack([light[name] * is_one_of(captions, "background", name)[..., None] for name in BACKGROUNDS]).sum(
        0
    )
    return tint[:, :, None, None] * shade[:, None]


def make_videos(captions: list[Caption], generator: torch.Generator, size: int = 32, frames: int = 9) -> Tensor:
    """Videos (N, 3, frames, size, size) in [0, 1] that show the captions."""
    track = draw_track(captions, frames, generator)
    mask = draw_masks([caption.shape for caption in captions], track, size)[:, None]
    color = torch.tensor([COLORS[caption.color] for caption in captions])[:, :, None, None, None]
    background = draw_backgrounds(captions, size, generator)[:, :, None]
    return background + mask * (color - background)
