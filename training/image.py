"""Make the built-in model one of images, by a low-rank update: ``python -m training.image``.

As shipped it knows videos of nine frames and gives nothing sensible for one. The update (LoRA) is trained on the
first latent frame of the same videos, which the autoencoder makes of their first picture alone. Text encoder,
autoencoder and the transformer's own weights stay as they are.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import WanPipeline
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from bwcache import shapes
from training.data import split
from training.model import Recipe, normalise
from training.train import (
    ROOT,
    Captioner,
    Examples,
    Run,
    command,
    drawing_weights,
    encode_videos,
    fit,
    flow_loss,
    load,
    tokenize,
    write_log,
)

WEIGHTS = ROOT / "weights" / "image"
LOG = ROOT / "weights" / "image.jsonl"
STAGE = 6  # of the random numbers: 1 to 3 are those of the built-in model, 4 and 5 those of the U-Net


@dataclass(frozen=True)
class ImageRecipe(Recipe):
    """The recipe of the built-in model for a low-rank update of its transformer."""

    rank: int = 4
    steps: int = 600
    batch: int = 32
    rate: float = 3e-3
    ema: float = 0.99
    save_every: int = 25
    rotate_weight: float = 1.0


def make_model(recipe: ImageRecipe, pipeline: WanPipeline) -> Captioner:
    """The pipeline's text encoder and transformer with an update that is zero at first and is all that is trained."""
    model = Captioner(pipeline.text_encoder, pipeline.transformer, recipe.caption_tokens).requires_grad_(False)
    targets = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
    torch.manual_seed(recipe.seed + STAGE)
    model.transformer.add_adapter(LoraConfig(r=recipe.rank, lora_alpha=recipe.rank, target_modules=targets))
    return model


def make_examples(run: Run[ImageRecipe], pipeline: WanPipeline) -> Examples:
    """First latent frames (N, C, 1, h, w) of rendered videos and the token ids of their captions."""
    captions, _ = split(run.recipe.held_out)
    state = encode_videos(run, pipeline.vae)
    ids = tokenize(pipeline.tokenizer, [*(caption.text for caption in captions), ""], run.recipe)
    images = normalise(pipeline.vae, state["latents"][:, :, :1])
    return Examples(images, state["rows"], ids, drawing_weights(run.recipe, captions, state["rows"]))


def train_update(run: Run[ImageRecipe], model: Captioner, examples: Examples) -> None:
    """The update, by flow matching on the examples."""
    recipe, model = run.recipe, model.to(run.device)
    average = deepcopy(model).requires_grad_(False)
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.0)

    def loss_at(step: int) -> Tensor:
        return flow_loss(run, model, *examples.draw(recipe, STAGE, step))

    fit(run, "image", model, [optimizer], loss_at, recipe.steps, average)


def export(run: Run[ImageRecipe], weights: Path, log: Path) -> None:
    """Write the update as trained so far in bfloat16, and its log."""
    model = make_model(run.recipe, shapes.load())
    if state := load(run.folder / "image.pt"):
        model.load_state_dict(state["average"])
    update = {name: value.to(torch.bfloat16) for name, value in get_peft_model_state_dict(model.transformer).items()}
    WanPipeline.save_lora_weights(weights, transformer_lora_layers=update)
    write_log(run, log, ("image",))


def train(run: Run[ImageRecipe], weights: Path, log: Path) -> None:
    """Latents, update, export."""
    run.folder.mkdir(parents=True, exist_ok=True)
    pipeline = shapes.load()
    examples = make_examples(run, pipeline)
    train_update(run, make_model(run.recipe, pipeline), examples)
    export(run, weights, log)


if __name__ == "__main__":
    command(__doc__, ImageRecipe, train, export, ROOT / "runs" / "small", WEIGHTS, LOG)
