"""Rows whose pipelines are not run elsewhere: the bare denoiser, computed and replayed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AllegroTransformer3DModel, SkyReelsV2Transformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed_allegro
from tiny import noise, seeded, wan_transformer

import bwcache
from bwcache.core.trace import reuse_line
from bwcache.models import resolve


def skyreels() -> tuple[Any, dict[str, Any]]:
    module = wan_transformer(model=SkyReelsV2Transformer3DModel)
    return module, {"hidden_states": noise(1, 4, 2, 4, 4), "encoder_hidden_states": noise(1, 6, 8, seed=1)}


def allegro() -> tuple[Any, dict[str, Any]]:
    module = seeded(
        lambda: AllegroTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=24,
            in_channels=4,
            out_channels=4,
            num_layers=4,
            cross_attention_dim=48,
            sample_width=4,
            sample_height=4,
            sample_frames=2,
            caption_channels=16,
        )
    )
    *frequencies, times, rows, columns = get_3d_rotary_pos_embed_allegro(
        embed_dim=24, crops_coords=((0, 0), (2, 2)), grid_size=(2, 2), temporal_size=2
    )
    places = torch.cartesian_prod(times.long(), rows.long(), columns.long()).T.reshape(3, 1, -1).contiguous()
    return module, {
        "hidden_states": noise(1, 4, 2, 4, 4),
        "encoder_hidden_states": noise(1, 6, 16, seed=1),
        "encoder_attention_mask": torch.ones(1, 6),
        "attention_mask": torch.ones(1, 2, 4, 4),
        "image_rotary_emb": (tuple(frequencies), tuple(places)),
    }


@pytest.mark.parametrize("build", [skyreels, allegro])
def test_a_bare_row_computes_and_replays(build: Callable[[], tuple[Any, dict[str, Any]]]) -> None:
    module, inputs = build()

    def forwards() -> list[torch.Tensor]:
        with torch.no_grad():
            return [module(timestep=torch.tensor([1000 - 100 * i]), return_dict=False, **inputs)[0] for i in range(6)]

    plain = forwards()
    with bwcache.attach(module, bwcache.BWCache(threshold=0), steps=6):
        assert all(torch.equal(a, b) for a, b in zip(forwards(), plain, strict=True))

    ran: list[torch.Tensor] = []
    for block in resolve("model", module).blocks:
        block.module.register_forward_hook(lambda _, __, output: ran.append(output))
    with bwcache.attach(module, bwcache.BWCache(threshold=10, reuse_interval=2, tail_guard=0), steps=6) as session:
        cached = forwards()
    assert reuse_line(session.trace.events) == "CCrrCr"
    assert len(ran) == 3 * 4
    assert not torch.equal(cached[2], plain[2])
