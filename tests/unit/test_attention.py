"""Rewritten attention inputs give what explicitly edited softmax maps give: out = M' V*.

    M' = (M[0] A diag(g) + M* diag(1 - g)) diag(c)

The oracle builds every map over each prompt's own positions, in float64. Gates, gains and A are multiples of 1/16,
which single precision holds exactly, so the two ways differ by rounding in float64 only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import linear, scaled_dot_product_attention

from p2p_attention.attention import (
    EditedRow,
    RowState,
    coarse_enough,
    merge_cross_attention,
    rewrite_cross_attention,
    rewrite_self_attention,
    row_equation,
    row_program,
)

CPU = torch.device("cpu")
HEADS, TOKENS, WIDTH, CONTEXT_WIDTH = 2, 5, 8, 6
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


class Attention:
    """A layer as in the host's UNets: no bias before attention, one in the output's projection."""

    def __init__(self, context_width=CONTEXT_WIDTH):
        def weights(*shape):
            return torch.randn(*shape, dtype=torch.float64) / math.sqrt(shape[-1])

        self.to_q = weights(WIDTH, WIDTH)
        self.to_k, self.to_v = weights(WIDTH, context_width), weights(WIDTH, context_width)
        self.to_out, self.bias = weights(WIDTH, WIDTH), weights(WIDTH)

    def __call__(self, hidden, context, value):
        """Through torch's fused attention, one row at a time: so a row's bits do not depend on the batch around it."""
        rows = zip(hidden.split(1), context.split(1), value.split(1), strict=True)
        return torch.cat([self._row(*row) for row in rows])

    def _row(self, hidden, context, value):
        parts = linear(hidden, self.to_q), linear(context, self.to_k), linear(value, self.to_v)
        return self._project(scaled_dot_product_attention(*map(self._heads, parts)))

    def maps(self, hidden, context):
        """The softmax written out: (H, Q, S) of one row."""
        q, k = self._heads(linear(hidden, self.to_q)), self._heads(linear(context, self.to_k))
        return (q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)).softmax(dim=-1)

    def apply(self, maps, value):
        return self._project(maps @ self._heads(linear(value, self.to_v)))

    def _heads(self, x):
        return x.unflatten(-1, (HEADS, -1)).transpose(-3, -2)

    def _project(self, out):
        return linear(out.transpose(-3, -2).flatten(-2), self.to_out, self.bias)


def program_of(chunks, rows, length, device, dtype=torch.float32, whole_chunks=False):
    """The program of ``rows`` rows in equal chunks, of each None or the equations of its groups' edited rows."""
    laid_out, per_chunk = [], rows // len(chunks)
    for number, equations in enumerate(chunks):
        for row in range(per_chunk):
            edit = row % (len(equations) + 1) if equations else 0
            source = number * per_chunk + row - edit
            laid_out.append(EditedRow(source, equations[edit - 1]) if edit else None)
    return row_program(laid_out, length, device, dtype, len(chunks) if whole_chunks else 0)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def random_alignment(source, target):
    return torch.randint(-4, 17, (source, target)) / 16


# ---- cross-attention


@dataclass(frozen=True)
class Chunk:
    """The rows of one conditioning: source and target lengths, and per edited row (A, state); or not ours."""

    source: int
    targets: tuple[int, ...]
    edits: tuple[tuple[torch.Tensor, RowState], ...]
    ours: bool


GATES = {
    "open": [1.0],
    "closed": [0.0],
    "some": [0.0, 1.0],
    "fractional": [0.0, 0.25, 0.5, 1.0],
    "all fractional": [0.25, 0.5, 0.75],
}
GAINS = {"one": [1.0], "some": [1.0, -2.0, -0.5, 0.0, 1.5, 4.0]}


