"""B pictures become B x R rows: what a conditioning, a mask or a ControlNet holds for a picture, its rows share."""

from __future__ import annotations

from typing import Any

import torch
from comfy.utils import repeat_to_batch_size

from ..conditionings import PAIR_KEY


def mask_for_rows(mask: torch.Tensor, shape: torch.Size, seeds: int, rows: int) -> torch.Tensor:
    """A noise mask of one for all, one for each picture, or one for each row: (B R, 1, h, w).

    Newer hosts (after 0.3.75) hand over what they made of it, in the latents' ``shape``, alike for each channel.
    """
    if mask.ndim == len(shape) and mask.shape[:2] == shape[:2]:
        mask = mask[:, :1]
    mask = mask.reshape(-1, 1, *mask.shape[-2:])
    if len(mask) == seeds * rows:
        return mask
    return repeat_to_batch_size(mask, seeds).repeat_interleave(rows, dim=0)


def repeat_for_rows(conds: dict[str, list[dict]], seeds: int, rows: int) -> None:
    """What a conditioning holds for each of several pictures, all rows of the picture share.

    That may be a text (a null-text negative, a batch of negatives), a mask, or hints of a ControlNet. As many as there
    are pictures are one for each picture. The host hands others out in the order of the rows: one for all, or one for
    the source and each edit. The latents that inpainting and editing models look at it spreads itself.
    """
    if seeds == 1 or rows == 1:
        return
    controls: dict[int, Any] = {}  # conditionings that share a ControlNet go on sharing it
    for cond in (cond for entries in conds.values() for cond in entries):
        for name in ("mask",) if PAIR_KEY in cond else ("mask", "cross_attn", "pooled_output"):
            each = cond.get(name)
            if torch.is_tensor(each) and each.shape[0] == seeds and (name != "mask" or each.ndim > 2):
                cond[name] = each.repeat_interleave(rows, dim=0)
        if cond.get("control") is not None:
            cond["control"] = _control_for_rows(cond["control"], seeds, rows, controls)


def _control_for_rows(control: Any, seeds: int, rows: int, copies: dict[int, Any]) -> Any:
    """The ControlNet, and those before it, or a copy where there is a hint for each picture."""
    if id(control) not in copies:
        before, hint = control.previous_controlnet, control.cond_hint_original
        before_for_rows = before and _control_for_rows(before, seeds, rows, copies)
        own = hint is not None and len(hint) == seeds
        result = control
        if own or before_for_rows is not before:
            result = control.copy().set_previous_controlnet(before_for_rows)
        if own:
            result.cond_hint_original = hint.repeat_interleave(rows, dim=0)
            result.extra_concat_orig = [
                each.repeat_interleave(rows, dim=0) if len(each) == seeds else each for each in result.extra_concat_orig
            ]
        copies[id(control)] = result
    return copies[id(control)]
