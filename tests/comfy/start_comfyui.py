"""Starts the ComfyUI of `BWCACHE_COMFYUI` as a program of its own: `python -m tests.comfy.start_comfyui OPTIONS`."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from tests.comfy.torchvision_beside_cpu import make_importable

if __name__ == "__main__":
    make_importable()
    main = Path(os.environ["BWCACHE_COMFYUI"]).expanduser().resolve() / "main.py"
    sys.argv = [str(main), *sys.argv[1:]]
    sys.path[0] = str(main.parent)
    runpy.run_path(str(main), run_name="__main__")
