"""Which pixels an edit changed: of two pictures, inside a mask that is made of cells and wider than the thing.

After GrabCut (Rother, Kolmogorov, Blake 2004): what the pixels inside and around look like are two mixtures of
Gaussians, and each pixel goes to the one that explains it better, in turns. A pixel looks like its six colours here,
three of the source and three of the change, so that how much it changes counts beside what it shows: as much change as
there is around, from the cells of the latent or from grain, says nothing. In the place of a graph cut, the guided
filter (He, Sun, Tang 2013) lets neighbours of like colours decide together.

All is computed on the CPU, in float32, and is the same at every call.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .morphology import grown_within

WINDOW = 8  # pixels to each side in which neighbours decide together: a cell of the latent
SHORTER = 32  # in a small picture it is 1/SHORTER of the shorter side
AROUND = 6  # windows: how far around the mask pixels are compared with
CORE = 0.6  # of the threshold between what has changed much and little: from where on pixels are inside at first
TURNS = 3
GAUSSIANS = 5  # of each mixture
FITTED = 20_000  # pixels that a mixture is made from, at most
NOISE = 2e-3  # variance that every Gaussian has at least
CLEAR = 0.5  # logarithm of how much likelier inside than around a pixel is that counts as inside in the next turn
DOUBT = 5.0  # most that one pixel may say: the logarithm of a likelihood ratio
CALM = 0.95  # of the pixels around; what changes more than they do is no accident
SHARE = 0.75  # taken of a pixel that may as well be inside as outside: an edit should rather lose nothing
HOLES = 0.5  # of what is around them: larger ones, as a ring has, are left open
LEAST = 12  # pixels: fewer are no mixture
SMOOTH = 2e-3  # variance of a channel below which a window has no edge (He et al., epsilon)
BINS = 64
SEEN = 0.5 / 255  # of a picture's range; less is not seen in a file of 8 bits


def changed_pixels(
    mask: torch.Tensor, source: torch.Tensor, edit: torch.Tensor, outlines: bool = False
) -> torch.Tensor:
    """How much of each pixel is the edit's, (h, w) in 0..1; 0 outside of the mask and a window around it.

    Args:
        mask: (h, w) in 0..1, where it may be. One of the whole picture is what is found.
        source, edit: (h, w, 3) in 0..1, of the same run.
        outlines: whether all goes along that changes beside it, however little: where a thing is taken away and
            nothing comes in its place, a line that is left of it is seen.
    """
    allowed = mask > 0.5
    window = max(2, min(WINDOW, min(mask.shape) // SHORTER))
    if not allowed.any():
        return torch.zeros_like(mask)
    if allowed.all():  # an edit of the whole picture: of its old light nothing is left over
        return mask
    part = _box_around(allowed, (AROUND + 2) * window)
    found = torch.zeros_like(mask)
    found[part] = _changed_pixels(mask[part], source[part], edit[part], window, outlines)
    return found


def _changed_pixels(
    mask: torch.Tensor, source: torch.Tensor, edit: torch.Tensor, window: int, outlines: bool
) -> torch.Tensor:
    """``changed_pixels`` of the part of a picture that it looks at."""
    allowed = mask > 0.5
    change = mean((edit - source).abs().amax(-1), 1)
    if float(change[allowed].max() - change[allowed].min()) < SEEN:
        return mask
    inside = allowed & (change >= CORE * otsu(change[allowed]))
    inside = core = _without_specks(_closed(inside, window), window)
    looks = torch.cat([source, edit - source], -1)
    near = largest(mask, AROUND * window) > 0.5
    looks_near = looks[near]
    smooth = GuidedFilter(torch.cat([source, edit], -1).movedim(-1, 0), window)
    reach = largest(mask, window)  # an edge may lie a little outside of the mask's cells
    ratio = None
    for _ in range(TURNS):
        around = near & ~inside
        if min(inside.sum(), around.sum()) < LEAST:
            break
        ratio = torch.full_like(mask, -DOUBT)
        ratio[near] = log_likelihood(looks_near, looks[inside]) - log_likelihood(looks_near, looks[around])
        ratio = smooth(ratio.clamp(-DOUBT, DOUBT))
        inside = _without_specks((ratio > CLEAR) & (reach > 0.5), window)
    if ratio is None or 2 * (inside & core).sum() < core.sum():  # the turns have lost it, as they may a thin line
        return core.to(mask)
    inside = _filled(_closed(inside, window))
    # A photograph is sharper than what the autoencoder makes of it: its outlines lie a little outside of the change.
    whole = _with_outlines(inside, change, near, window).to(mask) if outlines else largest(inside.to(mask), window // 4)
    edge = (ratio / DOUBT + SHARE).clamp(0.0, 1.0) * largest(whole, window)
    return whole.maximum(edge) * reach


def _with_outlines(inside: torch.Tensor, change: torch.Tensor, near: torch.Tensor, window: int) -> torch.Tensor:
    """bool: and what changes more than the pixels around do, as far as half a window from it."""
    around = change[near & ~(largest(inside.float(), window) > 0.5)]
    if len(around) < LEAST:
        return inside
    changed = change > around.kthvalue(int(CALM * len(around))).values
    for _ in range(window // 2):
        inside = inside | ((largest(inside.float(), 1) > 0.5) & changed)
    return inside


def _box_around(there: torch.Tensor, margin: int) -> tuple[slice, slice]:
    """Rows and columns of the picture, so far around what is there."""
    rows, columns = (there.any(side).nonzero().flatten() for side in (1, 0))
    first_row, first_column = max(0, int(rows[0]) - margin), max(0, int(columns[0]) - margin)
    return slice(first_row, int(rows[-1]) + margin + 1), slice(first_column, int(columns[-1]) + margin + 1)


def log_likelihood(points: torch.Tensor, fitted: torch.Tensor) -> torch.Tensor:
    """(P,): of points (P, D) in a mixture of Gaussians, each fitted to one of the clusters of other points (M, D)."""
    fitted = fitted[:: -(-len(fitted) // FITTED)]
    parts = []
    for cluster in _clusters(fitted):
        apart = cluster - cluster.mean(0)
        covariance = apart.T @ apart / len(cluster) + NOISE * torch.eye(points.shape[1])
        root = torch.linalg.cholesky(covariance)
        distance = torch.linalg.solve_triangular(root, (points - cluster.mean(0)).T, upper=False).square().sum(0)
        weight = torch.tensor(len(cluster) / len(fitted)).log() - root.diagonal().log().sum()
        parts.append(weight - distance / 2)
    return torch.logsumexp(torch.stack(parts), 0)


def _clusters(points: torch.Tensor, turns: int = 12) -> list[torch.Tensor]:
    """k-means from points spread evenly over the list; those of one point or none are left out."""
    count = min(GAUSSIANS, len(points))
    centres = points[torch.linspace(0, len(points) - 1, count).long()]
    for _ in range(turns):
        nearest = torch.cdist(points, centres).argmin(1)
        members = [points[nearest == number] for number in range(count)]
        centres = torch.stack(
            [each.mean(0) if len(each) else centre for each, centre in zip(members, centres, strict=True)]
        )
    return [each for each in members if len(each) > 1] or [points]


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


class GuidedFilter:
    """Values as, in every window, a linear function of each guide (He et al.); the mean over the guides.

    Args:
        guides: (C, h, w). Each counts by how much of the values it explains.
        radius: of the windows, in pixels.
    """

    def __init__(self, guides: torch.Tensor, radius: int):
        self._guides, self._radius = guides, radius
        self._means = mean(guides, radius)
        self._variance = mean(guides * guides, radius) - self._means * self._means

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """(h, w) -> (h, w)."""
        mean_value = mean(values, self._radius)
        covariance = mean(self._guides * values, self._radius) - self._means * mean_value
        slope = covariance / (self._variance + SMOOTH)
        offset = mean_value - slope * self._means
        weight = self._variance.clamp_min(0) * slope * slope + 1e-6
        explained = mean(slope, self._radius) * self._guides + mean(offset, self._radius)
        return (explained * weight).sum(0) / weight.sum(0)


def mean(x: torch.Tensor, radius: int) -> torch.Tensor:
    """The mean of the square around each pixel, (..., h, w); as fast for a wide one as for a narrow one."""
    square = F.pad(x.reshape(-1, 1, *x.shape[-2:]), (radius,) * 4, mode="replicate").double()
    width = 2 * radius + 1
    for side in (-1, -2):
        sums = square.cumsum(side)
        before = torch.zeros_like(sums.narrow(side, 0, 1))
        until = sums.narrow(side, width - 1, sums.shape[side] - width + 1)
        square = until - torch.cat([before, sums.narrow(side, 0, sums.shape[side] - width)], side)
    return (square / width**2).to(x).reshape(x.shape)


def largest(x: torch.Tensor, radius: int) -> torch.Tensor:
    """The largest of the square around each pixel, (h, w)."""
    width = 2 * radius + 1
    columns = F.max_pool2d(x[None, None], (width, 1), 1, (radius, 0))
    return F.max_pool2d(columns, (1, width), 1, (0, radius))[0, 0]


def _least(x: torch.Tensor, radius: int) -> torch.Tensor:
    return -largest(-x, radius)


def _closed(inside: torch.Tensor, radius: int) -> torch.Tensor:
    """bool: without gaps narrower than twice the radius, morphological closing."""
    return _least(largest(inside.float(), radius), radius) > 0.5


def _filled(inside: torch.Tensor) -> torch.Tensor:
    """bool: without holes, if they are no more than HOLES of it; outside is what can be reached from the border."""
    free = F.pad(~inside, (1,) * 4, value=True)
    border = torch.ones_like(free)
    border[1:-1, 1:-1] = False
    filled = ~grown_within(border[None], free[None])[0, 1:-1, 1:-1]
    return filled if filled.sum() <= (1.0 + HOLES) * inside.sum() else inside


def _without_specks(inside: torch.Tensor, window: int) -> torch.Tensor:
    """bool: without what is narrower than a window, morphological opening; as it is where most of it is so narrow."""
    radius = window // 2
    opened = largest(_least(inside.float(), radius), radius) > 0.5
    return opened if 4 * opened.sum() >= 3 * inside.sum() else inside
