"""The state of one sampling run: made when sampling starts, gone when it ends."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch

from .align import aligned
from .attention import EditedRow, RowEquation, RowProgram, RowState, row_equation, row_program
from .call_rows import CallRows
from .edit import Edit, combine
from .prompt import PromptPair
from .steps import StepCounter


class EditRun:
    """Knows, at each model call, what is to be done to which rows.

    Args:
        edits: the edits on the model, in any order.
        pairs: conditioning id -> the pair it was made from.
        sigmas: the run's noise levels, one more than there are steps.
    """

    def __init__(self, edits: Sequence[Edit], pairs: Mapping[Hashable, PromptPair], sigmas: Sequence[float]):
        self._counter = StepCounter(sigmas)
        self.steps = self._counter.count
        self._pairs = dict(pairs)
        self._edits = {pair: [edit for edit in edits if edit.pair == pair] for pair in self._pairs.values()}
        self._calls: dict[tuple, RowProgram | None] = {}  # looked up once per attention layer: a cheap key
        self._programs: dict[tuple, RowProgram] = {}  # steps with the same gates and gains share a program
        self._matrices: dict[tuple[PromptPair, int], torch.Tensor] = {}  # large for long prompts; they go with the run

    def step_of(self, sigma: float) -> int:
        """The step of a model call at this noise level, see ``StepCounter``."""
        return self._counter.of(sigma)

    def finish_step(self, step: int) -> None:
        """The sampler says that it has what it needs of a step."""
        self._counter.finish(step)

    def program(
        self,
        step: int,
        rows: CallRows,
        length: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        whole_chunks: bool = False,
    ) -> RowProgram | None:
        """How to rewrite a batch of ``length`` context positions, or None to leave it alone.

        Args:
            step: index of the step, from 0.
            rows: what the batch's rows are.
            whole_chunks: see ``row_program``.
        """
        layout = (rows, length, device, dtype, whole_chunks)
        call = (step, *layout)
        if call not in self._calls:
            states = tuple((each, self.states(each, step)) for each in rows.conditionings)
            if any(state for _, state in states) and (states, layout) not in self._programs:
                equations = {each: self._equations(each, state, length) for each, state in states if state}
                edited = [
                    EditedRow(row.source, equations[row.conditioning][row.row - 1])
                    if row is not None and row.row and row.conditioning in equations
                    else None
                    for row in rows.rows
                ]
                self._programs[states, layout] = row_program(
                    edited, length, device, dtype, rows.chunks if whole_chunks else 0
                )
            self._calls[call] = self._programs.get((states, layout))
        return self._calls[call]

    def pair_of(self, conditioning: Hashable) -> PromptPair | None:
        """The pair that a conditioning was made from, if any."""
        return self._pairs.get(conditioning)

    def states(self, conditioning: Hashable, step: int) -> tuple[RowState, ...] | None:
        """What happens to each edited row of a chunk at a step; None if nothing does."""
        pair = self.pair_of(conditioning)
        if pair is None:
            return None
        states = tuple(combine(self._edits[pair], row, step, self.steps) for row in range(len(pair.targets)))
        return None if all(state.idle for state in states) else states

    def _equations(self, conditioning: Hashable, states: tuple[RowState, ...], length: int) -> list[RowEquation | None]:
        pair = self._pairs[conditioning]
        return [row_equation(self._matrix(pair, row), state, length) for row, state in enumerate(states)]

    def _matrix(self, pair: PromptPair, row: int) -> torch.Tensor:
        if (pair, row) not in self._matrices:
            self._matrices[pair, row] = aligned(pair, row).matrix
        return self._matrices[pair, row]
