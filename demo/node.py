"""P2P Load Demo Model and P2P Demo Picture: small text-to-image models, and pictures they did not make."""

from __future__ import annotations

from comfy_api.latest import io

from .flow import load_flow_model
from .model import load_demo_model
from .pictures import LAST_SEED, PICTURES, demo_picture

MODELS = {"unet": load_demo_model, "flow": load_flow_model}


class LoadDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PLoadDemoModel",
            display_name="P2P Load Demo Model",
            category="Prompt-to-Prompt",
            description=(
                "A small model that draws captioned scenes at 128 x 128, to try Prompt-to-Prompt without a checkpoint. "
                "Works like Load Checkpoint; exchange it for that of your own model."
            ),
            inputs=[
                io.Combo.Input(
                    "kind",
                    options=list(MODELS),
                    default="unet",
                    optional=True,
                    tooltip="unet: built as SD 1.5 and SDXL are. flow: built as Flux is, text and picture in one "
                    "attention.",
                )
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The denoiser, for P2P nodes and samplers."),
                io.Clip.Output(
                    display_name="clip", tooltip="The text encoder, for P2P Prompt Pair and CLIP Text Encode."
                ),
                io.Vae.Output(display_name="vae", tooltip="The autoencoder between pictures and latents."),
            ],
        )

    @classmethod
    def execute(cls, kind="unet") -> io.NodeOutput:
        if kind not in MODELS:
            raise ValueError(f"Wanted kind to be one of {', '.join(MODELS)}, got {kind!r}. Choose one of these.")
        return io.NodeOutput(*MODELS[kind]())


class DemoPicture(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PDemoPicture",
            display_name="P2P Demo Picture",
            category="Prompt-to-Prompt",
            description=(
                "A picture that the demo model did not make, to try P2P DDIM Invert with. Exchange it for Load Image, "
                "and the demo model for a checkpoint, to edit a photograph."
            ),
            inputs=[
                io.Combo.Input(
                    "picture",
                    options=list(PICTURES),
                    default=PICTURES[0],
                    tooltip="scene: drawn, of the kind the demo model was trained on. still life: like a photograph, "
                    "and unlike anything it knows.",
                ),
                io.Int.Input("seed", default=0, min=0, max=LAST_SEED, tooltip="Which scene."),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="128 x 128 pixels, the size of the demo model."),
                io.String.Output(display_name="caption", tooltip="The source prompt that fits it."),
            ],
        )

    @classmethod
    def execute(cls, picture, seed) -> io.NodeOutput:
        return io.NodeOutput(*demo_picture(picture, seed))
