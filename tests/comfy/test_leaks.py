"""Nothing stays behind: after any run, however it ends, the stock sampler gives its own bits, and no tensor lives on.

Each kind of work runs to its end, is interrupted before every model call, and is broken by another node's patch.
"""

from __future__ import annotations

import gc

import pytest
import torch
from inverting import picture, small
from sampling import DEFAULTS, PHRASE, SOURCE, SWAP, Sampling
from small_models import sd15

STEPS = 3
RUN_STATE = {"EditRun", "BlendRun", "MapRun", "InversionRun", "RowProgram", "SharedNoise", "_MapTaps"}


@pytest.fixture(scope="module")
def sampling(run_node):
    return small(run_node)


@pytest.fixture(scope="module")
def image():
    return picture()


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


WORKS = {"edits": edits, "blend": blend, "recorder": recorder, "proximal": proximal, "inversion": inversion}


class Census:
    """The tensors and the states of runs that are alive. ``new()`` is what came since."""

    def __init__(self):
        self._before = {id(each): each for each in self._alive()}  # held, so that no new one can take an id

    def new(self):
        return [each for each in self._alive() if id(each) not in self._before]

    @staticmethod
    def _alive():
        gc.collect()
        kinds = lambda each: issubclass(type(each), torch.Tensor) or type(each).__name__ in RUN_STATE
        return list(filter(kinds, gc.get_objects()))


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


@pytest.mark.parametrize("name", WORKS)
def test_however_a_run_ends(sampling, image, name):
    import comfy.model_management as management

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

    def check(when):
        for record in records:
            record.clear()  # what a finished run leaves for the nodes behind it, by design
        assert census.new() == [], when
        assert torch.equal(sampling.ksampler(sampling.model, conditioning, **settings), stock), when

    for record in records:
        record.clear()
    census = Census()
    assert torch.equal(sampling.ksampler(model, conditioning, **settings), wanted)
    check("after a finished run")

    for number in range(len(calls)):
        interrupted, _ = before_call(model, number, management.interrupt_current_processing)
        with pytest.raises(management.InterruptProcessingException):
            sampling.ksampler(interrupted, conditioning, **settings)
        del interrupted
        check(f"after an interrupt before call {number}")

    def fail(*_):
        raise RuntimeError("another node's mistake")

    broken = model.clone()
    broken.set_model_attn2_output_patch(fail)
    with pytest.raises(RuntimeError, match="another node's mistake"):
        sampling.ksampler(broken, conditioning, **settings)
    del broken
    check("after another node's mistake")
    assert torch.equal(sampling.ksampler(model, conditioning, **settings), wanted), "and the edit goes on working"


def test_what_the_host_does_on_the_way(sampling, image):
    """Two prompts in turn, the model unloaded in between, the same MODEL in two branches of the graph."""
    import comfy.model_management as management

    settings = {"image": image, "negative": sampling.encode(), "steps": STEPS}
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
