"""A denoiser in a loop of your own: say how many steps a run has, nobody else does."""

import torch

import bwcache
from bwcache import shapes

transformer = shapes.load().transformer  # your own: any denoiser that `bwcache models` lists, or one with spec=
text = torch.randn(1, 8, transformer.config.text_dim)

with torch.no_grad(), bwcache.attach(transformer, bwcache.FixedInterval(interval=3)) as session:
    for seed in (0, 1):
        latents = torch.randn(1, 8, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
        with session.run(steps=20):
            for timestep in torch.linspace(999, 1, 20):
                latents = latents - transformer(latents, timestep.view(1), text, return_dict=False)[0] / 20
        print(f"seed {seed}: {session.trace.reused} of 20 steps reused")
