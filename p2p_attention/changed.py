"""Where an edit has changed the picture: what its words look at, as far as it is no longer the source there.

A word's map says roughly where its thing is, and often other things as well, which look alike or lie beside it. The
difference between what source and edit predict says where the two part, and often a little everywhere. What both say
is the edit's place; of that only the pieces that hold its clearest part.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .morphology import grown_within

CLEAR = 0.85  # of the most evidence; a piece without any such place is another thing that looks alike
EVERYWHERE = 0.2  # see ``has_a_place``
SEEN = 1e-3  # of a prediction, whose values are about 1; half precision rounds by less, and its noise has no place
CELLS = 16  # a side; a piece is widened by one, and what changes is looked at as blurred as one
BLUR = 1.4  # reach, in cells; a standard deviation of 0.7


def change(denoised: torch.Tensor, rows: int) -> torch.Tensor:
    """How far each edit's prediction is from its source's: (B R, C, [F,] H, W) -> float32 (B, R - 1, H, W).

    The norm over channels of z0* - z0[0], in the manner of DiffEdit (Couairon et al., ICLR 2023), which compares two
    prompts' predictions of one picture; here the two rows are at hand.
    """
    z = denoised.float().unflatten(0, (-1, rows))
    distance = (z[:, 1:] - z[:, :1]).norm(dim=2)
    return distance.nan_to_num().flatten(2, -3).mean(2) if distance.ndim > 4 else distance.nan_to_num()


def evidence(words: torch.Tensor, flat: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
    """How much says that a place is the edit's, 0 to 1 in each picture, (B, H, W).

    The mean of the words' maps, each stretched to 0..1, times the square root of the change, which reaches farther
    than the thing.

    Args:
        words: (B, K, H, W).
        flat: bool (B, K, 1, 1), of words whose map says nothing about places.
        changes: (B, H, W), as ``change`` gives it. One that is the same everywhere says nothing.
    """
    blurred = _stretched(_blurred(_stretched(changes)))
    says_nothing = blurred.amax((-2, -1), keepdim=True) == 0
    return _stretched(_looked_at(words, flat) * torch.where(says_nothing, 1.0, blurred).sqrt())


def has_a_place(words: torch.Tensor, flat: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
    """Whether an edit is of a place in the picture, and not of all of it, as another light or style is: bool (B,).

    Of all of it: its words look at much of the picture, and it changes much of it, by the means of the two, each of its
    most, as they are multiplied in ``evidence``. Where no word says anything, or nothing has changed yet, there is no
    place either.
    """
    changed, looked_at = _blurred(changes), _looked_at(words, flat)
    most = changed.amax((-2, -1))
    share = changed.mean((-2, -1)) / most.clamp_min(SEEN)
    clear = looked_at.mean((-2, -1)) * share.sqrt() < EVERYWHERE
    return clear & (most >= SEEN) & ~flat.all(1).flatten()


def clear_pieces(found: torch.Tensor, threshold: float, maps_cell: float) -> torch.Tensor:
    """bool (B, H, W): what reaches the threshold, of that the pieces with a ``CLEAR`` place, and a cell around them.

    The cell around, because those at a thing's edge hold only a part of it: as far as half of the threshold goes. Maps
    with larger cells are brought to size by interpolation, which reaches around things already.

    Args:
        found: (B, H, W), see ``evidence``.
        threshold: 0 to 1.
        maps_cell: side of a cell of the words' maps, in latent pixels.
    """
    pieces = grown_within(found >= max(CLEAR, threshold), found >= threshold)
    cell = _cell(found.shape)
    if maps_cell > cell:
        return pieces
    return pieces | (_widened(pieces, cell) & (found >= threshold / 2))


def widened(pieces: torch.Tensor, cells: int, maps_cell: float) -> torch.Tensor:
    """bool (B, H, W), so many cells wider: for an outline of its own, where another thing takes the place.

    Args:
        pieces: see ``clear_pieces``.
        cells: of the picture, or of the words' maps where those are larger.
        maps_cell: side of a cell of the words' maps, in latent pixels.
    """
    return _widened(pieces, cells * max(_cell(pieces.shape), round(maps_cell)))


def _widened(masks: torch.Tensor, pixels: int) -> torch.Tensor:
    """bool (B, H, W), grown up, down, left and right."""
    wide = masks.float()[:, None]
    for _ in range(pixels):
        wide = torch.maximum(F.max_pool2d(wide, (3, 1), 1, (1, 0)), F.max_pool2d(wide, (1, 3), 1, (0, 1)))
    return wide[:, 0].bool()


def soften(masks: torch.Tensor, reach: float) -> torch.Tensor:
    """Gaussian blur of (B, E, H, W) in 0..1, over ``reach`` pixels (standard deviation half of that)."""
    if reach <= 0:
        return masks
    return _soft(masks.flatten(0, 1), reach).clamp(0.0, 1.0).unflatten(0, masks.shape[:2])


def _soft(x: torch.Tensor, reach: float) -> torch.Tensor:
    """Gaussian blur of (N, H, W), as in ``soften``."""
    pixels = math.ceil(reach)
    offsets = torch.arange(-pixels, pixels + 1, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / (reach / 2)) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(x[:, None], (pixels,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))[:, 0]


def _looked_at(words: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
    """(B, H, W): the mean of the words' maps, each stretched to 0..1, without those that say nothing."""
    telling = ~flat
    return (_stretched(words) * telling).sum(1) / telling.sum(1).clamp_min(1)


def _blurred(changes: torch.Tensor) -> torch.Tensor:
    return _soft(changes, BLUR * _cell(changes.shape))


def _stretched(x: torch.Tensor) -> torch.Tensor:
    """From least to most of (..., H, W) to 0..1; zero where all is the same."""
    low, high = x.amin((-2, -1), keepdim=True), x.amax((-2, -1), keepdim=True)
    return (x - low) / (high - low).clamp_min(torch.finfo(x.dtype).tiny)


def _cell(shape: torch.Size) -> int:
    """In latent pixels."""
    return max(1, round(min(shape[-2:]) / CELLS))
