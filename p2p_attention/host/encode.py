"""Texts become a prompt pair, and the rows of one conditioning."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import folder_paths
import torch
from comfy.sd1_clip import SD1Tokenizer

from ..align import aligned, check_alignment
from ..conditionings import parts_by_row, positions_of, stack_parts, stack_rows
from ..likeness import WordLikeness, likeness_of
from ..prompt import Prompt, PromptPair, join_prompts, quoted, split_breaks, split_edits
from ..rows import row_name
from .encoders import behind_pictures
from .families import reader_of
from .notices import say

BREAK_IS_A_WORD = (
    "Prompt-to-Prompt: BREAK in P2P Prompt Pair is read as the word 'break', as CLIP Text Encode reads it. To encode "
    "parts of a prompt each by itself, join them with Conditioning (Concat) and use P2P Pair From Conditioning."
)


def encode_pair(clip: Any, source: str, target: str, alignment: str = "") -> tuple[list, PromptPair]:
    """Encode a source prompt and its edits as the rows of one conditioning.

    Each row is what CLIP Text Encode gives for that prompt, brought to the rows' common length in the way of the
    model's family.

    Args:
        clip: the host's CLIP.
        source: the prompt of the picture to edit.
        target: the edited prompt; several are separated by a line ``---``; empty for the source alone.
        alignment: what the user has decided about which word stands for which, see ``overrides.py``.

    Returns:
        The conditioning (rows: source, edits) and the pair.

    Raises:
        ValueError: an empty prompt, no CLIP, a text encoder of no family, or an alignment line that does not fit.
    """
    prompts = _read_prompts(clip, source, target, _tokenize)
    if any(len(split_breaks(prompt.text)) > 1 for prompt in prompts):
        logging.warning(BREAK_IS_A_WORD)
    schedules = [encode(clip, prompt.text) for prompt in prompts]
    pair = _make_pair(clip, prompts, [schedule[0] for schedule in schedules], alignment)
    return [stack_rows(rows, pair) for rows in zip(*schedules, strict=True)], pair


def encode(clip: Any, text: str) -> list:
    """What CLIP Text Encode gives for a text."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def pair_conditionings(
    clip: Any,
    source: str,
    target: str,
    source_conditioning: list,
    target_conditioning: list | None = None,
    alignment: str = "",
) -> tuple[list, PromptPair]:
    """Make conditionings that other nodes encoded the rows of one, and a pair of the texts that they say.

    Each row is the conditioning that was given for it. A part of it (Conditioning (Combine) makes several) that is the
    same for source and edits, while the texts differ, is not of these texts and is left as it is.

    Args:
        clip: the host's CLIP, to read the texts.
        source: what ``source_conditioning`` says. ``BREAK`` stands where encodings were joined (Conditioning (Concat)).
        target: what ``target_conditioning`` says; several edits are separated by a line ``---``; empty for the source
            alone.
        source_conditioning: of the picture to edit.
        target_conditioning: of the edit; of several edits one behind the other, as Conditioning (Combine) puts them.
        alignment: as for ``encode_pair``.

    Returns:
        The conditioning (rows: source, edits) and the pair.

    Raises:
        ValueError: the texts do not fit the conditionings, or something differs that the rows have to share.
    """
    prompts = _read_prompts(clip, source, target, _tokenize_parts)
    prompts = _with_their_pictures(clip, prompts, source_conditioning, target_conditioning)
    doubled = _encodes_twice_as_long(clip, prompts[0], source_conditioning)
    parts = parts_by_row(prompts, source_conditioning, target_conditioning, 2 if doubled else 1)
    pair = _make_pair(clip, prompts, parts[0], alignment)
    return stack_parts(parts, pair), pair


def _with_their_pictures(
    clip: Any, prompts: tuple[Prompt, ...], source_conditioning: list, target_conditioning: list | None
) -> tuple[Prompt, ...]:
    """See ``behind_pictures``; what does not fit together is left for ``parts_by_row`` to say."""
    parts, edits = len(source_conditioning), target_conditioning or []
    if not parts or len(edits) != parts * (len(prompts) - 1):
        return prompts
    rows = [source_conditioning[0], *edits[::parts]]
    if not all(torch.is_tensor(context) and context.ndim == 3 for context, _ in rows):
        return prompts
    return behind_pictures(clip, prompts, [positions_of(part) for part in rows])


