"""P2P Grid: a table of settings, tried on one edit."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..p2p_attention.host.grid import CFG, SAMPLERS, SEED, STEPS, SamplerSettings, Texts, sweep
from ..p2p_attention.host.way_back import SCHEDULERS
from ..p2p_attention.sheet import contact_sheet
from ..p2p_attention.sweep import AXES, NO_AXIS, read_axis
from .alignment_route import remember_clip
from .inputs import CATEGORY, fraction, where_known
from .prompt_pair import alignment_input, prompt_inputs

TILE = 256  # pixels of the sheet


class Grid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PGrid",
            display_name="P2P Grid",
            **where_known(search_aliases=["xy plot", "sweep", "compare settings", "grid search"]),
            category=CATEGORY,
            description=(
                "Tries a table of settings on one edit and shows all of it on one labelled sheet. It samples by "
                "itself, as KSampler does."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model to edit with, without P2P edits on it."),
                *prompt_inputs("the source itself, with words faded"),
                io.Vae.Input("vae", tooltip="Makes the pictures of the sheet."),
                io.Latent.Input("latent_image", tooltip="Of one picture, as for KSampler."),
                io.Combo.Input(
                    "across",
                    options=list(AXES),
                    default="strength",
                    tooltip="The setting that changes from left to right. strength: of P2P Edit. cross_end, self_end: "
                    "of P2P Attention Replace. scale: of the words to fade. threshold: of P2P Local Blend Mask.",
                ),
                io.String.Input("across_values", default="0.25, 0.5, 0.75", tooltip="Its values, separated by commas."),
                io.Combo.Input(
                    "down",
                    options=[NO_AXIS, *AXES],
                    default=NO_AXIS,
                    tooltip="The setting that changes from top to bottom; none for a single row.",
                ),
                io.String.Input("down_values", default="1, 2, 3", tooltip="Its values, separated by commas."),
                fraction("strength", 0.5, "Of every place, where it is not an axis itself."),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words to fade by the axis scale, separated by commas; 'snow: 2' has a scale of its own.",
                ),
                io.String.Input("negative", default="", tooltip="What the pictures should not show."),
                io.Int.Input(
                    "seed",
                    default=1,
                    min=SEED[0],
                    max=SEED[1],
                    tooltip="Of every place, where it is not an axis itself.",
                ),
                io.Int.Input("steps", default=25, min=STEPS[0], max=STEPS[1], tooltip="As on KSampler."),
                io.Float.Input("cfg", default=5.0, min=CFG[0], max=CFG[1], step=0.1, tooltip="As on KSampler."),
                io.Combo.Input("sampler_name", options=list(SAMPLERS), default="euler", tooltip="As on KSampler."),
                io.Combo.Input("scheduler", options=list(SCHEDULERS), default="normal", tooltip="As on KSampler."),
                alignment_input(),
            ],
            outputs=[
                io.Image.Output(display_name="sheet", tooltip="All pictures on one labelled sheet."),
                io.Image.Output(display_name="images", tooltip="The source of each seed, then the places row by row."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        source,
        target,
        vae,
        latent_image,
        across,
        across_values,
        down,
        down_values,
        strength,
        words,
        negative,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        alignment="",
    ) -> io.NodeOutput:
        axes = read_axis(across, across_values), None if down == NO_AXIS else read_axis(down, down_values)
        texts = Texts(source, target, negative, words, alignment)
        settings = SamplerSettings(seed, steps, cfg, sampler_name, scheduler)
        remember_clip(getattr(cls.hidden, "unique_id", None), clip)
        rows, images = sweep(model, clip, vae, latent_image, texts, axes, strength, settings)
        sheet = contact_sheet(rows, TILE, per_line=len(axes[0].values) + 1)
        return io.NodeOutput(sheet, images, ui=ui.PreviewImage(sheet, cls=cls))
