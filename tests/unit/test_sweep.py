"""The axes of P2P Grid, and where its pictures stand on the sheet."""

from __future__ import annotations

import pytest
import torch

from p2p_attention.edit import Window
from p2p_attention.sweep import Axis, cells_of, read_axis, table_of, works_of

STRENGTHS = ((0.0, 1.0, 1.0), (1.0, 0.0, 0.0))


@pytest.mark.parametrize(
    "name, text, values",
    [
        ("strength", "0.25, 0.5, 0.75", (0.25, 0.5, 0.75)),
        ("scale", "-1 0\n2;3", (-1.0, 0.0, 2.0, 3.0)),
        ("seed", "1, 2, 1", (1.0, 2.0)),
    ],
)
def test_an_axis_is_numbers(name, text, values):
    assert read_axis(name, text) == Axis(name, values)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("strength", "", "Wanted values for strength, got none"),
        ("strength", "0.5, much", "Wanted numbers for strength, .* got 'much'"),
        ("scale", "nan", "Wanted numbers for scale"),
        ("seed", "1.5", "Wanted whole numbers from 0 for seed, got '1.5'"),
        ("seed", "-1", "Wanted whole numbers from 0 for seed"),
        ("cfg", "5", "Wanted axis to be one of strength, "),
    ],
)
def test_what_is_no_axis_is_refused(name, text, message):
    with pytest.raises(ValueError, match=message):
        read_axis(name, text)


def test_places_go_row_by_row():
    across, down = Axis("strength", (0.2, 0.8)), Axis("seed", (1.0, 2.0))
    assert cells_of(across, None) == [{"strength": 0.2}, {"strength": 0.8}]
    assert cells_of(across, down) == [
        {"seed": 1.0, "strength": 0.2},
        {"seed": 1.0, "strength": 0.8},
        {"seed": 2.0, "strength": 0.2},
        {"seed": 2.0, "strength": 0.8},
    ]


def test_one_setting_twice_and_too_many_places_are_refused():
    axis = Axis("scale", tuple(map(float, range(9))))
    with pytest.raises(ValueError, match="Wanted two different settings, got scale twice"):
        cells_of(axis, axis)
    with pytest.raises(ValueError, match="Wanted at most 64 pictures in a table, got 72"):
        cells_of(axis, Axis("seed", tuple(map(float, range(8)))))


def windows(works):
    row = works[0].rows[0]
    return max(gate.end for gate in row.gates), row.self_attention.end


def test_settings_of_a_place(toy):
    pair = toy.pair("a cat on a mat", "a dog on a mat")
    assert windows(works_of(pair, 1, {}, STRENGTHS, 0.25, "")) == (0.75, 0.75)
    assert windows(works_of(pair, 1, {"strength": 0.5}, STRENGTHS, 0.25, "")) == (0.5, 0.5)
    assert windows(works_of(pair, 1, {"cross_end": 0.1}, STRENGTHS, 0.25, "")) == (0.1, 0.75)
    assert windows(works_of(pair, 1, {"self_end": 0.1}, STRENGTHS, 0.25, "")) == (0.75, 0.1)
    _, fader = works_of(pair, 1, {"scale": 3.0}, STRENGTHS, 0.25, "mat, dog: 2")
    assert set(fader.rows[0].gains) == {1.0, 2.0, 3.0} and fader.rows[0].gain_window == Window(0.0, 1.0)
    _, fader = works_of(pair, 1, {}, STRENGTHS, 0.25, "dog: 2")
    assert set(fader.rows[0].gains) == {1.0, 2.0}
    _, blend = works_of(pair, 1, {"threshold": 0.4}, STRENGTHS, 0.25, "")
    assert blend.threshold == 0.4


def test_settings_that_are_not_valid_are_refused(toy):
    pair = toy.pair("a cat on a mat", "a dog on a mat")
    for cell, message in (
        ({"strength": 2.0}, "Wanted strength from 0 to 1"),
        ({"cross_end": 1.5}, "Wanted a window"),
        ({"scale": 2.0}, "Wanted at least one word to re-weight"),
        ({"threshold": 2.0}, "Wanted threshold from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            works_of(pair, 1, cell, STRENGTHS, 0.5, "")


def picture(value):
    return torch.full((8, 8, 3), value)


def shown(rows):
    return [
        (row.title, [(t.label, None if t.picture is None else float(t.picture[0, 0, 0])) for t in row.tiles])
        for row in rows
    ]


def test_each_row_begins_with_its_source():
    across, down = Axis("strength", (0.2, 0.8)), Axis("seed", (1.0, 2.0))
    rows = table_of(across, down, "a -> b", {1.0: picture(0.1), 2.0: picture(0.2)}, [picture(0.5)] * 3 + [None])
    assert [title for title, _ in shown(rows)] == ["a -> b. seed 1", "seed 2"]
    tiles = [tiles for _, tiles in shown(rows)]
    assert tiles[0] == [("source", pytest.approx(0.1)), ("strength 0.2", 0.5), ("strength 0.8", 0.5)]
    assert tiles[1] == [("source", pytest.approx(0.2)), ("strength 0.2", 0.5), ("strength 0.8: not made", None)]


def test_seeds_across_have_a_row_of_sources():
    rows = table_of(Axis("seed", (1.0, 2.0)), None, "a", {1.0: picture(0.25), 2.0: picture(0.5)}, [picture(0.75)] * 2)
    assert [[label for label, _ in tiles] for _, tiles in shown(rows)] == [["", "seed 1", "seed 2"]] * 2
    assert shown(rows)[0][1][1:] == [("seed 1", 0.25), ("seed 2", 0.5)]
