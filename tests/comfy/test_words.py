"""Words as the host's own tokenizer reads them: which stands for which, and where the attention goes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))

from alignments import cases  # noqa: E402


@pytest.fixture(scope="module")
def read(host):
    return host.module("p2p_attention.host.encode").prompt_reader()[1]


def test_which_word_stands_for_which(host, read):
    align = host.module("p2p_attention.align").align
    for source, target, wanted in cases():
        found: dict[str, list] = {}
        for span in align(read(source), read(target)).spans:
            for word in span.target:
                place = None if span.kind == "new" else {each.text for each in span.source}
                found.setdefault(word.text, []).append(place)
        for word, place in wanted.items():
            if place is None:
                assert all(each in (None, {word}) for each in found.get(word, [])), (source, target, word)
            else:
                assert any(each and set(place.split()) <= each for each in found[word]), (source, target, word)


def test_one_swapped_character_leaves_the_others_shared(host, read):
    source, target = read("一只猫坐在红色的椅子上"), read("一只狗坐在红色的椅子上")
    alignment = host.module("p2p_attention.align").align(source, target)
    assert sum(len(word.positions) for word in source.words) == 28
    assert [span.kind for span in alignment.spans].count("shared") == 10
    assert target.occurrences(read("狗").words) == [target.words[2].positions]


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("pokemon \\(creature\\), smile", "pokemon \\(creature\\)", [(1, 2, 3, 4)]),
        ("\\(genshin impact\\), a \\(genshin impact\\)", "\\(genshin impact\\)", [(1, 2, 3, 4, 5), (7, 8, 9, 10, 11)]),
        ("\\(genshin impact\\), a \\(genshin impact\\)", "\\(genshin impact\\)#1", [(1, 2, 3, 4, 5)]),
        ('a "cat", 50%, wow!, x', '"cat"', [(2, 3, 4)]),
        ('a "cat", 50%, wow!, x', "50%", [(5, 6, 7)]),
        ('a "cat", 50%, wow!, x', "wow!", [(8, 9)]),
        ("a 'dog' here", "dog", [(2, 3)]),
        ("แมวนั่งบนเก้าอี้", "แมว", [(1, 2, 3)]),
        ("고양이가 의자에", "고양이", [(1, 2, 3, 4, 5)]),
        ("एक बिल्ली और", "बिल्ली", None),
    ],
)
def test_names_are_found_by_what_the_tokens_cover(host, read, text, name, found):
    prompts = host.module("p2p_attention.prompt")
    pair = prompts.PromptPair(read(text), (), 0, lambda each: read(each).words)
    hits = pair.occurrences(name, pair.source)
    assert hits == (found if found is not None else [pair.source.words[1].positions])


WORDS = "cat dog red blue big old house tree car boat hat sky sea sun moon star".split()


def prompt_of(count):
    return " ".join(WORDS[i % len(WORDS)] for i in range(count))


@pytest.mark.parametrize("source", [1, 74, 75, 76, 149, 150, 151, 225, 226])
@pytest.mark.parametrize("target", [1, 74, 75, 76, 149, 150, 151, 225, 226])
def test_attention_is_kept_whatever_the_lengths(host, read, source, target):
    """Of the source's map all goes to the target's positions but what the removed words had."""
    alignment = host.module("p2p_attention.align").align(read(prompt_of(source)), read(prompt_of(target)))
    _require_the_whole(alignment)


@pytest.mark.parametrize(("source", "target"), [(75, 1), (1, 75), (75, 75), (74, 76), (150, 75)])
def test_attention_is_kept_with_breaks(host, source, target):
    read = host.module("p2p_attention.host.encode").prompt_reader(breaks=True)[1]
    align = host.module("p2p_attention.align").align
    for one in (f"{prompt_of(source)} BREAK a mat", prompt_of(source)):
        for other in (
            f"{prompt_of(target)} BREAK a mat",
            f"a mat BREAK {prompt_of(target)} BREAK a mat",
            prompt_of(target),
        ):
            _require_the_whole(align(read(one), read(other)))
            _require_the_whole(align(read(other), read(one)))


def _require_the_whole(alignment):
    matrix, kinds = alignment.matrix, alignment.kinds
    removed = {i for span in alignment.spans if span.kind == "removed" for word in span.source for i in word.positions}
    rows = matrix.sum(dim=1)
    for row in range(alignment.source.length):
        assert rows[row] == pytest.approx(0.0 if row in removed else 1.0, abs=1e-5)
    in_words = {i for word in alignment.target.words for i in word.positions}
    assert all(kind != "new" for i, kind in enumerate(kinds) if i not in in_words)
    assert torch.equal(matrix.sum(dim=0) == 0, torch.tensor([kind == "new" for kind in kinds]))


def test_break_in_a_pair_is_said_to_be_a_word(host, demo, caplog):
    encode = host.module("p2p_attention.host.encode").encode_pair
    _, pair = encode(demo[1], "a cat BREAK a dog", "a fox")
    assert [word.text for word in pair.source.words] == ["a", "cat", "break", "a", "dog"]
    assert "BREAK in P2P Prompt Pair is read as the word 'break'" in caplog.text
    caplog.clear()
    encode(demo[1], "a cat break", "a fox")
    assert not caplog.text


def test_lines_of_the_node_come_before_everything(host, demo):
    modules = [host.module(f"p2p_attention.{name}") for name in ("host.encode", "align")]
    encode, aligned = modules[0].encode_pair, modules[1].aligned
    _, pair = encode(demo[1], "a cat in orange", "a mushroom in orange", "orange -> mushroom")
    assert [(span.kind, [word.text for word in span.source]) for span in aligned(pair, 0).spans if span.target][1] == (
        "swapped",
        ["orange"],
    )
    assert hash(pair) == hash(replace(pair)) and pair == replace(pair)
    with pytest.raises(ValueError, match="Its words: edit 1: a, mushroom, in, orange"):
        encode(demo[1], "a cat in orange", "a mushroom in orange", "cat -> horse")


def test_what_the_page_says_is_what_the_run_does(host, demo):
    """With the connected CLIP, whose token embeddings decide in both."""
    patcher, aligned = host.module("p2p_attention.host.encode"), host.module("p2p_attention.align").aligned
    compare = host.module("p2p_attention.comparison").compare
    for source, target, _ in cases():
        _, pair = patcher.encode_pair(demo[1], source, target)
        told = compare(patcher.prompt_reader(demo[1])[1], source, target, "", patcher.likeness_for(demo[1]))
        wanted = [span.kind for span in aligned(pair, 0).spans]
        assert [span["kind"] for span in told["edits"][0]] == wanted, (source, target)
