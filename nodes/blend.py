"""P2P Local Blend Mask: edit only where the words are. P2P Show Blend Mask: look at the masks that were used."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..p2p_attention.blend import FEATHER, GROW, MASK_MODES, MASKS_FROM, local_blend
from ..p2p_attention.host.attach import attach
from ..p2p_attention.maps import BRANCHES, LAYERS
from ..p2p_attention.show import show_masks
from .inputs import (
    CATEGORY,
    edit_number,
    finished_run,
    fraction,
    map_choices,
    map_layers,
    model_and_pair,
    model_output,
    where_known,
)

Masks = io.Custom("P2P_MASKS")


class LocalBlendMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PLocalBlendMask",
            **where_known(search_aliases=["local edit", "keep background", "attention mask"]),
            display_name="P2P Local Blend Mask",
            category=CATEGORY,
            description=(
                "Edit only where the words are: everywhere else the picture stays the source's. The mask comes from "
                "the words' attention, nobody paints it."
            ),
            inputs=[
                *model_and_pair(),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words of the source or the edited prompt whose place may change, separated by commas. "
                    "Empty: the words in which the prompts differ.",
                ),
                io.String.Input(
                    "exclude_words",
                    default="",
                    tooltip="Words whose place must not change, separated by commas.",
                ),
                fraction(
                    "threshold",
                    0.3,
                    "How much attention, between a map's least (0) and most (1), puts a place inside the mask. Lower: "
                    "a larger mask.",
                ),
                fraction(
                    "start",
                    0.2,
                    "From when the rest is held, as a fraction of the steps. Earlier: maps are less certain.",
                ),
                io.Boolean.Input(
                    "spread",
                    default=True,
                    tooltip="Fill the words' maps to whole things, by self-attention. Off: the maps as they are, which "
                    "often cover only the most distinctive part.",
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=GROW[0],
                    max=GROW[1],
                    tooltip="How far a word's place is widened, in cells of the attention map (at 16 x 16, 1 is "
                    "1/16 of the side).",
                ),
                io.Float.Input(
                    "feather",
                    default=0.0,
                    min=FEATHER[0],
                    max=FEATHER[1],
                    step=0.5,
                    tooltip="Soft border around the words' mask, in latent pixels (1 is 8 pixels of the picture).",
                ),
                *map_choices(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Your own mask: one, one for each edited prompt, or one for each image and edited prompt.",
                ),
                io.Combo.Input(
                    "mask_mode",
                    options=list(MASK_MODES),
                    default=MASK_MODES[0],
                    optional=True,
                    tooltip="What your mask does. replace: it alone counts. intersect: inside both. union: inside "
                    "either.",
                ),
                edit_number(),
                io.Combo.Input(
                    "mask_from",
                    options=list(MASKS_FROM),
                    default=MASKS_FROM[0],
                    optional=True,
                    tooltip="What the words' mask is made of. words: where any of them looks. words and change: where "
                    "they look and the edit differs from the source; closer to the thing. words and change, or "
                    "everywhere: the same, but an edit of the whole picture is held to no place.",
                ),
                map_layers(),
            ],
            outputs=[
                *model_output(),
                Masks.Output(display_name="masks", tooltip="For P2P Show Blend Mask, which shows them after sampling."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        pair,
        words,
        exclude_words,
        threshold,
        start,
        spread,
        grow,
        feather,
        map_resolution,
        maps=BRANCHES[0],
        mask=None,
        mask_mode=MASK_MODES[0],
        edit=0,
        mask_from=MASKS_FROM[0],
        map_layers=LAYERS[0],
    ) -> io.NodeOutput:
        blend = local_blend(
            pair,
            words,
            exclude_words,
            threshold,
            start,
            spread,
            grow,
            feather,
            map_resolution,
            maps,
            mask,
            mask_mode,
            edit,
            mask_from=mask_from,
            layers=map_layers,
        )
        return io.NodeOutput(attach(model, blend), blend.record)


class ShowBlendMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PShowBlendMask",
            **where_known(search_aliases=["mask preview", "attention mask"]),
            display_name="P2P Show Blend Mask",
            category=CATEGORY,
            description="The masks that P2P Local Blend Mask used in its last step, one for each edited picture.",
            inputs=[
                Masks.Input("masks", tooltip="From P2P Local Blend Mask."),
                *finished_run("masks"),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="mask", tooltip="One for each edited picture, seed by seed, at the pictures' size."
                ),
                io.Image.Output(display_name="image", tooltip="The edited pictures, dimmed outside of their masks."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, masks, latent, images=None) -> io.NodeOutput:
        mask, image = show_masks(masks, latent["samples"], images)
        return io.NodeOutput(mask, image, ui=ui.PreviewImage(image, cls=cls))
