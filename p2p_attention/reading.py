"""Which characters of a text an encoder reads, and where in the text its words stand.

In ComfyUI's prompts ``(word:1.2)`` is a weight and ``\\(`` a parenthesis that is meant. What is left is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

EMBEDDING = "embedding:"
LOOK_AHEAD = 64  # characters; as far as a word is looked for where the text was cleaned before it was read
NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?\s*|\s*[+-]?(inf|infinity|nan)\s*", re.IGNORECASE)


class Letter(NamedTuple):
    """A character that is read, and the part of the text that it stands for (two characters where it is escaped)."""

    text: str
    start: int
    end: int

    @property
    def opens(self) -> bool:
        return self.text == "(" and self.end - self.start == 1

    @property
    def closes(self) -> bool:
        return self.text == ")" and self.end - self.start == 1


def letters_read(text: str, weights: bool = True) -> list[Letter]:
    """The characters of a text that the encoder reads, in order.

    Args:
        weights: whether parentheses weigh words, as for CLIP and T5; else they are read as they stand.
    """
    letters = [Letter(match[0][-1], *match.span()) for match in re.finditer(r"\\[()]|.", text, re.DOTALL)]
    return _without_weights(letters) if weights else letters


def _without_weights(letters: Sequence[Letter]) -> list[Letter]:
    """Take outer parentheses off, and the number behind a colon with them, as the host does; again inside of them."""
    read: list[Letter] = []
    pending = [(letters, True)]  # what comes last lies at the bottom
    while pending:
        part, may_be_weighted = pending.pop()
        if not may_be_weighted:
            read += part
            continue
        for item in reversed(_items(part)):
            weighted = _is_weighted(item)
            pending.append((_inner(item) if weighted else item, weighted))
    return read


def _is_weighted(item: Sequence[Letter]) -> bool:
    return len(item) >= 2 and item[0].opens and item[-1].closes


def _inner(item: Sequence[Letter]) -> list[Letter]:
    inner = list(item[1:-1])
    colon = max((i for i, letter in enumerate(inner) if letter.text == ":"), default=0)
    if colon > 0 and NUMBER.fullmatch("".join(letter.text for letter in inner[colon + 1 :])):
        return inner[:colon]
    return inner


def _items(letters: Sequence[Letter]) -> list[list[Letter]]:
    """Parts in outermost parentheses, and what stands between them; one that is never closed is read as it is."""
    items: list[list[Letter]] = []
    item: list[Letter] = []
    depth = 0
    for letter in letters:
        if letter.opens:
            if depth == 0:
                items.append(item)
                item = []
            depth += 1
            item.append(letter)
        elif letter.closes:
            depth -= 1
            item.append(letter)
            if depth == 0:
                items.append(item)
                item = []
        else:
            item.append(letter)
    return [each for each in (*items, item) if each]


def places(text: str, words: Sequence[str | None]) -> list[tuple[int, int] | None]:
    """Where in a text the words stand that an encoder read in it: (start, end) of each, None where it is not found.

    Args:
        text: as it was written.
        words: what was read, in order, without spaces and in any case; None for an embedding.
    """
    letters = [letter for letter in letters_read(text) if not letter.text.isspace()]
    # A capital may become two letters, so each small letter knows which of the read ones it comes from.
    small = [(each, i) for i, letter in enumerate(letters) for each in letter.text.lower()]
    line = "".join(each for each, _ in small)
    found: list[tuple[int, int] | None] = []
    at = 0
    for word in words:
        span = _embedding(line, at, letters, small) if word is None else _word(line, at, word.lower())
        if span is None:
            found.append(None)
            continue
        first, at = span
        found.append((letters[small[first][1]].start, letters[small[at - 1][1]].end))
    return found


def _word(line: str, at: int, word: str) -> tuple[int, int] | None:
    if not word:
        return None
    if line.startswith(word, at):
        return at, at + len(word)
    first = line.find(word, at, at + len(word) + LOOK_AHEAD)
    return None if first < 0 else (first, first + len(word))


def _embedding(
    line: str, at: int, letters: Sequence[Letter], small: Sequence[tuple[str, int]]
) -> tuple[int, int] | None:
    """``embedding:name``, up to the next space."""
    first = line.find(EMBEDDING, at)
    if first < 0:
        return None
    last = first + 1
    while last < len(line) and letters[small[last][1]].start == letters[small[last - 1][1]].end:
        last += 1
    return first, first + len(line[first:last].rstrip(",")) if line[last - 1] == "," else last
