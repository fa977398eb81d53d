"""P2P Load Demo Model: the small text-to-image model that comes with the pack."""

from __future__ import annotations

from comfy_api.latest import io

from .model import load_demo_model


class LoadDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PLoadDemoModel",
            display_name="P2P Load Demo Model",
            category="Prompt-to-Prompt",
            description=(
                "A small model that draws captioned scenes at 128 x 128, to try Prompt-to-Prompt without a checkpoint. "
                "Works like Load Checkpoint; exchange it for one to edit with SD 1.5, SD 2 or SDXL."
            ),
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The denoising UNet, for P2P nodes and samplers."),
                io.Clip.Output(display_name="clip", tooltip="The text encoder, for P2P Prompt Pair and CLIP Text Encode."),
                io.Vae.Output(display_name="vae", tooltip="The autoencoder between pictures and latents."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_demo_model())
