"""In a server or a notebook, where no `with` fits: on, any number of calls, off."""

import bwcache
from bwcache import shapes

pipe = shapes.load()

session = bwcache.enable(pipe, bwcache.BWCache(threshold=0.15))
for prompt in shapes.PROMPTS[:2]:
    pipe(prompt, height=32, width=32, num_frames=9, num_inference_steps=20)
    print(prompt, f"{session.trace.reuse_rate:.0%} of the steps reused")
bwcache.disable(pipe)
