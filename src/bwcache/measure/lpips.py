"""The network of LPIPS (Zhang et al. 2018, arXiv 1801.03924), where everything that it needs is on this disk.

torchmetrics has the distance and its learned weights of each layer; the features are those of an ImageNet network of
torchvision, the backbone, whose weights torchvision keeps in torch's hub cache. They are read from there and never
fetched: a measure does not go to the network by itself. Where something is missing, the error says what to do.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from bwcache.errors import SettingError, complaint
from bwcache.extras import need

DEFAULT_BACKBONE = "alex"


@dataclass(frozen=True)
class Backbone:
    """A network of torchvision.

    Attributes:
        model: its function in `torchvision.models`.
        weights: its class of weights there.
        side: height and width that it needs at least, in pixels.
    """

    model: str
    weights: str
    side: int


BACKBONES = {
    "alex": Backbone("alexnet", "AlexNet_Weights", 31),
    "vgg": Backbone("vgg16", "VGG16_Weights", 16),
}


def check_backbone(name: str) -> None:
    """Raise for a name that is no backbone's.

    Raises:
        SettingError: with those that there are.
    """
    if name not in BACKBONES:
        raise SettingError(complaint(f"LPIPS backbone {name!r}", " or ".join(BACKBONES), "name one of them"))


def network(name: str) -> Any:
    """The network that maps two batches of frames, [n, 3, H, W] in 0..1, to their distances; loaded once and kept.

    Raises:
        SettingError: torchvision is missing or does not fit torch, or the weights are not in the cache.
    """
    check_backbone(name)
    problem = torchvision_problem()
    if problem is not None:
        raise SettingError(problem)
    path = weights_file(name)
    if not path.is_file():
        raise SettingError(
            complaint(
                f"no {path.name} in {path.parent}",
                f"the weights of {BACKBONES[name].model} in torch's hub cache",
                f'fetch them once: python -c "import torchvision; '
                f"torchvision.models.{BACKBONES[name].model}(weights='DEFAULT')\"",
            )
        )
    return _load(name, path)


@functools.cache
def measures() -> Any:
    """torchmetrics' functions on pictures.

    Raises:
        MissingExtraError: without torchmetrics.
        SettingError: torchvision is there but broken: torchmetrics imports it, and breaks with it.
    """
    need("metrics")
    try:
        import torchmetrics.functional.image as functions
    except Exception:
        problem = torchvision_problem()
        if problem is None:
            raise
        raise SettingError(problem) from None
    return functions


@functools.cache
def torchvision_problem() -> str | None:
    """Why torchvision cannot be used, in one line; None when it can."""
    install = "pip install 'bwcache[lpips]'"
    if importlib.util.find_spec("torchvision") is None:
        return complaint("no torchvision", "it for the features that LPIPS compares", install)
    try:
        import torchvision.models  # noqa: F401
    except Exception as error:  # a build for another torch fails in several ways
        said = " ".join(str(error).split())
        return complaint(
            f"a torchvision that cannot be imported ({said})",
            f"the build for torch {torch.__version__}",
            f"install torch and torchvision from the same index: {install}",
        )
    return None


def weights_file(name: str) -> Path:
    """Where torchvision keeps a backbone's weights; needs torchvision."""
    import torchvision.models

    weights = getattr(torchvision.models, BACKBONES[name].weights).DEFAULT
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name


@functools.lru_cache(maxsize=2)
def _load(name: str, path: Path) -> Any:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    net_type: Any = name
    try:
        return LearnedPerceptualImagePatchSimilarity(net_type=net_type, normalize=True).net
    except Exception as error:  # whatever a file that is cut short makes torch say
        said = " ".join(str(error).split())[:120]
        raise SettingError(
            complaint(f"{path} that cannot be loaded ({said})", f"the weights of {name!r}", "delete it and fetch anew")
        ) from error
