"""Which step of a run a model call belongs to."""

from __future__ import annotations

import math
from collections.abc import Sequence

SAME_SIGMA = 1e-4  # relative; samplers recompute a step's sigma through logarithms; neighbours differ by far more


def extrapolation(sigmas: Sequence[float], step: int) -> float:
    """How far a solver of second order goes on beyond what it saw in the step before: h / (2 h'), with h and h' the
    lengths of this step and that one, in the logarithm of the noise level (Lu et al. 2022, DPM-Solver++(2M)).

    About a half where steps are alike; 0 in the first step and in one that ends without noise, which look back on none.

    Args:
        sigmas: noise levels, one more than there are steps.
        step: from 0.
    """
    if step == 0 or not sigmas[step - 1] > sigmas[step] > sigmas[step + 1] > 0:
        return 0.0
    before, this = (math.log(sigmas[i] / sigmas[i + 1]) for i in (step - 1, step))
    return this / (2 * before)


class StepCounter:
    """Tells a run's steps by the noise levels at which the model is called, as often as it may be within a step.

    Levels that fall all the way name their step. Where one comes more than once (repeated first levels, restarts), the
    steps are counted as well: by the order of the calls, and by what the sampler says that it has finished.

    Args:
        sigmas: noise levels, one more than there are steps.
    """

    def __init__(self, sigmas: Sequence[float]):
        self.count = len(sigmas) - 1
        self._sigmas = tuple(sigmas)
        self._falls = all(low < high * (1.0 - SAME_SIGMA) for high, low in zip(sigmas[:-1], sigmas[1:], strict=True))
        self._at = 0
        self._finished = 0  # how many steps

    def of(self, sigma: float) -> int:
        """The step a noise level belongs to: i for sigmas[i] and everything down to, without, sigmas[i + 1]."""
        if not self._falls:
            return self._counted(sigma)
        reached = sum(each >= sigma * (1.0 - SAME_SIGMA) for each in self._sigmas[:-1])
        return min(max(reached - 1, 0), self.count - 1)

    def finish(self, step: int) -> None:
        """The sampler has what it needs of a step; most say so before they go on to the next level."""
        self._finished = max(self._finished, step + 1)

    def _counted(self, sigma: float) -> int:
        first = self._at
        if self._finished > first + 1 or (self._finished > first and _same(sigma, self._sigmas[first + 1])):
            first += 1
        for step in range(first, self.count):
            if self._holds(step, sigma):
                self._at = step
                break
        return self._at

    def _holds(self, step: int, sigma: float) -> bool:
        """Whether a step begins at a noise level, or passes it on its way down or up."""
        begin, end = self._sigmas[step : step + 2]
        between = min(begin, end) < sigma < max(begin, end) and not _same(sigma, end)
        return _same(sigma, begin) or between


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= SAME_SIGMA * max(abs(a), abs(b))
