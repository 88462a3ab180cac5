"""One line around the call: the same video, sooner."""

import bwcache
from bwcache import shapes

pipe = (
    shapes.load()
)  # your own: WanPipeline.from_pretrained("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", torch_dtype=…).to("cuda")

with bwcache.attach(pipe, bwcache.BWCache(threshold=0.15)) as session:
    video = pipe(shapes.PROMPTS[0], height=32, width=32, num_frames=9, num_inference_steps=30).frames[0]

print(session.trace.summary())
