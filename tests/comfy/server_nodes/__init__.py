"""Nodes for the tests alone, as a pack of ComfyUI: prompts and latents without a text encoder, sums of what came."""

import torch
from comfy_api.latest import ComfyExtension, io, ui


class TestPrompt(io.ComfyNode):
    """Conditioning of a prompt that nobody wrote."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Int.Input("seed", default=1), io.Int.Input("width", default=4096)]
        inputs.append(io.Int.Input("number", default=0, optional=True))
        return io.Schema(node_id="TestPrompt", category="test", inputs=inputs, outputs=[io.Conditioning.Output()])

    @classmethod
    def execute(cls, seed: int, width: int, number: int = 0) -> io.NodeOutput:
        return io.NodeOutput([[torch.randn(1, 12, width, generator=torch.Generator().manual_seed(seed)), {}]])


class TestLatent(io.ComfyNode):
    """Empty latents of a tiny video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Int.Input("frames", default=2), io.Int.Input("side", default=8)]
        return io.Schema(node_id="TestLatent", category="test", inputs=inputs, outputs=[io.Latent.Output()])

    @classmethod
    def execute(cls, frames: int, side: int) -> io.NodeOutput:
        return io.NodeOutput({"samples": torch.zeros(1, 16, frames, side, side)})


class TestSum(io.ComfyNode):
    """The sum of all magnitudes, in full."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Latent.Input("samples")]
        return io.Schema(node_id="TestSum", category="test", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, samples: dict) -> io.NodeOutput:  # type: ignore[type-arg]
        return io.NodeOutput(ui=ui.PreviewText(repr(float(samples["samples"].double().abs().sum()))))


class TestFrames(io.ComfyNode):
    """Frames of latents: their first three channels."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestFrames",
            category="test",
            inputs=[io.Latent.Input("samples")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, samples: dict) -> io.NodeOutput:  # type: ignore[type-arg]
        frames = samples["samples"][0, :3].permute(1, 2, 3, 0)
        return io.NodeOutput((frames / 8 + 0.5).clamp(0, 1).repeat_interleave(16, 1).repeat_interleave(16, 2))


class Decoder:
    """Makes pictures of the first three channels of latents."""

    def decode(self, latents):  # type: ignore[no-untyped-def]
        """Frames `[B, T, H, W, 3]`."""
        frames = (latents[:, :3].permute(0, 2, 3, 4, 1) / 8 + 0.5).clamp(0, 1)
        return frames.repeat_interleave(16, 2).repeat_interleave(16, 3)


class TestVae(io.ComfyNode):
    """A decoder without weights."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="TestVae", category="test", inputs=[], outputs=[io.Vae.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(Decoder())


class Strange(torch.nn.Module):
    """Takes sound first: no diffusion model that anybody knows."""

    def forward(self, sound, picture=None):  # type: ignore[no-untyped-def]
        """Nothing."""
        return sound


class TestStrangeModel(io.ComfyNode):
    """A model of a class that nobody knows."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Model.Input("model")]
        return io.Schema(node_id="TestStrangeModel", category="test", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model):  # type: ignore[no-untyped-def]
        clone = model.clone()
        clone.add_object_patch("diffusion_model", Strange())
        return io.NodeOutput(clone)


class Extension(ComfyExtension):
    """All of them."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TestPrompt, TestLatent, TestSum, TestFrames, TestVae, TestStrangeModel]


async def comfy_entrypoint() -> ComfyExtension:
    """What ComfyUI calls."""
    return Extension()
