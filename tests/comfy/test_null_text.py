"""P2P Null-Text Optimize in a real host: gradients through its UNet, and a negative that changes with every step."""

from __future__ import annotations

import contextlib
import inspect

import pytest
import torch
from inverting import picture, rms, small
from memory import Census, still_allocated
from sampling import PHRASE, SOURCE, SWAP
from small_models import FAMILIES, SDXL_LIKE

STEPS, CFG = 4, 4.0
FLOAT32 = 1e-5


@pytest.fixture(scope="module")
def sampling(run_node):
    return small(run_node)


@pytest.fixture(scope="module")
def work(host):
    """The pack's file that runs the optimisation."""
    return host.module("p2p_attention.host.way_back")


def inverted(sampling, image, model=None, **settings):
    settings = {
        "steps": STEPS,
        "scheduler": "normal",
        "denoise": 1.0,
        "refine_iterations": 6,
        "source_row": "free",
        **settings,
    }
    conditioning = sampling.encode(SOURCE)
    return sampling.run_node(
        "P2PDDIMInvert",
        model=model or sampling.model,
        conditioning=conditioning,
        latent_image=image,
        **settings,
    )[0]


def null_text(sampling, model, positive=None, negative=None, cfg=CFG, inner_steps=10):
    return sampling.run_node(
        "P2PNullTextOptimize",
        model=model,
        positive=positive or sampling.encode(SOURCE),
        negative=negative or sampling.encode(""),
        cfg=cfg,
        inner_steps=inner_steps,
    )[0]


def sample(sampling, model, positive, image, **settings):
    return sampling.ksampler(model, positive, image, **{"steps": STEPS, "cfg": CFG, **settings})


@pytest.fixture(scope="module")
def optimised(sampling):
    """(image, model, negative), made once."""
    image = picture()
    model = inverted(sampling, image)
    return image, model, null_text(sampling, model)


# ---- what it is for


def test_the_source_row_comes_closer_to_the_picture(sampling, optimised):
    image, model, negative = optimised
    conditioning, pair = sampling.pair(SWAP, PHRASE)
    model = sampling.edit(pair, model=model)
    plain = sample(sampling, model, conditioning, image, negative=sampling.encode(""))
    got = sample(sampling, model, conditioning, image, negative=negative)
    assert rms(plain[:1], image["samples"]) > 1e-2, "guidance leads away"
    assert rms(got[:1], image["samples"]) < 0.75 * rms(plain[:1], image["samples"])
    assert rms(got[1:], got[:1]) > 1e-3, "the edits are edits"


def test_a_model_that_predicts_velocity(run_node):
    sampling = small(run_node, "sd2")
    image, positive = picture(), sampling.encode(SOURCE)
    model = inverted(sampling, image)
    plain = sample(sampling, model, positive, image, negative=sampling.encode(""))
    got = sample(sampling, model, positive, image, negative=null_text(sampling, model))
    assert rms(got, image["samples"]) < 0.75 * rms(plain, image["samples"])


def test_more_inner_steps_lead_closer(sampling, optimised):
    image, model, negative = optimised
    few = null_text(sampling, model, inner_steps=2)
    errors = [
        rms(sample(sampling, model, sampling.encode(SOURCE), image, negative=each), image["samples"])
        for each in (sampling.encode(""), few, negative)
    ]
    assert errors == sorted(errors, reverse=True), errors


def test_guidance_one_needs_no_optimisation(sampling, optimised):
    _, model, _ = optimised
    empty = sampling.encode("")
    assert all(torch.equal(context, empty[0][0]) for context, _ in null_text(sampling, model, cfg=1.0))


@pytest.mark.daily("sd15", "sdxl")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_sampler_goes_the_way_that_was_optimised(run_node, work, monkeypatch, family):
    """The last latents that the optimisation saw are what the sampler gives for the source row: but for rounding, which
    these models with weights by chance enlarge (to 4e-5 at most, by processor), and each negative at its own step."""
    sampling, image = small(run_node, family), picture()
    model = inverted(sampling, image, refine_iterations=1)
    seen = []
    original = work.optimise_null_text

    def watched(*arguments, **named):
        given = inspect.signature(original).bind(*arguments, **named)
        told = given.arguments["progress"]
        given.arguments["progress"] = lambda step, denoised, x: (seen.append(x.clone()), told(step, denoised, x))
        return original(*given.args, **given.kwargs)

    monkeypatch.setattr(work, "optimise_null_text", watched)
    conditioning, pair = sampling.pair(SWAP)
    cfg = 2.0
    negative = null_text(sampling, model, positive=conditioning, cfg=cfg, inner_steps=3)
    one_late = [[negative[max(step - 1, 0)][0], spans] for step, (_, spans) in enumerate(negative)]

    def away(negative):
        got = sample(sampling, sampling.edit(pair, model=model), conditioning, image, negative=negative, cfg=cfg)
        return rms(got[:1], sampling.model.model.process_latent_out(seen[-1]))

    assert away(negative) < FLOAT32 * (20 if family in SDXL_LIKE else 1)
    assert away(one_late) > FLOAT32 * 100


