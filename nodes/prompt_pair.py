"""P2P Prompt Pair: the source prompt and its edits, encoded as the rows of one conditioning."""

from __future__ import annotations

from comfy_api.latest import io

from ..p2p_attention.patcher import encode_pair
from .alignment_route import remember_clip

Pair = io.Custom("P2P_PAIR")
CATEGORY = "Prompt-to-Prompt"


class PromptPair(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PPromptPair",
            display_name="P2P Prompt Pair",
            category=CATEGORY,
            description=(
                "The prompt of a picture and how you want to change it. The sampler makes all of them together, from "
                "the same noise: per seed first the source, then each edit. Connect the pair to a P2P Attention node."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the checkpoint whose model is edited."),
                io.String.Input(
                    "source",
                    multiline=True,
                    tooltip="The prompt of the picture you start from. It is made as this prompt alone would make it.",
                ),
                io.String.Input(
                    "target",
                    multiline=True,
                    tooltip="The edited prompt: change or add words. Several edits are separated by a line that holds "
                    "only ---, one image each. Empty: the source alone, for instance to look at its attention maps.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="Source and edits, for the sampler's positive input."
                ),
                Pair.Output(display_name="pair", tooltip="The two prompts and their words, for the P2P nodes."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, clip, source: str, target: str) -> io.NodeOutput:
        encoded = encode_pair(clip, source, target)
        remember_clip(getattr(cls.hidden, "unique_id", None), clip)
        return io.NodeOutput(*encoded)
