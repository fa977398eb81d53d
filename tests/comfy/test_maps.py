"""Attention maps of a run: they are those of the stock model, and looking at them changes nothing."""

from __future__ import annotations

import gc
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from explicit_softmax import CONTEXT, RowEdit, edited_model, moved_mass
from memory import RUN_STATE
from PIL import Image
from sampling import CFG, DEFAULTS, PHRASE, SOURCE, SWAP, Sampling, latent, relative_error
from small_models import FAMILIES

STEPS = 3
EXACT = 1e-5  # of a probability: the same softmax in single and in double precision
HALF = 2.0**-11  # relative rounding of half precision
TREE = "a tree by the sea"
SWAP_A = torch.eye(CONTEXT)
PHRASE_A = moved_mass(
    [([i], [i]) for i in range(5)]
    + [([5], [6]), ([6], [7]), ([7], [8]), (list(range(8, CONTEXT)), list(range(9, CONTEXT)))]
)


# ---- an independent account of where the stock model looks


class Seen(NamedTuple):
    kind: str  # cross or self
    grid: tuple[int, int]
    step: int
    probs: torch.Tensor  # (B R, Q, S), averaged over heads, float64


def watch(model, seen: list[Seen], kinds=("cross", "self")):
    """A clone that does what the model does, and writes down the attention maps of its positive conditionings."""
    from comfy.ldm.modules.attention import optimized_attention

    def tap(kind, inner):
        def attention(q, k, v, options):
            heads = options["n_heads"]
            split = [t.double().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k)]
            maps = (split[0] @ split[1].mT / math.sqrt(q.shape[-1] / heads)).softmax(dim=-1).mean(dim=1)
            step = int((options["sample_sigmas"][:-1] - options["sigmas"][0]).abs().argmin())
            for chunk, probs in zip(options["cond_or_uncond"], maps.chunk(len(options["cond_or_uncond"])), strict=True):
                # self-attention maps are large, and taken from the first block of each stack only
                if chunk == 0 and (kind == "cross" or options["block_index"] == 0):
                    seen.append(Seen(kind, tuple(options["activations_shape"][-2:]), step, probs))
            return inner(q, k, v, options) if inner else optimized_attention(q, k, v, heads)

        return attention

    watched = model.clone()
    replaced = watched.model_options["transformer_options"].get("patches_replace", {})
    for name, number in [(name, i) for name in ("input", "middle", "output") for i in range(12)]:
        cross, selfs = (replaced.get(attn, {}).get((name, number)) for attn in ("attn2", "attn1"))
        if "cross" in kinds:
            watched.set_model_attn2_replace(tap("cross", cross), name, number)
        if "self" in kinds:
            watched.set_model_attn1_replace(tap("self", selfs), name, number)
    return watched


def average(seen, kind, grid, steps=range(STEPS), layers=None):
    """(B R, Q, S): over the layers of that grid, or of these places among them, and the steps."""
    chosen = [each.probs for each in seen if each.kind == kind and each.grid == grid and each.step in steps]
    assert chosen, f"no {kind} layer of {grid} in {sorted({each.grid for each in seen})}"
    if layers is not None:
        count = len(chosen) // len(steps)
        assert count * len(steps) == len(chosen) and max(layers) < count
        chosen = [probs for place, probs in enumerate(chosen) if place % count in layers]
    return torch.stack(chosen).mean(dim=0)


def columns(probs, positions, grid):
    """(B R, Q, L) -> (B R, K, h, w): per row of a group, per word its pieces' columns added up."""
    most = max(map(len, positions))
    maps = probs.new_zeros(probs.shape[0], most, probs.shape[1])
    for i in range(len(probs)):
        for k, pieces in enumerate(positions[i % len(positions)]):
            maps[i, k] = probs[i][:, list(pieces)].sum(dim=-1)
    return maps.unflatten(-1, grid)


# ---- the host, the node, and the sums before they are rounded


@pytest.fixture(scope="module")
def sampling(run_node):
    return Sampling(run_node, *FAMILIES["sd15"]())


@pytest.fixture
def runs(host, monkeypatch):
    """The recorders' float32 sums of the runs so far."""
    record = host.module("p2p_attention.record")
    kept, gather = [], record.gather
    monkeypatch.setattr(record, "gather", lambda run, *rest: kept.append(run) or gather(run, *rest))
    return kept


@pytest.fixture
def short_memory(monkeypatch):
    """The host runs each conditioning in a call of its own."""
    from comfy.model_base import BaseModel

    return lambda: monkeypatch.setattr(BaseModel, "memory_required", lambda *_, **__: 1e30)


