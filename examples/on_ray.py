"""Videos by workers on a Ray cluster, each of which loads the model once (`pip install 'bwcache[ray]'`)."""

from typing import Any

import ray

import bwcache
from bwcache import shapes


class Worker:
    """Holds a loaded pipeline."""

    def __init__(self) -> None:
        self.pipe = shapes.load()  # your own pipeline here

    def make(self, prompt: str) -> tuple[Any, bwcache.Trace]:
        with bwcache.attach(self.pipe, "balanced") as session:
            video = self.pipe(prompt, height=32, width=32, num_frames=9, num_inference_steps=10, output_type="np")
        return video.frames[0], session.trace  # a session does not travel, its trace does


ray.init(include_dashboard=False)
placed = ray.remote(num_cpus=1)(Worker)  # num_gpus=1 for a model on a GPU
workers = ray.util.ActorPool([placed.remote() for _ in range(2)])
made = list(workers.map(lambda worker, prompt: worker.make.remote(prompt), shapes.PROMPTS[:3]))
for prompt, (_, trace) in zip(shapes.PROMPTS, made, strict=False):
    print(f"{trace.reused} of {trace.steps} steps reused: {prompt}")
ray.shutdown()
