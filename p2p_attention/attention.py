"""The edits as a rewriting of attention inputs, so that no attention map is ever built.

Every edited map is linear in the maps it is made of, and so is the attention's output:

    out = M' V* = SDPA(Q[0], K[0], A diag(g c) V*) + SDPA(Q*, K*, diag((1 - g) c) V*)

where M' = (M[0] A diag(g) + M* diag(1 - g)) diag(c) is the edited map: M[0] the source's map, M* the edited row's own,
A (S, T) the alignment of source to target positions, g (T,) gates, c (T,) gains (Hertz et al. 2023, section 3: word
swap, new phrase and re-weighting are all of this form). The host's own attention runs on rows whose queries,
keys and values were exchanged *before* its projections; these have no bias, so the exchange commutes with them.
Where both terms are needed the row is computed twice, once per term and with twice the values, and the mean of the two
outputs is taken after the output projection: that leaves the projection's bias as it is.

Rows are ordered chunk by chunk (one chunk per conditioning), in a chunk seed by seed, per seed the source row and then
the edited rows. Second terms come after all of them, or, where another node's patch takes the attention's rows apart by
chunks, at the end of each chunk, with chunks filled up to equal numbers of rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

# How an edit takes the source's map over where text and picture share a softmax (``joint_attention.py``): as the family
# of the model does it; its columns, as in the paper; the same with rows that add up to 1 again; or the source's picture
# queries and keys in place of columns.
Way = Literal["auto", "maps", "maps, renormalised", "queries and keys"]
WAYS: tuple[Way, ...] = get_args(Way)
PAPER_SELF_TOKENS = 16 * 16  # the paper's largest self-attention layer to inject into, at its 64 x 64 latent
PAPER_SELF_DIVISOR = 4  # the latent's height and width over that layer's, for other sizes


@dataclass(frozen=True)
class RowState:
    """g (T,), c (T,) and whether self-attention is injected, for one edited row at one step, and in which way."""

    gates: tuple[float, ...]
    gains: tuple[float, ...]
    self_attention: bool
    way: Way = "auto"

    @property
    def idle(self) -> bool:
        return not self.self_attention and not any(self.gates) and all(gain == 1.0 for gain in self.gains)


@dataclass(frozen=True)
class RowEquation:
    """One edited row's cross-attention at one step, over L context positions.

    ``inject`` is A diag(g c) (L, L) or None where no gate is open; ``keep`` is (1 - g) c (L,) or None where all are.
    """

    inject: torch.Tensor | None
    keep: torch.Tensor | None
    self_attention: bool


@dataclass(frozen=True)
class RowProgram:
    """How to rewrite a batch of N rows for one attention call of N + E rows. Tensors are where the batch is.

    Args:
        query: (N + E,) which row's hidden state and context make queries and keys.
        value: (N + E,) which row's context makes values, but for:
        injected, matrices: of the N + E rows (I,) whose values are mapped by (I, L, L).
        scaled, scales: of the N + E rows (K,) whose values are multiplied by (K, L, 1).
        first: (N,) where each row's first term is; None where they are the first N in order.
        split, second: of the N rows (X,) those with a second term, and where of the N + E it is.
        self_query: (N,) which row's hidden state makes queries and keys of self-attention; None where no row's does.
        rows: N.
    """

    query: torch.Tensor
    value: torch.Tensor
    injected: torch.Tensor
    matrices: torch.Tensor
    scaled: torch.Tensor
    scales: torch.Tensor
    first: torch.Tensor | None
    split: torch.Tensor
    second: torch.Tensor
    self_query: torch.Tensor | None
    rows: int

    @property
    def edits_cross_attention(self) -> bool:
        return len(self.injected) + len(self.scaled) > 0


def row_equation(alignment: torch.Tensor, state: RowState, length: int) -> RowEquation | None:
    """One row's (A, g, c) at one step, over a context of ``length`` positions; None if it is to be left alone.

    A context longer than its prompt holds the prompt repeated, which leaves attention as it is: S source positions
    then share their weight between length / S copies, and each of the length / T target copies takes its part.

    Args:
        alignment: A, (S, T).
        state: g and c, (T,) each.
        length: L, a multiple of S and of T.
    """
    if state.idle:
        return None
    source_copies, target_copies = length // alignment.shape[0], length // alignment.shape[1]
    gates = torch.tensor(state.gates).repeat(target_copies)
    gains = torch.tensor(state.gains).repeat(target_copies)
    inject = alignment.repeat(source_copies, target_copies) / target_copies * (gates * gains)
    untouched = not gates.any() and bool((gains == 1.0).all())
    return RowEquation(
        inject=inject if gates.any() else None,
        keep=None if untouched or bool((gates == 1.0).all()) else (1.0 - gates) * gains,
        self_attention=state.self_attention,
    )


@dataclass(frozen=True, eq=False)
class EditedRow:
    """A batch's row that is edited: where in the batch its source stands, and what is done to it."""

    source: int
    equation: RowEquation | None


