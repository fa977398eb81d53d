"""Which words stand for which, and what the alignment matrix does to the source's attention."""

from __future__ import annotations

import random
import time

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from p2p_attention.align import _shared_words, align
from p2p_attention.prompt import Prompt

VOCABULARY = "a the red cat big mirror elephant squirrels with on ,".split()
SENTENCES = st.lists(st.sampled_from(VOCABULARY), max_size=10).map(" ".join)


def summary(alignment):
    """The spans in a line: ``a`` is shared, ``cat>dog`` swapped, ``+hat`` new, ``-hat`` removed."""

    def show(span):
        source, target = ("_".join(word.text for word in words) for words in (span.source, span.target))
        if span.kind == "shared":
            assert source == target
            return source
        return {"swapped": f"{source}>{target}", "new": f"+{target}", "removed": f"-{source}"}[span.kind]

    return " ".join(map(show, alignment.spans))


def positions(words):
    return [position for word in words for position in word.positions]


def positions_of(word):
    return word.positions


def special_positions(source, target):
    """Of source and target, what stands for each other; where one has no padding, ends and padding together."""
    pairs = [(source.starts, target.starts), (source.ends, target.ends), (source.padding, target.padding)]
    if bool(source.padding) != bool(target.padding):
        pairs[1:] = [(source.ends + source.padding, target.ends + target.padding)]
    return pairs


# ---- the classes


@pytest.mark.parametrize(
    ("source", "target", "spans"),
    [
        # the same
        ("a cat", "a cat", "a cat"),
        ("A Cat", "a  cat", "a cat"),
        ("a (cat:1.3)", "a cat", "a cat"),
        # word swap
        ("a cat", "a dog", "a cat>dog"),
        ("a cat on a mat", "a dog on a mat", "a cat>dog on a mat"),
        ("a cat on a mat", "a dog on a sofa", "a cat>dog on a mat>sofa"),
        ("the cat", "the elephant", "the cat>elephant"),
        ("the elephant", "the cat", "the elephant>cat"),
        ("a photo of a house", "a painting of a house", "a photo>painting of a house"),
        ("the mirror", "the mirage", "the mirror>mirage"),  # a first piece in common
        # word swap of different word counts
        ("a teddy bear", "a cat", "a teddy_bear>cat"),
        ("a teddy bear sits", "a cat sits", "a teddy_bear>cat sits"),
        ("a cat", "a big dog", "a +big cat>dog"),
        ("a cat sits", "a very big dog sits", "a +very +big cat>dog sits"),
        ("a big old cat", "a red dog", "a big_old>red cat>dog"),
        ("cat", "dog with a hat", "cat>dog +with +a +hat"),
        ("cat with a hat", "dog", "cat>dog -with -a -hat"),
        ("teddy bear", "cat with a hat", "teddy_bear>cat +with +a +hat"),
        ("one cat", "one dog with a hat", "one cat>dog +with +a +hat"),
        # the same, where an article gives the words a wrong partner as well
        ("a cat on grass", "a dog under trees", "a cat>dog on>under grass>trees"),
        ("a cat", "a dog with a hat", "a cat>dog +with +a +hat"),
        ("a cat with a hat", "a dog", "a cat>dog -with -a -hat"),
        ("a photo of a cat", "a photo of a dog with a hat", "a photo of a cat>dog +with +a +hat"),
        ("a cat on the sofa", "a dog with a hat on the sofa", "a cat>dog +with +a +hat on the sofa"),
        # new phrase
        ("a cat", "a red cat", "a +red cat"),
        ("a cat", "a cat with a hat", "a cat +with +a +hat"),
        ("a cat", "at night a cat", "+at +night a cat"),
        ("a cat on a mat", "a cat with a hat on a mat", "a cat +with +a +hat on a mat"),
        ("a cat, a dog", "a cat, a red dog at night", "a cat , a +red dog +at +night"),
        ("a red car", "a red car and a blue car", "a red car +and +a +blue +car"),
        ("a cat by a lake", "a cat and a dog by a lake", "a cat +and +a +dog by a lake"),
        # removed
        ("a red cat", "a cat", "a -red cat"),
        ("a cat with a hat", "a cat", "a cat -with -a -hat"),
        # exchanged
        ("a cat on a dog", "a dog on a cat", "a cat>dog on a dog>cat"),
        # nothing in common
        ("cat", "elephant", "cat>elephant"),
        ("red cat", "sunny beach", "red>sunny cat>beach"),
        ("cat", "sunset over the sea", "cat>sunset +over +the +sea"),
        # nothing at all
        ("", "a cat", "+a +cat"),
        ("a cat", "", "-a -cat"),
        ("", "", ""),
    ],
)
def test_spans(toy, source, target, spans):
    assert summary(align(toy.prompt(source), toy.prompt(target))) == spans


def test_reordered_words_keep_one_of_them_in_place(toy):
    assert summary(align(toy.prompt("cat dog"), toy.prompt("dog cat"))) in ("+dog cat -dog", "-cat dog +cat")


