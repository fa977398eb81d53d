"""What the user decides about which word stands for which comes before everything else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2p_attention.align import aligned, check_alignment


def summary(pair, row=0):
    shown = []
    for span in aligned(pair, row).spans:
        source, target = ("_".join(word.text for word in words) for words in (span.source, span.target))
        shown.append(
            {"shared": target, "swapped": f"{source}>{target}", "new": f"+{target}", "removed": f"-{source}"}[span.kind]
        )
    return " ".join(shown)


@pytest.mark.parametrize(
    ("lines", "spans"),
    [
        ("", "a cat>dog on a red mat"),
        ("cat -> mat", "a +dog on a red cat>mat -mat"),
        ("cat => mat\n", "a +dog on a red cat>mat -mat"),
        ("CAT  →  Mat", "a +dog on a red cat>mat -mat"),
        ("+ dog", "a -cat +dog on a red mat"),
        ("- cat", "a -cat +dog on a red mat"),
        ("+ mat", "a cat>dog on a red -mat +mat"),
        ("red mat -> dog", "a -cat red_mat>dog on a +red +mat"),
        ("cat -> dog\ncat -> red", "a +dog on a cat>red -red mat"),
    ],
)
def test_lines(toy, lines, spans):
    pair = replace(
        toy.pair("a cat on a red mat", "a dog on a red mat", length=24), alignment=lines.replace("\\n", "\n")
    )
    assert sorted(summary(pair).split()) == sorted(spans.split())
    check_alignment(pair)


def test_a_moved_word_can_be_linked_to_itself(toy):
    pair = replace(toy.pair("a cat on a dog", "a dog on a cat"), alignment="cat -> cat\ndog -> dog")
    assert {span.kind for span in aligned(pair, 0).spans} == {"shared"}


def test_a_line_holds_for_every_edit_that_has_its_words(toy):
    pair = replace(toy.pair("a cat", "a dog here", "a fox there"), alignment="cat -> here\ncat -> fox")
    assert summary(pair, 0) == "a +dog cat>here"
    assert summary(pair, 1) == "a cat>fox +there"


def test_every_edit_may_have_its_own_lines(toy):
    pair = replace(toy.pair("a cat", "a dog", "a dog"), alignment="+ dog\n---\n")
    assert summary(pair, 0) == "a -cat +dog"
    assert summary(pair, 1) == "a cat>dog"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("cat dog", r"^Wanted lines 'cat -> dog', '\+ word' \(new\) or '- word' \(removed\), got 'cat dog'\."),
        ("cat ->", "^Wanted lines"),
        ("a -> b -> c", "^Wanted lines"),
        ("+", "^Wanted lines"),
        ("fox -> dog", r"word of the source .* got 'fox', which is not there\. Its words: a, cat\."),
        ("- fox", r"word of the source .* got 'fox', which is not there\. Its words: a, cat\."),
        (
            "cat -> fox",
            r"word of the edited prompt .* got 'fox', which is not there\. Its words: edit 1: a, dog, and, a, dog\.",
        ),
        ("+ fox", r"word of the edited prompt .* 'fox'"),
        ("cat -> dog", r"^Wanted one word for one .* got 'cat' 1 times and 'dog' 2 times"),
        ("cat -> dog#1\n---\n---", "for each of the 1 edited prompts"),
    ],
)
def test_what_cannot_be_followed_is_refused(toy, lines, message):
    with pytest.raises(ValueError, match=message):
        check_alignment(replace(toy.pair("a cat", "a dog and a dog"), alignment=lines))


def test_lines_need_an_edit(toy):
    with pytest.raises(ValueError, match="Wanted an edited prompt to align"):
        check_alignment(replace(toy.pair("a cat"), alignment="- cat"))


def test_pairs_with_other_lines_are_other_pairs(toy):
    pair = toy.pair("a cat", "a dog")
    assert pair != replace(pair, alignment="+ dog")
    assert hash(pair) == hash(toy.pair("a cat", "a dog"))


def test_alignments_are_kept_with_their_pair_and_matrices_are_not(toy):
    pair = toy.pair("a cat", "a dog")
    alignment = aligned(pair, 0)
    assert aligned(pair, 0) is alignment
    matrix = alignment.matrix
    assert alignment.matrix is not matrix and alignment.matrix.equal(matrix)
    assert not [name for name, value in vars(alignment).items() if hasattr(value, "untyped_storage")]
