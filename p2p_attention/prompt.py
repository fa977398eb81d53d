"""Prompts as the text encoder sees them: BPE pieces grouped into words, and finding a word.

A CLIP encoder reads a prompt as chunks of 77 positions, ``start, content..., end, padding...``. An image is steered
by those positions, not by characters, so everything in this pack that speaks of a "word" means positions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

LONGEST = 64 * 77  # positions of a pair's rows; an edit's matrix has the square of it, 97 MB in float32
SHOWN_WORDS, SHOWN_LETTERS = 100, 300  # of a long prompt, in a message
WORD_END = "</w>"  # the CLIP vocabulary marks the last piece of a word with this suffix


class Piece(NamedTuple):
    """One position of the text encoder's input."""

    id: int | str  # vocabulary id; a digest where a textual-inversion vector stands instead
    text: str  # the vocabulary's string for it
    group: int  # 0 for start, end and padding; else the number of the prompt segment it came from


@dataclass(frozen=True)
class Word:
    """A word of a prompt: its text, its pieces' ids, and where those stand in the context."""

    text: str
    ids: tuple[int | str, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Prompt:
    """One prompt, tokenised. ``length`` is the number of context positions (77 per chunk)."""

    text: str
    words: tuple[Word, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    padding: tuple[int, ...]
    length: int

    @property
    def ids(self) -> tuple[tuple[int | str, ...], ...]:
        """What the prompt says, word by word, in vocabulary ids."""
        return tuple(word.ids for word in self.words)

    def find(self, wanted: Sequence[Word], occurrence: int | None = None) -> tuple[int, ...]:
        """Positions of ``wanted``, a tokenised word or phrase; of its n-th occurrence only if ``occurrence`` is given.

        Empty when it does not occur (that often).
        """
        ids = [word.ids for word in wanted]
        hits = [
            self.words[i : i + len(ids)]
            for i in range(len(self.words) - len(ids) + 1)
            if [word.ids for word in self.words[i : i + len(ids)]] == ids
        ]
        if occurrence is not None:
            hits = hits[occurrence - 1 : occurrence]
        return tuple(sorted({position for hit in hits for word in hit for position in word.positions}))


@dataclass(frozen=True)
class PromptPair:
    """A source prompt and its edited versions: what the ``P2P_PAIR`` socket carries.

    Args:
        source: the prompt whose image is edited (row 0 of every group of rows).
        targets: the edited prompts (rows 1..).
        context_dim: width of the text encoder's output, to notice a pair that was made for another model.
        tokenize: text -> words, by the tokenizer that made the prompts.
        padded: how rows get one length. False: shorter ones are repeated. True: they are padded at their end.

    Raises:
        ValueError: prompts of so many different lengths that no common one is within reason.
    """

    source: Prompt
    targets: tuple[Prompt, ...]
    context_dim: int
    tokenize: Callable[[str], tuple[Word, ...]] = field(compare=False, repr=False)
    padded: bool = False

    def __post_init__(self) -> None:
        if self.length > LONGEST:
            lengths = ", ".join(str(prompt.length) for prompt in (self.source, *self.targets))
            raise ValueError(
                f"Wanted prompts whose lengths have a common multiple of at most {LONGEST} positions, got lengths of "
                f"{lengths} with {self.length}. Add or remove words until they have the same length (they grow by "
                "chunks, of 77 in CLIP)."
            )

    def __deepcopy__(self, memo: dict) -> PromptPair:
        return self  # frozen; the host deep-copies what a model carries whenever a node clones it

    @property
    def rows(self) -> int:
        """Images per seed: the source and each edit."""
        return 1 + len(self.targets)

    @cached_property
    def length(self) -> int:
        """Context positions of every row: of the longest where prompts are padded, else the common multiple."""
        lengths = [prompt.length for prompt in (self.source, *self.targets)]
        return max(lengths) if self.padded else math.lcm(*lengths)

    def find(self, name: str, prompt: Prompt) -> tuple[int, ...]:
        """Positions in ``prompt`` of the word or phrase ``name``, or empty.

        ``name#2`` is its second occurrence, unless the prompt has just these characters.

        Both are tokenised alike, so case, spacing and words of several pieces do not matter.

        Raises:
            ValueError: ``name`` holds no word, or asks for occurrence 0.
        """
        wanted = self.tokenize(name)
        if not wanted:
            raise ValueError(
                f"Wanted a word of the prompt, got {quoted(name)}, which the text encoder reads as nothing."
            )
        found = prompt.find(wanted)
        numbered = re.fullmatch(r"(.*\S)#(\d{1,9})", name.strip())
        if found or not numbered:
            return found
        if int(numbered[2]) < 1:
            raise ValueError(
                f"Occurrences are counted from 1, got {quoted(name)}. Write "
                f"{numbered[1][-SHOWN_LETTERS:]}#1 for the first one."
            )
        return prompt.find(self.tokenize(numbered[1]), int(numbered[2]))


def listing(prompt: Prompt) -> str:
    """The words of a prompt, for a message."""
    words = ", ".join(word.text for word in prompt.words[:SHOWN_WORDS])
    more = len(prompt.words) - SHOWN_WORDS
    return words if more <= 0 else f"{words} and {more} more"


def quoted(value: object) -> str:
    """A text or a value as it was written, for a message; of a long one the beginning."""
    text = repr(value)
    return text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]}... ({len(text)} letters)"


