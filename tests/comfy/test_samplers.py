"""Every sampler, scheduler and guider of the host: rows share their noise, the source is the stock run's, to the bit.

``tests/bench/samplers.py`` measures, and wrote the page that is checked here.
"""

from __future__ import annotations

import sys

import pytest
import torch
from real_host import PACK
from sampling import (
    CFG,
    DEFAULTS,
    NO_WINDOW,
    SOURCE,
    SWAP,
    Sampling,
    drawn_once_for,
    latent,
    of_rows,
    relative_error,
)
from small_models import ONE_STAGE, sd15

sys.path.append(str(PACK / "tests" / "bench"))
import samplers as bench_of_samplers  # noqa: E402
from samplers import SECTIONS  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def sampling(run_node):
    return Sampling(run_node, *sd15(**ONE_STAGE))


@pytest.fixture(scope="module")
def ways(sampling):
    return list(bench_of_samplers.ways(sampling))


@pytest.fixture(scope="module")
def page():
    return bench_of_samplers.read(bench_of_samplers.PAGE.read_text(encoding="utf-8"))


@pytest.mark.daily("Samplers", "Schedulers", "Guiders", "Nodes that change guidance")
@pytest.mark.parametrize("section", SECTIONS)
def test_the_page_tells_what_is_measured(host, sampling, ways, page, section, caplog):
    """Whatever the host lists, without a word of noise that is not shared.

    What a host adds that is no host of the page has to be exact, or to rounding, or to fail without edits as well.
    """
    bench = bench_of_samplers.Bench(host, sampling)
    of_section = [way for way in ways if way.section == section]
    assert of_section
    for way in of_section:
        cells = bench_of_samplers.cells(bench.measure(way))
        got, place = bench_of_samplers.kinds(cells), bench_of_samplers.place(page, way)
        if place in page:
            assert got == bench_of_samplers.kinds(page[place]), f"{way.name}: measured {cells}"
        else:
            assert set(got) <= {"exact", "to rounding", "fails"}, f"{way.name}, which is new: measured {cells}"
        assert "noise of its own" not in caplog.text, way.name


def test_the_page_is_whole(ways, page):
    import comfyui_version

    assert bench_of_samplers.PAGE.read_text(encoding="utf-8") == bench_of_samplers.write(page)
    if comfyui_version.__version__ == bench_of_samplers.MEASURED:
        named = [each for each in page if each[0] != bench_of_samplers.ADDED]
        assert [(way.section, way.name) for way in ways] == named
    if comfyui_version.__version__ == bench_of_samplers.NEWER:
        assert {bench_of_samplers.place(page, way) for way in ways} == set(page)
    for (_, name), cells in page.items():
        assert not bench_of_samplers.needs_explanation(cells) or bench_of_samplers.why(name), name


# ---- whatever draws the noise


def masked_image():
    generator = torch.Generator().manual_seed(3)
    image = {"samples": torch.randn(2, 4, 8, 8, generator=generator), "noise_mask": torch.zeros(2, 1, 64, 64)}
    image["noise_mask"][0, :, :32] = 1.0
    image["noise_mask"][1, :, :, :32] = 1.0
    return image


def source_and_stock(sampling, run, image=None, rows=2):
    """The source rows of an edit and of a stock run of as many rows."""
    conditioning, pair = sampling.pair(SWAP)
    image = image or latent(2, 8, 8)
    edited = run(sampling.edit(pair, **DEFAULTS), conditioning, image)
    with drawn_once_for(2, rows):
        stock = run(sampling.model, conditioning, of_rows(image, rows))
    assert relative_error(edited[1::rows], stock[1::rows]) > 1e-3, "the edit does something"
    return edited[::rows], stock[::rows]


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_sde", "lcm"])
def test_with_a_noise_mask(sampling, sampler):
    """ddim fills what is masked out with noise of its own, which the rows share as well."""

    def run(model, conditioning, image):
        return sampling.ksampler(model, conditioning, image, sampler_name=sampler, denoise=0.7, steps=3)

    got, stock = source_and_stock(sampling, run, masked_image())
    assert torch.equal(got, stock)


def test_samplers_that_ask_for_the_negative_at_guidance_one(sampling):
    from comfy.samplers import KSampler

    for sampler in (name for name in KSampler.SAMPLERS if name.endswith("_cfg_pp")):

        def run(model, conditioning, image, sampler=sampler):
            return sampling.ksampler(model, conditioning, image, sampler_name=sampler, cfg=1.0, steps=3)

        got, stock = source_and_stock(sampling, run)
        assert torch.equal(got, stock), sampler


