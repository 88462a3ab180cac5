"""Little memory: what is kept waits in main memory, and a run that would hold too much says so before it starts."""

import bwcache
from bwcache import shapes

pipe = shapes.load()  # your own on a GPU; pipe.enable_model_cpu_offload() beside it works too

with bwcache.attach(pipe, bwcache.BWCache(threshold=0.15), memory="offload", max_memory="64MiB") as session:
    pipe(shapes.PROMPTS[0], height=32, width=32, num_frames=9, num_inference_steps=20)
print(session.trace.summary())

try:
    with bwcache.attach(pipe, bwcache.BWCache(threshold=0.15), max_memory="1KiB"):
        pipe(shapes.PROMPTS[0], height=32, width=32, num_frames=9, num_inference_steps=20)
except bwcache.OverBudgetError as error:
    print(error)
