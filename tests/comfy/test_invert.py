"""P2P DDIM Invert through the stock samplers: the way back to a picture, and what stays exactly the picture."""

from __future__ import annotations

import contextlib
import math
from types import SimpleNamespace

import pytest
import torch
from inverting import picture, rms, small
from sampling import DEFAULTS, NO_WINDOW, PHRASE, SOURCE, SWAP, Sampling
from small_models import FAMILIES, SDXL_LIKE

STEPS = 5
FLOAT32 = 1e-5  # relative: the same sum in another order, through all steps
FADER = {"words": "chair", "scale": 3.0, "start": 0.0, "end": 1.0}
# Samplers that cannot follow a trajectory on the scheduler's noise levels: fresh noise, steps or levels of their own.
OWN_WAY = """euler_ancestral euler_ancestral_cfg_pp dpm_2_ancestral dpm_fast dpm_adaptive dpmpp_2s_ancestral
dpmpp_2s_ancestral_cfg_pp dpmpp_sde dpmpp_sde_gpu dpmpp_2m_sde dpmpp_2m_sde_gpu dpmpp_2m_sde_heun dpmpp_2m_sde_heun_gpu
dpmpp_3m_sde dpmpp_3m_sde_gpu ddpm lcm res_multistep_ancestral res_multistep_ancestral_cfg_pp er_sde seeds_2 seeds_3
sa_solver sa_solver_pece""".split()
OWN_LEVELS = ["dpm_2", "uni_pc", "uni_pc_bh2"]  # the host leaves out the last level but one for these
ANY_CFG = ["euler", "ddim", "heun", "heunpp2", "lms", "dpmpp_2m", "euler_cfg_pp", "dpmpp_2m_cfg_pp", "ipndm"]
ANY_CFG += ["ipndm_v", "deis", "gradient_estimation", "gradient_estimation_cfg_pp"]


@pytest.fixture(scope="module")
def sampling(run_node):
    return small(run_node)


@pytest.fixture(scope="module")
def inversion_of(host):
    """The inversion that a model carries."""
    key, kind = host.module("p2p_attention.host").KEY, host.module("p2p_attention.invert").Inversion

    def find(model):
        (inversion,) = (each for each in model.model_options[key] if isinstance(each, kind))
        return inversion

    return find


def inverted(sampling, image, model=None, conditioning=None, **settings):
    """(model, noise) of P2P DDIM Invert."""
    settings = {
        "steps": STEPS,
        "scheduler": "normal",
        "denoise": 1.0,
        "refine_iterations": 2,
        "source_row": "pin",
        **settings,
    }
    return sampling.run_node(
        "P2PDDIMInvert",
        model=model or sampling.model,
        conditioning=conditioning or sampling.encode(SOURCE),
        latent_image=image,
        **settings,
    )


def sample(sampling, model, positive, image, **settings):
    return sampling.ksampler(model, positive, image, **{"steps": STEPS, **settings})


def advanced(sampling, model, positive, image, **settings):
    settings = {
        "add_noise": "enable",
        "noise_seed": 5,
        "steps": STEPS,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "start_at_step": 0,
        "end_at_step": 10000,
        "return_with_leftover_noise": "disable",
        **settings,
    }
    return sampling.run_node(
        "KSamplerAdvanced",
        model=model,
        positive=positive,
        negative=sampling.encode(),
        latent_image=image,
        **settings,
    )[0]["samples"]


def round_trip(sampling, image, k, cfg=1.0, **settings):
    """Relative RMS between the picture and what the stock KSampler makes of the noise found for it."""
    conditioning = sampling.encode(SOURCE)
    model, _ = inverted(sampling, image, refine_iterations=k, source_row="free", **settings)
    settings = {key: settings[key] for key in ("steps", "scheduler", "denoise") if key in settings}
    return rms(sample(sampling, model, conditioning, image, cfg=cfg, seed=k, **settings), image["samples"])


# ---- the round trip, source_row free


@pytest.mark.daily("sd15", "sdxl", "inpaint")
@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip_gets_closer_with_every_iteration(run_node, family):
    sampling = small(run_node, family)
    errors = [round_trip(sampling, picture(), k) for k in (0, 1, 3, 10)]
    assert errors == sorted(errors, reverse=True), errors
    assert errors[0] > 5e-3, "the plain inversion has something left to improve"
    assert errors[1] < errors[0] * (0.6 if family == "vega" else 0.5)
    assert errors[-1] < (errors[0] / 20 if family in SDXL_LIKE else FLOAT32)


