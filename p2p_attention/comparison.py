"""Two prompts as the text encoder compares them, as plain data: what the page draws while one types."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from typing import Any

from .align import align
from .prompt import Prompt, Word, split_edits

MOST_CHARACTERS = 20_000  # of all prompts together
MOST_CELLS = 250_000  # source words x target words, over all edits: aligning takes about 0.1 s of Python for these


def compare(read: Callable[[str], Prompt], source: str, target: str) -> dict[str, Any]:
    """Words, counts and alignment of a source prompt and its edits, ready for JSON.

    Args:
        read: tokenises a prompt.
        source: the source prompt; may be empty.
        target: the edited prompts, separated by lines ``---``; empty for none.

    Returns:
        ``prompts``, the source and each edit: ``tokens`` of ``room`` in ``chunks`` of 77 positions, and ``words``:
        ``text``, ``name`` (what names this word alone in a text box; None if nothing does), ``tokens``, ``chunk`` (from
        0, where it begins) and ``split`` (its pieces lie in two chunks). ``edits``, one for each target: the ``spans``
        of its alignment, left to right, with ``kind`` and the indices of their words; None if the prompts are too long
        to compare while one types.

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
    cells = len(first.words) * sum(len(prompt.words) for prompt in others)
    return {
        "prompts": [_prompt(prompt, read) for prompt in prompts],
        "edits": [_spans(first, prompt) if cells <= MOST_CELLS else None for prompt in others],
    }


def _prompt(prompt: Prompt, read: Callable[[str], Prompt]) -> dict[str, Any]:
    total = Counter(word.ids for word in prompt.words)
    seen: Counter = Counter()
    names: dict[tuple, str | None] = {}
    words = []
    for word in prompt.words:
        if word.ids not in names:
            names[word.ids] = _name(word, read)
        name = names[word.ids]
        seen[word.ids] += 1
        if name and total[word.ids] > 1:
            name = f"{name}#{seen[word.ids]}"
            if "#" in prompt.text and prompt.find(read(name).words):
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


def _name(word: Word, read: Callable[[str], Prompt]) -> str | None:
    """The word's text, if a text box that holds just that means this word."""
    if "," in word.text or not word.text.strip() or (len(word.text) > 1 and "#" in word.text):
        return None  # commas separate names, # numbers them
    again = read(word.text).words
    return word.text if [each.ids for each in again] == [word.ids] else None


def _spans(source: Prompt, target: Prompt) -> list[dict[str, Any]]:
    spans, place = [], [0, 0]
    for span in align(source, target).spans:
        sides = []
        for side, words in enumerate((span.source, span.target)):
            sides.append(list(range(place[side], place[side] + len(words))))
            place[side] += len(words)
        spans.append({"kind": span.kind, "source": sides[0], "target": sides[1]})
    return spans