# ---- the negative


def test_one_entry_for_each_step(sampling, optimised):
    _, _, negative = optimised
    empty, extras = sampling.encode("")[0]
    assert len(negative) == STEPS
    contexts = [context for context, _ in negative]
    assert all(context.shape == empty.shape and context.dtype == empty.dtype for context in contexts)
    assert all(not torch.equal(a, b) for a, b in zip(contexts, [empty, *contexts[:-1]], strict=True))
    for _, each in negative:
        assert torch.equal(each["pooled_output"], extras["pooled_output"])


def test_a_pair_is_optimised_for_its_source(sampling, optimised):
    _, model, negative = optimised
    conditioning, pair = sampling.pair(SWAP, PHRASE)
    for carrier in (model, sampling.edit(pair, model=model)):
        again = null_text(sampling, carrier, positive=conditioning)
        assert all(torch.equal(a, b) for (a, _), (b, _) in zip(again, negative, strict=True))


@pytest.mark.parametrize("steps", [1, 2, 20, 50])
def test_each_noise_level_has_one_negative(sampling, work, steps):
    """The host asks start >= sigma >= end, of a sigma in single precision."""
    from comfy.samplers import KSampler

    for scheduler in KSampler.SCHEDULERS:
        for denoise in (1.0, 0.6):
            levels = KSampler(sampling.model, steps, "cpu", "euler", scheduler, denoise).sigmas
            starts, ends = work.spans_of_steps(tuple(levels.tolist()))
            if not levels.isfinite().all():  # kl_optimal divides by steps - 1
                continue
            for step, sigma in enumerate(levels[:-1]):
                active = [i for i, (a, b) in enumerate(zip(starts, ends, strict=True)) if a >= sigma >= b]
                assert active == [step], scheduler


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m"])
def test_each_model_call_has_the_negative_of_its_level(sampling, work, optimised, name):
    image, _, negative = optimised
    conditioning, pair = sampling.pair(SWAP)
    model = sampling.edit(pair, model=inverted(sampling, image, source_row="pin"))
    seen = []

    def watch(apply_model, args):
        chunks = args["c"]["c_crossattn"].chunk(len(args["cond_or_uncond"]))
        seen.extend(
            (float(args["timestep"][0]), chunk)
            for part, chunk in zip(args["cond_or_uncond"], chunks, strict=True)
            if part == 1
        )
        return apply_model(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(watch)
    got = sample(sampling, model, conditioning, image, negative=negative, sampler_name=name)
    assert torch.equal(got[:1], image["samples"])
    (inversion,) = (each for each in work.works_on(model) if isinstance(each, work.Inversion))
    assert len(seen) == (2 * STEPS - 1 if name == "heun" else STEPS), "one negative at a time"
    for sigma, context in seen:
        step = min(range(STEPS), key=lambda i: abs(inversion.sigmas[i] - sigma))
        assert torch.equal(context[:1], negative[step][0])


@pytest.mark.daily("True")
@pytest.mark.parametrize("positive_is_pair", [True, False])
def test_two_pictures_at_once(sampling, positive_is_pair, rows_by_themselves):
    """Each with its own negative, for its source and its edits."""
    both = picture(2)
    conditioning, pair = sampling.pair(SWAP, PHRASE)
    positive = conditioning if positive_is_pair else None
    model = inverted(sampling, both)
    negative = null_text(sampling, model, positive=positive, inner_steps=3)
    got = sample(sampling, sampling.edit(pair, model=model), conditioning, both, negative=negative)
    for number in range(2):
        one = {"samples": both["samples"][number : number + 1]}
        model = inverted(sampling, one)
        negative = null_text(sampling, model, positive=positive, inner_steps=3)
        alone = sample(sampling, sampling.edit(pair, model=model), conditioning, one, negative=negative)
        assert rms(got[3 * number : 3 * number + 3], alone) < 1e-4


# ---- gradients


@pytest.fixture
def probe(work, monkeypatch):
    """Hands what would be optimised to a function of the test: (conditional, unconditional, negative, ...)."""

    def replace_by(function):
        def probed(conditional, unconditional, negative, trajectory, sigmas, *_):
            function(conditional, unconditional, negative, trajectory, sigmas)
            return [negative.detach()] * (len(sigmas) - 1)

        monkeypatch.setattr(work, "optimise_null_text", probed)

    return replace_by


@pytest.mark.daily("sd15", "sdxl")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("inference", [False, True])
def test_predictions_and_gradients_are_the_models(run_node, probe, family, inference):
    """Of both conditionings as the host predicts them; gradients by differences. Weights loaded in inference mode."""
    with torch.inference_mode() if inference else contextlib.nullcontext():
        sampling = small(run_node, family)
        image = picture()
        model = inverted(sampling, image, refine_iterations=0)
        weight = next(sampling.model.model.diffusion_model.parameters())
        assert weight.is_inference() is inference
        probed = []

        def compare(conditional, unconditional, negative, trajectory, sigmas):
            assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
            x, sigma = trajectory[1], sigmas[1]
            start = 0.1 * negative  # there, attention is smooth enough for differences
            context = start.clone().requires_grad_(True)
            weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(6))
            (unconditional(x, sigma, context) * weights).sum().backward()
            slope = context.grad.norm()
            way = 1e-2 * context.grad / slope
            with torch.no_grad():
                ahead, behind = (unconditional(x, sigma, each) for each in (start + way, start - way))
            difference = ((ahead - behind).double() * weights).sum() / (2 * way.norm())
            assert float(slope) == pytest.approx(float(difference), rel=5e-2)
            predictions = conditional(x, sigma), unconditional(x, sigma, negative)
            probed.append((x, sigma, [each.detach() for each in predictions]))

        probe(compare)
        null_text(sampling, model)
        ((x, sigma, predictions),) = probed
        for wanted, got in zip(stock_predictions(sampling, (SOURCE, ""), x, sigma), predictions, strict=True):
            assert rms(got, wanted) < (FLOAT32 if family in SDXL_LIKE else 1e-6)


