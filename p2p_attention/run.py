"""The state of one sampling run: made when sampling starts, gone when it ends."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

import torch

from .align import aligned
from .attention import EditedRow, RowEquation, RowProgram, RowState, row_equation, row_program
from .call_rows import CallRows, Row
from .edit import Edit, combine
from .joint_attention import ALL, Injection, JointEquation, JointProgram, TokenLayout, joint_equation, joint_program
from .prompt import Prompt, PromptPair
from .steps import StepCounter
from .text_places import TextPlaces

Program = TypeVar("Program")
_States = Mapping[Hashable, "tuple[RowState, ...] | None"]  # of conditionings


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
        self._matrices: dict[tuple[PromptPair, int], torch.Tensor] = {}  # large for long prompts; they go with the run
        self._row_programs: _Programs[RowProgram] = _Programs(self._states_of)
        self._joint_programs: _Programs[JointProgram] = _Programs(self._states_of)

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

        def made(states: _States) -> RowProgram | None:
            equations = {each: self._equations(each, state, length) for each, state in states.items() if state}
            if not equations:
                return None
            edited = [
                EditedRow(row.source, equations[row.conditioning][row.row - 1])
                if row is not None and row.row and row.conditioning in equations
                else None
                for row in rows.rows
            ]
            return row_program(edited, length, device, dtype, rows.chunks if whole_chunks else 0)

        return self._row_programs.of(step, rows, (length, device, dtype, whole_chunks), made)

    def joint_program(
        self,
        step: int,
        rows: CallRows,
        layout: TokenLayout,
        places: TextPlaces,
        others: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        injection: Injection = ALL,
    ) -> JointProgram | None:
        """How to compute one attention call whose queries, keys and values are at hand; None for as it is.

        Args:
            step: index of the step, from 0.
            rows: what the batch's rows are.
            layout: of the call's tokens.
            places: where in the call's text the prompts stand.
            others: positions of the texts of rows that are of no pair.
            injection: what of the edits the call takes part in.
        """

        def made(states: _States) -> JointProgram | None:
            prompts = [self.prompt_of(row) for row in rows.rows]
            entries = [
                self._joint_entry(row, states, places, injection) if layout.image_queries else None for row in rows.rows
            ]
            padding = [places.padding(others if prompt is None else prompt.length) for prompt in prompts]
            return joint_program(entries, layout, device, dtype, padding if layout.text_keys else ())

        return self._joint_programs.of(step, rows, (layout, places, others, device, dtype, injection), made)

    def prompt_of(self, row: Row | None) -> Prompt | None:
        """What a batch's row says; None for rows of no pair."""
        if row is None:
            return None
        pair = self._pairs[row.conditioning]
        return (pair.source, *pair.targets)[row.row]

    def pair_of(self, conditioning: Hashable) -> PromptPair | None:
        """The pair that a conditioning was made from, if any."""
        return self._pairs.get(conditioning)

    def states(self, conditioning: Hashable, step: int) -> tuple[RowState, ...] | None:
        """What happens to each edited row of a chunk at a step; None if nothing does."""
        pair = self.pair_of(conditioning)
        if pair is None:
            return None
        states = tuple(combine(self._edits[pair], target, step, self.steps) for target in range(len(pair.targets)))
        return None if all(state.idle for state in states) else states

    def changes_at(self, step: int) -> bool:
        """Whether an edit does something else at a step than at the one before."""
        return any(self.states(each, step) != self.states(each, step - 1) for each in self._pairs)

    def _states_of(self, rows: CallRows, step: int) -> tuple[tuple[Hashable, tuple[RowState, ...] | None], ...]:
        return tuple((each, self.states(each, step)) for each in rows.conditionings)

    def _joint_entry(
        self,
        row: Row | None,
        states: _States,
        places: TextPlaces,
        injection: Injection,
    ) -> tuple[int, JointEquation] | None:
        of_edits = states[row.conditioning] if row is not None and row.row else None
        if row is None or of_edits is None:
            return None
        pair, edit = self._pairs[row.conditioning], row.row - 1
        equation = joint_equation(
            self._matrix(pair, edit),
            of_edits[edit],
            places.length,
            places.prompt(pair.source.length).start,
            places.prompt(pair.targets[edit].length).start,
            injection,
        )
        return None if equation is None else (row.source, equation)

    def _equations(self, conditioning: Hashable, states: tuple[RowState, ...], length: int) -> list[RowEquation | None]:
        pair = self._pairs[conditioning]
        return [row_equation(self._matrix(pair, target), state, length) for target, state in enumerate(states)]

    def _matrix(self, pair: PromptPair, target: int) -> torch.Tensor:
        if (pair, target) not in self._matrices:
            self._matrices[pair, target] = aligned(pair, target).matrix
        return self._matrices[pair, target]


class _Programs(Generic[Program]):
    """Programs that were made in a run. Attention layers ask in turn, so that a cheap key must find one.

    Args:
        states_of: what happens in a call of these rows at a step, by conditioning.
    """

    def __init__(self, states_of: Callable[[CallRows, int], tuple[tuple[Hashable, tuple[RowState, ...] | None], ...]]):
        self._states_of = states_of
        self._at_steps: dict[tuple, Program | None] = {}
        self._made: dict[tuple, Program | None] = {}  # steps with the same gates and gains share a program

    def of(self, step: int, rows: CallRows, layout: tuple, make: Callable[[_States], Program | None]) -> Program | None:
        """The program for these rows in a call of this layout; ``make`` makes it, if it is new."""
        asked = (step, rows, layout)
        if asked not in self._at_steps:
            states = self._states_of(rows, step)
            key = (states, rows, layout)
            if key not in self._made:
                self._made[key] = make(dict(states))
            self._at_steps[asked] = self._made[key]
        return self._at_steps[asked]
