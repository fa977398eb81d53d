"""Edits after the projections give what explicitly edited softmax maps give, and cost no more calls than they need.

    M'_t = (M[0]_t A diag(g) + M*_t diag(1 - g)) diag(c)         M'_i = s M[0]_i + (1 - s) M*_i

The oracle builds every map in float64. Gates, gains and A are multiples of 1/16, which single precision holds exactly.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_attention import joint_attention
from p2p_attention.attention import WAYS, RowState
from p2p_attention.joint_attention import (
    Injection,
    JointEquation,
    TokenLayout,
    attend,
    column_probs,
    joint_equation,
    joint_program,
)

CPU = torch.device("cpu")
HEADS, DIM = 2, 8
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def heads_first(x):
    return x if x.ndim == 4 else x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def scores(q, k):
    return heads_first(q) @ heads_first(k).transpose(-1, -2) / math.sqrt(DIM)


class Host:
    """An attention function, which notes what it is asked for. Each row's bits depend on that row alone.

    Reads masks as the host's functions do: two dimensions are (Q, K), three (N, Q, K), bool is true where allowed.
    """

    def __init__(self, heads_first_output=False):
        self.heads_first_output = heads_first_output
        self.calls = []

    def __call__(self, q, k, v, mask=None):
        self.calls.append((q.shape[0], q.shape[-2]))
        out = torch.cat([self._row(q, k, v, mask, row) for row in range(len(q))])
        return out if self.heads_first_output else out.transpose(1, 2).flatten(2)

    def _row(self, q, k, v, mask, row):
        at = slice(row, row + 1)
        maps = scores(q[at], k[at])
        if mask is not None:
            mask = {2: mask[None, None], 3: mask[:, None], 4: mask}[mask.ndim] if mask.ndim < 4 else mask
            mask = mask if mask.shape[0] == 1 else mask[at]
            maps = maps.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else maps + mask
        return maps.softmax(-1) @ heads_first(v[at])


def expected(q, k, v, layout, rows, bias, merge):
    """The formula, map by map. ``bias`` (N, 1 or H, Q, K) is added to the scores; ``merge`` makes the output's form."""
    maps = (scores(q, k) + bias).softmax(-1)  # (N, H, Q, K)
    edited = maps.clone()
    texts, images = layout.text_keys, layout.image_keys
    for row, entry in enumerate(rows):
        if entry is None:
            continue
        source, (alignment, gates, gains, image) = entry
        for query in layout.image_queries:
            theirs, own = maps[source, :, query], maps[row, :, query]
            if texts:
                mixed = theirs[:, list(texts)] @ alignment * gates + own[:, list(texts)] * (1 - gates)
                edited[row, :, query, list(texts)] = mixed * gains
            edited[row, :, query, list(images)] = image * theirs[:, list(images)] + (1 - image) * own[:, list(images)]
    return merge(edited @ heads_first(v))


def merge_heads(out):
    return out.transpose(1, 2).flatten(2)


def equation_of(alignment, gates, gains, image):
    return JointEquation(
        inject=(alignment * (gates * gains)).float() if gates.any() else None,
        keep=None if bool((gates == 1).all()) else ((1 - gates) * gains).float(),
        image=image,
    )


def sixteenths(*shape, low=0, high=16):
    return torch.randint(low, high + 1, shape).double() / 16


GATES = ("open", "closed", "some", "fractional")


@st.composite
def edits(draw, texts):
    """(A, g, c, s)"""
    kind = draw(st.sampled_from(GATES))
    gates = {
        "open": torch.ones(texts).double(),
        "closed": torch.zeros(texts).double(),
        "some": torch.randint(0, 2, (texts,)).double(),
        "fractional": sixteenths(texts),
    }[kind]
    gains = draw(st.sampled_from([torch.ones(texts).double(), sixteenths(texts, low=-32, high=64)]))
    return sixteenths(texts, texts, low=-4), gates, gains, draw(st.sampled_from([0.0, 0.25, 1.0]))