def stock_predictions(sampling, prompts, x, sigma):
    """The host's denoised latents for a positive and a negative prompt: guidance 1 and guidance 0."""
    return [stock_prediction(sampling, prompts, x, sigma, cfg) for cfg in (1.0, 0.0)]


def stock_prediction(sampling, prompts, x, sigma, cfg):
    import comfy.samplers

    positive, negative = map(sampling.encode, prompts)
    found = []

    def once(model_k, noise, sigmas, extra_args, callback, disable):
        found.append(model_k(x, sigma * x.new_ones(len(x)), **extra_args))
        return noise

    zeros = torch.zeros_like(x)
    comfy.samplers.sample(
        sampling.model, zeros, positive, negative, cfg, torch.device("cpu"), comfy.samplers.KSAMPLER(once),
        torch.tensor([sigma, 0.0]), model_options=sampling.model.model_options, latent_image=zeros,
    )  # fmt: skip
    return found[0]


def test_in_inference_mode(run_node):
    """As the host executes nodes, loading included; the result is that of ordinary tensors."""
    results = []
    for inference in (False, True):
        with torch.inference_mode() if inference else contextlib.nullcontext():
            sampling = small(run_node)
            image = picture()
            model = inverted(sampling, image)
            negative = null_text(sampling, model, inner_steps=2)
            results.append(sample(sampling, model, sampling.encode(SOURCE), image, negative=negative))
            assert torch.is_inference_mode_enabled() is inference
    assert rms(*results) < FLOAT32


# ---- nothing stays behind


@pytest.mark.daily("True")
@pytest.mark.parametrize("inference", [False, True])
def test_graph_and_copies_are_freed(run_node, inference):
    with torch.inference_mode() if inference else contextlib.nullcontext():
        sampling = small(run_node)
        model = inverted(sampling, picture(), refine_iterations=1)
        negative = null_text(sampling, model, inner_steps=1)
        assert not any(context.requires_grad or context.grad_fn for context, _ in negative)
        census = Census()
        assert still_allocated(lambda: null_text(sampling, model, inner_steps=2)) == 0
        assert census.new() == []
        assert all(parameter.grad is None for parameter in sampling.model.model.diffusion_model.parameters())


def test_the_model_is_left_as_it_was(sampling, optimised):
    _, model, _ = optimised
    conditioning = sampling.encode(SOURCE)
    stock = sampling.ksampler(sampling.model, conditioning)
    flags = [parameter.requires_grad for parameter in sampling.model.model.diffusion_model.parameters()]
    works, given = dict(model.model_options), [sampling.encode(SOURCE), sampling.encode("")]
    copies = [(each[0][0].clone(), dict(each[0][1])) for each in given]
    null_text(sampling, model, *given, inner_steps=1)
    assert model.model_options == works
    assert flags == [parameter.requires_grad for parameter in sampling.model.model.diffusion_model.parameters()]
    for each, (context, extras) in zip(given, copies, strict=True):
        assert torch.equal(each[0][0], context) and each[0][1].keys() == extras.keys()
    assert not torch.is_grad_enabled()
    assert torch.equal(sampling.ksampler(sampling.model, conditioning), stock)


