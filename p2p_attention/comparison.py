"""Two prompts as the text encoder compares them, as plain data: what the page draws while one types."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from .align import Likeness, Span, aligned
from .prompt import Prompt, PromptPair, Word, split_edits

MOST_CHARACTERS = 20_000  # of all prompts together
MOST_CELLS = 250_000  # source words x target words, over all edits: aligning takes about 0.1 s of Python for these


def compare(
    read: Callable[[str], Prompt],
    source: str,
    target: str,
    alignment: str = "",
    likeness: Callable[[Sequence[Prompt]], Likeness | None] = lambda prompts: None,
) -> dict[str, Any]:
    """Words, counts and alignment of a source prompt and its edits, ready for JSON.

    Args:
        read: tokenises a prompt.
        source: the source prompt; may be empty.
        target: the edited prompts, separated by lines ``---``; empty for none.
        alignment: what the user has decided about which word stands for which.
        likeness: prompts -> how alike their words are, as in the run.

    Returns:
        ``prompts``, the source and each edit: ``tokens`` of ``room`` in ``chunks`` of 77 positions, and ``words``:
        ``text``, ``name`` (what names this word alone; None if nothing does), ``tokens``, ``chunk`` (from 0, where it
        begins) and ``split`` (its pieces lie in two chunks). ``edits``, one for each target: the ``spans`` of its
        alignment in the target's order, with ``kind``, the indices of their words and, where it stands elsewhere in the
        source, ``moved``; None if the prompts are too long to compare while one types. ``refused`` is what the node
        will say of ``alignment``, if it will; the alignment is then what it would be without.

    Raises:
        ValueError: the prompts are longer than anybody types, or ``read`` cannot read them.
    """
    texts = (source, *(split_edits(target) if target.strip() else ()))
    if (length := sum(map(len, texts))) > MOST_CHARACTERS:
        raise ValueError(
            f"Wanted prompts of at most {MOST_CHARACTERS} characters together to show their words, got {length}. "
            "The node still runs with them."
        )
    first, *others = prompts = [read(text) for text in texts]

    alike = likeness(prompts)

    def pair(alignment: str) -> PromptPair:
        return PromptPair(first, tuple(others), 0, lambda text: read(text).words, alignment=alignment, likeness=alike)

    found: dict[str, Any] = {"prompts": [_prompt(prompt, read) for prompt in prompts]}
    cells = len(first.words) * sum(len(prompt.words) for prompt in others)
    if cells > MOST_CELLS:
        return found | {"edits": [None for _ in others]}
    try:
        return found | {"edits": _edits(pair(alignment))}
    except ValueError as error:
        return found | {"edits": _edits(pair("")), "refused": str(error)}


def _prompt(prompt: Prompt, read: Callable[[str], Prompt]) -> dict[str, Any]:
    # A word's text -> what is typed for it, and what that means.
    hits: dict[str, tuple[str, dict[tuple[int, ...], int]]] = {}
    words = []
    for word in prompt.words:
        if word.text not in hits:
            hits[word.text] = _typed(word, prompt, read)
        typed, found = hits[word.text]
        name = typed if word.positions in found else None
        if name and len(found) > 1:
            name = f"{typed}#{found[word.positions]}"
            if "#" in prompt.text and prompt.occurrences(read(name).words):
                name = None  # the prompt itself says "cat #2"
        chunk, last = (bisect_right(prompt.starts, word.positions[i]) - 1 for i in (0, -1))
        words.append({"text": word.text, "name": name, "tokens": len(word.ids), "chunk": chunk, "split": chunk != last})
    chunks = len(prompt.starts)
    return {
        "tokens": sum(len(word.ids) for word in prompt.words),
        "room": prompt.length - 2 * chunks,  # a chunk's start and end are taken
        "chunks": chunks,
        "words": words,
    }


def _typed(word: Word, prompt: Prompt, read: Callable[[str], Prompt]) -> tuple[str, dict[tuple[int, ...], int]]:
    """The word's text as it is typed into a text box, parentheses escaped; positions that this finds -> which one."""
    text = word.text.strip()
    if text.strip(",") and not (len(text) > 1 and "#" in text):  # commas separate names, # numbers them
        for typed in (text, re.sub(r"([()])", r"\\\1", text)):
            hits = prompt.occurrences(read(typed).words)
            found = {positions: number for number, positions in reversed(list(enumerate(hits, 1)))}
            if word.positions in found:
                return typed, found
    return "", {}


def _edits(pair: PromptPair) -> list[list[dict[str, Any]]]:
    places = [{word.positions: i for i, word in enumerate(prompt.words)} for prompt in (pair.source, *pair.targets)]
    return [_spans(aligned(pair, row).spans, places[0], places[row + 1]) for row in range(len(pair.targets))]


def _spans(spans: Sequence[Span], ours: dict[Any, int], theirs: dict[Any, int]) -> list[dict[str, Any]]:
    found = []
    furthest = -1  # of the source's words so far
    for span in spans:
        source = [ours[word.positions] for word in span.source]
        each: dict[str, Any] = {
            "kind": span.kind,
            "source": source,
            "target": [theirs[word.positions] for word in span.target],
        }
        if source and span.target:
            if source[0] < furthest:
                each["moved"] = True
            furthest = max(furthest, *source)
        found.append(each)
    return found
