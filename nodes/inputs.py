"""Inputs, outputs and names that several nodes share."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

from ..p2p_attention.maps import BRANCHES, LAYERS, RESOLUTIONS

CATEGORY = "Prompt-to-Prompt"
STEPS_OF_NEW = 20  # as of a new KSampler, whose scheduler is the first of its list
Pair = io.Custom("P2P_PAIR")


def where_known(**settings: Any) -> dict[str, Any]:
    """Settings of a node's schema that only newer hosts have: other words to find it by, and the like."""
    known = {field.name for field in fields(io.Schema)}
    return {name: value for name, value in settings.items() if name in known}


def model_and_pair() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The model to edit with. P2P nodes chain in any order, before the sampler."),
        Pair.Input(
            "pair",
            tooltip="From P2P Prompt Pair or P2P Pair From Conditioning, whose conditioning is the sampler's positive.",
        ),
    ]


def model_output() -> list[io.Output]:
    return [io.Model.Output(display_name="model", tooltip="The patched model, for the sampler or the next P2P node.")]


def fraction(name: str, default: float, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


def edit_number() -> io.Input:
    return io.Int.Input(
        "edit",
        default=0,
        min=0,
        max=999,
        optional=True,
        tooltip="Which of the pair's edited prompts: 0 for all, 1 for the first, and so on.",
    )


def map_choices() -> list[io.Input]:
    """Which attention maps."""
    return [
        io.Combo.Input(
            "map_resolution",
            options=list(RESOLUTIONS),
            default="auto",
            tooltip="Side of the attention maps, in cells. auto: 16 for a 512 x 512 picture of SD 1.5, and what "
            "corresponds to it for other sizes.",
        ),
        io.Combo.Input(
            "maps",
            options=list(BRANCHES),
            default=BRANCHES[0],
            optional=True,
            tooltip="own: where an edited row itself looks. injected: where it is made to look, with the source's maps "
            "in place of its own.",
        ),
    ]


def map_layers() -> io.Input:
    return io.Combo.Input(
        "map_layers",
        options=list(LAYERS),
        default=LAYERS[0],
        optional=True,
        tooltip="Of which of the model's layers the maps are the mean. auto: for transformers those that are known to "
        "tell things apart, or the middle third; for UNets all of the resolution. More layers take more time.",
    )


def finished_run(what: str) -> list[io.Input]:
    """What the sampler gave, as latents and as pictures."""
    return [
        io.Latent.Input("latent", tooltip="What the sampler gave: it makes this node run after it."),
        io.Image.Input(
            "images", optional=True, tooltip=f"The decoded pictures, source and edits, to lay the {what} over."
        ),
    ]
