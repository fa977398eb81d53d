"""The way back of flow models: straight steps, the same fixed point, and what a run on the trajectory gives."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from inverting import rms
from small_transformers import latent, there_is
from test_families import LONGER, NEGATIVE, SOURCE, SWAP, Run

pytestmark = pytest.mark.usefixtures("one_thread")

FAMILIES = ["flux", "chroma", "sd3", "qwen_image", "lumina2", "wan", "cosmos_predict2"]
SETTINGS = {"steps": 6, "scheduler": "normal", "denoise": 1.0}
MANY = {"steps": 50, "scheduler": "normal", "denoise": 1.0}


class WayBack:
    """A small random model with small outputs, which is nearly a denoiser, and pictures."""

    def __init__(self, name, host, run_node):
        self.run = Run(name, host, run_node)
        self.node, self.model, self.name = run_node, self.run.model, name
        for at, parameter in self.model.model.diffusion_model.named_parameters():
            if re.search(r"final_layer.*linear|head.head|proj_out|final_linear|last.linear", at):
                parameter.data *= 0.05

    def picture(self, batch=1, seed=3):
        shape = (batch, *latent(self.name, 1, 16, 16)["samples"].shape[1:])
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def inverted(self, image, source_row="free", model=None, conditioning=None, refine_iterations=10, **settings):
        model, _ = self.node(
            "P2PDDIMInvert", model=model or self.model, conditioning=conditioning or self.run.plain(SOURCE),
            latent_image={"samples": image}, source_row=source_row, refine_iterations=refine_iterations,
            **{**SETTINGS, **settings},
        )  # fmt: skip
        return model

    def sample(self, model, image, positive=None, cfg=1.0, sampler="euler", negative=None, **settings):
        return self.node(
            "KSampler", model=model, seed=1, cfg=cfg, sampler_name=sampler, latent_image={"samples": image},
            positive=positive or self.run.plain(SOURCE), negative=negative or self.run.plain(NEGATIVE),
            **{**SETTINGS, **settings},
        )[0]["samples"]  # fmt: skip

    def trajectory(self, model):
        works = model.model_options[self.run.host.module("p2p_attention.host").KEY]
        (inversion,) = (work for work in works if hasattr(work, "trajectory"))
        return inversion


@pytest.fixture(scope="module")
def flux(host, run_node):
    return WayBack("flux", host, run_node)


@pytest.mark.daily("flux", "sd3", "wan")
@pytest.mark.parametrize("name", FAMILIES)
def test_round_trip(name, host, run_node):
    """The stock sampler comes back to the picture, as exactly as single precision allows (1e-7 to 4e-7)."""
    way = WayBack(name, host, run_node)
    image = way.picture()
    assert rms(way.sample(way.inverted(image, **MANY), image, **MANY), image) < 1e-6


def test_a_model_that_chooses_among_experts_jumps(host, run_node):
    """HiDream's tokens go to the experts that they fit best, and where two fit alike no point leads to the next one:
    what such a model predicts jumps. With every expert asked its way back is as exact as the others'; with a choice a
    free source row comes back nearly, a pinned one exactly.
    """
    way = WayBack("hidream", host, run_node)
    image = way.picture()
    conditioning, pair = way.run.pair(SWAP)
    chosen = rms(way.sample(way.inverted(image, **MANY), image, **MANY), image)
    pinned = way.sample(way.inverted(image, "pin", way.run.edit(pair), conditioning), image, conditioning, cfg=4.0)
    gates = [module for module in way.model.model.diffusion_model.modules() if type(module).__name__ == "MoEGate"]
    for gate in gates:
        gate.top_k = gate.n_routed_experts
    for each in way.model.model.diffusion_model.modules():
        if hasattr(each, "num_activated_experts"):
            each.num_activated_experts = gates[0].n_routed_experts
    asked = rms(way.sample(way.inverted(image, **MANY), image, **MANY), image)
    assert gates and asked < 1e-6 < 1e-5 < chosen < 0.05
    assert torch.equal(pinned[:1], image) and rms(pinned[1:], image) > 1e-3


def test_steps_are_straight(flux):
    """x' = x + (sigma' - sigma) v(x', sigma'), over the sampler's own schedule with its shift."""
    (shifted,) = flux.node("ModelSamplingAuraFlow", model=flux.model, shift=3.0)
    image = flux.picture()
    inversion = flux.trajectory(flux.inverted(image, model=shifted))
    levels = inversion.sigmas
    assert levels[0] == 1.0 and levels[-1] == 0.0 and levels[1] > 0.9  # 5/6 by itself
    assert torch.equal(inversion.trajectory[-1], flux.model.model.process_latent_in(image))
    context, extras = flux.run.plain(SOURCE)[0]
    for step in range(len(levels) - 1):
        x, at = inversion.trajectory[step], inversion.inputs[step]
        v = flux.model.model.diffusion_model(
            at.clone(), torch.tensor([levels[step]]), context.clone(), extras["pooled_output"]
        )
        reached = inversion.trajectory[step + 1] + (levels[step] - levels[step + 1]) * v
        assert rms(reached, x) < 2e-6
        assert rms(at, x) < 5e-6, "the fixed point"
    assert rms(flux.sample(flux.inverted(image, model=shifted), image), image) < 1e-6


