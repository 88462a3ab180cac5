"""What one row of the model table says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

from bwcache.former_names import takes_former_fields

Guidance = Literal["batched", "separate", "either", "none"]
"""How the pipelines of a model run classifier-free guidance: in one forward, in forwards of their own, as the pipeline
likes, or not at all (distilled)."""

CONDITIONS = (
    *("encoder_hidden_states", "encoder_hidden_states_2", "encoder_hidden_states_t5", "encoder_hidden_states_llama3"),
    *("encoder_hidden_states_image", "audio_encoder_hidden_states", "encoder_hidden_states_mask"),
    *("encoder_attention_mask", "encoder_attention_mask_2", "audio_encoder_attention_mask", "encoder_mask"),
    *("text_embedding_mask", "text_embedding_mask_t5", "text_encoder_layers", "text_bth", "text_lens"),
    *("pooled_projections", "pooled_embeds", "added_cond_kwargs", "image_embeds", "image_embeddings", "class_labels"),
    *("input_ids", "prior_token_id", "prior_token_drop", "cap_feats"),
    *("context", "clip_fea", "txt", "y", "y_vec", "y_feat", "y_mask", "text", "text_embedding"),  # native code
    *("text_states", "text_mask", "text_states_2", "caption"),
)
"""What prompts and images to go by are called in the forwards of denoisers."""


@dataclass(frozen=True)
class Part:
    """A module inside of a block that the block calls once: an attention, a feed-forward net.

    Attributes:
        path: attribute path in the block, such as "attn1" or "ff.net"; a list stands for all of its modules, those of
            several such parts called in turn.
        returns: what it returns, in order, by the names that its own `forward` gives to the same streams as arguments.
        outlined: whether it returns something else than it takes in: then `returns` only names the values.
    """

    path: str
    returns: tuple[str, ...] = ("hidden_states",)
    outlined: bool = False


@dataclass(frozen=True)
class Idle:
    """A module outside of the blocks that is idle in a replay only where its output is not read after the last block.

    Attributes:
        path: as in `BlockSpec.idle`.
        config_entry: the entry of the denoiser's config that says after which blocks it is read: their ordinals, or a
            number for every so many blocks, the first one among them. Without that entry it is not idle.
    """

    path: str
    config_entry: str


@dataclass(frozen=True)
class BlockList:
    """One list of blocks of a denoiser.

    Attributes:
        path: attribute path of the `ModuleList` or `ModuleDict` in the denoiser, or of one block that stands alone.
        returns: what a block returns, in order, by the names that its own `forward` gives to the same streams as
            arguments. One name: the block returns a bare tensor. Skipping a block hands these arguments back. Where one
            argument is a tuple of them, "x[0]" and "x[1]".
        measured: what this list calls the measured stream, where that differs from the row's.
        outlined: whether a block returns something else than it takes in (a U-Net's, with its skips): then `returns`
            only names the values, and a skipped block hands back empty tensors of the shapes that it last returned.
        optional: whether a module may have none of them. Where the last list is missing, the measured stream of the one
            before is what the rest of the forward reads.
        hook: for a model that never calls the blocks themselves: the function that it calls in place of each, as a path
            to an entry of a mapping in the denoiser, such as "hooks.layer_forward". `returns` names its arguments.
        index: the keyword argument that tells that function which block it is.
        parts: what a block calls inside, kind to `Part` (a bare string is a `Part` that returns "hidden_states"), in
            call order: "self", "cross", "temporal", "joint" (text and picture in one attention), "ffn", "text_ffn", ….
            A block may lack some of them, as the last one often does.
        parts_missing: why a kind that one would look for is not among them.
    """

    path: str
    returns: tuple[str, ...] = ("hidden_states",)
    measured: str | None = None
    outlined: bool = False
    optional: bool = False
    hook: str | None = None
    index: str = "layer_id"
    parts: Mapping[str, str | Part] = field(default_factory=dict, hash=False)
    parts_missing: str = ""

    def __repr__(self) -> str:
        return _brief(self)


@takes_former_fields
@dataclass(frozen=True)
class BlockSpec:
    """A row: how the blocks of one denoiser class are laid out.

    Attributes:
        model: class name of the denoiser.
        lists: its lists of blocks in the order in which the forward runs them; none: it is known as a whole alone.
        read_after: the streams of the LAST block that the rest of the forward reads. Only these are kept and replayed.
        measured: the stream whose change is the indicator.
        also_measured: further streams that are replayed: the indicator is the largest of their changes.
        latents: the argument of the denoiser's forward that it works on; the first tensor it returns is its prediction.
        latents_listed: whether these may be a list of tensors, such as picture and sound, and the prediction too: they
            are kept as one.
        layout: how these lie, a letter for each axis: b batch, c channels, f frames, h height, w width, n tokens; such
            as "bcfhw". Empty: nobody looked.
        named: modules that methods look at, name to path in the denoiser; "[i]" behind it picks one of the values that
            the module returns; of several calls in a forward the first counts. "time" is the embedding of the time,
            which is there before the first block; "modulated" the first block's input as the time has scaled and
            shifted it, or where that is no module's output, what scales and shifts it.
        timestep: name of the argument of the denoiser's forward that carries the time.
        counts_up: whether that is 0 for noise and 1000 for data.
        conditions: arguments of the denoiser's forward that stay the same in all steps of a guidance branch and differ
            between branches, prompts and images to go by; those of them that it has. By these a branch is told where
            nobody names it.
        cache_fill_flags: arguments of the denoiser's forward, by name (dots lead into objects, dictionaries and
            lists), also as `name=value`: a forward in which one of these is set fills a cache that others read, so it
            always runs, and is no step.
        filling: the same of a forward that fills a cache and is a step too: it is always computed.
        skips: the argument of the denoiser's forward, a tensor `[blocks, batch]`, that says which rows of the batch
            pass over which blocks (skip-layer guidance within a batch); replayed only where it stays the same.
        long_skips: whether blocks of the first half hand what they return to those of the second half, the first one
            to the last one.
        entry: what its callers call: the module, or its `forward`.
        forwards: functions, as `module.name`, that its own repository puts in the place of the forward, as where a
            video is split among ranks: they run the blocks as it does, and read of them what it reads.
        per_sample: whether a forward can be run on some samples of its batch: all its tensors have the batch first.
        batch_axis: along which axis of the streams inside the blocks the batch lies.
        interleaved: whether the forward takes one block of each list in turn, and not one list after the other.
        idle: modules outside of the blocks whose output nothing but blocks reads, by path; a list or a dictionary
            stands for all of its modules; an `Idle` for one that is not idle in every variant. They are skipped in a
            replay too. A variant of the class may lack some.
        any_length: whether its pipelines make videos of any number of frames, whatever their autoencoder says.
        guidance: how its pipelines run classifier-free guidance.
        batch_order: the branches of a forward of both, as they lie in its batch; none: not known.
        prediction: whether what it returns is "direct"ly what the scheduler is told, the "negative" of it, or it is
            "unknown", or not the same in all of its pipelines.
        pipelines: class names of the pipelines it was read in.
        module_prefix: how the module that defines the class begins; a class of the same name from elsewhere is another
            model.
        sources: release or repository where the row was read.
    """

    model: str
    lists: tuple[BlockList, ...]
    read_after: tuple[str, ...] = ("hidden_states",)
    measured: str = "hidden_states"
    also_measured: tuple[str, ...] = ()
    latents: str = "hidden_states"
    latents_listed: bool = False
    layout: str = ""
    named: Mapping[str, str] = field(default_factory=dict, hash=False)
    timestep: str = "timestep"
    counts_up: bool = False
    conditions: tuple[str, ...] = CONDITIONS
    cache_fill_flags: tuple[str, ...] = ()
    filling: tuple[str, ...] = ()
    skips: str | None = None
    long_skips: bool = False
    entry: Literal["call", "forward"] = "call"
    forwards: tuple[str, ...] = ()
    per_sample: bool = True
    batch_axis: int = 0
    interleaved: bool = False
    idle: tuple[str | Idle, ...] = ()
    any_length: bool = False
    guidance: Guidance = "separate"
    batch_order: tuple[str, ...] = ("uncond", "cond")
    prediction: Literal["direct", "negative", "unknown"] = "direct"
    pipelines: tuple[str, ...] = ()
    module_prefix: str = "diffusers."
    sources: str = "diffusers 0.42.1"

    def __repr__(self) -> str:
        return _brief(self)

    @property
    def branches(self) -> tuple[str, ...]:
        """The names of the branches in a batch of both, in order; none where nobody read that in its pipelines."""
        return self.batch_order if self.module_prefix == "diffusers." else ()

    @property
    def idle_paths(self) -> tuple[str, ...]:
        """The paths of the idle modules, whatever their conditions."""
        return tuple(each.path if isinstance(each, Idle) else each for each in self.idle)


def _brief(row: Any) -> str:
    """How a row is printed, so that it can be copied: with the fields that are not as by default."""
    said = []
    for each in fields(row):
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        if (value := getattr(row, each.name)) != default:
            said.append(f"{each.name}={value!r}")
    return f"{type(row).__name__}({', '.join(said)})"