def record(sampling, pair, model=None, words="", attention="cross", map_resolution="auto", maps="own", **more):
    """(model, record)"""
    return sampling.run_node(
        "P2PRecordAttention", model=model or sampling.model, pair=pair, words=words, attention=attention,
        map_resolution=map_resolution, maps=maps, **more,
    )  # fmt: skip


def stock_rows(sampling, positive, rows, image, model=None, negative=None, seed=7, cfg=CFG):
    """The stock sampler on rows that share their noise."""
    import comfy.sample

    samples = image["samples"]
    noise = comfy.sample.prepare_noise(samples, seed).repeat_interleave(rows, 0)
    return comfy.sample.sample(
        model or sampling.model, noise, STEPS, cfg, "euler", "normal", positive, negative or sampling.encode(),
        samples.repeat_interleave(rows, 0), denoise=1.0, disable_pbar=True, seed=seed,
    )  # fmt: skip


def one_word_each(text, first=1):
    """Positions of a prompt whose words are one piece each: the start is 0."""
    return [(first + i,) for i in range(len(text.split()))]


def check(sampling, runs, pair, positive, image, positions, grid, kind="cross", tolerance=EXACT, **settings):
    """Record a run; its maps are those that the stock model is seen to have, whole and in its parts."""
    asked = {name: settings.pop(name) for name in ("map_resolution", "words", "map_layers") if name in settings}
    layers = settings.pop("layers", None)
    model, kept = record(sampling, pair, attention=kind, **asked)
    samples = sampling.ksampler(model, positive, image, steps=STEPS, **settings)
    seen: list[Seen] = []
    stock_rows(sampling, positive, pair.rows, image, watch(sampling.model, seen, kind), **settings)

    def wanted(steps):
        probs = average(seen, kind, grid, steps, layers)
        return columns(probs, positions, grid) if kind == "cross" else probs.transpose(1, 2).unflatten(-1, grid)

    (whole,) = runs[-1].mean().values()
    assert whole.dtype == torch.float32
    assert (whole - wanted(range(STEPS))).abs().max() < tolerance
    content = kept.take(samples)
    assert content.maps.dtype == torch.float16 and content.maps.shape[:2] == (STEPS, len(image["samples"]))
    for part in range(STEPS):
        exact = wanted([part])
        got = content.maps[part].flatten(0, 1).double()
        assert ((got - exact).abs() <= HALF * exact + tolerance).all()
        (sums,) = runs[-1].mean(part).values()
        assert (sums - exact).abs().max() < tolerance
        assert (wanted([part]) - wanted(range(STEPS))).abs().max() > 10 * tolerance, "steps can be told apart"
    assert sum(content.shares) == pytest.approx(1.0) and content.shares == pytest.approx([1 / 3] * 3)
    return content


# ---- the maps are the model's


@pytest.mark.parametrize(
    "map_layers, layers, kind",
    [
        ("first third", [0], "cross"),
        ("middle third", [1], "cross"),
        ("last third", [2], "cross"),
        ("all", [0, 1, 2], "cross"),
        ("last third", [2], "self"),
        ("all", [1], "self"),
    ],
)
def test_maps_of_the_layers_that_are_asked_for(sampling, runs, map_layers, layers, kind):
    """In the model's order: of the finest level one on the way down and two on the way up."""
    positive, pair = sampling.pair(PHRASE, SWAP)
    positions = [one_word_each(text) for text in (SOURCE, PHRASE, SWAP)]
    asked = {"map_layers": map_layers, "layers": layers}
    check(sampling, runs, pair, positive, latent(2, 14, 10), positions, (14, 10), kind, **asked)


@pytest.mark.daily("sd15", "sdxl", "vega")
@pytest.mark.parametrize("family", FAMILIES)
def test_maps_are_the_stock_models(run_node, runs, family):
    """Two seeds, two edits of unequal length, no edit attached; finest and second level, where the model has both."""
    sampling = Sampling(run_node, *FAMILIES[family]())
    positive, pair = sampling.pair(PHRASE, SWAP)
    positions = [one_word_each(text) for text in (SOURCE, PHRASE, SWAP)]
    image = latent(2, 14, 10)
    finest = (7, 5) if family in ("vega", "refiner") else (14, 10)  # their transformers begin at the second level
    check(sampling, runs, pair, positive, image, positions, finest)
    content = check(sampling, runs, pair, positive, image, positions, (7, 5), map_resolution="8")
    assert content.maps.shape[2:] == (3, 7, 7, 5)
    assert not content.maps[:, :, 0, 6].any(), "the source has a word less"
    check(sampling, runs, pair, positive, latent(1, 14, 10), None, (7, 5), "self", map_resolution="8")