@pytest.mark.parametrize("source_row", ["pin", "pin-aligned"])
@pytest.mark.parametrize("denoise", [1.0, 0.5])
def test_a_pinned_source_is_exactly_the_picture(flux, source_row, denoise):
    """Also from part of the way; there less changes."""
    image = flux.picture(2)
    conditioning, pair = flux.run.pair(SWAP, LONGER)
    model = flux.inverted(image, source_row, flux.run.edit(pair), conditioning, 2, denoise=denoise)
    assert abs(flux.trajectory(model).sigmas[0] - denoise) < 0.1
    got = flux.sample(model, image, conditioning, cfg=4.0, denoise=denoise)
    assert torch.equal(got[::3], image)
    assert rms(got[1::3], image) > 1e-3


def test_less_of_the_way_changes_less(flux):
    image = flux.picture()
    conditioning, pair = flux.run.pair(SWAP)

    def change(denoise):
        model = flux.inverted(image, "pin", flux.run.edit(pair), conditioning, 2, denoise=denoise)
        return rms(flux.sample(model, image, conditioning, cfg=4.0, denoise=denoise)[1:], image)

    assert change(0.3) < 0.7 * change(1.0)


def test_a_picture_does_not_depend_on_its_batch(flux):
    image = flux.picture(3)
    together = flux.trajectory(flux.inverted(image, refine_iterations=3)).trajectory
    alone = flux.trajectory(flux.inverted(image[1:2], refine_iterations=3)).trajectory
    assert rms(together[:, 1:2], alone) < 1e-6


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp_2m", "lms", "ipndm", "deis"])
def test_samplers_that_keep_to_the_schedule_can_be_pinned(flux, sampler):
    image = flux.picture()
    conditioning, pair = flux.run.pair(SWAP)
    model = flux.inverted(image, "pin", flux.run.edit(pair), conditioning, 2)
    got = flux.sample(model, image, conditioning, cfg=4.0, sampler=sampler)
    assert torch.equal(got[:1], image) and torch.isfinite(got).all()
    assert rms(got[1:], image) > 1e-3
    free = flux.inverted(image, "free", flux.run.edit(pair), conditioning, 10)
    if sampler == "ddim":
        assert rms(flux.sample(free, image, sampler=sampler), image) < 1e-6
    else:
        with pytest.raises(ValueError, match="of higher order. Set sampler_name to euler"):
            flux.sample(free, image, sampler=sampler)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpm_fast", "dpm_adaptive", "lcm", "er_sde"])
def test_samplers_of_their_own_way_are_refused(flux, sampler):
    image = flux.picture()
    conditioning, pair = flux.run.pair(SWAP)
    model = flux.inverted(image, "pin", flux.run.edit(pair), conditioning, 0)
    with pytest.raises(ValueError, match="Wanted a sampler that follows the inversion, got .*euler or ddim"):
        flux.sample(model, image, conditioning, sampler=sampler)


