"""Replace, Refine and Reweight become gates, gains and windows, and chain in any order."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p_attention.edit import NEVER, Window, combine, parse_word_windows, refine, replace, reweight

CROSS, SELF = Window(0.0, 0.8), Window(0.0, 0.4)
ALWAYS = Window(0.0, 1.0)
NAN, INFINITY = math.nan, math.inf
SOURCE, TARGET = "a cat on a mat", "a big dog on a mat"  # big is new, dog swapped, the rest shared


@pytest.fixture(scope="module")
def pair(toy):
    return toy.pair(SOURCE, TARGET)


@pytest.fixture(scope="module")
def two_edits(toy):
    return toy.pair("a cat on a mat", "a lion on a mat", "a cat on a red mat")


def by_word(values, prompt):
    """One value per word (all pieces agree), ``word#n`` where it occurs again, and one for the special positions."""
    result = {}
    for word in prompt.words:
        name, n = word.text, 1
        while name in result:
            n += 1
            name = f"{word.text}#{n}"
        (result[name],) = {values[position] for position in word.positions}
    (result["special"],) = {values[position] for position in (*prompt.starts, *prompt.ends, *prompt.padding)}
    return result


def gates(edit, row=0):
    return by_word(edit.rows[row].gates, edit.pair.targets[row])


# ---- windows


@pytest.mark.parametrize(
    ("start", "end", "steps", "inside"),
    [
        (0.0, 1.0, 4, [0, 1, 2, 3]),
        (0.0, 0.0, 4, []),
        (0.5, 0.5, 4, []),
        (0.625, 0.625, 4, []),  # at the very middle of step 2
        (1.0, 1.0, 4, []),
        (0.0, 0.8, 10, [0, 1, 2, 3, 4, 5, 6, 7]),
        (0.0, 0.8, 5, [0, 1, 2, 3]),
        (0.0, 0.8, 4, [0, 1, 2]),  # 3.2 steps
        (0.0, 0.8, 3, [0, 1]),  # 2.4 steps
        (0.0, 0.8, 2, [0, 1]),  # 1.6 steps
        (0.0, 0.8, 1, [0]),
        (0.0, 0.4, 4, [0, 1]),  # 1.6 steps
        (0.0, 0.4, 3, [0]),
        (0.0, 0.4, 1, []),
        (0.2, 0.5, 10, [2, 3, 4]),
        (0.5, 1.0, 3, [1, 2]),  # the middle of step 1 belongs to the later half
        (0.0, 0.5, 3, [0]),
        (0.0, 0.01, 50, []),
        (0.0, 0.02, 50, [0]),
        (0.98, 1.0, 50, [49]),
    ],
)
def test_window_covers_steps_by_their_middle(start, end, steps, inside):
    assert [step for step in range(steps) if Window(start, end).contains(step, steps)] == inside


@given(st.integers(1, 60), st.floats(0, 1), st.floats(0, 1))
def test_neighbouring_windows_share_no_step_and_leave_none_out(steps, one, other):
    cuts = [0.0, *sorted((one, other)), 1.0]
    windows = [Window(*ends) for ends in itertools.pairwise(cuts)]
    assert all(sum(window.contains(step, steps) for window in windows) == 1 for step in range(steps))


@given(st.integers(1, 60), st.floats(0, 1))
def test_window_from_the_start_covers_the_nearest_number_of_steps(steps, end):
    covered = sum(Window(0.0, end).contains(step, steps) for step in range(steps))
    assert abs(covered - end * steps) <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("start", "end"),
    [(0.5, 0.4), (-0.1, 0.5), (0.0, 1.1), (NAN, 0.5), (0.0, NAN), (NAN, NAN), (0.0, INFINITY), (-INFINITY, 0.5)],
)
def test_window_refuses(start, end):
    with pytest.raises(ValueError, match=rf"Wanted a window .*, got start {start:g} and end {end:g}\."):
        Window(start, end)


# ---- word windows


