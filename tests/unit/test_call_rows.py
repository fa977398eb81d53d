"""Rows of a batch are known by place where the host laid it out, and by their texts where something else did."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p2p_attention.call_rows import Row, RowsOfCalls

LENGTH, WIDTH = 3, 2


def text(number: int) -> torch.Tensor:
    return torch.full((1, LENGTH, WIDTH), float(number))


def texts_of(conditionings, rows):
    """A pair's conditioning has a text for each row, others have one; all differ."""
    number = itertools.count()
    return {
        each: torch.cat([text(next(number)) for _ in range(rows if each.startswith("pair") else 1)])
        for each in conditionings
    }


def batch_of(order, texts):
    return torch.stack([texts[each][row % len(texts[each])] for each, row in order])


def test_by_place_every_chunk_holds_groups_of_source_and_edits():
    rows = RowsOfCalls({"pair"}, 2, 3).by_place(["other", "pair"], 12)
    assert rows.rows[:6] == (None,) * 6
    assert rows.rows[6:] == tuple(Row("pair", row, source) for source in (6, 9) for row in range(3))
    assert rows.places("pair") == list(range(6, 12))
    assert rows.conditionings == ("pair",)
    assert (rows.chunks, rows.whole_pictures) == (2, True)


def test_a_layout_is_told_once():
    calls = RowsOfCalls({"pair"}, 1, 2)
    assert calls.by_place(["pair"], 2) is calls.by_place(["pair"], 2)
    assert calls.by_place(["pair"], 2) is calls.by_content(
        ["pair"], [texts_of(["pair"], 2)["pair"]], batch_of([("pair", 0), ("pair", 1)], texts_of(["pair"], 2))
    )


@pytest.mark.parametrize("count", [3, 5])
def test_by_place_there_are_whole_groups_only(count):
    with pytest.raises(ValueError, match=f"conditionings of whole groups of 2 rows.*got {count} rows"):
        RowsOfCalls({"pair"}, 1, 2).by_place(["other", "pair"], count)


@given(st.data())
def test_by_content_every_nesting_gives_each_row_its_own_source(data):
    """Tiles, conditionings, pictures and rows in any order of loops that a batching node may write."""
    pictures, rows = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    conditionings = data.draw(st.permutations(["other", "pair one", "pair two"]))[: data.draw(st.integers(1, 3))]
    tiles = data.draw(st.integers(1, 4))
    nesting = data.draw(
        st.sampled_from(["tile, conditioning, row", "conditioning, tile, row", "conditioning, row, tile"])
    )
    handed = data.draw(st.permutations(conditionings))[: data.draw(st.integers(1, len(conditionings)))]
    loops = {"tile": range(tiles), "conditioning": handed, "row": range(pictures * rows)}
    names = nesting.split(", ")
    cells = [dict(zip(names, cell, strict=True)) for cell in itertools.product(*(loops[name] for name in names))]
    order = [(cell["conditioning"], cell["row"]) for cell in cells]
    texts = texts_of(conditionings, rows)
    calls = RowsOfCalls({each for each in conditionings if each.startswith("pair")}, pictures, rows)
    got = calls.by_content(conditionings, [texts[each] for each in conditionings], batch_of(order, texts))
    for place, cell in enumerate(cells):
        row = got.rows[place]
        if cell["conditioning"] == "other":
            assert row is None
            continue
        source = cells[row.source]
        assert (row.conditioning, row.row) == (cell["conditioning"], cell["row"] % rows)
        assert source == {**cell, "row": cell["row"] - row.row}
    assert got.whole_pictures == (tiles == 1)


def test_a_context_that_the_host_repeated_is_the_same_text():
    texts = texts_of(["other", "pair"], 2)
    order = [("other", 0), ("other", 1), ("pair", 0), ("pair", 1)]
    got = RowsOfCalls({"pair"}, 1, 2).by_content(
        ["other", "pair"], list(texts.values()), batch_of(order, texts).repeat(1, 3, 1)
    )
    assert [row and row.row for row in got.rows] == [None, None, 0, 1]


def test_a_negative_that_says_what_the_source_says_is_told_by_the_order():
    """Negative-prompt inversion: the negative is the source's prompt."""
    pair = torch.cat([text(0), text(1)])
    batch = torch.cat([text(0), text(0), text(0), text(1)] * 2)
    got = RowsOfCalls({"pair"}, 1, 2).by_content(["other", "pair"], [text(0), pair], batch)
    assert got.rows == (
        None,
        None,
        Row("pair", 0, 2),
        Row("pair", 1, 2),
        None,
        None,
        Row("pair", 0, 6),
        Row("pair", 1, 6),
    )


def test_texts_that_were_rewritten_altogether_stand_where_the_host_put_them():
    pair = torch.cat([text(0), text(1)])
    calls = RowsOfCalls({"pair"}, 1, 2)
    assert calls.by_content(["pair"], [pair], pair + 10.0) is calls.by_place(["pair"], 2)


@pytest.mark.parametrize(
    ("batch", "why"),
    [
        ([0, 1, 5, 1], "their texts are not found"),  # one text was changed
        ([0, 1, 1, 0], "their texts are not found"),  # no order of loops
        ([0, 1, 0], "their texts are not found"),
        ([7, 7, 7, 7], "their texts are not found"),  # rewritten, and of another number
    ],
)
def test_what_cannot_be_told_is_refused(batch, why):
    pair = torch.cat([text(0), text(1)])
    with pytest.raises(ValueError, match=f"Another node batches.*{why}.*Remove that node"):
        RowsOfCalls({"pair"}, 1, 2).by_content(["pair"], [pair], torch.cat([text(each) for each in batch]))


def test_source_and_edit_of_equal_texts_cannot_be_told_in_tiles_but_in_one():
    """A fader on an unchanged prompt."""
    pair = torch.cat([text(0), text(0)])
    calls = RowsOfCalls({"pair"}, 1, 2)
    assert calls.by_content(["pair"], [pair], pair) is calls.by_place(["pair"], 2)
    with pytest.raises(ValueError, match="source and edits say the same and cannot be told apart"):
        calls.by_content(["pair"], [pair], pair.repeat(2, 1, 1))
