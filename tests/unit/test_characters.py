"""The characters that tokens cover, and the words of a text."""

from __future__ import annotations

import pytest

from p2p_attention.characters import WILDCARD, cover, group, piece_bytes, word_spans

UNKNOWN = WILDCARD.encode()


def words(text):
    return [text[span.start : span.end] for span in word_spans(text)]


def pieces(*texts):
    return [text.encode() if isinstance(text, str) else text for text in texts]


def said(text, *streams, before="", after=""):
    """The words of a text, each with the tokens of each stream that say it."""
    covers = [cover(pieces(*stream), text, before, after) for stream in streams]
    grouping = group(text, [each.ranges for each in covers])
    return [
        (text[start:end], *([i for i, owner in enumerate(owners) if owner == word] for owners in grouping.owners))
        for word, (start, end) in enumerate(grouping.spans)
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a cat,  on\ngrass", ["a", "cat", ",", "on", "grass"]),
        ("the cat's 3d 1girl", ["the", "cat", "'s", "3d", "1girl"]),
        ("lake-side long_hair", ["lake", "-", "side", "long", "_", "hair"]),
        ("don't 'tis", ["don", "'t", "'", "tis"]),
        ("what...?! ((no))", ["what", "...", "?", "!", "((", "no", "))"]),
        ("红色的猫 と 犬", ["红", "色", "的", "猫", "と", "犬"]),
        ("빨간 고양이", ["빨간", "고양이"]),
        ("แมวดี", ["แ", "ม", "ว", "ดี"]),
        ("naive\u0308 cafe\u0301", ["naive\u0308", "cafe\u0301"]),
        ("🐈👩‍🚀👍🏽🇫🇷❤️", ["🐈", "👩‍🚀", "👍🏽", "🇫🇷", "❤️"]),
        ("a embedding:my-style_2, b", ["a", "embedding:my-style_2", ",", "b"]),
        (" \t\n\x00\u200b", []),
        ("", []),
    ],
)
def test_words_as_a_person_counts_them(text, found):
    assert words(text) == found


@pytest.mark.parametrize(
    ("letters", "sentencepiece", "text"),
    [
        ("▁cat", True, b" cat"),
        ("<0xE7>", True, b"\xe7"),
        ("<unk>", True, UNKNOWN),
        ("Ġcat", False, b" cat"),
        ("cat</w>", False, b"cat"),
        ("çĮ", False, b"\xe7\x8c"),
        ("<|im_end|>", False, b"<|im_end|>"),
        ("<｜begin｜>", False, "<｜begin｜>".encode()),
    ],
)
def test_a_tokens_own_text(letters, sentencepiece, text):
    assert piece_bytes(letters, sentencepiece) == text


def test_pieces_make_words():
    assert said("A Mushroom, on", [" A", " Mush", "room", ",", " on"]) == [
        ("A", [0]), ("Mushroom", [1, 2]), (",", [3]), ("on", [4]),
    ]  # fmt: skip


def test_case_and_ways_of_writing_the_same_do_not_matter():
    assert said("ﬁne Cafe\u0301 ½", ["fin", "e", "caf\u00e9", "1⁄", "2"]) == [
        ("ﬁne", [0, 1]), ("Cafe\u0301", [2]), ("½", [3, 4]),
    ]  # fmt: skip


def test_bytes_of_one_character_are_one_word():
    cat = "猫".encode()
    assert said("a猫", ["a", cat[:1], cat[1:]]) == [("a", [0]), ("猫", [1, 2])]


def test_what_one_token_says_is_one_word():
    assert said("红色的猫", ["红色", "的", "猫"]) == [("红色", [0]), ("的", [1]), ("猫", [2])]


def test_letters_take_the_punctuation_that_stands_with_them_in_a_token():
    assert said('the "red cat', ["the", ' "red', " cat"]) == [("the", [0]), ("red", [1]), ("cat", [2])]
    assert said("cat).", ["cat", ")."]) == [("cat", [0]), (").", [1])]
    assert said("1.3 m", ["1.3", " m"]) == [("1.3", [0]), ("m", [1])]


def test_several_streams_agree_on_the_words():
    assert said("3.5 猫と cat", ["3", ".", "5", "猫", "と", "cat"], [" 3.5", " ", UNKNOWN, " cat"]) == [
        ("3.5", [0, 1, 2], [0]), ("猫と", [3, 4], [1, 2]), ("cat", [5], [3]),
    ]  # fmt: skip


def test_unknown_characters_stand_between_their_neighbours():
    assert said("a 🐈, 猫 犬", [" a", " ", UNKNOWN, ",", " ", UNKNOWN, " ", UNKNOWN]) == [
        ("a", [0]), ("🐈", [1, 2]), (",", [3]), ("猫", [4, 5]), ("犬", [6, 7]),
    ]  # fmt: skip


def test_an_embedding_is_a_word_of_all_its_vectors():
    assert said("a embedding:cat, b", ["a", UNKNOWN, b"", b"", ",", "b"]) == [
        ("a", [0]), ("embedding:cat", [1, 2, 3]), (",", [4]), ("b", [5]),
    ]  # fmt: skip


def test_an_embedding_that_was_not_found_is_left_out():
    assert said("embedding:cat a cat", [" a", " cat"]) == [("a", [0]), ("cat", [1])]


def test_white_space_goes_with_the_next_word():
    assert said("a\n\n b ", ["a", "\n\n", " b", " "]) == [("a", [0]), ("b", [1, 2, 3])]


def test_characters_that_no_token_says_are_passed_over():
    assert said("a\u200b cat\x07 b", ["a", "cat", "b"]) == [("a", [0]), ("cat", [1]), ("b", [2])]


def test_the_template_is_told_from_the_text():
    tokens = pieces("<s>", "user", "\n", "user", " b", "\n", "</s>", "end", "\n")
    found = cover(tokens, "user b\n", before="<s>user\n", after="</s>end\n")
    assert (found.before, found.after) == (3, 3)
    assert found.ranges == (range(4), range(5, 6), range(0))
    merged = cover(pieces("user", "\n\n", "a", "</s>"), "\na", before="user\n", after="</s>")
    assert (merged.before, merged.ranges, merged.after) == (1, (range(0), range(1, 2)), 1)


def test_a_text_without_its_template():
    found = cover(pieces("<s>", "a"), "<s>a", before="<s>user\n", after="</s>")
    assert (found.before, found.after) == (0, 0)
    assert found.ranges == (range(3), range(3, 4))
