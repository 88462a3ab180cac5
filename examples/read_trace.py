"""The record of a run: a row per step and branch with what was done and why; a file of it, and back."""

import bwcache
from bwcache import shapes

pipe = shapes.load()
with bwcache.attach(pipe, bwcache.BWCache(threshold=0.15)) as session:
    pipe(shapes.PROMPTS[0], height=32, width=32, num_frames=9, num_inference_steps=20)

session.trace.to_jsonl("trace.jsonl")
trace = bwcache.Trace.from_jsonl("trace.jsonl")
for event in trace.events[:10]:
    print(f"step {event.step} of {event.total}, {event.branch}: {event.action}, {event.reason}")
print(f"{trace.reused} of {trace.steps} steps reused")
