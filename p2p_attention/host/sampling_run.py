"""One sampling run with our works in it: B pictures become B x R rows, and what a run changes dies with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, add_wrapper_with_key

from ..blend import Blend, BlendRun
from ..call_rows import RowsOfCalls
from ..conditionings import PAIR_KEY, source_alone
from ..edit import Edit
from ..guidance import Proximal
from ..invert import Inversion, InversionRun
from ..maps import MapRun
from ..noise import SharedNoise
from ..noise_check import OWN_NOISE, NoiseCheck
from ..preview import SideBySidePreview
from ..prompt import PromptPair
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
    say_where_the_sampler_overshoots,
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


@dataclass(frozen=True)
class _Works:
    """What the model carries, by kind."""

    edits: list[Edit]
    blends: list[Blend]
    recorders: list[Recorder]
    guidances: list[Proximal]
    second_passes: list[Continuation]
    inversions: list[Inversion]

    @classmethod
    def of(cls, works: Sequence[Any]) -> _Works:
        kinds = Edit, Blend, Recorder, Proximal, Continuation, Inversion
        return cls(*([work for work in works if isinstance(work, kind)] for kind in kinds))  # type: ignore[arg-type]

    @property
    def recorded(self) -> list[Blend | Recorder]:
        return [*self.blends, *self.recorders]


@dataclass(frozen=True)
class _Batch:
    """What a run's latents are: of each picture so many rows, side by side from the start in a second pass."""

    pictures: int
    rows: int
    size: tuple[int, int]
    second_pass: bool


@dataclass(frozen=True)
class _Parts:
    """What lives as long as the run."""

    run: EditRun
    rows_of_calls: RowsOfCalls
    maps: dict[Blend | Recorder, list[MapRun]]
    taps: MapTaps
    blends: list[BlendRun]


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
    rest = disable_pbar, seed
    works = _Works.of(guider.model_options[KEY])
    pairs = _pairs(guider, works)
    if not pairs:
        say_that_nothing_is_edited(guider.conds)
        if not works.inversions or alike_on_both_sides(guider.conds):
            return sample(noise, latent_image, sampler, sigmas, denoise_mask, callback, *rest, **kwargs)
    rows = next(iter(pairs.values())).rows if pairs else 1
    latents_are = "none" if works.second_passes or rows == 1 else origin(pairs.values(), len(noise), latent_image)
    if _goes_up(sigmas):
        say_that_the_way_up_is_not_edited()
        if latents_are != "result" and not works.second_passes:
            _leave_the_sources_alone(guider.conds)
        return sample(noise, latent_image, sampler, sigmas, denoise_mask, callback, *rest, **kwargs)
    second_pass = bool(works.second_passes) or (latents_are == "result" and not works.inversions)
    if rows > 1 and not works.second_passes:
        require_all_of_a_result(latents_are, len(latent_image), rows)
        say_what_becomes_of_latents(latents_are, latent_image, rows, second_pass)
    _require_what_it_needs(guider, works, sigmas)
    beginning = next(iter(works.inversions), None)
    inversion = inversion_run(beginning, guider, sampler, sigmas, latent_image.shape, pairs)
    _say_what_is_unusual(guider, works, pairs, latent_image, sigmas)

    pictures = count_pictures(len(latent_image), rows) if second_pass else len(latent_image)
    batch = _Batch(pictures, rows, (noise.shape[-2], noise.shape[-1]), second_pass)
    noise = noise_for_rows(noise, pictures, rows)
    parts = _install(guider, works, pairs, batch, sigmas, inversion, masked=denoise_mask is not None)
    if denoise_mask is not None:
        denoise_mask = mask_for_rows(denoise_mask, latent_image.shape, pictures, rows, second_pass)
    began = latent_image if latents_are == "none" and not second_pass else None
    if inversion is not None and beginning is not None:
        latent_image = beginning.image.to(latent_image)
        noise = noise_to_start(inversion.start, latent_image, sigmas, sampler, guider.model_patcher)
        noise = noise_for_rows(noise, pictures, rows)
    if not second_pass:
        latent_image = latent_image.repeat_interleave(rows, dim=0)
    if "latent_shapes" in kwargs:
        kwargs["latent_shapes"] = [(len(noise), *shape[1:]) for shape in kwargs["latent_shapes"]]
    say_where_the_sampler_overshoots(parts.run, sampler, sigmas.tolist())
    preview = None if callback is None else SideBySidePreview(callback, rows)
    counting = _counting(parts.run, preview)
    samples = sample(noise, latent_image, sampler, sigmas, denoise_mask, counting, *rest, **kwargs)
    if preview is not None:
        preview.finish()
    say_which_pairs_took_no_part(pairs, parts.rows_of_calls.met)
    if inversion is not None and inversion.pins:
        samples = inversion.result(samples, guider.model_patcher.model.process_latent_out)
    samples = _finish(parts, works, batch, samples)
    if rows > 1:
        for pair in set(pairs.values()):
            remember_result(pair, samples, began)
    return samples