def _read_prompts(clip: Any, source: str, target: str, read: Callable[[Any, str], Prompt]) -> tuple[Prompt, ...]:
    """The source and each edit, tokenised."""
    if clip is None:
        raise ValueError("Wanted a CLIP, got none. The checkpoint may hold no text encoder: connect a Load CLIP node.")
    prompts = tuple(read(clip, text) for text in (source, *split_edits(target)))
    for row, prompt in enumerate(prompts):
        if not prompt.words:
            raise ValueError(
                f"Wanted a prompt with at least one word for the {row_name(row)}, got {quoted(prompt.text)}. "
                "Edits are separated by a line '---', one prompt each."
            )
    return prompts


def _make_pair(clip: Any, prompts: Sequence[Prompt], rows: Sequence[list], alignment: str) -> PromptPair:
    """The pair of prompts whose rows were encoded as ``rows``."""
    family = reader_of(clip)
    context = rows[0][0]
    longest = max(each.shape[1] for each, _ in rows)
    encoded = longest if any(each.shape[1] != prompt.length for (each, _), prompt in zip(rows, prompts)) else 0
    pair = PromptPair(
        source=prompts[0],
        targets=tuple(prompts[1:]),
        context_dim=context.shape[-1],
        tokenize=lambda text: family.read(clip, text).words,
        padded=family.pads_texts,
        doubled=not family.pads_texts and context.shape[1] == 2 * prompts[0].length,
        alignment=alignment,
        likeness=likeness_for(clip)(prompts),
        encoded=encoded if family.pads_texts else 0,
        encoder=type(clip.tokenizer).__name__,
    )
    check_alignment(pair)
    _say_what_is_read_alike(pair)
    return pair


def _say_what_is_read_alike(pair: PromptPair) -> None:
    """Words that are not in the vocabulary (emoji, Chinese for T5) are one and the same token."""
    spans = [span for row in range(len(pair.targets)) for span in aligned(pair, row).spans if span.kind == "swapped"]
    for one, other in dict.fromkeys(words for span in spans for words in zip(span.source, span.target)):
        if one.ids == other.ids and one.text.lower() != other.text.lower():
            say(
                f"the text encoder reads {quoted(one.text)} and {quoted(other.text)} alike, as it does all that is not "
                "in its vocabulary, so nothing changes there. Write them in words that it knows."
            )


def likeness_for(clip: Any) -> Callable[[Sequence[Prompt]], WordLikeness | None]:
    """Prompts -> the likeness of their words, as a pair of them has it.

    Only of CLIP's words: those of other encoders are not numbered as in the first part's vocabulary.
    """
    known = clip is not None and not reader_of(clip).pads_texts
    return lambda prompts: likeness_of(clip, prompts) if known else None


def _encodes_twice_as_long(clip: Any, prompt: Prompt, conditioning: list) -> bool:
    """Whether a conditioning is of keys and values in turn, and not merely of a longer text than the one written."""
    context = conditioning[0][0] if conditioning else None
    if not torch.is_tensor(context) or context.ndim != 3 or context.shape[1] != 2 * prompt.length:
        return False
    if reader_of(clip).pads_texts:
        return False
    return clip.encode_from_tokens(clip.tokenize("")).shape[1] == 2 * _tokenize(clip, "").length


def _tokenize(clip: Any, text: str) -> Prompt:
    return reader_of(clip).read(clip, text)


def _tokenize_parts(clip: Any, text: str) -> Prompt:
    """A text whose parts between ``BREAK`` were encoded each by itself."""
    return join_prompts(text, [_tokenize(clip, part) for part in split_breaks(text)])


def prompt_reader(clip: Any = None, breaks: bool = False) -> tuple[str, Callable[[str], Prompt]]:
    """A tokenizer's name, and what it makes of a text; without a CLIP the host's own for CLIP ViT-L.

    Args:
        breaks: whether ``BREAK`` separates parts, as for ``pair_conditionings``.
    """
    clip, read = clip or _StockClip(), _tokenize_parts if breaks else _tokenize
    return type(clip.tokenizer).__name__, lambda text: read(clip, text)


class _StockClip:
    """As much of the host's CLIP as reads a prompt."""

    @property
    def tokenizer(self) -> SD1Tokenizer:
        return _stock_tokenizer()

    def tokenize(self, text: str, return_word_ids: bool = False) -> dict[str, list]:
        return self.tokenizer.tokenize_with_weights(text, return_word_ids)


@lru_cache(maxsize=1)
def _stock_tokenizer() -> SD1Tokenizer:
    return SD1Tokenizer(embedding_directory=folder_paths.get_folder_paths("embeddings"))