def test_a_word_is_the_sum_of_its_pieces(sampling, runs):
    """Words of several pieces, phrases, every occurrence or the second, words of one prompt only."""
    p = sum(token < 49406 for token, *_ in sampling.clip.tokenize("zyxwvut")["l"][0])
    assert p > 2
    positive, pair = sampling.pair("a small cat on a red chair, a cat", source="a zyxwvut on a red chair, a cat")
    positions = [
        [tuple(range(2, 2 + p)), (4 + p, 5 + p), (1, 3 + p, 7 + p)],
        [(6, 7), (1, 5, 9), (10,)],
    ]
    content = check(
        sampling, runs, pair, positive, latent(1, 8, 8), positions, (8, 8), words="zyxwvut, Red chair, A\ncat#2"
    )
    assert [[word.label for word in row] for row in content.request.words] == [
        ["zyxwvut", "Red chair", "A"],
        ["Red chair", "A", "cat#2"],
    ]


def test_self_attention_maps(sampling, runs):
    positive, pair = sampling.pair(SWAP)
    content = check(sampling, runs, pair, positive, latent(2, 14, 10), None, (7, 5), "self", map_resolution="8")
    assert content.maps.shape == (STEPS, 2, 2, 35, 7, 5), "K keys, laid out over the queries' places"
    assert (content.maps.float().sum(dim=3) - 1).abs().max() < 1e-2, "each place looks somewhere"


@pytest.mark.parametrize("height, width, half", [(8, 32, (4, 16)), (32, 8, (16, 4)), (9, 15, (5, 8)), (14, 10, (7, 5))])
def test_shapes_of_latents(sampling, runs, height, width, half):
    """From 1:4 to 4:1, and sides that are halved upwards."""
    positive, pair = sampling.pair(SWAP)
    positions = [one_word_each(SOURCE), one_word_each(SWAP)]
    check(sampling, runs, pair, positive, latent(1, height, width), positions, (height, width))
    check(sampling, runs, pair, positive, latent(1, height, width), positions, half, map_resolution="8")


def test_auto_is_the_layer_of_self_attention_injection(sampling, runs):
    """20 x 14 latents: layers of 280 and 70 tokens."""
    positive, pair = sampling.pair(SWAP)
    check(sampling, runs, pair, positive, latent(1, 20, 14), [one_word_each(SOURCE), one_word_each(SWAP)], (10, 7))


def test_guidance_one(sampling, runs):
    positive, pair = sampling.pair(SWAP)
    check(
        sampling, runs, pair, positive, latent(1, 8, 8), [one_word_each(SOURCE), one_word_each(SWAP)], (8, 8), cfg=1.0
    )


def test_conditionings_in_separate_calls(sampling, runs, short_memory):
    positive, pair = sampling.pair(SWAP)
    short_memory()
    check(sampling, runs, pair, positive, latent(2, 8, 8), [one_word_each(SOURCE), one_word_each(SWAP)], (8, 8))


def test_prompts_of_two_chunks(sampling, runs):
    """The short row is repeated up to the longer one's length: a word's attention is that of all its copies."""
    long = SWAP + ", very detailed" * 30
    positive, pair = sampling.pair(long)
    assert positive[0][0].shape[1] == 154
    tokens = [token for chunk in sampling.clip.tokenize(long)["l"] for token, *_ in chunk]
    very = tuple(i for i, token in enumerate(tokens) if token == tokens[8])
    assert len(very) == 30 and very[-1] > 77
    positions = [[(2, 77 + 2), (6, 77 + 6)], [(6,), very]]
    check(sampling, runs, pair, positive, latent(1, 8, 8), positions, (8, 8), words="cat, chair, very")


def test_longer_negative_tiles_the_context(sampling, runs):
    positive, pair = sampling.pair(SWAP)
    negative = sampling.encode("blurry, " * 60)
    assert negative[0][0].shape[1] > 77
    copies = negative[0][0].shape[1] // 77
    positions = [
        [tuple(i + 77 * copy for copy in range(copies) for i in word) for word in one_word_each(text)]
        for text in (SOURCE, SWAP)
    ]
    check(sampling, runs, pair, positive, latent(1, 8, 8), positions, (8, 8), negative=negative)


