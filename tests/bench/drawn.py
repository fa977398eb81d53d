"""Where a model has drawn a thing: the place at which the renderer draws a picture most like the model's.

A scene's true mask says where the renderer puts the thing of an edit. A model need not put it there: of a thing that is
added it chooses the place, of one that takes another's place how large it is. So what stands in its picture is looked
for: x, y and size of the thing in the counterfactual scene, by the least squared difference of all pixels.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import real_images
from scipy.optimize import brute, minimize

# Of x, y of the foot, and size: what is looked at first, and what may be found.
PLACES = (slice(0.05, 1.0, 0.1), slice(0.35, 1.05, 0.1), slice(0.2, 0.6, 0.1))
BOUNDS = ((0.0, 1.0), (0.2, 1.1), (0.1, 0.8))


def region(scenes, case: real_images.Case, edited: np.ndarray) -> np.ndarray:
    """Where the edit is in a picture of it, bool (128, 128): ``case.region`` with the new thing where it was drawn.

    Args:
        case: one with a region.
        edited: (128, 128, 3) uint8, in which the edit was made.
    """
    if case.kind not in ("shape", "thing"):
        return case.region
    found = scenes.object_masks(_like(scenes, case, edited))[case.changed] > 0.5
    return found | case.before if case.kind == "shape" else found


def _like(scenes, case: real_images.Case, edited: np.ndarray):
    """The counterfactual scene with its new thing where the picture comes nearest to ``edited``."""
    stand = case.other.stands[case.changed]

    def at(place):
        x, y, size = place
        spots = list(case.other.layout.spots)
        spots[stand] = scenes.Spot(float(x), float(y), float(size))
        layout = dataclasses.replace(case.other.layout, spots=tuple(spots))
        return dataclasses.replace(case.other, layout=layout)

    def difference(place):
        return np.square(scenes.render(at(place)).astype(np.float32) - edited).mean()

    true = dataclasses.astuple(case.other.layout.spots[stand])
    starts = (brute(difference, PLACES, finish=None), true)
    found = [
        minimize(difference, start, method="Nelder-Mead", bounds=BOUNDS, options={"xatol": 2e-3}) for start in starts
    ]
    return at(min(found, key=lambda each: each.fun).x)