@pytest.mark.parametrize(
    ("text", "windows"),
    [
        ("", []),
        (" \n\n", []),
        ("lion: 0.4", [("lion", 0.0, 0.4)]),
        ("lion:0.4", [("lion", 0.0, 0.4)]),
        ("  lion  :  .4  ", [("lion", 0.0, 0.4)]),
        ("lion: 1", [("lion", 0.0, 1.0)]),
        ("lion: 0", [("lion", 0.0, 0.0)]),
        ("lion: 0.2-0.5", [("lion", 0.2, 0.5)]),
        ("lion: 0.2 - 0.5", [("lion", 0.2, 0.5)]),
        ("lion: .2-1", [("lion", 0.2, 1.0)]),
        ("teddy bear: 0.4", [("teddy bear", 0.0, 0.4)]),
        ("lion#2: 0.4", [("lion#2", 0.0, 0.4)]),
        ("(cat:1.2): 0.4", [("(cat:1.2)", 0.0, 0.4)]),
        ("(cat:1.2):0.1-0.4", [("(cat:1.2)", 0.1, 0.4)]),
        ("embedding:glow: 0.4", [("embedding:glow", 0.0, 0.4)]),
        ("16:9: 0.4", [("16:9", 0.0, 0.4)]),
        ("well-lit: 0.4", [("well-lit", 0.0, 0.4)]),
        ("lion: 0.4\n\n  mat: 0.1-0.2\r\n", [("lion", 0.0, 0.4), ("mat", 0.1, 0.2)]),
    ],
)
def test_parse_word_windows(text, windows):
    assert parse_word_windows(text) == [(word, Window(start, end)) for word, start, end in windows]


UNREADABLE = [
    "lion", "lion:", "lion 0.4", "lion: x", ": 0.4", "0.4", "lion: -0.2", "lion: 0.4-", "lion: 0.2-0.4-0.6", "(cat:1.2)"
]  # fmt: skip


@pytest.mark.parametrize("line", UNREADABLE)
def test_word_windows_that_cannot_be_read(line):
    with pytest.raises(ValueError, match=r"Wanted lines 'word: end' or 'word: start-end'") as error:
        parse_word_windows(f"mat: 0.4\n{line}")
    assert repr(line) in str(error.value)


@pytest.mark.parametrize("line", ["lion: 0.8-0.2", "lion: 1.5", "lion: 0.5-80"])
def test_word_windows_out_of_range(line):
    with pytest.raises(ValueError, match="Wanted a window with 0 <= start <= end <= 1"):
        parse_word_windows(line)


# ---- the three edits


def test_replace_opens_the_gates_of_shared_and_swapped_words(pair):
    edit = replace(pair, CROSS, SELF)
    assert gates(edit) == {
        "a": CROSS, "big": NEVER, "dog": CROSS, "on": CROSS, "a#2": CROSS, "mat": CROSS, "special": CROSS
    }  # fmt: skip
    (row,) = edit.rows
    assert row.self_attention == SELF
    assert set(row.gains) == {1.0}
    assert len(row.gates) == len(row.gains) == pair.targets[0].length


def test_refine_opens_the_gates_of_shared_words_only(pair):
    edit = refine(pair, CROSS, SELF)
    assert gates(edit) == {
        "a": CROSS, "big": NEVER, "dog": NEVER, "on": CROSS, "a#2": CROSS, "mat": CROSS, "special": CROSS
    }  # fmt: skip
    (row,) = edit.rows
    assert row.self_attention == SELF
    assert set(row.gains) == {1.0}


def test_reweight_scales_the_named_words(pair):
    edit = reweight(pair, "dog, a#2", -1.5, SELF)
    (row,) = edit.rows
    assert by_word(row.gains, pair.targets[0]) == {
        "a": 1.0, "big": 1.0, "dog": -1.5, "on": 1.0, "a#2": -1.5, "mat": 1.0, "special": 1.0
    }  # fmt: skip
    assert row.gain_window == SELF
    assert row.self_attention == NEVER
    assert gates(edit) == {
        "a": SELF, "big": NEVER, "dog": NEVER, "on": SELF, "a#2": SELF, "mat": SELF, "special": SELF
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "scaled"),
    [
        ("mat", {"mat"}),
        ("MAT", {"mat"}),
        ("a", {"a", "a#2"}),
        ("a mat", {"a#2", "mat"}),
        ("dog,mat", {"dog", "mat"}),
        ("dog\n mat \n", {"dog", "mat"}),
        (" , dog ,, mat,", {"dog", "mat"}),
        ("dog, dog", {"dog"}),
        ("big dog, dog on", {"big", "dog", "on"}),
    ],
)
def test_reweight_word_lists(pair, words, scaled):
    gains = by_word(reweight(pair, words, 3.0, ALWAYS).rows[0].gains, pair.targets[0])
    assert {word for word, gain in gains.items() if gain == 3.0} == scaled
    assert set(gains.values()) <= {1.0, 3.0}


