"""Edits after the projections: one attention call, its queries, keys and values in hand, and still no map is built.

In models with joint attention text and image share one softmax over the keys [text; image]. Of the edited map M' only
the image queries' rows are edited (text queries keep their own map: to overwrite it breaks the text's own stream):

    M'_t = (M[0]_t A diag(g) + M*_t diag(1 - g)) diag(c)         M'_i = s M[0]_i + (1 - s) M*_i
    out  = SDPA(Q_i[0], K[0], [A diag(g c) V*_t ; s V*_i]) + SDPA(Q_i*, K*, [diag((1 - g) c) V*_t ; (1 - s) V*_i])

where M[0] is the source's map, M* the row's own, both over all keys, A (T, T) the alignment of source to target
positions, g (T,) gates, c (T,) gains and s the gate of the image columns: the algebra of ``attention.py``, with a part
of the values set to zero where a part of the map is not wanted. Cross-attention (all keys are text, all queries image)
and self-attention (all are image) are its two ends, so one program serves all three kinds of calls.

A call is taken apart into calls of the host's own attention on some rows and some queries each: untouched rows whole,
edited rows' text queries on their own, edited rows' image queries on the source's queries and keys, and, only where
both terms are needed, again on their own. An edit of one term thus costs what the host's call costs.

Tensors are (N, L, C) or (N, H, L, D): tokens are the last dimension but one, rows the first. Letters: N rows, H heads,
Q queries, K keys, T text keys, D head dimension.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from .align import stretch
from .attention import RowState, Way

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
Rows = slice | torch.Tensor  # which rows: a slice costs no copy

BUFFER = 2**22  # entries of per-head maps that exist at a time


@dataclass(frozen=True)
class TokenLayout:
    """Which tokens of an attention call are text; the others are the picture's. Text stands at one end.

    Args:
        queries, keys: Q and K.
        text_queries, text_keys: of them those that are text; may be empty.
    """

    queries: int
    keys: int
    text_queries: range
    text_keys: range

    @classmethod
    def joint(cls, tokens: int, text: range) -> TokenLayout:
        return cls(tokens, tokens, text, text)

    @classmethod
    def cross(cls, queries: int, keys: int) -> TokenLayout:
        return cls(queries, keys, range(0), range(keys))

    @classmethod
    def image_only(cls, tokens: int) -> TokenLayout:
        return cls(tokens, tokens, range(0), range(0))

    @classmethod
    def text_only(cls, tokens: int) -> TokenLayout:
        return cls(tokens, tokens, range(tokens), range(tokens))

    @property
    def image_queries(self) -> range:
        return _others(self.text_queries, self.queries)

    @property
    def image_keys(self) -> range:
        return _others(self.text_keys, self.keys)


@dataclass(frozen=True)
class Injection:
    """What a layer injects where the windows say that something is injected.

    Args:
        text: whether the text's columns of the source's map are.
        image: whether its image columns are.
        renormalise: whether a row's total is brought back to 1, gains apart: it is not where the two differ.
        queries: image queries attend, in place of all this, with the source's image queries to the source's image keys
            and their own text keys, while the image's window lasts; no alignment takes part.
    """

    text: bool = True
    image: bool = True
    renormalise: bool = False
    queries: bool = False

    def by(self, way: Way) -> Injection:
        """The same part of a layer, in the way that an edit names; "auto" is the layer's own."""
        if way == "auto":
            return self
        return dataclasses.replace(self, renormalise=way == "maps, renormalised", queries=way == "queries and keys")


ALL = Injection()


