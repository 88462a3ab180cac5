"""The papers' own repositories: look-alikes of their denoisers, since the real ones need CUDA-only packages.

Each has the class name, the module path, the attribute names and the calling convention of the original, and little
else: what a block does inside is the same small attention everywhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import CogVideoXTransformer3DModel
from torch import Tensor, nn

from tests.tiny import cogvideox
from tests.zoo.kinds import Model, noise, seeded

C = 8
"""Channels everywhere: of latents, tokens and text."""

FRAMES, HEIGHT, TEXT = 3, 4, 5
"""Frames and height (and width) of the latents, and tokens of the text."""


def defined_in(module: str, name: str | None = None) -> Callable[[type], type]:
    """The class as if it came from that module, under that name."""

    def place(kind: type) -> type:
        kind.__module__ = module
        kind.__name__ = kind.__qualname__ = name or kind.__name__
        for function in filter(inspect.isfunction, vars(kind).values()):
            function.__module__, function.__qualname__ = module, f"{kind.__name__}.{function.__name__}"
        return kind

    return place


def normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def tokens(x: Tensor) -> Tensor:
    """Latents `[B, C, F, H, W]` as tokens `[B, F*H*W, C]`."""
    return x.flatten(2).transpose(1, 2)


def latents(x: Tensor, frames: int, height: int) -> Tensor:
    """Tokens `[B, F*H*W, C]` as latents `[B, C, F, H, W]`."""
    return x.transpose(1, 2).unflatten(2, (frames, height, -1))


class Time(nn.Module):
    """Times `[…]`, of 0…1 or 0…1000, as features `[…, C]`."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(C, C)

    def forward(self, t: Tensor) -> Tensor:
        angles = t.float()[..., None] * torch.logspace(-3, 1, C // 2)
        return self.linear(torch.cat([angles.sin(), angles.cos()], dim=-1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(C, C) for _ in range(4))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        seen = x if context is None else context
        return self.out(F.scaled_dot_product_attention(self.q(x), self.k(seen), self.v(seen)))


class Core(nn.Module):
    """What every block does with tokens `[B, N, C]`, text `[B, L, C]` and a modulation `[B, C]` or `[B, N, C]`."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.cross, self.modulation = Attention(), Attention(), nn.Linear(C, 3 * C)
        self.mlp = nn.Sequential(nn.Linear(C, 2 * C), nn.GELU(), nn.Linear(2 * C, C))

    def mix(self, x: Tensor, text: Tensor | None, e: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(e[:, None] if e.ndim == 2 else e).chunk(3, dim=-1)
        x = x + (1 + gate) * self.own(normed(x) * (1 + scale) + shift)
        if text is not None:
            x = x + self.cross(normed(x), text)
        return x + self.mlp(normed(x))


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.modulation, self.linear = nn.Linear(C, C), nn.Linear(C, C)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        return self.linear(normed(x) * (1 + self.modulation(e[:, None] if e.ndim == 2 else e)))


def blocks(kind: type, count: int = 3, **settings: Any) -> nn.ModuleList:
    return nn.ModuleList(kind(**settings) for _ in range(count))


def video(batch: int = 1, channels: int = C) -> Tensor:
    return noise(batch, channels, FRAMES, HEIGHT, HEIGHT)


def text(batch: int = 1) -> Tensor:
    return noise(batch, TEXT, C, seed=1)


# Open-Sora 1.0 to 1.2


def auto_grad_checkpoint(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """All blocks of Open-Sora are called through such a function."""
    return module(*args, **kwargs)


class STDiT3Block(Core):
    def __init__(self, temporal: bool) -> None:
        super().__init__()
        self.temporal = temporal

    def forward(self, x, y, t, mask=None, x_mask=None, t0=None, T=None, S=None):
        y = y.view(len(x), -1, C)  # the text of all samples comes in one row; `mask` has the lengths
        modulation = t[:, None].expand(-1, T, -1)
        if x_mask is not None:
            modulation = torch.where(x_mask[..., None], modulation, t0[:, None])
        modulation = modulation.repeat_interleave(S, dim=1)
        if self.temporal:
            x = x.unflatten(1, (T, S)).transpose(1, 2).flatten(1, 2)
        x = self.mix(x, y, modulation)
        return x.unflatten(1, (S, T)).transpose(1, 2).flatten(1, 2) if self.temporal else x


@defined_in("opensora.models.stdit.stdit3")
class STDiT3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x_embedder, self.t_embedder, self.fps_embedder = nn.Linear(C, C), Time(), Time()
        self.spatial_blocks = blocks(STDiT3Block, temporal=False)
        self.temporal_blocks = blocks(STDiT3Block, temporal=True)
        self.final_layer = Head()

    def forward(self, x, timestep, y, mask=None, x_mask=None, fps=None, height=None, width=None, **kwargs):
        frames, side = x.shape[2:4]
        fps = self.fps_embedder(fps)
        t, t0 = self.t_embedder(timestep) + fps, self.t_embedder(torch.zeros_like(timestep)) + fps
        y_lens = [y.shape[2]] * len(y)
        y = y.squeeze(1).reshape(1, -1, C)
        x = self.x_embedder(tokens(x))
        for spatial_block, temporal_block in zip(self.spatial_blocks, self.temporal_blocks, strict=True):
            x = auto_grad_checkpoint(spatial_block, x, y, t, y_lens, x_mask, t0, frames, side * side)
            x = auto_grad_checkpoint(temporal_block, x, y, t, y_lens, x_mask, t0, frames, side * side)
        return latents(self.final_layer(x, t), frames, side).float()


class STDiTBlock(Core):
    def forward(self, x, y, t, mask=None, tpe=None):
        return self.mix(x if tpe is None else x + tpe, y.view(len(x), -1, C), t)


@defined_in("opensora.models.stdit.stdit")
class STDiT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x_embedder, self.t_embedder, self.final_layer = nn.Linear(C, C), Time(), Head()
        self.pos_embed_temporal = nn.Parameter(torch.randn(1, 1, C))
        self.blocks = blocks(STDiTBlock)

    def forward(self, x, timestep, y, mask=None):
        shape, t, y = x.shape, self.t_embedder(timestep), y.reshape(1, -1, C)
        x = self.x_embedder(tokens(x))
        for i, block in enumerate(self.blocks):
            tpe = self.pos_embed_temporal if i == 0 else None
            x = auto_grad_checkpoint(block, x, y, t, [TEXT] * len(x), tpe)
        return latents(self.final_layer(x, t), *shape[2:4]).float()


class STDiT2Block(Core):
    def forward(self, x, y, t, t_tmp, mask=None, x_mask=None, t0=None, t0_tmp=None, T=None, S=None):
        return self.mix(x, y.view(len(x), -1, C), t + t_tmp)


@defined_in("opensora.models.stdit.stdit2")
class STDiT2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x_embedder, self.t_embedder, self.fl_embedder, self.final_layer = nn.Linear(C, C), Time(), Time(), Head()
        self.blocks = blocks(STDiT2Block)

    def forward(
        self, x, timestep, y, mask=None, x_mask=None, num_frames=None, height=None, width=None, ar=None, fps=None
    ):
        frames, side = x.shape[2:4]
        t, y = self.t_embedder(timestep), y.reshape(1, -1, C)
        t_tmp = t + self.fl_embedder(num_frames)
        x = self.x_embedder(tokens(x))
        for block in self.blocks:
            x = auto_grad_checkpoint(block, x, y, t, t_tmp, [TEXT] * len(x), x_mask, None, None, frames, side * side)
        return latents(self.final_layer(x, t), frames, side).float()


def _open_sora(share: float, **more: Any) -> dict[str, Any]:
    return {
        "x": video(2),
        "timestep": torch.full((2,), 1000 * (1 - share)),
        "y": text(2)[:, None],
        "mask": torch.ones(1, TEXT, dtype=torch.long),
        **more,
    }


def _stdit3(share: float, **more: Any) -> dict[str, Any]:
    sizes = {"height": torch.tensor([32.0]), "width": torch.tensor([32.0]), "fps": torch.tensor([24.0])}
    return _open_sora(share, **sizes, **more)


# Open-Sora 2.0


class DoubleStreamBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.img, self.txt = Core(), Core()

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor, pe: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self.img.mix(img + pe[:, txt.shape[1] :], txt, vec), self.txt.mix(txt, img, vec)


class SingleStreamBlock(Core):
    def forward(self, x: Tensor, vec: Tensor, pe: Tensor, **kwargs: Any) -> Tensor:
        return self.mix(x + pe, None, vec)


@defined_in("opensora.models.mmdit.model")
class MMDiTModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.img_in, self.txt_in, self.vector_in = (nn.Linear(C, C) for _ in range(3))
        self.time_in, self.guidance_in, self.pe_embedder, self.final_layer = Time(), Time(), nn.Linear(3, C), Head()
        self.double_blocks, self.single_blocks = blocks(DoubleStreamBlock), blocks(SingleStreamBlock)
        self.forward = self.forward_ckpt  # the class has no forward of its own

    def forward_ckpt(self, img, img_ids, txt, txt_ids, timesteps, y_vec, cond=None, guidance=None, **kwargs):
        vec = self.time_in(timesteps) + self.guidance_in(guidance) + self.vector_in(y_vec)
        pe = self.pe_embedder(torch.cat((txt_ids, img_ids), dim=1))
        img, txt = self.img_in(img), self.txt_in(txt)
        for block in self.double_blocks:
            img, txt = auto_grad_checkpoint(block, img, txt, vec, pe)
        img = torch.cat((txt, img), 1)
        for block in self.single_blocks:
            img = auto_grad_checkpoint(block, img, vec, pe)
        return self.final_layer(img[:, txt.shape[1] :], vec)


def _mmdit(share: float) -> dict[str, Any]:
    return {
        "img": tokens(video(2)),
        "img_ids": noise(2, FRAMES * HEIGHT * HEIGHT, 3),
        "txt": text(2),
        "txt_ids": torch.zeros(2, TEXT, 3),
        "timesteps": torch.full((2,), 1 - share),
        "y_vec": noise(2, C, seed=2),
        "guidance": torch.full((2,), 7.5),
    }


# Open-Sora-Plan and Latte


class LatteBlock(Core):
    """Of the original T2V Latte."""

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        timestep=None,
        cross_attention_kwargs=None,
        class_labels=None,
    ):
        return self.mix(hidden_states, encoder_hidden_states, timestep)


class PlanBlock(LatteBlock):
    """Of Open-Sora-Plan 1.1."""

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        timestep=None,
        cross_attention_kwargs=None,
        class_labels=None,
        position_q=None,
        position_k=None,
        frame=None,
    ):
        return self.mix(hidden_states, encoder_hidden_states, timestep)


@defined_in("opensora.models.diffusion.latte.modeling_latte", "LatteT2V")
class PlanLatteT2V(nn.Module):
    block: type = PlanBlock
    positions: tuple[Any, ...] = (None, None, (HEIGHT, HEIGHT))

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed, self.adaln_single, self.caption_projection = nn.Linear(C, C), Time(), nn.Linear(C, C)
        self.transformer_blocks, self.temporal_transformer_blocks = blocks(self.block), blocks(self.block)
        self.temp_pos_embed, self.proj_out = nn.Parameter(torch.randn(1, FRAMES, C)), Head()

    def forward(
        self,
        hidden_states,
        timestep=None,
        encoder_hidden_states=None,
        added_cond_kwargs=None,
        class_labels=None,
        cross_attention_kwargs=None,
        attention_mask=None,
        encoder_attention_mask=None,
        use_image_num=0,
        enable_temporal_attentions=True,
        return_dict=True,
    ):
        batch, _, frames, height, _ = hidden_states.shape
        hidden_states = self.pos_embed(tokens(hidden_states)).reshape(batch * frames, -1, C)
        embedded = self.adaln_single(timestep)
        timestep_spatial = embedded.repeat_interleave(frames, 0)
        timestep_temp = embedded.repeat_interleave(hidden_states.shape[1], 0)
        spatial_text = self.caption_projection(encoder_hidden_states).repeat_interleave(frames, 0)
        pairs = zip(self.transformer_blocks, self.temporal_transformer_blocks, strict=True)
        for i, (spatial_block, temp_block) in enumerate(pairs):
            hidden_states = spatial_block(
                hidden_states, None, spatial_text, None, timestep_spatial, None, None, *self.positions
            )
            if enable_temporal_attentions:
                hidden_states = hidden_states.unflatten(0, (batch, frames)).transpose(1, 2).flatten(0, 1).contiguous()
                if i == 0:
                    hidden_states = hidden_states + self.temp_pos_embed
                hidden_states = temp_block(hidden_states, None, None, None, timestep_temp, None, None, *self.positions)
                hidden_states = hidden_states.unflatten(0, (batch, -1)).transpose(1, 2).flatten(0, 1).contiguous()
        output = latents(self.proj_out(hidden_states, timestep_spatial).reshape(batch, -1, C), frames, height)
        return SimpleNamespace(sample=output) if return_dict else (output,)


@defined_in("models.latte_t2v", "LatteT2V")
class OriginalLatteT2V(PlanLatteT2V):
    block = LatteBlock
    positions = ()


class PlanBlock12(Core):
    def forward(
        self,
        hidden_states,
        attention_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        timestep=None,
        cross_attention_kwargs=None,
        class_labels=None,
        frame=None,
        height=None,
        width=None,
        added_cond_kwargs=None,
    ):
        return self.mix(hidden_states, encoder_hidden_states, timestep)


@defined_in("opensora.models.diffusion.opensora.modeling_opensora")
class OpenSoraT2V(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pos_embed, self.adaln_single, self.caption_projection = nn.Linear(C, C), Time(), nn.Linear(C, C)
        self.transformer_blocks, self.proj_out = blocks(PlanBlock12), Head()

    def forward(
        self,
        hidden_states,
        timestep=None,
        encoder_hidden_states=None,
        added_cond_kwargs=None,
        class_labels=None,
        cross_attention_kwargs=None,
        attention_mask=None,
        encoder_attention_mask=None,
        use_image_num=0,
        return_dict=True,
    ):
        frame, height, width = hidden_states.shape[2:]
        e, hidden_states_vid = self.adaln_single(timestep), self.pos_embed(tokens(hidden_states))
        seen = self.caption_projection(encoder_hidden_states.squeeze(1))
        for block in self.transformer_blocks:
            hidden_states_vid = block(
                hidden_states_vid,
                attention_mask=None,
                encoder_hidden_states=seen,
                encoder_attention_mask=None,
                timestep=e,
                cross_attention_kwargs=cross_attention_kwargs,
                class_labels=class_labels,
                frame=frame,
                height=height,
                width=width,
            )
        output = latents(self.proj_out(hidden_states_vid, e), frame, height)
        return SimpleNamespace(sample=output) if return_dict else (output,)


class SparseAttention(Attention):
    """One that says by its processor how sparse it is, which the loop over the blocks asks for."""

    def __init__(self, sparse_n: int) -> None:
        super().__init__()
        self.processor = SimpleNamespace(sparse_n=sparse_n, sparse_group=False)


class PlanBlock13(Core):
    def __init__(self) -> None:
        super().__init__()
        self.attn1 = SparseAttention(4)

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        timestep=None,
        frame=None,
        height=None,
        width=None,
    ):
        x, seen = hidden_states.transpose(0, 1), encoder_hidden_states.transpose(0, 1)
        return (self.mix(x, seen, timestep) + attention_mask * self.attn1(normed(x))).transpose(0, 1)


@defined_in("opensora.models.diffusion.opensora_v1_3.modeling_opensora")
class OpenSoraT2V_v1_3(nn.Module):
    """Its tokens come first and the batch second."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed, self.adaln_single, self.caption_projection = nn.Linear(C, C), Time(), nn.Linear(C, C)
        self.transformer_blocks, self.proj_out = blocks(PlanBlock13, 4), Head()

    def forward(
        self,
        hidden_states,
        timestep=None,
        encoder_hidden_states=None,
        attention_mask=None,
        encoder_attention_mask=None,
        return_dict=True,
        **kwargs,
    ):
        frame, height, width = hidden_states.shape[2:]
        e, hidden_states = self.adaln_single(timestep), self.pos_embed(tokens(hidden_states))
        seen = self.caption_projection(encoder_hidden_states.squeeze(1)).transpose(0, 1).contiguous()
        hidden_states = hidden_states.transpose(0, 1).contiguous()
        sparse_mask = {1: 0.5, 4: 1.0}
        for i, block in enumerate(self.transformer_blocks):
            hidden_states = block(
                hidden_states,
                attention_mask=sparse_mask[block.attn1.processor.sparse_n if i > 1 else 1],
                encoder_hidden_states=seen,
                encoder_attention_mask=None,
                timestep=e,
                frame=frame,
                height=height,
                width=width,
            )
        hidden_states = hidden_states.transpose(0, 1).contiguous()
        output = latents(self.proj_out(hidden_states, e), frame, height)
        return SimpleNamespace(sample=output) if return_dict else (output,)


@defined_in("opensora.models.diffusion.opensora_v1_3.modeling_inpaint")
class OpenSoraInpaint_v1_3(OpenSoraT2V_v1_3):
    """Has no forward of its own, and no row."""


def _plan(share: float, text_axis: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "hidden_states": video(2),
        "timestep": torch.full((2,), int(1000 * (1 - share))),
        "encoder_hidden_states": text(2)[:, None] if text_axis else text(2),
        "return_dict": False,
        **more,
    }


class LatteTransformerBlock(Core):
    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.mix(x, None, c)


@defined_in("models.latte")
class Latte(nn.Module):
    """One list, of which the loop takes slices of two: a spatial block and a temporal one."""

    def __init__(self) -> None:
        super().__init__()
        self.x_embedder, self.t_embedder, self.y_embedder = nn.Linear(C, C), Time(), nn.Embedding(10, C)
        self.temp_embed = nn.Parameter(torch.randn(1, FRAMES, C))
        self.blocks, self.final_layer = blocks(LatteTransformerBlock, 6), Head()

    def forward(self, x, t, y=None, text_embedding=None, use_fp16=False):
        batches, frames, _, side, _ = x.shape
        x = self.x_embedder(tokens(x.flatten(0, 1)))
        c = self.t_embedder(t) + self.y_embedder(y)
        spatial, temporal = c.repeat_interleave(frames, 0), c.repeat_interleave(side * side, 0)
        for i in range(0, len(self.blocks), 2):
            spatial_block, temp_block = self.blocks[i : i + 2]
            x = spatial_block(x, spatial)
            x = x.unflatten(0, (batches, frames)).transpose(1, 2).flatten(0, 1)
            if i == 0:
                x = x + self.temp_embed
            x = temp_block(x, temporal)
            x = x.unflatten(0, (batches, -1)).transpose(1, 2).flatten(0, 1)
        x = self.final_layer(x, spatial).transpose(1, 2)
        return x.reshape(batches, frames, C, side, side)

    def forward_with_cfg(self, x, t, y=None, cfg_scale=7.0, use_fp16=False, text_embedding=None):
        """What the original sampler calls: `forward`, past the module's `__call__`."""
        half = x[: len(x) // 2]
        cond, uncond = self.forward(torch.cat([half, half]), t, y=y).chunk(2)
        guided = uncond + cfg_scale * (cond - uncond)
        return torch.cat([guided, guided])


# Wan 2.1 and 2.2


class WanAttentionBlock(Core):
    def forward(self, x, e, seq_lens, grid_sizes, freqs, context, context_lens):
        return self.mix(x, context, e)


@defined_in("wan.modules.model")
class WanModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embedding, self.text_embedding, self.time_embedding = nn.Linear(C, C), nn.Linear(C, C), Time()
        self.blocks, self.head = blocks(WanAttentionBlock), Head()

    def embedded(self, x: list[Tensor], t: Tensor, context: list[Tensor], seq_len: int) -> tuple[Any, ...]:
        x = torch.cat([F.pad(self.patch_embedding(tokens(u[None])), (0, 0, 0, seq_len - u[0].numel())) for u in x])
        e = self.time_embedding(t)
        rest = {"seq_lens": None, "grid_sizes": None, "freqs": None, "context_lens": None}
        return x, e, {"e": e, "context": self.text_embedding(torch.stack(context)), **rest}

    def unpatchify(self, x: Tensor) -> list[Tensor]:
        count = FRAMES * HEIGHT * HEIGHT
        return list(latents(x[:, :count], FRAMES, HEIGHT).float())

    def forward(self, x, t, context, seq_len, clip_fea=None, y=None):
        x, e, kwargs = self.embedded(x, t, context, seq_len)
        for block in self.blocks:
            x = block(x, **kwargs)
        return self.unpatchify(self.head(x, e))


class VaceWanAttentionBlock(WanAttentionBlock):
    def __init__(self) -> None:
        super().__init__()
        self.after_proj = nn.Linear(C, C)

    def forward(self, c, x, **kwargs):
        c = super().forward(c + x, **kwargs)
        return c, self.after_proj(c)


class BaseWanAttentionBlock(WanAttentionBlock):
    def __init__(self, block_id: int | None) -> None:
        super().__init__()
        self.block_id = block_id

    def forward(self, x, hints, context_scale=1.0, **kwargs):
        x = super().forward(x, **kwargs)
        return x if self.block_id is None else x + hints[self.block_id] * context_scale


@defined_in("wan.modules.vace_model")
class VaceWanModel(WanModel):
    """The hint is added inside a block, in the last one too here."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(BaseWanAttentionBlock(block_id) for block_id in (0, None, 1))
        self.vace_blocks, self.vace_patch_embedding = blocks(VaceWanAttentionBlock, 2), nn.Linear(C, C)

    def forward_vace(self, x, vace_context, seq_len, kwargs):
        c = torch.cat(
            [F.pad(self.vace_patch_embedding(tokens(u[None])), (0, 0, 0, seq_len - u[0].numel())) for u in vace_context]
        )
        hints = []
        for block in self.vace_blocks:
            c, c_skip = block(c, x=x, **kwargs)
            hints.append(c_skip)
        return hints

    def forward(self, x, t, vace_context, context, seq_len, vace_context_scale=1.0, clip_fea=None, y=None):
        x, e, kwargs = self.embedded(x, t, context, seq_len)
        kwargs["hints"] = self.forward_vace(x, vace_context, seq_len, kwargs)
        for block in self.blocks:
            x = block(x, **kwargs, context_scale=vace_context_scale)
        return self.unpatchify(self.head(x, e))


class WanS2VAttentionBlock(WanAttentionBlock):
    def forward(self, x, e, seq_lens, grid_sizes, freqs, context, context_lens):
        return self.mix(x, context, e[0])


@defined_in("wan.modules.s2v.model_s2v")
class WanModel_S2V(WanModel):
    """Writes into what a block returned, after the last one too. The original does not derive from WanModel."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.audio = blocks(WanS2VAttentionBlock), blocks(Attention)

    def after_transformer_block(self, block_idx: int, hidden_states: Tensor) -> Tensor:
        hidden_states[:, :HEIGHT] = hidden_states[:, :HEIGHT] + self.audio[block_idx](hidden_states[:, :HEIGHT].clone())
        return hidden_states

    def forward(
        self, x, t, context, seq_len, ref_latents, motion_latents, cond_states, audio_input=None, **extra_kwargs
    ):
        x, e, kwargs = self.embedded(x, t, context, seq_len)
        kwargs["e"] = [kwargs["e"], 0]
        for idx, block in enumerate(self.blocks):
            x = block(x, **kwargs)
            x = self.after_transformer_block(idx, x)
        return self.unpatchify(self.head(x, e))


@defined_in("wan.modules.animate.model_animate")
class WanAnimateModel(WanModel):
    """Adds what an adapter says after every block but the last. The original does not derive from WanModel."""

    def __init__(self) -> None:
        super().__init__()
        self.face_adapter = blocks(Attention, 2)

    def forward(self, x, t, clip_fea, context, seq_len, y=None, pose_latents=None, face_pixel_values=None):
        x, e, kwargs = self.embedded(x, t, context, seq_len)
        for idx, block in enumerate(self.blocks):
            x = block(x, **kwargs)
            if idx < 2:
                x = self.face_adapter[idx](x, face_pixel_values) + x
        return self.unpatchify(self.head(x, e))


def _wan(share: float, **more: Any) -> dict[str, Any]:
    return {
        "x": [video()[0]],
        "t": torch.tensor([int(1000 * (1 - share))]),
        "context": [text()[0]],
        "seq_len": FRAMES * HEIGHT * HEIGHT + 2,
        **more,
    }


def _per_token(share: float) -> dict[str, Any]:
    """The tokens of the first frame are clean."""
    clean = torch.arange(FRAMES * HEIGHT * HEIGHT + 2) < HEIGHT * HEIGHT
    return {**_wan(share), "t": torch.where(clean, 0, int(1000 * (1 - share)))[None]}


# SkyReels V2


class SkyReelsBlock(Core):
    def forward(self, x, e, grid_sizes, freqs, context, block_mask):
        return self.mix(x, context, e)


@defined_in("skyreels_v2_infer.modules.transformer", "WanModel")
class SkyReelsWanModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embedding, self.text_embedding, self.time_embedding = nn.Linear(C, C), nn.Linear(C, C), Time()
        self.blocks, self.head, self.block_mask = blocks(SkyReelsBlock), Head(), None

    def forward(self, x, t, context, clip_fea=None, y=None, fps=None):
        frames, side = x.shape[2:4]
        x, e = self.patch_embedding(tokens(x)), self.time_embedding(t)
        if t.ndim == 2:  # one per frame
            e = e.repeat_interleave(side * side, dim=1)
        kwargs = {"e": e, "grid_sizes": None, "freqs": None, "context": self.text_embedding(context)}
        for block in self.blocks:
            x = block(x, **kwargs, block_mask=self.block_mask)
        return latents(self.head(x, e), frames, side).float()


def _skyreels(share: float) -> dict[str, Any]:
    return {"x": video(), "t": torch.tensor([int(1000 * (1 - share))]), "context": text()}


def _forcing(share: float) -> dict[str, Any]:
    """Diffusion forcing: the frames go one after the other."""
    return {**_skyreels(share), "t": (torch.tensor([[0, 500, 1000]]) - int(500 * share)).clamp(min=0)}


# HunyuanVideo


class MMDoubleStreamBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.img, self.txt = Core(), Core()

    def forward(
        self,
        img,
        txt,
        vec,
        cu_seqlens_q=None,
        cu_seqlens_kv=None,
        max_seqlen_q=None,
        max_seqlen_kv=None,
        freqs_cis=None,
    ):
        return self.img.mix(img, txt, vec), self.txt.mix(txt, img, vec)


class MMSingleStreamBlock(Core):
    def forward(
        self,
        x,
        vec,
        txt_len,
        cu_seqlens_q=None,
        cu_seqlens_kv=None,
        max_seqlen_q=None,
        max_seqlen_kv=None,
        freqs_cis=None,
    ):
        return self.mix(x, x[:, -txt_len:], vec)


@defined_in("hyvideo.modules.models")
class HYVideoDiffusionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.img_in, self.txt_in, self.vector_in = (nn.Linear(C, C) for _ in range(3))
        self.time_in, self.guidance_in, self.final_layer = Time(), Time(), Head()
        self.double_blocks, self.single_blocks = blocks(MMDoubleStreamBlock), blocks(MMSingleStreamBlock)

    def forward(
        self,
        x,
        t,
        text_states=None,
        text_mask=None,
        text_states_2=None,
        freqs_cos=None,
        freqs_sin=None,
        guidance=None,
        return_dict=True,
    ):
        frames, side = x.shape[2:4]
        vec = self.time_in(t) + self.vector_in(text_states_2) + self.guidance_in(guidance)
        img, txt = self.img_in(tokens(x)), self.txt_in(text_states)
        lengths = [None, None, img.shape[1] + txt.shape[1], img.shape[1] + txt.shape[1]]
        for block in self.double_blocks:
            img, txt = block(img, txt, vec, *lengths, None)
        count = img.shape[1]
        x = torch.cat((img, txt), 1)
        for block in self.single_blocks:
            x = block(x, vec, txt.shape[1], *lengths, (None, None))
        img = latents(self.final_layer(x[:, :count], vec), frames, side)
        return {"x": img} if return_dict else img


def _hunyuan(share: float) -> dict[str, Any]:
    return {
        "x": video(2),
        "t": torch.full((2,), 1000 * (1 - share)),
        "text_states": text(2),
        "text_states_2": noise(2, C, seed=2),
        "guidance": torch.full((2,), 6000.0),
    }


# LTX-Video


class LTXBlock(Core):
    def forward(
        self,
        hidden_states,
        freqs_cis=None,
        attention_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        timestep=None,
        cross_attention_kwargs=None,
        class_labels=None,
        skip_layer_mask=None,
        skip_layer_strategy=None,
    ):
        mixed = self.mix(hidden_states, encoder_hidden_states, timestep)
        if skip_layer_mask is None:
            return mixed
        runs = skip_layer_mask.reshape(len(hidden_states), 1, 1)
        return mixed * runs + hidden_states * (1 - runs)


@defined_in("ltx_video.models.transformers.transformer3d")
class Transformer3DModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patchify_proj, self.adaln_single, self.caption_projection = nn.Linear(C, C), Time(), nn.Linear(C, C)
        self.transformer_blocks, self.proj_out = blocks(LTXBlock), Head()

    def forward(
        self,
        hidden_states,
        indices_grid,
        encoder_hidden_states=None,
        timestep=None,
        class_labels=None,
        cross_attention_kwargs=None,
        attention_mask=None,
        encoder_attention_mask=None,
        skip_layer_mask=None,
        skip_layer_strategy=None,
        return_dict=True,
    ):
        hidden_states, e = self.patchify_proj(hidden_states), self.adaln_single(1000 * timestep)
        seen = self.caption_projection(encoder_hidden_states)
        for i, block in enumerate(self.transformer_blocks):
            hidden_states = block(
                hidden_states,
                freqs_cis=indices_grid,
                attention_mask=attention_mask,
                encoder_hidden_states=seen,
                encoder_attention_mask=encoder_attention_mask,
                timestep=e,
                cross_attention_kwargs=cross_attention_kwargs,
                class_labels=class_labels,
                skip_layer_mask=None if skip_layer_mask is None else skip_layer_mask[i],
                skip_layer_strategy=skip_layer_strategy,
            )
        hidden_states = self.proj_out(hidden_states, e)
        return SimpleNamespace(sample=hidden_states) if return_dict else (hidden_states,)


def _ltx(share: float, conditioned: bool = False) -> dict[str, Any]:
    """Three samples: without text, with it, and perturbed; conditioned frames keep a timestep of their own."""
    timestep = torch.full((3, 1), 1 - share)
    if conditioned:
        timestep = torch.min(timestep, (torch.arange(FRAMES * HEIGHT * HEIGHT) >= HEIGHT * HEIGHT).float())
    return {
        "hidden_states": tokens(video(3)),
        "indices_grid": noise(3, 3, FRAMES * HEIGHT * HEIGHT),
        "encoder_hidden_states": text(3),
        "timestep": timestep,
        "return_dict": False,
    }


# Mochi


class AsymmetricJointBlock(nn.Module):
    def __init__(self, update_y: bool) -> None:
        super().__init__()
        self.x, self.y = Core(), Core() if update_y else None

    def forward(self, x, c, y, checkpoint_ff=False, checkpoint_qkv=False, checkpoint_post_attn=False, **attn_kwargs):
        return self.x.mix(x, y, c), y if self.y is None else self.y.mix(y, x, c)


@defined_in("genmo.mochi_preview.dit.joint_model.asymm_models_joint")
class AsymmDiTJoint(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x_embedder, self.t_embedder, self.t5_yproj = nn.Linear(C, C), Time(), nn.Linear(C, C)
        self.blocks = nn.ModuleList(AsymmetricJointBlock(update_y) for update_y in (True, True, False))
        self.final_layer = Head()

    def forward(
        self,
        x,
        sigma,
        y_feat,
        y_mask,
        packed_indices=None,
        rope_cos=None,
        rope_sin=None,
        num_ff_checkpoint=0,
        num_qkv_checkpoint=0,
        num_post_attn_checkpoint=0,
    ):
        frames, side = x.shape[2:4]
        x, c, y_feat = self.x_embedder(tokens(x)), self.t_embedder(1 - sigma), self.t5_yproj(y_feat[0])
        for i, block in enumerate(self.blocks):
            x, y_feat = block(
                x, c, y_feat, rope_cos=rope_cos, packed_indices=packed_indices, checkpoint_ff=i < num_ff_checkpoint
            )
        return latents(self.final_layer(x, c), frames, side)


# VideoSys: the same models once more, with classes of its own


@defined_in("videosys.models.transformers.open_sora_transformer_3d", "STDiT3")
class VideoSysSTDiT3(STDiT3):
    pass


@defined_in("videosys.models.transformers.latte_transformer_3d", "LatteT2V")
class VideoSysLatteT2V(OriginalLatteT2V):
    pass


@defined_in("videosys.models.transformers.open_sora_plan_v110_transformer_3d", "LatteT2V")
class VideoSysPlanLatteT2V(PlanLatteT2V):
    pass


@defined_in("videosys.models.transformers.open_sora_plan_v120_transformer_3d", "OpenSoraT2V")
class VideoSysOpenSoraT2V(OpenSoraT2V):
    pass


@defined_in("videosys.models.transformers.cogvideox_transformer_3d", "CogVideoXTransformer3DModel")
class VideoSysCogVideoX(CogVideoXTransformer3DModel):
    pass


def _videosys_cogvideox() -> Any:
    real = cogvideox().transformer
    made = seeded(lambda: VideoSysCogVideoX(**{k: v for k, v in real.config.items() if not k.startswith("_")}))
    made.load_state_dict(real.state_dict())
    return made


class VchitectBlock(nn.Module):
    """Of Vchitect 2.0: returns the text first, and none of it after the last block."""

    def __init__(self, context_pre_only: bool) -> None:
        super().__init__()
        self.x, self.y = Core(), None if context_pre_only else Core()

    def forward(self, hidden_states, encoder_hidden_states, temb, freqs_cis, full_seqlen, Frame, timestep):
        seen = None if self.y is None else self.y.mix(encoder_hidden_states, None, temb[: len(encoder_hidden_states)])
        return seen, self.x.mix(hidden_states, encoder_hidden_states.repeat(Frame, 1, 1), temb)


@defined_in("videosys.models.transformers.vchitect_transformer_3d")
class VchitectXLTransformerModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pos_embed, self.time_text_embed, self.context_embedder = nn.Linear(C, C), Time(), nn.Linear(C, C)
        self.transformer_blocks = nn.ModuleList(VchitectBlock(i == 2) for i in range(3))
        self.proj_out = Head()

    def forward(
        self,
        hidden_states,
        encoder_hidden_states=None,
        pooled_projections=None,
        timestep=None,
        joint_attention_kwargs=None,
        return_dict=True,
    ):
        batch, frames, _, side, _ = hidden_states.shape
        hidden_states = self.pos_embed(tokens(hidden_states.flatten(0, 1)))
        temb = (self.time_text_embed(timestep) + pooled_projections).repeat(frames, 1)
        encoder_hidden_states = self.context_embedder(encoder_hidden_states)
        for block in self.transformer_blocks:
            encoder_hidden_states, hidden_states = block(
                hidden_states=hidden_states,
                encoder_hidden_states=encoder_hidden_states,
                temb=temb,
                freqs_cis=None,
                full_seqlen=batch * frames,
                Frame=frames,
                timestep=timestep,
            )
        output = self.proj_out(hidden_states, temb).transpose(1, 2).unflatten(2, (side, side))
        return SimpleNamespace(sample=output) if return_dict else (output,)


def _frames_first(batch: int) -> Tensor:
    return video(batch).transpose(1, 2)


# CogVideo on SwissArmyTransformer


class SATLayer(Core):
    """One of SwissArmyTransformer's: a holder of weights, whose forward nobody calls."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("SAT calls the hook and not the layer")


class AdaLNMixin(nn.Module):
    """Holds the function that is called for each layer."""

    def layer_forward(self, hidden_states, mask, *args, **kwargs):
        layer = self.transformer.layers[kwargs["layer_id"]]
        return layer.mix(hidden_states, None, kwargs["emb"])


class BaseTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.hooks = blocks(SATLayer), {}

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> list[Tensor]:
        for i in range(len(self.layers)):
            hidden_states = self.hooks["layer_forward"](
                hidden_states, None, layer_id=torch.tensor(i), **kwargs, output_this_layer={}, output_cross_layer={}
            )
        return [hidden_states]


@defined_in("dit_video_concat")
class DiffusionTransformer(nn.Module):
    """CogVideo's on SAT: `hooks` of the model are put into the transformer's at each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.time_embed, self.patch_embed, self.transformer = Time(), nn.Linear(C, C), BaseTransformer()
        self.mixins, self.final_layer = nn.ModuleDict({"adaln_layer": AdaLNMixin()}), Head()
        object.__setattr__(self.mixins["adaln_layer"], "transformer", self.transformer)
        self.hooks = {"layer_forward": self.mixins["adaln_layer"].layer_forward}

    def forward(self, x, timesteps=None, context=None, y=None, **kwargs):
        frames, side = x.shape[1], x.shape[3]
        emb = self.time_embed(timesteps)
        hidden_states = torch.cat((context, self.patch_embed(tokens(x.transpose(1, 2)))), 1)
        self.transformer.hooks.clear()
        self.transformer.hooks.update(self.hooks)
        hidden_states = self.transformer(hidden_states, emb=emb, text_length=context.shape[1])[0]
        return latents(self.final_layer(hidden_states[:, context.shape[1] :], emb), frames, side).transpose(1, 2)


# MAGI-1


class MagiLayer(Core):
    def forward(
        self, hidden_states, condition, condition_map, y_xattn_flat, rotary_pos_emb, inference_params, meta_args
    ):
        e = condition[:, condition_map[:, 0]]
        return self.mix(hidden_states.transpose(0, 1), y_xattn_flat.expand(len(e), -1, -1), e).transpose(0, 1)


class MagiBlocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = blocks(MagiLayer)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        for layer in self.layers:
            hidden_states = layer(hidden_states=hidden_states, **kwargs)
        return normed(hidden_states)


@defined_in("inference.model.dit.dit_model")
class VideoDiTModel(nn.Module):
    """MAGI-1's: chunks of frames at times of their own; some forwards fill a key-value cache and must run."""

    def __init__(self) -> None:
        super().__init__()
        self.x_embedder, self.t_embedder = nn.Linear(C, C), Time()
        self.videodit_blocks, self.final_linear = MagiBlocks(), nn.Linear(C, C)

    def forward(
        self, x, t, y, caption_dropout_mask=None, xattn_mask=None, kv_range=None, inference_params=None, **kwargs
    ):
        frames, side = x.shape[2:4]
        places = torch.arange(t.shape[1]).repeat_interleave(frames * side * side // t.shape[1])[:, None]
        x = self.videodit_blocks.forward(  # past the module's hooks, as the original
            hidden_states=self.x_embedder(tokens(x)).transpose(0, 1),
            condition=self.t_embedder(t),
            condition_map=places,
            y_xattn_flat=y[0, 0],
            rotary_pos_emb=None,
            inference_params=inference_params,
            meta_args=None,
        )
        return latents(self.final_linear(x).transpose(0, 1), frames, side)

    def forward_dispatcher(self, x, timestep, y, mask, kv_range, inference_params, **kwargs):
        """What the original sampler calls: three forwards, each past the module's `__call__`.

        With text and past, with the past alone (this one fills the cache), and with neither, a batch of the chunks.
        """
        inference_params.update_kv_cache = False
        both = self.forward(x, timestep, y, kv_range=kv_range, inference_params=inference_params)
        inference_params.update_kv_cache = True
        past = self.forward(x, timestep, 0 * y, kv_range=kv_range, inference_params=inference_params)
        chunks = torch.cat(x.chunk(timestep.shape[1], dim=2))
        neither = self.forward(chunks, timestep.transpose(0, 1), 0 * y, kv_range=kv_range, inference_params=None)
        return 7.5 * both - 5 * past - 1.5 * torch.cat(neither.chunk(timestep.shape[1]), dim=2)


def _magi(share: float) -> dict[str, Any]:
    """Three chunks, each at a time of its own."""
    return {"x": video(), "t": torch.tensor([[0.2, 0.1, 0.0]]) + share / 2, "y": text()[None], "kv_range": None}


MODELS = (
    Model("Open-Sora STDiT", lambda: seeded(STDiT), _open_sora, "batched"),
    Model(
        "Open-Sora STDiT2",
        lambda: seeded(STDiT2),
        lambda share: _open_sora(share, num_frames=torch.tensor([16.0])),
        "batched",
    ),
    Model("Open-Sora STDiT3", lambda: seeded(STDiT3), _stdit3, "batched"),
    Model(
        "Open-Sora STDiT3 with given frames",
        lambda: seeded(STDiT3),
        lambda share: _stdit3(share, x_mask=torch.tensor([[False, True, True]] * 2)),
        "batched",
    ),
    Model(
        "Open-Sora-Plan LatteT2V", lambda: seeded(PlanLatteT2V), lambda share: _plan(share, text_axis=False), "batched"
    ),
    Model("Open-Sora-Plan OpenSoraT2V", lambda: seeded(OpenSoraT2V), _plan, "batched"),
    Model("Open-Sora-Plan OpenSoraT2V_v1_3", lambda: seeded(OpenSoraT2V_v1_3), _plan, "batched"),
    Model("Open-Sora-Plan OpenSoraInpaint_v1_3", lambda: seeded(OpenSoraInpaint_v1_3), _plan, "batched"),
    Model(
        "Latte Latte",
        lambda: seeded(Latte),
        lambda share: {
            "x": _frames_first(2),
            "t": torch.full((2,), int(1000 * (1 - share))),
            "y": torch.tensor([3, 9]),
        },
        "batched",
    ),
    Model("Latte LatteT2V", lambda: seeded(OriginalLatteT2V), lambda share: _plan(share, text_axis=False), "batched"),
    Model("Wan2.1 WanModel", lambda: seeded(WanModel), _wan, "separate"),
    Model("Wan2.2 WanModel per token", lambda: seeded(WanModel), _per_token, "separate"),
    Model(
        "Wan2.1 VaceWanModel",
        lambda: seeded(VaceWanModel),
        lambda share: _wan(share, vace_context=[video()[0]]),
        "separate",
    ),
    Model(
        "Wan2.2 WanModel_S2V",
        lambda: seeded(WanModel_S2V),
        lambda share: _wan(share, ref_latents=None, motion_latents=None, cond_states=None),
        "separate",
    ),
    Model(
        "Wan2.2 WanAnimateModel",
        lambda: seeded(WanAnimateModel),
        lambda share: _wan(share, clip_fea=None, face_pixel_values=noise(1, 4, C, seed=3)),
        "separate",
    ),
    Model("SkyReels-V2 WanModel", lambda: seeded(SkyReelsWanModel), _skyreels, "separate"),
    Model("SkyReels-V2 WanModel per frame", lambda: seeded(SkyReelsWanModel), _forcing, "separate"),
    Model("LTX-Video Transformer3DModel", lambda: seeded(Transformer3DModel), _ltx, "batched"),
    Model(
        "LTX-Video Transformer3DModel per token",
        lambda: seeded(Transformer3DModel),
        lambda share: _ltx(share, conditioned=True),
        "batched",
    ),
    Model(
        "Mochi AsymmDiTJoint",
        lambda: seeded(AsymmDiTJoint),
        lambda share: {"x": video(2), "sigma": torch.full((2,), 1 - share), "y_feat": [text(2)], "y_mask": [None]},
        "either",
    ),
    Model("VideoSys STDiT3", lambda: seeded(VideoSysSTDiT3), _stdit3, "batched"),
    Model(
        "VideoSys LatteT2V", lambda: seeded(VideoSysLatteT2V), lambda share: _plan(share, text_axis=False), "batched"
    ),
    Model(
        "VideoSys LatteT2V of Open-Sora-Plan",
        lambda: seeded(VideoSysPlanLatteT2V),
        lambda share: _plan(share, text_axis=False),
        "batched",
    ),
    Model("VideoSys OpenSoraT2V", lambda: seeded(VideoSysOpenSoraT2V), _plan, "batched"),
    Model(
        "VideoSys CogVideoXTransformer3DModel",
        _videosys_cogvideox,
        lambda share: {
            "hidden_states": noise(2, 3, 4, 2, 2),
            "encoder_hidden_states": noise(2, 8, 16, seed=1),
            "timestep": torch.full((2,), int(1000 * (1 - share))),
            "return_dict": False,
        },
        "batched",
    ),
    Model(
        "VideoSys VchitectXLTransformerModel",
        lambda: seeded(VchitectXLTransformerModel),
        lambda share: {
            "hidden_states": _frames_first(1),
            "encoder_hidden_states": text(),
            "pooled_projections": noise(1, C, seed=2),
            "timestep": torch.tensor([1000 * (1 - share)]),
            "return_dict": False,
        },
        "separate",
    ),
    Model("Open-Sora MMDiTModel", lambda: seeded(MMDiTModel), _mmdit, "batched"),
    Model("HunyuanVideo HYVideoDiffusionTransformer", lambda: seeded(HYVideoDiffusionTransformer), _hunyuan, "batched"),
    Model("MAGI-1 VideoDiTModel", lambda: seeded(VideoDiTModel), _magi, "separate"),
    Model(
        "CogVideo DiffusionTransformer",
        lambda: seeded(DiffusionTransformer),
        lambda share: {
            "x": _frames_first(2),
            "timesteps": torch.full((2,), int(1000 * (1 - share))),
            "context": text(2),
        },
        "batched",
    ),
)