@pytest.mark.parametrize(
    ("words", "gains"),
    [
        ("dog: 2, mat", {"dog": 2.0, "mat": 3.0}),
        ("dog: 2\nmat: -0.5", {"dog": 2.0, "mat": -0.5}),
        ("big dog:0, mat : .5", {"big": 0.0, "dog": 0.0, "mat": 0.5}),
        ("a: 2\na#2: +1.5", {"a": 2.0, "a#2": 1.5}),  # the last one counts
        ("dog: 1", {}),
    ],
)
def test_reweight_words_with_factors_of_their_own(pair, words, gains):
    made = by_word(reweight(pair, words, 3.0, ALWAYS).rows[0].gains, pair.targets[0])
    assert {word: gain for word, gain in made.items() if gain != 1.0} == gains


def test_a_text_that_is_in_the_prompt_is_no_factor(toy):
    """Old workflows may name it."""
    pair = toy.pair("a 16:9 picture", "a 16:9 drawing")
    assert set(reweight(pair, "16:9", 3.0, ALWAYS).rows[0].gains) == {1.0, 3.0}
    with pytest.raises(ValueError, match="Wanted a word with its factor, as in 'snow: 0.5', got '16:9'"):
        reweight(pair, "16:9", None, ALWAYS)


def test_reweight_that_does_not_hold_leaves_the_maps_alone(pair):
    (row,) = reweight(pair, "dog: 2", None, ALWAYS, hold=False).rows
    assert not row.injects and set(row.gains) == {1.0, 2.0}


@pytest.mark.parametrize(
    ("word_windows", "changed"),
    [
        ("dog: 0.4", {"dog": (0.0, 0.4)}),
        ("(dog:1.3): 0.4", {"dog": (0.0, 0.4)}),
        ("dog: 0", {"dog": (0.0, 0.0)}),
        ("a: 0.2-0.6", {"a": (0.2, 0.6), "a#2": (0.2, 0.6)}),
        ("a#2: 0.2-0.6", {"a#2": (0.2, 0.6)}),
        ("on a: 0.5", {"on": (0.0, 0.5), "a#2": (0.0, 0.5)}),
        ("big dog: 0.5", {"dog": (0.0, 0.5)}),  # big is new: it has no gate to open
        ("dog: 0.4\nmat: 1", {"dog": (0.0, 0.4), "mat": (0.0, 1.0)}),
        ("dog: 0.4\ndog: 0.5", {"dog": (0.0, 0.5)}),  # the last line counts
    ],
)
def test_word_windows_take_the_place_of_the_cross_window(pair, word_windows, changed):
    expected = gates(replace(pair, CROSS, SELF)) | {word: Window(*ends) for word, ends in changed.items()}
    assert gates(replace(pair, CROSS, SELF, word_windows)) == expected


def test_word_of_several_pieces_is_gated_and_scaled_whole(toy):
    pair = toy.pair("a cat", "a elephant")
    (elephant,) = (word.positions for word in pair.targets[0].words if word.text == "elephant")
    gated = replace(pair, CROSS, SELF, "elephant: 0.3").rows[0].gates
    scaled = reweight(pair, "elephant", 2.0, ALWAYS).rows[0].gains
    assert {position for position, gate in enumerate(gated) if gate == Window(0.0, 0.3)} == set(elephant)
    assert {position for position, gain in enumerate(scaled) if gain == 2.0} == set(elephant)


