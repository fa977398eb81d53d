"""What each row of a model call's batch is: which conditioning's, source or edit, and where its source stands.

The host puts a call's conditionings one behind the other (chunks), each with the rows of all pictures. What stands
between the host and the model may batch otherwise: a node that samples in tiles hands over ``[tile 1: conditionings,
tile 2: conditionings, ...]``, or each conditioning with all of its tiles. Then rows are known by the text they hold.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

MOST_ORDERED = 4  # conditionings of a call, whose orders are all tried; of more only the host's own


@dataclass(frozen=True)
class Row:
    """One row of a pair's conditioning in a batch.

    Args:
        conditioning: its id.
        row: 0 for the source, n for the n-th edit.
        source: where in the batch the source stands from which this row is edited; its own place for a source.
    """

    conditioning: Hashable
    row: int
    source: int


@dataclass(frozen=True, eq=False)
class CallRows:
    """The rows of one batch, None for those of no pair. One object for each layout, so that it serves as a key."""

    rows: tuple[Row | None, ...]
    chunks: int
    whole_pictures: bool  # one call holds each row once: no tiles

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def conditionings(self) -> tuple[Hashable, ...]:
        """Ids of those made from a pair."""
        return tuple(dict.fromkeys(row.conditioning for row in self.rows if row is not None))

    def among(self, count: int, places: Sequence[int]) -> CallRows:
        """The same rows at these places of a batch of ``count``, whose others are of no pair."""
        rows: list[Row | None] = [None] * count
        for row, place in zip(self.rows, places, strict=True):
            rows[place] = row and Row(row.conditioning, row.row, places[row.source])
        return CallRows(tuple(rows), self.chunks, self.whole_pictures)

    def places(self, conditioning: Hashable) -> list[int]:
        """Where a conditioning's rows stand: picture by picture, the source and then its edits."""
        return [place for place, row in enumerate(self.rows) if row is not None and row.conditioning == conditioning]


