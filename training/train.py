"""Train the built-in model with one command: ``python -m training.train``.

Stages: autoencoder, latents, transformer with text encoder, export. Each stage saves its state in the run folder and
an interrupted command goes on where it stopped. Every step draws its data from its own seed, so that an interrupted
run ends with the same weights as one that was not.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from torch import Tensor, nn
from tqdm import tqdm
from transformers import T5Tokenizer, UMT5EncoderModel

from training.data import Caption, make_videos, split
from training.model import (
    PROMPT_TOKENS,
    Recipe,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_transformer,
    build_vae,
    decode_whole,
    encode_whole,
    normalise,
)

ROOT = Path(__file__).resolve().parent
WEIGHTS = ROOT.parent / "src" / "bwcache" / "shapes" / "weights"
EMPTY_IN_TWO_FORMS = "extra_special_tokens"  # transformers 4 reads a mapping, 5 writes a list


Kind = TypeVar("Kind", bound=Recipe, covariant=True)


@dataclass(frozen=True)
class Run(Generic[Kind]):
    """Where and how a recipe is trained; none of it changes what is learned beyond rounding."""

    recipe: Kind
    folder: Path
    device: str = "cpu"
    bfloat16: bool = False
    compile: bool = False

    def autocast(self) -> torch.autocast:
        """Context in which forward passes run."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bfloat16)


def generator_at(recipe: Recipe, stage: int, step: int) -> torch.Generator:
    """The random numbers of one step, the same whether or not the run was interrupted before it."""
    return torch.Generator().manual_seed((recipe.seed * 10 + stage) * 10_000_000 + step)


def rate_at(step: int, steps: int, warmup: float) -> float:
    """Learning rate factor: linear warmup, then cosine decay to zero."""
    done = step / steps
    return min((step + 1) / (warmup * steps + 1), 1.0) * 0.5 * (1 + math.cos(math.pi * done))


def save(state: dict, path: Path) -> None:
    """Write a checkpoint so that a reader sees the old one or the new one, never half of one."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load(path: Path) -> dict | None:
    """The checkpoint, or None where the stage has not begun."""
    return torch.load(path, weights_only=True) if path.exists() else None


def fit(
    run: Run,
    stage: str,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    loss_at: Callable[[int], Tensor],
    steps: int,
    average: nn.Module | None = None,
) -> None:
    """Minimise ``loss_at(step)`` over the steps, resuming from the stage's checkpoint.

    ``average`` follows the model as an exponential moving average of its weights.
    """
    recipe, path = run.recipe, run.folder / f"{stage}.pt"
    state = load(path) or {"step": 0, "seconds": 0.0, "log": []}
    if state["step"]:
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if average is not None:
            average.load_state_dict(state["average"])
    peak = [[group.get("peak", group["lr"]) for group in optimizer.param_groups] for optimizer in optimizers]
    seconds, log, total, since = state["seconds"], state["log"], 0.0, state["step"]
    start = time.perf_counter()
    for step in (bar := tqdm(range(state["step"], steps), stage, initial=state["step"], total=steps, mininterval=5)):
        factor = rate_at(step, steps, recipe.warmup)
        for optimizer, rates in zip(optimizers, peak, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["peak"], group["lr"] = rate, rate * factor
        loss = loss_at(step)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if average is not None:
            decay = min(recipe.ema, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        total += loss.item()
        done = step + 1
        if done % recipe.log_every == 0 or done == steps:
            elapsed = seconds + time.perf_counter() - start
            loss = round(total / (done - since), 5)
            log.append({"stage": stage, "step": done, "loss": loss, "seconds": round(elapsed)})
            bar.set_postfix(loss=loss)
            total, since = 0.0, done
        if done % recipe.save_every == 0 or done == steps:
            save(
                {
                    "step": done,
                    "seconds": seconds + time.perf_counter() - start,
                    "log": log,
                    "model": model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "average": average.state_dict() if average is not None else None,
                },
                path,
            )


def pick(captions: list[Caption], count: int, generator: torch.Generator) -> list[Caption]:
    """Captions drawn with replacement."""
    return [captions[i] for i in torch.randint(len(captions), (count,), generator=generator).tolist()]


def train_vae(run: Run) -> AutoencoderKLWan:
    """Stage 1: the autoencoder, on freshly rendered videos."""
    recipe = run.recipe
    torch.manual_seed(recipe.seed)
    vae = build_vae(recipe).to(run.device)
    captions, _ = split(recipe.held_out)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=recipe.vae_rate, betas=(0.9, 0.99), weight_decay=1e-4)

    def reconstruct(video: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = encode_whole(vae, video)
        log_variance = log_variance.clamp(-30, 20)
        return decode_whole(vae, mean + noise * (0.5 * log_variance).exp()), mean, log_variance

    if run.compile:
        reconstruct = torch.compile(reconstruct)

    def loss_at(step: int) -> Tensor:
        generator = generator_at(recipe, 1, step)
        video = make_videos(pick(captions, recipe.vae_batch, generator), generator, recipe.size, recipe.frames)
        scale, config = 2 ** len(recipe.vae_levels), vae.config
        shape = (len(video), config.z_dim, recipe.frames // 2 + 1, recipe.size // scale, recipe.size // scale)
        noise = torch.randn(shape, generator=generator).to(run.device)
        video = (2 * video - 1).to(run.device)
        with run.autocast():
            output, mean, log_variance = reconstruct(video, noise)
        error, mean, log_variance = output.float() - video, mean.float(), log_variance.float()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return error.abs().mean() + 2 * error.square().mean() + recipe.kl_weight * kl

    fit(run, "autoencoder", vae, [optimizer], loss_at, recipe.vae_steps)
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def encode_videos(run: Run, vae: AutoencoderKLWan) -> dict[str, Any]:
    """Raw latents (N, C, f, h, w) of rendered videos, each one's caption number in rows (N,), mean and std (C,)."""
    recipe, path = run.recipe, run.folder / "latents.pt"
    state = load(path)
    if state is None:
        captions, _ = split(recipe.held_out)
        encode = torch.compile(encode_whole) if run.compile else encode_whole
        rows = torch.arange(recipe.latent_videos) % len(captions)
        means = []
        for step, chunk in enumerate(tqdm(rows.split(64), "latents", mininterval=5)):
            generator = generator_at(recipe, 2, step)
            video = make_videos([captions[i] for i in chunk], generator, recipe.size, recipe.frames)
            with run.autocast():
                means.append(encode(vae, (2 * video - 1).to(run.device))[0].half().cpu())
        latents = torch.cat(means)
        std, mean = torch.std_mean(latents.float(), (0, 2, 3, 4))
        state = {"latents": latents, "rows": rows, "mean": mean.tolist(), "std": std.tolist()}
        save(state, path)
    return state


