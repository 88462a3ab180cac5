"""BWCache for ComfyUI: the nodes are those of the package `bwcache`, which `requirements.txt` brings."""

from bwcache.comfy.nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