LAYOUTS = {
    "text first": TokenLayout.joint(9, range(4)),
    "text last": TokenLayout.joint(9, range(5, 9)),
    "cross": TokenLayout.cross(6, 4),
    "image only": TokenLayout.image_only(6),
}


@pytest.mark.parametrize("form", [3, 4])
@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=40)
@given(st.data())
def test_equals_the_edited_maps(name, form, data):
    layout = LAYOUTS[name]
    texts = len(layout.text_keys)
    torch.manual_seed(data.draw(st.integers(0, 10_000)))
    groups, number = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    foreign = data.draw(st.integers(0, 2))
    count = groups * (1 + number) + foreign
    order = torch.randperm(count).tolist()  # tiles, negatives and seeds lie as they like
    rows: list = [None] * count
    for group in range(groups):
        source, *edited = order[group * (1 + number) : (group + 1) * (1 + number)]
        for row in edited:
            rows[row] = data.draw(st.none() | edits(texts).map(lambda edit, source=source: (source, edit)))

    shapes = [(count, HEADS, each, DIM) if form == 4 else (count, each, HEADS * DIM) for each in
              (layout.queries, layout.keys, layout.keys)]  # fmt: skip
    q, k, v = (random(*shape) for shape in shapes)
    before = [each.clone() for each in (q, k, v)]
    mask, bias = data.draw(masks(count, layout))
    padding, masked = data.draw(paddings(count, layout))
    host = Host(heads_first_output=data.draw(st.booleans()))
    program = joint_program(
        [entry and (entry[0], equation_of(*entry[1])) for entry in rows], layout, CPU, torch.float64, padding
    )
    got = attend(program, host, q, k, v, mask)

    assert all(torch.equal(now, then) for now, then in zip((q, k, v), before, strict=True))
    stock = host(q, k, v, (0 if mask is None else bias) + masked)
    assert got.shape == stock.shape
    wanted = expected(
        q, k, v, layout, rows, bias + masked, (lambda out: out) if host.heads_first_output else merge_heads
    )
    torch.testing.assert_close(got, wanted, **CLOSE)
    for row, entry in enumerate(rows):
        if entry is None:
            assert torch.equal(got[row], stock[row]), "a row that is not edited is the host's, to the bit"
        else:
            text = list(layout.text_queries)
            own = got[row][..., text, :], stock[row][..., text, :]
            torch.testing.assert_close(*own, **CLOSE, msg="text queries keep their own map")


@st.composite
def masks(draw, rows, layout):
    """A mask as hosts hand them over, and what it adds to the scores (N, H, Q, K)."""
    kind = draw(st.sampled_from(["none", "additive", "bool"]))
    bias = torch.zeros(rows, HEADS, layout.queries, layout.keys, dtype=torch.float64)
    if kind == "none":
        return None, bias
    shape = draw(
        st.sampled_from(
            [
                (layout.queries, layout.keys),
                (1, layout.keys),
                (rows, layout.queries, layout.keys),
                (1, layout.queries, layout.keys),
                (rows, 1, layout.keys),
                (rows, 1, 1, layout.keys),
                (1, 1, layout.queries, layout.keys),
                (rows, HEADS, layout.queries, layout.keys),
                (1, HEADS, 1, layout.keys),
            ]
        )
    )
    mask = random(*shape) if kind == "additive" else torch.rand(*shape) < 0.8
    if kind == "bool":
        mask[..., 0] = mask[..., -1] = True
    four = mask[None, None] if mask.ndim == 2 else mask[:, None] if mask.ndim == 3 else mask
    added = torch.zeros(four.shape).double().masked_fill(~four, -math.inf) if kind == "bool" else four
    return mask, bias + added


