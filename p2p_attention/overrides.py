"""What the user decides about which word stands for which: the lines of a text box.

One line each: ``cat -> dog`` (dog stands in place of cat), ``+ hat`` (new), ``- hat`` (removed). A line holds for every
edit in which its words are; with lines ``---``, as between the edited prompts, each part is for its own edit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from .prompt import Prompt, PromptPair, listing, quoted

ARROW = re.compile(r"\s*(?:->|=>|→)\s*")
WANTED = "Wanted lines 'cat -> dog', '+ word' (new) or '- word' (removed)"


class Override(NamedTuple):
    """Indices of the words of the source, and of those of the target that stand in their place; either may be empty."""

    source: tuple[int, ...]
    target: tuple[int, ...]


class _Line(NamedTuple):
    text: str
    source: str | None
    target: str | None


def overrides_of(pair: PromptPair) -> list[list[Override]]:
    """For each edited prompt what the lines of ``pair.alignment`` say about it.

    Raises:
        ValueError: a line cannot be read, or names words that are not there; the message lists those that are.
    """
    lines = _lines_of_each_edit(pair)
    found: list[list[Override]] = [[] for _ in pair.targets]
    together = len(lines) != len(pair.targets) or len(pair.targets) == 1
    if together:
        for line in lines[0] if lines else ():
            hits = [_resolved(pair, line, target) for target in pair.targets]
            if not any(hits):
                raise ValueError(_not_there(pair, line, pair.targets))
            for each, hit in zip(found, hits, strict=True):
                each += hit
    else:
        for each, target, own in zip(found, pair.targets, lines, strict=True):
            for line in own:
                hit = _resolved(pair, line, target)
                if not hit:
                    raise ValueError(_not_there(pair, line, [target]))
                each += hit
    return [_without_earlier(each) for each in found]


def _lines_of_each_edit(pair: PromptPair) -> list[list[_Line]]:
    parts: list[list[_Line]] = [[]]
    for text in (each.strip() for each in pair.alignment.splitlines()):
        if text == "---":
            parts.append([])
        elif text:
            parts[-1].append(_read(text))
    if parts == [[]]:
        return []
    if not pair.targets:
        raise ValueError(
            "Wanted an edited prompt to align, got alignment lines and the source alone. Write the edited prompt in "
            "target, or clear alignment."
        )
    if len(parts) > 1 and len(parts) != len(pair.targets):
        raise ValueError(
            f"Wanted alignment lines for each of the {len(pair.targets)} edited prompts, separated by lines '---', got "
            f"{len(parts)} parts. Without '---' the lines hold for all edits."
        )
    return parts


def _read(text: str) -> _Line:
    sides = ARROW.split(text)
    if len(sides) == 2 and all(sides):
        return _Line(text, *sides)
    sign, name = text[0], text[1:].strip()
    if len(sides) == 1 and name and sign in "+-":
        return _Line(text, None, name) if sign == "+" else _Line(text, name, None)
    raise ValueError(f"{WANTED}, got {quoted(text)}.")


def _resolved(pair: PromptPair, line: _Line, target: Prompt) -> list[Override]:
    """What a line says about one target; nothing if its words are not in it."""
    ours = [] if line.source is None else _words(pair, line.source, pair.source)
    theirs = [] if line.target is None else _words(pair, line.target, target)
    if line.source is not None and not ours:
        raise ValueError(
            f"Wanted a word of the source in the alignment line {quoted(line.text)}, got {quoted(line.source)}, which "
            f"is not there. Its words: {listing(pair.source)}."
        )
    if line.target is None:
        return [Override(each, ()) for each in ours]
    if line.source is None or not theirs:
        return [Override((), each) for each in theirs]
    if len(ours) != len(theirs):
        raise ValueError(
            f"Wanted one word for one in the alignment line {quoted(line.text)}, got {quoted(line.source)} "
            f"{len(ours)} times and {quoted(line.target)} {len(theirs)} times. Say which: {line.source}#1 is the first."
        )
    return [Override(*each) for each in zip(ours, theirs, strict=True)]


def _words(pair: PromptPair, name: str, prompt: Prompt) -> list[tuple[int, ...]]:
    """The words, as indices, of each occurrence of a name."""
    owner = {position: i for i, word in enumerate(prompt.words) for position in word.positions}
    return [tuple(dict.fromkeys(owner[position] for position in hit)) for hit in pair.occurrences(name, prompt)]


def _without_earlier(overrides: Sequence[Override]) -> list[Override]:
    """The last line counts where two are about one word."""
    kept: list[Override] = []
    for override in overrides:
        taken = [
            each
            for each in kept
            if not set(each.source) & set(override.source) and not set(each.target) & set(override.target)
        ]
        kept = [*taken, override]
    return kept


def _not_there(pair: PromptPair, line: _Line, targets: Sequence[Prompt]) -> str:
    said = "; ".join(f"edit {pair.targets.index(target) + 1}: {listing(target)}" for target in targets)
    return (
        f"Wanted a word of the edited prompt in the alignment line {quoted(line.text)}, got {quoted(line.target)}, "
        f"which is not there. Its words: {said}."
    )
