"""Which part of the source prompt each part of the target prompt stands for.

An alignment gives every target position one of three classes:

* ``shared``: the same word (and start, end and padding positions), wherever it stands,
* ``swapped``: its word stands in place of a source word,
* ``new``: nothing in the source corresponds to it.

Words that both prompts have in order are found by one global alignment (Needleman & Wunsch, 1970). A phrase between
commas that has moved is shared across what it has passed. What is left between shared words is changed: there the first
phrases stand for each other, head for head, and what is said behind them is new or removed.

The alignment matrix ``A`` (S, T) carries the source's attention map to the target's positions, ``M[0] @ A``.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from .overrides import Override, overrides_of
from .phrases import BEFORE_THE_NOUN, CONNECTIVES, Phrase, Role, language_of, phrases, same_kind
from .prompt import Prompt, PromptPair, Word

__all__ = ["CONNECTIVES", "Alignment", "Kind", "Span", "align", "aligned", "check_alignment"]

Kind = Literal["shared", "swapped", "new", "removed"]
Likeness = Callable[[Word, Word], float]  # how alike two words are; chance gives numbers of about -1 to 1

DECIDES = 5.0  # by how much more alike another word has to be than the one whose place tells, to be preferred
ONE_KIND = 6.0  # likeness of words that name things of one kind
MOST_CHOICES = 200  # ways to pair the words of two phrases that are compared
MOST_PHRASES = 400  # of prompts in which moved phrases are looked for
JOINING = frozenset("and or & + et y e und oder en och og i и та και ve dan và و ו और 和 と".split())  # between equals


@dataclass(frozen=True)
class Span:
    """Words of the source and the words of the target that stand for them (either may be empty)."""

    kind: Kind
    source: tuple[Word, ...]
    target: tuple[Word, ...]


@dataclass(frozen=True)
class Alignment:
    """The alignment of one target prompt to the source, see the module's text.

    ``spans`` are in the target's order, every word of both prompts once; removed words follow what they stood behind.
    """

    source: Prompt
    target: Prompt
    spans: tuple[Span, ...]

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """The class of each target position, length T."""
        kinds: list[Kind] = ["new"] * self.target.length
        for span in self.spans:
            for position in _positions(span.target):
                kinds[position] = span.kind
        for ours, theirs in self._special_positions():
            for position in theirs if ours else ():
                kinds[position] = "shared"
        return tuple(kinds)

    @property
    def matrix(self) -> torch.Tensor:
        """``A``, float32 (S, T), made anew each time; the columns of new positions are zero.

        A shared word maps piece to piece. A swapped word of m pieces against n: each of the n gets the mean of the m
        maps times m / n, so that the word's total attention is kept. Positions around the words are stretched in
        order onto their counterparts, keeping the total too.
        """
        matrix = torch.zeros(self.source.length, self.target.length)
        for span in self.spans:
            for rows, columns in _places(span):
                if span.kind == "shared" and len(rows) == len(columns):
                    matrix[rows, columns] = 1.0
                elif rows and columns:
                    matrix[torch.tensor(rows)[:, None], torch.tensor(columns)] = 1.0 / len(columns)
        for ours, theirs in self._special_positions():
            if ours and theirs:
                matrix[torch.tensor(ours)[:, None], torch.tensor(theirs)] = stretch(len(ours), len(theirs))
        return matrix

    def _special_positions(self) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
        """Source and target positions around the words that stand for each other.

        A prompt that fills its chunks has no padding; then its ends stand for the other's ends and padding, which
        share the attention that no word gets.
        """
        source, target = self.source, self.target
        if bool(source.padding) != bool(target.padding):
            rest = [tuple(sorted((*prompt.ends, *prompt.padding))) for prompt in (source, target)]
            return (source.starts, target.starts), (rest[0], rest[1])
        return (source.starts, target.starts), (source.ends, target.ends), (source.padding, target.padding)


def align(
    source: Prompt, target: Prompt, likeness: Likeness | None = None, overrides: Sequence[Override] = ()
) -> Alignment:
    """Align ``target`` to ``source`` word by word.

    Args:
        likeness: of words, by the encoder's own token embeddings.
        overrides: what the user has decided; it comes before everything else.
    """
    return Alignment(source, target, _Matcher(source.words, target.words, likeness).spans(overrides))


def aligned(pair: PromptPair, target: int) -> Alignment:
    """The alignment of ``pair.targets[target]``; it is kept with the pair, and goes with it.

    Raises:
        ValueError: a line of the pair's ``alignment`` cannot be read, or names a word that is not there.
    """
    if target not in pair.kept:
        pair.kept[target] = align(pair.source, pair.targets[target], pair.likeness, overrides_of(pair)[target])
    return pair.kept[target]


def check_alignment(pair: PromptPair) -> None:
    """Find every edit's alignment, so that a line that cannot be followed is refused before anything runs.

    Raises:
        ValueError: see ``aligned``.
    """
    overrides_of(pair)
    for row in range(len(pair.targets)):
        aligned(pair, row)


class _Matcher:
    """Finds which words stand for each other. All places are indices into the prompts' words."""

    def __init__(self, source: Sequence[Word], target: Sequence[Word], likeness: Likeness | None):
        self.source, self.target, self._likeness = source, target, likeness
        self._language = language = language_of([*source, *target])
        self._roles = tuple([language.role(word.text) for word in words] for words in (source, target))
        # How many commas and such stand before each word: equal within a phrase.
        self._marks_before = tuple(
            list(itertools.accumulate(self._is_mark(side, i) for i in range(len(words))))
            for side, words in enumerate((source, target))
        )
        self._groups: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        self._matched: tuple[set[int], set[int]] = (set(), set())
        self._moved: set[Hashable] = set()  # words that both prompts have, but not in order

    def spans(self, overrides: Sequence[Override]) -> tuple[Span, ...]:
        fixed = [set(itertools.chain(*each)) for each in zip(*overrides, strict=True)] if overrides else [set(), set()]
        ours, theirs = (
            [i for i in range(len(words)) if i not in taken]
            for words, taken in zip((self.source, self.target), fixed, strict=True)
        )
        for rows, columns in overrides:
            if rows and columns:
                self._take(rows, columns)
        self._match(ours, theirs)
        return self._in_order()

    def _take(self, rows: Sequence[int], columns: Sequence[int]) -> None:
        self._groups.append((tuple(rows), tuple(columns)))
        self._matched[0].update(rows)
        self._matched[1].update(columns)

    # ---- the whole

    def _match(self, ours: Sequence[int], theirs: Sequence[int]) -> None:
        pairs = self._shared(ours, theirs)
        missing = [
            self._names(words, side, {pair[side] for pair in pairs}) for side, words in enumerate((ours, theirs))
        ]
        self._moved = set(missing[0] & missing[1])
        if self._moved:
            for one, other in self._counterparts(ours, theirs):
                self._fill(one, other, self._shared(one, other))
            ours, theirs = (
                [i for i in each if i not in done] for each, done in zip((ours, theirs), self._matched, strict=True)
            )
            pairs = self._shared(ours, theirs)
        self._fill(ours, theirs, pairs)
        if self._moved:
            self._share_moved_runs(ours, theirs)

    def _word(self, side: int, place: int) -> Word:
        return (self.source, self.target)[side][place]

    def _key(self, side: int, place: int) -> Hashable:
        return self._word(side, place).key

    def _role(self, side: int, place: int) -> Role:
        return self._roles[side][place]

    def _says_something(self, side: int, place: int) -> bool:
        return self._roles[side][place] in ("name", "verb")

    def _is_mark(self, side: int, place: int) -> bool:
        """Whether it stands between phrases that may change places."""
        return self._roles[side][place] == "mark" or self._word(side, place).text.lower() in JOINING

    def _names(self, places: Sequence[int], side: int, without: set[int]) -> Counter[Hashable]:
        return Counter(self._key(side, i) for i in places if i not in without and self._says_something(side, i))

    def _shared(self, ours: Sequence[int], theirs: Sequence[int]) -> list[tuple[int, int]]:
        found = _shared_words([self.source[i] for i in ours], [self.target[j] for j in theirs])
        return [(ours[i], theirs[j]) for i, j in found]

    # ---- what has moved

    def _segments(self, side: int, places: Sequence[int]) -> list[tuple[list[int], int | None]]:
        """Phrases between commas and ``and``, each with what stands before it."""
        segments: list[tuple[list[int], int | None]] = [([], None)]
        for i in places:
            if self._is_mark(side, i):
                segments.append(([], i))
            else:
                segments[-1][0].append(i)
        return segments

    def _counterparts(self, ours: Sequence[int], theirs: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """Phrases of both prompts that stand for each other, wherever they are.

        With one that stands elsewhere goes the comma or ``and`` beside it.
        """
        segments = [self._segments(side, places) for side, places in enumerate((ours, theirs))]
        if len(segments[0]) == len(segments[1]) == 1:
            return []
        pairs = self._same_phrases(*([phrase for phrase, _ in each] for each in segments))
        stay = _heaviest_in_order([(i, j, len(segments[0][i][0])) for i, j in pairs])
        used: tuple[set[int], set[int]] = (set(), set())
        for i, j in pairs:
            if (i, j) in stay:
                continue
            marks = []
            for side, number in enumerate((i, j)):
                each = segments[side]
                beside = [each[number][1], each[number + 1][1] if number + 1 < len(each) else None]
                marks.append([mark for mark in beside if mark is not None and mark not in used[side]])
            together = next(((a, b) for a in marks[0] for b in marks[1] if self._key(0, a) == self._key(1, b)), None)
            if together:
                self._take(together[:1], together[1:])
                used[0].add(together[0])
                used[1].add(together[1])
        return [(segments[0][i][0], segments[1][j][0]) for i, j in pairs]

    def _same_phrases(self, ours: Sequence[list[int]], theirs: Sequence[list[int]]) -> list[tuple[int, int]]:
        """Phrases of the same words, then of half of the same telling words; (source's, target's) number of each."""
        if max(len(ours), len(theirs)) > MOST_PHRASES:
            return []
        pairs = []
        waiting: dict[tuple, list[int]] = {}
        for j in reversed(range(len(theirs))):
            waiting.setdefault(tuple(self._key(1, place) for place in theirs[j]), []).append(j)
        for i, phrase in enumerate(ours):
            same = waiting.get(tuple(self._key(0, place) for place in phrase))
            if phrase and same:
                pairs.append((i, same.pop()))
        rest = [set(range(len(each))) - {pair[side] for pair in pairs} for side, each in enumerate((ours, theirs))]
        names = [
            {number: self._names(each[number], side, set()) for number in rest[side]}
            for side, each in enumerate((ours, theirs))
        ]
        alike = []
        for i, j in itertools.product(*map(sorted, rest)):
            most = max(names[0][i].total(), names[1][j].total())
            common = (names[0][i] & names[1][j]).total()
            if common and common >= most / 2:
                alike.append((-common / most, abs(i - j), i, j))
        for *_, i, j in sorted(alike):
            if i in rest[0] and j in rest[1]:
                rest[0].remove(i)
                rest[1].remove(j)
                pairs.append((i, j))
        return sorted(pairs)

    def _share_moved_runs(self, ours: Sequence[int], theirs: Sequence[int]) -> None:
        """A phrase of one prompt that stands within a longer one of the other."""
        for side in (0, 1):
            sides = (ours, theirs)
            names = [i for i in sides[1 - side] if self._says_something(1 - side, i)]
            begins: dict[Hashable, list[int]] = {}
            for place, i in enumerate(names):
                begins.setdefault(self._key(1 - side, i), []).append(place)
            for phrase, _ in self._segments(side, sides[side]):
                wanted = [i for i in phrase if self._says_something(side, i)]
                if not wanted or any(i in self._matched[side] for i in wanted):
                    continue
                for first in begins.get(self._key(side, wanted[0]), ()):
                    run = names[first : first + len(wanted)]
                    if len(run) == len(wanted) and all(
                        b not in self._matched[1 - side] and self._key(side, a) == self._key(1 - side, b)
                        for a, b in zip(wanted, run, strict=True)
                    ):
                        for a, b in zip(wanted, run, strict=True):
                            self._take(*([a], [b]) if side == 0 else ([b], [a]))
                        break

    # ---- what has changed

    def _fill(self, ours: Sequence[int], theirs: Sequence[int], pairs: list[tuple[int, int]]) -> None:
        """Take the shared words, and pair what lies between them."""
        pairs = self._by_likeness(ours, theirs, pairs)
        for i, j in pairs:
            self._take([i], [j])
        gaps = [gap for gap in _gaps(ours, theirs, pairs) if gap[0] and gap[1]]
        inner: list[Gap] = []
        for gap in gaps:
            common = {self._key(0, i) for i in gap[0]} & {self._key(1, j) for j in gap[1]}
            inner += self._share_within(gap) if common else [gap]
        keys = [[{self._key(side, i) for i in gap[side]} for gap in inner] for side in (0, 1)]
        gaps_with: dict[Hashable, list[int]] = {}  # word of the source -> the gaps that it is in
        for number, each in enumerate(keys[0]):
            for key in each:
                gaps_with.setdefault(key, []).append(number)
        for number, gap in enumerate(inner):
            moved = {j for j in gap[1] if self._says_something(1, j) and self._key(1, j) in self._moved}
            exchanged = set()
            for j in moved:
                others = [each for each in gaps_with.get(self._key(1, j), ()) if keys[1][each] & keys[0][number]]
                if any(self._is_one_phrase(gap, inner[other]) for other in others):
                    exchanged.add(j)
            self._pair_phrases(gap, moved - exchanged)

    def _by_likeness(
        self, ours: Sequence[int], theirs: Sequence[int], pairs: list[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """The shared words, but of equal commas one prompt's later one where what is before it is much more alike.

        As in "cat, snow" -> "clouds, dog, snow".
        """
        pairs = list(pairs)
        gaps = _gaps(ours, theirs, pairs)
        for number, pair in enumerate(pairs):
            if self._roles[0][pair[0]] != "mark":
                continue
            for side in (0, 1):
                before, behind = gaps[number], gaps[number + 1]
                if behind[1 - side] or not before[0] or not before[1]:
                    continue
                head = before[1 - side][-1]
                later = [i for i in behind[side] if self._key(side, i) == self._key(0, pair[0])]
                likeness = [self._alike(side, (i,), (head,)) for i in (before[side][-1], *(j - 1 for j in later))]
                if later and max(likeness) >= likeness[0] + DECIDES:
                    chosen = later[likeness.index(max(likeness)) - 1]
                    pairs[number] = (pair[0], chosen) if side == 1 else (chosen, pair[1])
                    gaps = _gaps(ours, theirs, pairs)
                    break
        return pairs

    def _share_within(self, gap: Gap) -> list[Gap]:
        """Equal words that the alignment had passed over, and the gaps between them."""
        pairs = _longest_common(
            [(i, self._key(0, i)) for i in gap[0] if self._says_something(0, i)],
            [(j, self._key(1, j)) for j in gap[1] if self._says_something(1, j)],
        )
        for i, j in pairs:
            self._take([i], [j])
        return [each for each in _gaps(*gap, pairs) if each[0] and each[1]]

    def _is_one_phrase(self, one: Gap, other: Gap) -> bool:
        """Whether no comma stands between two gaps, so that words which change places are exchanged, not moved.

        As in ``a cat on a dog`` and ``a dog on a cat``.
        """
        places = [(one[side][0], one[side][-1], other[side][0], other[side][-1]) for side in (0, 1)]
        return all(len({self._marks_before[side][i] for i in each}) == 1 for side, each in enumerate(places))

    def _pair_phrases(self, gap: Gap, moved: set[int]) -> None:
        """The first phrase for the first, what begins alike for what begins alike; the rest is new or removed.

        "cat" -> "big dog": dog for cat, big is new. "teddy bear" -> "cat": cat for both. "cat" -> "dog with a hat":
        dog for cat, the phrase is new. "cat on grass" -> "dog under trees": phrase for phrase.
        """
        if len(gap[0]) == len(gap[1]) == 1 and not moved:
            if (self._role(0, gap[0][0]) == "mark") == (self._role(1, gap[1][0]) == "mark"):
                self._take(*gap)
            return
        ours, theirs = (self._phrases(side, gap[side]) for side in (0, 1))
        ours, theirs = self._begin_with_the_most_alike(ours, theirs)
        after = 0
        for phrase in ours:
            at = next((i for i in range(after, len(theirs)) if theirs[i].lead == phrase.lead), None)
            if at is None:
                continue
            self._pair_openings(phrase.opening, [j for j in theirs[at].opening if j not in moved])
            units = [tuple(j for j in unit if j not in moved) for unit in theirs[at].units]
            self._pair_units(phrase.units, [unit for unit in units if unit])
            after = at + 1

    def _phrases(self, side: int, places: Sequence[int]) -> list[Phrase]:
        before = self._word(side, places[0] - 1) if places[0] else None
        found = phrases([self._word(side, i) for i in places], self._language, before)
        return [
            Phrase(
                each.lead,
                tuple(places[i] for i in each.opening),
                tuple(tuple(places[i] for i in unit) for unit in each.units),
            )
            for each in found
        ]

    def _begin_with_the_most_alike(self, ours: list[Phrase], theirs: list[Phrase]) -> tuple[list[Phrase], list[Phrase]]:
        """Where one prompt says more than the other, the thing that is said may stand behind what was added."""
        for side, (few, many) in enumerate(((ours, theirs), (theirs, ours))):
            if not few or not many or few[0].lead != "start" or sum(map(_size, many)) <= sum(map(_size, few)):
                continue
            names = self._name_units(side, few[0].units)
            if not names:
                continue
            head = names[0] if self._language.adjectives_follow else names[-1]
            usual = self._head(1 - side, many[0]) if many[0].lead == "start" else None
            least = self._alike(side, head, usual) if usual else 0.0
            choices = [
                (self._alike(side, head, unit), -number, -place)
                for number, phrase in enumerate(many)
                for place, unit in enumerate(phrase.units)
                if self._role(1 - side, unit[0]) != "article"
            ]
            if not choices or max(choices)[0] < least + DECIDES:
                continue
            _, number, place = max(choices)
            chosen = _beginning_at(many, -number, -place, self._language.adjectives_follow)
            return (ours, chosen) if side == 0 else (chosen, theirs)
        return ours, theirs

    def _name_units(self, side: int, units: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return [unit for unit in units if self._role(side, unit[0]) != "article"]

    def _head(self, side: int, phrase: Phrase) -> tuple[int, ...] | None:
        names = self._name_units(side, phrase.units)
        return (names[0] if self._language.adjectives_follow else names[-1]) if names else None

    def _alike(self, side: int, unit: tuple[int, ...], other: tuple[int, ...]) -> float:
        """How alike two members of phrases are; ``unit`` is of prompt ``side``, ``other`` of the other one."""
        a, b = ([self._word(s, i) for i in each] for s, each in ((side, unit), (1 - side, other)))
        likeness = ONE_KIND if same_kind(*("".join(word.text for word in words) for words in (a, b))) else 0.0
        if self._likeness and len(a) == len(b) == 1:
            likeness += self._likeness(a[0], b[0])
        return likeness

    def _pair_openings(self, ours: Sequence[int], theirs: Sequence[int]) -> None:
        for role in ("mark", "link", "article", "verb", "name"):
            sides = ([i for i in each if self._role(side, i) == role] for side, each in enumerate((ours, theirs)))
            for i, j in zip(*sides, strict=False):
                self._take([i], [j])

    def _pair_units(self, ours: Sequence[tuple[int, ...]], theirs: Sequence[tuple[int, ...]]) -> None:
        """Head for head. Adjectives stand before it or behind it; surplus ones are new, or part of what is swapped."""
        articles = [
            [unit for unit in units[:1] if self._role(side, unit[0]) == "article"]
            for side, units in enumerate((ours, theirs))
        ]
        for a, b in zip(*articles, strict=False):
            self._take(a, b)
        a, b = (self._name_units(side, units) for side, units in enumerate((ours, theirs)))
        if not a or not b:
            return
        chosen = self._chosen(a, b)
        surplus = len(a) - len(chosen)
        if self._language.adjectives_follow:
            groups = [[unit] for unit in a[: len(chosen) - 1]] + [a[len(chosen) - 1 :]]
        else:
            groups = [a[: surplus + 1]] + [[unit] for unit in a[surplus + 1 :]]
        for group, unit in zip(groups, chosen, strict=True):
            rows = [i for each in group for i in each]
            if len(group) == 1 and len(rows) == len(unit):
                for i, j in zip(rows, unit, strict=True):
                    self._take([i], [j])
            else:
                self._take(rows, unit)

    def _chosen(self, ours: Sequence[tuple[int, ...]], theirs: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """As many of the target's members as can stand for one of the source's: the heads, or the most alike ones."""
        count = min(len(ours), len(theirs))
        follow = self._language.adjectives_follow
        usual = list(theirs[:count] if follow else theirs[-count:])
        if follow and len(theirs) > count:
            names = [unit for unit in theirs if self._word(1, unit[0]).text.lower() not in BEFORE_THE_NOUN]
            usual = names[:count] if len(names) >= count else usual
        if len(theirs) == count or math.comb(len(theirs), count) > MOST_CHOICES:
            return usual

        def total(units: Sequence[tuple[int, ...]]) -> float:
            return sum(self._alike(0, a, b) for a, b in zip(ours, units, strict=False))

        best = max(map(list, itertools.combinations(theirs, count)), key=total)
        return best if total(best) >= total(usual) + DECIDES else usual

    # ---- the result

    def _in_order(self) -> tuple[Span, ...]:
        spans = []  # (target's first place, span, source's places)
        for rows, columns in self._groups:
            ours, theirs = tuple(self.source[i] for i in rows), tuple(self.target[j] for j in columns)
            same = len(rows) == len(columns) and all(a.key == b.key for a, b in zip(ours, theirs, strict=True))
            spans.append((columns[0], Span("shared" if same else "swapped", ours, theirs), rows))
        for j, word in enumerate(self.target):
            if j not in self._matched[1]:
                spans.append((j, Span("new", (), (word,)), ()))
        spans.sort(key=lambda each: each[0])
        behind: dict[int, list[Span]] = {}  # source's place -> what was removed behind it
        last = -1
        for i, word in enumerate(self.source):
            if i in self._matched[0]:
                last = i
            else:
                behind.setdefault(last, []).append(Span("removed", (word,), ()))
        ordered = behind.get(-1, [])
        for _, span, rows in spans:
            ordered.append(span)
            for i in rows:
                ordered += behind.get(i, [])
        return tuple(ordered)


Gap = tuple[Sequence[int], Sequence[int]]  # consecutive words of the source and of the target


def _gaps(ours: Sequence[int], theirs: Sequence[int], pairs: Sequence[tuple[int, int]]) -> list[Gap]:
    """What lies before, between and behind pairs that are in order."""
    gaps = []
    a = b = 0
    place = ({i: n for n, i in enumerate(ours)}, {j: n for n, j in enumerate(theirs)})
    for i, j in pairs:
        next_a, next_b = place[0][i], place[1][j]
        gaps.append((ours[a:next_a], theirs[b:next_b]))
        a, b = next_a + 1, next_b + 1
    return [*gaps, (ours[a:], theirs[b:])]


def _size(phrase: Phrase) -> int:
    return len(phrase.units)


def _beginning_at(phrases: list[Phrase], number: int, place: int, adjectives_follow: bool) -> list[Phrase]:
    """The phrases from one of them on, whose head is one of its members."""
    units = phrases[number].units
    if adjectives_follow:
        return [Phrase("start", (), units[place:]), *phrases[number + 1 :]]
    return [Phrase("start", (), units[: place + 1]), *phrases[number + 1 :]]


def _heaviest_in_order(pairs: Sequence[tuple[int, int, int]]) -> set[tuple[int, int]]:
    """Of (i, j, weight), sorted by i, those of the heaviest choice whose j rise, too; of equal ones the leftmost."""
    best: list[tuple[int, int]] = []  # of each pair as the first one: (weight, the next pair's index)
    for n in reversed(range(len(pairs))):
        _, j, weight = pairs[n]
        later = [(best[m - n - 1][0], -m) for m in range(n + 1, len(pairs)) if pairs[m][1] > j]
        weight_behind, next_one = max(later, default=(0, 0))
        best.insert(0, (weight + weight_behind, -next_one))
    stay = set()
    at = max(range(len(pairs)), key=lambda n: best[n][0], default=0)
    while pairs:
        stay.add(pairs[at][:2])
        if best[at][1] <= at:
            break
        at = best[at][1]
    return stay


def _longest_common(
    ours: Sequence[tuple[int, Hashable]], theirs: Sequence[tuple[int, Hashable]]
) -> list[tuple[int, int]]:
    """The most pairs of equal keys that are in order; of equally many the leftmost."""
    rows, columns = len(ours), len(theirs)
    numbers = {key: number for number, key in enumerate(dict.fromkeys(key for _, key in (*ours, *theirs)))}
    a, b = (np.array([numbers[key] for _, key in each], dtype=np.int64) for each in (ours, theirs))
    length = np.zeros((rows + 1, columns + 1), dtype=np.int32)
    for i in reversed(range(rows)):
        row = np.maximum(length[i + 1][:-1], length[i + 1][1:] + (b == a[i]))
        length[i, :-1] = np.maximum.accumulate(row[::-1])[::-1]
    pairs = []
    i = j = 0
    while i < rows and j < columns:
        if a[i] == b[j] and length[i, j] == length[i + 1, j + 1] + 1:
            pairs.append((ours[i][0], theirs[j][0]))
            i, j = i + 1, j + 1
        elif length[i, j] == length[i, j + 1]:
            j += 1
        else:
            i += 1
    return pairs


def _shared_words(source: Sequence[Word], target: Sequence[Word]) -> list[tuple[int, int]]:
    """Index pairs of equal words on the best path: match +1, mismatch -1, gap -1; of equally good ones the leftmost."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(word.key for word in (*source, *target)))}
    a, b = (np.array([numbers[word.key] for word in words], dtype=np.int64) for words in (source, target))
    rows, columns = len(a), len(b)
    places = np.arange(columns + 1, dtype=np.int32)
    # best[i, j] is the score of aligning what follows: source[i:] with target[j:]
    best = np.empty((rows + 1, columns + 1), dtype=np.int32)
    best[rows] = places - columns
    for i in reversed(range(rows)):
        row = best[i + 1] - 1  # a gap in the target
        row[:-1] = np.maximum(row[:-1], best[i + 1, 1:] + np.where(b == a[i], 1, -1))
        # gaps in the source, any number of them: the best of row[k] - (k - j) over k >= j
        best[i] = np.maximum.accumulate((row - places)[::-1])[::-1] + places
    pairs = []
    i = j = 0
    while i < rows and j < columns:
        step = 1 if a[i] == b[j] else -1
        if best[i, j] == best[i + 1, j + 1] + step:
            if step == 1:
                pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i, j] == best[i + 1, j] - 1:
            i += 1
        else:
            j += 1
    return pairs


def _places(span: Span) -> list[tuple[list[int], list[int]]]:
    """The positions of a span's words, (source's, target's); of each encoder by itself if a model has several."""
    sides = (span.source, span.target)
    counts = {len(word.places) for words in sides for word in words}
    if len(counts) != 1:
        return [(_positions(span.source), _positions(span.target))]

    def of(words: Sequence[Word], encoder: int) -> list[int]:
        return [position for word in words for position in word.places[encoder]]

    return [(of(span.source, encoder), of(span.target, encoder)) for encoder in range(counts.pop())]


def _positions(words: Sequence[Word]) -> list[int]:
    return [position for word in words for position in word.positions]


def stretch(rows: int, columns: int) -> torch.Tensor:
    """(rows, columns): row i spread evenly over the interval [i, i + 1) * columns / rows; identity when equal.

    Each row sums to 1, so the total attention is kept whatever the counts.
    """
    left = torch.arange(rows, dtype=torch.float64)[:, None] * columns
    right = left + columns
    start = torch.arange(columns, dtype=torch.float64) * rows
    overlap = torch.minimum(right, start + rows) - torch.maximum(left, start)  # in units of 1 / (rows * columns)
    return (overlap.clamp(min=0) / columns).float()