def test_two_seeds_are_kept_apart(sampling, runs):
    positive, pair = sampling.pair(SWAP)
    model, kept = record(sampling, pair)
    both = kept_of(sampling, model, kept, positive, latent(2, 8, 8))
    assert (both[:, 0] - both[:, 1]).abs().max() > 1e-3
    first = kept_of(sampling, model, kept, positive, latent(1, 8, 8))
    assert (both[:, :1] - first).abs().max() < 1e-4


def kept_of(sampling, model, kept, positive, image=None, **settings):
    samples = sampling.ksampler(model, positive, image or latent(1, 8, 8), **{"steps": STEPS, **settings})
    return kept.take(samples).maps.float()


def test_word_without_end_and_padding(sampling):
    """All words, start, end and padding together are everything: so the words alone are less, and positive."""
    positive, pair = sampling.pair(SWAP)
    model, kept = record(sampling, pair)
    maps = kept_of(sampling, model, kept, positive)
    assert maps.min() > 0 and 0.01 < maps.sum(dim=3).mean() < 0.9


# ---- with edits


def edited_maps(sampling, pair, positive, model, row_edits, maps, attention="cross", image=None):
    """(our samples, our float sums' run, the oracle's maps by step) of an edited run."""
    image = image or latent(2, 12, 8)
    model, kept = record(sampling, pair, model, attention=attention, maps=maps)
    samples = sampling.ksampler(model, positive, image, steps=STEPS)
    seen: list[Seen] = []
    oracle = edited_model(sampling.model, row_edits, self_tokens=256)
    stock_rows(sampling, positive, pair.rows, image, watch(oracle, seen))
    return kept.take(samples), seen


def window(end, closed=()):
    def gate(middle):
        g = torch.full((CONTEXT,), float(middle < end))
        g[list(closed)] = 0.0
        return g

    return gate


def no_gain(middle):
    return torch.ones(CONTEXT)


CROSS, SELF = 0.7, 0.4  # of 3 steps: the first two, the first
ROW_EDITS = [
    RowEdit(SWAP_A, window(CROSS), no_gain, lambda middle: middle < SELF),
    RowEdit(PHRASE_A, window(CROSS, [5]), no_gain, lambda middle: middle < SELF),
]


@pytest.fixture
def edited(sampling):
    """Replace on the first edit, Refine on the second, of one pair: (positive, pair, model)."""
    positive, pair = sampling.pair(SWAP, PHRASE)
    windows = {**DEFAULTS, "cross_end": CROSS, "self_end": SELF}
    model = sampling.edit(pair, edit=1, **windows)
    return positive, pair, sampling.edit(pair, "P2PAttentionRefine", model, edit=2, **windows)


@pytest.mark.parametrize("branch", ["own", "injected"])
def test_maps_of_edited_rows(sampling, runs, edited, branch):
    """own: M*, the edited row's; injected: M[0] A g + M* (1 - g); both on the edited run's own trajectory."""
    content, seen = edited_maps(sampling, edited[1], edited[0], edited[2], ROW_EDITS, branch)
    positions = [one_word_each(text) for text in (SOURCE, SWAP, PHRASE)]
    grid = (12, 8)
    for part in range(STEPS):
        probs = average(seen, "cross", grid, [part])  # (B R, Q, L)
        if branch == "injected":
            probs = probs.clone()
            for row, edit in enumerate(ROW_EDITS, 1):
                g = edit.gate((part + 0.5) / STEPS).double()
                probs[row::3] = probs[::3] @ edit.alignment.double() * g + probs[row::3] * (1 - g)
        wanted = columns(probs, positions, grid)
        (got,) = runs[-1].mean(part).values()
        assert (got[::3] - wanted[::3]).abs().max() < EXACT, "the source's"
        assert (got - wanted).abs().max() < EXACT * (1 if part == 0 else 10), part
        assert ((content.maps[part].flatten(0, 1) - wanted).abs() <= HALF * wanted + EXACT * 10).all()
    own, other = (average(seen, "cross", grid, [0])[row::3] for row in (1, 0))
    assert (own - other).abs().max() > 1e-3, "the branches can be told apart"


