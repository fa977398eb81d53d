"""P2P Compare: source against edit, with a slider."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..p2p_attention.show import apart, comparison
from .inputs import CATEGORY, Pair, where_known


class Compare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PCompare",
            **where_known(search_aliases=["before after", "image comparer", "slider", "difference"]),
            display_name="P2P Compare",
            category=CATEGORY,
            description=(
                "The source over an edit, with a line between them to move; or their difference, or all side by side."
            ),
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="The decoded pictures, source and edits, as the sampler gave them. Without a pair: the "
                    "first is the source of the others.",
                ),
                Pair.Input(
                    "pair",
                    optional=True,
                    tooltip="From the pair node whose conditioning the pictures were made with.",
                ),
                io.Image.Input(
                    "edited",
                    optional=True,
                    tooltip="Without a pair: other pictures to compare images with, one by one.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="source", tooltip="The source of each seed."),
                io.Image.Output(display_name="edits", tooltip="The edits of each seed, without their source."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images, pair=None, edited=None) -> io.NodeOutput:
        rows, pictures, lines = comparison(images, pair, edited)
        saved = ui.PreviewImage(pictures, cls=cls).values
        source, edits = apart(pictures, len(rows))
        return io.NodeOutput(source, edits, ui={"p2p_compare": [{"rows": rows, "pictures": saved, "lines": lines}]})
