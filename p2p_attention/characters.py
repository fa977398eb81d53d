"""Which characters of a text each token of it covers, and the words that a person counts in it.

Text encoders cut a text each in its own way: by words, by pieces of words, by bytes, over word borders. The characters
of the text are what all of them have in common, so words are found there: the tokens' own texts are laid along the
text, and the words of the text are joined where one token covers several.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from .letters import bytes_of_letters, is_mark, is_unspaced
from .prompt import WORD_END

WILDCARD = "\U0010ffff"  # stands for a token of unknown text, in a text put together from tokens
SPACE = "▁"  # of sentencepiece's vocabularies
ANCHOR = 12  # characters that find the place again after one that the vocabulary does not know

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_CONTRACTION = re.compile(r"['’](?:s|t|re|ve|m|ll|d)(?![^\W_])", re.IGNORECASE)
_EMBEDDING = re.compile(r"embedding:[^\s,<\[\]]+")
_JOINER, _FLAGS, _SKINS = "\u200d", range(0x1F1E6, 0x1F200), range(0x1F3FB, 0x1F400)


class Span(NamedTuple):
    """Characters ``start`` to ``end`` of a text; ``spoken`` is whether they are letters or digits, not punctuation."""

    start: int
    end: int
    spoken: bool


def word_spans(text: str) -> list[Span]:
    """The words of a text, left to right.

    White space parts words, punctuation stands by itself (repeated signs together), and so does each character of a
    script without spaces. ``'s`` and its like are words, as for CLIP; so are ``embedding:name`` and an emoji with all
    that is joined to it.
    """
    spans: list[Span] = []
    i = 0
    while i < len(text):
        end, spoken = _word_end(text, i, after_letters=bool(spans) and spans[-1].spoken and spans[-1].end == i)
        if end > i:
            spans.append(Span(i, end, spoken))
        i = max(end, i + 1)
    return spans


def _word_end(text: str, i: int, after_letters: bool) -> tuple[int, bool]:
    """Where the word that begins at ``i`` ends (at ``i`` itself for none), and whether it is spoken."""
    if text[i].isspace() or _is_silent(text[i]):
        return i, False
    if match := _EMBEDDING.match(text, i) or (after_letters and _CONTRACTION.match(text, i)):
        return match.end(), True
    if _is_letter(text[i]):
        end = i + 1
        alone = is_unspaced(text[i])
        while end < len(text) and (is_mark(text[end]) or (not alone and _is_plain_letter(text[end]))):
            end += 1
        return end, True
    return _sign_end(text, i), False


def _sign_end(text: str, i: int) -> int:
    """The end of a sign: of an emoji with what is joined to it, or of the same sign again and again."""
    end = i + 1
    if ord(text[i]) in _FLAGS and text[end : end + 1] and ord(text[end]) in _FLAGS:
        return end + 1
    while end < len(text):
        if text[end] == _JOINER and end + 1 < len(text) and not text[end + 1].isspace():
            end += 2
        elif text[end] == text[i] or is_mark(text[end]) or ord(text[end]) in _SKINS:
            end += 1
        else:
            break
    return end


def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LNM"


def _is_plain_letter(character: str) -> bool:
    return _is_letter(character) and not is_unspaced(character)


def _is_silent(character: str) -> bool:
    """Control and format characters, half characters, characters that are none."""
    return unicodedata.category(character)[0] == "C" and unicodedata.category(character) != "Co"


def piece_bytes(letters: str, sentencepiece: bool) -> bytes:
    """The text of a token, in UTF-8 (part of a character is possible), from the vocabulary's string for it.

    Args:
        letters: the vocabulary's string.
        sentencepiece: whether the vocabulary is sentencepiece's; else it is a byte-level BPE.
    """
    if sentencepiece:
        if letters == "<unk>":
            return WILDCARD.encode()
        if byte := _BYTE.fullmatch(letters):
            return bytes([int(byte[1], 16)])
        return letters.replace(SPACE, " ").encode()
    alphabet = bytes_of_letters()
    letters = letters.removesuffix(WORD_END)
    if all(letter in alphabet for letter in letters):
        return bytes(alphabet[letter] for letter in letters)
    return letters.encode()


def decode(pieces: Iterable[bytes]) -> str:
    """What tokens say together; broken characters as lone surrogates, so that no byte is lost."""
    return b"".join(pieces).decode("utf-8", errors="surrogateescape")


class Cover(NamedTuple):
    """Where the tokens of a text stand in it: so many belong to the template before it, then the text's, then the rest.

    ``ranges`` are the characters of the text that each of its tokens covers; empty for white space.
    """

    before: int
    ranges: tuple[range, ...]
    after: int


def cover(pieces: Sequence[bytes], text: str, before: str = "", after: str = "") -> Cover:
    """Which characters of a text each token covers.

    Args:
        pieces: the tokens' own texts, see ``piece_bytes``; empty for one that belongs to the token before.
        text: what was tokenised.
        before, after: what a template puts around it, if the tokens say it.
    """
    said = decode(pieces)
    before = before if said.startswith(before) else before.rstrip()  # white space may have gone with what follows
    if not (said.startswith(before) and said.endswith(after) and len(before) + len(after) <= len(said)):
        before = after = ""
    ends = list(accumulate(map(len, pieces)))
    first = bisect_right(ends, len(before.encode()))
    last = (
        first
        + bisect_left(
            [end - len(piece) for end, piece in zip(ends, pieces, strict=True)][first:],
            sum(map(len, pieces)) - len(after.encode()),
        )
        if after
        else len(pieces)
    )
    places = _lay(_fold(said[len(before) : len(said) - len(after)]), _fold(text))
    at = [i - len(before) for i, letter in enumerate(said) for _ in letter.encode("utf-8", errors="surrogateescape")]
    ranges: list[range] = []
    for end, piece in list(zip(ends, pieces, strict=True))[first:last]:
        if not piece:
            ranges.append(ranges[-1] if ranges else range(0))
            continue
        touched = [place for i in range(at[end - len(piece)], at[end - 1] + 1) for place in places.get(i, ())]
        ranges.append(range(min(touched), max(touched) + 1) if touched else range(0))
    return Cover(first, tuple(ranges), len(pieces) - last)


class _Folded(NamedTuple):
    """A character as it is compared, and the characters of the text (start, end) that it comes from."""

    letter: str
    start: int
    end: int


def _fold(text: str) -> list[_Folded]:
    """A text without case, white space and ways of writing the same character."""
    folded: list[_Folded] = []
    i = 0
    while i < len(text):
        end = i + 1
        while end < len(text) and (is_mark(text[end]) or 0x1160 <= ord(text[end]) <= 0x11FF):
            end += 1
        folded += [_Folded(letter, i, end) for letter in _fold_one(text[i:end])]
        i = end
    return folded


@lru_cache(maxsize=4096)
def _fold_one(cluster: str) -> str:
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", cluster).casefold())
    return "".join(
        letter
        for letter in plain
        if not letter.isspace()
        and not "\ufe00" <= letter <= "\ufe0f"  # how an emoji is drawn; encoders drop it
        and (letter == WILDCARD or unicodedata.category(letter) not in ("Cc", "Cf"))
    )


def _lay(said: Sequence[_Folded], text: Sequence[_Folded]) -> dict[int, list[int]]:
    """For each character of what was said, the characters of the text that it stands for.

    Where the two agree, one by one. A wildcard takes what stands between its neighbours; a character of the text that
    nothing stands for is passed over.
    """
    places: dict[int, list[int]] = {}
    whole = "".join(each.letter for each in text)
    heard = "".join(each.letter for each in said)

    def note(mine: _Folded, theirs: Sequence[_Folded]) -> None:
        for character in range(mine.start, mine.end):
            places.setdefault(character, []).extend((theirs[0].start, theirs[-1].end - 1) if theirs else ())

    i = j = 0
    while i < len(said):
        if j < len(text) and heard[i] == whole[j]:
            note(said[i], text[j : j + 1])
            i, j = i + 1, j + 1
            continue
        wild = i
        while wild < len(said) and heard[wild] == WILDCARD:
            wild += 1
        next_j = _find_again(heard[wild : wild + ANCHOR].split(WILDCARD)[0], whole, j + (wild > i))
        if wild > i:
            gap = text[j : next_j if next_j >= 0 else len(text)]
            parts = _split_at_spaces(gap)
            for k, mine in enumerate(said[i:wild]):
                note(mine, parts[k] if len(parts) == wild - i else gap)
            i, j = wild, j + len(gap)
        elif next_j >= 0:
            j = next_j
        else:
            i += 1
    return places


def _find_again(anchor: str, whole: str, j: int) -> int:
    """From ``j`` on, where the text goes on with ``anchor`` or its beginning; -1 for nowhere, its end for no anchor."""
    if whole.startswith("embedding:", j):  # one that was not found, and so left out
        j += len("embedding:")
    if not anchor:
        return len(whole)
    return next((place for size in (ANCHOR, 4, 1) if (place := whole.find(anchor[:size], j)) >= 0), -1)


def _split_at_spaces(gap: Sequence[_Folded]) -> list[list[_Folded]]:
    parts: list[list[_Folded]] = []
    for each in gap:
        if not parts or parts[-1][-1].end < each.start:
            parts.append([])
        parts[-1].append(each)
    return parts


class Grouping(NamedTuple):
    """Words of a text, and for each stream of tokens the word that each token belongs to, or None."""

    spans: tuple[tuple[int, int], ...]
    owners: tuple[tuple[int | None, ...], ...]


def group(text: str, streams: Sequence[Sequence[range]]) -> Grouping:
    """Which word each token says.

    Words of which one token says several are one word. A token of letters and punctuation belongs to the letters, and
    punctuation without a token of its own is no word. White space belongs to the word that follows.

    Args:
        text: what was tokenised.
        streams: for each way of tokenising it, the characters that each token covers, see ``covers``.
    """
    spans = word_spans(text)
    at: dict[int, int] = {c: number for number, span in enumerate(spans) for c in range(span.start, span.end)}
    leader = list(range(len(spans)))

    def find(number: int) -> int:
        while leader[number] != number:
            number = leader[number]
        return number

    owners: list[list[int | None]] = []
    for stream in streams:
        owners.append([])
        for token in stream:
            met = list(dict.fromkeys(at[c] for c in token if c in at))
            met = [number for number in met if spans[number].spoken] or met
            met = list(range(met[0], met[-1] + 1)) if met else met
            for other in met[1:]:
                low, high = sorted((find(met[0]), find(other)))
                leader[high] = low
            owners[-1].append(met[0] if met else None)
    used = sorted({find(number) for stream in owners for number in stream if number is not None})
    places = {number: place for place, number in enumerate(used)}
    ends = {number: span.end for number, span in enumerate(spans)}
    for number in range(len(spans)):
        if find(number) != number:
            ends[find(number)] = max(ends[find(number)], ends[number])
    return Grouping(
        tuple((spans[number].start, ends[number]) for number in used),
        tuple(_give_spaces([None if n is None else places[find(n)] for n in stream]) for stream in owners),
    )


def _give_spaces(owners: list[int | None]) -> tuple[int | None, ...]:
    """Tokens without a word go to the next one, at the end to the last."""
    for i in reversed(range(len(owners) - 1)):
        owners[i] = owners[i + 1] if owners[i] is None else owners[i]
    for i in range(1, len(owners)):
        owners[i] = owners[i - 1] if owners[i] is None else owners[i]
    return tuple(owners)