@pytest.mark.parametrize("branch", ["own", "injected"])
def test_self_attention_maps_of_edited_rows(sampling, runs, edited, branch):
    _, seen = edited_maps(
        sampling, edited[1], edited[0], edited[2], ROW_EDITS, branch, "self", latent(1, 8, 8)
    )  # fmt: skip
    for part in range(STEPS):
        probs = average(seen, "self", (8, 8), [part]).clone()
        assert (probs[1] - probs[0]).abs().max() > 1e-3
        if branch == "injected" and part == 0:
            probs[1:] = probs[:1]
        (got,) = runs[-1].mean(part).values()
        assert (got - probs.transpose(1, 2).unflatten(-1, (8, 8))).abs().max() < EXACT * (1 if part == 0 else 10)


def test_reweighted_columns_are_shown_unfaded(sampling, runs):
    """A fader scales what a word adds, not where it looks."""
    positive, pair = sampling.pair(SOURCE)
    fader = sampling.edit(pair, "P2PReweightToken", words="cat", scale=3.0, start=0.0, end=1.0)
    model, kept = record(sampling, pair, fader, maps="injected")
    maps = kept_of(sampling, model, kept, positive)
    assert (maps[0, 0, 1] - maps[0, 0, 0]).abs().max() < 1e-5, "the source's own words, all injected"


# ---- areas and other conditionings


def test_in_an_area(sampling, run_node, runs):
    """The lower half: the maps are those of the cropped picture, in its place; nothing elsewhere."""
    positive, pair = sampling.pair(SWAP)
    (area,) = run_node("ConditioningSetArea", conditioning=positive, width=96, height=64, x=0, y=64, strength=1.0)
    positive = area + sampling.encode(TREE)
    image = latent(1, 16, 12)
    model, kept = record(sampling, pair)
    samples = sampling.ksampler(model, positive, image, steps=STEPS)
    seen: list[Seen] = []
    stock_rows(sampling, positive, 2, image, watch(sampling.model, seen, "cross"))
    wanted = columns(average(seen, "cross", (8, 12)), [one_word_each(SOURCE), one_word_each(SWAP)], (8, 12))
    (sums,) = runs[-1].mean().values()
    assert (sums - wanted).abs().max() < EXACT
    content = kept.take(samples)
    shares = torch.tensor(content.shares).view(-1, 1, 1, 1, 1, 1)
    placed = (content.maps.float() * shares).sum(dim=0)[0]  # (R, K, h, w) of the whole picture
    half = placed.shape[-2] // 2
    assert not placed[..., :half, :].any()
    coarse = (4, 12)
    got, wanted = F.interpolate(placed[..., half:, :], coarse, mode="area"), F.interpolate(wanted, coarse, mode="area")
    assert (got - wanted).abs().max() < 1e-3 < wanted.std()


def test_in_an_area_the_negative_is_no_pair(sampling, run_node):
    """The host copies the area's entry, id and all, to the other side, where it holds the negative's text.

    So that run equals one whose negative has an entry for that area already.
    """
    positive, pair = sampling.pair(SWAP)
    negative, place = sampling.encode(), {"width": 96, "height": 64, "x": 0, "y": 64, "strength": 1.0}
    (area,) = run_node("ConditioningSetArea", conditioning=positive, **place)
    (negative_area,) = run_node("ConditioningSetArea", conditioning=negative, **place)
    copied, written = (
        sampling.ksampler(
            sampling.edit(pair), area + sampling.encode(TREE), latent(1, 16, 12), steps=STEPS, negative=each
        )
        for each in (negative, negative + negative_area)
    )
    assert relative_error(copied, written) < 1e-5


def test_two_pairs_each_with_its_own_recorder(sampling, runs):
    """Combined, each recorder keeps its own pair's maps: on equal noise, those that the pair has alone."""
    first, first_pair = sampling.pair(SWAP)
    second, second_pair = sampling.pair("a big tree by the sea", source=TREE)
    model, one = record(sampling, first_pair)
    model, two = record(sampling, second_pair, model)
    samples = sampling.ksampler(model, first + second, latent(1, 8, 8), steps=1)
    for kept, positive, pair in ((one, first, first_pair), (two, second, second_pair)):
        alone, alone_kept = record(sampling, pair)
        wanted = kept_of(sampling, alone, alone_kept, positive, steps=1)
        assert (kept.take(samples).maps.float() - wanted).abs().max() < 1e-3 < wanted.std()


def test_the_pair_in_an_area_and_everywhere(sampling, run_node):
    """One pair, two conditionings of different shapes: the mean of both in one picture."""
    positive, pair = sampling.pair(SWAP)
    (area,) = run_node("ConditioningSetArea", conditioning=positive, width=96, height=64, x=0, y=64, strength=1.0)
    for both in (area + positive, positive + area):
        for attention, count in (("cross", 6), ("self", 192)):
            model, kept = record(sampling, pair, attention=attention)
            assert kept_of(sampling, model, kept, both, latent(1, 16, 12)).shape == (STEPS, 1, 2, count, 16, 12)


