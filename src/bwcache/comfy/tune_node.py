"""The node that makes a plan. Only ComfyUI imports this module: `comfy_api` is its own."""

from __future__ import annotations

from functools import partial
from typing import Any

from comfy_api.latest import io, ui

from bwcache.comfy import host, plans, words
from bwcache.comfy.declared import advanced
from bwcache.comfy.tuning import Asked, Stage, Tuning, summary
from bwcache.errors import SettingError, complaint

CATEGORY = "bwcache"
METHOD = io.Custom("BWCACHE_METHOD")
"""A method, or a plan."""


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
