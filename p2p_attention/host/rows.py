"""B pictures become B x R rows: what a conditioning, a mask or a ControlNet holds for a picture, its rows share."""

from __future__ import annotations

from typing import Any

import torch
from comfy.utils import repeat_to_batch_size

from ..conditionings import PAIR_KEY
from .refusals import NULL_TEXT_KEY


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
    are pictures are one for each picture. The host hands others out in the order of the rows: one for all, one for the
    source and each edit, or one for each row of each picture. The latents that inpainting and editing models look at
    it spreads itself.

    Raises:
        ValueError: as many as there are pictures, and rows of a picture: they may be meant either way.
    """
    if seeds == 1 or rows == 1:
        return
    controls: dict[int, Any] = {}  # conditionings that share a ControlNet go on sharing it
    for cond in (cond for entries in conds.values() for cond in entries):
        for name in ("mask",) if PAIR_KEY in cond else ("mask", "cross_attn", "pooled_output"):
            each = cond.get(name)
            if torch.is_tensor(each) and (name != "mask" or each.ndim > 2):
                known = NULL_TEXT_KEY in cond  # made for each picture
                if _one_for_each_picture(each, seeds, rows, "masks" if name == "mask" else "negatives", known):
                    cond[name] = each.repeat_interleave(rows, dim=0)
        if cond.get("control") is not None:
            cond["control"] = _control_for_rows(cond["control"], seeds, rows, controls)


def _one_for_each_picture(each: torch.Tensor, seeds: int, rows: int, what: str, known: bool = False) -> bool:
    if len(each) != seeds:
        return False
    if seeds == rows and not known and not all(torch.equal(one, each[0]) for one in each):
        raise ValueError(
            f"{seeds} {what} for {seeds} pictures of {rows} rows (source and edits) each may be meant for the pictures "
            f"or for the rows. Connect {seeds * rows} of them, for each row of each picture in turn, or one for all; "
            "or sample the pictures one by one."
        )
    return True


def _control_for_rows(control: Any, seeds: int, rows: int, copies: dict[int, Any]) -> Any:
    """The ControlNet, and those before it, or a copy where there is a hint for each picture."""
    if id(control) not in copies:
        before, hint = control.previous_controlnet, control.cond_hint_original
        before_for_rows = before and _control_for_rows(before, seeds, rows, copies)
        own = hint is not None and _one_for_each_picture(hint, seeds, rows, "hints of a ControlNet")
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