def test_a_pair_of_some_steps_only(sampling, run_node):
    """In the first half of the run; recording the rest must not cost the picture."""
    positive, pair = plain(sampling)
    (early,) = run_node("ConditioningSetTimestepRange", conditioning=positive, start=0.0, end=0.4)
    (late,) = run_node("ConditioningSetTimestepRange", conditioning=sampling.encode(TREE), start=0.4, end=1.0)
    model, kept = record(sampling, pair)
    samples = sampling.ksampler(model, early + late, latent(1, 8, 8), steps=6)
    content = kept.take(samples)
    assert content.maps[0].any()
    assert sum(content.shares) == pytest.approx(1.0)


# ---- looking changes nothing


def plain(sampling, text=SOURCE):
    return sampling.run_node("P2PPromptPair", clip=sampling.clip, source=text, target="")


@pytest.mark.daily("cross-euler", "self-ddim")
@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "ddim"])
@pytest.mark.parametrize("attention", ["cross", "self"])
def test_recording_a_plain_prompt_leaves_the_stock_run(sampling, sampler, attention):
    positive, pair = plain(sampling)
    torch.manual_seed(3)
    image = {"samples": torch.randn(2, 4, 8, 8), "noise_mask": torch.zeros(2, 1, 64, 64)}
    image["noise_mask"][:, :, :32] = 1.0
    settings = {"sampler_name": sampler, "steps": STEPS}
    for picture in (latent(2, 8, 8), image):
        stock = sampling.ksampler(sampling.model, sampling.encode(SOURCE), dict(picture), **settings)
        model, kept = record(sampling, pair, attention=attention)
        got = sampling.ksampler(model, positive, dict(picture), **settings)
        assert torch.equal(got, stock)
        assert kept.take(got).maps.shape[:3] == (STEPS, 2, 1)


def test_recording_an_edited_run_leaves_every_row(sampling, edited):
    positive, pair, model = edited
    for sampler in ("euler", "dpmpp_sde"):
        settings = {"sampler_name": sampler, "steps": STEPS}
        without = sampling.ksampler(model, positive, latent(2, 8, 8), **settings)
        recorded = record(sampling, pair, record(sampling, pair, model)[0], attention="self", maps="injected")[0]
        assert torch.equal(sampling.ksampler(recorded, positive, latent(2, 8, 8), **settings), without)


# ---- the record


class Stop(Exception):
    pass


def interrupt(sampling, model, positive, at=1):
    import comfy.sample

    def callback(step, *_):
        if step == at:
            raise Stop

    noise = comfy.sample.prepare_noise(latent(1, 8, 8)["samples"], 7)
    with pytest.raises(Stop):
        comfy.sample.sample(
            model, noise, STEPS, CFG, "euler", "normal", positive, sampling.encode(), 0 * noise,
            callback=callback, disable_pbar=True, seed=7,
        )  # fmt: skip


def test_an_interrupted_run_leaves_the_record_empty(sampling):
    positive, pair = sampling.pair(SWAP)
    model, kept = record(sampling, pair)
    samples = sampling.ksampler(model, positive, latent(1, 8, 8), steps=STEPS)
    kept.take(samples)
    interrupt(sampling, model, positive)
    with pytest.raises(ValueError, match="(?s)record of a finished run, got none.*Connect"):
        kept.take(samples)
    with pytest.raises(ValueError, match="record of a finished run, got none"):
        show(sampling, kept, samples)


def test_a_run_that_cannot_start_empties_the_record_too(sampling):
    positive, pair = sampling.pair(SWAP)
    model, kept = record(sampling, pair)
    samples = sampling.ksampler(model, positive, latent(1, 8, 8), steps=STEPS)
    another, _ = sampling.pair("a tree")
    with pytest.raises(ValueError, match="Wanted the conditioning of the pair"):
        sampling.ksampler(model, another, latent(1, 8, 8), steps=STEPS)
    with pytest.raises(ValueError, match="got none"):
        kept.take(samples)


