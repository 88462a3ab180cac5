"""The part of torchvision that LPIPS needs, with its layers and its way to the weights, for tests without it.

`write` makes an installed package of this file: a module `torchvision.models` and the metadata that says so.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

FIRST = ((3, 64, 11, 4, 2), "pool", (64, 192, 5, 1, 2), "pool", (192, 384, 3, 1, 1), (384, 256, 3, 1, 1))
ALEX: tuple[Any, ...] = (*FIRST, (256, 256, 3, 1, 1), "pool")
VGG_WIDTHS: tuple[Any, ...] = (
    64,
    64,
    "pool",
    128,
    128,
    "pool",
    256,
    256,
    256,
    "pool",
    512,
    512,
    512,
    "pool",
    512,
    512,
    512,
    "pool",
)

AlexNet_Weights = SimpleNamespace(DEFAULT=SimpleNamespace(url="https://host/models/alexnet-owt-7be5be79.pth"))
VGG16_Weights = SimpleNamespace(DEFAULT=SimpleNamespace(url="https://host/models/vgg16-397923af.pth"))
SqueezeNet1_1_Weights = SimpleNamespace(DEFAULT=None)

# torchmetrics imports more names than LPIPS uses.
ANYTHING = """

def __getattr__(name):
    if name.startswith("_"):
        raise AttributeError(name)
"""


class Network(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.features = nn.Sequential(*features)


def alexnet(weights=None):
    layers = []
    for part in ALEX:
        layers += [nn.MaxPool2d(3, 2)] if part == "pool" else [nn.Conv2d(*part), nn.ReLU(inplace=True)]
    return filled(Network(layers), weights)


def vgg16(weights=None):
    layers, width = [], 3
    for part in VGG_WIDTHS:
        layers += [nn.MaxPool2d(2, 2)] if part == "pool" else [nn.Conv2d(width, part, 3, 1, 1), nn.ReLU(inplace=True)]
        width = width if part == "pool" else part
    return filled(Network(layers), weights)


def filled(network, weights):
    """As torchvision does it: from torch's hub cache, else from the network, where a test has nothing to look for."""
    if weights is not None:
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        network.load_state_dict(torch.load(path))
    return network


def write(site: Path) -> None:
    package, metadata = site / "torchvision", site / "torchvision-0.28.0.dist-info"
    package.mkdir(parents=True)
    metadata.mkdir()
    (package / "__init__.py").write_text("from torchvision import models, transforms\n")
    for other in ("transforms.py", "ops.py"):
        (package / other).write_text(ANYTHING)
    (package / "models.py").write_text(Path(__file__).read_text(encoding="utf-8") + ANYTHING, encoding="utf-8")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n")
