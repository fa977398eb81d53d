"""B pictures become B x R rows: what a conditioning, a mask or a ControlNet holds for a picture, its rows share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from comfy.utils import repeat_to_batch_size

from ..conditionings import PAIR_KEY
from .refusals import NULL_TEXT_KEY


def mask_for_rows(mask: torch.Tensor, shape: torch.Size, pictures: int, rows: int, second_pass: bool) -> torch.Tensor:
    """A noise mask of one for all, one for each picture, or one for each row: (B R, 1, h, w).

    Newer hosts (after 0.3.75) hand over what they made of it, in the latents' ``shape``, alike for each channel, and
    repeated to as many as there are latents. In a second pass these are rows, so as many masks as pictures arrive in
    the order ``L R L R``, as if they were for rows: what repeats itself after each B is for the pictures.

    Args:
        mask: as it arrives.
        shape: of the latents as they arrive.
        pictures: B.
        rows: R.
        second_pass: whether the latents are rows.
    """
    if mask.ndim == len(shape) and mask.shape[:2] == shape[:2]:
        mask = mask[:, :1]
    mask = mask.reshape(-1, 1, *mask.shape[-2:])
    if second_pass:
        mask = repeat_to_batch_size(mask, pictures * rows)
        of_pictures = mask[:pictures]
        if not torch.equal(mask, of_pictures.repeat(rows, 1, 1, 1)):
            return mask
        return of_pictures.repeat_interleave(rows, dim=0)
    if len(mask) == pictures * rows:
        return mask
    return repeat_to_batch_size(mask, pictures).repeat_interleave(rows, dim=0)


def repeat_for_rows(conds: dict[str, list[dict]], pictures: int, rows: int) -> None:
    """What a conditioning holds for each of several pictures, all rows of the picture share.

    That may be a text (a null-text negative, a batch of negatives), a mask, or hints of a ControlNet. As many as there
    are pictures are one for each picture. The host hands others out in the order of the rows: one for all, one for the
    source and each edit, or one for each row of each picture. The latents that inpainting and editing models look at
    it spreads itself. Whatever else another pack's ControlNet keeps for each of a batch (strengths by number, masks),
    it is asked picture by picture.

    Raises:
        ValueError: as many as there are pictures, and rows of a picture: they may be meant either way.
    """
    if rows == 1:
        return
    controls: dict[int, Any] = {}  # conditionings that share a ControlNet go on sharing it
    for cond in (cond for entries in conds.values() for cond in entries):
        for name in ("mask",) if PAIR_KEY in cond else ("mask", "cross_attn", "pooled_output"):
            each = cond.get(name)
            if torch.is_tensor(each) and (name != "mask" or each.ndim > 2):
                known = NULL_TEXT_KEY in cond  # made for each picture
                if _one_for_each_picture(each, pictures, rows, "masks" if name == "mask" else "negatives", known):
                    cond[name] = each.repeat_interleave(rows, dim=0)
        if cond.get("control") is not None:
            cond["control"] = _control_for_rows(cond["control"], pictures, rows, controls)


def _one_for_each_picture(each: torch.Tensor, pictures: int, rows: int, what: str, known: bool = False) -> bool:
    if len(each) != pictures or pictures == 1:
        return False
    if pictures == rows and not known and not all(torch.equal(one, each[0]) for one in each):
        raise ValueError(
            f"{pictures} {what} for {pictures} pictures of {rows} rows (source and edits) each may be meant for the "
            f"pictures or for the rows. Connect {pictures * rows} of them, for each row of each picture in turn, or "
            "one for all; or sample the pictures one by one."
        )
    return True


def _control_for_rows(control: Any, pictures: int, rows: int, copies: dict[int, Any]) -> Any:
    """The ControlNet, and those before it, or a copy where there is a hint for each picture."""
    if id(control) not in copies:
        before, hint = control.previous_controlnet, control.cond_hint_original
        foreign = any(not type(each).__module__.startswith("comfy.") for each in _chain(control))
        for_each_row = any(
            each.cond_hint_original is not None and len(each.cond_hint_original) not in (1, pictures)
            for each in _chain(control)
        )
        if foreign and not for_each_row:
            for each in filter(lambda each: each.cond_hint_original is not None, _chain(control)):
                _one_for_each_picture(each.cond_hint_original, pictures, rows, "hints of a ControlNet")
            copies[id(control)] = _AskedByPicture(control, rows)
            return copies[id(control)]
        before_for_rows = before and _control_for_rows(before, pictures, rows, copies)
        own = hint is not None and _one_for_each_picture(hint, pictures, rows, "hints of a ControlNet")
        result = control
        if own or before_for_rows is not before:
            result = control.copy().set_previous_controlnet(before_for_rows)
        if own:
            result.cond_hint_original = hint.repeat_interleave(rows, dim=0)
            result.extra_concat_orig = [
                each.repeat_interleave(rows, dim=0) if len(each) == pictures else each
                for each in result.extra_concat_orig
            ]
        copies[id(control)] = result
    return copies[id(control)]


def _chain(control: Any) -> list[Any]:
    """A ControlNet and those before it."""
    return [] if control is None else [control, *_chain(control.previous_controlnet)]


class _AskedByPicture:
    """A ControlNet that is asked once for the sources of a batch, and once for each edit: each time for B pictures.

    So it sees as many latents as it would without us, and what it counts are pictures. In all else it is the other one.
    """

    def __init__(self, control: Any, rows: int):
        self._control, self._rows = control, rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._control, name)

    def get_control(self, x_noisy: torch.Tensor, t: torch.Tensor, cond: Mapping, *args: Any) -> dict | None:
        count = len(x_noisy)
        answers = []
        for row in range(self._rows):

            def of_row(each: Any, row: int = row) -> Any:
                return each[row :: self._rows] if torch.is_tensor(each) and each.ndim and len(each) == count else each

            of_cond = {name: of_row(each) for name, each in cond.items()}
            answers.append(self._control.get_control(of_row(x_noisy), of_row(t), of_cond, *args))
        return _interleaved(answers, count // self._rows)


def _interleaved(answers: list[dict | None], pictures: int) -> dict | None:
    """Tensors for the pictures of each row's answer, one of each in turn."""
    given = [answer for answer in answers if answer is not None]
    if len(given) < len(answers):
        return None

    def together(parts: tuple) -> torch.Tensor | None:
        if parts[0] is None:
            return None
        return torch.stack([part.expand(pictures, *part.shape[1:]) for part in parts], dim=1).flatten(0, 1)

    return {
        name: [together(parts) for parts in zip(*(answer[name] for answer in given), strict=True)] for name in given[0]
    }
