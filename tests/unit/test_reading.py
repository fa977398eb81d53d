"""Where in a text its words stand, and names that are found by their letters."""

from __future__ import annotations

import pytest

from p2p_attention.prompt import split_names
from p2p_attention.reading import letters_read, places


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a cat", "a cat"),
        ("a (cat:1.2) on", "a cat on"),
        ("a ((cat)) on", "a cat on"),
        ("a (big (red:1.3) cat:.5), on", "a big red cat, on"),
        ("\\(cat\\), (a \\(b\\):1.1)", "(cat), a (b)"),
        ("(cat:x) (: ) (a:1:2)", "cat:x :  a:1"),
        ("(cat", "(cat"),
        ("cat) (dog", "cat) (dog"),
        ("cat) (dog:1.2) x", "cat) (dog:1.2) x"),
        ("()", ""),
        ("", ""),
    ],
)
def test_letters_read(text, read):
    letters = letters_read(text)
    assert "".join(letter.text for letter in letters) == read
    assert all(text[letter.end - 1] == letter.text for letter in letters)
    unweighted = text.replace("\\(", "(").replace("\\)", ")")  # the host's tokenizers take the signs off in any case
    assert "".join(letter.text for letter in letters_read(text, weights=False)) == unweighted


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("A Cat", ["a", "cat"], ["A", "Cat"]),
        ("(cat:1.3) 3", ["cat", "3"], ["cat", "3"]),
        ("a \\(b\\), c", ["a", "(", "b", "),", "c"], ["a", "\\(", "b", "\\),", "c"]),
        ("a embedding:glow, cat", ["a", None, ",", "cat"], ["a", "embedding:glow", ",", "cat"]),
        ("İ cat", ["i̇", "cat"], ["İ", "cat"]),
        ("a &amp; b", ["a", "&", "b"], ["a", "&", "b"]),
        ("a cat", ["a", "dog", "cat"], ["a", None, "cat"]),
    ],
)
def test_places(text, words, found):
    assert [span and text[slice(*span)] for span in places(text, words)] == found


@pytest.mark.parametrize(
    "text", ["a (big:1.2) red-hot cat, \\(x\\)", "一只猫 on a mat", "a embedding:glow cat", "don't stop (now:0.5)"]
)
def test_words_know_their_characters(toy, text):
    prompt = toy.prompt(text)
    for word in prompt.words:
        if isinstance(word.ids[0], str):
            assert text[word.start : word.end] == "embedding:glow"
        else:
            assert text[word.start : word.end].replace("\\", "").lower() == word.text


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("pokemon \\(creature\\), smile", "pokemon \\(creature\\)", [["pokemon", "(", "creature", "),"]]),
        (
            "\\(genshin impact\\), a \\(genshin impact\\)",
            "\\(genshin impact\\)",
            [["(", "genshin", "impact", "),"], ["(", "genshin", "impact", ")"]],
        ),
        ("\\(genshin impact\\), a \\(genshin impact\\)", "\\(genshin impact\\)#1", [["(", "genshin", "impact", "),"]]),
        ("\\(genshin impact\\), a \\(genshin impact\\)", "\\(genshin impact\\)#2", [["(", "genshin", "impact", ")"]]),
        ('a "cat", here', '"cat"', [['"', "cat", '",']]),
        ("50%, wow!, x", "50%", [["50", "%,"]]),
        ("50%, wow!, x", "wow!", [["wow", "!,"]]),
        ("a cat, dog", "cat, dog", [["cat", ",", "dog"]]),
        ("一只狗坐在椅子上", "狗", [["狗"]]),
        ("一只狗坐在椅子上", "椅子", [["椅", "子"]]),
        ("a catfish", "cat", []),
        ("redmirror", "red mirror", []),
        ("red mirror", "redmirror", []),
    ],
)  # fmt: skip
def test_names_are_found_by_their_letters(toy, text, name, words):
    pair = toy.pair(text, length=40)
    owner = {position: word.text for word in pair.source.words for position in word.positions}
    assert [list(dict.fromkeys(owner[each] for each in hit)) for hit in pair.occurrences(name, pair.source)] == words


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('cat, "a, b", c', ("cat", "a, b", "c")),
        ("a\\, b, c", ("a, b", "c")),
        ('"cat", dog', ('"cat"', "dog")),  # without a comma in them, quotes are a part of the name
        ('say "hi, dog', ('say "hi', "dog")),
        ("\\(a\\)\\,, b", ("\\(a\\),", "b")),
        (" , cat ,, dog\n fox", ("cat", "dog", "fox")),
    ],
)
def test_names_may_hold_commas(text, names):
    assert split_names(text) == names
