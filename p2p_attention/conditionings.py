"""Conditionings as rows: several become the rows of one, after checking that they can, and the source's is taken out.

A conditioning is ComfyUI's: a list of parts ``[context, extras]``, a tensor (rows, positions, width) and a dictionary.
"""

from __future__ import annotations

import itertools
import logging
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from .prompt import Prompt, PromptPair, quoted
from .rows import row_name

PAIR_KEY = "p2p_pair"  # marks a part with the pair it was made from
T5_KEY = "p2p_t5"  # what the rows say in T5's tokens, where the model itself makes their contexts of these (Anima)
# What encoders of newer models note of one text.
OF_ONE_TEXT = frozenset({"attention_mask", "t5xxl_ids", "t5xxl_weights"})
LLAMA, T5_IDS, T5_WEIGHTS = "conditioning_llama3", "t5xxl_ids", "t5xxl_weights"
# Tensors of a part that have a row for each of its context's -> what they are called in messages.
BY_ROW = {"pooled_output": "pooled rows", LLAMA: "rows of Llama"}
# What the host's sampler reads of a part, and then what its models do: the rows of one conditioning share all of it.
# Whatever else other packs note down there (the text they encoded, ids) is not the picture's.
SHARED = frozenset(
    "additional_models area clip_end_percent clip_start_percent control control_apply_to_uncond default end_percent "
    "gligen hooks mask mask_strength model_conds pooled_output set_area_to_bounds start_percent strength "
    "aesthetic_score aspect_ratio attention_mask attention_mask_img_shape attention_mask_mt5xl audio_codes audio_embed "
    "audio_inject_scale augmentation_level azimuth camera_conditions clip_vision_output clip_vision_output_pose "
    "clip_vision_output_ref clip_vision_outputs concat_image concat_latent_image concat_mask concat_mask_index "
    "condition conditioning_byt5small conditioning_llama3 conditioning_lyrics conditioning_mt5xl conditioning_scale "
    "context_latents control_video crop_h crop_w cross_attn_controlnet cross_attn_pose degrade_sigma "
    "driving_mask_28ch elevation embeds face_video_pixels fps frame_rate generated_keyframes guidance "
    "guide_attention_entries guiding_frame_index height keyframe_idxs lq_latent lyrics_strength "
    "minimax_audio_cond_noise_aug minimax_keyframes minimax_refs minimax_token_tags minimax_visual_cond_noise_aug "
    "motion_bucket_id noise_augmentation noise_concat ofs pose_strength pose_video_latent ref_audio ref_latent "
    "ref_mask_28ch ref_mask_flag reference_audio_timbre_latents reference_latents reference_latents_method "
    "reference_latents_text_embeds reference_motion reference_strength seconds_start seconds_total "
    "stable_cascade_prior t5xxl_ids t5xxl_weights target_height target_width text_input_ids time_conditioning "
    "time_dim_concat time_dim_replace unclip_conditioning unclip_noise_augment_merge unprocessed_ltxav_embeds "
    "vace_frames vace_mask vace_strength width".split()
)
Part = list  # [context, extras]


class T5Text(NamedTuple):
    """One row of a part for Anima.

    Args:
        length: positions of the row's own context, before it was padded.
        ids, weights: (T,), of its T5 tokens.
    """

    length: int
    ids: torch.Tensor
    weights: torch.Tensor


def parts_by_row(
    prompts: Sequence[Prompt], source_conditioning: list, target_conditioning: list | None, for_each_position: int = 1
) -> list[list[Part]]:
    """For each part the rows of source and edits, after checking that each is one row as its text makes it.

    Args:
        prompts: the texts of source and edits.
        source_conditioning: of the picture to edit.
        target_conditioning: of the edit; of several edits one behind the other.
        for_each_position: 2 for contexts of keys and values in turn, see ``PromptPair``.

    Raises:
        ValueError: the texts do not fit the conditionings.
    """
    edits = _of_each_edit(len(prompts) - 1, len(source_conditioning), target_conditioning)
    sides = [source_conditioning, *edits]
    lengths = [for_each_position * prompt.length for prompt in prompts]
    return [list(map(_checked_row, itertools.count(), rows, prompts, lengths)) for rows in zip(*sides, strict=True)]


def stack_parts(parts: Sequence[Sequence[Part]], pair: PromptPair) -> list[Part]:
    """The conditioning whose rows are those of ``parts``.

    A part that is the same for all rows, while the texts differ, is not of these texts and is left as it is.

    Raises:
        ValueError: something differs that the rows have to share, or an edit is not encoded.
    """
    _require_one_width(parts, pair)
    common = [_is_common(rows, pair) for rows in parts]
    _require_the_texts(parts, common, pair)
    _require_shared_extras(parts, common, OF_ONE_TEXT if pair.padded else frozenset())
    return [rows[0] if alike else stack_rows(rows, pair) for rows, alike in zip(parts, common, strict=True)]


