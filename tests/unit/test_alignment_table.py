"""Many prompts and their edits, and which word stands for which in them."""

from __future__ import annotations

import itertools
import random
import sys
from pathlib import Path

import pytest

from p2p_attention.align import CONNECTIVES, align
from p2p_attention.phrases import LANGUAGES

sys.path.append(str(Path(__file__).resolve().parent))

from alignments import cases  # noqa: E402


def places(alignment):
    """word of the target -> the words that it stands for, of each of its occurrences; None where it is new."""
    found = {}
    for span in alignment.spans:
        place = None if span.kind == "new" else tuple(word.text for word in span.source)
        for word in span.target:
            found.setdefault(word.text, []).append(place)
    return found


def check(alignment, wanted):
    """The wanted places, and everything else shared with itself, or new where it was not there."""
    found = places(alignment)
    source = {word.key for word in alignment.source.words}
    for word, place in wanted.items():
        if place is None:
            assert all(each in (None, (word,)) for each in found[word]), (word, found[word])
        else:
            assert any(each and set(place.split()) <= set(each) for each in found[word]), (word, found[word])
    for span in alignment.spans:
        for word in span.target:
            if span.kind == "swapped":
                assert word.text in wanted and wanted[word.text], (word.text, [each.text for each in span.source])
            elif span.kind == "new":
                assert wanted.get(word.text, "") is None or word.key not in source or _is_small(word), word.text


def _is_small(word):
    """A word that may stand anywhere once more."""
    return len(word.text) <= 5


@pytest.mark.parametrize(("source", "target", "wanted"), list(cases()))
def test_which_word_stands_for_which(toy, source, target, wanted):
    check(align(toy.prompt(source, 77), toy.prompt(target, 77)), wanted)


@pytest.mark.parametrize("seed", range(20))
def test_tags_in_any_order_are_themselves(toy, seed):
    """All of them are shared, wherever they went, and so is one that is swapped on the way."""
    tags = ["1girl", "red hair", "blue eyes", "smile", "night sky", "city lights", "long coat", "looking up"]
    shuffled = random.Random(seed).sample(tags, len(tags))
    alignment = align(toy.prompt(", ".join(tags), 77), toy.prompt(", ".join(shuffled), 77))
    assert [span.kind for span in alignment.spans if span.kind == "swapped"] == []
    assert all(span.kind == "shared" for span in alignment.spans if span.target and span.target[0].text != ",")
    edited = [tag.replace("red hair", "green hair") for tag in shuffled]
    alignment = align(toy.prompt(", ".join(tags), 77), toy.prompt(", ".join(edited), 77))
    assert places(alignment)["green"] == [("red",)]
    assert places(alignment)["hair"] == [("hair",)]


def test_a_moved_word_never_takes_another_words_place(toy):
    tags = ["cat", "dog", "red hat", "snow", "big tree"]
    for order in itertools.permutations(tags):
        for span in align(toy.prompt(", ".join(tags), 77), toy.prompt(", ".join(order), 77)).spans:
            assert span.kind != "swapped", (order, span)


@pytest.mark.parametrize("connective", sorted(CONNECTIVES))
@pytest.mark.parametrize("written", [str.lower, str.upper, str.capitalize])
def test_a_phrase_ends_before_a_connective(toy, connective, written):
    """In any case; for encoders that know cases, too."""
    from dataclasses import replace

    source, target = toy.prompt("a cat"), toy.prompt(f"a dog {connective} mirror")
    words = tuple(replace(word, text=written(word.text)) if word.text == connective else word for word in target.words)
    assert places(align(source, replace(target, words=words)))["dog"] == [("cat",)]


def test_the_connectives_are_these():
    assert sorted(CONNECTIVES) == (
        "and at behind beside by for from in into near next of on over to under wearing with".split()
    )


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_the_small_words_of_a_language_end_a_phrase(toy, language):
    """A noun keeps its place before each of them, where they are most of a prompt's small words."""
    links, *_ = LANGUAGES[language]
    for link in links.split():
        rest = " ".join(f"{each} xyloph" for each in links.split()[:12])
        alignment = align(toy.prompt(f"qwerty {rest}", 77), toy.prompt(f"asdfgh {link} xyz {rest}", 77))
        assert places(alignment)["asdfgh"] == [("qwerty",)], link


class Likeness:
    """Words that somebody thinks alike, as a text encoder might; all others are as alike as chance has it."""

    def __init__(self, *pairs):
        self.pairs = [set(pair.split()) for pair in pairs]

    def __call__(self, a, b):
        return 9.0 if {a.text, b.text} in self.pairs else (hash_of(a.text) + hash_of(b.text)) % 3 - 1.0


def hash_of(text):
    return sum(map(ord, text))


@pytest.mark.parametrize(
    ("source", "target", "alike", "places_then", "places_without"),
    [
        ("a glorp", "a zorb flimp", "glorp zorb", {"zorb": "glorp"}, {"flimp": "glorp"}),
        ("a glorp", "a flimp with a zorb", "glorp zorb", {"zorb": "glorp"}, {"flimp": "glorp"}),
        ("glorp, snow", "flimp, zorb, snow", "glorp zorb", {"zorb": "glorp"}, {"flimp": "glorp"}),
        ("a flimp with a zorb", "a glorp", "glorp zorb", {"glorp": "zorb"}, {"glorp": "flimp"}),
        ("a glorp", "a zorb", "nothing else", {"zorb": "glorp"}, {"zorb": "glorp"}),
    ],
)
def test_likeness_of_words_decides_before_their_place(toy, source, target, alike, places_then, places_without):
    source, target = toy.prompt(source, 77), toy.prompt(target, 77)
    for likeness, wanted in ((Likeness(alike), places_then), (None, places_without)):
        found = places(align(source, target, likeness))
        for word, place in wanted.items():
            assert found[word] == [(place,)]
