"""LPIPS where its backbone is at hand, against the paper's formula; and what is said where it is not.

The values are measured in a process of its own that sees a package of torchvision's shape, with random weights in the
cache: the same weights on both sides.
"""

import builtins
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bwcache import SettingError
from bwcache.measure import lpips
from bwcache.measure.quality import frame_lpips, quality
from tests.measure import torchvision_like

MEASURE = """
import json, time
import numpy as np, torch, torchmetrics
from pathlib import Path
from torchvision import models
from bwcache import SettingError
from bwcache.measure import lpips as module
from bwcache.measure.quality import frame_lpips, quality

def reason(*arguments):
    try:
        return str(frame_lpips(*arguments)) and None
    except SettingError as error:
        return str(error)

random = np.random.default_rng(0)
reference = random.random((3, 40, 48, 3), dtype=np.float32)
candidate = np.clip(reference + 0.2 * random.standard_normal(reference.shape), 0, 1).astype(np.float32)
small = {name: random.random((1, one.side - 1, 64, 3), dtype=np.float32) for name, one in module.BACKBONES.items()}
found = {"absent": reason(reference, candidate, "alex"), "unmeasured": quality(reference, candidate).lpips}

cache = Path(torch.hub.get_dir()) / "checkpoints"
cache.mkdir(parents=True)
(cache / "alexnet-owt-7be5be79.pth").write_bytes(b"half of a fi")
found["broken"] = reason(reference, candidate, "alex")

def formula(features, heads, ends):
    values = []
    for pair in zip(reference, candidate):
        deep = []
        for frame in pair:
            value = 2 * torch.tensor(frame).permute(2, 0, 1)[None] - 1
            value = (value - torch.tensor([-.030, -.088, -.188]).view(1, 3, 1, 1)) / torch.tensor(
                [.458, .448, .450]).view(1, 3, 1, 1)
            layers = []
            for index, layer in enumerate(features[:ends[-1] + 1]):
                value = torch.nn.functional.relu(value) if isinstance(layer, torch.nn.ReLU) else layer(value)
                if index in ends:
                    layers.append(value / value.norm(dim=1, keepdim=True))
            deep.append(layers)
        values.append(sum(((a - b) ** 2 * head).sum(1).mean().item() for a, b, head in zip(*deep, heads)))
    return values

torch.manual_seed(0)
folder = Path(torchmetrics.__file__).parent / "functional/image/lpips_models"
for name, make, ends in (("alex", models.alexnet, (1, 4, 7, 9, 11)), ("vgg", models.vgg16, (3, 8, 15, 22, 29))):
    made = make()
    torch.save(made.state_dict(), module.weights_file(name))
    learned = torch.load(folder / f"{name}.pth", map_location="cpu")
    heads = [learned[f"lin{i}.model.1.weight"] for i in range(5)]
    with torch.no_grad():
        expected = formula(made.features, heads, ends)
    found[name] = {
        "frames": frame_lpips(reference, candidate, name).tolist(), "formula": expected,
        "video": quality(reference, candidate, name).lpips, "notes": quality(reference, candidate, name).notes,
        "same": quality(reference, reference.copy(), name).lpips, "small": reason(small[name], small[name], name),
    }
    side = module.BACKBONES[name].side
    just = random.random((1, side, side, 3), dtype=np.float32)
    found[name]["just"] = reason(just, just, name)
    try:
        module.network(name)(*[torch.rand(1, 3, side - 1, 64)] * 2)
        found[name]["smaller"] = True
    except RuntimeError:
        found[name]["smaller"] = False
    found[name]["kept"] = module.network(name) is module.network(name)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    torchvision_like.write(folder / "site")
    paths = [str(folder / "site"), os.environ.get("PYTHONPATH", "")]
    around = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "TORCH_HOME": str(folder / "torch")}
    ended = subprocess.run([sys.executable, "-c", MEASURE], env=around, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_it_is_the_papers_formula(measured, backbone):
    found = measured[backbone]
    assert found["frames"] == pytest.approx(found["formula"], rel=1e-4)
    assert found["video"] == pytest.approx(np.mean(found["frames"]))
    assert min(found["frames"]) > 0
    assert found["same"] == 0
    assert all(not note.startswith("LPIPS") for note in found["notes"])


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_the_smallest_frames(measured, backbone):
    found, side = measured[backbone], lpips.BACKBONES[backbone].side
    assert found["just"] is None
    assert not found["smaller"]  # the network itself cannot
    assert f"{side - 1} x 64 pixels; expected at least {side}" in found["small"]


def test_a_network_is_loaded_once(measured):
    assert measured["alex"]["kept"]
    assert measured["vgg"]["kept"]


def test_without_weights_there_is_no_number_but_a_reason(measured):
    assert measured["unmeasured"] is None
    assert "no alexnet-owt-7be5be79.pth" in measured["absent"]
    assert "torchvision.models.alexnet(weights='DEFAULT')" in measured["absent"]


def test_weights_that_are_cut_short(measured):
    assert "alexnet-owt-7be5be79.pth that cannot be loaded" in measured["broken"]
    assert "delete it" in measured["broken"]


@pytest.fixture
def fresh():
    """Nothing remembered of torchvision, before and after."""
    lpips.torchvision_problem.cache_clear()
    yield
    lpips.torchvision_problem.cache_clear()


def without(monkeypatch, module, found=None):
    """The module is not there, or `found` stands for it."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: found if name == module else real(name, *more))


FRAMES = np.zeros((1, 32, 32, 3), np.float32)


def test_without_torchvision(fresh, monkeypatch):
    without(monkeypatch, "torchvision")
    found = quality(FRAMES, FRAMES + 0.1)
    assert found.lpips is None
    assert [note for note in found.notes if note.startswith("LPIPS (alex): found no torchvision")]
    with pytest.raises(SettingError, match=r"pip install 'bwcache\[lpips\]'"):
        frame_lpips(FRAMES, FRAMES)


def test_a_torchvision_for_another_torch(fresh, monkeypatch):
    """What importing the build for CUDA says beside the build of torch for CPUs."""
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("torchvision"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *arguments, **options)

    without(monkeypatch, "torchvision", found=Path())
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SettingError, match=r"cannot be imported \(operator torchvision::nms .*same index"):
        frame_lpips(FRAMES, FRAMES)


def test_a_backbone_that_is_none():
    with pytest.raises(SettingError, match="backbone 'squeeze'; expected alex or vgg"):
        quality(FRAMES, FRAMES, "squeeze")
    assert not any(note.startswith("LPIPS") for note in quality(FRAMES, FRAMES, None).notes)