def test_embedding_can_be_shared_and_swapped(toy):
    alignment = align(toy.prompt("a embedding:glow cat"), toy.prompt("a embedding:glow dog"))
    assert [span.kind for span in alignment.spans] == ["shared", "shared", "swapped"]
    alignment = align(toy.prompt("a embedding:glow cat"), toy.prompt("a embedding:dusk cat"))
    assert [span.kind for span in alignment.spans] == ["shared", "swapped", "shared"]
    assert align(toy.prompt("a cat"), toy.prompt("a embedding:glow")).matrix[2, 2:4].tolist() == [0.5, 0.5]


def test_kinds_of_positions(toy):
    alignment = align(toy.prompt("a cat on mats", 10), toy.prompt("a big dogs on", 10))
    #                         start     a         big    dog        s          on        end       padding
    assert alignment.kinds == ("shared", "shared", "new", "swapped", "swapped", "shared", *["shared"] * 4)


@given(SENTENCES, SENTENCES)
def test_spans_cover_both_prompts_the_target_in_order(toy, source, target):
    source, target = toy.prompt(source), toy.prompt(target)
    spans = align(source, target).spans
    # what has moved past other words is shared with where it was
    assert sorted((word for span in spans for word in span.source), key=positions_of) == list(source.words)
    assert [word for span in spans for word in span.target] == list(target.words)
    for span in spans:
        assert span.kind != "shared" or [word.ids for word in span.source] == [word.ids for word in span.target]
        assert (span.kind == "removed") == (not span.target)
        assert (span.kind == "new") == (not span.source)


def shared_words_cell_by_cell(source, target):
    """The alignment's dynamic programme as it is usually written (Needleman and Wunsch 1970)."""
    rows, columns = len(source), len(target)
    best = [[-(rows - i) - (columns - j) for j in range(columns + 1)] for i in range(rows + 1)]
    step = [[1 if a.ids == b.ids else -1 for b in target] for a in source]
    for i in reversed(range(rows)):
        for j in reversed(range(columns)):
            best[i][j] = max(best[i + 1][j + 1] + step[i][j], best[i + 1][j] - 1, best[i][j + 1] - 1)
    pairs = []
    i = j = 0
    while i < rows and j < columns:
        if best[i][j] == best[i + 1][j + 1] + step[i][j]:
            if step[i][j] == 1:
                pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j] - 1:
            i += 1
        else:
            j += 1
    return pairs


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.lists(st.sampled_from("abcd"), max_size=30))
def test_shared_words_are_those_of_the_programme_cell_by_cell(toy, source, target):
    source, target = (toy.words(" ".join(letters)) for letters in (source, target))
    assert _shared_words(source, target) == shared_words_cell_by_cell(source, target)


def test_shared_words_of_long_prompts(toy):
    pick = random.Random(1).choices
    source, target = (toy.words(" ".join(pick(VOCABULARY, k=count))) for count in (300, 260))
    assert _shared_words(source, target) == shared_words_cell_by_cell(source, target)


@pytest.mark.parametrize("vocabulary", [VOCABULARY, ["with"], [f"w{i}" for i in range(3000)]])
def test_two_thousand_words_take_no_time(toy, vocabulary):
    pick = random.Random(2).choices
    source, target = (toy.prompt(" ".join(pick(vocabulary, k=2000)), 77) for _ in range(2))
    began = time.process_time()
    alignment = align(source, target)
    assert alignment.matrix.shape == (source.length, target.length)
    assert len(alignment.kinds) == target.length
    assert time.process_time() - began < 2


def test_a_long_row_of_phrases_with_nothing_in_common(toy):
    """As many phrases as there are connectives, one after the other."""
    alignment = align(toy.prompt("cat with " * 1500), toy.prompt("dog under " * 1500))
    assert {span.kind for span in alignment.spans} == {"swapped"}
    assert len(alignment.spans) == 3000


# ---- the matrix


@given(SENTENCES)
def test_identical_prompts_give_the_identity(toy, text):
    alignment = align(toy.prompt(text), toy.prompt(text))
    assert set(alignment.kinds) == {"shared"}
    assert torch.equal(alignment.matrix, torch.eye(alignment.source.length))


@given(SENTENCES, SENTENCES)
def test_attention_is_kept_word_by_word(toy, source, target):
    """Rows sum to 1 (0 for removed words), columns to m / n, and nothing goes anywhere else."""
    source, target = toy.prompt(source), toy.prompt(target)
    alignment = align(source, target)
    matrix = alignment.matrix
    groups = [(positions(span.source), positions(span.target)) for span in alignment.spans]
    groups += special_positions(source, target)
    rows, columns = torch.zeros(source.length), torch.zeros(target.length)
    left_over = matrix.clone()
    for ours, theirs in groups:
        if ours and theirs:
            rows[list(ours)] = 1.0
            columns[list(theirs)] = len(ours) / len(theirs)
            left_over[torch.tensor(ours)[:, None], torch.tensor(theirs)] = 0.0
    assert matrix.shape == (source.length, target.length)
    assert matrix.dtype == torch.float32
    assert matrix.min() >= 0
    torch.testing.assert_close(matrix.sum(dim=1), rows)
    torch.testing.assert_close(matrix.sum(dim=0), columns)
    assert not left_over.any()
    assert [kind == "new" for kind in alignment.kinds] == (columns == 0).tolist()


