"""The edits of the paper as data: Replace, Refine and Reweight are one kind of frozen ``Edit``.

An ``Edit`` says for each edited prompt when each target position's gate g is open and what its gain c is, the two
vectors of the formula in ``attention.py``. Edits chain in any order: a gate is open if any edit opens it, gains
multiply.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .align import Alignment, Kind, aligned
from .attention import WAYS, RowState, Way
from .checks import require_between, require_one_of
from .prompt import PromptPair, listing, quoted, split_names


@dataclass(frozen=True)
class Window:
    """A part of the sampling run, as fractions of its steps: ``start`` is in, ``end`` is out.

    Step i of N (from 0) is inside when its middle (i + 0.5) / N is: 0 to 0.8 of 10 steps are the first 8, and windows
    that meet share no step and leave none out. An empty window (start = end) covers none.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.start <= self.end <= 1.0:  # also false for NaN
            raise ValueError(
                f"Wanted a window with 0 <= start <= end <= 1 (fractions of the steps), got start {self.start:g} and "
                f"end {self.end:g}. 0 to 0.8 is the first 80 % of the steps; 0 to 0 is never."
            )

    def __bool__(self) -> bool:
        return self.start < self.end

    def contains(self, step: int, steps: int) -> bool:
        return self.start <= (step + 0.5) / steps < self.end


NEVER = Window(0.0, 0.0)
NUMBER = r"\d+(?:\.\d*)?|\.\d+"
SCALES = (-20.0, 20.0)  # of a fader; beyond, attention is noise, or overflows


@dataclass(frozen=True)
class RowEdit:
    """What one edit does to one edited row. Tuples run over the T target positions.

    Args:
        gates: when the source's map stands in for the row's own at that position (g = 1).
        self_attention: when the source's self-attention map stands in for the row's own.
        gains: factor c of the position's column while ``gain_window`` lasts.
        only_alone: the gates count only if no other edit of the chain injects into this row.
        way: how a joint softmax takes the source's map over; of several edits the last that names one counts.
    """

    gates: tuple[Window, ...]
    self_attention: Window
    gains: tuple[float, ...]
    gain_window: Window
    only_alone: bool = False
    way: Way = "auto"

    @property
    def injects(self) -> bool:
        return any(self.gates) or bool(self.self_attention)


@dataclass(frozen=True)
class Edit:
    """One node's edit of a prompt pair; ``rows[i]`` belongs to ``pair.targets[i]``, None leaves that row alone."""

    pair: PromptPair
    rows: tuple[RowEdit | None, ...]

    def __deepcopy__(self, memo: dict) -> Edit:
        return self  # frozen; the host deep-copies what a model carries whenever a node clones it


def replace(
    pair: PromptPair,
    cross: Window,
    self_attention: Window,
    word_windows: str = "",
    edit: int = 0,
    way: Way = "auto",
) -> Edit:
    """Word swap (section 3.2, "Word Swap"): keeps the picture's composition while a word is exchanged for another.

    Shared and swapped positions get the source's map while ``cross`` lasts, after it the row's own (the paper's softer
    constraint: ``cross.end`` is its tau).

    Args:
        pair: the prompts.
        cross: window of the cross-attention injection.
        self_attention: window of the self-attention injection, which keeps shapes.
        word_windows: lines ``word: end`` or ``word: start-end`` that take the place of ``cross`` for a target word.
        edit: 0 for every edited prompt, n for the n-th only.
        way: see ``Way``.

    Raises:
        ValueError: a window, a word or the edit's number is not valid; the message says how to mend it.
    """
    windows = cross, self_attention, word_windows
    return _injection(pair, {"shared", "swapped"}, "P2P Attention Replace", *windows, edit, way)


def refine(
    pair: PromptPair,
    cross: Window,
    self_attention: Window,
    word_windows: str = "",
    edit: int = 0,
    way: Way = "auto",
) -> Edit:
    """New phrase (section 3.2, "Adding a New Phrase"): only what the added words say changes.

    As ``replace``, but only positions of words that both prompts share get the source's map.
    """
    return _injection(pair, {"shared"}, "P2P Attention Refine", cross, self_attention, word_windows, edit, way)


