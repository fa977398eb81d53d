"""One sampling run with our works in it: B pictures become B x R rows, and what a run changes dies with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, add_wrapper_with_key

from ..blend import Blend, BlendRun
from ..call_rows import RowsOfCalls
from ..conditionings import PAIR_KEY, source_alone
from ..edit import Edit
from ..guidance import Proximal
from ..invert import Inversion
from ..maps import MapRun
from ..noise import SharedNoise
from ..noise_check import OWN_NOISE, NoiseCheck
from ..preview import SideBySidePreview
from ..record import Recorder
from ..run import EditRun
from ..second_pass import Continuation, count_pictures, noise_for_rows
from . import KEY
from .attention_calls import AttentionCalls
from .families import family_of
from .families.family import Family
from .hints import (
    alike_on_both_sides,
    say_by_which_prompt_it_was_inverted,
    say_that_nothing_is_edited,
    say_that_the_way_up_is_not_edited,
    say_what_a_control_net_sees,
    say_what_becomes_of_latents,
    say_what_is_not_edited,
    say_where_it_begins,
    say_which_pairs_took_no_part,
)
from .map_taps import MapTaps
from .model_calls import take_part
from .notices import say
from .on_trajectory import inversion_run, noise_to_start
from .refusals import (
    forget_zeroed_pairs,
    pairs_of_conditionings,
    refuse_context_windows,
    require_all_of_a_result,
    require_one_beginning,
    require_optimised_for,
    require_plain_guidance,
)
from .results import origin, remember_result
from .rows import mask_for_rows, repeat_for_rows

Kind = TypeVar("Kind")


def sampling_run(executor: WrapperExecutor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Around the host's sampling run, as its OUTER_SAMPLE wrapper, and inside of all others there.

    So other packs' wrappers see the pictures that the sampler was given, wherever their nodes stand in the graph.
    """
    guider = executor.class_obj
    ours = partial(_run, guider, executor.original)
    inside = executor.wrappers[executor.idx + 1 :]
    if not inside:
        return ours(*args, **kwargs)
    return WrapperExecutor.new_class_executor(ours, guider, inside).execute(*args, **kwargs)


