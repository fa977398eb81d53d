"""MultiGPU CFG Split, the host's own: the conditionings of a model call on several cards, each in a thread of its own.

Two stand-ins for cards, which both are the CPU: each has its own copy of the model, and its own thread. What can be
seen of one another are the models' layers: a thread that calls those of the other card's model is an error here, as it
is with two real cards.
"""

from __future__ import annotations

import threading

import pytest
import small_transformers
import torch
from inverting import picture, small
from sampling import CFG, DEFAULTS, PHRASE, SOURCE, SWAP, Sampling, latent, relative_error
from small_models import FAMILIES, control_net
from test_families import Run as Transformer

STEPS = 4
FLOAT32 = 1e-4  # the host adds several conditionings up in another order
HALF = 2e-3  # of a map, in half precision
CARDS = [torch.device("cpu"), torch.device("cpu", 1)]
TREES = ("a house by the sea", "a tree by the sea")
BIRDS = ("a bird in the sky", "a bird in the red sky")


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    pass


@pytest.fixture(params=["sd15", "sdxl"])
def sampling(run_node, request):
    return Sampling(run_node, *FAMILIES[request.param]())


@pytest.fixture(autouse=True)
def _each_by_itself(monkeypatch):
    """Each conditioning in a call of its own, with one card as with several: their sums are in the same order."""
    from comfy.model_base import BaseModel

    monkeypatch.setattr(BaseModel, "memory_required", lambda *_, **__: 1e30)


@pytest.fixture
def split(host, run_node, monkeypatch):
    """``split(model)``: on two cards. ``split.threads``: model -> those that have called its layers.

    ``load`` makes a model for the other card, where it is none of ``FAMILIES``.
    """
    pytest.importorskip("comfy.multigpu", reason="this ComfyUI has no MultiGPU CFG Split")
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda exclude_current=False: CARDS[:])
    threads: dict[torch.nn.Module, set[threading.Thread]] = {}
    hooks = []

    def on_two_cards(model, load=None):
        def loaded_again():
            again = load() if load else FAMILIES["sdxl" if type(model.model).__name__ == "SDXL" else "sd15"]()[0]
            again.model.load_state_dict(model.model.state_dict())
            return again

        model = model.clone()
        model.cached_patcher_init = (loaded_again, ())
        (model,) = run_node("MultiGPU_WorkUnits", model=model, max_gpus=2)
        for card in (model, *model.get_additional_models_with_key("multigpu")):
            called = threads.setdefault(card.model, set())
            for layer in card.model.modules():
                if isinstance(layer, torch.nn.Linear):
                    hook = lambda *_, called=called: called.add(threading.current_thread())
                    hooks.append(layer.register_forward_pre_hook(hook))
        return model

    on_two_cards.threads = threads
    yield on_two_cards
    for hook in hooks:
        hook.remove()


def works(sampling, pairs, model, map_resolution="8"):
    """Every kind of work, and on each pair all but the blend: (model, blends, records)."""
    blends, records = [], []
    for pair in pairs:
        model = sampling.edit(pair, "P2PAttentionRefine", model, **DEFAULTS)
        model = sampling.edit(pair, "P2PReweightToken", model, words="a", scale=2.0, start=0.0, end=1.0)
        if pair is pairs[-1]:  # where one leaves the source, all do
            model, masks = sampling.run_node(
                "P2PLocalBlendMask", model=model, pair=pair, words="", exclude_words="", threshold=0.5, start=0.3,
                spread=True, grow=0, feather=0.0, map_resolution=map_resolution,
            )  # fmt: skip
            blends.append(masks)
        for attention in ("cross", "self"):
            model, record = sampling.run_node(
                "P2PRecordAttention", model=model, pair=pair, words="", attention=attention,
                map_resolution=map_resolution, maps="own",
            )  # fmt: skip
            records.append(record)
    return model, blends, records


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2s_ancestral", "dpmpp_sde"])
@pytest.mark.parametrize("split_first", [True, False])
def test_a_run_with_all_works_is_that_of_one_card(sampling, run_node, split, sampler, split_first):
    """Three pairs, of which one ends half-way, so that others go on on another card than they began on."""
    positive, pairs = [], []
    for source, target in ((SOURCE, PHRASE), TREES, BIRDS):
        conditioning, pair = sampling.pair(target, source=source)
        pairs.append(pair)
        if not positive:
            conditioning = run_node("ConditioningSetTimestepRange", conditioning=conditioning, start=0.0, end=0.5)[0]
        positive += conditioning

    def run(with_cards):
        """(samples, what the run leaves)"""
        model = with_cards(sampling.model) if split_first else sampling.model
        model, blends, records = works(sampling, pairs, model)
        model = model if split_first else with_cards(model)
        with torch.inference_mode():
            samples = sampling.ksampler(model, positive, latent(2, 8, 8), steps=STEPS, sampler_name=sampler)
        left = [each.take(samples).masks for each in blends] + [each.take(samples).maps for each in records]
        return samples, left

    samples, left = run(split)
    one, two = split.threads.values()
    assert len(one) == len(two) == 1 and not one & two, "each card's layers are called in its own thread"
    assert threading.current_thread() not in one | two
    wanted, wanted_left = run(lambda model: model)
    assert relative_error(samples, wanted) < FLOAT32
    for got, each in zip(left, wanted_left, strict=True):
        assert (got.float() - each.float()).abs().max() < HALF
    assert 0 < left[0].mean() < 1 and relative_error(samples[1], samples[0]) > 1e-2, "works do something here"