def reweight(
    pair: PromptPair, words: str, scale: float | None, window: Window, edit: int = 0, hold: bool = True
) -> Edit:
    """Fader (section 3.2, "Attention Re-weighting"): makes what a word stands for stronger, weaker or its opposite.

    The columns of the named words are multiplied by their factors, without renormalisation. Alone, shared words also
    get the source's map during the window, so that only the named words change; beside Replace or Refine it scales
    theirs.

    Args:
        pair: the prompts.
        words: target words or phrases, separated by commas or lines; ``word#2`` is the second occurrence, and
            ``word: 0.5`` has a factor of its own. Of several factors of a word the last one counts.
        scale: the factor c of those without their own, within SCALES; the paper uses -2 to 2. None: each needs its own.
        window: when it is in force.
        edit: 0 for every edited prompt, n for the n-th only.
        hold: whether it takes the source's map where it is alone.

    Raises:
        ValueError: a word, a factor or the edit's number is not valid; the message says how to mend it.
    """
    if scale is not None:
        _require_scale(scale)
    names = split_names(words)
    if not names:
        raise ValueError("Wanted at least one word to re-weight, got none. Write words of the edited prompt.")
    chosen = chosen_targets(pair, edit)
    faders = [_fader(pair, name, scale, chosen) for name in names]
    rows: list[RowEdit | None] = [None] * len(pair.targets)
    for target in chosen:
        factors = {position: factor for positions, factor in faders for position in positions[target]}
        if factors:
            kinds = aligned(pair, target).kinds
            rows[target] = RowEdit(
                gates=tuple(window if hold and kind == "shared" else NEVER for kind in kinds),
                self_attention=NEVER,
                gains=tuple(factors.get(position, 1.0) for position in range(len(kinds))),
                gain_window=window,
                only_alone=True,
            )
    return Edit(pair, tuple(rows))


def swap_and_fade(
    pair: PromptPair,
    cross: Window,
    self_attention: Window,
    faders: str = "",
    scale: float | None = None,
    edit: int = 0,
) -> list[Edit]:
    """``replace``, and beside it, at every step, ``reweight`` of the words in ``faders``, if there are any.

    Raises:
        ValueError: as these two.
    """
    edits = [replace(pair, cross, self_attention, edit=edit)]
    if faders.strip() or scale is not None:
        edits.append(reweight(pair, faders, scale, Window(0.0, 1.0), edit, hold=False))
    return edits


def edited_text(source: str, target: str, faders: str) -> str:
    """The edited prompt: the source's own text where there is none, but words to fade.

    Raises:
        ValueError: there is nothing to change.
    """
    if not target.strip() and not faders.strip():
        raise ValueError(
            "Wanted something to change, got no target and no words to fade. Write the edited prompt, or lines "
            "'word: scale' as in 'snow: 0.5'."
        )
    return target if target.strip() else source


def _fader(
    pair: PromptPair, entry: str, scale: float | None, targets: Sequence[int]
) -> tuple[dict[int, tuple[int, ...]], float]:
    """Where the words of an entry stand in each edited row, and their factor. A text that is in a prompt as it stands,
    ``16:9``, is that text."""
    name, own = _name_and_scale(entry)
    if own is not None and not any(pair.find(entry, pair.targets[target]) for target in targets):
        entry, scale = name, own
        _require_scale(scale)
    if scale is None:
        raise ValueError(f"Wanted a word with its factor, as in 'snow: 0.5', got {quoted(entry)}. Write one after it.")
    return _find_in_targets(pair, entry, targets), scale


def faded_words(words: str) -> tuple[str, ...]:
    """The names in a text of faders, without their factors."""
    return tuple(_name_and_scale(entry)[0] for entry in split_names(words))


def _name_and_scale(entry: str) -> tuple[str, float | None]:
    match = re.fullmatch(rf"(.*\S)\s*:\s*([+-]?(?:{NUMBER}))", entry)
    return (match[1], float(match[2])) if match else (entry, None)


def _require_scale(scale: float) -> None:
    if not math.isfinite(scale):
        raise ValueError(f"Wanted a finite scale, got {scale}. 1 leaves a word as it is, 0 removes it, 2 doubles it.")
    require_between("scale", scale, SCALES)


