"""A picture of the decisions: the indicator over the steps, the threshold, and which steps were reused."""

from pathlib import Path

import bwcache
from bwcache import shapes
from bwcache.report import plot_similarity

pipe = shapes.load()
policy = bwcache.BWCache(threshold=0.15)
with bwcache.attach(pipe, policy) as session:
    pipe(shapes.PROMPTS[0], height=32, width=32, num_frames=9, num_inference_steps=30)

plot_similarity(session.trace, Path("similarity.png"), policy.threshold, title=shapes.PROMPTS[0])
print("similarity.png")