def test_a_word_needs_to_be_in_one_edited_prompt_only(two_edits):
    edit = replace(two_edits, CROSS, SELF, "lion: 0.3")
    assert gates(edit, 0)["lion"] == Window(0.0, 0.3)
    assert set(gates(edit, 1).values()) == {CROSS, NEVER}  # "red" is new there
    edit = reweight(two_edits, "lion", 2.0, ALWAYS)
    assert edit.rows[0] is not None
    assert edit.rows[1] is None


@pytest.mark.parametrize(("number", "rows"), [(0, [True, True]), (1, [True, False]), (2, [False, True])])
def test_edit_number_chooses_the_edited_prompt(two_edits, number, rows):
    for edit in (
        replace(two_edits, CROSS, SELF, edit=number),
        refine(two_edits, CROSS, SELF, edit=number),
        reweight(two_edits, "mat", 2.0, ALWAYS, edit=number),
    ):
        assert [row is not None for row in edit.rows] == rows
        assert edit.pair is two_edits


def test_edits_are_frozen_and_shared_by_deep_copies(pair):
    edit = replace(pair, CROSS, SELF)
    assert copy.deepcopy([edit])[0] is edit
    with pytest.raises(AttributeError):
        edit.rows = ()


# ---- the user's mistakes

LISTED = r"is not there, or not that often\. Its words: edit 1: a, lion, on, a, mat; edit 2: a, cat, on, a, red, mat\."


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda pair: replace(pair, CROSS, SELF, "tiger: 0.4"), rf"edited prompt, got 'tiger', which {LISTED}"),
        (lambda pair: refine(pair, CROSS, SELF, "tiger: 0.4"), rf"edited prompt, got 'tiger', which {LISTED}"),
        (lambda pair: reweight(pair, "mat, tiger", 2.0, ALWAYS), rf"edited prompt, got 'tiger', which {LISTED}"),
        (lambda pair: reweight(pair, "mat#2", 2.0, ALWAYS), rf"got 'mat#2', which {LISTED}"),
        (lambda pair: reweight(pair, "lion mat", 2.0, ALWAYS), rf"got 'lion mat', which {LISTED}"),
        (
            lambda pair: reweight(pair, "lion", 2.0, ALWAYS, edit=2),
            r"got 'lion', .* Its words: edit 2: a, cat, on, a, red, mat\.$",
        ),
        (
            lambda pair: replace(pair, CROSS, SELF, "red: 0.4", edit=1),
            r"got 'red', .* Its words: edit 1: a, lion, on, a, mat\.$",
        ),
        (
            lambda pair: replace(pair, CROSS, SELF, "red: 0.4"),
            r"P2P Attention Replace .* shared and swapped words; 'red' is new, .* Remove that line\.$",
        ),
        (
            lambda pair: refine(pair, CROSS, SELF, "lion: 0.4"),
            r"P2P Attention Refine .* for shared words; 'lion' is swapped, .* or use P2P Attention Replace\.$",
        ),
        (lambda pair: refine(pair, CROSS, SELF, "red: 0.4"), r"'red' is new, .* Remove that line\.$"),
        (lambda pair: replace(pair, CROSS, SELF, "lion 0.4"), "Wanted lines 'word: end'"),
        (lambda pair: replace(pair, CROSS, SELF, "lion: 1.4"), "Wanted a window"),
        (lambda pair: replace(pair, CROSS, SELF, "lion#0: 0.4"), "counted from 1"),
        (lambda pair: replace(pair, CROSS, SELF, edit=3), r"Wanted edit 0 \(all\) or 1 to 2 .*, got 3\."),
        (lambda pair: refine(pair, CROSS, SELF, edit=-1), r"Wanted edit 0 \(all\) or 1 to 2 .*, got -1\."),
        (lambda pair: reweight(pair, "mat", 2.0, ALWAYS, edit=3), r"Wanted edit 0 \(all\) or 1 to 2 .*, got 3\."),
        (lambda pair: reweight(pair, "", 2.0, ALWAYS), "Wanted at least one word to re-weight, got none"),
        (lambda pair: reweight(pair, " ,\n, ", 2.0, ALWAYS), "Wanted at least one word to re-weight, got none"),
        (
            lambda pair: reweight(pair, "mat", None, ALWAYS),
            "Wanted a word with its factor, as in 'snow: 0.5', got 'mat'",
        ),
        (lambda pair: reweight(pair, "mat: 30", 2.0, ALWAYS), "Wanted scale from -20 to 20, got 30"),
        (lambda pair: reweight(pair, "tiger: 2", 2.0, ALWAYS), rf"edited prompt, got 'tiger', which {LISTED}"),
        (lambda pair: reweight(pair, "mat", NAN, ALWAYS), "Wanted a finite scale, got nan"),
        (lambda pair: reweight(pair, "mat", -INFINITY, ALWAYS), "Wanted a finite scale, got -inf"),
    ],
)
def test_mistakes_are_refused_with_the_way_out(two_edits, make, message):
    with pytest.raises(ValueError, match=message):
        make(two_edits)


