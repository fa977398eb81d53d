"""P2P Edit: a whole edit in one node, in front of the sampler."""

from __future__ import annotations

from comfy_api.latest import io

from ..p2p_attention.host.kept_way_back import edit_and_keep_the_way_back
from ..p2p_attention.host.one_edit import KEEPS, Photograph
from ..p2p_attention.host.way_back import SCHEDULERS
from ..p2p_attention.invert import DENOISE, STEPS
from .alignment_route import remember_clip
from .blend import Masks
from .inputs import CATEGORY, STEPS_OF_NEW, fraction, model_output, where_known
from .prompt_pair import alignment_input, pair_outputs, prompt_inputs


class OneEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        conditioning, pair = pair_outputs()
        return io.Schema(
            node_id="P2PEdit",
            **where_known(
                search_aliases=[
                    "prompt to prompt",
                    "prompt2prompt",
                    "p2p",
                    "edit prompt",
                    "edit by prompt",
                    "change word",
                    "word swap",
                    "image edit",
                ],
                has_intermediate_output=True,
            ),
            display_name="P2P Edit",
            category=CATEGORY,
            description=(
                "Change words of a prompt, and the picture changes there: a whole edit in one node. After a run it "
                "says which single nodes, with which settings, do the same."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model to edit with."),
                *prompt_inputs("the source itself, with words faded"),
                fraction(
                    "strength",
                    0.5,
                    "How much may change: 0.25 subtle, 0.5 balanced, 0.75 free. The help page has the windows that a "
                    "strength stands for.",
                ),
                io.Combo.Input(
                    "keep",
                    options=list(KEEPS),
                    default=KEEPS[0],
                    tooltip="automatic: everything but the words where an edit is of a place in the picture, the "
                    "composition where it is of the whole picture. the composition: things stay where they are. "
                    "everything but the words: what is outside of the changed words' place stays as it is, too. "
                    "nothing: only the noise is the same.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Faders, one a line, 'word: scale': 'snow: 2' is twice as much snow, 'snow: 0' none. With "
                    "an empty target the source's own words are faded.",
                ),
                io.String.Input(
                    "negative",
                    default="",
                    optional=True,
                    tooltip="What the pictures should not show, for the output of that name.",
                ),
                io.Latent.Input(
                    "latent_image",
                    optional=True,
                    tooltip="A photograph to edit, from VAE Encode; connect it to the sampler, too. Without it, the "
                    "model makes the picture of the source prompt.",
                ),
                io.Int.Input(
                    "steps",
                    default=STEPS_OF_NEW,
                    min=STEPS[0],
                    max=STEPS[1],
                    optional=True,
                    tooltip="Only for a photograph: steps of the sampler; set both alike.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(SCHEDULERS),
                    default=SCHEDULERS[0],
                    optional=True,
                    tooltip="Only for a photograph: scheduler of the sampler; set both alike.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=DENOISE[0],
                    max=DENOISE[1],
                    step=0.01,
                    optional=True,
                    tooltip="Only for a photograph: denoise of the sampler; set both alike. Lower values go back only "
                    "part of the way, so less can change.",
                ),
                alignment_input(),
            ],
            outputs=[
                *model_output(),
                conditioning,
                io.Conditioning.Output(display_name="negative", tooltip="For the sampler's negative input."),
                pair,
                Masks.Output(
                    display_name="masks",
                    tooltip="For P2P Show Blend Mask. All white where every place may change.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            enable_expand=True,  # for the way back of a photograph
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        source,
        target,
        strength,
        keep,
        words="",
        negative="",
        latent_image=None,
        steps=STEPS_OF_NEW,
        scheduler=SCHEDULERS[0],
        denoise=1.0,
        alignment="",
    ) -> io.NodeOutput:
        prompt, node = (getattr(cls.hidden, name, None) for name in ("dynprompt", "unique_id"))
        photograph = None if latent_image is None else Photograph(latent_image, (steps, scheduler, denoise))
        asked = {"source": source, "target": target, "strength": strength, "keep": keep, "words": words}
        asked |= {"negative": negative, "alignment": alignment}
        made = edit_and_keep_the_way_back(prompt, node, model, clip, asked, photograph)
        remember_clip(node, clip)
        did = [{"node": name, "inputs": inputs} for name, inputs in made.did]
        return io.NodeOutput(*made.outputs, ui={"p2p_did": did}, expand=made.graph)
