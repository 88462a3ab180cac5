"""One video on several GPUs, tokens split among them: `torchrun --nproc-per-node=2 examples/context_parallel.py`."""

import os

import torch
from diffusers import ContextParallelConfig
from torch.distributed.device_mesh import init_device_mesh

import bwcache
from bwcache import shapes

device, count = "cuda" if torch.cuda.is_available() else "cpu", int(os.environ["WORLD_SIZE"])
mesh = init_device_mesh(device, (1, count), mesh_dim_names=("ring", "ulysses"))
pipe = shapes.load().to(device)  # your own: WanPipeline.from_pretrained(…)
pipe.transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=count, mesh=mesh))

seed = torch.Generator().manual_seed(0)  # the same on each rank, as for one video
with bwcache.attach(pipe) as session:
    video = pipe("a small red circle", height=32, width=32, num_frames=9, generator=seed).frames[0]
print(session.ranks)
print(session.trace.summary())