# ---- chains


def state(edits, pair, step, row=0, steps=10):
    """{word: (gate, gain)} and whether self-attention is injected."""
    combined = combine(edits, row, step, steps)
    together = list(zip(combined.gates, combined.gains, strict=True))
    return by_word(together, pair.targets[row]), combined.self_attention


def words(pair, default, row=0, **changed):
    names = by_word([None] * pair.targets[row].length, pair.targets[row])
    return {name: changed.get(name, default) for name in names}


def test_replace_over_the_steps(pair):
    chain = [replace(pair, CROSS, SELF, "dog: 0.2-0.6")]
    open_gates = words(pair, (1.0, 1.0), big=(0.0, 1.0))
    dog_closed = open_gates | {"dog": (0.0, 1.0)}
    assert state(chain, pair, 0) == (dog_closed, True)
    assert state(chain, pair, 2) == (open_gates, True)
    assert state(chain, pair, 4) == (open_gates, False)
    assert state(chain, pair, 6) == (dog_closed, False)
    assert state(chain, pair, 8) == (words(pair, (0.0, 1.0)), False)
    assert combine(chain, 0, 8, 10).idle
    assert not combine(chain, 0, 7, 10).idle


def test_reweight_alone_takes_the_source_map_for_shared_words(pair):
    chain = [reweight(pair, "mat, dog", 2.0, Window(0.0, 0.5))]
    expected = words(pair, (1.0, 1.0), big=(0.0, 1.0), dog=(0.0, 2.0), mat=(1.0, 2.0))
    assert state(chain, pair, 4) == (expected, False)
    assert state(chain, pair, 5) == (words(pair, (0.0, 1.0)), False)


@pytest.mark.parametrize("injection", [replace, refine])
def test_reweight_after_an_injection_only_scales_its_map(pair, injection):
    alone = injection(pair, Window(0.0, 0.3), SELF)
    chain = [alone, reweight(pair, "mat, dog", 2.0, Window(0.0, 0.7))]
    for step, factor in ((0, 2.0), (3, 2.0), (6, 2.0), (7, 1.0)):
        plain, self_attention = state([alone], pair, step)
        scaled = {word: (g, factor if word in ("mat", "dog") else 1.0) for word, (g, _) in plain.items()}
        assert state(chain, pair, step) == (scaled, self_attention)


def test_reweight_is_alone_row_by_row(two_edits):
    chain = [replace(two_edits, Window(0.0, 0.3), NEVER, edit=1), reweight(two_edits, "mat", 2.0, ALWAYS)]
    first, _ = state(chain, two_edits, 5, row=0)
    second, _ = state(chain, two_edits, 5, row=1)
    assert first == words(two_edits, (0.0, 1.0), row=0, mat=(0.0, 2.0))
    assert second == words(two_edits, (1.0, 1.0), row=1, red=(0.0, 1.0), mat=(1.0, 2.0))


def test_gains_multiply_while_their_windows_last(pair):
    chain = [
        reweight(pair, "mat", 2.0, Window(0.0, 0.6)),
        reweight(pair, "a mat", -1.5, Window(0.4, 1.0)),
        reweight(pair, "on", 0.0, ALWAYS),
    ]
    gains = [{name: c for name, (_, c) in state(chain, pair, step)[0].items()} for step in (0, 5, 9)]
    assert gains == [
        words(pair, 1.0, on=0.0, mat=2.0),
        words(pair, 1.0, on=0.0, mat=-3.0) | {"a#2": -1.5},
        words(pair, 1.0, on=0.0, mat=-1.5) | {"a#2": -1.5},
    ]


