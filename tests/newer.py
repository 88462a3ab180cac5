"""Classes that not every diffusers which is claimed has: `from tests.newer import WanAnimatePipeline`.

With a release older than the pinned one, a class that is not there yet is a stand-in, and a test that builds one is
skipped and says so. With the pinned release and newer ones each has to be there. The same goes for modules (`module`)
and for what a class takes (`made`).
"""

from __future__ import annotations

import functools
import importlib
import os
import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
from packaging.version import Version

_MODULES = {
    "diffusers.models.transformers.transformer_flux2": (
        "Flux2KVAttnProcessor",
        "Flux2KVCache",
        "Flux2KVParallelSelfAttnProcessor",
    ),
    "diffusers.models.transformers.transformer_glm_image": ("GlmImageKVCache",),
    "diffusers.models.transformers.transformer_ideogram4": ("LLM_TOKEN_INDICATOR", "OUTPUT_IMAGE_INDICATOR"),
    "diffusers.models.transformers.transformer_qwenimage21": ("QwenImage21KVCache",),
    "diffusers.models.transformers.transformer_wan_animate_2": ("WanAnimate2KVCache",),
    "diffusers.modular_pipelines.stable_diffusion_xl.modular_blocks_stable_diffusion_xl": (
        "StableDiffusionXLCoreDenoiseStep",
    ),
    "diffusers.modular_pipelines.wan": ("WanBlocks",),
    "diffusers.modular_pipelines.wan.modular_blocks_wan": ("WanCoreDenoiseStep",),
    "diffusers.pipelines.ltx2": ("LTX2LatentUpsamplerModel", "LTX2TextConnectors"),
    "diffusers.pipelines.ltx2.dfr_layout": ("LTX2DFREpilogueTile",),
    "diffusers.pipelines.ltx2.pipeline_ltx2_condition": ("LTX2VideoCondition",),
    "diffusers.pipelines.ltx2.pipeline_ltx2_hdr_lora": ("LTX2HDRReferenceCondition",),
    "diffusers.pipelines.ltx2.pipeline_ltx2_ic_lora": ("LTX2ReferenceCondition",),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


class _NotYet(type):
    """Anything asked of a stand-in is a stand-in. To make one ends a test; where none runs yet, it is one too."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return _stand_in(f"{cls.__name__}.{name}")

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if "PYTEST_CURRENT_TEST" in os.environ:
            pytest.skip(f"diffusers {diffusers.__version__} has no {cls.__name__}")
        return cls


@functools.cache
def _stand_in(name: str) -> Any:
    return _NotYet(name, (), {})


@functools.cache
def _is_older() -> bool:
    pins = (Path(__file__).parents[1] / "constraints.txt").read_text(encoding="utf-8")
    pinned = re.search(r"^diffusers==(\S+)", pins, re.MULTILINE)
    assert pinned is not None
    return Version(diffusers.__version__) < Version(pinned[1])


def module(name: str) -> Any:
    """Return a module of diffusers; where it is not there yet, the test is skipped, or the file that imports it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if not _is_older():
            raise
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}", allow_module_level=True)


def expect(name: str) -> None:
    """Skip the test where diffusers has no class of that name yet."""
    if isinstance(getattr(diffusers, name, None) or __getattr__(name), _NotYet):
        pytest.skip(f"diffusers {diffusers.__version__} has no {name}")


def made(kind: Any, **settings: Any) -> Any:
    """Return one of a class; where it does not take some setting yet, the test is skipped."""
    try:
        return kind(**settings)
    except TypeError as error:
        if not _is_older():
            raise
        pytest.skip(f"diffusers {diffusers.__version__}: {error}")


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return getattr(importlib.import_module(_WHERE.get(name, "diffusers")), name)
    except (AttributeError, ImportError):
        if not _is_older():
            raise
        return _stand_in(name)
