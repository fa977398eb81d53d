"""Pixels outside of the edit stay the source's: edited pictures laid over it through their masks.

A local blend holds the latent outside of its mask. What is decoded is still not the source's, pixel by pixel: a cell of
the latent is seen in its neighbours' pixels, and the mask is made of whole cells. Here the picture is put together,

    out = source + alpha (edit - source)

with alpha the mask, brought to what has changed and to the edges of the two pictures, and exactly 0 elsewhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .align import aligned
from .checks import require_between
from .prompt import PromptPair
from .segmentation import SEEN, changed_pixels, mean
from .show import require_pictures_of

FEATHER = (0.0, 256.0)  # least and most, in pixels


def composite(
    images: torch.Tensor,
    pair: PromptPair,
    masks: torch.Tensor,
    source: torch.Tensor | None = None,
    follow_edges: bool = True,
    feather: float = 2.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Edited pictures that are the source outside of their masks.

    Args:
        images: (B R, h, w, 3) in 0..1, per seed the source and each edit.
        pair: the prompts that they were made from.
        masks: (M, h', w') in 0..1: one for all, for each edited prompt, or for each seed and edited prompt.
        source: (1 or B, h, w, 3), what to take for the sources in ``images``, as the photograph itself; or None.
        follow_edges: whether a mask is brought to what has changed inside of it, and to its edges.
        feather: width of the border in which source and edit run into each other, in pixels.

    Returns:
        The pictures as ``images`` came, (B R, h, w, 3), and alpha for each edit, (B E, h, w).

    Raises:
        ValueError: pictures, masks and pair do not fit together.
    """
    require_between("feather", feather, FEATHER)
    require_pictures_of(pair, images)
    edits = len(pair.targets)
    pictures = images[..., :3].float().cpu().unflatten(0, (-1, pair.rows))
    size = (pictures.shape[2], pictures.shape[3])
    sources = _sources(pictures[:, 0], source)
    alphas = _masks(masks, len(pictures), edits, size)
    made = [sources[:, None]]
    for edit in range(edits):
        changed = pictures[:, edit + 1]
        if follow_edges:  # the sources of the same run: what the autoencoder does to a photograph is no change
            outlines = _only_takes_away(pair, edit)
            found = [changed_pixels(*each, outlines) for each in zip(alphas[:, edit], pictures[:, 0], changed)]
            alphas[:, edit] = torch.stack(found)
        alphas[:, edit] = _feathered(alphas[:, edit], feather)
        made.append((sources + alphas[:, edit, ..., None] * (changed - sources))[:, None])
    return torch.cat(made, 1).flatten(0, 1).clamp(0.0, 1.0), alphas.flatten(0, 1)


def _only_takes_away(pair: PromptPair, edit: int) -> bool:
    """Whether the edited prompt lacks words of the source, and has none of its own."""
    kinds = {span.kind for span in aligned(pair, edit).spans}
    return "removed" in kinds and not kinds & {"swapped", "new"}


def _sources(own: torch.Tensor, given: torch.Tensor | None) -> torch.Tensor:
    """(B, h, w, 3)."""
    if given is None:
        return own
    if given.shape[1:3] != own.shape[1:3] or len(given) not in (1, len(own)):
        wanted, got = (f"{len(each)} of {each.shape[2]} x {each.shape[1]} pixels" for each in (own, given))
        raise ValueError(
            f"Wanted as source the pictures that were edited, {wanted}, got {got}. Connect the picture that VAE Encode "
            "gets, scaled and cropped as it is there."
        )
    return given[..., :3].to(own).expand_as(own)


def _masks(masks: torch.Tensor, pictures: int, edits: int, size: tuple[int, int]) -> torch.Tensor:
    """(B, E, h, w)."""
    count = masks.shape[:-2].numel()
    if masks.ndim < 2 or masks.isnan().any() or count not in (1, edits, pictures * edits):
        raise ValueError(
            f"Wanted one mask, one for each of the {edits} edited prompts, or one for each of the {pictures * edits} "
            f"edited pictures, got {list(masks.shape)}. Connect the mask of P2P Show Blend Mask, or one of your own."
        )
    masks = masks.reshape(-1, *masks.shape[-2:]).float().cpu().clamp(0.0, 1.0)
    if tuple(masks.shape[-2:]) != size:
        masks = F.interpolate(masks[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    masks = masks.repeat(pictures * edits // count, 1, 1)
    return masks.unflatten(0, (pictures, edits))


def _feathered(masks: torch.Tensor, feather: float) -> torch.Tensor:
    """A border of ``feather`` pixels; what is not seen of it is none."""
    if feather >= 1.0:
        masks = mean(masks, max(1, round(feather / 2)))
    masks = torch.where(masks < SEEN, torch.zeros_like(masks), masks)
    return torch.where(masks > 1.0 - SEEN, torch.ones_like(masks), masks)