def test_the_record_is_of_its_own_run_only(sampling):
    positive, pair = sampling.pair(SWAP)
    model, kept = record(sampling, pair)
    first = sampling.ksampler(model, positive, latent(1, 8, 8), steps=STEPS)
    one = kept.take(first).maps
    second = sampling.ksampler(model, positive, latent(1, 8, 8), steps=STEPS, seed=8)
    two = kept.take(second).maps
    assert not torch.equal(one, two), "the second run's content"
    assert torch.equal(kept.take(second.half()).maps, two), "a latent that was stored in half precision"
    for other in (first, second[:1], torch.zeros_like(second)):
        with pytest.raises(ValueError, match="latent of the recorded run"):
            kept.take(other)
    assert torch.equal(sampling.ksampler(model, positive, latent(1, 8, 8), steps=STEPS), first)
    assert torch.equal(kept.take(first).maps, one)


def test_clones_of_the_model_share_the_record(sampling, run_node):
    positive, pair = sampling.pair(SWAP)
    model, kept = record(sampling, pair)
    clone = sampling.edit(pair, model=run_node("FreeU", model=model, b1=1.0, b2=1.0, s1=1.0, s2=1.0)[0])
    kept.take(sampling.ksampler(clone, positive, latent(1, 8, 8), steps=STEPS))


@pytest.mark.parametrize("stopped", [False, True])
def test_nothing_of_the_run_stays_on_the_model(sampling, host, stopped):
    positive, pair = sampling.pair(SWAP)
    blended, _ = sampling.run_node(
        "P2PLocalBlendMask", model=sampling.edit(pair), pair=pair, words="", exclude_words="", threshold=0.3,
        start=0.0, spread=True, grow=1, feather=0.0, map_resolution="auto",
    )  # fmt: skip
    model, kept = record(sampling, pair, blended)
    if stopped:
        interrupt(sampling, model, positive)
    else:
        sampling.ksampler(model, positive, latent(1, 8, 8), steps=STEPS)
    key = host.module("p2p_attention.host").KEY
    options = dict(model.model_options)
    assert [type(work).__name__ for work in options.pop(key)] == ["Edit", "Blend", "Recorder"]
    assert options == {"transformer_options": {}}
    assert set(model.get_wrappers("outer_sample", key)) and len(model.wrappers) == 1
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each).__name__ in RUN_STATE]


def test_words_that_are_in_no_prompt(sampling):
    _, pair = sampling.pair(SWAP)
    with pytest.raises(ValueError, match="got 'lion', which is in none.*source: a, cat, on.*edit 1: a, dog, on"):
        record(sampling, pair, words="cat, lion")


def test_resolution_that_the_model_has_not(sampling, monkeypatch):
    from comfy.model_base import BaseModel

    positive, pair = sampling.pair(SWAP)
    monkeypatch.setattr(BaseModel, "apply_model", None)  # not to be called
    with pytest.raises(ValueError, match="about 64 x 64 tokens, got layers of 8 x 8, 4 x 4, 2 x 2.*auto"):
        sampling.ksampler(record(sampling, pair, map_resolution="64")[0], positive, latent(1, 8, 8))
    with pytest.raises(ValueError, match="self-attention maps of at most 4096 tokens.*got 5184"):
        model = record(sampling, pair, attention="self", map_resolution="64")[0]
        sampling.ksampler(model, positive, latent(1, 72, 72))


def test_pair_of_another_encoder(sampling, run_node):
    other = Sampling(run_node, *FAMILIES["sdxl"]())
    _, pair = other.pair(SWAP)
    with pytest.raises(ValueError, match="width 32 for this model.*got width 64"):
        record(sampling, pair)


# ---- the sheet


def show(sampling, kept, samples, images=None, time="whole run", style="overlay", seed=1):
    """(sheet, masks); the preview that the node also makes goes into the host's temporary folder."""
    return sampling.run_node(
        "P2PAttentionMaps", maps=kept, latent={"samples": samples}, images=images, style=style, time=time,
        seed_number=seed, components=3,
    )  # fmt: skip


