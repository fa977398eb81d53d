"""Likeness of words by a text encoder's token embeddings."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from p2p_attention.align import DECIDES, align
from p2p_attention.likeness import WordLikeness, likeness_of


def clip_of(weight):
    model = torch.nn.Module()
    model.clip_l = torch.nn.Module()
    model.clip_l.transformer = torch.nn.Module()
    model.clip_l.transformer.get_input_embeddings = lambda: SimpleNamespace(weight=weight)
    return SimpleNamespace(cond_stage_model=model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_alike_vectors_are_alike_words_in_any_precision(toy, dtype):
    prompts = toy.prompt("a yak"), toy.prompt("a gnu emu ibi")
    weight = torch.randn(4000, 64, generator=torch.Generator().manual_seed(1))
    (yak,), (emu,) = (
        prompts[0].words[1].ids,
        prompts[1].words[2].ids,
    )
    weight[emu] = weight[yak] + 0.5 * weight[emu]
    likeness = likeness_of(clip_of(weight.to(dtype)), prompts)
    found = [likeness(prompts[0].words[1], word) for word in prompts[1].words[1:]]
    assert found[1] > DECIDES and max(found[0], found[2]) < 4
    spans = align(*prompts, likeness).spans
    assert [(span.source[0].text, span.target[0].text) for span in spans if span.kind == "swapped"] == [("yak", "emu")]


def test_untrained_embeddings_decide_nothing(toy):
    """Whatever they happen to be: the place decides."""
    prompts = toy.prompt("a yak", 77), toy.prompt("a gnu with an emu on some ibi", 77)
    without = align(*prompts).spans
    for seed in range(50):
        weight = torch.randn(4000, 32, generator=torch.Generator().manual_seed(seed))
        assert align(*prompts, WordLikeness(weight, prompts)).spans == without


@pytest.mark.parametrize(
    "clip",
    [
        None,
        SimpleNamespace(),
        clip_of(None),
        clip_of(torch.empty(4000, 32, device="meta")),
        clip_of(torch.zeros(10, 32)),
        clip_of(torch.zeros(4000, 32, dtype=torch.int8)),
    ],
    ids=["none", "odd", "no weight", "meta", "too small", "quantised"],
)
def test_embeddings_that_cannot_be_read_are_done_without(toy, clip):
    assert likeness_of(clip, [toy.prompt("a hippopotamus " * 4)]) is None
