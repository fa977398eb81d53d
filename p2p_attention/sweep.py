"""A table of settings, tried on one edit: two axes, each a setting and its values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from .blend import Blend, blend_of_whole_edit
from .checks import require_one_of
from .edit import Edit, Window, faded_words, swap_and_fade
from .prompt import PromptPair, quoted
from .sheet import SheetRow, Tile
from .strength import Strengths, windows_of

AXES = ("strength", "cross_end", "self_end", "scale", "threshold", "seed")
NO_AXIS = "none"
MOST_CELLS = 64
LARGEST_SEED = 2**53  # a number in a text is a float

Cell = Mapping[str, float]  # a setting of AXES -> its value


@dataclass(frozen=True)
class Axis:
    """A setting of ``AXES``, and its values in the order in which they are shown."""

    name: str
    values: tuple[float, ...]

    def label(self, value: float) -> str:
        return f"{self.name} {value:g}" if self.name != "seed" else f"seed {int(value)}"


def read_axis(name: str, text: str) -> Axis:
    """An axis of numbers separated by commas, spaces or lines.

    Raises:
        ValueError: another setting, no numbers, or what is none.
    """
    require_one_of("axis", name, AXES)
    values = []
    for part in filter(None, re.split(r"[,;\s]+", text)):
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(
                f"Wanted numbers for {name}, separated by commas as in '0.2, 0.5, 0.8', got {quoted(part)}."
            )
        if name == "seed" and not (value.is_integer() and 0 <= value <= LARGEST_SEED):
            raise ValueError(f"Wanted whole numbers from 0 for seed, got {quoted(part)}.")
        values.append(value)
    if not values:
        raise ValueError(
            f"Wanted values for {name}, got none. Write numbers separated by commas, as in '0.2, 0.5, 0.8'."
        )
    return Axis(name, tuple(dict.fromkeys(values)))


def cells_of(across: Axis, down: Axis | None) -> list[dict[str, float]]:
    """Every place of the table, row by row.

    Raises:
        ValueError: both axes are the same setting, or there are too many places.
    """
    if down is not None and down.name == across.name:
        raise ValueError(
            f"Wanted two different settings, got {across.name} twice. Set one axis to another, or to none."
        )
    rows: Sequence[dict[str, float]] = [{}] if down is None else [{down.name: value} for value in down.values]
    cells = [{**row, across.name: value} for row in rows for value in across.values]
    if len(cells) > MOST_CELLS:
        raise ValueError(f"Wanted at most {MOST_CELLS} pictures in a table, got {len(cells)}. Give fewer values.")
    return cells


def works_of(
    pair: PromptPair, edit: int, cell: Cell, strengths: Strengths, strength: float, words: str
) -> list[Edit | Blend]:
    """What the settings of one place do to one of the pair's edits, as P2P Edit would.

    Args:
        pair: the prompts.
        edit: its number, from 1.
        cell: the place's settings.
        strengths: the family's.
        strength: where it is no axis.
        words: to fade by the axis scale; where that is none, each has a scale of its own.

    Raises:
        ValueError: a setting or a word is not valid.
    """
    cross, self_attention = windows_of(cell.get("strength", strength), strengths)
    cross = Window(0.0, cell.get("cross_end", cross.end))
    self_attention = Window(0.0, cell.get("self_end", self_attention.end))
    works: list[Edit | Blend] = [*swap_and_fade(pair, cross, self_attention, words, cell.get("scale"), edit)]
    if "threshold" in cell:
        works.append(blend_of_whole_edit(pair, faded_words(words), edit, cell["threshold"]))
    return works


def table_of(
    across: Axis,
    down: Axis | None,
    title: str,
    sources: Mapping[float | None, torch.Tensor],
    pictures: Sequence[torch.Tensor | None],
) -> list[SheetRow]:
    """The pictures as rows of a sheet, each behind its source.

    Args:
        across, down: the axes.
        title: of the whole.
        sources: by seed, (h, w, 3); by None where the seed is no axis.
        pictures: of each place, row by row; None for those that were not made.
    """
    rows = []
    if across.name == "seed":
        tiles = [Tile(across.label(seed), sources.get(seed)) for seed in across.values]
        rows.append(SheetRow(f"{title}. source", (Tile("", None), *tiles)))
    for i, value in enumerate([None] if down is None else down.values):
        part = pictures[i * len(across.values) : (i + 1) * len(across.values)]
        label = title if down is None else down.label(value or 0.0)
        seed = value if down is not None and down.name == "seed" else None
        first = Tile("", None) if across.name == "seed" else Tile("source", sources.get(seed))
        made = [
            Tile(across.label(each) if picture is not None else f"{across.label(each)}: not made", picture)
            for each, picture in zip(across.values, part, strict=True)
        ]
        rows.append(SheetRow(label if i or down is None else f"{title}. {label}", (first, *made)))
    return rows