def test_round_trip_of_a_scene_with_the_bundled_model(host, run_node, demo):
    scenes = host.module("demo.scenes")
    scene = scenes.sample_scene(2_000_001)
    sampling = Sampling(run_node, *demo[:2])
    image = {"samples": demo[2].encode(torch.from_numpy(scenes.render(scene))[None].float() / 255)}
    conditioning = sampling.encode(scenes.caption(scene))
    errors = []
    for k in (0, 10):
        model, _ = inverted(
            sampling, image, conditioning=conditioning, steps=20, refine_iterations=k, source_row="free"
        )
        got = sample(sampling, model, conditioning, image, cfg=1.0, steps=20, seed=k)
        errors.append(rms(got, image["samples"]))
    assert errors[0] > 1e-2
    assert errors[1] < 1e-6


def test_round_trip_with_every_scheduler(sampling):
    from comfy.samplers import KSampler

    errors = {name: round_trip(sampling, picture(), 4, scheduler=name) for name in KSampler.SCHEDULERS}
    assert {"normal", "karras", "sgm_uniform", "exponential"} <= set(errors)
    assert max(errors.values()) < 5e-3, errors


def test_round_trip_part_of_the_way(sampling):
    assert round_trip(sampling, picture(), 10, denoise=0.6) < FLOAT32
    assert round_trip(sampling, picture(), 10, denoise=0.6, scheduler="karras") < FLOAT32


@pytest.mark.parametrize("height, width", [(5, 12), (16, 8)])
def test_round_trip_of_any_shape(sampling, height, width):
    assert round_trip(sampling, picture(1, height, width), 10) < FLOAT32


@pytest.mark.parametrize("k", [0, 8])
def test_a_batch_is_what_each_of_its_images_is_alone(sampling, k, rows_by_themselves):
    both = picture(2)
    model, noise = inverted(sampling, both, refine_iterations=k, source_row="free")
    result = sample(sampling, model, sampling.encode(SOURCE), both, cfg=1.0)
    for number in range(2):
        one = {"samples": both["samples"][number : number + 1]}
        alone_model, alone = inverted(sampling, one, refine_iterations=k, source_row="free")
        assert rms(noise["samples"][number : number + 1], alone["samples"]) < FLOAT32
        alone_result = sample(sampling, alone_model, sampling.encode(SOURCE), one, cfg=1.0)
        assert rms(result[number : number + 1], alone_result) < FLOAT32
    if k:
        assert rms(result, both["samples"]) < FLOAT32


def test_a_run_that_begins_above_the_models_largest_level_begins_at_the_noise_found(host):
    """The host scales noise as for the largest level there, too."""
    import comfy.model_sampling
    import comfy.samplers

    noise_to_start = host.module("p2p_attention.host.on_trajectory").noise_to_start

    class Diffusion(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
        """As the host puts them together."""

    sampling = Diffusion()
    model = SimpleNamespace(
        get_model_object=lambda name: sampling, model=SimpleNamespace(process_latent_in=lambda latent: 0.5 * latent)
    )
    sampler, start, image = comfy.samplers.KSAMPLER(None), picture()["samples"] * 20.0, picture()["samples"]
    for sigma in (float(sampling.sigma_max) * 2.0, float(sampling.sigma_max), 1.0):
        sigmas = torch.tensor([sigma, 0.5])
        noise = noise_to_start(start, image, sigmas, sampler, model)
        most = sampler.max_denoise(SimpleNamespace(inner_model=SimpleNamespace(model_sampling=sampling)), sigmas)
        assert rms(sampling.noise_scaling(sigmas[0], noise, 0.5 * image, most), start) < 1e-6


@pytest.mark.parametrize("denoise", [1.0, 0.5])
def test_the_noise_found_works_without_the_model_that_came_with_it(sampling, denoise):
    """The LATENT output through KSampler (Advanced), the model unpatched."""
    image = picture()
    model, noise = inverted(sampling, image, denoise=denoise, refine_iterations=10, source_row="free")
    steps = int(STEPS / denoise)
    got = advanced(
        sampling,
        sampling.model,
        sampling.encode(SOURCE),
        noise,
        add_noise="disable",
        steps=steps,
        start_at_step=steps - STEPS,
    )
    assert rms(got, image["samples"]) < FLOAT32
    with_model = sample(sampling, model, sampling.encode(SOURCE), image, cfg=1.0, denoise=denoise)
    assert rms(got, with_model) < FLOAT32


def test_ddim_is_euler_and_the_seed_says_nothing(sampling):
    image, conditioning = picture(), sampling.encode(SOURCE)
    model, _ = inverted(sampling, image, source_row="free")
    runs = [
        sample(sampling, model, conditioning, image, cfg=3.0, sampler_name=name, seed=seed)
        for name, seed in (("euler", 0), ("ddim", 0), ("euler", 123))
    ]
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])
    empty = {"samples": torch.zeros_like(image["samples"])}
    assert torch.equal(runs[0], sample(sampling, model, conditioning, empty, cfg=3.0)), "any latent of that shape"