@given(SENTENCES, st.sampled_from(["dogs", "owl", "teddy", "hippopotamus", "polar-bear"]), st.data())
def test_swapped_word_leaves_all_other_columns_in_place(toy, sentence, new_word, data):
    words = sentence.split()
    assume(words)
    swapped = data.draw(st.integers(0, len(words) - 1))
    new_word = new_word.replace("-", "")
    source = toy.prompt(sentence)
    target = toy.prompt(" ".join([*words[:swapped], new_word, *words[swapped + 1 :]]))
    alignment = align(source, target)
    for i, (ours, theirs) in enumerate(zip(source.words, target.words, strict=True)):
        block = alignment.matrix[:, list(theirs.positions)]
        expected = torch.zeros_like(block)
        if i == swapped and ours.text == ",":  # which no word stands for
            assert {alignment.kinds[position] for position in theirs.positions} == {"new"}
        elif i == swapped:
            expected[list(ours.positions)] = 1.0 / len(theirs.positions)
            assert {alignment.kinds[position] for position in theirs.positions} == {"swapped"}
        else:
            expected[list(ours.positions), list(range(len(theirs.positions)))] = 1.0
            assert {alignment.kinds[position] for position in theirs.positions} == {"shared"}
        assert torch.equal(block, expected)


def test_swapped_word_of_unequal_pieces(toy):
    """cat (1 piece) -> elephants (3), both followed by "sits" (2): no column moves, the end goes to the end."""
    matrix = align(toy.prompt("cat sits", 7), toy.prompt("elephants sits", 7)).matrix
    third = 1 / 3
    expected = torch.tensor(
        [  # start ele    pha    nts    sit  s    end
            [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],  # start
            [0.0, third, third, third, 0.0, 0.0, 0.0],  # cat
            [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0],  # sit
            [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0],  # s
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],  # end
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],  # padding, which the target has none of: its end takes all
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        ]
    )
    assert torch.equal(matrix, expected)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (1, 1, [[1.0]]),
        (2, 2, [[1.0, 0.0], [0.0, 1.0]]),
        (1, 2, [[0.5, 0.5]]),
        (2, 1, [[1.0], [1.0]]),
        (2, 4, [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]),
        (2, 3, [[2 / 3, 1 / 3, 0.0], [0.0, 1 / 3, 2 / 3]]),
        (3, 2, [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]),
    ],
)
@pytest.mark.parametrize("which", ["starts", "ends", "padding"])
def test_special_positions_are_stretched_in_order(which, source, target, expected):
    def prompt(count):
        places = {"starts": (), "ends": (), "padding": (), which: tuple(range(count))}
        return Prompt("", words=(), **places, length=count)

    torch.testing.assert_close(align(prompt(source), prompt(target)).matrix, torch.tensor(expected))


def test_unequal_chunk_counts(toy):
    """One chunk against two: starts and ends are shared out, words stay whole."""
    source, target = toy.prompt("a cat", 6), toy.prompt("a cat on a mat", 6)
    alignment = align(source, target)
    matrix = alignment.matrix
    assert (source.length, target.length) == (6, 12)
    assert summary(alignment) == "a cat +on +a +mat"
    assert matrix[0, [0, 6]].tolist() == [0.5, 0.5]
    assert matrix[3, [5, 8]].tolist() == [0.5, 0.5]
    assert matrix[[1, 2], [1, 2]].tolist() == [1.0, 1.0]
    assert not matrix[:, [3, 4, 7]].any()
    assert matrix[[4, 5]].sum() == 2.0


def test_end_and_padding_belong_together(toy):
    """Of a source that fills its chunk the end shares its attention between the target's end and padding."""
    alignment = align(toy.prompt("a big cat", 5), toy.prompt("a cat", 5))
    assert alignment.kinds[-2:] == ("shared", "shared")
    assert alignment.matrix[4].tolist() == [0.0, 0.0, 0.0, 0.5, 0.5]
    alignment = align(toy.prompt("a cat", 5), toy.prompt("a big cat", 5))
    assert alignment.matrix[3:].tolist() == [[0.0, 0.0, 0.0, 0.0, 1.0]] * 2


def test_special_positions_without_a_counterpart_are_new():
    source = Prompt("", words=(), starts=(), ends=(), padding=(), length=1)
    alignment = align(source, Prompt("", words=(), starts=(0,), ends=(1,), padding=(2,), length=3))
    assert alignment.kinds == ("new", "new", "new")
    assert not alignment.matrix.any()