@st.composite
def paddings(draw, rows, layout):
    """Per row which text keys are filling, and what that adds to the scores."""
    texts = len(layout.text_keys)
    added = torch.zeros(rows, 1, 1, layout.keys, dtype=torch.float64)
    if not texts or draw(st.booleans()):
        return (), added
    padding = []
    for row in range(rows):
        length = draw(st.integers(2, texts))
        padding.append(None if length == texts else torch.arange(texts) >= length)
        if length < texts:
            added[row, :, :, list(layout.text_keys)[length:]] = -math.inf
    return padding, added


def test_a_mask_of_rows_and_keys_is_read_where_it_cannot_be_queries():
    """Some of the host's functions take a bool mask (N, K)."""
    layout = LAYOUTS["text first"]
    q, k, v = (random(3, 9, HEADS * DIM) for _ in range(3))
    allowed = torch.rand(3, 9) < 0.7
    allowed[:, 0] = allowed[:, -1] = True
    rows = [None, (0, JointEquation(torch.eye(4), None, 1.0)), None]
    got = attend(joint_program(rows, layout, CPU, torch.float64), Host(), q, k, v, allowed)
    wanted = Host()(q, k, v, allowed[:, None, None])
    wanted[1, 4:] = Host()(q[:1], k[:1], v[1:2], allowed[:1, None, None])[0, 4:]
    torch.testing.assert_close(got, wanted, **CLOSE)


# ---- nothing more than is needed

LAYOUT = LAYOUTS["text first"]
OPEN = JointEquation(torch.eye(4), None, 1.0)


@pytest.mark.parametrize(
    ("equation", "calls"),
    [
        (OPEN, [(1, 9), (1, 4), (1, 5)]),
        (JointEquation(torch.eye(4), None, 0.0), [(1, 9), (1, 4), (1, 5), (1, 5)]),  # text theirs, image own
        (JointEquation(None, torch.ones(4), 1.0), [(1, 9), (1, 4), (1, 5), (1, 5)]),
        (JointEquation(None, torch.tensor([1.0, 2, 1, 1]), 0.0), [(1, 9), (1, 4), (1, 5)]),  # a fader alone
        (JointEquation(None, torch.ones(4), 0.0), None),
    ],
)
def test_a_row_is_computed_twice_only_where_both_terms_count(equation, calls):
    """Of one term, as many queries as the host's own call has: 18 of two rows."""
    host = Host()
    program = joint_program([None, (0, equation)], LAYOUT, CPU, torch.float64)
    if calls is None:
        assert program is None
        return
    attend(program, host, *(random(2, 9, HEADS * DIM) for _ in range(3)))
    assert sorted(host.calls) == sorted(calls)


@pytest.mark.parametrize(
    ("layout", "calls"), [(TokenLayout.image_only(6), 1), (TokenLayout.cross(6, 4), 2), (LAYOUT, 3)]
)
def test_rows_that_are_treated_alike_share_a_call(layout, calls):
    host = Host()
    rows = [None, (0, OPEN), (0, OPEN), None, None, (3, OPEN)]
    program = joint_program(rows, layout, CPU, torch.float64)
    attend(program, host, random(6, layout.queries, 16), random(6, layout.keys, 16), random(6, layout.keys, 16))
    assert len(host.calls) == calls
    assert sum(each * queries for each, queries in host.calls) == 6 * layout.queries


@pytest.mark.parametrize("image", [0.0, 1.0])
def test_a_call_without_text_takes_the_images_part_of_an_equation(image):
    layout = TokenLayout.image_only(6)
    program = joint_program([None, (0, JointEquation(torch.eye(4), torch.full((4,), 2.0), image))], layout, CPU)
    if not image:
        assert program is None
        return
    q, k, v = (random(2, 6, 16) for _ in range(3))
    torch.testing.assert_close(attend(program, Host(), q, k, v)[1:], Host()(q[:1], k[:1], v[1:]), **CLOSE)


