"""What a run cannot do, and the sentence that says so. Everything here is known before sampling starts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..attention import Way
from ..blend import Blend
from ..conditionings import BY_ROW, PAIR_KEY, source_alone
from ..edit import Edit
from ..guidance import Proximal
from ..invert import Inversion, same_level, summary
from ..prompt import PromptPair, quoted
from ..second_pass import Continuation
from .graph import works_on_pictures
from .hints import PAGE
from .notices import place
from .results import Origin

NULL_TEXT_KEY = "p2p_null_text"  # marks a negative with the guidance and noise levels it was optimised for


def require_way(edit: Edit, ways: Sequence[Way]) -> None:
    for named in {row.way for row in edit.rows if row is not None}:
        if named not in ways:
            raise ValueError(
                f"Wanted injection {' or '.join(ways)} for this model, got {quoted(named)}, which is for transformers "
                f"whose text and picture share one attention. Set injection to {ways[0]}."
            )


def require_one_blend(works: Sequence[Any]) -> None:
    blended = [(work.pair, row) for work in works if isinstance(work, Blend) for row in work.edits]
    for pair, row in blended:
        if blended.count((pair, row)) > 1:
            raise ValueError(
                f"Wanted one P2P Local Blend Mask for an edit, got two for edit {row + 1}. Name all its words in one "
                "node, or set the nodes' edit to different edited prompts."
            )


def pairs_of_conditionings(conds: dict[str, list[dict]], works: Sequence[Any]) -> dict[Any, PromptPair]:
    """Conditioning id -> its pair, after checking that every edit, blend and recorder has one it can work on.

    None at all where no conditioning is a pair's: then the run is another node's own.
    """
    marked = [cond for entries in conds.values() for cond in entries if PAIR_KEY in cond]
    if not marked:
        return {}
    _require_edits_on_the_positive(conds)
    pairs = {cond["uuid"]: cond[PAIR_KEY] for cond in marked}
    for pair in (work.pair for work in works if not isinstance(work, Inversion)):
        if pair not in pairs.values():
            raise ValueError(
                f"Wanted the conditioning of the pair {quoted(pair.source.text)} -> "
                f"{quoted(' | '.join(target.text for target in pair.targets))} on the sampler, got none. Connect "
                "P2P Prompt Pair's conditioning to the sampler's positive, and its pair to the P2P nodes on the model."
            )
    counts = sorted({pair.rows for pair in pairs.values()})
    if len(counts) > 1:
        raise ValueError(
            f"Wanted prompt pairs with equally many edits in one run, got pairs of {counts} rows. Give each pair the "
            "same number of edited prompts."
        )
    for cond in marked:
        _require_intact(cond, cond[PAIR_KEY])
    return pairs


def forget_zeroed_pairs(conds: dict[str, list[dict]]) -> None:
    """Conditioning (Zero Out) keeps the mark of a pair, but what says nothing is no text's."""
    for cond in (cond for entries in conds.values() for cond in entries):
        if PAIR_KEY in cond and not cond["cross_attn"].any():
            source_alone(cond)


def _require_edits_on_the_positive(conds: dict[str, list[dict]]) -> None:
    """A pair on both sides guides away from itself; on the negative alone, the wires are crossed."""
    sides = {name: [cond[PAIR_KEY] for cond in entries if PAIR_KEY in cond] for name, entries in conds.items()}
    negative = [pair for name, pairs in sides.items() for pair in pairs if "negative" in name]
    positive = [pair for name, pairs in sides.items() for pair in pairs if "negative" not in name]
    if any(pair in positive or not positive for pair in negative):
        raise ValueError(
            "Wanted a pair's conditioning on the sampler's positive alone, got it on negative"
            + (" as well, where guidance takes away what it adds" if positive else "")
            + ". Connect CLIP Text Encode to negative; prompts that are edited there are a pair of their own."
        )


