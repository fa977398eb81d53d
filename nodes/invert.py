"""P2P DDIM Invert and P2P Proximal Guidance: edit a picture that the model did not make."""

from __future__ import annotations

from comfy_api.latest import io

from ..p2p_attention.guidance import THRESHOLDS, Proximal
from ..p2p_attention.host.attach import attach
from ..p2p_attention.host.way_back import SCHEDULERS, ddim_invert, null_text
from ..p2p_attention.invert import DENOISE, ITERATIONS, SOURCE_ROWS, STEPS
from ..p2p_attention.null_text import CFG, INNER_STEPS
from .inputs import CATEGORY, STEPS_OF_NEW, fraction, model_and_pair, model_output, where_known


class DDIMInvert(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PDDIMInvert",
            **where_known(search_aliases=["invert", "inversion", "real image", "edit photo", "unsampler"]),
            display_name="P2P DDIM Invert",
            category=CATEGORY,
            description=(
                "Edit your own picture: finds the noise that leads to it. A sampler behind this node starts from that "
                "noise, whatever its seed, and the source row is your picture."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model to edit with. P2P nodes chain in any order."),
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="What your picture shows: CLIP Text Encode of the source prompt, or P2P Prompt Pair's "
                    "conditioning, of which the source is taken.",
                ),
                io.Latent.Input("latent_image", tooltip="Your picture, from VAE Encode."),
                io.Int.Input(
                    "steps",
                    default=STEPS_OF_NEW,
                    min=STEPS[0],
                    max=STEPS[1],
                    tooltip="Steps of the sampler that follows; set both alike.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(SCHEDULERS),
                    default=SCHEDULERS[0],
                    tooltip="Scheduler of the sampler that follows; set both alike.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=DENOISE[0],
                    max=DENOISE[1],
                    step=0.01,
                    tooltip="Denoise of the sampler that follows; set both alike. Lower values invert only part of "
                    "the way, so less can change.",
                ),
                io.Int.Input(
                    "refine_iterations",
                    default=3,
                    min=ITERATIONS[0],
                    max=ITERATIONS[1],
                    tooltip="How often a step is corrected, on average. 0 is plain DDIM inversion; each one more is up "
                    "to one model call more per step.",
                ),
                io.Combo.Input(
                    "source_row",
                    options=list(SOURCE_ROWS),
                    default=SOURCE_ROWS[0],
                    tooltip="pin: the source row is kept on the inversion's path, so it comes back exactly at any "
                    "cfg. pin-aligned: its attention is the inversion's, too. free: it runs as any row does.",
                ),
            ],
            outputs=[
                *model_output(),
                io.Latent.Output(
                    display_name="latent", tooltip="The noise found; for KSampler (Advanced) with add_noise disabled."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model, conditioning, latent_image, steps, scheduler, denoise, refine_iterations, source_row
    ) -> io.NodeOutput:
        return io.NodeOutput(
            *ddim_invert(model, conditioning, latent_image, (steps, scheduler, denoise), refine_iterations, source_row)
        )


class ProximalGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PProximalGuidance",
            **where_known(search_aliases=["negative prompt inversion", "proximal"]),
            display_name="P2P Proximal Guidance",
            category=CATEGORY,
            description="Guidance that ignores small differences: less drift of what should not change.",
            inputs=[
                *model_and_pair(),
                fraction(
                    "threshold", 0.7, "Share of the guidance's values, the smallest, that are left out. 0: all stay."
                ),
                io.Combo.Input(
                    "kind",
                    options=list(THRESHOLDS),
                    default=THRESHOLDS[0],
                    tooltip="soft: the others become smaller, too. hard: they stay as they are.",
                ),
            ],
            outputs=model_output(),
        )

    @classmethod
    def execute(cls, model, pair, threshold, kind) -> io.NodeOutput:
        return io.NodeOutput(attach(model, Proximal(pair, threshold, kind)))


class NullTextOptimize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PNullTextOptimize",
            **where_known(search_aliases=["null text inversion", "null-text"]),
            display_name="P2P Null-Text Optimize",
            category=CATEGORY,
            description=(
                "Finds a negative for every step with which the source row, running freely, comes back to your "
                "picture. Slow: it optimises through the model. source_row pin gives it back exactly, and at once."
            ),
            inputs=[
                io.Model.Input("model", tooltip="From P2P DDIM Invert, with source_row free."),
                io.Conditioning.Input(
                    "positive", tooltip="The source prompt, or P2P Prompt Pair's conditioning, as on the sampler."
                ),
                io.Conditioning.Input("negative", tooltip="To begin with: the empty prompt, in the paper."),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=CFG[0],
                    max=CFG[1],
                    step=0.1,
                    tooltip="Of the sampler that follows; set both alike.",
                ),
                io.Int.Input(
                    "inner_steps",
                    default=10,
                    min=INNER_STEPS[0],
                    max=INNER_STEPS[1],
                    tooltip="Most optimisation steps per sampling step.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="negative", tooltip="A negative that changes with every step, for the sampler."
                )
            ],
        )

    @classmethod
    def execute(cls, model, positive, negative, cfg, inner_steps) -> io.NodeOutput:
        return io.NodeOutput(null_text(model, positive, negative, cfg, inner_steps))