def test_with_nothing_to_do_the_hosts_function_gets_the_call_as_it_is():
    q, k, v, mask = random(2, 9, 16), random(2, 9, 16), random(2, 9, 16), random(9, 9)
    handed = []

    def attention(*inputs):
        handed.append(inputs)
        return q

    assert joint_program([None, None], LAYOUT, CPU) is None
    assert joint_program([None, None], LAYOUT, CPU, padding=[None, torch.zeros(4, dtype=torch.bool)]) is None
    assert attend(None, attention, q, k, v, mask) is q
    assert all(got is given for got, given in zip(handed[0], (q, k, v, mask), strict=True))


def test_rows_without_padding_are_not_masked():
    """A mask would put another kernel, and other bits, under a row that needs none."""
    masks_seen = []

    def attention(q, k, v, mask=None):
        masks_seen.append((len(q), mask is not None))
        return Host()(q, k, v, mask)

    padding = [None, torch.tensor([False, False, False, True])]
    program = joint_program([None, None], LAYOUT, CPU, torch.float64, padding)
    attend(program, attention, *(random(2, 9, 16) for _ in range(3)))
    assert sorted(masks_seen) == [(1, False), (1, True)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_inputs_keep_their_precision(dtype):
    rows = [None, (0, JointEquation(torch.eye(4) * 0.5, torch.full((4,), 0.5), 0.25))]
    padding = [torch.tensor([False, False, False, True]), None]
    program = joint_program(rows, LAYOUT, CPU, dtype, padding)
    seen = []

    def attention(q, k, v, mask=None):
        seen.extend((q.dtype, k.dtype, v.dtype, dtype if mask is None else mask.dtype))
        return q

    assert attend(program, attention, *(random(2, 9, 16).to(dtype) for _ in range(3))).dtype == dtype
    assert set(seen) == {dtype}


# ---- from a prompt's positions to a call's


def test_an_equation_reaches_over_what_no_prompt_has():
    """Two registers before, a source of 3 positions, a target of 2, and filling up to 7."""
    alignment = torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.0, 0.5]])
    equation = joint_equation(alignment, RowState((1.0, 1.0), (1.0, 3.0), True), 7, 2, 2)
    wanted = torch.zeros(7, 7)
    wanted[0, 0] = wanted[1, 1] = 1.0
    wanted[2:5, 2:4] = alignment * torch.tensor([1.0, 3.0])
    wanted[5, 4], wanted[5, 5], wanted[6, 5], wanted[6, 6] = 2 / 3, 1 / 3, 1 / 3, 2 / 3
    torch.testing.assert_close(equation.inject, wanted)
    assert equation.keep is None, "all gates are open: one term"
    assert equation.image == 1.0

    equation = joint_equation(
        alignment, RowState((0.0, 0.0), (1.0, 3.0), True), 7, 2, 2, injection=Injection(image=False)
    )
    assert equation.inject is None
    assert equation.keep.tolist() == [1, 1, 1, 3, 1, 1, 1]
    assert equation.image == 0.0


def test_prompts_that_end_together_have_places_of_their_own():
    """Filling before: 2 of 5 tokens in the source, 1 in the target."""
    equation = joint_equation(torch.eye(3, 4), RowState((1.0,) * 4, (1.0,) * 4, False), 5, 2, 1)
    wanted = torch.zeros(5, 5)
    wanted[:2, 0] = 1.0
    wanted[2:, 1:] = torch.eye(3, 4)
    torch.testing.assert_close(equation.inject, wanted)


def test_a_row_with_nothing_to_do_has_no_equation():
    idle, shapes = RowState((0.0,), (1.0,), False), RowState((0.0,), (1.0,), True)
    assert joint_equation(torch.eye(1), idle, 4) is None
    assert joint_equation(torch.eye(1), shapes, 4, injection=Injection(image=False)) is None
    assert joint_equation(torch.eye(1), shapes, 4) is not None


# ---- renormalised