def _require_intact(cond: dict, pair: PromptPair) -> None:
    """A node in between may have joined, cut or replaced rows; the alignment would then point at the wrong words."""
    wanted = [pair.rows, pair.context_length, pair.context_dim]
    got = list(cond["cross_attn"].shape)
    if got != wanted:
        raise ValueError(
            f"Wanted P2P Prompt Pair's conditioning as it left the node, [rows, tokens, width] = {wanted}, got {got}: "
            "a node in between changed it. Join the texts in P2P Prompt Pair instead, or put P2P Pair From "
            "Conditioning behind that node; Conditioning (Combine) works."
        )
    for name, rows in BY_ROW.items():
        beside = cond.get(name)
        if beside is not None and beside.shape[0] != pair.rows:
            raise ValueError(
                f"Wanted {pair.rows} {rows} beside the conditioning (source and edits), got {beside.shape[0]}: a "
                "node in between replaced them, and every edit would be steered by the same one. Remove that node."
            )


def refuse_context_windows(model_options: dict) -> None:
    """Windows over the batch take source and edits apart; others cut pictures, where masks and maps do not follow."""
    if model_options.get("context_handler") is not None:
        raise ValueError(
            "Context windows over the batch take source and edits apart, and others cut the pictures: wanted whole "
            "pictures in one batch. Remove the Context Windows node from this model."
        )


def require_whole_batch(rows: int, batch: int) -> None:
    if rows < batch:
        raise ValueError(
            f"Wanted source and edits in one batch, got {rows} rows of {batch} in a model call: another node takes the "
            "batch apart (context options, whose windows are shorter than the batch). Remove it, or let its windows "
            "hold all pictures."
        )


def require_one_beginning(second_passes: Sequence[Continuation], inversions: Sequence[Inversion]) -> None:
    if second_passes and inversions:
        raise ValueError(
            "Wanted one beginning for the run, got P2P Second Pass, which goes on from a sampler's result, and "
            "P2P DDIM Invert, which starts at a picture's noise. Connect the model from before P2P DDIM Invert to "
            "P2P Second Pass."
        )


def require_all_of_a_result(latents_are: Origin, count: int, rows: int) -> None:
    """A node that makes pictures of pictures puts what it sampled back in their places: as many as went in."""
    here = place()
    if latents_are == "part" and here is not None and works_on_pictures(here.prompt, here.node):
        raise ValueError(
            "Wanted the model from before the P2P nodes, or all that the first sampler made, in a node that samples "
            f"parts of pictures, got an edited model and {count} of these latents, of which {count * rows} would come "
            "back. For a detailer connect that model, and CLIP Text Encode of what the detail shows; for an upscaler "
            f"all pictures of the first sampler, and P2P Second Pass ({PAGE} has a recipe for each kind of node)."
        )


def require_plain_guidance(guider: Any, guidances: Sequence[Proximal]) -> None:
    others = sorted(set(guider.conds) - {"positive", "negative"})
    if guidances and others:
        raise ValueError(
            f"Wanted a positive and a negative for P2P Proximal Guidance, got {type(guider).__name__} with "
            f"{', '.join(others)} as well, which computes guidance of its own. Use CFG Guider or KSampler, or remove "
            "P2P Proximal Guidance."
        )


def require_optimised_for(guider: Any, sigmas: Sequence[float]) -> None:
    """A null-text negative is made for one guidance and one schedule."""
    for cond in (cond for entries in guider.conds.values() for cond in entries):
        if NULL_TEXT_KEY in cond:
            cfg, levels = cond[NULL_TEXT_KEY]
            if not math.isclose(cfg, getattr(guider, "cfg", cfg), rel_tol=1e-6):
                raise ValueError(
                    f"Wanted cfg {cfg:g}, for which P2P Null-Text Optimize made the negative, got {guider.cfg:g}. Set "
                    "both alike."
                )
            if len(levels) != len(sigmas):
                raise ValueError(
                    f"Wanted the {len(levels) - 1} steps for which P2P Null-Text Optimize made the negative, got "
                    f"{len(sigmas) - 1}. Set the sampler as in P2P DDIM Invert."
                )
            if not all(map(same_level, levels, sigmas)):
                raise ValueError(
                    f"Wanted the noise levels for which P2P Null-Text Optimize made the negative ({summary(levels)}), "
                    f"got others ({summary(sigmas)}). Set the sampler's scheduler and denoise as in P2P DDIM Invert."
                )
            return
