"""A sampling run knows its steps, and which rows of a batch to rewrite."""

from __future__ import annotations

import math

import pytest
import torch

from p2p_attention.align import align
from p2p_attention.call_rows import RowsOfCalls
from p2p_attention.edit import NEVER, Window, combine, refine, replace, reweight
from p2p_attention.joint_attention import ALL, Injection, TokenLayout
from p2p_attention.prompt import PromptPair
from p2p_attention.run import EditRun
from p2p_attention.text_places import TextPlaces

SIGMAS = [14.6, 7.0, 3.0, 1.0, 0.3, 0.0]
ALWAYS = Window(0.0, 1.0)
CPU = torch.device("cpu")


def falling(steps):
    """A schedule of ``steps`` steps, dense at its end (Karras et al. 2022, eq. 5)."""
    low, high = 0.03 ** (1 / 7), 14.6 ** (1 / 7)
    return [(high + i / max(steps - 1, 1) * (low - high)) ** 7 for i in range(steps)] + [0.0]


# ---- steps


@pytest.mark.parametrize(
    ("sigma", "step"),
    [
        *((sigma, step) for step, sigma in enumerate(SIGMAS[:-1])),  # euler
        (math.sqrt(14.6 * 7.0), 0),  # the midpoint of dpm_2, dpmpp_2s, dpmpp_sde
        (math.sqrt(1.0 * 0.3), 3),
        (7.01, 0),
        (6.99, 1),
        (0.1, 4),  # between the last noise level and none
        (0.0, 4),
        (20.0, 0),  # churn adds noise before the first step
    ],
)
def test_step_of(sigma, step):
    assert EditRun([], {}, SIGMAS).step_of(sigma) == step