def _run(
    guider: Any,
    sample: Callable[..., torch.Tensor],
    noise: torch.Tensor,
    latent_image: torch.Tensor,
    sampler: Any,
    sigmas: torch.Tensor,
    denoise_mask: torch.Tensor | None = None,
    callback: Callable | None = None,
    disable_pbar: bool = False,
    seed: int | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """B pictures become B x R rows, and the works do theirs. In a second pass, the B x R rows are there.

    Args:
        guider: the host's, whose run it is.
        sample: its run, called as it was called.
    """
    patcher = guider.model_patcher
    family = family_of(patcher)
    works = guider.model_options[KEY]
    blends, recorders, guidances = _of(Blend, works), _of(Recorder, works), _of(Proximal, works)
    second_passes, inversions = _of(Continuation, works), _of(Inversion, works)
    recorded: list[Blend | Recorder] = [*blends, *recorders]
    forget_zeroed_pairs(guider.conds)
    if any(PAIR_KEY in cond for entries in guider.conds.values() for cond in entries):  # else it is no run of theirs
        for work in recorded:
            work.record.clear()
    pairs = pairs_of_conditionings(guider.conds, works)
    if not pairs:
        say_that_nothing_is_edited(guider.conds)
        if not inversions or alike_on_both_sides(guider.conds):
            return sample(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs)
    rows = next(iter(pairs.values())).rows if pairs else 1
    latents_are = "none" if second_passes or rows == 1 else origin(pairs.values(), len(noise), latent_image)
    if _goes_up(sigmas):
        say_that_the_way_up_is_not_edited()
        if latents_are != "result" and not second_passes:
            for cond in (cond for entries in guider.conds.values() for cond in entries if PAIR_KEY in cond):
                source_alone(cond)
        return sample(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs)
    second_pass = bool(second_passes) or (latents_are == "result" and not inversions)
    if rows > 1 and not second_passes:
        require_all_of_a_result(latents_are, len(latent_image), rows)
        say_what_becomes_of_latents(latents_are, latent_image, rows, second_pass)
    refuse_context_windows(guider.model_options)
    require_plain_guidance(guider, guidances)
    require_optimised_for(guider, sigmas.tolist())
    require_one_beginning(second_passes, inversions)
    inversion = inversion_run(next(iter(inversions), None), guider, sampler, sigmas, latent_image.shape, pairs)
    edits = _of(Edit, works)
    say_what_is_not_edited(edits, guider.conds)
    say_what_a_control_net_sees(guider.conds)
    say_by_which_prompt_it_was_inverted(inversions, guider.conds, pairs)
    if not inversions:
        say_where_it_begins(latent_image, float(sigmas[0]), patcher.get_model_object("model_sampling"))

    pictures = count_pictures(len(latent_image), rows) if second_pass else len(latent_image)
    noise = noise_for_rows(noise, pictures, rows)
    repeat_for_rows(guider.conds, pictures, rows)
    height, width = noise.shape[-2:]
    size = (height, width)
    run = EditRun(edits, pairs, sigmas.tolist())
    maps = {work: [MapRun(each, run.steps) for each in work.requests] for work in recorded}
    taps = MapTaps(run, maps.values(), family, patcher, size)
    blend_runs = [BlendRun(work, maps[work], pictures, size, run.steps) for work in blends]
    rows_of_calls = RowsOfCalls(pairs, pictures, rows)
    if rows > 1:  # before the others, so that its check sees what the sampler sees
        check = NoiseCheck(rows) if denoise_mask is None else None  # a mask puts other noise into a part of the picture
        _share_noise(SharedNoise(pictures, rows), check, guider.model_options)
    take_part(run, rows_of_calls, taps, blend_runs, guidances, inversion, guider.model_options)
    family.install(patcher, guider.model_options, AttentionCalls(run, taps))

    _look_at_the_loaded_model(family, patcher, guider.model_options)
    if denoise_mask is not None:
        denoise_mask = mask_for_rows(denoise_mask, latent_image.shape, pictures, rows, second_pass)
    began = latent_image if latents_are == "none" and not second_pass else None
    if inversion is not None:
        latent_image = inversions[0].image.to(latent_image)
        noise = noise_to_start(inversion.start, latent_image, sigmas, sampler, patcher)
        noise = noise_for_rows(noise, pictures, rows)
    if not second_pass:
        latent_image = latent_image.repeat_interleave(rows, dim=0)
    if "latent_shapes" in kwargs:
        kwargs["latent_shapes"] = [(len(noise), *shape[1:]) for shape in kwargs["latent_shapes"]]
    preview = None if callback is None else SideBySidePreview(callback, rows)
    samples = sample(
        noise,
        latent_image,
        sampler,
        sigmas,
        denoise_mask,
        _counting(run, preview),
        disable_pbar,
        seed,
        **kwargs,
    )
    if preview is not None:
        preview.finish()
    say_which_pairs_took_no_part(pairs, rows_of_calls.met)
    if inversion is not None and inversion.pins:
        samples = inversion.result(samples, patcher.model.process_latent_out)
    for blend in blend_runs:
        if blend.mask is None:  # the sampler did not call the model in the last step (dpm_fast, dpm_adaptive)
            blend.update(taps.areas, samples.device)
        samples = blend.outside_from_source(samples)
    for blend in blend_runs:
        blend.finish(samples)
    for work in recorders:
        work.finish(maps[work][0], taps.areas, size, samples)
    if rows > 1:
        for pair in set(pairs.values()):
            remember_result(pair, samples, began)
    return samples


def _of(kind: type[Kind], works: Sequence[Any]) -> list[Kind]:
    return [work for work in works if isinstance(work, kind)]


def _goes_up(sigmas: torch.Tensor) -> bool:
    """Whether a run adds noise, as nodes that look for a picture's noise do: it rises in more steps than it falls."""
    changes = sigmas.diff()
    return bool((changes > 0).sum() > (changes < 0).sum())


def _counting(run: EditRun, callback: Callable | None) -> Callable:
    """The run's callback, from which the run learns which steps the sampler has done."""

    def called(step: int, *args: Any) -> None:
        run.finish_step(step)
        if callback is not None:
            callback(step, *args)

    return called


def _look_at_the_loaded_model(family: Family, patcher: Any, model_options: dict) -> None:
    """Other packs put layers into the model when it is loaded for the run, and some models make texts themselves."""

    def around_loading(executor, *args, **kwargs):
        model, conds, models = executor(*args, **kwargs)
        family.finish_texts(patcher, conds)
        return model, conds, models

    def around_sampler(executor, guider, *args, **kwargs):
        family.require_loaded(guider.inner_model.diffusion_model)
        return executor(guider, *args, **kwargs)

    add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, around_loading, model_options, is_model_options=True)
    add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, around_sampler, model_options, is_model_options=True)


def _share_noise(shared: SharedNoise, check: NoiseCheck | None, model_options: dict) -> None:
    """All rows of a seed get the noise that the stock run would draw for it, whichever sampler draws it, and how.

    What escapes is told in the log.
    """

    def around_sampler(executor, *args, **kwargs):
        with shared:
            return executor(*args, **kwargs)

    def around_model_call(executor, *args, **kwargs):
        with shared.paused():
            return executor(*args, **kwargs)

    wrappers: list[tuple[str, Callable]] = [
        (WrappersMP.SAMPLER_SAMPLE, around_sampler),
        (WrappersMP.CALC_COND_BATCH, around_model_call),
    ]
    if check is not None:

        def around_prediction(executor, x, *args, **kwargs):
            if check.own_noise(x):
                say(OWN_NOISE)
            denoised = executor(x, *args, **kwargs)
            check.answered(denoised)
            return denoised

        wrappers.append((WrappersMP.PREDICT_NOISE, around_prediction))
    for place, wrapper in wrappers:
        add_wrapper_with_key(place, KEY, wrapper, model_options, is_model_options=True)