def _pairs(guider: Any, works: _Works) -> dict[Any, PromptPair]:
    """Conditioning id -> its pair. Records are emptied, unless the run is another node's own."""
    forget_zeroed_pairs(guider.conds)
    if any(PAIR_KEY in cond for entries in guider.conds.values() for cond in entries):
        for work in works.recorded:
            work.record.clear()
    return pairs_of_conditionings(guider.conds, guider.model_options[KEY])


def _leave_the_sources_alone(conds: dict[str, list[dict]]) -> None:
    for cond in (cond for entries in conds.values() for cond in entries if PAIR_KEY in cond):
        source_alone(cond)


def _require_what_it_needs(guider: Any, works: _Works, sigmas: torch.Tensor) -> None:
    refuse_context_windows(guider.model_options)
    require_plain_guidance(guider, works.guidances)
    require_optimised_for(guider, sigmas.tolist())
    require_one_beginning(works.second_passes, works.inversions)


def _say_what_is_unusual(
    guider: Any, works: _Works, pairs: dict[Any, PromptPair], latent_image: torch.Tensor, sigmas: torch.Tensor
) -> None:
    say_what_is_not_edited(works.edits, guider.conds)
    say_what_a_control_net_sees(guider.conds)
    say_by_which_prompt_it_was_inverted(works.inversions, guider.conds, pairs)
    if not works.inversions:
        model_sampling = guider.model_patcher.get_model_object("model_sampling")
        say_where_it_begins(latent_image, float(sigmas[0]), model_sampling)


def _install(
    guider: Any,
    works: _Works,
    pairs: dict[Any, PromptPair],
    batch: _Batch,
    sigmas: torch.Tensor,
    inversion: InversionRun | None,
    masked: bool,
) -> _Parts:
    """Everything that takes part in the model's calls, hooked into the run's own options.

    Args:
        masked: whether the sampler keeps a part of the picture, into which it puts noise of its own.
    """
    patcher, options = guider.model_patcher, guider.model_options
    family = family_of(patcher)
    repeat_for_rows(guider.conds, batch.pictures, batch.rows)
    run = EditRun(works.edits, pairs, sigmas.tolist())
    maps = {work: [MapRun(each, run.steps) for each in work.requests] for work in works.recorded}
    taps = MapTaps(run, maps.values(), family, patcher, batch.size)
    blends = [BlendRun(work, maps[work], batch.pictures, batch.size, run.steps) for work in works.blends]
    rows_of_calls = RowsOfCalls(pairs, batch.pictures, batch.rows)
    if batch.rows > 1:  # before the others, so that its check sees what the sampler sees
        check = None if masked else NoiseCheck(batch.rows)
        _share_noise(SharedNoise(batch.pictures, batch.rows), check, options)
    take_part(run, rows_of_calls, taps, blends, works.guidances, inversion, options)
    family.install(patcher, options, AttentionCalls(run, taps))
    _look_at_the_loaded_model(family, patcher, options)
    return _Parts(run, rows_of_calls, maps, taps, blends)


def _finish(parts: _Parts, works: _Works, batch: _Batch, samples: torch.Tensor) -> torch.Tensor:
    """The blends' last word, and what was recorded."""
    for blend in parts.blends:
        if blend.mask is None:  # the sampler did not call the model in the last step (dpm_fast, dpm_adaptive)
            blend.update(parts.taps.areas, samples.device)
        samples = blend.outside_from_source(samples)
    for blend in parts.blends:
        unusual, found = blend.finish(samples)
        for text in unusual:
            say(text)
        for text in found:
            say(text, logging.INFO, on_the_node=True)
    for recorder in works.recorders:
        recorder.finish(parts.maps[recorder][0], parts.taps.areas, batch.size, samples)
    return samples


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
