"""Prompts as the text encoder sees them: BPE pieces grouped into words, and finding a word.

A CLIP encoder reads a prompt as chunks of 77 positions, ``start, content..., end, padding...``. An image is steered
by those positions, not by characters, so everything in this pack that speaks of a "word" means positions.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from .letters import bytes_of_letters, is_hangul, is_letter, is_mark, is_unspaced, leans
from .reading import places

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
    """A word of a prompt. In a language without spaces each character is one.

    Args:
        text: as the encoder reads it.
        ids: of its pieces.
        positions: in the context at which its pieces stand, one for each; several times as many where a model is given
            the text of several encoders.
        start, end: the part of the prompt's text that it stands for; None where that is not known.
        covers: (start, end) in ``text`` of each position; empty where every position stands for all of it.
        parts: how many of the positions each encoder made, one behind the other; empty where there is one encoder.
    """

    text: str
    ids: tuple[int | str, ...]
    positions: tuple[int, ...]
    start: int | None = field(default=None, compare=False)
    end: int | None = field(default=None, compare=False)
    covers: tuple[tuple[int, int], ...] = field(default=(), compare=False, repr=False)
    parts: tuple[int, ...] = field(default=(), compare=False, repr=False)

    @property
    def places(self) -> tuple[tuple[int, ...], ...]:
        """The positions that each encoder made."""
        if not self.parts:
            return (self.positions,)
        ends = itertools.accumulate(self.parts)
        return tuple(self.positions[end - count : end] for end, count in zip(ends, self.parts, strict=True))

    @property
    def key(self) -> Hashable:
        """What two words have in common that are the same word, in whatever pieces."""
        if "\ufffd" in self.text or any(isinstance(each, str) for each in self.ids):
            return self.ids
        return self.text.lower()

    def positions_of(self, start: int, end: int) -> tuple[int, ...]:
        """The positions that stand for a part of ``text``."""
        if len(self.covers) != len(self.positions):
            return self.positions
        parts = zip(self.positions, self.covers, strict=True)
        return tuple(position for position, (first, last) in parts if first < end and last > start)


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

    @cached_property
    def line(self) -> Line:
        """Its words' letters, in which names are found."""
        return Line(self.words)

    def occurrences(self, wanted: Sequence[Word]) -> list[tuple[int, ...]]:
        """The positions of each occurrence of ``wanted``, a tokenised word or phrase, from left to right.

        It is found by its letters, so that it does not matter into which pieces the encoder cuts them: ``)`` is found
        where a comma follows it that stands in the same piece.
        """
        return self.line.find(Line(wanted))


@dataclass(frozen=True)
class PromptPair:
    """A source prompt and its edited versions: what the ``P2P_PAIR`` socket carries.

    Args:
        source: the prompt whose image is edited (row 0 of every group of rows).
        targets: the edited prompts (rows 1..).
        context_dim: width of the text encoder's output, to notice a pair that was made for another model.
        tokenize: text -> words, by the tokenizer that made the prompts.
        padded: how rows get one length. False: shorter ones are repeated. True: they are padded at their end.
        alignment: what the user has decided about which word stands for which, see ``overrides.py``.
        likeness: how alike two words are to the text encoder, in units of what chance gives.
        doubled: whether contexts hold, for each position, what makes its key and then what makes its value, as nodes
            for negative weights encode them; a patch of the model takes the two apart again.
        encoded: positions of the contexts that the conditioning holds, where the model makes others of them; 0: those
            of the prompts.
        encoder: the text encoder's name; "" where it is not known.

    Raises:
        ValueError: prompts of so many different lengths that no common one is within reason.
    """

    source: Prompt
    targets: tuple[Prompt, ...]
    context_dim: int
    tokenize: Callable[[str], tuple[Word, ...]] = field(compare=False, repr=False)
    padded: bool = False
    alignment: str = ""
    likeness: Callable[[Word, Word], float] | None = field(default=None, compare=False, repr=False)
    kept: dict[int, Any] = field(default_factory=dict, init=False, compare=False, repr=False)  # alignments, by row
    doubled: bool = False
    encoded: int = 0
    encoder: str = ""

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

    @property
    def context_length(self) -> int:
        """L of the contexts (R, L, D) that the conditioning holds."""
        return self.encoded or (2 * self.length if self.doubled else self.length)

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
        return tuple(sorted({position for hit in self.occurrences(name, prompt) for position in hit}))

    def occurrences(self, name: str, prompt: Prompt) -> list[tuple[int, ...]]:
        """The positions of each occurrence of ``name``, from left to right; see ``find``."""
        wanted = self.tokenize(name)
        if not wanted:
            raise ValueError(
                f"Wanted a word of the prompt, got {quoted(name)}, which the text encoder reads as nothing."
            )
        found = prompt.occurrences(wanted)
        numbered = re.fullmatch(r"(.*\S)#(\d{1,9})", name.strip())
        if found or not numbered:
            return found
        number = int(numbered[2])
        if number < 1:
            raise ValueError(
                f"Occurrences are counted from 1, got {quoted(name)}. Write "
                f"{numbered[1][-SHOWN_LETTERS:]}#1 for the first one."
            )
        return prompt.occurrences(self.tokenize(numbered[1]))[number - 1 : number]


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
    """The words and phrases in a text box: separated by commas or lines.

    A name that holds a comma is written in double quotes, or with a backslash before the comma: ``"cat, black"``,
    ``cat\\, black``.
    """
    names = (match[0].strip() for match in re.finditer(r'\s*"(?:\\.|[^"\n])*"\s*(?=[,\n]|\Z)|(?:\\,|[^,\n])+', text))
    return tuple(_unquoted(name) for name in names if name)