@contextlib.contextmanager
def progress_hook(hook):
    import comfy.utils

    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        yield
    finally:
        comfy.utils.set_progress_bar_global_hook(before)


def test_progress_is_told_and_reaches_its_end(sampling, optimised):
    told = []
    with progress_hook(lambda value, total, preview, node_id=None: told.append((value, total))):
        null_text(sampling, optimised[1], inner_steps=2)
    assert told[-1] == (STEPS, STEPS)
    assert told == sorted(told)
    assert len(told) > STEPS


@pytest.mark.daily("7")
@pytest.mark.parametrize("call", [1, 7])
def test_interrupting_leaves_nothing_behind(sampling, optimised, call):
    from comfy.model_management import InterruptProcessingException

    _, model, negative = optimised
    conditioning = sampling.encode(SOURCE)
    stock = sampling.ksampler(sampling.model, conditioning)
    calls = []

    def interrupt(*_, **__):
        calls.append(1)
        if len(calls) == call:
            raise InterruptProcessingException

    def run():
        with progress_hook(interrupt), pytest.raises(InterruptProcessingException):
            null_text(sampling, model)

    census = Census()
    assert still_allocated(run) == 0
    assert census.new() == []
    assert not torch.is_grad_enabled()
    assert torch.equal(sampling.ksampler(sampling.model, conditioning), stock)
    again = null_text(sampling, model)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(again, negative, strict=True))


# ---- what a user can get wrong


class Sampled(AssertionError):
    pass


@pytest.fixture
def refuses(monkeypatch):
    """A call that must answer with the given words before the model is called once."""
    from comfy.model_base import BaseModel

    def never(*_, **__):
        raise Sampled

    def check(says, call, *arguments, **settings):
        with monkeypatch.context() as patch:
            patch.setattr(BaseModel, "apply_model", never)
            with pytest.raises(ValueError, match=f"(?s){says}"):
                call(*arguments, **settings)

    return check


def test_no_inversion_on_the_model(sampling, refuses):
    says = "Wanted the model that comes from P2P DDIM Invert, got one without an inversion"
    refuses(says, null_text, sampling, sampling.model)
    refuses(says, null_text, sampling, sampling.edit(sampling.pair(SWAP)[1]))


def test_conditionings_of_several_parts(sampling, optimised, refuses):
    _, model, negative = optimised
    two = sampling.encode(SOURCE) + sampling.encode(SWAP)
    refuses("plain positive and a plain negative, got 2 and 1 parts", null_text, sampling, model, positive=two)
    refuses("got 1 and 4 parts", null_text, sampling, model, negative=negative)


def test_another_guidance_on_the_sampler(sampling, optimised, refuses):
    image, model, negative = optimised
    refuses("Wanted cfg 4, for which P2P Null-Text Optimize made the negative, got 7.5", sample, sampling, model,
            sampling.encode(SOURCE), image, negative=negative, cfg=7.5)  # fmt: skip


def test_another_number_of_steps(sampling, optimised, refuses):
    image, model, negative = optimised
    refuses("Wanted the 4 steps for which P2P Null-Text Optimize.*got 5.*as in P2P DDIM Invert", sample, sampling,
            model, sampling.encode(SOURCE), image, negative=negative, steps=5)  # fmt: skip
    shorter = inverted(sampling, image, steps=3, refine_iterations=0)
    refuses("Wanted the 4 steps.*got 3", sample, sampling, shorter, sampling.encode(SOURCE), image,
            negative=negative, steps=3)  # fmt: skip


def test_another_schedule_of_as_many_steps(sampling, optimised, refuses):
    """The negative of each step belongs to its noise level."""
    image, _, negative = optimised
    other = inverted(sampling, image, scheduler="karras", refine_iterations=0)
    refuses(
        r"noise levels for which P2P Null-Text Optimize.*\(4 steps from.*got others \(4 steps from.*scheduler", sample,
        sampling, other, sampling.encode(SOURCE), image, negative=negative, scheduler="karras",
    )  # fmt: skip


@pytest.mark.parametrize("empty", ["positive", "negative"])
def test_an_empty_conditioning(sampling, optimised, run_node, refuses, empty):
    _, model, _ = optimised
    given = {"positive": sampling.encode(SOURCE), "negative": sampling.encode(""), empty: []}
    counts = "0 and 1" if empty == "positive" else "1 and 0"
    refuses(f"plain positive and a plain negative, got {counts} parts", run_node, "P2PNullTextOptimize", model=model,
            cfg=CFG, inner_steps=1, **given)  # fmt: skip
