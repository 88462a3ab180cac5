"""Weights that GPUs share, a video on each: `torchrun --nproc-per-node=2 examples/shared_weights.py`."""

import os

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import bwcache
from bwcache import shapes

device, rank = "cuda" if torch.cuda.is_available() else "cpu", int(os.environ["RANK"])
mesh = init_device_mesh(device, (int(os.environ["WORLD_SIZE"]),))
pipe = shapes.load().to(device)  # your own, the transformer still on the CPU if one GPU cannot hold it
for block in (*pipe.transformer.blocks, pipe.transformer):
    fully_shard(block, mesh=mesh)

prompt = ("a small red circle", "a large blue square")[rank % 2]
with bwcache.attach(pipe) as session:  # what one rank computes all compute: the blocks gather their weights together
    video = pipe(prompt, height=32, width=32, num_frames=9, generator=torch.Generator().manual_seed(rank)).frames[0]
print(session.ranks)
print(session.trace.summary())
