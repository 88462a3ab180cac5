"""Adaptive: the damage that is allowed instead of a threshold, and windows as long as that permits."""

import bwcache
from bwcache import shapes
from bwcache.core.trace import reuse_line

pipe = shapes.load()

for tolerance in (0.01, 0.05):
    with bwcache.attach(pipe, bwcache.Adaptive(tolerance=tolerance)) as session:
        pipe(shapes.PROMPTS[0], height=32, width=32, num_frames=9, num_inference_steps=30)
    print(tolerance, reuse_line(session.trace.events))  # C computed, r reused