def _unquoted(name: str) -> str:
    if len(name) > 2 and name[0] == name[-1] == '"' and "," in name:
        name = name[1:-1].strip().replace('\\"', '"')
    return name.replace("\\,", ",")


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
    at = 0
    specials: dict[str, list[int]] = {"starts": [], "ends": [], "padding": []}
    length = 0
    for part in parts:
        begin = text.find(part.text, at)
        at = max(at, begin + len(part.text))
        for word in part.words:
            shift = begin if begin >= 0 else None
            words.append(
                replace(
                    word,
                    positions=tuple(position + length for position in word.positions),
                    start=_moved(word.start, shift),
                    end=_moved(word.end, shift),
                )
            )
        for name, positions in specials.items():
            positions += [position + length for position in getattr(part, name)]
        length += part.length
    return Prompt(text, tuple(words), **{name: tuple(each) for name, each in specials.items()}, length=length)


class Line:
    """The letters of words one behind the other, and where in them a name may begin and end.

    A name ends where a word ends, at punctuation, between characters of a script without spaces, and in Korean also
    between a noun and what is written on to it. Case and spaces do not count, but ``at night`` is not ``atnight``.
    """

    def __init__(self, words: Sequence[Word]):
        self._words = words
        self._text = ""
        self._owners: list[tuple[int, int]] = []  # of each letter, (word, place in its text)
        gaps = ""  # before each letter: "1" where a space stands between two letters
        for number, word in enumerate(words):
            before = self._text[-1:]
            first = word.text[:1]
            if any(isinstance(each, str) for each in word.ids):  # an embedding is one letter that is never typed
                letters = [(f"\ue000{word.ids}\ue001", 0)]
            else:
                letters = [(letter.lower(), place) for place, letter in enumerate(word.text)]
            apart = number and before and first and is_letter(before) and is_letter(first) and _apart(words, number)
            for letter, place in letters:
                self._text += letter
                self._owners += [(number, place)] * len(letter)
                gaps += ("1" if apart else "0") + "0" * (len(letter) - 1)
                apart = False
        self._gaps = gaps

    def find(self, wanted: Line) -> list[tuple[int, ...]]:
        """The positions of each occurrence, from left to right; they may overlap."""
        hits: list[tuple[int, ...]] = []
        size = len(wanted._text)
        first = self._text.find(wanted._text) if size else -1
        while first >= 0:
            last = first + size
            if (
                self._gaps[first + 1 : last] == wanted._gaps[1:]
                and self._may_cut(first, ends=False)
                and self._may_cut(last, ends=True)
            ):
                hits.append(self._positions(first, last))
            first = self._text.find(wanted._text, first + 1)
        return hits

    def _may_cut(self, at: int, ends: bool) -> bool:
        if at in (0, len(self._text)):
            return True
        (word, place), (next_word, next_place) = self._owners[at - 1 : at + 1]
        if word != next_word:
            return True
        if place == next_place or is_mark(self._text[at]):
            return False
        before, after = self._text[at - 1], self._text[at]
        if ends and is_hangul(before) and is_hangul(after):
            return True
        return not all(each.isalnum() and not is_unspaced(each) for each in (before, after))

    def _positions(self, first: int, last: int) -> tuple[int, ...]:
        positions: list[int] = []
        owners = self._owners[first:last]
        for number in dict.fromkeys(number for number, _ in owners):
            within = [place for owner, place in owners if owner == number]
            positions += self._words[number].positions_of(within[0], within[-1] + 1)
        return tuple(positions)


def _apart(words: Sequence[Word], number: int) -> bool:
    """Whether anything stands between a word and the one before; taken for granted where it is not known."""
    end, start = words[number - 1].end, words[number].start
    return end is None or start is None or start > end


class _Unit(NamedTuple):
    """A word in the making: its pieces with their positions, and the part of its text that each of them covers."""

    text: str
    pieces: tuple[tuple[Piece, int], ...]
    covers: tuple[tuple[int, int], ...]


