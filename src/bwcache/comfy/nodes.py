"""The nodes, as ComfyUI loads them. Their ids are in people's workflows: they never change.

Only ComfyUI imports this module: `comfy_api` is its own.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import ComfyExtension, io, ui

from bwcache.comfy import host, pictures, plans, wan_video, words
from bwcache.comfy.declared import advanced
from bwcache.comfy.runs import End, Runs
from bwcache.comfy.sampling import Settings, cached, line
from bwcache.comfy.tuning import Asked, Stage, Tuning, summary
from bwcache.errors import SettingError, complaint

CATEGORY = "bwcache"
RUN, METHOD = io.Custom("BWCACHE_RUN"), io.Custom("BWCACHE_METHOD")
NO_RUN = "no run is linked, or the BWCache node is bypassed"
WAN_VIDEO = io.Custom("WANVIDEOMODEL")
"""What WanVideoWrapper's own loader hands on."""


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


class BWCacheTune(io.ComfyNode):
    """A plan for one model and workflow."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BWCacheTune",
            display_name="BWCache Tune",
            category=CATEGORY,
            description="Finds, for this model, sampler, scheduler and number of steps, which steps to compute, and "
            "proves it on videos that nothing was chosen on. It takes as long as some uncached samplings (see budget), "
            "once; the plan is kept beside the models, and the BWCache node takes it by name.",
            inputs=[
                io.Model.Input("model", tooltip="The model, after LoRAs and shift: the one that goes into BWCache."),
                io.Conditioning.Input("positive", tooltip="The prompt, as it goes into the sampler."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, as it goes into the sampler."),
                io.Latent.Input("latent_image", tooltip="The latents, as they go into the sampler."),
                io.Vae.Input("vae", tooltip="Makes frames: how close two videos are is measured on them."),
                io.Conditioning.Input(
                    "positive_2",
                    optional=True,
                    tooltip="Another prompt. With several the plan is made of one half and proved on the other; with "
                    "one alone it is proved on other seeds of it.",
                ),
                io.Conditioning.Input("positive_3", optional=True, tooltip="Another prompt."),
                io.Conditioning.Input("positive_4", optional=True, tooltip="Another prompt."),
                io.String.Input("name", default="my_plan", tooltip="Of the plan: by it the BWCache node takes it."),
                io.Combo.Input(
                    "grade",
                    options=words.grades(),
                    default=words.DEFAULT,
                    tooltip="What the plan is to keep, in the mean of the videos that prove it: near 40 dB, balanced "
                    "35 dB, fast 30 dB.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="As at the sampler."),
                io.Float.Input("cfg", default=5.0, min=0.0, max=100.0, step=0.1, tooltip="As at the sampler."),
                io.Combo.Input(
                    "sampler_name",
                    options=host.samplers(),
                    tooltip="As at the sampler: one that evaluates once a step and adds no noise.",
                ),
                io.Combo.Input("scheduler", options=host.schedulers(), tooltip="As at the sampler."),
                advanced(
                    io.Float.Input("denoise", default=1.0, min=0.01, max=1.0, step=0.01, tooltip="As at the sampler.")
                ),
                advanced(
                    io.Int.Input(
                        "first_seed",
                        default=0,
                        min=0,
                        max=2**32,
                        tooltip="Of the first video; the others have the seeds after it.",
                    )
                ),
                advanced(
                    io.Int.Input("calibrate", default=2, min=2, max=16, tooltip="So many videos to make the plan of.")
                ),
                advanced(
                    io.Int.Input(
                        "verify", default=2, min=2, max=64, tooltip="So many videos to prove it on; more tell more."
                    )
                ),
                advanced(
                    io.Float.Input(
                        "budget",
                        default=12.0,
                        min=4.0,
                        max=1000.0,
                        step=0.5,
                        tooltip="The most that it may take, in uncached samplings: 12 takes at most as long as "
                        "sampling twelve times without a cache. A hard limit.",
                    )
                ),
                advanced(
                    io.Boolean.Input(
                        "again",
                        default=False,
                        tooltip="Make the plan anew where there is one of this name. Off: one that was made for "
                        "exactly this is handed on, and nothing is sampled.",
                    )
                ),
            ],
            outputs=[METHOD.Output("plan", display_name="plan"), io.String.Output("text", display_name="text")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent_image: Any,
        vae: Any,
        name: str,
        grade: str,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        first_seed: int,
        calibrate: int,
        verify: int,
        budget: float,
        again: bool,
        **further: Any,
    ) -> io.NodeOutput:
        if "noise_mask" in latent_image:
            action = "tune on latents without one"
            raise SettingError(complaint("latents with a mask", "latents that are sampled as a whole", action))
        path = plans.path_of(host.plan_folders(), name)
        prompts = [positive, *(further.get(f"positive_{place}") for place in (2, 3, 4))]
        given = {f"prompt {place}": one for place, one in enumerate(prompts, 1) if one is not None}
        function = host.sampler_function(sampler_name)
        latents = latent_image["samples"]
        asked = Asked(steps, cfg, sampler_name, scheduler, denoise, function, negative, latents, given, first_seed)
        tuning = Tuning(model, vae, asked, grade, calibrate, verify, budget)
        if path.exists() and not again:
            plan = tuning.kept(path)
        else:
            bar = host.Progress(getattr(cls.hidden, "unique_id", None), int(budget * steps))
            stage = Stage(host.sampled, partial(host.decoded, vae), bar.at, bar.say)
            plan = tuning.run(stage, path)
        text = summary(plan)
        return io.NodeOutput(plan, text, ui=ui.PreviewText(text))


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