@dataclass(frozen=True, eq=False)
class JointEquation:
    """What the image queries of one edited row see at one step.

    Args:
        inject: A diag(g c), (T, T), from source to target positions; None where nothing of the source's text columns
            is taken.
        keep: (1 - g) c, (T,); None where nothing of the row's own text columns is.
        image: s, of the image columns, 0 (the row's own) to 1 (the source's).
        mass: what of a map's total the columns stand for, to renormalise by: (A g (T,), 1 - g (T,)). Gains are no part
            of it, a fader changes the total.
        queries: see ``Injection``; the map is then one of the source's image queries and keys and the row's text keys,
            ``keep`` its gains.
    """

    inject: torch.Tensor | None
    keep: torch.Tensor | None
    image: float
    mass: tuple[torch.Tensor, torch.Tensor] | None = None
    queries: bool = False


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of the host's attention: some queries of some rows. Tensors are where the batch is.

    Args:
        part: which queries.
        out: whose output it is, and whose values are used.
        source: whose queries, keys and mask are.
        own_text: whether keys of the text, and the mask, are those of ``out`` all the same.
        matrices: (n, T, T), applied to the text's values; None for none.
        scales: (n, K), factors of the values, the text's only where ``matrices`` is None; None for ones.
        padding: (n, 1, 1, K), 0 and -inf, added to the scores; None where no key is padding.
        mass: (n, K), what stands in for the values when the total is taken; None if it is not.
        add: whether the output is added to what an earlier call gave.
    """

    part: range
    out: Rows
    source: Rows
    own_text: bool
    matrices: torch.Tensor | None
    scales: torch.Tensor | None
    padding: torch.Tensor | None
    mass: torch.Tensor | None
    add: bool


@dataclass(frozen=True, eq=False)
class JointProgram:
    """How to compute one attention call of N rows. Made once for a step and a layout, used by every layer."""

    rows: int
    layout: TokenLayout
    calls: tuple[_Call, ...]


def joint_equation(
    alignment: torch.Tensor,
    state: RowState,
    length: int,
    source_at: int = 0,
    target_at: int = 0,
    injection: Injection = ALL,
) -> JointEquation | None:
    """One row's (A, g, c, s) at one step, over ``length`` text tokens; None if it is to be left alone.

    What stands around the prompts (a model's own tokens, filling) corresponds in order, stretched where the source has
    more or less of it, and follows the source while any gate is open.

    Args:
        alignment: A, (S, T).
        state: g and c, (T,) each.
        length: of the call's text.
        source_at, target_at: where in it the source's and the target's first position are.
        injection: what of it this call takes part in.
    """
    injection = injection.by(state.way)
    image = float(state.self_attention and injection.image)
    opened = state.gates if injection.text and not injection.queries else (0.0,) * len(state.gates)
    if not image and not any(opened) and all(gain == 1.0 for gain in state.gains):
        return None
    sources, targets = alignment.shape
    prompt = slice(target_at, target_at + targets)
    gates, gains = torch.full((length,), float(any(opened))), torch.ones(length)
    gates[prompt], gains[prompt] = torch.tensor(opened), torch.tensor(state.gains)
    matrix = torch.zeros(length, length)
    matrix[source_at : source_at + sources, prompt] = alignment
    matrix[:source_at, :target_at] = stretch(source_at, target_at)
    after = length - source_at - sources, length - target_at - targets
    matrix[source_at + sources :, target_at + targets :] = stretch(*after)
    return JointEquation(
        inject=matrix * (gates * gains) if gates.any() else None,
        keep=None if bool((gates == 1.0).all()) else (1.0 - gates) * gains,
        image=image,
        mass=(matrix @ gates, 1.0 - gates) if injection.renormalise and not injection.queries else None,
        queries=injection.queries and bool(image),
    )


def joint_program(
    rows: Sequence[tuple[int, JointEquation] | None],
    layout: TokenLayout,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    padding: Sequence[torch.Tensor | None] = (),
) -> JointProgram | None:
    """Lay the equations of a batch's rows out, in whatever order the rows stand; None if there is nothing to do.

    Args:
        rows: for each row None, or which row is its source and its equation.
        layout: of the call's tokens.
        device, dtype: the batch's.
        padding: for each row None, or a bool (T,), true at text keys that are only there to fill up.
    """
    masked = [_padded(each, layout) for each in padding] or [None] * len(rows)
    groups: dict[tuple, list[_Term]] = {}
    for row, entry in enumerate(rows):
        for term in _terms(row, entry, layout):
            padded = masked[term.text] is not None
            key = (
                term.add,
                term.part.start,
                term.part.stop,
                term.matrix is not None,
                term.scale is not None,
                term.mass is not None,
                term.own_text,
                padded,
            )
            groups.setdefault(key, []).append(term)
    if len(groups) == 1:
        (((_, _, _, *done), terms),) = groups.items()
        if not any(done) and all(term.source == term.out for term in terms):
            return None
    calls = [_call(groups[key], layout, masked, device, dtype) for key in sorted(groups)]  # those that add come last
    return JointProgram(len(rows), layout, tuple(calls))


def attend(
    program: JointProgram | None,
    attention: Attention,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """The edited attention of a whole batch, by the host's own function. Nothing is written in place.

    Args:
        program: from ``joint_program``; None for the call as it is.
        attention: (q, k, v, mask) -> output, the host's.
        q, k, v: (N, Q or K, C) or (N, H, Q or K, D).
        mask: the host's: additive, or bool and true where attention is allowed; (Q, K), (N, K), (N, Q, K) or
            (N, H, Q, K), any of them 1.

    Returns:
        What ``attention`` returns for the batch: (N, Q, C) or (N, H, Q, D).
    """
    if program is None:
        return attention(q, k, v, mask)
    mask = _four_dimensions(mask, program.rows, program.layout.queries)
    output: torch.Tensor | None = None
    total: torch.Tensor | None = None
    for call in program.calls:
        queries, keys = _tokens(_pick(q, call.source), call.part), _pick(k, call.source)
        if call.own_text:
            keys = _joined(_tokens(_pick(k, call.out), program.layout.text_keys), keys, program.layout)
        values = _values(call, _pick(v, call.out), program.layout)
        allowed = _mask(call, mask, q.dtype)
        output = _put(output, attention(queries, keys, values, allowed), call, program)
        if call.mass is not None:
            ones = _like_values(call.mass, values).expand_as(values).contiguous()
            total = _put(total, attention(queries, keys, ones, allowed), call, program, fill=1.0)
    assert output is not None, "a program has at least one call"
    return output if total is None else output / total


def _terms(row: int, entry: tuple[int, JointEquation] | None, layout: TokenLayout) -> list[_Term]:
    """What has to be computed for a row: itself, or its text queries and one or two terms of its image queries."""
    itself = [_Term(range(layout.queries), row, row)]
    if entry is None:
        return itself
    source, equation = entry
    terms = (_of_queries if equation.queries and layout.image_keys else _of_maps)(row, source, equation, layout)
    if not terms:
        return itself
    if layout.text_queries:
        terms.append(_Term(layout.text_queries, row, row))
    return terms


def _of_queries(row: int, source: int, equation: JointEquation, layout: TokenLayout) -> list[_Term]:
    """The source's image queries and keys, beside the row's text keys: one term."""
    texts = len(layout.text_keys)
    scale = _scale(layout, equation.keep if texts else None, 1.0)
    return [_Term(layout.image_queries, row, source, None, scale, own_text=bool(texts))]


def _of_maps(row: int, source: int, equation: JointEquation, layout: TokenLayout) -> list[_Term]:
    """The source's map and the row's own, as far as the equation takes from them; none where it is the row's own."""
    image = layout.image_queries
    texts, images = len(layout.text_keys), len(layout.image_keys)
    first_mass, second_mass = _masses(equation, layout)
    terms = []
    if (equation.inject is not None and texts) or (equation.image and images):
        matrix = equation.inject if texts else None
        nothing = None if matrix is not None else torch.zeros(texts)
        scale = _scale(layout, nothing, equation.image)
        terms.append(_Term(image, row, source, matrix, scale, first_mass))
    if not terms or (equation.keep is not None and texts) or (equation.image != 1.0 and images):
        keep = torch.zeros(texts) if equation.keep is None or not texts else equation.keep
        scale = _scale(layout, keep, 1.0 - equation.image)
        if not terms and scale is None and second_mass is None:
            return []
        terms.append(_Term(image, row, row, None, scale, second_mass, add=bool(terms)))
    return terms


@dataclass(frozen=True, eq=False)
class _Term:
    """Some queries of one row: on whose queries and keys, and what is done to the row's values."""

    part: range
    out: int
    source: int
    matrix: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    mass: torch.Tensor | None = None
    own_text: bool = False
    add: bool = False

    @property
    def text(self) -> int:
        """The row whose text the keys are, and its padding."""
        return self.out if self.own_text else self.source


def _scale(layout: TokenLayout, text: torch.Tensor | None, image: float) -> torch.Tensor | None:
    """(K,) factors of the values, ones for the text where it has None; None where all are one."""
    scale = torch.full((layout.keys,), float(image))
    scale[_slice(layout.text_keys)] = 1.0 if text is None else text.to(scale)
    return None if bool((scale == 1.0).all()) else scale


def _masses(equation: JointEquation, layout: TokenLayout) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if equation.mass is None or not layout.text_keys:
        return None, None
    masses = []
    for text, image in zip(equation.mass, (equation.image, 1.0 - equation.image), strict=True):
        mass = torch.full((layout.keys,), float(image))
        mass[_slice(layout.text_keys)] = text.to(mass)
        masses.append(mass)
    return masses[0], masses[1]


def _padded(padding: torch.Tensor | None, layout: TokenLayout) -> torch.Tensor | None:
    """(K,) of 0 and -inf; None where nothing is masked."""
    if padding is None or not layout.text_keys or not padding.any():
        return None
    scores = torch.zeros(layout.keys)
    scores[_slice(layout.text_keys)][padding.cpu()] = -math.inf
    return scores


def _call(
    terms: Sequence[_Term],
    layout: TokenLayout,
    masked: Sequence[torch.Tensor | None],
    device: torch.device,
    dtype: torch.dtype,
) -> _Call:
    def stack(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        there = [part for part in parts if part is not None]  # all of a group's terms have it, or none
        return torch.stack(there).to(device, dtype) if there else None

    padding = stack([masked[term.text] for term in terms])
    return _Call(
        part=terms[0].part,
        out=_rows([term.out for term in terms], device),
        source=_rows([term.source for term in terms], device),
        own_text=terms[0].own_text,
        matrices=stack([term.matrix for term in terms]),
        scales=stack([term.scale for term in terms]),
        padding=None if padding is None else padding[:, None, None],
        mass=stack([term.mass for term in terms]),
        add=terms[0].add,
    )


def _rows(numbers: Sequence[int], device: torch.device) -> Rows:
    if list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
        return slice(numbers[0], numbers[0] + len(numbers))
    return torch.tensor(numbers, dtype=torch.long, device=device)


def _pick(x: torch.Tensor, rows: Rows) -> torch.Tensor:
    return x[rows] if isinstance(rows, slice) else x.index_select(0, rows)


def _put(
    whole: torch.Tensor | None, part: torch.Tensor, call: _Call, program: JointProgram, fill: float | None = None
) -> torch.Tensor:
    """Write a call's output to its place in the batch's, which the first call makes."""
    if whole is None:
        shape = (program.rows, *part.shape[1:-2], program.layout.queries, part.shape[-1])
        whole = part.new_empty(shape) if fill is None else part.new_full(shape, fill)
    place = _tokens(whole, call.part)
    if isinstance(call.out, slice):
        place[call.out] = place[call.out] + part if call.add else part
    elif call.add:
        place.index_add_(0, call.out, part)
    else:
        place.index_copy_(0, call.out, part)
    return whole


def _values(call: _Call, values: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """The values of a call: text mapped by the matrices, all scaled."""
    if call.matrices is not None:
        text, image = _tokens(values, layout.text_keys), _tokens(values, layout.image_keys)
        text = torch.einsum("nst,n...td->n...sd", call.matrices, text)
        if call.scales is not None:
            image = image * _like_values(call.scales[:, _slice(layout.image_keys)], image)
        return _joined(text, image, layout)
    return values if call.scales is None else values * _like_values(call.scales, values)


def _joined(text: torch.Tensor, rest: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """Text tokens beside the image tokens of ``rest``, which has them alone or among all."""
    if rest.shape[-2] == layout.keys:
        rest = _tokens(rest, layout.image_keys)
    return torch.cat((text, rest) if layout.text_keys.start == 0 else (rest, text), dim=-2)


def _like_values(of_keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(n, K) -> (n, K, 1) or (n, 1, K, 1)."""
    return of_keys[:, :, None] if values.ndim == 3 else of_keys[:, None, :, None]


def _four_dimensions(mask: torch.Tensor | None, rows: int, queries: int) -> torch.Tensor | None:
    """A mask as (N or 1, H or 1, Q or 1, K): the host's functions read one of two dimensions as (Q, K), as (N, K) where
    that cannot be, and one of three as (N, Q, K)."""
    if mask is None or mask.ndim == 4:
        return mask
    if mask.ndim == 2:
        return mask[:, None, None] if len(mask) == rows and len(mask) not in (1, queries) else mask[None, None]
    return mask[:, None]


def _mask(call: _Call, mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """The mask of a call's rows and queries, padded keys shut off."""
    if mask is not None:
        mask = mask if mask.shape[0] == 1 else _pick(mask, call.out if call.own_text else call.source)
        mask = mask if mask.shape[2] == 1 else mask[:, :, _slice(call.part)]
    if call.padding is None:
        return mask
    if mask is None:
        return call.padding.to(dtype)
    return mask & (call.padding == 0) if mask.dtype == torch.bool else mask + call.padding.to(mask.dtype)


def _others(part: range, count: int) -> range:
    """The rest of ``count`` tokens beside a part that stands at one end."""
    if not part:
        return range(count)
    assert part.start == 0 or part.stop == count, f"text at {part.start} to {part.stop} of {count} tokens"
    return range(part.stop, count) if part.start == 0 else range(part.start)


def _slice(part: range) -> slice:
    return slice(part.start, part.stop)


def _tokens(x: torch.Tensor, part: range) -> torch.Tensor:
    return x[..., part.start : part.stop, :]


def column_probs(
    query: torch.Tensor,
    key: torch.Tensor,
    heads: int,
    columns: range,
    over: Literal["all", "columns"] = "all",
    padding: torch.Tensor | None = None,
    rows: Sequence[int] | None = None,
) -> torch.Tensor:
    """How much queries attend to some of the keys, averaged over heads, in chunks: the map itself is never there.

    Args:
        query: (N, Q, C) or (N, H, Q, D), for instance of the picture's tokens.
        key: (N, K, C) or (N, H, K, D).
        heads: H.
        columns: which keys are wanted, for instance the text's; P of them.
        over: the softmax is over all keys or over the wanted ones alone.
        padding: bool (rows, K), true at keys that are shut off.
        rows: of which of the N rows; of all by default.

    Returns:
        float32 (rows, Q, P). At most ``BUFFER`` entries of per-head maps exist at a time, or one query's.
    """
    query, key = (_heads_first(each, heads) for each in (query, key))
    wanted = _slice(columns)
    if over == "columns":
        key, padding = key[:, :, wanted], None if padding is None else padding[:, wanted]
        wanted = slice(None)
    scale = 1.0 / math.sqrt(query.shape[-1])
    rows = range(len(query)) if rows is None else rows
    queries = query.shape[2]
    probs = query.new_zeros(len(rows), queries, len(columns), dtype=torch.float32)
    at_once = max(1, BUFFER // key.shape[2])
    for place, row in enumerate(rows):
        for head in range(heads):
            keys = key[row, head].float().T
            for first in range(0, queries, at_once):
                some = slice(first, first + at_once)
                scores = query[row, head, some].float() @ keys * scale
                if padding is not None:
                    scores.masked_fill_(padding[place], -math.inf)
                probs[place, some] += scores.softmax(dim=-1)[:, wanted]
    return probs.div_(heads)


def _heads_first(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x if x.ndim == 4 else x.unflatten(-1, (heads, -1)).transpose(1, 2)
