"""Every edit through the real KSampler equals explicit softmax maps edited as the paper writes them."""

from __future__ import annotations

import pytest
import torch
from explicit_softmax import CONTEXT, RowEdit, edited_model, moved_mass
from small_models import FAMILIES

STEPS, CFG = 5, 4.0
SOURCE = "a cat on a red chair"
SWAP, PHRASE, SAME = "a dog on a red chair", "a cat on a small red chair", SOURCE
NEGATIVE = "blurry"


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, host):
    return FAMILIES[request.param]()


@pytest.fixture(scope="module")
def sd15(host):
    return FAMILIES["sd15"]()


def latent(seeds=1, height=20, width=12):
    return {"samples": torch.zeros(seeds, 4, height, width)}


def encode(run_node, clip, text):
    return run_node("CLIPTextEncode", clip=clip, text=text)[0]


def pair_of(run_node, clip, *targets):
    return run_node("P2PPromptPair", clip=clip, source=SOURCE, target="\n---\n".join(targets))


def ksampler(run_node, model, positive, negative, image, seed=7, **settings):
    settings = {"steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0, **settings}
    inputs = {"model": model, "seed": seed, "positive": positive, "negative": negative, "latent_image": image}
    return run_node("KSampler", **inputs, **settings)[0]["samples"]


def stock_rows(model, positive, negative, image, rows, seed=7):
    """The stock sampler on rows that share their noise, seed by seed."""
    import comfy.sample

    noise = comfy.sample.prepare_noise(image["samples"], seed).repeat_interleave(rows, 0)
    images = image["samples"].repeat_interleave(rows, 0)
    return comfy.sample.sample(
        model, noise, STEPS, CFG, "euler", "normal", positive, negative, images, denoise=1.0, seed=seed, disable_pbar=True
    )


def relative_error(got, wanted):
    return float((got - wanted).abs().max() / wanted.std())


def float32_floor(model, positive, negative, image, rows):
    """How far the host's float32 attention is from float64 softmax, without any edit."""
    idle = RowEdit(torch.eye(CONTEXT).double(), lambda m: 0 * ones(), lambda m: ones(), NEVER)
    exact = edited_model(model, [idle] * (rows - 1), self_tokens=0)
    return relative_error(
        stock_rows(model, positive, negative, image, rows), stock_rows(exact, positive, negative, image, rows)
    )


# ---- the alignments of this file's prompts, by hand: start 0, words from 1, end, padding

PADDING = list(range(8, CONTEXT))
SWAP_A = moved_mass([([i], [i]) for i in range(CONTEXT)])
PHRASE_A = moved_mass(
    [([i], [i]) for i in range(5)] + [([5], [6]), ([6], [7]), ([7], [8]), (PADDING, list(range(9, CONTEXT)))]
)
NEW = 5  # "small"


def ones():
    return torch.ones(CONTEXT)


def within(start, end):
    return lambda middle: start <= middle < end


def gate(window, positions=None, other=None, closed=()):
    """Open for all positions in ``window``, for ``positions`` in ``other``, never for ``closed``."""

    def at(middle):
        g = torch.full((CONTEXT,), float(within(*window)(middle)))
        if positions is not None:
            g[positions] = float(within(*other)(middle))
        g[list(closed)] = 0.0
        return g

    return at


def gain(positions, scale, window=(0, 1)):
    def at(middle):
        c = ones()
        if within(*window)(middle):
            c[positions] = scale
        return c

    return at


NEVER = within(0, 0)
DEFAULTS = {"cross_start": 0.0, "cross_end": 0.8, "self_start": 0.0, "self_end": 0.4}

# name -> (targets, [(node, inputs)], oracle row edits)
CASES = {
    "replace": (
        [SWAP],
        [("P2PAttentionReplace", DEFAULTS)],
        [RowEdit(SWAP_A, gate((0, 0.8)), lambda m: ones(), within(0, 0.4))],
    ),
    "replace late": (
        [SWAP],
        [("P2PAttentionReplace", {"cross_start": 0.4, "cross_end": 1.0, "self_start": 0.2, "self_end": 0.6})],
        [RowEdit(SWAP_A, gate((0.4, 1.0)), lambda m: ones(), within(0.2, 0.6))],
    ),
    "word windows": (
        [SWAP],
        [("P2PAttentionReplace", {**DEFAULTS, "word_windows": "Dog: 0.4\nred  chair: 0.2-0.6"})],
        [
            RowEdit(
                SWAP_A,
                lambda m: torch.stack([gate((0, 0.8), [2], (0, 0.4))(m), gate((0, 0.8), [5, 6], (0.2, 0.6))(m)]).gather(
                    0, torch.tensor([[int(i in (5, 6)) for i in range(CONTEXT)]])
                )[0],
                lambda m: ones(),
                within(0, 0.4),
            )
        ],
    ),
    "refine": (
        [PHRASE],
        [("P2PAttentionRefine", DEFAULTS)],
        [RowEdit(PHRASE_A, gate((0, 0.8), closed=[NEW]), lambda m: ones(), within(0, 0.4))],
    ),
    "reweight alone": (
        [SAME],
        [("P2PReweightToken", {"words": "chair", "scale": -1.5, "start": 0.0, "end": 1.0})],
        [RowEdit(SWAP_A, gate((0, 1)), gain([6], -1.5), NEVER)],
    ),
    "reweight a new word": (
        [PHRASE],
        [("P2PReweightToken", {"words": "small, cat", "scale": 3.0, "start": 0.2, "end": 0.8})],
        [RowEdit(PHRASE_A, gate((0.2, 0.8), closed=[NEW]), gain([2, NEW], 3.0, (0.2, 0.8)), NEVER)],
    ),
    "refine, then reweight": (
        [PHRASE],
        [
            ("P2PAttentionRefine", DEFAULTS),
            ("P2PReweightToken", {"words": "small", "scale": 4.0, "start": 0.0, "end": 1.0}),
            ("P2PReweightToken", {"words": "cat", "scale": 0.5, "start": 0.4, "end": 1.0}),
        ],
        [
            RowEdit(
                PHRASE_A,
                gate((0, 0.8), closed=[NEW]),
                lambda m: gain([NEW], 4.0)(m) * gain([2], 0.5, (0.4, 1))(m),
                within(0, 0.4),
            )
        ],
    ),
    "three edits": (
        [SWAP, PHRASE, SAME],
        [
            ("P2PReweightToken", {"words": "red", "scale": 2.0, "start": 0.0, "end": 1.0, "edit": 3}),
            ("P2PAttentionRefine", {**DEFAULTS, "edit": 2}),
            ("P2PAttentionReplace", {**DEFAULTS, "edit": 1}),
            ("P2PReweightToken", {"words": "dog", "scale": 1.7, "start": 0.0, "end": 0.6}),
        ],
        [
            RowEdit(SWAP_A, gate((0, 0.8)), gain([2], 1.7, (0, 0.6)), within(0, 0.4)),
            RowEdit(PHRASE_A, gate((0, 0.8), closed=[NEW]), lambda m: ones(), within(0, 0.4)),
            RowEdit(SWAP_A, gate((0, 1)), gain([5], 2.0), NEVER),
        ],
    ),
}


def check_against_explicit_softmax(run_node, family, case, seeds=2, height=20, width=12):
    model, clip = family
    targets, edits, row_edits = CASES[case]
    positive, pair = pair_of(run_node, clip, *targets)
    negative = encode(run_node, clip, NEGATIVE)
    patched = model
    for node, inputs in edits:
        (patched,) = run_node(node, model=patched, pair=pair, **inputs)
    image = latent(seeds, height, width)
    got = ksampler(run_node, patched, positive, negative, image)

    rows = 1 + len(targets)
    unedited = stock_rows(model, positive, negative, image, rows)
    oracle = edited_model(model, row_edits, self_tokens=max(256, height * width // 16))
    wanted = stock_rows(oracle, positive, negative, image, rows)
    assert got.shape[0] == seeds * rows
    assert torch.equal(got[::rows], unedited[::rows]), "the source row is the unedited one, bit for bit"
    assert relative_error(got, wanted) < 10 * float32_floor(model, positive, negative, image, rows)
    for row in range(1, rows):
        assert relative_error(got[row::rows], unedited[row::rows]) > 1e-2, "the edit does something"


@pytest.mark.parametrize("case", CASES)
def test_edit_equals_explicit_softmax(run_node, sd15, case):
    check_against_explicit_softmax(run_node, sd15, case)


@pytest.mark.parametrize("case", ["three edits"])
def test_every_family_of_models(run_node, family, case):
    check_against_explicit_softmax(run_node, family, case)
