"""P2P Pick Pictures: the sources, or the edits of one prompt, out of all that a sampler made."""

from __future__ import annotations

from comfy_api.latest import io

from ..p2p_attention.pick import pick
from .inputs import CATEGORY, Pair, where_known


class PickPictures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PPickPictures",
            **where_known(search_aliases=["latent from batch", "only the edit"]),
            display_name="P2P Pick Pictures",
            category=CATEGORY,
            description=(
                "The sources, or the edits of one prompt, out of all that a sampler made: for nodes that go on with "
                "them alone. Each keeps the mask and the noise of its own picture."
            ),
            inputs=[
                io.Latent.Input("latent", tooltip="All that the sampler made, source and edits."),
                Pair.Input("pair", tooltip="From the pair node whose conditioning the pictures were made with."),
                io.Int.Input(
                    "row",
                    default=1,
                    min=0,
                    max=999,
                    tooltip="Which ones: 0 for the source, 1 for the first edited prompt, and so on.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="One for each picture. For a sampler or a decoder.")
            ],
        )

    @classmethod
    def execute(cls, latent, pair, row) -> io.NodeOutput:
        return io.NodeOutput(pick(latent, pair, row))
