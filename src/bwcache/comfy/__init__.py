"""ComfyUI: its sampler tells the session every step, branch and noise level. Imports nothing of ComfyUI by itself.

`nodes` is what ComfyUI loads; `sampling` stands around one sampling by ComfyUI's own wrapper points.
"""
