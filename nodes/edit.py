"""P2P Attention Replace, P2P Attention Refine and P2P Reweight Token: the paper's three edits of attention maps."""

from __future__ import annotations

from comfy_api.latest import io

from ..p2p_attention.attention import WAYS
from ..p2p_attention.edit import SCALES, Window, refine, replace, reweight
from ..p2p_attention.host.attach import attach
from .inputs import CATEGORY, edit_number, fraction, model_and_pair, model_output, where_known


def _injection_inputs() -> list[io.Input]:
    return [
        *model_and_pair(),
        fraction("cross_start", 0.0, "When the source's layout is first taken over, as a fraction of the steps."),
        fraction(
            "cross_end",
            0.8,
            "Until when the source's layout is taken over. Higher keeps more of the source, lower changes more.",
        ),
        fraction("self_start", 0.0, "When the source's shapes are first taken over, as a fraction of the steps."),
        fraction(
            "self_end",
            0.4,
            "Until when the source's shapes are taken over. Lower it if a new object is forced into the old outline.",
        ),
        io.String.Input(
            "word_windows",
            default="",
            multiline=True,
            optional=True,
            tooltip="Separate windows for single words of the edited prompt, one per line: 'word: end' or "
            "'word: start-end', for example 'lion: 0.4'. word#2 is the second occurrence.",
        ),
        edit_number(),
        io.Combo.Input(
            "injection",
            options=list(WAYS),
            default=WAYS[0],
            optional=True,
            tooltip="For transformers whose text and picture share one attention (Flux, SD3, Qwen-Image, ...): how the "
            "source's maps are taken over. auto: as measured to be best for the model. The help page tells the others.",
        ),
    ]


class AttentionReplace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PAttentionReplace",
            **where_known(search_aliases=["word swap", "change word", "replace word", "prompt to prompt"]),
            display_name="P2P Attention Replace",
            category=CATEGORY,
            description="Swap words: the new word appears where the old one was, the rest of the picture stays.",
            inputs=_injection_inputs(),
            outputs=model_output(),
        )

    @classmethod
    def execute(
        cls, model, pair, cross_start, cross_end, self_start, self_end, word_windows="", edit=0, injection=WAYS[0]
    ) -> io.NodeOutput:
        windows = Window(cross_start, cross_end), Window(self_start, self_end)
        return io.NodeOutput(attach(model, replace(pair, *windows, word_windows, edit, injection)))


class AttentionRefine(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PAttentionRefine",
            **where_known(search_aliases=["add words", "new phrase", "change style", "prompt to prompt"]),
            display_name="P2P Attention Refine",
            category=CATEGORY,
            description="Add words: what they say appears, everything that both prompts say stays where it was.",
            inputs=_injection_inputs(),
            outputs=model_output(),
        )

    @classmethod
    def execute(
        cls, model, pair, cross_start, cross_end, self_start, self_end, word_windows="", edit=0, injection=WAYS[0]
    ) -> io.NodeOutput:
        windows = Window(cross_start, cross_end), Window(self_start, self_end)
        return io.NodeOutput(attach(model, refine(pair, *windows, word_windows, edit, injection)))


class ReweightToken(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PReweightToken",
            **where_known(search_aliases=["fader", "prompt weight", "attention weight", "emphasis"]),
            display_name="P2P Reweight Token",
            category=CATEGORY,
            description="A fader for words: more of it, less of it, its opposite. The rest of the picture stays.",
            inputs=[
                *model_and_pair(),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words or phrases of the edited prompt, separated by commas. word#2 is the second one; "
                    "'snow: 0.5' has a scale of its own.",
                ),
                io.Float.Input(
                    "scale",
                    default=2.0,
                    min=SCALES[0],
                    max=SCALES[1],
                    step=0.05,
                    tooltip="Factor on the words' attention: 1 leaves them as they are, 2 doubles, 0 takes them out, "
                    "negative values push the other way.",
                ),
                fraction("start", 0.0, "From when, as a fraction of the steps."),
                fraction("end", 1.0, "Until when, as a fraction of the steps."),
                edit_number(),
            ],
            outputs=model_output(),
        )

    @classmethod
    def execute(cls, model, pair, words, scale, start, end, edit=0) -> io.NodeOutput:
        return io.NodeOutput(attach(model, reweight(pair, words, scale, Window(start, end), edit)))