def test_without_iterations_it_is_plain_ddim_inversion(sampling, inversion_of):
    """Song et al. 2021 in the form with alpha, the model called directly."""
    image = picture()
    base, context = sampling.model.model, sampling.encode(SOURCE)[0][0]
    model, noise = inverted(sampling, image, refine_iterations=0, source_row="free")
    sigmas = inversion_of(model).sigmas
    alphas = [1.0 / (1.0 + sigma**2) for sigma in sigmas]
    x = base.process_latent_in(image["samples"])  # sigma is 0: the scales agree
    for here, there in zip(reversed(alphas[1:]), reversed(alphas[:-1]), strict=True):
        sigma = math.sqrt(1.0 / there - 1.0)
        large = x / math.sqrt(there)  # what the host's model takes for the variance-preserving x
        denoised = base.apply_model(large, torch.full((1,), sigma), c_crossattn=context)
        eps = (large - denoised) / sigma
        clean = (x - math.sqrt(1.0 - here) * eps) / math.sqrt(here)
        x = math.sqrt(there) * clean + math.sqrt(1.0 - there) * eps
    wanted = base.process_latent_out(x / math.sqrt(alphas[0]))
    assert rms(noise["samples"], wanted) < FLOAT32


def test_a_pair_is_inverted_by_its_source(sampling):
    conditioning, _ = sampling.pair(SWAP, PHRASE)
    _, of_pair = inverted(sampling, picture(), conditioning=conditioning)
    _, of_source = inverted(sampling, picture())
    assert torch.equal(of_pair["samples"], of_source["samples"])


# ---- the source row, held


def with_edits(sampling, pair, kind, model):
    if kind == "replace":
        return sampling.edit(pair, model=model)
    if kind == "refine":
        return sampling.edit(pair, "P2PAttentionRefine", model)
    return sampling.edit(pair, "P2PReweightToken", model, **FADER)


@pytest.mark.daily("replace-pin", "refine-pin-aligned", "reweight-pin")
@pytest.mark.parametrize("source_row", ["pin", "pin-aligned"])
@pytest.mark.parametrize("kind", ["replace", "refine", "reweight"])
def test_the_source_row_is_the_picture(sampling, source_row, kind):
    """Two edits, two pictures, any guidance, any seed."""
    image = picture(2)
    conditioning, pair = sampling.pair(SWAP, PHRASE)
    model, _ = inverted(sampling, image, source_row=source_row, refine_iterations=1)
    model = with_edits(sampling, pair, kind, model)
    runs = {}
    for cfg, seed in ((1.0, 0), (4.0, 0), (7.5, 0), (4.0, 123)):
        runs[cfg, seed] = got = sample(sampling, model, conditioning, image, cfg=cfg, seed=seed)
        assert got.shape[0] == 6
        assert torch.equal(got[::3], image["samples"])
        for row in (1, 2):
            assert rms(got[row::3], got[::3]) > 1e-3, "the edits are not the source"
    assert torch.equal(runs[4.0, 0], runs[4.0, 123])
    assert rms(runs[7.5, 0][1::3], runs[1.0, 0][1::3]) > 1e-3


def test_every_sampler_is_pinned_or_refused(sampling):
    from comfy.samplers import KSampler

    image = picture()
    conditioning, pair = sampling.pair(SWAP)
    model, _ = inverted(sampling, image, steps=4)
    model = sampling.edit(pair, model=model)
    refused = []
    for name in KSampler.SAMPLERS:
        try:
            got = sample(sampling, model, conditioning, image, steps=4, sampler_name=name)
        except ValueError as error:
            assert "sampler_name to euler or ddim" in str(error)
            refused.append(name)
        else:
            assert torch.equal(got[:1], image["samples"]), name
            assert got.isfinite().all() and rms(got[1:], got[:1]) > 1e-3, name
    assert set(OWN_WAY) <= set(refused)
    assert set(OWN_LEVELS) <= set(refused)
    assert not set(ANY_CFG) & set(refused)


