"""Pixels outside of the edit stay the source's: edited pictures laid over it through their masks.

A local blend holds the latent outside of its mask. What is decoded is still not the source's, pixel by pixel: a cell of
the latent is seen in its neighbours' pixels, and the mask is made of whole cells. Here the picture is put together,

    out = source + alpha (edit - source)

with alpha the mask, brought to what has changed and to the edges of the two pictures, and exactly 0 elsewhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .checks import require_between
from .prompt import PromptPair
from .show import require_pictures_of

FEATHER = (0.0, 256.0)  # least and most, in pixels
CELL = 32  # what edges are looked for in is a window of 1/CELL of the shorter side
CHANGED = 0.3  # of the threshold between what has changed much and little: where an edit changes little it is one, too
SMOOTH = 1e-3  # variance of a channel below which a window has no edge (He et al. 2013, epsilon)
BINS = 64
SEEN = 0.5 / 255  # of a picture's range; less is not seen in a file of 8 bits


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
        if follow_edges:
            alphas[:, edit] = _followed(alphas[:, edit], pictures[:, 0], changed)
        alphas[:, edit] = _feathered(alphas[:, edit], feather)
        made.append((sources + alphas[:, edit, ..., None] * (changed - sources))[:, None])
    return torch.cat(made, 1).flatten(0, 1).clamp(0.0, 1.0), alphas.flatten(0, 1)


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


def _followed(masks: torch.Tensor, sources: torch.Tensor, edits: torch.Tensor) -> torch.Tensor:
    """(B, h, w): what has changed inside of the masks, with the pictures' edges.

    The sources are those of the same run: what the autoencoder does to a photograph is no change.
    """
    radius = max(2, min(masks.shape[-2:]) // CELL)
    followed = torch.empty_like(masks)
    for i, (mask, source, edit) in enumerate(zip(masks, sources, edits, strict=True)):
        change = _mean((edit - source).abs().amax(-1), 1)
        inside = mask > 0.5
        changed = inside & (change >= CHANGED * otsu(change[inside])) if inside.any() else inside
        whole = _closed(changed.float(), radius)
        guides = torch.cat([source, edit], -1).movedim(-1, 0)
        edges = _guided(whole, guides, radius)
        allowed = _largest(mask, radius)  # an edge may lie a little outside of the mask's cells
        followed[i] = ((edges - 0.25) * 2.0).clamp(0.0, 1.0) * allowed
    return followed


def otsu(values: torch.Tensor) -> float:
    """The threshold that parts values best into two groups: of the greatest variance between them (Otsu 1979)."""
    low, high = float(values.min()), float(values.max())
    if high - low < SEEN:
        return low
    counts = torch.histc(values, BINS, low, high)
    centres = low + (torch.arange(BINS) + 0.5) * (high - low) / BINS
    below, sums = counts.cumsum(0), (counts * centres).cumsum(0)
    above = below[-1] - below
    between = (sums[-1] * below / below[-1] - sums) ** 2 / (below * above).clamp_min(1e-9)
    return low + (int(between[:-1].argmax()) + 1) * (high - low) / BINS


def _guided(mask: torch.Tensor, guides: torch.Tensor, radius: int) -> torch.Tensor:
    """The mask as, in every window, a linear function of each guide (He et al. 2013); the mean over guides (C, h, w).

    A guide counts by how much of the mask it explains.
    """
    mean_mask = _mean(mask, radius)
    means = _mean(guides, radius)
    variance = _mean(guides * guides, radius) - means * means
    slope = (_mean(guides * mask, radius) - means * mean_mask) / (variance + SMOOTH)
    offset = mean_mask - slope * means
    weight = variance.clamp_min(0) * slope * slope + 1e-6
    value = _mean(slope, radius) * guides + _mean(offset, radius)
    return ((value * weight).sum(0) / weight.sum(0)).clamp(0.0, 1.0)


def _feathered(masks: torch.Tensor, feather: float) -> torch.Tensor:
    """A border of ``feather`` pixels; what is not seen of it is none."""
    if feather >= 1.0:
        masks = _mean(masks, max(1, round(feather / 2)))
    masks = torch.where(masks < SEEN, torch.zeros_like(masks), masks)
    return torch.where(masks > 1.0 - SEEN, torch.ones_like(masks), masks)


def _mean(x: torch.Tensor, radius: int) -> torch.Tensor:
    """The mean of the square around each pixel, (..., h, w)."""
    square = x.reshape(-1, 1, *x.shape[-2:])
    padded = F.pad(square, (radius,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, 1).reshape(x.shape)


def _largest(x: torch.Tensor, radius: int) -> torch.Tensor:
    return F.max_pool2d(x[None, None], 2 * radius + 1, 1, radius)[0, 0]


def _closed(x: torch.Tensor, radius: int) -> torch.Tensor:
    """Without gaps narrower than twice the radius: morphological closing."""
    return -_largest(-_largest(x, radius), radius)
