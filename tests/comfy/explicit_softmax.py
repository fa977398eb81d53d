"""The edits written out as the paper does: build every attention map, edit it, multiply. Slow, and independent of ours.

Hooked into a stock model through attn1/attn2 replace patches, which the pack itself never uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

CONTEXT = 77


class RowEdit(NamedTuple):
    """One edited row: A (S, T), and functions of the step's middle, a fraction of the run, to g (T,), c (T,), self."""

    alignment: torch.Tensor
    gate: Callable[[float], torch.Tensor]
    gain: Callable[[float], torch.Tensor]
    self_attention: Callable[[float], bool]


def moved_mass(groups: list[tuple[list[int], list[int]]], length: int = CONTEXT) -> torch.Tensor:
    """A from lists of (source positions, target positions): each group's attention is moved over in order."""
    matrix = torch.zeros(length, length, dtype=torch.float64)
    for rows, columns in groups:
        for cell in range(len(rows) * len(columns)):
            matrix[rows[cell // len(columns)], columns[cell // len(rows)]] += 1.0 / len(columns)
    return matrix


def edited_model(model, row_edits: list[RowEdit], self_tokens: int, precision: torch.dtype = torch.float64):
    """A clone of the stock model whose attention is computed by explicit softmax, with the edits in it.

    Args:
        row_edits: one per edited row; every group is the source row and these.
        self_tokens: largest number of image tokens of a layer that takes part in self-attention injection.
        precision: of the maps.
    """
    group = 1 + len(row_edits)

    def softmax_maps(q, k, heads):
        q, k = (t.to(precision).unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k))
        return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)  # (N, H, Q, S)

    def apply(maps, v, heads, dtype):
        out = maps @ v.to(precision).unflatten(-1, (heads, -1)).transpose(1, 2)
        return out.transpose(1, 2).flatten(2).to(dtype)

    def edited_rows(options, rows):
        """(source row, edited row, RowEdit, middle of the step) for the positive chunk's rows."""
        per_chunk = rows // len(options["cond_or_uncond"])
        schedule = options["sample_sigmas"]
        step = int((schedule[:-1] - options["sigmas"][0]).abs().argmin())
        middle = (step + 0.5) / (len(schedule) - 1)
        for chunk, kind in enumerate(options["cond_or_uncond"]):
            if kind == 0:
                for source in range(chunk * per_chunk, (chunk + 1) * per_chunk, group):
                    for i, row_edit in enumerate(row_edits, 1):
                        yield source, source + i, row_edit, middle

    def cross(q, k, v, options):
        maps = softmax_maps(q, k, options["n_heads"])
        edited = maps.clone()
        for source, row, edit, middle in edited_rows(options, q.shape[0]):
            g, c, alignment = (t.to(maps) for t in (edit.gate(middle), edit.gain(middle), edit.alignment))
            edited[row] = (maps[source] @ alignment * g + maps[row] * (1 - g)) * c
        return apply(edited, v, options["n_heads"], q.dtype)

    def self_attention(q, k, v, options):
        maps = softmax_maps(q, k, options["n_heads"])
        edited = maps.clone()
        if q.shape[1] <= self_tokens:
            for source, row, edit, middle in edited_rows(options, q.shape[0]):
                if edit.self_attention(middle):
                    edited[row] = maps[source]
        return apply(edited, v, options["n_heads"], q.dtype)

    patched = model.clone()
    for block, numbers in (("input", range(12)), ("middle", range(1)), ("output", range(12))):
        for number in numbers:
            patched.set_model_attn2_replace(cross, block, number)
            patched.set_model_attn1_replace(self_attention, block, number)
    return patched
