"""What the page is told about two prompts."""

from __future__ import annotations

import time

import pytest

from p2p_attention.comparison import MOST_CHARACTERS, compare


@pytest.fixture
def told(toy):
    return lambda source, target="": compare(toy.prompt, source, target)


def texts(prompt):
    return [word["text"] for word in prompt["words"]]


def test_a_swap_beside_shared_words(told):
    found = told("a cat on grass", "a dog on grass")
    assert [texts(prompt) for prompt in found["prompts"]] == [["a", "cat", "on", "grass"], ["a", "dog", "on", "grass"]]
    assert found["edits"] == [
        [
            {"kind": "shared", "source": [0], "target": [0]},
            {"kind": "swapped", "source": [1], "target": [1]},
            {"kind": "shared", "source": [2], "target": [2]},
            {"kind": "shared", "source": [3], "target": [3]},
        ]
    ]


def test_new_and_removed_words_and_several_edits(told):
    found = told("a red cat", "a cat\n---\na red cat at night")
    assert [span["kind"] for span in found["edits"][0]] == ["shared", "removed", "shared"]
    assert found["edits"][0][1] == {"kind": "removed", "source": [1], "target": []}
    assert [span["kind"] for span in found["edits"][1]] == ["shared", "shared", "shared", "new", "new"]
    assert found["edits"][1][4] == {"kind": "new", "source": [], "target": [4]}


def test_every_word_stands_in_one_span(told):
    found = told("the old stone bridge over a river", "a bridge of wood over the wide river at night")
    for side, prompt in (("source", found["prompts"][0]), ("target", found["prompts"][1])):
        assert [i for span in found["edits"][0] for i in span[side]] == list(range(len(prompt["words"])))


def test_without_a_target_there_is_the_source_alone(told):
    found = told("a cat", "  \n")
    assert len(found["prompts"]) == 1 and found["edits"] == []


def test_an_empty_text_has_no_words(told):
    assert told("", "a cat")["prompts"][0]["words"] == []


def test_a_repeated_word_is_numbered_and_the_name_finds_it(toy, told):
    source, target = "a cat and a dog", "a cat and a mirror"
    found = told(source, target)
    assert [word["name"] for word in found["prompts"][0]["words"]] == ["a#1", "cat", "and", "a#2", "dog"]
    pair = toy.pair(source, target)
    for prompt, shown in zip((pair.source, *pair.targets), found["prompts"], strict=True):
        for word, each in zip(prompt.words, shown["words"], strict=True):
            assert pair.find(each["name"], prompt) == word.positions


def test_what_a_text_box_cannot_name_has_no_name(told):
    words = told("cat, embedding:style dog")["prompts"][0]["words"]
    assert [(word["text"], word["name"]) for word in words] == [
        ("cat", "cat"),
        (",", None),
        ("(embedding)(embedding)", None),
        ("dog", "dog"),
    ]


def test_tokens_are_counted_and_chunks_are_marked(told):
    prompt = told("mirror " * 8)["prompts"][0]  # 16 pieces, 14 of which fit into the toy's chunks
    assert (prompt["tokens"], prompt["room"], prompt["chunks"]) == (16, 28, 2)
    assert [word["tokens"] for word in prompt["words"]] == [2] * 8
    assert [word["chunk"] for word in prompt["words"]] == [0] * 7 + [1]
    split = told("a " + "mirror " * 7)["prompts"][0]["words"]
    assert [word["split"] for word in split] == [False] * 7 + [True]


def test_thousands_of_words_are_not_aligned(told):
    began = time.perf_counter()
    found = told("cat " * 2000, "dog " * 2000)
    assert found["edits"] == [None]
    assert len(found["prompts"][1]["words"]) == 2000
    assert time.perf_counter() - began < 5


def test_too_long_a_text_is_refused(told):
    with pytest.raises(ValueError, match=f"at most {MOST_CHARACTERS} characters.*got 20001"):
        told("a" * (MOST_CHARACTERS + 1))
