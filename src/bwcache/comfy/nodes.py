"""The nodes, as ComfyUI loads them. Their ids are in people's workflows: they never change.

Only ComfyUI imports this module: `comfy_api` is its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import ComfyExtension, io, ui

from bwcache.comfy import host, pictures, plans, wan_video, words
from bwcache.comfy.declared import advanced
from bwcache.comfy.runs import End, Runs
from bwcache.comfy.sampling import Settings, cached, line
from bwcache.comfy.tune_node import CATEGORY, METHOD, BWCacheTune
from bwcache.errors import SettingError, complaint

NO_RUN = "no run is linked, or the BWCache node is bypassed"
RUN, WAN_VIDEO = io.Custom("BWCACHE_RUN"), io.Custom("WANVIDEOMODEL")
"""What the nodes behind it read of a sampling; a model of WanVideoWrapper."""


def where_and_when() -> list[Any]:
    """Return the inputs of a node that caches which say where what is kept waits, and when everything is computed."""
    memory = io.Combo.Input(
        "memory",
        options=["device", "offload"],
        default="device",
        tooltip="Where what is kept between steps waits: on the GPU, or in main memory. The grades "
        "keep two latents, which is next to nothing; methods that keep blocks keep a hidden state per "
        "prompt.",
    )
    start, end = (
        io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)
        for name, default, tooltip in (
            ("start", 0.0, "Before this share of the run every step is computed."),
            ("end", 1.0, "After this share of the run every step is computed."),
        )
    )
    return [advanced(memory), advanced(start), advanced(end)]


def expect_order(start: float, end: float) -> None:
    """Raises `SettingError` where nothing is between start and end."""
    if start >= end:
        raise SettingError(complaint(f"start {start:g} and end {end:g}", "start before end", "0 and 1 are all"))


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
                *where_and_when(),
                advanced(
                    io.Combo.Input(
                        "plan",
                        options=plans.names(host.plan_folders()),
                        default=plans.NONE,
                        optional=True,
                        tooltip="A plan of the BWCache Tune node, in place of the grade: for the model, sampler, "
                        "scheduler and steps that it was made for.",
                    )
                ),
            ],
            outputs=[
                io.Model.Output("cached_model", display_name="model"),
                RUN.Output("run", display_name="run"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, plan: str = plans.NONE, **_: Any) -> float:
        """A plan that was made anew is another one, whatever its name."""
        path = None if plan == plans.NONE else plans.path_of(host.plan_folders(), plan)
        return 0.0 if path is None or not path.exists() else path.stat().st_mtime

    @classmethod
    def execute(
        cls,
        model: Any,
        grade: str,
        memory: str,
        start: float,
        end: float,
        method: Any = None,
        plan: str = plans.NONE,
    ) -> io.NodeOutput:
        expect_order(start, end)
        if method is not None and plan != plans.NONE:
            raise SettingError(complaint(f"a method, and the plan {plan}", "one of both", f"set plan to {plans.NONE}"))
        chosen = plans.read_plan(host.plan_folders(), plan) if plan != plans.NONE else method
        if isinstance(chosen, plans.KeptPlan):
            chosen.expect_model(model)
            remark = chosen.other_weights(model)
            settings = Settings(chosen.policy, memory, start, end, chosen, remark)
        else:
            settings = Settings(words.of_grade(grade) if chosen is None else chosen, memory, start, end)
        return io.NodeOutput(*cached(model, settings))


class BWCacheWanVideo(io.ComfyNode):
    """The same for the models of another pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BWCacheWanVideo",
            display_name="BWCache (WanVideoWrapper)",
            category=CATEGORY,
            description="BWCache for the models of kijai's WanVideoWrapper. Put it between its loader (after LoRAs and "
            "block swap) and its sampler. Bypass it, and the model is what it was, bit for bit.",
            inputs=[
                WAN_VIDEO.Input("model", tooltip="The model of WanVideo Model Loader, after LoRAs."),
                io.Combo.Input(
                    "grade",
                    options=words.grades(),
                    default=words.DEFAULT,
                    tooltip="How close to the uncached video: near is hardly to be told apart and slower, fast is the "
                    "fastest.",
                ),
                METHOD.Input(
                    "method",
                    optional=True,
                    tooltip="A method of your own choice from the BWCache Method node, in place of the grade: one that "
                    "keeps the model's prediction as a whole.",
                ),
                *where_and_when(),
            ],
            outputs=[
                WAN_VIDEO.Output("cached_model", display_name="model"),
                RUN.Output("run", display_name="run"),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, grade: str, memory: str, start: float, end: float, method: Any = None
    ) -> io.NodeOutput:
        expect_order(start, end)
        if isinstance(method, plans.KeptPlan):
            found = f"the plan {method.name}, which was made for ComfyUI's own models"
            raise SettingError(complaint(found, "a grade or a method", "take a plan's link away"))
        policy = words.of_grade(grade) if method is None else method
        return io.NodeOutput(*wan_video.cached(model, Settings(policy, memory, start, end)))


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
                RUN.Input("run", optional=True, tooltip="From the BWCache node."),
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
    def execute(cls, samples: Any, run: Runs | None = None) -> io.NodeOutput:
        end = End(None, NO_RUN) if run is None else run.of(samples.get("samples"))
        text = pictures.said(end.trace, end.note)
        picture = pictures.written(text) if end.trace is None else pictures.drawn(end.trace, end.note)
        return io.NodeOutput(samples, picture, text, ui=shown(cls, picture, pictures.briefly(end.trace, end.note)))


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
                RUN.Input("run", optional=True, tooltip="From the BWCache node: for the speedup."),
            ],
            outputs=[
                io.Image.Output("images", display_name="images"),
                io.String.Output("text", display_name="text"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, uncached: Any, cached: Any, run: Runs | None = None) -> io.NodeOutput:
        images, close = pictures.beside(uncached, cached)
        trace = run.of(None).trace if run is not None else None
        speed = line(trace) if trace is not None else "nothing was reused"
        text = f"{close}; {speed}"
        middle, panels = images[len(images) // 2][None], ("uncached", "cached", "difference, 4 times")
        return io.NodeOutput(images, text, ui=shown(cls, pictures.captioned(middle, panels, text), text))


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
                RUN.Input("run", optional=True, tooltip="From the BWCache node."),
                io.Latent.Input("samples", tooltip="From the sampler: it must have run first."),
                io.String.Input("name", default="bwcache", tooltip="How the file's name begins."),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, samples: Any, name: str, run: Runs | None = None) -> io.NodeOutput:
        if run is None:
            return io.NodeOutput(ui=ui.PreviewText(f"nothing to save: {NO_RUN}"))
        end = run.of(samples.get("samples"))
        if end.trace is None:
            action = end.note or "sample with the model of the BWCache node first"
            raise SettingError(complaint("no run to save", "at least one", action))
        folder = Path(folder_paths.get_output_directory())
        folder.mkdir(parents=True, exist_ok=True)
        path = unused(folder, name)
        end.trace.to_jsonl(path)
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


NODES = (BWCache, BWCacheWanVideo, BWCacheMethod, BWCacheTune, BWCacheReport, BWCacheCompare, BWCacheSaveTrace)


class Extension(ComfyExtension):
    """All of them."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI calls to find the nodes."""
    return Extension()
