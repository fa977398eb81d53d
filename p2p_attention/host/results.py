"""Which latents are the result of an earlier run of ours: then source and edits are there already.

Nodes with a sampler inside, and graphs with one sampler behind another, hand a run's result to the next run. It is
known by what it looks like, or by where in the graph it comes from; tiles and crops by that alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import numpy
import torch
import torch.nn.functional as F

from ..prompt import PromptPair
from .graph import upstream
from .notices import Place, place

LOOK = 8  # latents are compared by this many places in each direction
ALIKE = 0.5  # correlation of a result with itself enlarged, decoded and encoded, or masked; of other pictures less
PICKED = 0.9  # of a latent that was picked from a result, enlarged or not
SAME_LATENTS = 0.9999
KEPT = 8  # results of a pair


@dataclass(frozen=True, eq=False)
class _Result:
    """Looks are (rows, C LOOK LOOK), normalised."""

    looks: numpy.ndarray
    began: numpy.ndarray | None  # of the latents that the run was given, where no run made them
    place: Place | None


# By pair, which lives as long as somebody holds it. A sampler whose result is cached does not run again when the next
# one does, so results have to outlive the prompt that made them.
_results: WeakKeyDictionary[PromptPair, deque[_Result]] = WeakKeyDictionary()

Origin = Literal["result", "picked", "part", "none"]


def remember_result(pair: PromptPair, samples: torch.Tensor, began: torch.Tensor | None) -> None:
    """Keep what a run's result looks like.

    Args:
        samples: (B R, C, H, W), as the run gives them.
        began: (B, C, H, W), the latents that it was given; None where an earlier run had made them, or a part of them.
    """
    result = _Result(_looks(samples), None if began is None else _looks(began), place())
    _results.setdefault(pair, deque(maxlen=KEPT)).append(result)


def origin(pairs: Iterable[PromptPair], noises: int, latents: torch.Tensor) -> Origin:
    """Where a run's latents come from.

    Args:
        pairs: of the run's conditionings, all of R rows.
        noises: rows of the run's noise.
        latents: (N, C, H, W), to begin with.

    Returns:
        "result": all rows of an earlier run's pictures, or the same part of each; "picked": some of the rows, whole;
        "part": what else was made of them (crops, tiles of some); "none": new.
    """
    pairs = set(pairs)
    if noises != len(latents) and any(noises * pair.rows == len(latents) for pair in pairs):
        return "result"  # the latent still says which noise each picture has, and only a run of ours adds rows to it
    if is_empty(latents):
        return "none"
    looks, here = _looks(latents), place()
    earlier = [result for pair in pairs for result in _results.get(pair, ())]
    if any(each.began is not None and _alike(looks, each.began, SAME_LATENTS) for each in earlier):
        return "none"  # an earlier run began with them, too
    nodes = set() if here is None else set(upstream(here.prompt, here.node))
    before = [each for each in earlier if each.place is not None and (each.place == here or each.place.node in nodes)]
    if any(len(each.looks) == len(looks) and (each in before or _alike(looks, each.looks, ALIKE)) for each in earlier):
        return "result"
    if any((_correlation(looks, each.looks).max(axis=1) > PICKED).all() for each in before or earlier):
        return "picked"
    return "part" if before else "none"


def is_empty(latents: torch.Tensor) -> bool:
    """Whether they show nothing: each channel is of one value."""
    flat = latents.flatten(2)
    return bool((flat.amax(dim=-1) == flat.amin(dim=-1)).all())


def _looks(latents: torch.Tensor) -> numpy.ndarray:
    """What latents look like, at any size: small, without each channel's mean, of length 1."""
    small = F.adaptive_avg_pool2d(latents.detach().float().flatten(1, -3), LOOK).cpu()
    small = (small - small.mean(dim=(-2, -1), keepdim=True)).flatten(1)
    return (small / small.norm(dim=1, keepdim=True).clamp(min=1e-12)).numpy().copy()


def _alike(looks: numpy.ndarray, others: numpy.ndarray, least: float) -> bool:
    """Row by row, as many as there are."""
    return len(looks) == len(others) and bool((_correlation(looks, others).diagonal() > least).all())


def _correlation(looks: numpy.ndarray, others: numpy.ndarray) -> numpy.ndarray:
    """(N, M); nothing where the latents have other channels."""
    if looks.shape[1] != others.shape[1]:
        return numpy.zeros((len(looks), len(others)))
    return looks @ others.T
