"""Kinds of characters: what belongs to one word, what stands between words, what is written without spaces.

Text encoders cut texts at spaces and punctuation. Chinese, Japanese, Thai, Lao, Khmer, Burmese and Tibetan put none
between words, so that their words are found by characters.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

# Scripts without spaces between words, as ranges of code points (Unicode 15).
UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # 々〆〇
    (0x3040, 0x30FF),  # hiragana, katakana
    (0x3100, 0x312F),  # bopomofo
    (0x31F0, 0x31FF),  # more katakana
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han, compatibility
    (0xFF66, 0xFF9F),  # halfwidth katakana
    (0x20000, 0x323AF),  # Han, extensions B to H
)
HANGUL = (0xAC00, 0xD7A3)  # Korean has spaces, and writes particles on to its nouns
KANA = ((0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F))
# What only lengthens, voices, bends or repeats the one before.
LEANING = frozenset("ーｰ゛゜ﾞﾟぁぃぅぇぉゃゅょゎァィゥェォャュョヮヵヶ々")


def is_unspaced(letter: str) -> bool:
    """Whether it is of a script that puts no spaces between words."""
    code = ord(letter)
    return code >= UNSPACED[0][0] and any(first <= code <= last for first, last in UNSPACED) and is_letter(letter)


def is_kana(letter: str) -> bool:
    return any(first <= ord(letter) <= last for first, last in KANA)


def is_hangul(letter: str) -> bool:
    return HANGUL[0] <= ord(letter) <= HANGUL[1]


def is_letter(letter: str) -> bool:
    """A letter of any script, or a mark on one; half a letter counts as one."""
    return letter.isalpha() or letter == "\ufffd" or is_mark(letter)


def is_mark(letter: str) -> bool:
    """An accent or a vowel sign, which belongs to the letter before it."""
    return letter > "\u02ff" and unicodedata.category(letter)[0] == "M"


def leans(letter: str) -> bool:
    """Whether it makes one character with the one before."""
    return letter in LEANING or is_mark(letter)


def says_nothing(text: str) -> bool:
    """Whether a text has neither letters nor digits: punctuation. Symbols such as an emoji say something."""
    return not any(is_letter(each) or each.isnumeric() or unicodedata.category(each) == "So" for each in text)


@lru_cache(maxsize=1)
def bytes_of_letters() -> dict[str, int]:
    """The byte-level BPE alphabet: printable Latin-1 stands for itself, the other bytes for letters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