def row_program(
    rows: Sequence[EditedRow | None],
    length: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    whole_chunks: int = 0,
) -> RowProgram:
    """Lay the equations of edited rows out over the rows of one batch.

    Args:
        rows: of the whole batch, N of them; None (or no equation) for those left alone.
        length: L, context positions.
        device, dtype: the batch's.
        whole_chunks: into how many equal chunks the batch is taken apart by another node's patch. Second terms then
            stay in their chunk, and all chunks get equally many rows. 0 for none.
    """
    self_query = list(range(len(rows)))
    terms = [_Term(query=row, value=row) for row in range(len(rows))]  # the first of each row
    seconds: list[tuple[int, _Term]] = []  # (row, its second term)
    for row, edited in enumerate(rows):
        if edited is None or edited.equation is None:
            continue
        equation = edited.equation
        if equation.self_attention:
            self_query[row] = edited.source
        if equation.inject is None:
            terms[row] = _Term(row, row, scale=equation.keep)
        elif equation.keep is None:
            terms[row] = _Term(edited.source, row, matrix=equation.inject)
        else:
            terms[row] = _Term(edited.source, row, matrix=2.0 * equation.inject)
            seconds.append((row, _Term(row, row, scale=2.0 * equation.keep)))

    order = list(enumerate(terms))  # (row, term), as they will lie
    filled_up = bool(whole_chunks and seconds)
    if filled_up:
        order = _in_whole_chunks(order, seconds, len(rows) // whole_chunks)
    else:
        order += seconds
    laid_out = [term for _, term in order]
    place = {term: at for at, term in enumerate(laid_out)}

    def stack(parts: Sequence[torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
        stacked = torch.stack([part.reshape(shape) for part in parts]) if parts else torch.empty(0, *shape)
        return stacked.to(device, dtype)

    def index(numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=device)

    injected = [at for at, term in enumerate(laid_out) if term.matrix is not None]
    scaled = [at for at, term in enumerate(laid_out) if term.scale is not None]
    return RowProgram(
        query=index([term.query for term in laid_out]),
        value=index([term.value for term in laid_out]),
        injected=index(injected),
        matrices=stack([term.matrix for term in laid_out if term.matrix is not None], (length, length)),
        scaled=index(scaled),
        scales=stack([term.scale for term in laid_out if term.scale is not None], (length, 1)),
        first=index([place[term] for term in terms]) if filled_up else None,
        split=index([row for row, _ in seconds]),
        second=index([place[term] for _, term in seconds]),
        self_query=index(self_query) if self_query != list(range(len(rows))) else None,
        rows=len(rows),
    )


@dataclass(frozen=True, eq=False)
class _Term:
    """One row of attention: whose queries and keys, whose values, and what is done to these. Hashed by identity."""

    query: int
    value: int
    matrix: torch.Tensor | None = None
    scale: torch.Tensor | None = None


def _in_whole_chunks(
    first: Sequence[tuple[int, _Term]], seconds: Sequence[tuple[int, _Term]], chunk: int
) -> list[tuple[int, _Term]]:
    """First and second terms, chunk by chunk, filled up with copies of the chunk's first row."""
    in_chunk = [[each for each in seconds if each[0] // chunk == number] for number in range(len(first) // chunk)]
    most = max(map(len, in_chunk))
    order: list[tuple[int, _Term]] = []
    for number, second in enumerate(in_chunk):
        begin = number * chunk
        order += first[begin : begin + chunk]
        order += second + [(begin, _Term(begin, begin))] * (most - len(second))
    return order


def rewrite_cross_attention(
    program: RowProgram, hidden: torch.Tensor, context: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Exchange the inputs of a cross-attention layer, all before its projections.

    Args:
        hidden: (N, Q, C), makes the queries.
        context: (N, L, D), makes the keys.
        value: (N, L, D), makes the values.

    Returns:
        The same three with N + E rows, new tensors.
    """
    values = value.index_select(0, program.value)
    if len(program.injected):
        values.index_copy_(0, program.injected, program.matrices @ values.index_select(0, program.injected))
    if len(program.scaled):
        values.index_copy_(0, program.scaled, program.scales * values.index_select(0, program.scaled))
    return hidden.index_select(0, program.query), context.index_select(0, program.query), values


def merge_cross_attention(program: RowProgram, output: torch.Tensor) -> torch.Tensor:
    """Take the mean of the two terms of the rows computed twice: (N + E, Q, C) -> (N, Q, C)."""
    if not len(program.split):
        return output
    first = output[: program.rows] if program.first is None else output.index_select(0, program.first)
    both = first.index_select(0, program.split) + output.index_select(0, program.second)
    return first.index_copy(0, program.split, both * 0.5)


def rewrite_self_attention(
    program: RowProgram, hidden: torch.Tensor, context: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Self-attention injection, SDPA(Q[0], K[0], V*): shapes come from the source. All (N, Q, C)."""
    assert program.self_query is not None, "asked only where a row's self-attention is injected"
    queries = hidden.index_select(0, program.self_query)
    keys = queries if context is hidden else context.index_select(0, program.self_query)
    return queries, keys, value


def coarse_enough(tokens: int, height: int, width: int) -> bool:
    """Whether a layer of ``tokens`` image tokens is coarse enough for self-attention injection.

    The paper injects at 16 x 16 and below for its 64 x 64 latent. Here: at a quarter of the latent's height and width
    (layers round up), and always at 16 x 16 and below.
    """
    quarter = math.ceil(height / PAPER_SELF_DIVISOR) * math.ceil(width / PAPER_SELF_DIVISOR)
    return tokens <= max(PAPER_SELF_TOKENS, quarter)
