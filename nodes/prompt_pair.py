"""P2P Prompt Pair and P2P Pair From Conditioning: source prompt and edits as the rows of one conditioning."""

from __future__ import annotations

from comfy_api.latest import io

from ..p2p_attention.host.encode import encode_pair, pair_conditionings
from .alignment_route import remember_clip
from .inputs import CATEGORY, Pair, where_known


def prompt_inputs(empty_target: str) -> list[io.Input]:
    return [
        io.Clip.Input("clip", tooltip="The text encoder of the checkpoint whose model is edited."),
        io.String.Input(
            "source",
            multiline=True,
            dynamic_prompts=True,
            tooltip="The prompt of the picture you start from. The source picture is what this prompt alone "
            "would give.",
        ),
        io.String.Input(
            "target",
            multiline=True,
            dynamic_prompts=True,
            tooltip="The edited prompt: change or add words. Several edits are separated by a line that holds "
            f"only ---, one image each. Empty: {empty_target}.",
        ),
    ]


def pair_outputs() -> list[io.Output]:
    return [
        io.Conditioning.Output(
            display_name="conditioning", tooltip="Source and edits, for the sampler's positive input."
        ),
        Pair.Output(display_name="pair", tooltip="The two prompts and their words, for the P2P nodes."),
    ]


def alignment_input() -> io.String.Input:
    return io.String.Input(
        "alignment",
        default="",
        multiline=True,
        optional=True,
        tooltip="Only where the words below do not stand for each other as you mean it, one line each: cat -> dog (dog "
        "takes the place of cat), + hat (new), - hat (removed).",
    )


class PromptPair(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PPromptPair",
            **where_known(
                search_aliases=["prompt to prompt", "prompt2prompt", "p2p", "edit prompt", "source and target"]
            ),
            display_name="P2P Prompt Pair",
            category=CATEGORY,
            description=(
                "The prompt of a picture and how you want to change it. The sampler makes all of them together, from "
                "the same noise: per seed first the source, then each edit. Connect the pair to a P2P Attention node."
            ),
            inputs=[
                *prompt_inputs("the source alone, for instance to look at its attention maps"),
                alignment_input(),
            ],
            outputs=pair_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, clip, source: str, target: str, alignment: str = "") -> io.NodeOutput:
        encoded = encode_pair(clip, source, target, alignment)
        remember_clip(getattr(cls.hidden, "unique_id", None), clip)
        return io.NodeOutput(*encoded)


class PairFromConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PPairFromConditioning",
            **where_known(search_aliases=["prompt to prompt", "conditioning pair"]),
            display_name="P2P Pair From Conditioning",
            category=CATEGORY,
            description=(
                "A prompt pair of conditionings that other nodes made: with SDXL's sizes, a ControlNet, a time range, "
                "another encoder. The texts say what was encoded, so that the words can be found."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder that made the conditionings; it reads the texts."),
                io.Conditioning.Input(
                    "source_conditioning",
                    tooltip="Of the picture you start from. Its row is exactly this conditioning.",
                ),
                io.Conditioning.Input(
                    "target_conditioning",
                    optional=True,
                    tooltip="Of the edited picture. Of several edits one after the other, by Conditioning (Combine).",
                ),
                io.String.Input(
                    "source",
                    multiline=True,
                    tooltip="The text that source_conditioning was encoded from, of SDXL's two that for g. BREAK where "
                    "Conditioning (Concat) joined two.",
                ),
                io.String.Input(
                    "target",
                    multiline=True,
                    tooltip="The text that target_conditioning was encoded from; of several edits separated by a line "
                    "that holds only ---.",
                ),
                alignment_input(),
            ],
            outputs=pair_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, clip, source_conditioning, source, target, target_conditioning=None, alignment=""
    ) -> io.NodeOutput:
        made = pair_conditionings(clip, source, target, source_conditioning, target_conditioning, alignment)
        remember_clip(getattr(cls.hidden, "unique_id", None), clip)
        return io.NodeOutput(*made)
