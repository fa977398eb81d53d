"""Which part of the source prompt each part of the target prompt stands for.

One global alignment (Needleman & Wunsch, 1970) over words gives every target position one of three classes:

* ``shared``: the same word (and start, end and padding positions),
* ``swapped``: its word stands in place of a source word,
* ``new``: nothing in the source corresponds to it.

The alignment matrix ``A`` (S, T) carries the source's attention map to the target's positions, ``M[0] @ A``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import torch

from .prompt import Prompt, Word

Kind = Literal["shared", "swapped", "new", "removed"]

# A phrase's head stands before the first of these ("dog | with a hat"), its adjectives before the head ("big dog").
CONNECTIVES = frozenset("and at behind beside by for from in into near next of on over to under wearing with".split())


@dataclass(frozen=True)
class Span:
    """Words of the source and the words of the target that stand for them (either may be empty)."""

    kind: Kind
    source: tuple[Word, ...]
    target: tuple[Word, ...]


@dataclass(frozen=True)
class Alignment:
    """The alignment of one target prompt to the source, see the module's text."""

    source: Prompt
    target: Prompt
    spans: tuple[Span, ...]

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """The class of each target position, length T."""
        kinds: list[Kind] = ["new"] * self.target.length
        for span in self.spans:
            for position in _positions(span.target):
                kinds[position] = span.kind
        for ours, theirs in self._special_positions():
            for position in theirs if ours else ():
                kinds[position] = "shared"
        return tuple(kinds)

    @cached_property
    def matrix(self) -> torch.Tensor:
        """``A``, float32 (S, T); the columns of new positions are zero.

        A shared word maps piece to piece. A swapped word of m pieces against n: each of the n gets the mean of the m
        maps times m / n, so that the word's total attention is kept. Positions around the words are stretched in
        order onto their counterparts, keeping the total too.
        """
        matrix = torch.zeros(self.source.length, self.target.length)
        for span in self.spans:
            rows, columns = _positions(span.source), _positions(span.target)
            if span.kind == "shared":
                matrix[rows, columns] = 1.0
            elif span.kind == "swapped":
                matrix[torch.tensor(rows)[:, None], torch.tensor(columns)] = 1.0 / len(columns)
        for ours, theirs in self._special_positions():
            if ours and theirs:
                matrix[torch.tensor(ours)[:, None], torch.tensor(theirs)] = _stretch(len(ours), len(theirs))
        return matrix

    def _special_positions(self) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
        return (
            (self.source.starts, self.target.starts),
            (self.source.ends, self.target.ends),
            (self.source.padding, self.target.padding),
        )


@lru_cache(maxsize=256)
def align(source: Prompt, target: Prompt) -> Alignment:
    """Align ``target`` to ``source`` word by word."""
    spans: list[Span] = []
    i = j = 0
    for next_i, next_j in [*_shared_words(source.words, target.words), (len(source.words), len(target.words))]:
        spans += _changed_spans(source.words[i:next_i], target.words[j:next_j])
        if next_i < len(source.words) and next_j < len(target.words):
            spans.append(Span("shared", (source.words[next_i],), (target.words[next_j],)))
        i, j = next_i + 1, next_j + 1
    return Alignment(source, target, tuple(spans))


def _shared_words(source: Sequence[Word], target: Sequence[Word]) -> list[tuple[int, int]]:
    """Index pairs of equal words on the best path: match +1, mismatch -1, gap -1; of equally good ones the leftmost."""
    numbers = {ids: number for number, ids in enumerate(dict.fromkeys(word.ids for word in (*source, *target)))}
    a, b = (np.array([numbers[word.ids] for word in words], dtype=np.int64) for words in (source, target))
    rows, columns = len(a), len(b)
    places = np.arange(columns + 1, dtype=np.int32)
    # best[i, j] is the score of aligning what follows: source[i:] with target[j:]
    best = np.empty((rows + 1, columns + 1), dtype=np.int32)
    best[rows] = places - columns
    for i in reversed(range(rows)):
        row = best[i + 1] - 1  # a gap in the target
        row[:-1] = np.maximum(row[:-1], best[i + 1, 1:] + np.where(b == a[i], 1, -1))
        # gaps in the source, any number of them: the best of row[k] - (k - j) over k >= j
        best[i] = np.maximum.accumulate((row - places)[::-1])[::-1] + places
    pairs = []
    i = j = 0
    while i < rows and j < columns:
        step = 1 if a[i] == b[j] else -1
        if best[i, j] == best[i + 1, j + 1] + step:
            if step == 1:
                pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i, j] == best[i + 1, j] - 1:
            i += 1
        else:
            j += 1
    return pairs


def _changed_spans(source: tuple[Word, ...], target: tuple[Word, ...]) -> list[Span]:
    """What lies between two shared words: pair the heads from the right, the rest is new or removed.

    "cat" -> "big dog": dog for cat, big is new. "teddy bear" -> "cat": cat for both. "cat" -> "dog with a hat":
    dog for cat, the phrase is new. "cat on grass" -> "dog under trees": phrase for phrase.
    """
    spans: list[Span] = []
    while source and target:
        source_head, source = _split_head(source)
        target_head, target = _split_head(target)
        paired = min(len(source_head), len(target_head))
        added = len(target_head) - paired
        joined = len(source_head) - paired + 1  # surplus source words join the first target word
        spans += [Span("new", (), (word,)) for word in target_head[:added]]
        spans.append(Span("swapped", source_head[:joined], (target_head[added],)))
        rest = zip(source_head[joined:], target_head[added + 1 :], strict=True)
        spans += [Span("swapped", (a,), (b,)) for a, b in rest]
    return spans + [Span("removed", (word,), ()) for word in source] + [Span("new", (), (word,)) for word in target]


def _split_head(words: tuple[Word, ...]) -> tuple[tuple[Word, ...], tuple[Word, ...]]:
    cut = next((i for i, word in enumerate(words) if i and word.text.lower() in CONNECTIVES), len(words))
    return words[:cut], words[cut:]


def _positions(words: Sequence[Word]) -> list[int]:
    return [position for word in words for position in word.positions]


def _stretch(rows: int, columns: int) -> torch.Tensor:
    """(rows, columns): row i spread evenly over the interval [i, i + 1) * columns / rows; identity when equal.

    Each row sums to 1, so the total attention is kept whatever the counts.
    """
    left = torch.arange(rows, dtype=torch.float64)[:, None] * columns
    right = left + columns
    start = torch.arange(columns, dtype=torch.float64) * rows
    overlap = torch.minimum(right, start + rows) - torch.maximum(left, start)  # in units of 1 / (rows * columns)
    return (overlap.clamp(min=0) / columns).float()
