"""P2P Composite: edited pictures whose pixels outside of their masks are the source's."""

from __future__ import annotations

from comfy_api.latest import io

from ..p2p_attention.composite import FEATHER, composite
from .inputs import CATEGORY, Pair, where_known


class Composite(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PComposite",
            **where_known(search_aliases=["keep background", "paste edit", "image composite masked"]),
            display_name="P2P Composite",
            category=CATEGORY,
            description=(
                "Lays edited pictures over their source through masks: outside of them every pixel is the source's. At "
                "the end of a workflow, before the pictures are saved."
            ),
            inputs=[
                io.Image.Input("images", tooltip="The decoded pictures, source and edits, as the sampler gave them."),
                Pair.Input("pair", tooltip="From the pair node whose conditioning the pictures were made with."),
                io.Mask.Input(
                    "masks",
                    tooltip="The mask of P2P Show Blend Mask, or your own: one, one for each edited prompt, or one for "
                    "each image and edited prompt.",
                ),
                io.Image.Input(
                    "source",
                    optional=True,
                    tooltip="Your photograph, of the pictures' size: it takes the source's place, so that the "
                    "autoencoder changes nothing outside of the masks either.",
                ),
                io.Boolean.Input(
                    "follow_edges",
                    default=True,
                    optional=True,
                    tooltip="Bring each mask to what has changed inside of it, and to its edges. Off: the mask as it "
                    "is.",
                ),
                io.Float.Input(
                    "feather",
                    default=2.0,
                    min=FEATHER[0],
                    max=FEATHER[1],
                    step=1.0,
                    optional=True,
                    tooltip="Width of the soft border, in pixels.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="Source and edits, as they came."),
                io.Mask.Output(display_name="masks", tooltip="What was taken of each edited picture, 0 to 1."),
            ],
        )

    @classmethod
    def execute(cls, images, pair, masks, source=None, follow_edges=True, feather=2.0) -> io.NodeOutput:
        return io.NodeOutput(*composite(images, pair, masks, source, follow_edges, feather))