def stack_rows(rows: Sequence[Part], pair: PromptPair) -> Part:
    """One part of R rows from R parts of one row each, whose contexts are brought to one length.

    Raises:
        ValueError: texts of unequal length for a model that wants equal ones.
    """
    tensors = [
        F.pad(context, (0, 0, 0, pair.context_length - context.shape[1]))
        if pair.padded
        else context.repeat(1, pair.length // prompt.length, 1)
        for (context, _), prompt in zip(rows, (pair.source, *pair.targets), strict=True)
    ]
    extras = {**rows[0][1], PAIR_KEY: pair}
    llama = [row_extras[LLAMA].shape[2] for _, row_extras in rows if row_extras.get(LLAMA) is not None]
    if len(set(llama)) > 1:
        raise ValueError(
            "Wanted texts of one length for HiDream, whose text stands in three parts, got "
            f"{', '.join(map(str, llama))} tokens for Llama. Shorten them to 127, or make them equally long."
        )
    for key in BY_ROW:
        if extras.get(key) is not None:
            extras[key] = torch.cat([row_extras[key] for _, row_extras in rows])
    if T5_IDS in extras:
        extras[T5_KEY] = tuple(T5Text(context.shape[1], each[T5_IDS], each[T5_WEIGHTS]) for context, each in rows)
    return [torch.cat(tensors), extras]


def positions_of(part: Part) -> int:
    """Positions of the text that the model attends to, for a part as its text encoder gives it."""
    context, extras = part
    if T5_IDS in extras:
        return len(extras[T5_IDS])
    llama = extras.get(LLAMA)
    return context.shape[1] if llama is None else context.shape[1] + 2 * llama.shape[2]


def alike_in(cond: Mapping[str, Any], row: int, other: int) -> bool:
    """Whether two rows of a conditioning, as a run holds it, say the same to attention."""
    tensors = [cond["cross_attn"], cond.get(LLAMA)]
    return all(each is None or torch.equal(each[row], each[other]) for each in tensors) and (
        T5_KEY not in cond or _alike(tuple(cond[T5_KEY][row]), tuple(cond[T5_KEY][other]))
    )


def first_row(part: Part) -> Part:
    """The source's row of a part, as long as its own text; no longer a pair's."""
    context, extras = part
    pair = extras.get(PAIR_KEY)
    length = context.shape[1]
    if pair is not None and pair.padded:
        length = extras[T5_KEY][0].length if T5_KEY in extras else pair.source.length
    extras = {key: value for key, value in extras.items() if key not in (PAIR_KEY, T5_KEY)}
    for key in BY_ROW:
        if extras.get(key) is not None:
            extras[key] = extras[key][:1]
    return [context[:1, :length], extras]


def source_alone(cond: dict[str, Any]) -> None:
    """Leave only the source's row in a conditioning as a run holds it; it is no longer a pair's."""
    context, extras = first_row([cond["cross_attn"], cond])
    cond.clear()
    cond.update(extras, cross_attn=context)


def _of_each_edit(edits: int, parts: int, conditioning: list | None) -> list[list[Part]]:
    """The target conditioning, taken apart into those of the edits, each of as many parts as the source's."""
    given = len(conditioning or ())
    if not parts:
        raise ValueError("Wanted a source_conditioning, got an empty one. Connect the encoding of the source text.")
    if given != edits * parts:
        raise ValueError(
            f"Wanted a target_conditioning of {edits * parts} parts ({edits} edited texts, {parts} parts in the "
            f"source_conditioning), got {given}. Several edits are separated by a line '---' in target, their "
            "conditionings combined in that order by Conditioning (Combine). A part that only one side has is combined "
            "with this node's conditioning instead. Without an edit, leave both target and target_conditioning empty."
        )
    return [list(conditioning or ())[first : first + parts] for first in range(0, given, parts)]


def _checked_row(row: int, part: Part, prompt: Prompt, length: int) -> Part:
    """One part of one side, after checking that it is one row as its text makes it."""
    context, extras = part
    side = row_name(row)
    if PAIR_KEY in extras:
        raise ValueError(
            f"Wanted the encoding of one text for the {side}, got a prompt pair's conditioning. Connect the encoding "
            "itself, such as CLIP Text Encode's; several pairs are combined by Conditioning (Combine)."
        )
    if not torch.is_tensor(context) or context.ndim != 3 or len(context) != 1:
        shape = list(context.shape) if torch.is_tensor(context) else type(context).__name__
        raise ValueError(
            f"Wanted one row for the {side}, [1, positions, width], got {shape}. Connect the encoding of one text; "
            "several edits' encodings are combined by Conditioning (Combine)."
        )
    if positions_of(part) != length:
        raise ValueError(
            f"Wanted {length} positions for the {side}, which is what its text {quoted(prompt.text)} takes, got "
            f"{positions_of(part)}. "
            + (
                "Write the whole text that was encoded: BREAK between texts that were joined by Conditioning (Concat), "
                "or at the end where an encoder added an empty part."
                if positions_of(part) > length
                else "Write the text that was encoded, and no more."
            )
        )
    pooled = extras.get("pooled_output")
    if pooled is not None and len(pooled) != 1:
        raise ValueError(
            f"Wanted one row in the pooled_output of the {side}, got {len(pooled)}. Connect the encoding of one text."
        )
    return [context, extras]


def _require_one_width(parts: Sequence[Sequence[Part]], pair: PromptPair) -> None:
    for row, (context, _) in ((row, entry) for rows in parts for row, entry in enumerate(rows)):
        if context.shape[2] != pair.context_dim:
            raise ValueError(
                f"Wanted the width of the source's encoding, {pair.context_dim}, for the {row_name(row)}, got "
                f"{context.shape[2]}: they come from different text encoders. Encode both with the same one."
            )


def _is_common(rows: Sequence[Part], pair: PromptPair) -> bool:
    """Whether a part is the same for all rows though their texts differ: then it says something else than these."""
    texts = {prompt.ids for prompt in (pair.source, *pair.targets)}
    return len(texts) > 1 and all(_alike(context, rows[0][0]) for context, _ in rows)


def _require_the_texts(parts: Sequence[Sequence[Part]], common: Sequence[bool], pair: PromptPair) -> None:
    """Every part that is not common has to say the texts, as far as it can be known without reading tensors."""
    said = [rows for rows, alike in zip(parts, common, strict=True) if not alike]
    for row, prompt in enumerate(pair.targets, 1):
        if prompt.ids != pair.source.ids and (not said or any(_alike(rows[0][0], rows[row][0]) for rows in said)):
            raise ValueError(
                f"Wanted an encoding of {quoted(prompt.text)} for {row_name(row)}, got the same tensors as for the "
                f"source, {quoted(pair.source.text)}. Connect the edited text's encoding to target_conditioning."
            )
    for part, rows in enumerate(said):
        for other in said[:part]:
            extras, earlier = rows[0][1], other[0][1]
            # hooks may change the text encoder, even in the course of a run: one text then has several encodings
            encoded_alike = "clip_start_percent" not in extras and _alike(extras.get("hooks"), earlier.get("hooks"))
            if encoded_alike and not all(_alike(a[0], b[0]) for a, b in zip(rows, other, strict=True)):
                raise ValueError(
                    f"Wanted parts that all say the same texts ({quoted(pair.source.text)}, ...), got two that say "
                    "different things. Make a pair of each, P2P Pair From Conditioning before Conditioning (Combine)."
                )


def _require_shared_extras(
    parts: Sequence[Sequence[Part]], common: Sequence[bool], of_one_text: frozenset[str]
) -> None:
    """The rows of one conditioning share what the sampler and the models read, but the context and its pooled row."""
    for rows, alike in zip(parts, common, strict=True):
        source = rows[0][1]
        for row, (_, extras) in enumerate(rows[1:], 1):
            for key in sorted({*source, *extras}, key=str):
                wanted, got = source.get(key), extras.get(key)
                by_row = not alike and None not in (wanted, got)
                if by_row and (key in of_one_text or key in BY_ROW and wanted.shape == got.shape):
                    continue
                if _alike(wanted, got):
                    continue
                if key not in SHARED:
                    if not (_is_a_note(wanted) and _is_a_note(got)):
                        logging.warning(
                            f"P2P Pair From Conditioning: {quoted(key)}, which ComfyUI does not know, is not the same "
                            f"for source and {row_name(row)}. That of the source counts."
                        )
                    continue
                raise ValueError(
                    f"Wanted the same {key} for source and {row_name(row)}, which one conditioning shares, got "
                    f"{_shown(wanted)} and {_shown(got)}. Set both alike, or set it behind P2P Pair From Conditioning, "
                    "on its conditioning."
                )


def _is_a_note(value: Any) -> bool:
    """A text, a number, or several: what packs note down for themselves."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_a_note, value))
    return value is None or isinstance(value, (str, numbers.Number))


def _alike(a: Any, b: Any) -> bool:
    """Whether two values of a conditioning mean the same to the sampler."""
    if a is b:
        return True
    if torch.is_tensor(a) and torch.is_tensor(b):
        return a.shape == b.shape and torch.equal(a, b.to(a))
    if type(a) is not type(b):
        return isinstance(a, numbers.Number) and isinstance(b, numbers.Number) and a == b
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_alike, a, b))
    if hasattr(a, "hooks"):
        return _alike(*(list(map(_effect, group.hooks)) for group in (a, b)))
    if hasattr(a, "cond_hint_original"):  # a ControlNet; each Apply ControlNet node makes a copy of its own
        return _alike(vars(a), vars(b))
    return (a == b) is True


def _effect(hook: Any) -> dict[str, Any]:
    """What one of the host's hooks does, and when; not which one it is, or at which step it stands."""
    frames = [(each.start_percent, each.strength, each.guarantee_steps) for each in hook.hook_keyframe.keyframes]
    own = {name: value for name, value in vars(hook).items() if name not in ("hook_ref", "hook_id", "hook_keyframe")}
    return {"kind": type(hook), "keyframes": frames, **own}


def _shown(value: Any) -> str:
    """A value of a conditioning, for a message."""
    if torch.is_tensor(value):
        return f"a tensor {list(value.shape)}"
    if value is None or isinstance(value, (numbers.Number, str, tuple)):
        return "none" if value is None else quoted(value)
    return f"another {type(value).__name__}"