def test_second_call_of_heun_is_at_the_next_noise_level():
    run = EditRun([], {}, SIGMAS)
    calls = [(SIGMAS[i], SIGMAS[i + 1]) for i in range(4)]
    assert [tuple(map(run.step_of, call)) for call in calls] == [(0, 1), (1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize("steps", [1, 2, 20, 1000])
def test_step_of_a_sigma_that_is_slightly_off(steps):
    """Samplers compute sigmas anew, as exp(-t) in single or half precision."""
    sigmas = falling(steps)
    run = EditRun([], {}, sigmas)
    for factor in (1.0, 1 - 5e-5, 1 + 5e-5):
        assert [run.step_of(sigma * factor) for sigma in sigmas[:-1]] == list(range(steps))
    single = torch.tensor(sigmas[:-1])
    assert [run.step_of(float(sigma)) for sigma in single.log().neg().neg().exp()] == list(range(steps))


def test_step_of_a_part_of_a_schedule_counts_from_its_own_start():
    assert [EditRun([], {}, SIGMAS[2:4]).step_of(sigma) for sigma in (3.0, 2.0, 1.0)] == [0, 0, 0]
    assert EditRun([], {}, SIGMAS[2:]).step_of(1.0) == 1


# ---- programs


def program_of(run, step, conditionings, rows, length, device, dtype=torch.float32):
    """The program of a batch that the host laid out; layouts are told once for a run, as in a real one."""
    pairs = {each: run.pair_of(each).rows for each in conditionings if run.pair_of(each)}
    if not hasattr(run, "rows_of_calls"):
        run.rows_of_calls = RowsOfCalls(pairs, 1, max(pairs.values(), default=2))
    return run.program(step, run.rows_of_calls.by_place(tuple(conditionings), rows), length, device, dtype)


@pytest.fixture(scope="module")
def swap(toy):
    return toy.pair("a cat", "a dog")


def everything(pair):
    return replace(pair, ALWAYS, ALWAYS)


@pytest.mark.parametrize(
    ("conditionings", "seeds", "query"),
    [
        (["ours"], 1, [0, 0]),
        (["ours"], 2, [0, 0, 2, 2]),
        (["ours", "other"], 1, [0, 0, 2, 3]),
        (["other", "ours"], 1, [0, 1, 2, 2]),
        (["other", "ours"], 2, [0, 1, 2, 3, 4, 4, 6, 6]),
        (["other", "ours", "third"], 1, [0, 1, 2, 2, 4, 5]),
        (["ours", "other", "again"], 1, [0, 0, 2, 3, 4, 4]),  # two conditionings made from the same pair
    ],
)
def test_program_rewrites_its_own_chunks_only(swap, conditionings, seeds, query):
    run = EditRun([everything(swap)], {"ours": swap, "again": swap}, SIGMAS)
    program = program_of(run, 0, conditionings, rows=len(query), length=swap.length, device=CPU)
    assert len(query) == len(conditionings) * seeds * swap.rows
    assert program.query.tolist() == query
    assert program.self_query.tolist() == query
    assert program.injected.tolist() == [row for row, source in enumerate(query) if row != source]
    assert program.rows == len(query)


@pytest.mark.parametrize("copies", [1, 2])
def test_program_holds_the_alignment_gates_and_gains(toy, copies):
    """The matrices are A diag(g c) and the scales (1 - g) c, both doubled for the mean of the two terms."""
    pair = toy.pair("a cat sits", "a big elephant sits")
    edits = [replace(pair, ALWAYS, NEVER), reweight(pair, "elephant, big", -1.5, ALWAYS)]
    length = pair.length * copies
    program = program_of(EditRun(edits, {"ours": pair}, SIGMAS), 0, ["ours"], 2, length, CPU)
    now = combine(edits, 0, 0, 5)
    gates, gains = torch.tensor(now.gates), torch.tensor(now.gains)
    inject = align(pair.source, pair.targets[0]).matrix * gates * gains
    assert 0 < gates.sum() < len(gates)
    torch.testing.assert_close(program.matrices[0], 2 * inject.repeat(copies, copies) / copies)
    torch.testing.assert_close(program.scales[0, :, 0], 2 * ((1 - gates) * gains).repeat(copies))
    assert program.injected.tolist() == [1]
    assert program.scaled.tolist() == [2]
    assert program.split.tolist() == [1]
    assert program.self_query is None


def test_program_is_none_when_nothing_is_to_be_done(swap):
    windows = EditRun([replace(swap, Window(0.2, 0.6), NEVER)], {"ours": swap}, SIGMAS)
    programs = [program_of(windows, step, ["other", "ours"], 4, swap.length, CPU) for step in range(5)]
    assert [program is not None for program in programs] == [False, True, True, False, False]
    run = EditRun([everything(swap)], {"ours": swap}, SIGMAS)
    assert program_of(run, 0, ["other"], 2, swap.length, CPU) is None
    assert program_of(run, 0, ["other", "third"], 4, swap.length, CPU) is None
    assert program_of(EditRun([], {"ours": swap}, SIGMAS), 0, ["ours"], 2, swap.length, CPU) is None
    assert program_of(EditRun([everything(swap)], {}, SIGMAS), 0, ["ours"], 2, swap.length, CPU) is None


def test_program_for_self_attention_alone_leaves_cross_attention(swap):
    program = program_of(EditRun([replace(swap, NEVER, ALWAYS)], {"ours": swap}, SIGMAS), 0, ["ours"], 2, 16, CPU)
    assert program.self_query.tolist() == [0, 0]
    assert not program.edits_cross_attention


def test_programs_are_made_once(swap):
    run = EditRun([replace(swap, Window(0.0, 0.8), Window(0.0, 0.4))], {"ours": swap}, SIGMAS)

    def program(step, conditionings=("other", "ours"), rows=4, length=swap.length, dtype=torch.float32):
        return program_of(run, step, list(conditionings), rows, length, CPU, dtype)

    assert program(0) is program(1)  # the same gates, gains and self-attention
    assert program(2) is program(3)
    assert program(1) is not program(2)  # self-attention has ended
    different = [
        program(0),
        program(0, ("ours", "other")),
        program(0, rows=8),
        program(0, length=2 * swap.length),
        program(0, dtype=torch.float16),
        program(2),
    ]
    assert len({id(each) for each in different}) == len(different)
    assert program(0, ("ours", "other")).query.tolist() == [0, 0, 2, 3]
    assert len(program(0, rows=8).query) == 8
    assert program(0, dtype=torch.float16).matrices.dtype == torch.float16
    assert program(0, length=2 * swap.length).matrices.shape[-1] == 2 * swap.length


def test_pairs_in_one_run_have_their_own_edits_and_windows(toy, swap):
    other = toy.pair("a red hen", "a red cow")
    edits = [replace(swap, Window(0.0, 0.6), NEVER), replace(other, Window(0.4, 1.0), NEVER)]
    run = EditRun(edits, {"swap": swap, "other": other}, SIGMAS)
    programs = [program_of(run, step, ["swap", "other"], 4, 16, CPU) for step in (0, 2, 4)]
    assert [program.query.tolist() for program in programs] == [[0, 0, 2, 3], [0, 0, 2, 2], [0, 1, 2, 2]]
    assert run.pair_of("swap") is swap
    assert run.pair_of("other") is other
    assert run.pair_of("unknown") is None


def test_edits_of_several_prompts_and_an_equal_pair(toy):
    """Rows of a seed: source, then the edits; pairs are known by their prompts, not by being the same object."""
    pair, equal = (toy.pair("a cat", "a dog", "a cat", "a big cat") for _ in range(2))
    edits = [replace(equal, ALWAYS, NEVER, edit=1), refine(equal, ALWAYS, ALWAYS, edit=3)]
    program = program_of(EditRun(edits, {"ours": pair}, SIGMAS), 0, ["ours"], 8, 16, CPU)
    assert program.query.tolist() == [0, 0, 2, 0, 4, 4, 6, 4, 3, 7]
    assert program.split.tolist() == [3, 7]
    assert program.self_query.tolist() == [0, 1, 2, 0, 4, 5, 6, 4]


def test_changes_at_the_steps_where_a_window_opens_or_closes(swap):
    edits = [replace(swap, Window(0.2, 0.6), Window(0.0, 0.4))]
    run = EditRun(edits, {"own": swap}, SIGMAS)
    assert [run.changes_at(step) for step in range(1, 5)] == [True, True, True, False]
    assert not any(EditRun([], {"own": swap}, SIGMAS).changes_at(step) for step in range(1, 5))


def test_chain_order_gives_the_same_program(swap):
    edits = [everything(swap), reweight(swap, "dog", 2.0, ALWAYS)]
    runs = [EditRun(order, {"ours": swap}, SIGMAS) for order in (edits, edits[::-1])]
    one, other = (program_of(run, 0, ["ours"], 2, 16, CPU) for run in runs)
    assert torch.equal(one.matrices, other.matrices)
    assert one.query.tolist() == other.query.tolist()
    assert one.matrices[0, 2, 2] == 2.0


# ---- programs after the projections


@pytest.fixture(scope="module")
def unequal(toy):
    """Prompts of 6 and 8 positions."""
    return PromptPair(toy.prompt("a cat", 6), (toy.prompt("a big dog", 8),), 8, toy.words, padded=True)


def joint_program(run, rows, step=0, injection=ALL, others=8, layout=None, places=None, dtype=torch.float32):
    places = places or TextPlaces(9, before=1)
    layout = layout or TokenLayout.joint(13, range(9))
    return run.joint_program(step, rows, layout, places, others, CPU, dtype, injection)


def of_parts(program):
    """(queries' part, output rows, rows of queries and keys, whether it adds up) of each call."""
    return [
        (call.part, *(list(range(13)[each]) if isinstance(each, slice) else each.tolist() for each in
         (call.out, call.source)), call.add) for call in program.calls
    ]  # fmt: skip


def test_joint_programs_edit_their_own_rows(unequal):
    run = EditRun([everything(unequal)], {"ours": unequal}, SIGMAS)
    rows = RowsOfCalls({"ours": 2}, 1, 2).by_place(("other", "ours"), 4)
    text, image = range(9), range(9, 13)
    parts = of_parts(joint_program(run, rows))
    # the source is shorter: its filling is shut off, whoever looks at its keys
    assert sorted(map(str, parts)) == sorted(
        map(
            str,
            [
                (range(13), [0, 1], [0, 1], False),
                (range(13), [2], [2], False),
                (text, [3], [3], False),
                (image, [3], [2], False),
                (image, [3], [3], True),  # "big" is new
            ],
        )
    )
    alone = joint_program(run, rows, layout=TokenLayout.text_only(9))
    assert [call.padding is not None for call in alone.calls] == [False, True], "texts by themselves are masked, too"
    assert all(call.matrices is None and call.scales is None for call in alone.calls)


def test_joint_programs_hold_the_alignment_where_the_prompts_stand(unequal):
    run = EditRun([everything(unequal)], {"ours": unequal}, SIGMAS)
    rows = RowsOfCalls({"ours": 2}, 1, 2).by_place(("ours",), 2)
    for places, source, target in ((TextPlaces(9, before=1), 1, 1), (TextPlaces(9, at_end=True), 3, 1)):
        (matrix,) = (
            call.matrices[0] for call in joint_program(run, rows, places=places).calls if call.matrices is not None
        )
        gates = torch.tensor(combine([everything(unequal)], 0, 0, 5).gates)
        wanted = align(unequal.source, unequal.targets[0]).matrix * gates
        torch.testing.assert_close(matrix[source : source + 6, target : target + 8], wanted)
        assert matrix.sum() > wanted.sum(), "what stands around them corresponds, too"


def test_joint_programs_are_made_once_and_only_where_there_is_something_to_do(unequal, swap):
    run = EditRun([replace(unequal, Window(0.0, 0.4), Window(0.0, 0.8))], {"ours": unequal}, SIGMAS)
    rows = RowsOfCalls({"ours": 2}, 1, 2).by_place(("ours",), 2)
    first, second, late, last = (joint_program(run, rows, step) for step in (0, 1, 2, 4))
    assert first is second is not late
    assert [any(call.matrices is not None for call in each.calls) for each in (first, late)] == [True, False]
    assert len(last.calls) == 2, "at the end the filling alone is to be shut off"
    assert joint_program(run, rows, 2, injection=Injection(image=False)) is not late
    assert joint_program(run, rows, dtype=torch.float16) is not first
    equal = PromptPair(swap.source, swap.targets, 8, swap.tokenize, padded=True)
    run = EditRun([], {"ours": equal}, SIGMAS)
    assert joint_program(run, rows, places=TextPlaces(swap.length), layout=TokenLayout.joint(20, range(16))) is None


def test_what_a_row_says(unequal):
    run = EditRun([], {"ours": unequal}, SIGMAS)
    rows = RowsOfCalls({"ours": 2}, 1, 2).by_place(("other", "ours"), 4)
    assert [run.prompt_of(row) for row in rows.rows] == [None, None, unequal.source, unequal.targets[0]]
