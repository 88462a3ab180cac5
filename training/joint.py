"""Train a small video model with joint attention, as in HunyuanVideo: ``python -m training.joint``.

A ``HunyuanVideoTransformer3DModel`` in the latent space of the shapes autoencoder and on the embeddings of the shapes
text encoder, which both stay as they are. It learns the flow by the recipe of the built-in model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    DiffusionPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    SchedulerMixin,
    WanPipeline,
)
from diffusers.pipelines.hunyuan_video.pipeline_output import HunyuanVideoPipelineOutput
from diffusers.video_processor import VideoProcessor
from torch import Tensor, nn
from transformers import T5Tokenizer, UMT5EncoderModel

from bwcache import shapes
from training.data import split
from training.model import Recipe, normalise
from training.train import (
    ROOT,
    Examples,
    Run,
    command,
    drawing_weights,
    encode_videos,
    fit,
    flow_loss,
    load,
    muon_and_adamw,
    tokenize,
    write_log,
)

WEIGHTS = ROOT / "weights" / "joint"
LOG = ROOT / "weights" / "joint.jsonl"
STAGE = 7  # of the random numbers: 1 to 6 are those of the other models

Encoded = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class JointRecipe(Recipe):
    """The recipe of the built-in model with joint attention in place of attention to the caption."""

    width: int = 96
    heads: int = 3
    layers: int = 2  # of two streams, caption and video apart but for their attention
    single_layers: int = 4  # of one stream
    refiner_layers: int = 1
    axes: tuple[int, ...] = (8, 12, 12)  # channels of a head that turn with time, row and column
    caption_tokens: int = 12
    latent_videos: int = 8256  # two per training caption
    steps: int = 4700
    batch: int = 32
    save_every: int = 50


def build_transformer(recipe: JointRecipe) -> HunyuanVideoTransformer3DModel:
    """Untrained transformer over latents (B, C, f, h, w) and embeddings (B, L, text_width)."""
    model = HunyuanVideoTransformer3DModel(
        in_channels=recipe.latent_channels,
        out_channels=recipe.latent_channels,
        num_attention_heads=recipe.heads,
        attention_head_dim=recipe.width // recipe.heads,
        num_layers=recipe.layers,
        num_single_layers=recipe.single_layers,
        num_refiner_layers=recipe.refiner_layers,
        text_embed_dim=recipe.text_width,
        pooled_projection_dim=recipe.text_width,
        rope_axes_dim=recipe.axes,
        guidance_embeds=False,
    )
    initialise(model)
    return model


@torch.no_grad()
def initialise(model: HunyuanVideoTransformer3DModel) -> None:
    """Start values that let the gradient reach every block: half open gates, and nothing yet predicted."""
    nn.init.zeros_(model.proj_out.weight)
    nn.init.zeros_(model.proj_out.bias)
    norms = [block.norm1 for block in model.transformer_blocks]
    norms += [block.norm1_context for block in model.transformer_blocks]
    norms += [block.norm for block in model.single_transformer_blocks]
    for norm in norms:  # shift, scale and gate, once or twice
        nn.init.normal_(norm.linear.weight, std=0.02)
        norm.linear.bias.zero_()
        norm.linear.bias.unflatten(0, (-1, 3, norm.linear.in_features))[:, 2] = 0.5


class JointCaptioner(nn.Module):
    """Text encoder, which stays as it is, and transformer: caption tokens and noisy latents to the flow."""

    def __init__(self, text_encoder: UMT5EncoderModel, transformer: HunyuanVideoTransformer3DModel) -> None:
        super().__init__()
        self.text_encoder, self.transformer = text_encoder.requires_grad_(False), transformer

    def forward(self, latent: Tensor, sigma: Tensor, ids: Tensor) -> Tensor:
        """Flow (B, C, f, h, w) at latents of noise level sigma (B,), for token ids (B, L) padded by zeros."""
        embeds, mask, pooled = encode(self.text_encoder, ids)
        return self.transformer(latent, 1000 * sigma, embeds, mask, pooled, return_dict=False)[0]


def encode(text_encoder: UMT5EncoderModel, ids: Tensor) -> Encoded:
    """Embeddings (B, L, D) of token ids (B, L) padded by zeros, their mask (B, L) and their mean (B, D)."""
    mask = ids.ne(0).long()
    embeds = text_encoder(ids, mask).last_hidden_state * mask[..., None]
    return embeds, mask, embeds.sum(1) / mask.sum(1, keepdim=True)


class ShapesJointPipeline(HunyuanVideoPipeline):
    """HunyuanVideoPipeline with text encoder and autoencoder of the built-in model, guided in two forwards.

    Steps are those of the scheduler itself, whichever it is, as in WanPipeline.
    """

    def __init__(
        self,
        vae: AutoencoderKLWan,
        text_encoder: UMT5EncoderModel,
        tokenizer: T5Tokenizer,
        transformer: HunyuanVideoTransformer3DModel,
        scheduler: SchedulerMixin,
        text_encoder_2: None = None,
        tokenizer_2: None = None,
    ) -> None:
        DiffusionPipeline.__init__(self)
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            transformer=transformer,
            scheduler=scheduler,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
        )
        self.vae_scale_factor_temporal = vae.config.scale_factor_temporal
        self.vae_scale_factor_spatial = vae.config.scale_factor_spatial
        self.video_processor = VideoProcessor(self.vae_scale_factor_spatial)

    def encode_prompt(self, prompt: str | list[str], max_sequence_length: int = 20) -> Encoded:
        """Embeddings (B, L, D) of prompts, their mask (B, L) and their mean (B, D); prompts that are longer are cut."""
        prompts = [prompt] if isinstance(prompt, str) else prompt
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids = self.tokenizer(prompts, max_length=max_sequence_length, **options).input_ids
        return encode(self.text_encoder, ids.to(self._execution_device))

    def predict(self, branch: str, latents: Tensor, step: int, encoded: Encoded) -> Tensor:
        """Flow (B, C, f, h, w) at the latents of a step, for one branch of the guidance; caches are told the step."""
        embeds, mask, pooled = encoded
        t, sigma = self.scheduler.timesteps[step], float(self.scheduler.sigmas[step])
        total = len(self.scheduler.timesteps)
        with self.transformer.cache_context(branch, step_index=step, sigma=sigma, num_inference_steps=total):
            return self.transformer(
                hidden_states=latents.to(self.transformer.dtype),
                timestep=t.expand(len(latents)),
                encoder_hidden_states=embeds,
                encoder_attention_mask=mask,
                pooled_projections=pooled,
                return_dict=False,
            )[0]

    def decode(self, latents: Tensor, output_type: str) -> Any:
        """Videos of latents (B, C, f, h, w): "pt" (B, F, 3, H, W), "np" (B, F, H, W, 3), "pil", or the latents."""
        if output_type == "latent":
            return latents
        shape, config = (1, -1, 1, 1, 1), self.vae.config
        mean, std = (latents.new_tensor(value).view(shape) for value in (config.latents_mean, config.latents_std))
        video = self.vae.decode((latents * std + mean).to(self.vae.dtype)).sample
        return self.video_processor.postprocess_video(video, output_type=output_type)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        negative_prompt: str = "",
        height: int = shapes.HEIGHT,
        width: int = shapes.WIDTH,
        num_frames: int = shapes.FRAMES,
        num_inference_steps: int = shapes.STEPS,
        guidance_scale: float = shapes.GUIDANCE_SCALE,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> HunyuanVideoPipelineOutput | tuple[Any]:
        """Videos of the prompts; a guidance scale of 1 needs one forward per step, any larger one two."""
        self.check_inputs(prompt, None, height, width, None, callback_on_step_end_tensor_inputs)
        self._guidance_scale, self._interrupt = guidance_scale, False
        prompts = [prompt] if isinstance(prompt, str) else prompt
        asked = self.encode_prompt(prompts)
        empty = self.encode_prompt([negative_prompt] * len(prompts))
        device, channels = self._execution_device, self.transformer.config.in_channels
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        size = (len(prompts), channels, height, width, num_frames)
        latents = self.prepare_latents(*size, torch.float32, device, generator, latents)
        with self.progress_bar(total=num_inference_steps) as bar:
            for step, t in enumerate(self.scheduler.timesteps):
                if self.interrupt:
                    continue
                flow = self.predict("cond", latents, step, asked)
                if guidance_scale > 1:
                    unguided = self.predict("uncond", latents, step, empty)
                    flow = unguided + guidance_scale * (flow - unguided)
                latents = self.scheduler.step(flow, t, latents, return_dict=False)[0]
                if callback_on_step_end is not None:
                    latents = callback_on_step_end(self, step, t, {"latents": latents}).pop("latents", latents)
                bar.update()
        video = self.decode(latents, output_type)
        self.maybe_free_model_hooks()
        return HunyuanVideoPipelineOutput(frames=video) if return_dict else (video,)


def make_pipeline(transformer: HunyuanVideoTransformer3DModel) -> ShapesJointPipeline:
    """The transformer between the tokenizer, text encoder, autoencoder and scheduler of the built-in model."""
    parts: WanPipeline = shapes.load()
    return ShapesJointPipeline(parts.vae, parts.text_encoder, parts.tokenizer, transformer, parts.scheduler)


def matrices(model: HunyuanVideoTransformer3DModel) -> list[nn.Module]:
    """What Muon trains: attention and feed-forward of every block; modulation is left to AdamW."""
    blocks = [
        *model.context_embedder.token_refiner.refiner_blocks,
        *model.transformer_blocks,
        *model.single_transformer_blocks,
    ]
    return [part for block in blocks for name, part in block.named_children() if not name.startswith("norm")]


def make_examples(run: Run[JointRecipe], pipeline: WanPipeline) -> Examples:
    """Latents of rendered videos and the token ids of their captions."""
    captions, _ = split(run.recipe.held_out)
    state = encode_videos(run, pipeline.vae)
    ids = tokenize(pipeline.tokenizer, [*(caption.text for caption in captions), ""], run.recipe)
    weights = drawing_weights(run.recipe, captions, state["rows"])
    return Examples(normalise(pipeline.vae, state["latents"]), state["rows"], ids, weights)


def train_transformer(run: Run[JointRecipe], pipeline: WanPipeline, examples: Examples) -> None:
    """The transformer, by flow matching on the examples."""
    recipe = run.recipe
    torch.manual_seed(recipe.seed + STAGE)
    model = JointCaptioner(pipeline.text_encoder, build_transformer(recipe)).to(run.device)
    average = deepcopy(model).requires_grad_(False)
    optimizers = muon_and_adamw(recipe, model, matrices(model.transformer))
    if run.compile:
        model.transformer.compile_repeated_blocks()

    def loss_at(step: int) -> Tensor:
        return flow_loss(run, model, *examples.draw(recipe, STAGE, step))

    fit(run, "joint", model, optimizers, loss_at, recipe.steps, average)


def export(run: Run[JointRecipe], weights: Path, log: Path) -> None:
    """Write the transformer as trained so far in float16, and its log."""
    model = JointCaptioner(shapes.load().text_encoder, build_transformer(run.recipe))
    if state := load(run.folder / "joint.pt"):
        model.load_state_dict(state["average"])
    model.transformer.to(torch.float16).save_pretrained(weights)
    write_log(run, log, ("joint",))


def train(run: Run[JointRecipe], weights: Path, log: Path) -> None:
    """Latents, transformer, export."""
    run.folder.mkdir(parents=True, exist_ok=True)
    pipeline = shapes.load()
    train_transformer(run, pipeline, make_examples(run, pipeline))
    export(run, weights, log)


if __name__ == "__main__":
    command(__doc__, JointRecipe, train, export, ROOT / "runs" / "small", WEIGHTS, LOG)
