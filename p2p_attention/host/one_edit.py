"""A whole edit at once: what P2P Prompt Pair and the nodes behind it do one by one, by the strength of the edit."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from ..blend import CHANGE, CHANGE_OR_EVERYWHERE, MaskFrom, blend_of_whole_edit, words_change
from ..checks import require_one_of
from ..edit import NEVER, edited_text, faded_words, swap_and_fade
from ..invert import Inversion, SourceRow
from ..prompt import PromptPair
from ..record import BlendMasks, Everywhere, Record
from ..strength import windows_of
from .attach import attach, works_on
from .encode import encode, encode_pair
from .families import family_of
from .way_back import ddim_invert

Keep = Literal["automatic", "the composition", "everything but the words", "nothing"]
KEEPS = get_args(Keep)
MASK_FROM: dict[Keep, MaskFrom] = {"automatic": CHANGE_OR_EVERYWHERE, "everything but the words": CHANGE}
REFINE_ITERATIONS = 3
SOURCE_ROW: SourceRow = "pin"
WAY_BACK = "P2P DDIM Invert"
GUIDANCE = "FluxGuidance"
GUIDANCE_BACK = 2.0  # of models that take it as a number; at the sampler's own the way back is hardly found (measured)
DIFFERING = "those that differ"


class Photograph(NamedTuple):
    """A picture to edit: the host's LATENT, and (steps, scheduler, denoise) of the sampler."""

    latent: dict
    settings: tuple[int, str, float]


class OneEdit(NamedTuple):
    """What goes on to the sampler and to other nodes.

    Args:
        model: its runs edit.
        conditioning, negative: the sampler's positive and negative.
        pair, masks: for other nodes.
        did: of each node that would do the same, its name and inputs.
    """

    model: Any
    conditioning: list
    negative: list
    pair: PromptPair
    masks: Record[BlendMasks]
    did: list[tuple[str, dict[str, Any]]]

    @property
    def outputs(self) -> tuple[Any, ...]:
        """Those of P2P Edit, in its order: all but ``did``."""
        return self[:-1]


def edit_by_prompt(
    model: Any,
    clip: Any,
    source: str,
    target: str,
    strength: float,
    keep: Keep = "the composition",
    words: str = "",
    negative: str = "",
    photograph: Photograph | None = None,
    alignment: str = "",
) -> OneEdit:
    """Edit a picture by its prompt: swapped and shared words take the source's places, new ones find their own.

    Args:
        model: the host's.
        clip: the host's, that reads the prompts.
        source, target, alignment: see ``encode_pair``. An empty target is the source's text, where words are faded.
        strength: see ``windows_of``; of no account where nothing is kept.
        keep: what stays. The composition: by the windows. Everything but the words: by a local blend, too. Automatic:
            by a local blend of those edits that turn out to be of a place in the picture. Nothing: there are no
            windows, source and edit begin at the same noise.
        words: to fade, ``word: scale``, one a line; see ``reweight``.
        negative: the text of the sampler's negative.
        photograph: to be edited in place of a picture that the model makes.

    Raises:
        ValueError: there is nothing to change, or as the functions of the single nodes.
    """
    require_one_of("keep", keep, KEEPS)
    target = edited_text(source, target, words)
    strengths = family_of(model).strengths
    cross, self_attention = (NEVER, NEVER) if keep == "nothing" else windows_of(strength, strengths)
    conditioning, pair = encode_pair(clip, source, target, alignment)
    edits, faded = swap_and_fade(pair, cross, self_attention, words), faded_words(words)
    held = keep in MASK_FROM and (keep != "automatic" or bool(faded) or words_change(pair))
    blend = blend_of_whole_edit(pair, faded, mask_from=MASK_FROM[keep]) if held else None
    did: list[tuple[str, dict[str, Any]]] = []
    if photograph is not None:  # takes its time: what can be wrong is known by now
        guidance = guidance_back(model)
        prompt = [[context, {**more, **guidance}] for context, more in encode(clip, source)]
        did += guidance_step(guidance)
        model, _ = ddim_invert(model, prompt, *photograph, REFINE_ITERATIONS, SOURCE_ROW)
    did += [way_back_step(work.settings, work.source_row) for work in works_on(model) if isinstance(work, Inversion)]
    for work in edits:
        model = attach(model, work)
    did.append(("P2P Attention Replace", {"cross_end": cross.end, "self_end": self_attention.end}))
    if faded:
        did.append(("P2P Reweight Token", {"words": words.strip()}))
    masks: Record[BlendMasks] = Everywhere(pair.rows)
    if blend is not None:
        model, masks = attach(model, blend), blend.record
        names = "threshold", "start", "grow", "mask_from"
        inputs: dict[str, Any] = {name: getattr(blend, name) for name in names}
        if faded:
            same = all(prompt.text == pair.source.text for prompt in pair.targets)
            inputs["words"] = ", ".join([*([] if same else [DIFFERING]), *faded])
        did.append(("P2P Local Blend Mask", inputs))
    return OneEdit(model, conditioning, encode(clip, negative), pair, masks, did)


def guidance_back(model: Any) -> dict[str, float]:
    """What a conditioning has more on a photograph's way back, which is the input of the node GUIDANCE, too."""
    return {"guidance": GUIDANCE_BACK} if family_of(model).embeds_guidance(model) else {}


def guidance_step(guidance: dict[str, float]) -> list[tuple[str, dict[str, Any]]]:
    """How ``OneEdit.did`` names it, if there is any."""
    return [(GUIDANCE, dict(guidance))] if guidance else []


def way_back_step(settings: tuple[int, str, float], source_row: SourceRow = SOURCE_ROW) -> tuple[str, dict[str, Any]]:
    """How ``OneEdit.did`` names the way back of a photograph."""
    steps, scheduler, denoise = settings
    return WAY_BACK, {"steps": steps, "scheduler": scheduler, "denoise": denoise, "source_row": source_row}
