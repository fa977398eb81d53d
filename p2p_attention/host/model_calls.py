"""The run's part in each model call: which step it is, what its rows are, and what is guided, pinned and blended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ..blend import BlendRun
from ..call_rows import RowsOfCalls
from ..conditionings import PAIR_KEY
from ..guidance import Proximal, proximal
from ..invert import InversionRun
from ..run import EditRun
from . import KEY
from .attention_calls import ModelCall
from .map_taps import MapTaps
from .refusals import require_whole_batch

TEXTS_KEY = "p2p_texts"  # conditioning id -> its context, where rows have to be known by it


def take_part(
    run: EditRun,
    rows_of_calls: RowsOfCalls,
    taps: MapTaps,
    blends: Sequence[BlendRun],
    guidances: Sequence[Proximal],
    inversion: InversionRun | None,
    model_options: dict,
) -> None:
    """Put the wrappers around a run's model calls and predictions into its own ``model_options``."""
    pinned = inversion if inversion is not None and inversion.pins else None

    def around_model_call(executor, model, conds, x_in, timestep, options):
        require_whole_batch(len(x_in), rows_of_calls.batch)
        conds = [entries and [_own_id(cond) for cond in entries] for entries in conds]
        sigma = float(timestep[0])
        step = run.step_of(sigma)
        size = tuple(x_in.shape[-2:])
        transformer_options = {**options["transformer_options"], KEY: ModelCall(step, None, size, size)}
        if _rows_may_be_moved(options):
            transformer_options[TEXTS_KEY] = _texts(conds)
        options = {**options, "transformer_options": transformer_options}
        taps.note_areas(conds, x_in)
        if pinned is not None:
            x_in = pinned.on_trajectory(x_in, step, sigma)
        for blend in blends:
            if blend.mask is not None:
                x_in = blend.outside_from_source(x_in)
        if pinned is None:
            return executor(model, conds, x_in, timestep, options)
        x_in = pinned.aligned(x_in, step, sigma)
        return _without_source_in_negative(executor, pinned.rows, model, conds, x_in, timestep, options)

    def around_batch(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        """What goes into the model, after all that other nodes made of it."""
        call = transformer_options.get(KEY)
        conditionings = transformer_options.get("uuids", ())
        if call is not None and any(run.pair_of(each) is not None for each in conditionings):
            texts = transformer_options.get(TEXTS_KEY)
            if texts is None:
                rows = rows_of_calls.by_place(conditionings, len(x))
            else:
                rows = rows_of_calls.by_content(conditionings, [texts[each] for each in conditionings], c_crossattn)
            call = replace(call, rows=rows, size=tuple(x.shape[-2:]), model=executor.class_obj)
            transformer_options = {**transformer_options, KEY: call}
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    def guide(args):
        outputs = args["conds_out"]
        if len(outputs) == 2 and args["conds"][1] is not None:
            for guidance in guidances:
                outputs = [proximal(guidance, *outputs), outputs[1]]
        return outputs

    def around_prediction(executor, x, timestep, *args, **kwargs):
        """Outside of all guidance, whichever guider computes it."""
        step = run.step_of(float(timestep[0]))  # read before there is work that it would have to wait for
        denoised = executor(x, timestep, *args, **kwargs)
        if pinned is not None:
            denoised = pinned.denoised(denoised, step)
        for blend in blends:
            blend.see(denoised)
        for blend in blends:
            if blend.active(step):
                blend.update(taps.areas, denoised.device)
                denoised = blend.apply(denoised)
        return denoised

    def wrap(place, wrapper):
        add_wrapper_with_key(place, KEY, wrapper, model_options, is_model_options=True)

    wrap(WrappersMP.CALC_COND_BATCH, around_model_call)
    wrap(WrappersMP.APPLY_MODEL, around_batch)
    if guidances:
        model_options["sampler_pre_cfg_function"] = [*model_options.get("sampler_pre_cfg_function", []), guide]
    if blends or pinned is not None:
        wrap(WrappersMP.PREDICT_NOISE, around_prediction)


def _rows_may_be_moved(model_options: Mapping[str, Any]) -> bool:
    """Whether another node stands between the host and the model, where it may batch calls in its own way."""
    wrappers = model_options["transformer_options"].get("wrappers", {})
    between = (wrappers.get(place, {}) for place in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL))
    return "model_function_wrapper" in model_options or any(set(each) - {KEY} for each in between)


def _texts(conds: Sequence[Sequence[dict] | None]) -> dict[Any, torch.Tensor]:
    return {
        cond["uuid"]: cond["model_conds"]["c_crossattn"].cond
        for entries in conds
        for cond in entries or ()
        if "c_crossattn" in cond.get("model_conds", {})
    }


def _without_source_in_negative(
    executor: Any, rows: int, model: Any, conds: list, x_in: torch.Tensor, timestep: torch.Tensor, options: dict
) -> list[torch.Tensor]:
    """A model call whose negative leaves out the source rows, which are pinned: their guidance leads nowhere.

    Negatives that hold something for each row are left as they are.
    """
    if len(conds) != 2 or conds[1] is None or not all(map(_alike_for_all_rows, conds[1])):
        return executor(model, conds, x_in, timestep, options)
    edited = torch.arange(len(x_in), device=x_in.device) % rows != 0
    positive, _ = executor(model, [conds[0], None], x_in, timestep, options)
    negative = positive.clone()
    if edited.any():
        _, negative[edited] = executor(model, [None, conds[1]], x_in[edited], timestep[edited], options)
    return [positive, negative]


def _alike_for_all_rows(cond: dict) -> bool:
    tensors = (getattr(each, "cond", None) for each in cond.get("model_conds", {}).values())
    return not {"control", "hooks", "gligen", "mask"} & {
        key for key, value in cond.items() if value is not None
    } and all(each is None or not torch.is_tensor(each) or each.shape[0] == 1 for each in tensors)


def _own_id(cond: dict) -> dict:
    """A conditioning, with an id of its own if it is no pair's after all.

    Where a pair has an area, the host gives the other side an entry for that area by copying the pair's, id and all,
    around that side's own text.
    """
    if PAIR_KEY not in cond:
        return cond
    pairs, used = cond["cross_attn"], cond["model_conds"]["c_crossattn"].cond
    if used is pairs or _holds(used, pairs):
        return cond
    return {**cond, "uuid": (cond["uuid"], "copy")}


def _holds(context: torch.Tensor, rows: torch.Tensor) -> bool:
    """Whether a context is these rows, which the host may have filled up (Flux.2: in front, to 512 positions)."""
    length = rows.shape[1]
    if context.shape[::2] != rows.shape[::2] or context.shape[1] < length:
        return False
    rows = rows.to(context)
    return torch.equal(context[:, :length], rows) or torch.equal(context[:, context.shape[1] - length :], rows)