@pytest.mark.parametrize("name", ["flux", "z_image", "sd35_medium", "wan"])
def test_transformers(name, host, run_node, split):
    """Texts of unequal length, where padding is shut off or the model's own filling moves."""
    if not small_transformers.there_is(name):
        pytest.skip("newer hosts have it")
    run = Transformer(name, host, run_node)
    positive, pairs = [], []
    for source, target in (("a cat on a red chair", "a dog on a small red chair"), TREES, BIRDS):
        conditioning, pair = run.pair(target, source=source)
        positive += conditioning
        pairs.append(pair)

    def sampled(model):
        model, blends, records = works(run, pairs, model, map_resolution="auto")
        with torch.inference_mode():
            samples = run.sample(model, positive, seeds=2)
        return samples, [each.take(samples).masks for each in blends] + [each.take(samples).maps for each in records]

    samples, left = sampled(split(run.model, lambda: small_transformers.small(name)))
    one, two = split.threads.values()
    assert len(one) == len(two) == 1 and not one & two
    wanted, wanted_left = sampled(run.model)
    assert relative_error(samples, wanted) < FLOAT32
    for got, each in zip(left, wanted_left, strict=True):
        assert (got.float() - each.float()).abs().max() < HALF
    assert relative_error(samples[1], samples[0]) > 1e-3, "works do something here"


def test_a_hint_for_each_picture(run_node, split):
    """A ControlNet's copy for the rows of a run is taken to every card."""
    sampling = Sampling(run_node, *FAMILIES["sd15"]())
    conditioning, pair = sampling.pair(SWAP)
    control = control_net(sampling.model.model.model_config.unet_config)
    hints = torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(7))

    def run(model):
        positive, negative = run_node(
            "ControlNetApplyAdvanced", positive=conditioning, negative=sampling.encode(), control_net=control,
            image=hints, strength=1.0, start_percent=0.0, end_percent=1.0,
        )  # fmt: skip
        return sampling.ksampler(sampling.edit(pair, model=model), positive, latent(3, 8, 8), negative=negative)

    assert torch.equal(run(split(sampling.model)), run(sampling.model))
    assert all(split.threads.values())


def test_the_way_back(run_node, split):
    """Inversion, null text, and the run that follows."""
    sampling = small(run_node)
    conditioning, pair = sampling.pair(SWAP)
    image = picture(2)

    def run(model):
        settings = {"steps": STEPS, "scheduler": "normal", "denoise": 1.0, "refine_iterations": 3, "source_row": "pin"}
        model, _ = run_node("P2PDDIMInvert", model=model, conditioning=conditioning, latent_image=image, **settings)
        (negative,) = run_node(
            "P2PNullTextOptimize", model=model, positive=conditioning, negative=sampling.encode(""), cfg=CFG,
            inner_steps=2,
        )  # fmt: skip
        model = sampling.edit(pair, model=model)
        return sampling.ksampler(model, conditioning, image, negative=negative, steps=STEPS)

    assert torch.equal(run(split(sampling.model, lambda: small(run_node).model)), run(sampling.model))
    assert all(split.threads.values())


def test_what_cannot_be_run_is_told_as_with_one_card(sampling, split):
    """An error in a card's thread stops the run, with its own sentence."""
    conditioning, pair = sampling.pair(SWAP)

    def expanded(hidden, context, value, options):
        return tuple(each.repeat(2, 1, 1) for each in (hidden, context, value))

    model = sampling.model.clone()
    model.set_model_attn2_patch(expanded)
    with pytest.raises(ValueError, match="rows from cross-attention, got"):
        sampling.ksampler(sampling.edit(pair, model=split(model)), conditioning)


def test_the_demo_model_can_be_split(demo, run_node, split):
    """The host makes the model of another card by loading it again."""
    model, clip, _ = demo
    assert model.cached_patcher_init
    (model,) = run_node("MultiGPU_WorkUnits", model=model, max_gpus=2)
    sampling = Sampling(run_node, model, clip)
    conditioning, pair = sampling.pair(SWAP)
    got = sampling.ksampler(sampling.edit(pair), conditioning, latent(1, 16, 16))
    (other,) = model.get_additional_models_with_key("multigpu")
    assert other.model is not model.model
    sampling = Sampling(run_node, demo[0], clip)
    assert torch.equal(got, sampling.ksampler(sampling.edit(pair), conditioning, latent(1, 16, 16)))
