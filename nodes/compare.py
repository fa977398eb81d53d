"""P2P Compare: source against edit, with a slider."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..p2p_attention.show import compared
from .inputs import CATEGORY, Pair


class Compare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PCompare",
            display_name="P2P Compare",
            category=CATEGORY,
            description="The source over an edit, with a slider between them.",
            inputs=[
                io.Image.Input("images", tooltip="The decoded pictures, source and edits, as the sampler gave them."),
                Pair.Input("pair", tooltip="From the pair node whose conditioning the pictures were made with."),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images, pair) -> io.NodeOutput:
        rows = compared(images, pair)
        pictures = ui.PreviewImage(images, cls=cls).values
        return io.NodeOutput(ui={"p2p_compare": [{"rows": rows, "pictures": pictures}]})