def test_other_schedules_are_refused(flux):
    """The shift belongs to the schedule: it is another one without it."""
    image = flux.picture()
    model = flux.inverted(image, refine_iterations=0)
    (shifted,) = flux.node("ModelSamplingAuraFlow", model=model, shift=2.0)
    for wrong, settings in ((shifted, {}), (model, {"steps": 5}), (model, {"denoise": 0.5})):
        with pytest.raises(ValueError, match="Wanted the noise levels of the inversion, 6 steps from sigma 1"):
            flux.sample(wrong, image, **settings)


def test_guidance_and_references_are_part_of_the_way(host, run_node):
    """Embedded guidance and a reference picture are inverted with as they stand on the conditioning."""
    way = WayBack("flux_dev", host, run_node)
    image, ((context, extras),) = way.picture(), way.run.plain(SOURCE)
    with_both = [[context, {**extras, "guidance": 2.0, "reference_latents": [way.picture(seed=4)]}]]
    model = way.inverted(image, conditioning=with_both, **MANY)
    assert rms(way.sample(model, image, with_both, **MANY), image) < 1e-6
    for left_out in ("guidance", "reference_latents"):
        other = [[context, {key: value for key, value in with_both[0][1].items() if key != left_out}]]
        assert rms(way.sample(model, image, other, **MANY), image) > 1e-4, left_out


@pytest.mark.parametrize("name", ["flux_dev", "flux", "sd3", "cosmos_predict2"])
def test_which_models_take_guidance_as_a_number(host, run_node, name):
    """Those whose pictures differ by it."""
    way = WayBack(name, host, run_node)
    image, ((context, extras),) = way.picture(), way.run.plain(SOURCE)
    made = [way.sample(way.model, image, [[context, {**extras, "guidance": each}]]) for each in (1.0, 4.0)]
    family = host.module("p2p_attention.host.families").family_of(way.model)
    assert family.embeds_guidance(way.model) == (not torch.equal(*made)) == (name == "flux_dev")


def test_chroma_has_a_number_and_is_guided_by_cfg(host, run_node):
    """The number is 0 for all that it is made for, on the way back as well."""
    model = WayBack("chroma", host, run_node).model
    assert not host.module("p2p_attention.host.families").family_of(model).embeds_guidance(model)


def test_proximal_guidance(flux):
    """All differences left out: the negative's own prediction; none: plain guidance. The source stays the picture."""
    image = flux.picture()
    conditioning, pair = flux.run.pair(SWAP)

    def result(**proximal):
        model = flux.inverted(image, "pin", flux.run.edit(pair), conditioning, 2)
        if proximal:
            (model,) = flux.node("P2PProximalGuidance", model=model, pair=pair, **proximal)
        return flux.sample(model, image, conditioning, cfg=4.0)

    plain, some = result(), result(threshold=0.7, kind="hard")
    assert torch.equal(plain, result(threshold=0.0, kind="hard"))
    assert torch.equal(some[:1], image)
    assert rms(some[1:], plain[1:]) > 1e-3


@pytest.mark.parametrize("name, closer", [("flux", 0.98), ("wan", 0.8), ("cosmos_predict2", 0.98), ("anima", 0.98)])
def test_null_text_leads_back(name, closer, host, run_node):
    """Through the host's own transformers, whose additions in place torch keeps copies for.

    Where newer hosts have a kernel without a gradient it is refused, with the better way.
    """
    import comfy.ldm.cosmos.predict2 as predict2

    if not there_is(name):
        pytest.skip("newer hosts have it")
    way = WayBack(name, host, run_node)
    image, settings = way.picture(), {"steps": 3}
    model = way.inverted(image, **settings)

    def optimised():
        return way.node(
            "P2PNullTextOptimize", model=model, positive=way.run.plain(SOURCE), negative=way.run.plain(NEGATIVE),
            cfg=2.0, inner_steps=10,
        )  # fmt: skip

    if name in ("cosmos_predict2", "anima") and "rms_rope_split_half" in inspect.getsource(predict2):
        with pytest.raises(ValueError, match="No gradient goes through this model.*Set source_row .* to pin"):
            optimised()
        return
    (negative,) = optimised()
    plain = way.sample(model, image, cfg=2.0, **settings)
    back = way.sample(model, image, cfg=2.0, negative=negative, **settings)
    assert rms(back, image) < closer * rms(plain, image)
