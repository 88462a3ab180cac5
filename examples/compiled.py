"""With torch.compile: compile the blocks, once, in whatever order; a reused step compiles nothing."""

import bwcache
from bwcache import shapes

pipe = shapes.load()
pipe.transformer.compile_repeated_blocks(fullgraph=True, backend="eager")  # your own: without backend=

with bwcache.attach(pipe, bwcache.BWCache(threshold=0.15)) as session:
    pipe(shapes.PROMPTS[0], height=32, width=32, num_frames=9, num_inference_steps=20)
print(session.trace.summary())