class RowsOfCalls:
    """Tells the rows of a run's batches. Layouts are told once each.

    Args:
        paired: ids of the conditionings made from a pair.
        pictures: B, of the run.
        rows: R, of a picture: the source and its edits.
    """

    def __init__(self, paired: Iterable[Hashable], pictures: int, rows: int):
        self._paired = frozenset(paired)
        self._pictures, self._rows = pictures, rows
        self._known: dict[tuple, CallRows] = {}
        self.met: set[Hashable] = set()  # conditionings of the calls so far

    @property
    def batch(self) -> int:
        """B R, the rows of the run."""
        return self._pictures * self._rows

    def by_place(self, conditionings: Sequence[Hashable], count: int) -> CallRows:
        """The rows of a batch as the host lays it out: chunk by chunk, each of whole groups of R rows.

        Raises:
            ValueError: the batch is no such one.
        """
        self.met |= set(conditionings)
        if count % (len(conditionings) * self._rows):
            raise ValueError(_wanted_groups(len(conditionings), self._rows, count))
        chunk = count // len(conditionings)
        order = [(number, row) for number in range(len(conditionings)) for row in range(chunk)]
        return self._rows_in(order, conditionings, len(conditionings), whole_pictures=True)

    def by_content(
        self, conditionings: Sequence[Hashable], texts: Sequence[torch.Tensor], context: torch.Tensor
    ) -> CallRows:
        """The rows of a batch that something has put together from the host's, known by their texts.

        Args:
            conditionings: ids of the host's call, in its order.
            texts: of each its context, (1 or R, L, D).
            context: (N, L', D), of the batch; L' a multiple of each L, where the host repeats a context.

        Raises:
            ValueError: the texts fit no order of the rows, or several that edit differently.
        """
        self.met |= set(conditionings)
        chunk = self._pictures * self._rows
        kinds: list[torch.Tensor] = []  # the different texts
        expected = [[_kind(kinds, text[row % len(text)]) for row in range(chunk)] for text in texts]
        found = [_kind(kinds, row, known_only=True) for row in context]
        if all(kind is None for kind in found) and len(context) == chunk * len(conditionings):
            return self.by_place(conditionings, len(context))  # all texts were rewritten, none was moved
        fitting = [
            (order, used)
            for order, used in _orders(len(conditionings), chunk, len(context))
            if [expected[number][row] for number, row in order] == found
        ]
        told = {
            self._rows_in(order, conditionings, used, whole_pictures=len(context) == used * chunk)
            for order, used in fitting
        }
        if len({each.rows for each in told}) != 1:
            raise ValueError(
                f"Another node batches the model's calls in a way of its own ({len(context)} rows for "
                f"{len(conditionings)} conditionings of {chunk} rows), in which "
                + ("source and edits say the same and cannot be told apart" if told else "their texts are not found")
                + ". Remove that node (tiled diffusion, batching wrappers) from the model, or let it take one tile at "
                "a time."
            )
        return told.pop()

    def _rows_in(
        self, order: Sequence[tuple[int, int]], conditionings: Sequence[Hashable], chunks: int, whole_pictures: bool
    ) -> CallRows:
        """Rows of an order of (number of the conditioning, row of its chunk)."""
        key = (tuple(order), tuple(conditionings), chunks, whole_pictures)
        if key not in self._known:
            sources: dict[int, list[int]] = {}  # of a conditioning, in the batch's order
            seen: dict[tuple[int, int], int] = {}  # (number, edit) -> how many of its rows were met
            for place, (number, row) in enumerate(order):
                if row % self._rows == 0:
                    sources.setdefault(number, []).append(place)
            rows: list[Row | None] = []
            for number, row in order:
                edit = row % self._rows
                nth = seen[number, edit] = seen.get((number, edit), -1) + 1
                ours = conditionings[number] in self._paired
                # Pictures and tiles follow one another alike in the source's rows and in each edit's.
                rows.append(Row(conditionings[number], edit, sources[number][nth]) if ours else None)
            self._known[key] = CallRows(tuple(rows), chunks, whole_pictures)
        return self._known[key]


def _orders(conditionings: int, chunk: int, count: int) -> Iterator[tuple[list[tuple[int, int]], int]]:
    """Orders in which ``count`` rows may hold some of the conditionings' chunks, in one or more tiles.

    Yields: (number of the conditioning, row of its chunk) of each row, and how many conditionings there are.
    """
    for used in range(1, conditionings + 1):
        if count % (used * chunk):
            continue
        tiles = range(count // (used * chunk))
        rows = range(chunk)
        numbers = range(conditionings)
        picks = itertools.permutations(numbers, used) if conditionings <= MOST_ORDERED else [numbers[:used]]
        for picked in picks:
            yield [(number, row) for _ in tiles for number in picked for row in rows], used
            if len(tiles) > 1:
                yield [(number, row) for number in picked for _ in tiles for row in rows], used
                yield [(number, row) for number in picked for row in rows for _ in tiles], used


def _kind(kinds: list[torch.Tensor], text: torch.Tensor, known_only: bool = False) -> int | None:
    """The number of the text (L, D) among the different ones; a new one, or None, if it is not among them."""
    for number, known in enumerate(kinds):
        length = min(len(known), len(text))
        if known.shape[1] == text.shape[1] and torch.equal(known[:length].to(text), text[:length]):
            return number
    if known_only:
        return None
    kinds.append(text)
    return len(kinds) - 1


def _wanted_groups(conditionings: int, rows: int, count: int) -> str:
    return (
        f"Wanted {conditionings} conditionings of whole groups of {rows} rows (source and edits), got {count} rows in "
        "attention: another node expands or splits the batch there (regional prompts through attention do). Remove it "
        "from the model; Conditioning (Set Area / Set Mask) works."
    )