@st.composite
def states(draw, target):
    def vector(choices):
        return tuple(choices[i] for i in torch.randint(len(choices), (target,)))

    return RowState(
        gates=vector(GATES[draw(st.sampled_from(sorted(GATES)))]),
        gains=vector(GAINS[draw(st.sampled_from(sorted(GAINS)))]),
        self_attention=draw(st.booleans()),
    )


@st.composite
def chunks(draw, lengths, edits):
    source = draw(st.sampled_from(lengths))
    targets = tuple(draw(st.lists(st.sampled_from(lengths), min_size=edits, max_size=edits)))
    equations = tuple((random_alignment(source, target), draw(states(target))) for target in targets)
    return Chunk(source, targets, equations, ours=draw(st.sampled_from([True, True, False])))


@given(st.data())
def test_cross_attention_equals_the_edited_maps(data):
    torch.manual_seed(data.draw(st.integers(0, 10_000)))
    seeds, edits, number = (data.draw(st.integers(1, 3)) for _ in range(3))
    lengths = data.draw(st.sampled_from([[4], [3, 6], [2, 4, 8]]))
    batch = [data.draw(chunks(lengths, edits)) for _ in range(number)]
    length = max(lengths) * data.draw(st.sampled_from([1, 2]))

    # Each row's own positions, and the same repeated to the common length as the host does.
    own, hidden, context, value, layer = [], [], [], [], Attention()
    for chunk in batch:
        for _ in range(seeds):
            for positions in (chunk.source, *chunk.targets):
                own.append((random(positions, CONTEXT_WIDTH), random(positions, CONTEXT_WIDTH)))
                hidden.append(random(TOKENS, WIDTH))
                context.append(own[-1][0].repeat(length // positions, 1))
                value.append(own[-1][1].repeat(length // positions, 1))
    hidden, context, value = map(torch.stack, (hidden, context, value))
    inputs = hidden, context, value
    before = [each.clone() for each in inputs]

    equations = [
        [row_equation(alignment, state, length) for alignment, state in chunk.edits] if chunk.ours else None
        for chunk in batch
    ]
    program = program_of(equations, len(hidden), length, CPU, torch.float64, data.draw(st.booleans()))
    rewritten = rewrite_cross_attention(program, *inputs)
    output = layer(*rewritten)
    output_before = output.clone()
    got = merge_cross_attention(program, output)

    # nothing is written in place
    assert torch.equal(output, output_before)
    assert all(torch.equal(now, then) for now, then in zip(inputs, before, strict=True))
    assert got.shape == hidden.shape
    unedited = layer(*inputs)
    row = 0
    for chunk in batch:
        for _ in range(seeds):
            source = row
            assert torch.equal(got[source], unedited[source])
            for row, (alignment, state) in enumerate(chunk.edits, source + 1):
                gates, gains = torch.tensor(state.gates).double(), torch.tensor(state.gains).double()
                if not chunk.ours or (not gates.any() and (gains == 1).all()):
                    assert torch.equal(got[row], unedited[row])
                    continue
                maps = layer.maps(hidden[row], own[row][0])
                injected = layer.maps(hidden[source], own[source][0]) @ alignment.double()
                edited = (injected * gates + maps * (1 - gates)) * gains
                torch.testing.assert_close(got[row], layer.apply(edited, own[row][1]), **CLOSE)
            row += 1


@pytest.mark.parametrize(
    ("gates", "gains", "computed_twice"),
    [
        ((1, 1, 1), (1, 1, 1), False),
        ((1, 1, 1), (2, 1, 0), False),
        ((0, 0, 0), (1, 1, 1), False),
        ((0, 0, 0), (2, 1, 0), False),
        ((1, 0, 1), (1, 1, 1), True),
        ((0.5, 0.5, 0.5), (1, 1, 1), True),
    ],
)
def test_a_row_is_computed_twice_only_where_both_terms_count(gates, gains, computed_twice):
    state = RowState(tuple(map(float, gates)), tuple(map(float, gains)), False)
    program = program_of([[row_equation(torch.eye(3), state, 3)], None], 4, 3, CPU, torch.float64)
    rewritten = rewrite_cross_attention(program, random(4, TOKENS, WIDTH), random(4, 3, 6), random(4, 3, 6))
    assert {len(each) for each in rewritten} == {5 if computed_twice else 4}
    assert program.edits_cross_attention == (any(gates) or gains != (1, 1, 1))


def test_whole_chunks_are_equally_long_and_each_holds_its_own_rows():
    """Who divides the rows by the number of chunks finds each chunk's own rows there."""
    split, whole = RowState((1.0, 0.0), (1.0, 1.0), False), RowState((1.0, 1.0), (1.0, 1.0), False)
    once, twice = (row_equation(torch.eye(2), state, 2) for state in (whole, split))
    chunks = [None, [twice, once, twice], [once, once, twice]]
    program = program_of(chunks, 12, 2, CPU, torch.float64, whole_chunks=True)
    hidden = torch.arange(12.0)[:, None, None].expand(12, TOKENS, WIDTH).double()
    rows, _, _ = rewrite_cross_attention(program, hidden, random(12, 2, 6), random(12, 2, 6))
    for number, chunk in enumerate(rows[:, 0, 0].chunk(3)):
        assert len(chunk) == 6
        assert set(chunk.tolist()) <= set(range(4 * number, 4 * number + 4))
    merged = merge_cross_attention(program, rows)
    assert merged[:, 0, 0].tolist() == [0, 1, 2, 3, 4, (4 + 5) / 2, 4, (4 + 7) / 2, 8, 8, 8, (8 + 11) / 2]
    assert len(program_of([None, [once] * 3], 8, 2, CPU, whole_chunks=True).query) == 8, "nothing to fill up"


def test_foreign_rows_are_the_same_bits_whatever_stands_around_them():
    state = RowState((1.0, 0.0), (3.0, 1.0), True)
    program = program_of([None, [row_equation(torch.eye(2), state, 2)]], 4, 2, CPU, torch.float64)
    inputs = random(4, TOKENS, WIDTH), random(4, 2, 6), random(4, 2, 6)
    for before, after in zip(inputs, rewrite_cross_attention(program, *inputs), strict=True):
        assert torch.equal(after[:3], before[:3])
        assert after.data_ptr() != before.data_ptr()


@pytest.mark.parametrize(
    ("state", "same"),
    [
        (RowState((0.0, 0.0), (1.0, 1.0), False), True),
        (RowState((0.0, 0.0), (1.0, 1.0), True), False),
        (RowState((0.0, 0.0), (1.0, 0.0), False), False),
        (RowState((0.0, 0.5), (1.0, 1.0), False), False),
    ],
)
def test_a_row_with_nothing_to_do_has_no_equation(state, same):
    assert state.idle == same
    assert (row_equation(torch.eye(2), state, 2) is None) == same


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_inputs_keep_their_precision(dtype):
    state = RowState((1.0, 0.0), (2.0, 1.5), False)
    program = program_of([[row_equation(torch.eye(2), state, 2)]], 2, 2, CPU, dtype)
    inputs = [random(2, TOKENS, WIDTH).to(dtype), random(2, 2, 6).to(dtype), random(2, 2, 6).to(dtype)]
    rewritten = rewrite_cross_attention(program, *inputs)
    assert {each.dtype for each in rewritten} == {dtype}
    own = inputs[2][1]
    doubled = torch.stack([torch.stack([own[0] * 4, own[1] * 0]), torch.stack([own[0] * 0, own[1] * 3])])
    torch.testing.assert_close(rewritten[2][1:], doubled)


# ---- self-attention


@given(st.data())
def test_self_attention_equals_the_sources_map_on_the_rows_own_values(data):
    torch.manual_seed(data.draw(st.integers(0, 10_000)))
    seeds, edits = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    flags_of_a_group = st.lists(st.booleans(), min_size=edits, max_size=edits)
    batch = data.draw(st.lists(st.none() | flags_of_a_group, min_size=1, max_size=3))
    idle = RowState((0.0, 0.0), (1.0, 1.0), False)
    equations = [
        flags and [row_equation(torch.eye(2), replace(idle, self_attention=flag), 2) for flag in flags]
        for flags in batch
    ]
    rows = len(batch) * seeds * (1 + edits)
    program = program_of(equations, rows, 2, CPU)
    if not any(map(any, filter(None, batch))):
        assert program.self_query is None
        return

    layer = Attention(context_width=WIDTH)
    hidden = random(rows, TOKENS, WIDTH)
    # The host passes one tensor three times; another patch before ours may have made keys and values of its own.
    context, value = (hidden, hidden) if data.draw(st.booleans()) else (random(rows, 7, WIDTH), random(rows, 7, WIDTH))
    inputs = hidden, context, value
    before = [each.clone() for each in inputs]
    got = layer(*rewrite_self_attention(program, *inputs))
    assert all(torch.equal(now, then) for now, then in zip(inputs, before, strict=True))

    unedited = layer(*inputs)
    row = 0
    for flags in batch:
        for _ in range(seeds):
            source = row
            assert torch.equal(got[source], unedited[source])
            for row, flag in enumerate(flags or [False] * edits, source + 1):
                if flag:
                    expected = layer.apply(layer.maps(hidden[source], context[source]), value[row])
                    torch.testing.assert_close(got[row], expected, **CLOSE)
                else:
                    assert torch.equal(got[row], unedited[row])
            row += 1
    assert not program.edits_cross_attention


def test_self_attention_rides_along_with_every_kind_of_cross_attention():
    """Rows: source; all gates open; some; none but gains; only self-attention; no self-attention."""
    kinds = [
        ((1, 1), (1, 1), True),
        ((1, 0), (1, 1), True),
        ((0, 0), (2, 1), True),
        ((0, 0), (1, 1), True),
        ((1, 1), (1, 1), False),
    ]
    equations = [
        row_equation(torch.eye(2), RowState(tuple(map(float, gates)), tuple(map(float, gains)), self_attention), 2)
        for gates, gains, self_attention in kinds
    ]
    assert program_of([None, equations], 12, 2, CPU).self_query.tolist() == [*range(6), 6, 6, 6, 6, 6, 11]


@pytest.mark.parametrize(
    ("tokens", "height", "width", "injects"),
    [
        # the paper's latent of 64 x 64: layers of 64, 32, 16 and 8
        (64 * 64, 64, 64, False),
        (32 * 32, 64, 64, False),
        (16 * 16, 64, 64, True),
        (8 * 8, 64, 64, True),
        # SDXL at 1024 x 1024 pixels
        (64 * 64, 128, 128, False),
        (32 * 32, 128, 128, True),
        # not square
        (48 * 32, 96, 64, False),
        (24 * 16, 96, 64, True),
        (32 * 128, 64, 256, False),
        (16 * 64, 64, 256, True),
        # small latents: 16 x 16 stays in, whatever part of the latent it is
        (16 * 16, 16, 16, True),
        (32 * 32, 32, 32, False),
        (16 * 16, 32, 32, True),
        # sizes that do not divide by 4: layers round up
        (17 * 17, 65, 65, True),
        (33 * 33, 65, 65, False),
        (19 * 19, 75, 75, True),  # 600 x 600 pixels
        (38 * 38, 75, 75, False),
        (32 * 32, 125, 125, True),  # 1000 x 1000 pixels
        (63 * 63, 125, 125, False),
        (25 * 17, 98, 66, True),
        (49 * 33, 98, 66, False),
    ],
)
def test_coarse_enough(tokens, height, width, injects):
    assert coarse_enough(tokens, height, width) == injects