@pytest.mark.parametrize("name", ["uni_pc", "dpm_2", "euler"])
def test_pinned_on_given_noise_levels(sampling, run_node, name):
    """SamplerCustom hands every sampler the scheduler's own levels."""
    image = picture()
    conditioning, pair = sampling.pair(SWAP)
    model, _ = inverted(sampling, image)
    model = sampling.edit(pair, model=model)
    (sampler,) = run_node("KSamplerSelect", sampler_name=name)
    (sigmas,) = run_node("BasicScheduler", model=model, scheduler="normal", steps=STEPS, denoise=1.0)
    got, _ = run_node(
        "SamplerCustom", model=model, add_noise=True, noise_seed=3, cfg=4.0, positive=conditioning,
        negative=sampling.encode(), sampler=sampler, sigmas=sigmas, latent_image=image,
    )  # fmt: skip
    assert torch.equal(got["samples"][:1], image["samples"])
    assert rms(got["samples"][1:], image["samples"]) > 1e-3


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
def test_outside_of_a_local_blend_edits_are_the_picture(sampling, name):
    image = picture(2, 8, 8)
    conditioning, pair = sampling.pair(SWAP, PHRASE)
    mask = torch.zeros(1, 8, 8)
    mask[:, :4] = 1.0
    model, _ = inverted(sampling, image)
    model, _ = sampling.run_node(
        "P2PLocalBlendMask", model=sampling.edit(pair, model=model), pair=pair, threshold=0.3, start=0.0, grow=0,
        feather=0.0, map_resolution="auto", words="", exclude_words="", spread=False, mask=mask,
    )  # fmt: skip
    got = sample(sampling, model, conditioning, image, sampler_name=name).unflatten(0, (2, 3))
    for row in range(3):
        assert torch.equal(got[:, row, :, 4:], image["samples"][:, :, 4:])
    assert rms(got[:, 1, :, :4], image["samples"][:, :, :4]) > 1e-3


@pytest.mark.parametrize("name", ["euler", "ddim"])
def test_outside_of_a_noise_mask_every_row_is_the_picture(sampling, name):
    image = picture(1, 8, 8)
    conditioning, pair = sampling.pair(SWAP)
    model, _ = inverted(sampling, image)
    masked = {**image, "noise_mask": torch.zeros(1, 1, 64, 64)}
    masked["noise_mask"][:, :, :32] = 1.0
    got = sample(sampling, sampling.edit(pair, model=model), conditioning, masked, sampler_name=name)
    assert torch.equal(got[:1], image["samples"])
    assert rms(got[1:, :, 4:], image["samples"][:, :, 4:]) < FLOAT32
    assert rms(got[1:, :, :4], image["samples"][:, :, :4]) > 1e-3


def test_a_run_that_ends_or_begins_between_is_on_the_trajectory(sampling, inversion_of):
    image = picture()
    conditioning, pair = sampling.pair(SWAP)
    model, _ = inverted(sampling, image)
    model = sampling.edit(pair, model=model)
    inversion, base = inversion_of(model), sampling.model.model
    early = advanced(sampling, model, conditioning, image, cfg=4.0, end_at_step=4, return_with_leftover_noise="enable")
    assert torch.equal(early[:1], base.process_latent_out(inversion.trajectory[4]))
    assert rms(early[1:], early[:1]) > 1e-4
    late = advanced(sampling, model, conditioning, image, cfg=4.0, start_at_step=3)
    assert torch.equal(late[:1], image["samples"])
    assert rms(late[1:], late[:1]) > 1e-4


# ---- what the model sees


class Watch:
    """What the model is evaluated on, innermost: (sigma, rows of positive and negative, x in the model's scale)."""

    def __init__(self, model):
        self.model = model.clone()
        self.model.set_model_unet_function_wrapper(self)
        self.calls = []

    def __call__(self, apply_model, args):
        rows = len(args["input"]) // len(args["cond_or_uncond"])
        for part, chunk in zip(args["cond_or_uncond"], args["input"].split(rows), strict=True):
            self.calls.append((float(args["timestep"][0]), part, chunk.clone()))
        return apply_model(args["input"], args["timestep"], **args["c"])

    def rows(self, part):
        return [len(x) for _, number, x in self.calls if number == part]

    def source(self):
        return [x[:1] for _, number, x in self.calls if number == 0]