@pytest.mark.parametrize("form", [3, 4])
@pytest.mark.parametrize("image", [0.0, 1.0])
@pytest.mark.parametrize("gates", [(1.0, 0.0, 0.5, 1.0), (1.0,) * 4, (0.0,) * 4])
def test_renormalised_rows_sum_to_one(gates, image, form):
    """Values of one are given back as they are; a fader's factor is no part of the total."""
    alignment = sixteenths(4, 4, low=1).float()
    state = RowState(gates, (1.0,) * 4, bool(image))
    rows = [None, (0, joint_equation(alignment, state, 4, injection=Injection(renormalise=True)))]
    rows[1] = rows[1] if rows[1][1] is not None else None
    q, k, v = (random(2, HEADS, 9, DIM) if form == 4 else random(2, 9, HEADS * DIM) for _ in range(3))
    program = joint_program(rows, LAYOUT, CPU, torch.float64)
    torch.testing.assert_close(attend(program, Host(), q, k, torch.ones_like(v)), torch.ones(2, 9, 16).double())

    maps = scores(q, k).softmax(-1)
    g, texts, images = torch.tensor(gates).double(), slice(0, 4), slice(4, 9)
    mixed = torch.cat(
        [
            maps[0, :, images, texts] @ alignment.double() * g + maps[1, :, images, texts] * (1 - g),
            image * maps[0, :, images, images] + (1 - image) * maps[1, :, images, images],
        ],
        -1,
    )
    total = mixed.sum(-1, keepdim=True)
    got = attend(program, Host(heads_first_output=True), q, k, v)
    torch.testing.assert_close(got[1, :, images], (mixed / total) @ heads_first(v)[1], **CLOSE)
    assert torch.equal(got[0], Host(True)(q, k, v)[0])

    faded = RowState(gates, (1.0, -2.0, 1.0, 4.0), bool(image))
    rows = [None, (0, joint_equation(alignment, faded, 4, injection=Injection(renormalise=True)))]
    got = attend(joint_program(rows, LAYOUT, CPU, torch.float64), Host(heads_first_output=True), q, k, v)
    mixed[..., texts] *= torch.tensor(faded.gains).double()
    torch.testing.assert_close(got[1, :, images], (mixed / total) @ heads_first(v)[1], **CLOSE)


def test_an_edit_may_name_its_way():
    """And then it is as if the layer had it; what a layer leaves out stays out."""
    alignment, gains = torch.eye(4).roll(1, 0), (1.0, 2.0, 1.0, 1.0)
    named = {
        "auto": Injection(image=False, renormalise=True),
        "maps": Injection(image=False),
        "maps, renormalised": Injection(image=False, renormalise=True),
        "queries and keys": Injection(image=False, queries=True),
    }
    assert tuple(named) == WAYS
    for way, injection in named.items():
        got, wanted = (
            joint_equation(alignment, RowState((1.0, 0.0, 1.0, 0.5), gains, True, each), 4, injection=layer)
            for each, layer in ((way, Injection(image=False, renormalise=True)), ("auto", injection))
        )
        assert (got.image, got.queries) == (wanted.image, wanted.queries)
        assert (got.mass is None) == (wanted.mass is None) == ("renormalised" not in way and way != "auto")
        for one, other in ((got.inject, wanted.inject), (got.keep, wanted.keep)):
            assert (one is None and other is None) or torch.equal(one, other)


# ---- parts of what the windows say


@pytest.mark.parametrize("injection", [Injection(text=False), Injection(image=False), Injection()])
def test_a_layer_may_leave_the_texts_or_the_images_columns_alone(injection):
    """A fader stays where the text's columns are left alone."""
    alignment, state = torch.eye(4).roll(1, 0), RowState((1.0, 0.0, 1.0, 1.0), (1.0, -2.0, 1.0, 1.0), True)
    q, k, v = (random(2, HEADS, 9, DIM) for _ in range(3))
    program = joint_program([None, (0, joint_equation(alignment, state, 4, injection=injection))], LAYOUT, CPU, q.dtype)
    gates = torch.tensor(state.gates).double() * injection.text
    edits = alignment.double(), gates, torch.tensor(state.gains).double(), float(injection.image)
    wanted = expected(q, k, v, LAYOUT, [None, (0, edits)], torch.zeros(()), merge_heads)
    torch.testing.assert_close(attend(program, Host(), q, k, v), wanted, **CLOSE)