def combine(edits: Iterable[Edit], target: int, step: int, steps: int) -> RowState:
    """All edits of one pair together, for one edited row at one step."""
    active = [row_edit for edit in edits if (row_edit := edit.rows[target]) is not None]
    injecting = [row_edit for row_edit in active if row_edit.injects and not row_edit.only_alone] or active
    positions = range(len(active[0].gates)) if active else ()
    gains = [1.0 for _ in positions]
    for row_edit in active:
        if row_edit.gain_window.contains(step, steps):
            gains = [gain * factor for gain, factor in zip(gains, row_edit.gains, strict=True)]
    return RowState(
        gates=tuple(float(any(each.gates[i].contains(step, steps) for each in injecting)) for i in positions),
        gains=tuple(gains),
        self_attention=any(row_edit.self_attention.contains(step, steps) for row_edit in active),
        way=next((row_edit.way for row_edit in reversed(active) if row_edit.way != "auto"), "auto"),
    )


def _injection(
    pair: PromptPair,
    kinds: set[Kind],
    name: str,
    cross: Window,
    self_attention: Window,
    word_windows: str,
    edit: int,
    way: Way,
) -> Edit:
    require_one_of("injection", way, WAYS)
    chosen = chosen_targets(pair, edit)
    alignments = {target: aligned(pair, target) for target in chosen}
    gates = {target: [cross if kind in kinds else NEVER for kind in alignments[target].kinds] for target in chosen}
    for word, window in parse_word_windows(word_windows):
        found = _find_in_targets(pair, word, chosen)
        _require_injected(word, name, kinds, found, alignments)
        for target, positions in found.items():
            for position in positions:
                if alignments[target].kinds[position] in kinds:
                    gates[target][position] = window
    return Edit(
        pair,
        tuple(
            RowEdit(tuple(gates[target]), self_attention, (1.0,) * len(gates[target]), NEVER, way=way)
            if target in gates
            else None
            for target in range(len(pair.targets))
        ),
    )


def parse_word_windows(text: str) -> list[tuple[str, Window]]:
    """``word: end`` or ``word: start-end``, one a line, fractions of the steps."""
    windows = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        match = re.fullmatch(rf"(.*\S)\s*:\s*(?:({NUMBER})\s*-\s*)?({NUMBER})", line)
        if not match:
            raise ValueError(f"Wanted lines 'word: end' or 'word: start-end' as in 'lion: 0.4', got {quoted(line)}.")
        try:
            windows.append((match[1], Window(float(match[2] or 0.0), float(match[3]))))
        except ValueError as error:
            raise ValueError(f"In the line {quoted(line)}: {error}") from None
    return windows


def chosen_targets(pair: PromptPair, edit: int) -> Sequence[int]:
    """Indices into ``pair.targets`` of edit 0 (all) or n (the n-th only)."""
    if not pair.targets:
        raise ValueError(
            "Wanted a prompt pair with an edited prompt, got the source alone. Write the edited prompt in the target "
            "of P2P Prompt Pair."
        )
    if not 0 <= edit <= len(pair.targets):
        raise ValueError(
            f"Wanted edit 0 (all) or 1 to {len(pair.targets)} (the pair's edited prompts in order), got {edit}. "
            "Add a prompt after a line '---' in P2P Prompt Pair, or lower the number."
        )
    return range(len(pair.targets)) if edit == 0 else (edit - 1,)


def _find_in_targets(pair: PromptPair, name: str, targets: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Positions of a word per edited row; it has to occur in at least one of them."""
    found = {target: pair.find(name, pair.targets[target]) for target in targets}
    if not any(found.values()):
        prompts = "; ".join(f"edit {target + 1}: {listing(pair.targets[target])}" for target in targets)
        raise ValueError(
            f"Wanted a word of the edited prompt, got {quoted(name)}, which is not there, or not that often. Its "
            f"words: {prompts}."
        )
    return found


def _require_injected(
    word: str, name: str, kinds: set[Kind], found: dict[int, tuple[int, ...]], alignments: dict[int, Alignment]
) -> None:
    """A window on a word that the node never injects would do nothing, silently."""
    classes = {alignments[target].kinds[position] for target, positions in found.items() for position in positions}
    if not classes & kinds:
        raise ValueError(
            f"{name} takes over the source's map for {' and '.join(sorted(kinds))} words; {quoted(word)} is "
            f"{' and '.join(sorted(classes))}, so a window for it has no effect. Remove that line"
            + (", or use P2P Attention Replace." if classes == {"swapped"} else ".")
        )