def split_names(text: str) -> tuple[str, ...]:
    """The words and phrases in a text box: separated by commas or lines."""
    return tuple(name.strip() for name in re.split(r"[,\n]", text) if name.strip())


def split_edits(text: str) -> tuple[str, ...]:
    """The edited prompts in a text box: separated by a line that holds only ``---``; none where it is empty."""
    parts = re.split(r"(?:\A|(?<=[\r\n]))[ \t]*---[ \t]*(?=[\r\n]|\Z)", text)
    return tuple(part.strip() for part in parts) if text.strip() else ()


def split_breaks(text: str) -> tuple[str, ...]:
    """The parts of a text that were encoded each by itself and then joined: separated by the word ``BREAK``."""
    return tuple(part.strip() for part in re.split(r"\bBREAK\b", text))


def join_prompts(text: str, parts: Sequence[Prompt]) -> Prompt:
    """Prompts that stand one behind the other in one context, as Conditioning (Concat) joins their encodings."""
    words: list[Word] = []
    specials: dict[str, list[int]] = {"starts": [], "ends": [], "padding": []}
    length = 0
    for part in parts:
        for word in part.words:
            words.append(Word(word.text, word.ids, tuple(position + length for position in word.positions)))
        for name, positions in specials.items():
            positions += [position + length for position in getattr(part, name)]
        length += part.length
    return Prompt(text, tuple(words), **{name: tuple(each) for name, each in specials.items()}, length=length)


def build_prompt(text: str, chunks: Iterable[Sequence[Piece]]) -> Prompt:
    """Group the pieces of the encoder's chunks into words.

    A word ends at a piece with ``</w>`` or where its segment ends (a textual-inversion embedding has no marker).
    """
    words: list[Word] = []
    starts: list[int] = []
    ends: list[int] = []
    padding: list[int] = []
    pending: list[tuple[Piece, int]] = []

    def close_word() -> None:
        if pending:
            letters = "".join(piece.text for piece, _ in pending).removesuffix(WORD_END)
            words.append(
                Word(_readable(letters), *(zip(*((piece.id, position) for piece, position in pending), strict=True)))
            )
            pending.clear()

    position = 0
    for chunk in chunks:
        content = [i for i, piece in enumerate(chunk) if piece.group]
        last = content[-1] if content else 0
        for i, piece in enumerate(chunk):
            if piece.group:
                if pending and pending[-1][0].group != piece.group:
                    close_word()
                pending.append((piece, position))
                if piece.text.endswith(WORD_END):
                    close_word()
            elif i == 0:
                starts.append(position)
            elif i == last + 1:
                ends.append(position)
            else:
                padding.append(position)
            position += 1
    close_word()
    return Prompt(text, tuple(words), tuple(starts), tuple(ends), tuple(padding), position)


@lru_cache(maxsize=1)
def _byte_of_letter() -> dict[str, int]:
    """The byte-level BPE alphabet: printable Latin-1 stands for itself, the other bytes for letters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _readable(letters: str) -> str:
    """What a person typed, from the vocabulary's letters (``cafÃ©`` -> ``café``)."""
    alphabet = _byte_of_letter()
    if any(letter not in alphabet for letter in letters):
        return letters
    return bytes(alphabet[letter] for letter in letters).decode("utf-8", errors="replace")
