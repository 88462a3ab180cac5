"""The nodes, as ComfyUI loads them. Their ids are in people's workflows: they never change.

Only ComfyUI imports this module: `comfy_api` is its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import ComfyExtension, io, ui

from bwcache.comfy import pictures, words
from bwcache.comfy.sampling import Runs, Settings, cached, line
from bwcache.errors import SettingError, complaint

CATEGORY = "bwcache"
RUN, METHOD = io.Custom("BWCACHE_RUN"), io.Custom("BWCACHE_METHOD")
ADVANCED = {"advanced": True}


class BWCache(io.ComfyNode):
    """Reuses what hardly changes from step to step."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BWCache",
            display_name="BWCache",
            category=CATEGORY,
            description="Makes videos with fewer evaluations of the model, by reusing what hardly changes from step to "
            "step. Put it between the loader (after LoRA and shift) and the sampler. Bypass it, and the model is what "
            "it was, bit for bit.",
            inputs=[
                io.Model.Input("model", tooltip="The model, after LoRAs and shift."),
                io.Combo.Input(
                    "grade",
                    options=words.grades(),
                    default=words.DEFAULT,
                    tooltip="How close to the uncached video: near is hardly to be told apart and slower, fast is the "
                    "fastest. What each came to on which models is on the help page.",
                ),
                METHOD.Input(
                    "method",
                    optional=True,
                    tooltip="A method of your own choice from the BWCache Method node, in place of the grade.",
                ),
                io.Combo.Input(
                    "memory",
                    options=["device", "offload"],
                    default="device",
                    tooltip="Where what is kept between steps waits: on the GPU, or in main memory. The grades keep "
                    "two latents, which is next to nothing; methods that keep blocks keep a hidden state per prompt.",
                    extra_dict=ADVANCED,
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Before this share of the run every step is computed.",
                    extra_dict=ADVANCED,
                ),
                io.Float.Input(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="After this share of the run every step is computed.",
                    extra_dict=ADVANCED,
                ),
            ],
            outputs=[
                io.Model.Output("cached_model", display_name="model"),
                RUN.Output("run", display_name="run"),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, grade: str, memory: str, start: float, end: float, method: Any = None
    ) -> io.NodeOutput:
        if start >= end:
            raise SettingError(complaint(f"start {start:g} and end {end:g}", "start before end", "0 and 1 are all"))
        policy = words.of_grade(grade) if method is None else method
        clone, runs = cached(model, Settings(policy, memory, start, end))
        return io.NodeOutput(clone, runs)


class BWCacheMethod(io.ComfyNode):
    """Any method of the catalogue."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BWCacheMethod",
            display_name="BWCache Method",
            category=CATEGORY,
            description="One of the published caching methods with its own settings, for the BWCache node.",
            inputs=[
                io.Combo.Input(
                    "name", options=words.methods(), default="BWCache", tooltip="The method, by its paper's name."
                ),
                io.String.Input(
                    "settings",
                    default="",
                    multiline=True,
                    tooltip="One field = value a line, such as threshold = 0.2. Empty: the paper's own. All fields "
                    "with their values come out of this node as a text.",
                ),
            ],
            outputs=[METHOD.Output("method", display_name="method"), io.String.Output("fields", display_name="fields")],
        )

    @classmethod
    def execute(cls, name: str, settings: str) -> io.NodeOutput:
        return io.NodeOutput(words.of_method(name, settings), words.defaults(name))


class BWCacheReport(io.ComfyNode):
    """Which steps were computed, and why."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BWCacheReport",
            display_name="BWCache Report",
            category=CATEGORY,
            description="Which steps of the last sampling were computed and which reused, with the reason of each. Put "
            "it behind the sampler, so that it runs when the sampling is over.",
            inputs=[
                RUN.Input("run", tooltip="From the BWCache node."),
                io.Latent.Input("samples", tooltip="From the sampler; handed on as they are."),
            ],
            outputs=[
                io.Latent.Output("same_samples", display_name="samples"),
                io.Image.Output("picture", display_name="picture"),
                io.String.Output("text", display_name="text"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, run: Runs, samples: Any) -> io.NodeOutput:
        trace = run.traces[-1] if run.traces else None
        text = pictures.said(trace, run.notes[-1] if run.notes else "")
        picture = pictures.drawn(trace) if trace is not None else pictures.empty()
        return io.NodeOutput(samples, picture, text, ui=shown(cls, picture, text))


class BWCacheCompare(io.ComfyNode):
    """The uncached video and the cached one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BWCacheCompare",
            display_name="BWCache Compare",
            category=CATEGORY,
            description="Two videos of one seed side by side with their difference, and how close they are. Sample "
            "once with the model before the BWCache node and once with the one behind it.",
            inputs=[
                io.Image.Input("uncached", tooltip="Frames of the sampling without BWCache."),
                io.Image.Input("cached", tooltip="Frames of the sampling with it, of the same seed."),
                RUN.Input("run", tooltip="From the BWCache node: for the speedup."),
            ],
            outputs=[
                io.Image.Output("images", display_name="images"),
                io.String.Output("text", display_name="text"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, uncached: Any, cached: Any, run: Runs) -> io.NodeOutput:
        images, close = pictures.beside(uncached, cached)
        speed = line(run.traces[-1]) if run.traces else "nothing was reused"
        text = f"{close}; {speed}"
        return io.NodeOutput(images, text, ui=shown(cls, images[len(images) // 2][None], text))


class BWCacheSaveTrace(io.ComfyNode):
    """The trace as a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BWCacheSaveTrace",
            display_name="BWCache Save Trace",
            category=CATEGORY,
            description="Writes every decision of the last sampling into ComfyUI's output folder, one JSON a line, as "
            "bwcache.Trace.from_jsonl reads it.",
            inputs=[
                RUN.Input("run", tooltip="From the BWCache node."),
                io.Latent.Input("samples", tooltip="From the sampler: it must have run first."),
                io.String.Input("name", default="bwcache", tooltip="How the file's name begins."),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, run: Runs, samples: Any, name: str) -> io.NodeOutput:
        if not run.traces:
            action = run.notes[-1] if run.notes else "sample with the model of the BWCache node first"
            raise SettingError(complaint("no run to save", "at least one", action))
        folder = Path(folder_paths.get_output_directory())
        folder.mkdir(parents=True, exist_ok=True)
        path = unused(folder, name)
        run.traces[-1].to_jsonl(path)
        return io.NodeOutput(ui=ui.PreviewText(f"{path.name} in the output folder"))


def shown(node: type[io.ComfyNode], picture: Any, text: str) -> dict[str, Any]:
    """Return what a node shows: a picture, and a text where the front end has a place for it."""
    return {**ui.PreviewImage(picture, cls=node).as_dict(), **ui.PreviewText(text).as_dict()}


def unused(folder: Path, name: str) -> Path:
    """Return a path in a folder that nothing is at, for a name that is no path.

    Raises:
        SettingError: the name leads out of the folder.
    """
    if not name.strip() or name != os.path.basename(name) or name.startswith("."):
        raise SettingError(complaint(f"name {name!r}", "the beginning of a file's name", "such as bwcache"))
    number = 1
    while (path := folder / f"{name}_{number:05}.jsonl").exists():
        number += 1
    return path


NODES = (BWCache, BWCacheMethod, BWCacheReport, BWCacheCompare, BWCacheSaveTrace)


class Extension(ComfyExtension):
    """All of them."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI calls to find the nodes."""
    return Extension()