def make_latents(run: Run, vae: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    """Stage 2: normalised latents (N, C, f, h, w) of rendered videos and each one's caption number (N,).

    The mean and deviation they are normalised by go into the autoencoder's config.
    """
    state = encode_videos(run, vae)
    vae.register_to_config(latents_mean=state["mean"], latents_std=state["std"])
    return normalise(vae, state["latents"]), state["rows"]


@dataclass(frozen=True)
class Examples:
    """What a denoiser learns from: latents (N, C, f, h, w), each one's caption number, and what stands for a caption.

    ``texts`` (M + 1, ...) are token ids or embeddings of the M captions and, last, of the empty one.
    """

    latents: Tensor
    rows: Tensor
    texts: Tensor
    weights: Tensor  # (N,) how often each is drawn

    def draw(self, recipe: Recipe, stage: int, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents (B, C, f, h, w), texts (B, ...), noise levels (B,) in [0, 1] and noise of one training step."""
        generator = generator_at(recipe, stage, step)
        chosen = torch.multinomial(self.weights, recipe.batch, replacement=True, generator=generator)
        clean = self.latents[chosen].float()
        dropped = torch.rand(recipe.batch, generator=generator) < recipe.drop_caption
        texts = self.texts[torch.where(dropped, len(self.texts) - 1, self.rows[chosen])]
        sigma = torch.rand(recipe.batch, generator=generator)
        sigma = recipe.shift * sigma / (1 + (recipe.shift - 1) * sigma)
        return clean, texts, sigma, torch.randn(clean.shape, generator=generator)


def drawing_weights(recipe: Recipe, captions: list[Caption], rows: Tensor) -> Tensor:
    """How often each example (N,) is drawn: rotation, the hardest motion, more often."""
    rotates = torch.tensor([caption.motion == "rotate" for caption in captions])[rows]
    return torch.where(rotates, recipe.rotate_weight, 1.0)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of queries or keys (B, L, heads, D), neighbouring channels as pairs."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)


class TrainingAttention(WanAttnProcessor):
    """The attention of WanAttnProcessor, faster to train; ``bias`` (1, 1, 1, L) is added to the logits.

    WanPipeline appends zero tokens to every caption and attends to all of them. Equal keys share one softmax weight,
    so one zero token with the logarithm of their number added to its logit gives the same result.
    """

    def __init__(self, bias: Tensor | None = None) -> None:
        super().__init__()
        self.bias = bias

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attend from tokens (B, L, width) to the same or to the caption's."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key = attn.norm_q(attn.to_q(hidden_states).float()), attn.norm_k(attn.to_k(source).float())
        query, key, value = (x.unflatten(2, (attn.heads, -1)) for x in (query, key, attn.to_v(source)))
        if rotary_emb is not None:
            query, key = rotate(query, *rotary_emb), rotate(key, *rotary_emb)
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        device = query.device.type
        bias = None if self.bias is None else self.bias.to(query.device)
        # bfloat16 makes matrix products on a CPU 2.5 times faster, but this kernel 3 times slower
        with torch.autocast(device, enabled=device != "cpu"):
            output = nn.functional.scaled_dot_product_attention(query, key, value.float(), bias)
        return attn.to_out[0](output.transpose(1, 2).flatten(2).type_as(hidden_states))


def padding_bias(tokens: int) -> Tensor:
    """Logit bias (1, 1, 1, tokens + 1) that makes the last token stand for all up to PROMPT_TOKENS."""
    bias = torch.zeros(1, 1, 1, tokens + 1)
    bias[..., -1] = math.log(PROMPT_TOKENS - tokens)
    return bias


class Captioner(nn.Module):
    """Text encoder and transformer as they are trained: caption tokens and noisy latents to the flow."""

    def __init__(self, text_encoder: UMT5EncoderModel, transformer: WanTransformer3DModel, tokens: int) -> None:
        super().__init__()
        self.text_encoder, self.transformer = text_encoder, transformer
        for block in transformer.blocks:
            block.attn1.set_processor(TrainingAttention())
            block.attn2.set_processor(TrainingAttention(padding_bias(tokens)))

    def forward(self, latent: Tensor, sigma: Tensor, ids: Tensor) -> Tensor:
        """Flow (B, C, f, h, w) at latents of noise level sigma (B,), for token ids (B, tokens) padded by zeros."""
        mask = ids.ne(0)
        embeds = self.text_encoder(ids, mask.long()).last_hidden_state * mask[..., None]
        embeds = nn.functional.pad(embeds, (0, 0, 0, 1))
        return self.transformer(latent, 1000 * sigma, embeds, return_dict=False)[0]


def tokenize(tokenizer: T5Tokenizer, captions: list[str], recipe: Recipe) -> Tensor:
    """Token ids (N, caption_tokens), padded by zeros."""
    return tokenizer(captions, padding="max_length", max_length=recipe.caption_tokens, return_tensors="pt").input_ids


def make_tokenizer(recipe: Recipe) -> T5Tokenizer:
    """The tokenizer of the recipe's training captions."""
    return build_tokenizer([caption.text for caption in split(recipe.held_out)[0]])


def make_captioner(recipe: Recipe, tokenizer: T5Tokenizer) -> Captioner:
    """The untrained text encoder and transformer of the recipe."""
    torch.manual_seed(recipe.seed + 1)
    return Captioner(build_text_encoder(recipe, len(tokenizer)), build_transformer(recipe), recipe.caption_tokens)


def muon_and_adamw(recipe: Recipe, model: nn.Module, blocks: Iterable[nn.Module]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for all else that is trained."""
    matrices = [value for block in blocks for value in block.parameters() if value.ndim == 2 and value.requires_grad]
    chosen = set(map(id, matrices))
    others = [value for value in model.parameters() if id(value) not in chosen and value.requires_grad]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def flow_loss(run: Run, model: nn.Module, clean: Tensor, ids: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """Squared error of the flow at latents (B, C, f, h, w) mixed with noise at levels sigma (B,)."""
    clean, ids, sigma, noise = (value.to(run.device) for value in (clean, ids, sigma, noise))
    level = sigma.view(-1, 1, 1, 1, 1)
    with run.autocast():
        flow = model((1 - level) * clean + level * noise, sigma, ids)
    return nn.functional.mse_loss(flow.float(), noise - clean)


def train_transformer(run: Run, latents: Tensor, rows: Tensor) -> None:
    """Stage 3: text encoder and transformer by flow matching on the latents."""
    recipe = run.recipe
    tokenizer = make_tokenizer(recipe)
    captions, _ = split(recipe.held_out)
    ids = tokenize(tokenizer, [*(caption.text for caption in captions), ""], recipe)
    examples = Examples(latents, rows, ids, drawing_weights(recipe, captions, rows))
    model = make_captioner(recipe, tokenizer).to(run.device)
    average = make_captioner(recipe, tokenizer).to(run.device).requires_grad_(False)
    optimizers = muon_and_adamw(recipe, model, model.transformer.blocks)
    if run.compile:
        model.transformer.compile_repeated_blocks()

    def loss_at(step: int) -> Tensor:
        return flow_loss(run, model, *examples.draw(recipe, 3, step))

    fit(run, "transformer", model, optimizers, loss_at, recipe.steps, average)


def make_pipeline(run: Run) -> WanPipeline:
    """The pipeline of what the run has trained so far; stages without a checkpoint give untrained parts."""
    recipe = run.recipe
    tokenizer = make_tokenizer(recipe)
    torch.manual_seed(recipe.seed)
    vae, captioner = build_vae(recipe), make_captioner(recipe, tokenizer)
    if state := load(run.folder / "autoencoder.pt"):
        vae.load_state_dict(state["model"])
    if state := load(run.folder / "latents.pt"):
        vae.register_to_config(latents_mean=state["mean"], latents_std=state["std"])
    if state := load(run.folder / "transformer.pt"):
        captioner.load_state_dict(state["average"])
    transformer = captioner.transformer
    transformer.set_attn_processor(WanAttnProcessor())
    parts = {"tokenizer": tokenizer, "text_encoder": captioner.text_encoder, "transformer": transformer, "vae": vae}
    return WanPipeline(**parts, scheduler=build_scheduler(recipe))


def export(run: Run, folder: Path, log: Path) -> None:
    """Write the pipeline beside the folder, then put it in the folder's place; write the log."""
    fresh, stale = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    for leftover in (fresh, stale):
        shutil.rmtree(leftover, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    make_pipeline(run).save_pretrained(fresh)
    index = fresh / "model_index.json"  # the name of the fast tokenizer that transformers 4 and 5 share
    index.write_text(index.read_text().replace('"T5Tokenizer"', '"T5TokenizerFast"'))
    settings = fresh / "tokenizer" / "tokenizer_config.json"
    kept = {name: value for name, value in json.loads(settings.read_text()).items() if name != EMPTY_IN_TWO_FORMS}
    settings.write_text(json.dumps(kept, indent=2) + "\n")
    for path in fresh.rglob("*.safetensors"):
        path.chmod(0o644)
    if folder.exists():
        folder.rename(stale)
    fresh.rename(folder)
    shutil.rmtree(stale, ignore_errors=True)
    write_log(run, log)


def write_log(run: Run, path: Path, stages: Sequence[str] = ("autoencoder", "transformer")) -> None:
    """The log of the stages as JSON lines."""
    states = [load(run.folder / f"{stage}.pt") for stage in stages]
    lines = [{"recipe": asdict(run.recipe)}] + [line for state in states if state for line in state["log"]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def train(run: Run, weights: Path, log: Path) -> None:
    """All stages, then the export."""
    run.folder.mkdir(parents=True, exist_ok=True)
    vae = train_vae(run)
    latents, rows = make_latents(run, vae)
    train_transformer(run, latents, rows)
    export(run, weights, log)


def command(
    text: str,
    kind: type[Recipe],
    train: Callable[[Run, Path, Path], None],
    export: Callable[[Run, Path, Path], None],
    folder: Path,
    weights: Path,
    log: Path,
) -> None:
    """A command line for a kind of recipe: every number in it is an option."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=folder, help="folder of the checkpoints")
    parser.add_argument("--weights", type=Path, default=weights, help="folder the weights are written to")
    parser.add_argument("--log", type=Path, default=log, help="file the log is written to")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=kind is Recipe)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=kind is Recipe)
    parser.add_argument("--export", action="store_true", help="only write the weights as trained so far")
    options = [field.name for field in fields(kind) if isinstance(field.default, int | float)]
    for name in options:
        default = getattr(kind, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    given = parser.parse_args()
    recipe = kind(**{name: getattr(given, name) for name in options})
    run = Run(recipe, given.run, given.device, given.bfloat16, given.compile)
    (export if given.export else train)(run, given.weights, given.log)


if __name__ == "__main__":
    command(__doc__, Recipe, train, export, ROOT / "runs" / "shapes", WEIGHTS, ROOT / "log.jsonl")
