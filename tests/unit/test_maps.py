"""Attention maps: what is summed up, at which resolution, and where it belongs in the picture."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import p2p_attention.maps as maps_module
from p2p_attention.align import align
from p2p_attention.attention import RowState, coarse_enough
from p2p_attention.maps import (
    MapRequest,
    MapRun,
    WordPositions,
    attention_probs,
    choose_level,
    find_words,
    place,
    thirds_of,
)
from p2p_attention.prompt import PromptPair

LENGTH = 16  # of the toy tokenizer's chunks


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def probabilities(*shape, seed=0):
    return (4 * random(*shape, seed=seed)).softmax(dim=-1)


def words(*positions):
    return tuple(WordPositions(str(each), each) for each in positions)


# ---- maps


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_probs_are_the_mean_softmax_over_heads(dtype, tolerance):
    query, key = (torch.randn(3, n, 4 * 5, generator=torch.Generator().manual_seed(n)) for n in (7, 11))
    got = attention_probs(query.to(dtype), key.to(dtype), heads=4)
    wanted = torch.zeros(3, 7, 11, dtype=torch.float64)
    for head in range(4):
        q, k = (t[..., 5 * head : 5 * head + 5].double() for t in (query, key))
        wanted += (q @ k.transpose(1, 2) / math.sqrt(5)).softmax(dim=-1) / 4
    assert got.dtype == torch.float32 and got.shape == (3, 7, 11)
    assert (got - wanted).abs().max() < tolerance


def test_probs_of_large_batches_are_made_in_pieces(monkeypatch):
    query, key = torch.randn(5, 6, 8), torch.randn(5, 9, 8)
    whole = attention_probs(query, key, 2)
    for buffer in (1, 2 * 6 * 9, 5 * 6 * 9):
        monkeypatch.setattr(maps_module, "BUFFER", buffer)
        assert torch.allclose(attention_probs(query, key, 2), whole, atol=1e-7)


# ---- words


def test_words_are_found_in_every_row(toy):
    pair = toy.pair("a mirror on a cat", "a dog on a cat, a cat", "the mirror")
    found = find_words(pair, ("mirror", "a", "a#2", "on A", "dog"), (0, 1, 2))
    assert found == {
        0: tuple(WordPositions(*each) for each in [("mirror", (2, 3)), ("a", (1, 5)), ("a#2", (5,)), ("on A", (4, 5))]),
        1: tuple(WordPositions(*each) for each in [("a", (1, 4, 7)), ("a#2", (4,)), ("on A", (3, 4)), ("dog", (2,))]),
        2: (WordPositions("mirror", (2, 3)),),
    }


def test_words_that_are_nowhere(toy):
    pair = toy.pair("a cat", "a dog", "a lion")
    with pytest.raises(ValueError, match="got 'lion', which is in none.*source: a, cat; edit 1: a, dog"):
        find_words(pair, ("cat", "lion"), (0, 1))
    with pytest.raises(ValueError, match="'cat#2'"):
        find_words(pair, ("cat#2",), (0, 1, 2))


# ---- summing up


def one_layer(request, probs, states=None, grid=(2, 3), steps=1):
    run = MapRun(request, steps)
    run.add("pair", 0, probs, grid, grid, states)
    (mean,) = run.mean().values()
    return mean


def test_a_words_map_is_the_sum_of_its_pieces(toy):
    pair = toy.pair("a mirror", "a cat")
    request = MapRequest(pair, (words((2, 3), (1,)), words((2,))))
    probs = probabilities(4, 6, LENGTH)  # two seeds
    got = one_layer(request, probs)
    assert got.shape == (4, 2, 2, 3)
    for seed in (0, 1):
        source, edit = probs[2 * seed], probs[2 * seed + 1]
        assert torch.allclose(got[2 * seed, 0].flatten(), source[:, 2] + source[:, 3])
        assert torch.allclose(got[2 * seed, 1].flatten(), source[:, 1])
        assert torch.allclose(got[2 * seed + 1, 0].flatten(), edit[:, 2])
        assert not got[2 * seed + 1, 1].any(), "this prompt has one word less"


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("branch", ["own", "injected"])
def test_branches(toy, copies, branch):
    """injected: M[0] A g + M* (1 - g) of each edited row, over prompts that are repeated in the context."""
    pair = toy.pair("a cat on grass", "a dog on grass", "a big cat on grass")
    request = MapRequest(pair, tuple(words(*((i,) for i in range(LENGTH))) for _ in range(3)), branch=branch)
    gates = [tuple(float(x) for x in random(LENGTH, seed=i) > 0.5) for i in (1, 2)]
    gates[0] = tuple(random(LENGTH, seed=9).tolist())  # also halfway open
    states = tuple(RowState(gate, (3.0,) * LENGTH, False) for gate in gates)
    probs = probabilities(6, 4, LENGTH * copies)
    got = one_layer(request, probs, states, (2, 2)).flatten(2).transpose(1, 2)  # (B R, Q, L)
    folded = probs.unflatten(-1, (copies, LENGTH)).sum(dim=2)  # a word's attention is that of all its copies
    wanted = folded.clone()
    if branch == "injected":
        for row, gate in enumerate(gates, 1):
            g = torch.tensor(gate)
            matrix = align(pair.source, pair.targets[row - 1]).matrix
            wanted[row::3] = folded[::3] @ matrix * g + folded[row::3] * (1 - g)
    assert torch.allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize("branch", ["own", "injected"])
def test_branches_of_padded_prompts(toy, branch):
    """Prompts of 6, 8 and 5 positions that stand once each, in maps over 8."""
    prompts = [toy.prompt(text, length) for text, length in (("a cat", 6), ("a big dog", 8), ("a dog", 5))]
    pair = PromptPair(prompts[0], tuple(prompts[1:]), 8, toy.words, padded=True)
    request = MapRequest(pair, tuple(words(*((i,) for i in range(each.length))) for each in prompts), branch=branch)
    gates = [tuple(random(length, seed=length).tolist()) for length in (8, 5)]
    probs = probabilities(6, 4, 8)
    states = tuple(RowState(gate, (1.0,) * len(gate), False) for gate in gates)
    got = one_layer(request, probs, states, (2, 2)).flatten(2).transpose(1, 2)
    for row, prompt in enumerate(prompts):
        wanted = probs[row::3, :, : prompt.length]
        if branch == "injected" and row:
            g, matrix = torch.tensor(gates[row - 1]), align(pair.source, prompt).matrix
            wanted = probs[::3, :, :6] @ matrix * g + wanted * (1 - g)
        assert torch.allclose(got[row::3, :, : prompt.length], wanted, atol=1e-6)


def test_closed_gates_leave_the_own_map(toy):
    pair = toy.pair("a cat", "a dog")
    request = MapRequest(pair, (words((2,)), words((2,))), branch="injected")
    closed = (RowState((0.0,) * LENGTH, (1.0,) * LENGTH, True),)
    probs = probabilities(2, 6, LENGTH)
    assert torch.equal(one_layer(request, probs, closed), one_layer(request, probs, None))


@pytest.mark.parametrize("branch", ["own", "injected"])
def test_self_attention(toy, branch):
    pair = toy.pair("a cat", "a dog", "a lion")
    request = MapRequest(pair, ((), (), ()), "self", branch=branch)
    state = RowState((0.0,) * LENGTH, (1.0,) * LENGTH, True)
    probs = probabilities(6, 6, 6)
    before = probs.clone()
    got = one_layer(request, probs, (state, RowState(state.gates, state.gains, False)))
    wanted = before.clone()
    if branch == "injected":
        wanted[1::3] = before[::3]
    assert torch.equal(got, wanted.transpose(1, 2).unflatten(-1, (2, 3))), "a map of queries for each key"
    assert torch.equal(probs, before), "the layer's own map stays as it is"


def test_mean_over_layers_steps_and_parts(toy):
    pair = toy.pair("a cat", "a dog")
    request = MapRequest(pair, (words((2,)), words((2,))), parts=3)
    run = MapRun(request, steps=5)
    layers = {
        (step, layer): probabilities(2, 4, LENGTH, seed=10 * step + layer) for step in range(5) for layer in (0, 1)
    }
    for (step, _), probs in layers.items():
        run.add("pair", step, probs, (2, 2), (2, 2), None)
    run.add("other", 0, probabilities(2, 4, LENGTH), (2, 2), (2, 2), None)

    def mean(steps):
        chosen = [probs[..., 2] for (step, _), probs in layers.items() if step in steps]
        return (sum(chosen) / len(chosen)).view(2, 1, 2, 2)

    assert torch.allclose(run.mean()["pair"], mean(range(5)))
    for part, steps in enumerate([(0, 1), (2, 3), (4,)]):
        assert torch.allclose(run.mean(part)["pair"], mean(steps))
    assert set(run.mean(0)) == {"pair", "other"} and set(run.mean(1)) == {"pair"}
    assert run.shares == pytest.approx((5 / 11, 4 / 11, 2 / 11))
    assert MapRun(request, steps=2).parts == 2 and MapRun(request, 2).mean() == {}


def test_sums_do_not_depend_on_what_conditionings_are_called(toy):
    """Ids are random: in whatever order they sort, floats are added in the order of the run."""
    pair = toy.pair("a cat", "a dog")
    request = MapRequest(pair, (words((2,)), words((2,))), parts=2)
    for ids in (range(50), [f"{i * 7919 % 50}" for i in range(50)], [object() for _ in range(50)]):
        run = MapRun(request, 2)
        for step in (0, 1):
            for each in ids:
                run.add(each, step, probabilities(2, 4, LENGTH), (2, 2), (2, 2), None)
        assert list(run.mean()) == list(run.mean(1)) == list(ids)


def test_maps_of_several_devices_come_together(toy):
    """A conditioning goes on on another card than it began on; "meta" stands for the card where it began."""
    pair = toy.pair("a cat", "a dog")
    run = MapRun(MapRequest(pair, (words((1,)), words((1,)))), 2)
    maps = probabilities(2, 4, LENGTH)
    for conditioning, step, device in (("one", 0, "meta"), ("one", 1, "cpu"), ("two", 0, "cpu"), ("two", 1, "cpu")):
        run.add(conditioning, step, maps.to(device), (2, 2), (2, 2), None)
    assert {each.device.type for each in run.mean().values()} == {"meta"}
    alone = MapRun(MapRequest(pair, (words((1,)), words((1,)))), 2)
    alone.add("one", 0, maps, (2, 2), (2, 2), None)
    (mean,) = alone.mean(device=torch.device("meta")).values()
    assert mean.device.type == "meta" and mean.shape == (2, 1, 2, 2)


def test_maps_of_rescaled_layers_are_brought_to_the_plan(toy):
    """Another node may shrink the picture inside the UNet."""
    pair = toy.pair("a cat", "a dog")
    request = MapRequest(pair, (words((2,)), words((2,))))
    run = MapRun(request, 1)
    half = probabilities(2, 6, LENGTH)
    run.add("pair", 0, half, (2, 3), (4, 6), None)
    (mean,) = run.mean().values()
    assert mean.shape == (2, 1, 4, 6)
    assert torch.allclose(mean.mean(dim=(-2, -1)), half[..., 2].mean(dim=1, keepdim=True), atol=1e-3)


# ---- levels and places


SD15 = [(64, 64), (32, 32), (16, 16), (8, 8)]


@pytest.mark.parametrize(
    "resolution, grids, size, wanted",
    [
        ("auto", SD15, (64, 64), 2),  # the paper's 16 x 16
        ("auto", [(64, 64), (32, 32)], (128, 128), 1),  # SDXL
        ("auto", [(96, 64), (48, 32), (24, 16), (12, 8)], (96, 64), 2),
        ("auto", [(16, 16), (8, 8)], (16, 16), 0),
        ("auto", [(128, 128), (64, 64)], (128, 128), 1),  # nothing so coarse: the coarsest
        ("8", SD15, (64, 64), 3),
        ("16", SD15, (64, 64), 2),
        ("64", SD15, (64, 64), 0),
        ("16", [(32, 32), (16, 16), (8, 8)], (64, 64), 1),
        ("16", [(48, 32), (24, 16), (12, 8)], (48, 32), 1),  # 384 tokens
        ("16", [(64, 16), (32, 8), (16, 4)], (64, 16), 1),  # 4:1 with 256 tokens
    ],
)
def test_levels(toy, resolution, grids, size, wanted):
    request = MapRequest(toy.pair("a cat"), (words((2,)),), resolution=resolution)
    injects = [coarse_enough(h * w, *size) for h, w in grids]
    assert choose_level(request, grids, injects) == wanted


def test_levels_that_there_are_not(toy):
    request = MapRequest(toy.pair("a cat"), (words((2,)),), resolution="8")
    with pytest.raises(ValueError, match="about 8 x 8 tokens, got layers of 64 x 64, 32 x 32 for.*auto"):
        choose_level(request, [(64, 64), (32, 32)], [False, False])
    request = MapRequest(toy.pair("a cat"), (words((2,)),), resolution="16")
    with pytest.raises(ValueError, match="about 16 x 16 tokens, got layers of 8 x 8, 4 x 4"):
        choose_level(request, [(8, 8), (4, 4)], [True, True])
    request = MapRequest(toy.pair("a cat"), ((),), "self", "64")
    with pytest.raises(ValueError, match="at most 4096 tokens.*got 6400"):
        choose_level(request, [(80, 80), (40, 40)], [False, False])


def test_place():
    maps = random(2, 3, 4, 4)
    whole = place(maps, None, 4, 4)
    assert torch.equal(whole, maps)
    assert place(maps, None, 16, 8).shape == (2, 3, 16, 8)
    part = place(maps, (4, 4, 2, 1), 8, 6)  # h, w, y, x
    assert torch.equal(part[..., 2:6, 1:5], maps)
    assert part.sum() == pytest.approx(float(maps.sum()), rel=1e-5), "and nothing elsewhere"


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 5), st.integers(0, 5))
def test_places_everywhere(h, w, y, x):
    placed = place(torch.ones(1, 1, 2, 2), (h, w, y, x), h + y + 1, w + x)
    assert placed.shape == (1, 1, h + y + 1, w + x) and placed.count_nonzero() == h * w
    assert torch.allclose(placed[..., y : y + h, x : x + w], torch.tensor(1.0))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 57])
def test_thirds_are_all_of_it_in_order_and_none_is_empty(count):
    first, middle, last = thirds_of(count).values()
    assert list(thirds_of(count)) == ["first third", "middle third", "last third"]
    assert min(map(len, (first, middle, last))) > 0 and {*first, *middle, *last} == set(range(count))
    if count >= 3:
        assert [*first, *middle, *last] == list(range(count))


def test_layers_that_there_are_not(toy):
    with pytest.raises(ValueError, match="Wanted map_layers to be one of auto, first third, .*, got 'second'"):
        MapRequest(toy.pair("a cat", "a dog"), ((), ()), layers="second")