def build_prompt(text: str, chunks: Iterable[Sequence[Piece]]) -> Prompt:
    """Group the pieces of the encoder's chunks into words.

    A word ends at a piece with ``</w>`` or where its segment ends (a textual-inversion embedding has no marker). In a
    script without spaces every character that has pieces of its own is a word; accents and vowel signs, which CLIP
    takes for punctuation, go with the letter before.
    """
    units: list[_Unit] = []
    starts: list[int] = []
    ends: list[int] = []
    padding: list[int] = []
    pending: list[tuple[Piece, int]] = []

    def close_word() -> None:
        if pending:
            units.extend(_characters(_unit(pending)))
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
    found = places(text, [None if isinstance(unit.pieces[0][0].id, str) else unit.text for unit in units])
    words = _joined_to_marks([_word(unit, span) for unit, span in zip(units, found, strict=True)])
    return Prompt(text, tuple(words), tuple(starts), tuple(ends), tuple(padding), position)


def _unit(pieces: Sequence[tuple[Piece, int]]) -> _Unit:
    """Pieces that make a word; some scripts' letters take several pieces, and a piece may hold parts of two letters."""
    texts = [piece.text for piece, _ in pieces]
    texts[-1] = texts[-1].removesuffix(WORD_END)
    alphabet = bytes_of_letters()
    if any(letter not in alphabet for letter in "".join(texts)):
        ends = list(itertools.accumulate(map(len, texts)))
        return _Unit("".join(texts), tuple(pieces), tuple(zip([0, *ends[:-1]], ends, strict=True)))
    data = [bytes(alphabet[letter] for letter in each) for each in texts]
    letters = _decoded(b"".join(data))
    owner = [i for i, (_, width) in enumerate(letters) for _ in range(width)]  # of each byte, its letter
    ends = list(itertools.accumulate(map(len, data)))
    covers = [
        (owner[first], owner[last - 1] + 1) for first, last in zip([0, *ends[:-1]], ends, strict=True) if first < last
    ]
    if len(covers) < len(data):  # a piece without letters is there for all of the word
        covers = []
    return _Unit("".join(letter for letter, _ in letters), tuple(pieces), tuple(covers))


def _decoded(data: bytes) -> list[tuple[str, int]]:
    """(letter, its bytes) of UTF-8; a broken letter is U+FFFD."""
    letters, at = [], 0
    while at < len(data):
        for width in (1, 2, 3, 4):
            try:
                letters.append((data[at : at + width].decode("utf-8"), width))
                break
            except UnicodeDecodeError:
                continue
        else:
            letters.append(("\ufffd", 1))
        at += letters[-1][1]
    return letters


def _moved(at: int | None, by: int | None) -> int | None:
    return None if at is None or by is None else at + by


def _characters(unit: _Unit) -> list[_Unit]:
    """A run of a script without spaces, cut between its characters wherever no piece holds parts of two."""
    within = {at for first, last in unit.covers for at in range(first + 1, last)}
    cuts = [0]
    for at in range(1, len(unit.text)):
        before, after = unit.text[at - 1], unit.text[at]
        if at not in within and (is_unspaced(before) or is_unspaced(after)) and not leans(after):
            cuts.append(at)
    if len(cuts) == 1 or not unit.covers:
        return [unit]
    parts = []
    pieces = list(zip(unit.pieces, unit.covers, strict=True))
    at = 0
    for first, last in itertools.pairwise([*cuts, len(unit.text)]):
        begin = at
        while at < len(pieces) and pieces[at][1][0] < last:
            at += 1
        parts.append(
            _Unit(
                unit.text[first:last],
                tuple(piece for piece, _ in pieces[begin:at]),
                tuple((start - first, end - first) for _, (start, end) in pieces[begin:at]),
            )
        )
    return parts


def _word(unit: _Unit, span: tuple[int, int] | None) -> Word:
    ids, positions = zip(*((piece.id, position) for piece, position in unit.pieces), strict=True)
    covers = () if isinstance(ids[0], str) else unit.covers  # an embedding is there as a whole
    start, end = span or (None, None)
    return Word(unit.text, ids, positions, start, end, covers)


def _joined_to_marks(words: Sequence[Word]) -> list[Word]:
    """Words that an accent or a vowel sign took apart, whole again."""
    joined: list[Word] = []
    for word in words:
        before = joined[-1] if joined else None
        if before is None or not _leans_on(before, word):
            joined.append(word)
            continue
        size = len(before.text)
        joined[-1] = Word(
            before.text + word.text,
            before.ids + word.ids,
            before.positions + word.positions,
            before.start,
            word.end,
            before.covers + tuple((first + size, last + size) for first, last in word.covers),
        )
    return joined


def _leans_on(before: Word, word: Word) -> bool:
    if before.end is None or before.end != word.start or not before.text or not word.text:
        return False
    last, first = before.text[-1], word.text[0]
    if is_mark(first):
        return is_letter(last)
    return is_mark(last) and is_letter(first) and not is_unspaced(first) and not is_unspaced(last)