@pytest.mark.parametrize("source_row", ["pin", "pin-aligned"])
def test_the_source_row_is_evaluated_on_the_inversion(sampling, inversion_of, source_row):
    image = picture()
    conditioning, pair = sampling.pair(SWAP)
    model, _ = inverted(sampling, image, source_row=source_row, refine_iterations=0)
    inversion = inversion_of(model)
    wanted = inversion.trajectory[:-1] if source_row == "pin" else inversion.inputs
    assert rms(inversion.inputs, inversion.trajectory[:-1]) > 1e-3
    watch = Watch(sampling.edit(pair, model=model))
    sample(sampling, watch.model, conditioning, image)
    source = watch.source()
    assert len(source) == STEPS
    for step in range(STEPS):
        assert torch.equal(source[step], wanted[step])

    watch = Watch(sampling.edit(pair, model=model))
    sample(sampling, watch.model, conditioning, image, sampler_name="heun")
    levels = {round(sigma, 3): wanted[step] for step, sigma in enumerate(inversion.sigmas[:-1])}
    assert len(watch.source()) == 2 * STEPS - 1
    for sigma, part, x in watch.calls:
        if part == 0:
            assert torch.equal(x[:1], levels[round(sigma, 3)]), "also the calls within a step"


def test_both_ways_of_holding_agree_when_the_inversion_has_converged(sampling, inversion_of):
    image = picture()
    conditioning, pair = sampling.pair(SWAP)
    runs = []
    for source_row in ("pin", "pin-aligned"):
        model, _ = inverted(sampling, image, source_row=source_row, refine_iterations=10)
        inversion = inversion_of(model)
        assert rms(inversion.inputs, inversion.trajectory[:-1]) < 1e-6
        runs.append(sample(sampling, sampling.edit(pair, model=model), conditioning, image))
    assert rms(*runs) < FLOAT32


def test_an_edit_of_nothing_stays_the_picture(sampling):
    """The same prompt in both rows, guidance 1: the second row runs freely and stays beside the held one."""
    image = picture()
    conditioning, pair = sampling.pair(SOURCE)
    model, _ = inverted(sampling, image, refine_iterations=8)
    for edited in (
        sampling.edit(pair, "P2PReweightToken", model, **{**FADER, "scale": 1.0}),
        sampling.edit(pair, model=model, **NO_WINDOW),
        sampling.edit(pair, model=model),
    ):
        got = sample(sampling, edited, conditioning, image, cfg=1.0)
        assert torch.equal(got[:1], image["samples"])
        assert rms(got[1:], image["samples"]) < FLOAT32


# ---- the negative without its source row


@pytest.mark.daily("2-2-sd15", "1-1-sdxl")
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("seeds, edits", [(1, 1), (2, 2)])
def test_a_held_source_row_needs_no_negative(run_node, host, monkeypatch, family, seeds, edits):
    sampling = small(run_node, family)
    image = picture(seeds)
    conditioning, pair = sampling.pair(*(SWAP, PHRASE)[:edits])
    model, _ = inverted(sampling, image, refine_iterations=1)
    watch = Watch(sampling.edit(pair, model=model))
    saving = sample(sampling, watch.model, conditioning, image)
    assert watch.rows(0) == [seeds * (1 + edits)] * STEPS
    assert watch.rows(1) == [seeds * edits] * STEPS
    watch.calls.clear()
    monkeypatch.setattr(host.module("p2p_attention.host.model_calls"), "_alike_for_all_rows", lambda cond: False)
    full = sample(sampling, watch.model, conditioning, image)
    assert watch.rows(1) == [seeds * (1 + edits)] * STEPS
    assert rms(saving, full) < FLOAT32
    assert torch.equal(saving[:: 1 + edits], full[:: 1 + edits])


def test_guidance_one_and_free_rows_run_as_ever(sampling):
    image = picture()
    conditioning, pair = sampling.pair(SWAP)
    watch = Watch(sampling.edit(pair, model=inverted(sampling, image)[0]))
    sample(sampling, watch.model, conditioning, image, cfg=1.0)
    assert watch.rows(0) == [2] * STEPS and watch.rows(1) == []
    watch = Watch(sampling.edit(pair, model=inverted(sampling, image, source_row="free")[0]))
    sample(sampling, watch.model, conditioning, image)
    assert watch.rows(0) == watch.rows(1) == [2] * STEPS