@pytest.mark.parametrize("form", [3, 4])
@pytest.mark.parametrize("name", ["text first", "text last"])
def test_the_sources_queries_on_its_image_and_the_rows_own_text(name, form):
    """With a fader, filling of its own, and a mask of its own; text queries and the source as they are."""
    layout = LAYOUTS[name]
    texts, images = list(layout.text_keys), list(layout.image_keys)
    state = RowState((1.0,) * 4, (1.0, 2.0, 1.0, 1.0), True)
    equation = joint_equation(torch.eye(4), state, 4, injection=Injection(queries=True))
    padding = [torch.tensor([False, False, True, True]), torch.tensor([False, False, False, True])]
    q, k, v = (random(2, HEADS, 9, DIM) if form == 4 else random(2, 9, HEADS * DIM) for _ in range(3))
    mask = random(2, 1, 1, 9)
    program = joint_program([None, (0, equation)], layout, CPU, q.dtype, padding)
    host = Host(heads_first_output=True)
    got = attend(program, host, q, k, v, mask)

    mixed = k.clone()
    mixed[1][..., images, :] = k[0][..., images, :]
    queries = q.clone()
    queries[1][..., images, :] = q[0][..., images, :]
    bias = mask.clone()
    for row in (0, 1):
        bias[row, ..., [text for text, filled in zip(texts, padding[row], strict=True) if filled]] = -math.inf
    own = (scores(q, k) + bias).softmax(-1) @ heads_first(v)
    maps = (scores(queries, mixed) + bias).softmax(-1)
    maps[..., texts] *= torch.tensor(state.gains).double()
    wanted = own.clone()
    wanted[1, :, images] = (maps @ heads_first(v))[1, :, images]
    torch.testing.assert_close(got, wanted, **CLOSE)
    assert sum(rows for rows, _ in host.calls) == 3, "the source, the edit's text queries, its image queries"

    over = joint_equation(torch.eye(4), RowState((1.0,) * 4, (1.0,) * 4, False), 4, injection=Injection(queries=True))
    assert over is None, "after the window it is the row's own run"


# ---- maps for the eye


@pytest.mark.parametrize("buffer", [2**24, 20, 1])
@pytest.mark.parametrize("form", [3, 4])
@pytest.mark.parametrize("over", ["all", "columns"])
@pytest.mark.parametrize("columns", [range(4), range(5, 9), range(1, 3)])
def test_column_probs_are_the_maps_columns(columns, over, form, buffer, monkeypatch):
    monkeypatch.setattr(joint_attention, "BUFFER", buffer)
    torch.manual_seed(3)
    q, k = (random(2, HEADS, 9, DIM) if form == 4 else random(2, 9, HEADS * DIM) for _ in range(2))
    q, k = q.float(), k.float()
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[1, columns.stop - 1] = True
    bias = torch.zeros(2, 1, 1, 9).masked_fill(padding[:, None, None], -math.inf)
    raw = scores(q, k) + bias
    some = list(columns)
    maps = raw.softmax(-1)[..., some] if over == "all" else raw[..., some].softmax(-1)
    got = column_probs(q, k, HEADS, columns, over, padding)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, maps.mean(1))


def test_column_probs_never_hold_a_whole_map(monkeypatch):
    """Of 64 x 64 picture tokens and 4 heads, a map is 67 million entries."""
    largest = []
    softmax = torch.Tensor.softmax

    def watched(self, *args, **kwargs):
        largest.append(self.numel())
        return softmax(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "softmax", watched)
    monkeypatch.setattr(joint_attention, "BUFFER", 2**20)
    q = torch.randn(1, 4, 4096 + 64, 8)
    column_probs(q[:, :, 64:], q, 4, range(64))
    assert max(largest) <= 2**20
