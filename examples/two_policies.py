"""Two policies on the same prompts and noise, each beside no cache: how fast, how close on average."""

import bwcache
from bwcache import shapes
from bwcache.measure import compare

pipe = shapes.load()

for policy in (bwcache.BWCache(threshold=0.15), bwcache.Adaptive(tolerance=0.02)):
    found = compare(pipe, policy, shapes.PROMPTS[:2], steps=20, height=32, width=32, frames=9)
    worst = min(run.psnr for run in found.runs)
    print(f"{type(policy).__name__}: {found.total.speedup:.2f}x, PSNR {found.total.psnr:.1f} dB, worst {worst:.1f}")