def test_the_sheet_of_a_run(sampling, runs):
    """Masks come row by row, part by part, word by word, at the pictures' size, each from 0 to 1."""
    positive, pair = sampling.pair(SWAP, PHRASE)
    model, kept = record(sampling, pair)
    samples = sampling.ksampler(model, positive, latent(2, 8, 8), steps=STEPS)
    images = torch.rand(6, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    sheet, whole = show(sampling, kept, samples, images, seed=2)
    assert sheet.shape[0] == 1 and sheet.shape[3] == 3 and whole.shape == (6 + 6 + 7, 64, 64)
    assert whole.amin() >= 0 and whole.amax() <= 1
    (sums,) = runs[-1].mean().values()
    exact = torch.cat([sums[3 + row, :words] for row, words in enumerate((6, 6, 7))])
    low, high = exact.amin((1, 2), keepdim=True), exact.amax((1, 2), keepdim=True)
    wanted = F.interpolate(((exact - low) / (high - low))[:, None], (64, 64), mode="bilinear")[:, 0]
    assert (whole - wanted).abs().max() < 2e-2
    _, parts = show(sampling, kept, samples, images, "early, middle, late", "heat map", seed=2)
    assert parts.shape == (3 * 19, 64, 64)
    for part in range(STEPS):
        (sums,) = runs[-1].mean(part).values()
        first = sums[3 + 1, 1]  # "dog" in the first edit: after the source's 18 maps
        wanted = F.interpolate(
            ((first - first.min()) / (first.max() - first.min()))[None, None], (64, 64), mode="bilinear"
        )
        assert (parts[18 + 6 * part + 1] - wanted[0, 0]).abs().max() < 2e-2
    plain_sheet, same = show(sampling, kept, samples, None, seed=2)
    assert torch.equal(same, whole), "without pictures: at their usual size"
    assert plain_sheet.shape != sheet.shape
    with pytest.raises(ValueError, match="1 to 2, got seed_number 3"):
        show(sampling, kept, samples, images, seed=3)
    with pytest.raises(ValueError, match="Wanted the 6 pictures.*got 5"):
        show(sampling, kept, samples, images[:5])


def test_the_page_gets_every_tile(sampling, host, monkeypatch, tmp_path):
    """Each map and picture on its own, cut out of one saved picture."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    positive, pair = sampling.pair(SWAP)
    model, kept = record(sampling, pair, words="cat, dog")
    samples = sampling.ksampler(model, positive, latent(1, 8, 8), steps=1)
    images = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    node = host.node("P2PAttentionMaps")
    told = node.execute(kept, {"samples": samples}, "overlay", "whole run", 1, 6, images).ui
    assert len(told["images"]) == 1, "the sheet, as before"
    (found,) = told["p2p_maps"]
    labels = [[tile["label"] for tile in row["tiles"]] for row in found["rows"]]
    assert labels == [["picture", "cat"], ["picture", "dog"]]
    atlas = Image.open(tmp_path / found["picture"]["filename"])
    assert list(atlas.size) == found["size"]
    for row, image in zip(found["rows"], images, strict=True):
        left, top, width, height = row["tiles"][0]["place"]
        shown = np.asarray(atlas.crop((left, top, left + width, top + height)))
        assert np.abs(shown / 255 - image.numpy()).max() < 2 / 255


@pytest.mark.parametrize("steps, maps", [(1, 1), (2, 2), (3, 3), (4, 3)])
def test_fewer_steps_than_parts(sampling, steps, maps):
    positive, pair = plain(sampling)
    model, kept = record(sampling, pair, words="cat")
    samples = sampling.ksampler(model, positive, latent(1, 8, 8), steps=steps)
    assert show(sampling, kept, samples, time="early, middle, late")[1].shape == (maps, 64, 64)
    assert show(sampling, kept, samples)[1].shape == (1, 64, 64)
    shares = kept.take(samples).shares
    assert sum(shares) == pytest.approx(1) and len(shares) == maps


def test_components_of_self_attention(sampling):
    """They explain the rows of the map best: the first three are those of numpy's singular values."""
    import numpy

    positive, pair = sampling.pair(SWAP)
    model, kept = record(sampling, pair, attention="self")
    samples = sampling.ksampler(model, positive, latent(1, 8, 8), steps=STEPS)
    _, masks = show(sampling, kept, samples)
    assert masks.shape == (2 * 3, 64, 64)
    content = kept.take(samples)
    maps = content.maps.float().mean(dim=0)[0, 1].flatten(1).T.double().numpy()  # (Q, K) of the edit
    centred = maps - maps.mean(axis=1, keepdims=True)
    _, _, patterns = numpy.linalg.svd(centred)
    for got, pattern in zip(masks[3:], patterns, strict=False):
        pattern = torch.from_numpy(pattern * numpy.sign(pattern[numpy.abs(pattern).argmax()])).float().view(1, 1, 8, 8)
        pattern = (pattern - pattern.min()) / (pattern.max() - pattern.min())
        assert (got - F.interpolate(pattern, (64, 64), mode="bilinear")[0, 0]).abs().max() < 0.02