def own_noise(draw):
    """A sampler that nobody has heard of: Euler with noise by ``draw(x)`` after each step but the last."""

    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
            denoised = model(x, sigma * x.new_ones(len(x)), **extra_args)
            x = denoised + (x - denoised) * following / sigma + 0.1 * following * draw(x)
        return x

    return sample


class Generated:
    """Keeps a generator, as noise classes of other packs do; draws at half the size and enlarges."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(5)

    def __call__(self, x):
        coarse = torch.randn(*x.shape[:2], x.shape[2] // 2, x.shape[3] // 2, generator=self.generator)
        return torch.nn.functional.interpolate(coarse, x.shape[-2:])


OWN_NOISE = {
    "like": lambda: lambda x: torch.randn_like(x),
    "size": lambda: lambda x: torch.randn(size=x.shape),
    "generator": Generated,
}


@pytest.mark.parametrize("noise_of_a_run", OWN_NOISE.values(), ids=OWN_NOISE)
def test_a_sampler_of_its_own(sampling, noise_of_a_run):
    import comfy.sample
    import comfy.samplers

    def run(model, conditioning, image):
        sampler = comfy.samplers.KSAMPLER(own_noise(noise_of_a_run()))
        sigmas = comfy.samplers.calculate_sigmas(sampling.model.get_model_object("model_sampling"), "normal", 3)
        samples = image["samples"]
        noise = comfy.sample.prepare_noise(samples, 7)  # seeds the numbers that come after it, too
        return comfy.sample.sample_custom(
            model, noise, CFG, sampler, sigmas, conditioning, sampling.encode(), samples, disable_pbar=True, seed=7
        )

    got, stock = source_and_stock(sampling, run)
    assert torch.equal(got, stock)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2", "heunpp2"])
def test_churn(sampling, sampler):
    """Samplers that draw by randn_like when their s_churn is above zero, which nodes of other packs offer."""
    import comfy.sample
    import comfy.samplers

    def run(model, conditioning, image):
        churned = comfy.samplers.ksampler(sampler, {"s_churn": 1.0})
        sigmas = comfy.samplers.calculate_sigmas(sampling.model.get_model_object("model_sampling"), "normal", 3)
        noise = comfy.sample.prepare_noise(image["samples"], 7)
        return comfy.sample.sample_custom(
            model, noise, CFG, churned, sigmas, conditioning, sampling.encode(), image["samples"], disable_pbar=True,
            seed=7,
        )  # fmt: skip

    got, stock = source_and_stock(sampling, run)
    assert torch.equal(got, stock)


def test_noise_is_shared_outside_of_the_model_alone(sampling):
    """Within the model's own calls nothing is watched: that would cost time with every operation."""
    from torch.overrides import _get_current_function_mode

    seen = []

    def watch(executor, *args, **kwargs):
        seen.append(_get_current_function_mode())
        return executor(*args, **kwargs)

    conditioning, pair = sampling.pair(SWAP)
    model = sampling.edit(pair, **NO_WINDOW)
    model.add_wrapper_with_key("diffusion_model", "test", watch)
    sampling.ksampler(model, conditioning, latent(1, 8, 8), sampler_name="euler_ancestral", steps=2)
    assert seen == [None] * 2
    assert _get_current_function_mode() is None


def test_guidance_of_another_form_is_refused(sampling, run_node):
    """P2P Proximal Guidance works on a positive and a negative; it must not be left out in silence."""
    conditioning, pair = sampling.pair(SWAP)
    (model,) = run_node("P2PProximalGuidance", model=sampling.edit(pair), pair=pair, threshold=0.7, kind="soft")
    (sampler,) = run_node("KSamplerSelect", sampler_name="euler")
    (noise,) = run_node("RandomNoise", noise_seed=7)
    (sigmas,) = run_node("BasicScheduler", model=model, scheduler="normal", steps=2, denoise=1.0)
    negative = sampling.encode()
    dual = {"cond1": conditioning, "cond2": sampling.encode(SOURCE), "negative": negative, "cfg_conds": 2.0}
    guiders = [
        run_node("DualCFGGuider", model=model, cfg_cond2_negative=2.0, style="regular", **dual)[0],
        run_node(
            "PerpNegGuider", model=model, positive=conditioning, negative=negative, cfg=4.0, neg_scale=1.0,
            empty_conditioning=sampling.encode(""),
        )[0],
    ]  # fmt: skip
    for guider in guiders:
        with pytest.raises(ValueError, match="Wanted a positive and a negative for P2P Proximal Guidance"):
            run_node(
                "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas,
                latent_image=latent(1, 8, 8),
            )  # fmt: skip
