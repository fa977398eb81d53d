"""Pieces become words with positions, and words are found again."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p_attention.prompt import Piece, build_prompt, join_prompts, listing, quoted, split_breaks, split_edits

TEXTS = st.lists(st.sampled_from("a the red mirror elephant squirrels (dog:1.2) embedding:glow ,".split()), max_size=12)


def layout(prompt):
    return [(word.text, *word.positions) for word in prompt.words], prompt.starts, prompt.ends, prompt.padding


# ---- grouping pieces into words


@pytest.mark.parametrize(
    ("text", "length", "words", "starts", "ends", "padding"),
    [
        ("", 4, [], (0,), (1,), (2, 3)),
        ("cat", 4, [("cat", 1)], (0,), (2,), (3,)),
        ("a cat", 4, [("a", 1), ("cat", 2)], (0,), (3,), ()),
        ("A mirror!", 8, [("a", 1), ("mirror", 2, 3), ("!", 4)], (0,), (5,), (6, 7)),
        ("(a:1.1) (cat:0.5)", 6, [("a", 1), ("cat", 2)], (0,), (3,), (4, 5)),
        # two chunks: between words, and within one
        ("a big cat", 4, [("a", 1), ("big", 2), ("cat", 5)], (0, 4), (3, 6), (7,)),
        ("a elephant", 5, [("a", 1), ("elephant", 2, 3, 6)], (0, 5), (4, 7), (8, 9)),
        # three chunks, the last one full: "elephants" is ele pha nts
        ("elephants elephants", 4, [("elephants", 1, 2, 5), ("elephants", 6, 9, 10)], (0, 4, 8), (3, 7, 11), ()),
    ],
)
def test_words_and_special_positions(toy, text, length, words, starts, ends, padding):
    prompt = toy.prompt(text, length)
    assert layout(prompt) == (words, starts, ends, padding)
    assert prompt.text == text
    assert prompt.length == length * len(starts)


@given(TEXTS, st.integers(4, 20))
def test_every_position_has_one_place_and_every_word_its_pieces(toy, texts, length):
    chunks = toy.chunks(" ".join(texts), length)
    prompt = build_prompt("", chunks)
    in_words = [position for word in prompt.words for position in word.positions]
    assert in_words == sorted(in_words)
    assert sorted([*in_words, *prompt.starts, *prompt.ends, *prompt.padding]) == list(range(prompt.length))
    pieces = [piece for chunk in chunks for piece in chunk]
    assert len(prompt.words) == len(texts)
    for word in prompt.words:
        assert word.ids == tuple(pieces[position].id for position in word.positions)


def test_embedding_is_one_word_with_the_digests_of_its_vectors(toy):
    prompt = toy.prompt("a embedding:glow cat", 8)
    assert [word.positions for word in prompt.words] == [(1,), (2, 3), (4,)]
    assert prompt.words[1].ids == ("embedding:glow vector 0", "embedding:glow vector 1")


def test_embedding_side_by_side_with_another_stays_apart(toy):
    prompt = toy.prompt("embedding:glow embedding:dusk", 8)
    assert [word.positions for word in prompt.words] == [(1, 2), (3, 4)]


def test_embedding_at_the_end_of_a_prompt_is_a_word(toy):
    assert toy.prompt("embedding:glow", 8).words[0].positions == (1, 2)


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["cat</w>"], "cat"),
        (["cafÃ©</w>"], "café"),
        (["ÐºÐ", "¾ÑĤ</w>"], "кот"),  # the second letter is cut in two
        (["ðŁĺĢ</w>"], "😀"),
        (["Ã</w>"], "\ufffd"),  # half a letter
        (["日本</w>"], "日本"),  # not byte-level letters: as they are
        (["(embedding)"], "(embedding)"),
    ],
)
def test_words_are_listed_as_a_person_typed_them(pieces, text):
    chunk = [Piece(0, "<start>", 0), *(Piece(5, letters, 1) for letters in pieces), Piece(1, "<end>", 0)]
    assert [word.text for word in build_prompt("", [chunk]).words] == [text]


# ---- finding a word


@pytest.mark.parametrize(
    ("text", "name", "positions"),
    [
        ("a cat", "cat", (2,)),
        ("a cat", "CAT", (2,)),
        ("A Cat", " cat ", (2,)),
        ("a cat", "dog", ()),
        ("a red mirror", "mirror", (3, 4)),
        ("a red mirror", "mir", ()),  # not within a longer word: mir|ror
        ("a catfish", "cat", ()),
        ("a fishes", "hes", ()),  # fis|hes: the last piece alone is no word
        ("a cat", "cat fish", ()),
        ("a (cat:1.3) here", "cat", (2,)),
        ("a cat here", "(cat:1.3)", (2,)),
        ("a cat, here", "cat", (2,)),
        ("a cat, here", "cat,", (2, 3)),
        ("a embedding:glow cat", "embedding:glow", (2, 3)),
        ("a embedding:glow cat", "embedding:dusk", ()),
        # phrases
        ("a red mirror", "red  mirror", (2, 3, 4)),
        ("a red mirror", "a mirror", ()),
        ("a red mirror", "mirror red", ()),
        ("a red mirror and more", "red mirror and more and", ()),
        # occurrences
        ("a cat and a cat", "cat", (2, 5)),
        ("a cat and a cat", "cat#1", (2,)),
        ("a cat and a cat", "cat#2", (5,)),
        ("a cat and a cat", "cat#3", ()),
        ("a cat and a cat", "a cat#2", (4, 5)),
        ("a cat and a cat", " Cat#2 ", (5,)),
        ("a b#2 and b", "b#2", (2, 3, 4)),  # so it stands there: b, #, 2
    ],
)
def test_find(toy, text, name, positions):
    pair = toy.pair(text)
    assert pair.find(name, pair.source) == positions


def test_find_over_a_chunk_border(toy):
    pair = toy.pair("a elephant here", length=5)
    assert pair.find("elephant", pair.source) == (2, 3, 6)


def test_find_in_the_prompt_that_is_asked(toy):
    pair = toy.pair("a cat", "the big cat", "the dog")
    assert [pair.find("cat", prompt) for prompt in (pair.source, *pair.targets)] == [(2,), (3,), ()]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cat#0", r"counted from 1, got 'cat#0'\. Write cat#1"),
        ("", "Wanted a word of the prompt, got ''"),
        ("  ", "Wanted a word of the prompt, got '  '"),
    ],
)
def test_find_refuses(toy, name, message):
    pair = toy.pair("a cat")
    with pytest.raises(ValueError, match=message):
        pair.find(name, pair.source)


# ---- pairs


@pytest.mark.parametrize(
    ("source", "targets", "length"),
    [
        ("a", ["the"], 4),
        ("a", ["a b c"], 8),
        ("a b c", ["a b c d e"], 24),  # 2 and 3 chunks
        ("a b c", ["a b c d e", "a b c d e f g"], 48),  # 2, 3 and 4 chunks
    ],
)
def test_pair_length_is_the_common_multiple(toy, source, targets, length):
    pair = toy.pair(source, *targets, length=4)
    assert pair.length == length
    assert pair.rows == 1 + len(targets)


def test_pairs_are_equal_by_their_prompts_and_survive_a_deep_copy(toy):
    one = toy.pair("a cat", "a dog")
    other = replace(toy.pair("a cat", "a dog"), tokenize=lambda text: ())
    assert one == other and hash(one) == hash(other)
    assert one != toy.pair("a cat", "a cow")
    assert one != toy.pair("a cow", "a dog")
    assert copy.deepcopy({"pair": one})["pair"] is one


# ---- edits in a text box


@pytest.mark.parametrize(
    ("text", "edits"),
    [
        ("a dog", ("a dog",)),
        ("  a dog \n", ("a dog",)),
        ("a dog\n---\na cow", ("a dog", "a cow")),
        ("a dog\n  --- \t\na cow\n---\na hen", ("a dog", "a cow", "a hen")),
        ("a dog\r\n---\r\na cow", ("a dog", "a cow")),
        ("a dog,\nred\n---\na cow", ("a dog,\nred", "a cow")),
        ("a dog --- a cow", ("a dog --- a cow",)),
        ("a dog\n----\na cow", ("a dog\n----\na cow",)),
        ("a dog\n--- no\na cow", ("a dog\n--- no\na cow",)),
        ("a dog\n---\n", ("a dog", "")),  # the empty edit is refused where it is encoded
        ("---\na dog", ("", "a dog")),
        ("a dog\n\n---\n\n---\na cow", ("a dog", "", "a cow")),
        ("", ()),
        (" \r\n", ()),
        ("---", ("", "")),
        ("a cat\r---\ra dog", ("a cat", "a dog")),
        ("a cat\r\n\t---\t\r\na dog", ("a cat", "a dog")),
        ("a cat\n--- a dog\n----\n- --", ("a cat\n--- a dog\n----\n- --",)),
    ],
)
def test_split_edits(text, edits):
    assert split_edits(text) == edits


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a cat", ("a cat",)),
        ("a cat BREAK a dog", ("a cat", "a dog")),
        ("a cat\nBREAK\na dog BREAK", ("a cat", "a dog", "")),
        ("BREAKfast break a_BREAK", ("BREAKfast break a_BREAK",)),
        ("", ("",)),
    ],
)
def test_split_breaks(text, parts):
    assert split_breaks(text) == parts


@given(st.lists(TEXTS.map(" ".join), min_size=1, max_size=3))
def test_joined_prompts_stand_one_behind_the_other(toy, texts):
    """As the chunks of all of them, read at once; only an embedding's segments may meet, which joining keeps apart."""
    joined = join_prompts("", [toy.prompt(text) for text in texts])
    chunks = [chunk for number, text in enumerate(texts) for chunk in numbered(toy.chunks(text, 16), number)]
    assert joined == build_prompt("", chunks)


def numbered(chunks, text):
    """Segment numbers that no other text has."""
    return [[piece._replace(group=piece.group and piece.group + 100 * text) for piece in chunk] for chunk in chunks]


def test_long_prompts_are_shortened_in_messages(toy):
    assert listing(toy.prompt("a cat")) == "a, cat"
    assert listing(toy.prompt("a " * 120)).endswith("a, a and 20 more")
    assert quoted("a cat") == "'a cat'"
    assert quoted("a" * 1000) == "'" + "a" * 299 + "... (1002 letters)"
