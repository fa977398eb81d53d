"""The way back: the noise that leads to a picture, by the host's own model calls, and what a run on it needs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management as management
import comfy.sample
import comfy.samplers
import latent_preview
import torch

from ..checks import require_between, require_one_of
from ..conditionings import T5_IDS, T5_WEIGHTS, first_row
from ..invert import DENOISE, ITERATIONS, SOURCE_ROWS, STEPS, Inversion, SourceRow, invert
from ..null_text import CFG, INNER_STEPS, optimise_null_text, spans_of_steps
from .attach import attach, without_works, works_on
from .families import family_of
from .refusals import NULL_TEXT_KEY

SCHEDULERS = tuple(comfy.samplers.KSampler.SCHEDULERS)


def ddim_invert(
    model: Any,
    conditioning: list,
    latent: dict,
    settings: tuple[int, str, float],
    refine_iterations: int,
    source_row: SourceRow,
) -> tuple[Any, dict]:
    """Find the noise that leads to a picture, by the host's own model calls, with progress and previews.

    Args:
        model: the host's model; edits on it stay out of the inversion.
        conditioning: of the source prompt, or a pair's, of which the source row is taken.
        latent: the host's LATENT of the picture, B of them.
        settings: (steps, scheduler, denoise), as on the sampler that will follow.
        refine_iterations: fixed-point iterations per step.
        source_row: see ``Inversion``.

    Returns:
        The model, whose runs begin at the noise found, and the noise as the host's LATENT.

    Raises:
        ValueError: the model cannot be inverted, or there is no picture.
    """
    family = family_of(model)
    family.require(model, None)
    steps, scheduler, denoise = settings
    require_between("steps", steps, STEPS)
    require_one_of("scheduler", scheduler, SCHEDULERS)
    require_between("denoise", denoise, DENOISE)
    require_between("refine_iterations", refine_iterations, ITERATIONS)
    require_one_of("source_row", source_row, SOURCE_ROWS)
    variance = family.variance(model)
    if not conditioning:
        raise ValueError("The conditioning is empty. Connect CLIP Text Encode of what the picture shows.")
    image = latent["samples"]
    latents = model.get_model_object("latent_format")
    channels, frames = latents.latent_channels, "1, " * (latents.latent_dimensions == 3)
    one_picture = image.ndim == 4 + bool(frames) and image.shape[1] == channels and (not frames or image.shape[2] == 1)
    if not one_picture or not image.any():
        raise ValueError(
            f"Wanted the latent of a picture, [batch, {channels}, {frames}height, width], got {list(image.shape)}"
            + ("." if image.any() else ", all zero: an empty latent.")
            + " Connect VAE Encode of your picture, with this checkpoint's VAE."
        )
    falling = comfy.samplers.KSampler(
        model, steps, model.load_device, sampler="euler", scheduler=scheduler, denoise=denoise
    ).sigmas
    levels = tuple(falling.tolist())
    bare = without_works(model)
    show = latent_preview.prepare_callback(bare, len(levels) - 1)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def backwards(model_k, x, sigmas, extra_args=None, callback=None, disable=None):
        def denoised_at(x, sigma):
            return model_k(x, sigma * x.new_ones(len(x)), **extra_args)

        def progress(step, denoised, x):
            show(step, denoised, x, len(levels) - 1)

        found.append(invert(denoised_at, x, levels, refine_iterations, progress, variance))
        return found[0][0][0]

    source = [first_row(entry) for entry in conditioning]
    noise = comfy.sample.sample_custom(
        bare, torch.zeros_like(image), 1.0, comfy.samplers.KSAMPLER(backwards), falling.flip(0), source, source, image
    )
    trajectory, inputs = (each.cpu() for each in found[0])
    context = source[0][0].cpu().clone()
    inversion = Inversion(image.clone(), trajectory, inputs, levels, settings, source_row, context)
    return attach(model, inversion), {"samples": noise}


def null_text(model: Any, positive: list, negative: list, cfg: float, inner_steps: int) -> list:
    """A negative that changes with every step, so that guidance at ``cfg`` leads back to the inverted picture.

    Runs the host's model with gradients. The weights' copies that this may need are freed when it ends.

    Args:
        model: from P2P DDIM Invert.
        positive: of the source prompt, or a pair's, of which the source row is taken.
        negative: to begin with.
        cfg: of the sampler that will follow.
        inner_steps: most optimisation steps per sampling step.

    Returns:
        One conditioning entry per step, each for its part of the noise levels.

    Raises:
        ValueError: the model carries no inversion, or a conditioning is made of several parts.
    """
    require_between("cfg", cfg, CFG)
    require_between("inner_steps", inner_steps, INNER_STEPS)
    inversions = [work for work in works_on(model) if isinstance(work, Inversion)]
    if not inversions:
        raise ValueError("Wanted the model that comes from P2P DDIM Invert, got one without an inversion.")
    named = {key for part in (*positive, *negative) for key in part[1]}
    extra = {"control", "area", "mask", "hooks", "gligen", "start_percent"} & named
    if len(positive) != 1 or len(negative) != 1 or extra:
        raise ValueError(
            f"Wanted a plain positive and a plain negative, got {len(positive)} and {len(negative)} parts"
            + (f" with {', '.join(sorted(extra))}" if extra else "")
            + ". Connect CLIP Text Encode or P2P Prompt Pair directly."
        )
    (inversion,) = inversions
    family, bare = family_of(model), without_works(model)
    steps = len(inversion.sigmas) - 1
    show = latent_preview.prepare_callback(bare, steps)
    found: list[torch.Tensor] = []
    used_up = {T5_IDS, T5_WEIGHTS}  # where the host has made the context of them

    def progress(step, denoised, x):
        show(step, denoised, x, steps)

    def optimise(model_k, x, sigmas, extra_args=None, callback=None, disable=None):
        guider = model_k.inner_model
        used_up.difference_update(guider.conds["negative"][0]["model_conds"])
        with torch.inference_mode(False), torch.enable_grad(), _gradients_pass(family.overwrites):
            denoise = _differentiable(guider.inner_model, extra_args["model_options"])
            source, empty = (
                _model_inputs(guider.conds[name][0], len(x), x.device) for name in ("positive", "negative")
            )
            found.extend(
                optimise_null_text(
                    lambda at, sigma: denoise(at, sigma, source),
                    lambda at, sigma, context: denoise(at, sigma, {**empty, "c_crossattn": context}),
                    empty["c_crossattn"],
                    inversion.trajectory.to(x.device).clone(),
                    inversion.sigmas,
                    cfg,
                    inner_steps,
                    progress,
                    family.variance(model),
                )
            )
        return x

    comfy.sample.sample_custom(
        bare,
        torch.zeros_like(inversion.image),
        cfg,
        comfy.samplers.KSAMPLER(optimise),
        torch.tensor(inversion.sigmas),
        [first_row(positive[0])],
        negative,
        inversion.image,
        disable_pbar=True,
    )
    extras = {key: value for key, value in negative[0][1].items() if key not in used_up}
    extras[NULL_TEXT_KEY] = (cfg, inversion.sigmas)
    return [
        [context.to(negative[0][0]), {**extras, "timestep_start": start, "timestep_end": end}]
        for context, start, end in zip(found, *spans_of_steps(inversion.sigmas), strict=True)
    ]


@contextmanager
def _gradients_pass(overwrites: bool) -> Iterator[None]:
    """Of models that write over what a gradient needs torch keeps copies. They also compute, on newer hosts, some parts
    by kernels without a gradient, unless the host is told that it trains; and some even then.

    Raises:
        ValueError: a part has no gradient.
    """
    if not overwrites:
        yield
        return
    missing = object()
    before = getattr(management, "in_training", missing)
    if before is not missing:
        management.in_training = True
    try:
        with torch.autograd.graph.allow_mutation_on_saved_tensors():
            yield
    except RuntimeError as error:
        if "autograd formula" not in str(error):
            raise
        raise ValueError(
            "No gradient goes through this model: a part of it is computed by a kernel that has none. Set source_row "
            "of P2P DDIM Invert to pin, which gives the picture back exactly, and leave P2P Null-Text Optimize out."
        ) from error
    finally:
        if before is not missing:
            management.in_training = before


def _differentiable(base: Any, model_options: dict) -> Callable[[torch.Tensor, float, dict], torch.Tensor]:
    """(x, sigma, model inputs) -> denoised latents, through which gradients flow to the inputs.

    Weights that were loaded in inference mode cannot be part of a graph: copies stand in for them.
    """

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.base = base

        def forward(self, x, sigma, inputs):
            options = {**model_options.get("transformer_options", {}), "cond_or_uncond": [1], "uuids": [None]}
            return self.base.apply_model(x, sigma, transformer_options=options, **inputs)

    module = Model()
    copies = {
        name: tensor.detach().clone() if tensor.is_inference() else tensor.detach()
        for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers())
    }

    def denoise(x, sigma, inputs):
        return torch.func.functional_call(module, copies, (x, sigma * x.new_ones(len(x)), inputs))

    return denoise


def _model_inputs(cond: dict, rows: int, device: torch.device) -> dict[str, torch.Tensor]:
    """What the host hands to the model for a conditioning, for a batch of ``rows``; normal tensors."""
    processed = {name: each.process_cond(batch_size=rows, area=None).cond for name, each in cond["model_conds"].items()}
    return {
        name: each.to(device).detach().clone() if torch.is_tensor(each) else each for name, each in processed.items()
    }