@pytest.mark.parametrize("what", ["pair", "control", "mask", "hooks", "one of several"])
def test_a_negative_with_something_for_each_row_keeps_them_all(sampling, what):
    import comfy.controlnet
    import comfy.hooks

    class NoControl(comfy.controlnet.ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            return None

        def copy(self):
            return self

    image = picture(1, 8, 8)
    conditioning, pair = sampling.pair(SWAP)
    context, extras = sampling.encode()[0]
    negative = {
        "pair": lambda: sampling.pair("blurry dog", source="blurry cat")[0],
        "control": lambda: [[context, {**extras, "control": NoControl(), "control_apply_to_uncond": False}]],
        "mask": lambda: [[context, {**extras, "mask": torch.ones(1, 8, 8), "mask_strength": 1.0}]],
        "hooks": lambda: [[context, {**extras, "hooks": comfy.hooks.create_hook_lora({}, 1.0, 0.0)}]],
        "one of several": lambda: [[context, extras], *sampling.pair("blurry dog", source="blurry cat")[0]],
    }[what]()
    watch = Watch(sampling.edit(pair, model=inverted(sampling, image)[0]))
    got = sample(sampling, watch.model, conditioning, image, negative=negative)
    assert set(watch.rows(1)) == {2}
    assert torch.equal(got[:1], image["samples"])


# ---- what a user can get wrong


class Sampled(AssertionError):
    pass


@pytest.fixture
def refuses(sampling, monkeypatch):
    """A call that must answer with the given words before the model is called once."""
    from comfy.model_base import BaseModel

    def never(*_, **__):
        raise Sampled

    def check(says, call, *arguments, **settings):
        with monkeypatch.context() as patch:
            patch.setattr(BaseModel, "apply_model", never)
            with pytest.raises(ValueError, match=f"(?s){says}"):
                call(sampling, *arguments, **settings)

    return check


@pytest.fixture(scope="module")
def held(sampling):
    """(model, conditioning, image) with source_row pin and an edit."""
    image = picture()
    conditioning, pair = sampling.pair(SWAP)
    return sampling.edit(pair, model=inverted(sampling, image)[0]), conditioning, image


@pytest.mark.parametrize("other", [{"steps": 6}, {"scheduler": "karras"}, {"denoise": 0.7}, {"steps": 3}])
def test_other_settings_on_the_sampler(refuses, held, other):
    says = f"noise levels of the inversion.*steps {STEPS}, scheduler normal, denoise 1, .*sampler_name to euler or ddim"
    refuses(says, sample, *held, **other)


def test_another_size_or_number_of_pictures(refuses, held):
    model, conditioning, _ = held
    for image in (picture(1, 8, 8), picture(2)):
        shape = ", ".join(map(str, image["samples"].shape))
        refuses(rf"\[1, 4, 8, 6\], got \[{shape}\].*latent that went into P2P DDIM Invert", sample, model, conditioning,
                image)  # fmt: skip


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_sde", "ddpm", "lcm", "dpm_adaptive", "dpm_fast"])
def test_samplers_that_go_their_own_way(sampling, refuses, held, name):
    refuses("draws noise or chooses steps of its own.*sampler_name to euler or ddim", sample, *held, sampler_name=name)
    image = picture()
    model, _ = inverted(sampling, image, source_row="free", refine_iterations=0)
    refuses("draws noise or chooses steps", sample, model, sampling.encode(SOURCE), image, sampler_name=name)


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m", "uni_pc", "lms"])
def test_higher_orders_need_a_held_source_row(sampling, refuses, name):
    image = picture()
    model, _ = inverted(sampling, image, source_row="free", refine_iterations=0)
    refuses("higher order.*or source_row to pin", sample, model, sampling.encode(SOURCE), image, sampler_name=name)


@pytest.mark.parametrize("source_row", ["pin", "pin-aligned"])
def test_holding_needs_a_pair(sampling, refuses, source_row):
    image = picture()
    model, _ = inverted(sampling, image, source_row=source_row, refine_iterations=0)
    says = f"{source_row} holds the source row of a prompt pair.*P2P Prompt Pair.*source_row to free"
    refuses(says, sample, model, sampling.encode(SOURCE), image)


def test_flow_models(sampling, run_node, refuses):
    (flow,) = run_node("ModelSamplingSD3", model=sampling.model, shift=3.0)
    refuses("got a flow model.*remove ModelSamplingFlux / SD3", inverted, picture(), flow)


def test_no_picture(refuses):
    refuses("all zero: an empty latent.*VAE Encode", inverted, {"samples": torch.zeros(1, 4, 8, 6)})
    refuses(r"\[batch, 4, height, width\], got \[1, 16, 8, 6\].*this checkpoint's VAE", inverted,
            {"samples": torch.ones(1, 16, 8, 6)})  # fmt: skip
    refuses(r"got \[1, 4, 1, 8, 6\]", inverted, {"samples": torch.ones(1, 4, 1, 8, 6)})


def test_model_that_is_no_unet(sampling, refuses):
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.Flux({"image_model": "flux", "disable_unet_model_creation": True})
    model = comfy.model_base.BaseModel(config, model_type=comfy.model_base.ModelType.FLUX)
    model.diffusion_model = torch.nn.Linear(1, 1)
    patcher = comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
    refuses("can be edited, got the model kind BaseModel.*SD 1.x, SD 2.x, SDXL", inverted, picture(), patcher)


# ---- beside other nodes


def test_order_of_the_nodes_does_not_matter(sampling):
    """And edits that are on the model already do not touch the inversion, even of a pair's conditioning."""
    image = picture()
    conditioning, pair = sampling.pair(SWAP)
    plain, noise = inverted(sampling, image, conditioning=conditioning)
    after = sampling.edit(pair, "P2PReweightToken", sampling.edit(pair, model=plain), **FADER)
    edited = sampling.edit(pair, "P2PReweightToken", sampling.edit(pair), **FADER)
    before, same_noise = inverted(sampling, image, edited, conditioning)
    assert torch.equal(noise["samples"], same_noise["samples"])
    got = [sample(sampling, model, conditioning, image) for model in (before, after)]
    assert torch.equal(*got)


def test_the_last_inversion_counts(sampling):
    first, second = picture(seed=3), picture(seed=4)
    conditioning, pair = sampling.pair(SWAP)
    model, _ = inverted(sampling, first)
    both, noise = inverted(sampling, second, sampling.edit(pair, model=model), steps=4)
    alone_model, alone = inverted(sampling, second, steps=4)
    assert torch.equal(noise["samples"], alone["samples"])
    got = sample(sampling, both, conditioning, first, steps=4)
    assert torch.equal(got, sample(sampling, sampling.edit(pair, model=alone_model), conditioning, second, steps=4))
    assert torch.equal(got[:1], second["samples"])


def test_a_model_sampling_node_behind_the_inversion_is_noticed(sampling, run_node, refuses):
    """Other noise levels than those of the inversion, whoever made them."""
    image = picture()
    conditioning, _ = sampling.pair(SWAP)
    model, _ = inverted(sampling, image)
    (other,) = run_node("ModelSamplingDiscrete", model=model, sampling="eps", zsnr=True)
    refuses("noise levels of the inversion", sample, other, conditioning, image)


@pytest.mark.parametrize("sampling_kind, zsnr", [("v_prediction", True), ("eps", False)])
def test_a_model_sampling_node_before_it_is_used(sampling, run_node, sampling_kind, zsnr):
    (model,) = run_node("ModelSamplingDiscrete", model=sampling.model, sampling=sampling_kind, zsnr=zsnr)
    image, conditioning = picture(), sampling.pair(SWAP)[0]
    held, _ = inverted(sampling, image, model)
    assert torch.equal(sample(sampling, held, conditioning, image)[:1], image["samples"])


# ---- nothing stays behind


def test_the_model_is_left_as_it_was(sampling):
    image, conditioning = picture(), sampling.encode(SOURCE)
    stock = sampling.ksampler(sampling.model, conditioning)
    given = image["samples"].clone()
    model, _ = inverted(sampling, image)
    sample(sampling, sampling.edit(sampling.pair(SWAP)[1], model=model), sampling.pair(SWAP)[0], image)
    assert sampling.model.model_options == {"transformer_options": {}}
    assert not sampling.model.wrappers or not any(sampling.model.wrappers.values())
    assert not model.model_options["transformer_options"]
    assert torch.equal(image["samples"], given)
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


@pytest.mark.parametrize("k", [0, 4])
def test_progress_is_told_and_reaches_its_end(sampling, k, monkeypatch):
    """What the host is told; newer ones hand only some of it on, now and then, and always the end."""
    from comfy.utils import ProgressBar

    def update_absolute(bar, value, *args, **kwargs):
        given.append(value)
        return update(bar, value, *args, **kwargs)

    given, told, update = [], [], ProgressBar.update_absolute
    monkeypatch.setattr(ProgressBar, "update_absolute", update_absolute)
    with progress_hook(lambda value, total, preview, node_id=None: told.append((value, total))):
        inverted(sampling, picture(), refine_iterations=k)
    assert told[-1] == (STEPS, STEPS)
    assert told == sorted(told)
    assert set(given) == set(range(1, STEPS + 1)) and given == sorted(given)


@pytest.mark.parametrize("call", [1, 5])
def test_interrupting_the_inversion_leaves_nothing_behind(sampling, call):
    from comfy.model_management import InterruptProcessingException

    image, conditioning = picture(), sampling.encode(SOURCE)
    stock = sampling.ksampler(sampling.model, conditioning)
    _, wanted = inverted(sampling, image)
    calls = []

    def interrupt(*_, **__):
        calls.append(1)
        if len(calls) == call:
            raise InterruptProcessingException

    with progress_hook(interrupt), pytest.raises(InterruptProcessingException):
        inverted(sampling, image)
    assert len(calls) == call
    assert sampling.model.model_options == {"transformer_options": {}}
    assert torch.equal(sampling.ksampler(sampling.model, conditioning), stock)
    assert torch.equal(inverted(sampling, image)[1]["samples"], wanted["samples"])


def test_in_inference_mode(run_node):
    """As the host executes nodes, loading included."""
    with torch.inference_mode():
        sampling = small(run_node)
        image = picture()
        assert round_trip(sampling, image, 10) < FLOAT32
        conditioning, pair = sampling.pair(SWAP)
        model, _ = inverted(sampling, image)
        (model,) = run_node("P2PProximalGuidance", model=sampling.edit(pair, model=model), pair=pair, threshold=0.7,
                            kind="soft")  # fmt: skip
        got = sample(sampling, model, conditioning, image)
        assert torch.equal(got[:1], image["samples"])


# ---- proximal guidance


@pytest.fixture(scope="module")
def swap_and_phrase(sampling):
    """(conditioning, pair, model) of two edits."""
    conditioning, pair = sampling.pair(SWAP, PHRASE)
    return conditioning, pair, sampling.edit(pair, **DEFAULTS)


def proximal(sampling, pair, model, threshold=0.7, kind="soft"):
    return sampling.run_node("P2PProximalGuidance", model=model, pair=pair, threshold=threshold, kind=kind)[0]


def test_proximal_guidance_in_one_step(sampling, swap_and_phrase):
    """One step to sigma 0 gives the guided prediction itself: taken apart from runs at guidance 0 and 1."""
    conditioning, pair, model = swap_and_phrase
    cfg, settings = 5.0, {"steps": 1, "scheduler": "sgm_uniform"}
    uncond, cond = (sample(sampling, model, conditioning, picture(2), cfg=each, **settings) for each in (0.0, 1.0))
    difference = cond - uncond
    for kind in ("soft", "hard"):
        got = sample(
            sampling, proximal(sampling, pair, model, 0.6, kind), conditioning, picture(2), cfg=cfg, **settings
        )
        threshold = torch.quantile(difference.abs().flatten(1), 0.6, dim=1)[:, None, None, None]
        kept = difference * (difference.abs() > threshold)
        if kind == "soft":
            kept = difference.sign() * (difference.abs() - threshold).clamp(min=0)
        kept[::3] = difference[::3]
        wanted = uncond + cfg * kept
        assert rms(got, wanted) < 1e-4
        assert rms(got[1::3], (uncond + cfg * difference)[1::3]) > 1e-3


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_proximal_guidance_leaves_the_source_and_what_has_no_guidance(sampling, swap_and_phrase, kind):
    conditioning, pair, model = swap_and_phrase
    guided = proximal(sampling, pair, model, kind=kind)
    without, got = (sample(sampling, each, conditioning, picture()) for each in (model, guided))
    assert torch.equal(got[0], without[0])
    assert rms(got[1:], without[1:]) > 1e-3
    without, got = (sample(sampling, each, conditioning, picture(), cfg=1.0) for each in (model, guided))
    assert torch.equal(got, without)
    nothing = proximal(sampling, pair, model, 0.0, kind)
    assert torch.equal(*(sample(sampling, each, conditioning, picture()) for each in (model, nothing)))


def test_proximal_guidance_in_separate_calls(sampling, swap_and_phrase, monkeypatch):
    from comfy.model_base import BaseModel

    conditioning, pair, model = swap_and_phrase
    guided = proximal(sampling, pair, model)
    together = sample(sampling, guided, conditioning, picture())
    monkeypatch.setattr(BaseModel, "memory_required", lambda *_, **__: 1e30)
    assert rms(sample(sampling, guided, conditioning, picture()), together) < 1e-4


def test_proximal_guidance_needs_its_pair_and_a_share(sampling, swap_and_phrase, refuses):
    _, pair, model = swap_and_phrase
    another, _ = sampling.pair("a tree")
    refuses("Wanted the conditioning of the pair", sample, proximal(sampling, pair, sampling.model),
            another, picture())  # fmt: skip
    with pytest.raises(ValueError, match="threshold between 0 and 1, got 1.5"):
        proximal(sampling, pair, model, 1.5)
