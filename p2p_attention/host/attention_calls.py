"""What a family's hook asks in each attention call: how to rewrite it, and who wants to see it. One object a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..attention import RowProgram
from ..call_rows import CallRows
from ..joint_attention import ALL, Injection, JointProgram, TokenLayout
from ..prompt import Prompt
from ..run import EditRun
from ..text_places import TextPlaces
from . import KEY
from .map_taps import MapTaps


@dataclass(frozen=True, eq=False)
class ModelCall:
    """What is known of the model call in which an attention call is.

    Args:
        step: of the run, from 0.
        rows: what its rows are; None where no conditioning of a pair is in it.
        size: (H, W) of its latents.
        picture: (H, W) of the latents that the sampler handed over; larger where this call is a tile or an area.
        model: the host's BaseModel that computes it: with several cards, each has its own, and calls are made at once.
    """

    step: int
    rows: CallRows | None
    size: tuple[int, int]
    picture: tuple[int, int]
    model: Any = None


class AttentionCalls:
    """Knows what is to be done in each attention call of a run.

    Args:
        run: the edits.
        taps: who wants maps.
    """

    def __init__(self, run: EditRun, taps: MapTaps):
        self._run = run
        self._taps = taps
        self._among: dict[tuple, CallRows] = {}  # the rows of a call among those that another node added

    def program(
        self,
        options: Mapping[str, Any],
        rows: int,
        length: int | None,
        device: torch.device,
        dtype: torch.dtype,
        whole_chunks: bool = False,
        among: tuple[int, ...] | None = None,
    ) -> RowProgram | None:
        """How to rewrite a call, or None to leave it alone.

        Args:
            options: the host's, of this call.
            rows: N, rows of its batch.
            length: positions of the text; None for a call without text, whose program is laid out for the pairs' own.
            whole_chunks: see ``row_program``.
            among: where the model call's rows are in the batch, if another node has added rows to it.

        Raises:
            ValueError: another node changed the batch or the text on the way.
        """
        call: ModelCall = options[KEY]
        if call.rows is None:
            return None
        of_call = call.rows
        if among is not None:
            key = (call.rows, rows, among)
            if key not in self._among:  # a layout is laid out once, not in every layer
                self._among[key] = call.rows.among(rows, among)
            of_call = self._among[key]
        self._require_rows(of_call, rows)
        pairs = map(self._run.pair_of, call.rows.conditionings)
        pair_length = math.lcm(*(pair.length for pair in pairs if pair is not None))
        if length is None:
            length = pair_length
        if length % pair_length:
            raise ValueError(
                f"Wanted a context of a multiple of {pair_length} tokens (the prompt pair's), got {length}: another "
                "node adds tokens to the context. Remove it from the model."
            )
        return self._run.program(call.step, of_call, length, device, dtype, whole_chunks)

    def keys_and_values_in_turn(self, options: Mapping[str, Any]) -> bool:
        """Whether texts of a call hold a key and a value for each token, see ``PromptPair``."""
        call: ModelCall = options[KEY]
        pairs = map(self._run.pair_of, call.rows.conditionings) if call.rows is not None else ()
        return any(pair is not None and pair.doubled for pair in pairs)

    def joint_program(
        self,
        options: Mapping[str, Any],
        rows: int,
        layout: TokenLayout,
        places: TextPlaces,
        others: int,
        device: torch.device,
        dtype: torch.dtype,
        injection: Injection = ALL,
    ) -> JointProgram | None:
        """How to compute a call after the projections, or None to leave it alone; see ``EditRun.joint_program``.

        Raises:
            ValueError: another node changed the batch on the way.
        """
        call: ModelCall = options[KEY]
        if call.rows is None:
            return None
        self._require_rows(call.rows, rows)
        return self._run.joint_program(call.step, call.rows, layout, places, others, device, dtype, injection)

    def prompts(self, rows: CallRows) -> list[Prompt | None]:
        """What each row of a batch says; None for those of no pair."""
        return [self._run.prompt_of(row) for row in rows.rows]

    def wants(self, attention: str, layer: Hashable) -> bool:
        """Whether anybody wants the "cross" or "self" maps of a layer."""
        return self._taps.wants(attention, layer)

    def see(
        self,
        attention: str,
        layer: Hashable,
        options: Mapping[str, Any],
        grid: tuple[int, int],
        probs: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        """Hand maps to those who want them, before anything rewrites the call.

        Args:
            attention: "cross" or "self".
            layer: as the family names it.
            options: the host's, of this call.
            grid: (h, w) of the layer's image tokens.
            probs: makes the maps (n, Q, S), averaged over heads, of the batch's rows whose numbers (n,) it is given.
        """
        self._taps.take(attention, layer, options[KEY], grid, probs)

    @staticmethod
    def _require_rows(wanted: CallRows, rows: int) -> None:
        if rows != len(wanted):
            raise ValueError(
                f"Wanted {len(wanted)} rows (source and edits of each conditioning) in attention, got {rows}: another "
                "node expands or splits the batch there (regional prompts through attention do). Remove it from the "
                "model; Conditioning (Set Area / Set Mask) works."
            )