def test_gates_add_up(pair):
    early, late = refine(pair, Window(0.0, 0.3), NEVER), replace(pair, Window(0.6, 0.8), Window(0.6, 0.7))
    seen = [state([early, late], pair, step) for step in range(10)]
    assert seen[:3] == [state([early], pair, step) for step in range(3)]
    assert seen[3:6] == [(words(pair, (0.0, 1.0)), False)] * 3
    assert seen[6:8] == [state([late], pair, step) for step in (6, 7)]
    assert [self_attention for _, self_attention in seen] == [step == 6 for step in range(10)]
    both = [refine(pair, ALWAYS, NEVER), replace(pair, ALWAYS, NEVER)]
    assert state(both, pair, 0) == state([replace(pair, ALWAYS, NEVER)], pair, 0)


def test_a_row_without_edits_is_idle(two_edits):
    assert combine([], 0, 0, 10).idle
    assert combine([replace(two_edits, CROSS, SELF, edit=1)], 1, 0, 10).idle
    assert not combine([replace(two_edits, CROSS, SELF, edit=1)], 0, 0, 10).idle


@pytest.mark.parametrize(
    ("edits", "idle"),
    [
        (lambda pair: [replace(pair, NEVER, NEVER)], True),
        (lambda pair: [refine(pair, NEVER, NEVER)], True),
        (lambda pair: [reweight(pair, "mat", 2.0, NEVER)], True),
        (lambda pair: [replace(pair, NEVER, ALWAYS)], False),
        (lambda pair: [replace(pair, NEVER, NEVER, "mat: 1")], False),
        (lambda pair: [replace(pair, NEVER, NEVER), reweight(pair, "mat", 2.0, ALWAYS)], False),
    ],
)
def test_windows_that_are_empty_do_nothing(pair, edits, idle):
    assert {combine(edits(pair), 0, step, 10).idle for step in range(10)} == {idle}


@pytest.mark.parametrize("node", [replace, refine])
def test_an_edit_that_does_nothing_changes_nothing_beside_another(pair, node):
    fader = reweight(pair, "mat", 2.0, ALWAYS)
    for step in range(10):
        assert combine([node(pair, NEVER, NEVER), fader], 0, step, 10) == combine([fader], 0, step, 10)


def test_an_edit_of_self_attention_alone_injects_so_the_fader_scales_only(pair):
    """Beside it the shared words keep their own maps: it has been told not to take the source's."""
    fader = reweight(pair, "dog", 2.0, ALWAYS)
    assert any(combine([fader], 0, 0, 10).gates)
    for node in (replace, refine):
        for chain in ([node(pair, NEVER, SELF), fader], [fader, node(pair, NEVER, SELF)]):
            state = combine(chain, 0, 0, 10)
            assert state.self_attention and not any(state.gates)
            assert state.gains == combine([fader], 0, 0, 10).gains


@given(st.lists(st.integers(0, 6), unique=True, min_size=2), st.integers(0, 9), st.randoms(use_true_random=False))
def test_the_order_of_a_chain_does_not_matter(two_edits, chosen, step, random):
    pool = [
        replace(two_edits, CROSS, SELF, "mat: 0.3"),
        replace(two_edits, Window(0.5, 0.9), NEVER, edit=2),
        refine(two_edits, Window(0.2, 0.7), Window(0.5, 0.6), edit=1),
        reweight(two_edits, "mat", 2.0, Window(0.0, 0.5)),
        reweight(two_edits, "lion, on", -0.5, Window(0.3, 1.0)),
        reweight(two_edits, "a mat, red", 1.5, ALWAYS),
        reweight(two_edits, "a", 0.0, Window(0.4, 0.6), edit=2),
    ]
    chain = [pool[i] for i in chosen]
    shuffled = random.sample(chain, len(chain))
    for row in (0, 1):
        assert combine(shuffled, row, step, 10) == combine(chain, row, step, 10)
