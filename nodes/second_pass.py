"""P2P Second Pass: sample again what a first sampler made of source and edits."""

from __future__ import annotations

from comfy_api.latest import io

from ..p2p_attention.host.attach import attach
from ..p2p_attention.second_pass import Continuation
from .inputs import CATEGORY, model_and_pair, model_output, where_known


class SecondPass(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PSecondPass",
            **where_known(search_aliases=["hires fix", "refiner", "upscale"]),
            display_name="P2P Second Pass",
            category=CATEGORY,
            description=(
                "For a second sampler behind the first: a hires fix, a refiner, the rest of the steps. Its latents are "
                "source and edits already, and each edit goes on from its own."
            ),
            inputs=model_and_pair(),
            outputs=model_output(),
        )

    @classmethod
    def execute(cls, model, pair) -> io.NodeOutput:
        return io.NodeOutput(attach(model, Continuation(pair)))
