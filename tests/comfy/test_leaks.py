"""Nothing stays behind: after any run, however it ends, the stock sampler gives its own bits, and no tensor lives on.

Each kind of work runs to its end, is interrupted before every model call, and is broken by another node's patch. Python
is asked for its tensors, and PyTorch's allocator for memory that it did not get back.
"""

from __future__ import annotations

import gc

import pytest
import torch
from inverting import picture, small
from memory import Census, still_allocated
from sampling import DEFAULTS, PHRASE, SOURCE, SWAP, Sampling
from small_models import sd15

STEPS = 3


@pytest.fixture(scope="module")
def sampling(run_node):
    return small(run_node)


def edits(sampling, pair, image, model):
    model = sampling.edit(pair, "P2PAttentionReplace", model, **DEFAULTS, edit=1)
    model = sampling.edit(pair, "P2PAttentionRefine", model, **DEFAULTS, edit=2)
    return sampling.edit(pair, "P2PReweightToken", model, words="red", scale=2.0, start=0.0, end=1.0)


def blend(sampling, pair, image, model):
    return sampling.run_node(
        "P2PLocalBlendMask", model=edits(sampling, pair, image, model), pair=pair, words="", exclude_words="",
        threshold=0.3, start=0.0, spread=True, grow=0, feather=0.0, map_resolution="auto",
    )[0]  # fmt: skip


def recorder(sampling, pair, image, model):
    return sampling.run_node(
        "P2PRecordAttention", model=edits(sampling, pair, image, model), pair=pair, words="", attention="cross",
        map_resolution="auto",
    )[0]  # fmt: skip


def proximal(sampling, pair, image, model):
    model = edits(sampling, pair, image, model)
    return sampling.run_node("P2PProximalGuidance", model=model, pair=pair, threshold=0.7, kind="soft")[0]


def inversion(sampling, pair, image, model):
    model = edits(sampling, pair, image, model)
    return sampling.run_node(
        "P2PDDIMInvert", model=model, conditioning=sampling.encode(SOURCE), latent_image=image, steps=STEPS,
        scheduler="normal", denoise=1.0, refine_iterations=1, source_row="pin",
    )[0]  # fmt: skip


def second_pass(sampling, pair, image, model):
    """Behind another sampler: ``image`` holds the rows already."""
    return sampling.run_node("P2PSecondPass", model=edits(sampling, pair, image, model), pair=pair)[0]


WORKS = {
    "edits": edits,
    "blend": blend,
    "recorder": recorder,
    "proximal": proximal,
    "inversion": inversion,
    "second pass": second_pass,
}


def before_call(model, number, what):
    """A clone of the model that does ``what`` before its model call of this number, from 0, and counts them."""
    patched, calls = model.clone(), []

    def count(executor, *arguments, **keywords):
        if len(calls) == number:
            what()
        calls.append(None)
        return executor(*arguments, **keywords)

    patched.add_wrapper_with_key("diffusion_model", "another node", count)
    return patched, calls


def test_the_census_sees_what_stays():
    census = Census()
    kept = [torch.zeros(3)]
    assert any(each is kept[0] for each in census.new())


def test_the_allocator_sees_what_stays():
    """Here a tensor that no Python object holds: a graph of gradients keeps it."""
    kept = []

    def run(keep):
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.ones(1000, requires_grad=True)
            squared = (x * 2.0).square().sum()
        if keep:
            kept.append(squared.grad_fn)

    assert still_allocated(lambda: run(False)) == 0
    assert still_allocated(lambda: run(True)) >= 4000


@pytest.mark.daily("edits", "blend", "inversion")
@pytest.mark.parametrize("name", WORKS)
def test_however_a_run_ends(sampling, name):
    import comfy.model_management as management

    image = picture(3 if name == "second pass" else 1)
    conditioning, pair = sampling.pair(SWAP, PHRASE)
    negative = sampling.encode()
    settings = {"image": image, "negative": negative, "steps": STEPS}
    model = WORKS[name](sampling, pair, image, sampling.model)
    stock = sampling.ksampler(sampling.model, conditioning, **settings)
    wanted = sampling.ksampler(model, conditioning, **settings)
    counted, calls = before_call(model, None, None)
    sampling.ksampler(counted, conditioning, **settings)
    del counted
    records = [work.record for work in model.model_options["prompt_to_prompt"] if hasattr(work, "record")]

    def clear_records():
        for record in records:
            record.clear()  # what a finished run leaves for the nodes behind it, by design

    def finish():
        assert torch.equal(sampling.ksampler(model, conditioning, **settings), wanted)

    def interrupt(number):
        interrupted, _ = before_call(model, number, management.interrupt_current_processing)
        with pytest.raises(management.InterruptProcessingException):
            sampling.ksampler(interrupted, conditioning, **settings)

    def check(when, run):
        assert still_allocated(lambda: (run(), clear_records())) == 0, when
        assert census.new() == [], when
        assert torch.equal(sampling.ksampler(sampling.model, conditioning, **settings), stock), when

    clear_records()
    census = Census()
    check("after a finished run", finish)
    for number in range(len(calls)):
        check(f"after an interrupt before call {number}", lambda number=number: interrupt(number))

    def fail(*_):
        raise RuntimeError("another node's mistake")

    def stumble():
        broken = model.clone()
        broken.set_model_attn2_output_patch(fail)
        with pytest.raises(RuntimeError, match="another node's mistake"):
            sampling.ksampler(broken, conditioning, **settings)

    check("after another node's mistake", stumble)
    finish()  # the edit goes on working


def test_what_the_host_does_on_the_way(sampling):
    """Two prompts in turn, the model unloaded in between, the same MODEL in two branches of the graph."""
    import comfy.model_management as management

    settings = {"image": picture(), "negative": sampling.encode(), "steps": STEPS}
    pairs = [sampling.pair(SWAP), sampling.pair("a tree by the sea", source="a house by the sea")]
    models = [sampling.edit(pair) for _, pair in pairs]
    plain = sampling.encode(SOURCE)
    alone = [sampling.ksampler(m, c, **settings) for m, (c, _) in zip(models, pairs, strict=True)]
    stock = sampling.ksampler(sampling.model, plain, **settings)
    census = Census()
    for unload in (False, True):
        for (conditioning, _), model, wanted in zip(pairs, models, alone, strict=True):
            assert torch.equal(sampling.ksampler(model, conditioning, **settings), wanted)
            if unload:
                management.unload_all_models()
            assert torch.equal(sampling.ksampler(sampling.model, plain, **settings), stock)
    assert census.new() == []


def test_a_model_that_is_dropped_is_freed(run_node):
    """Nothing of ours (patches, pairs, what the page remembers) holds a model or its text encoder."""
    import weakref

    import comfy.model_management as management

    model, clip = sd15()
    dropped = Sampling(run_node, model, clip)
    conditioning, pair = dropped.pair(SWAP)
    edited = dropped.edit(pair)
    dropped.ksampler(edited, conditioning, steps=1)
    alive = [weakref.ref(each) for each in (model.model, clip.cond_stage_model)]
    del model, clip, dropped, conditioning, pair, edited
    management.unload_all_models()
    management.cleanup_models()
    gc.collect()
    assert [each() for each in alive] == [None, None]
