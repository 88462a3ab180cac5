"""What an installation may lack: torch and numpy run the engine, the rest comes with the extras of pyproject.toml."""

from __future__ import annotations

from importlib.util import find_spec

from bwcache.errors import MissingExtraError, complaint

EXTRAS = {
    "cli": ("typer", "rich"),
    "diffusers": ("diffusers", "transformers", "accelerate", "safetensors", "tokenizers", "ftfy"),
    "metrics": ("torchmetrics",),
    "plots": ("matplotlib", "PIL", "imageio_ffmpeg", "jinja2"),
    "serve": ("starlette", "uvicorn", "prometheus_client"),
    "ray": ("ray",),
}
"""Of each extra, the modules that it brings."""


def need(*extras: str) -> None:
    """Raise unless every module of these extras is installed; nothing is imported.

    Raises:
        MissingExtraError: with the command that installs what is not there.
    """
    missing = {extra: [name for name in EXTRAS[extra] if find_spec(name) is None] for extra in extras}
    lacking = [extra for extra, names in missing.items() if names]
    if not lacking:
        return
    found = "no " + ", ".join(name for extra in lacking for name in missing[extra])
    expected = f"bwcache with its extra{'s' * (len(lacking) > 1)} {', '.join(lacking)}"
    raise MissingExtraError(complaint(found, expected, f"pip install 'bwcache[{','.join(lacking)}]'"))
