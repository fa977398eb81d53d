"""Noise that was not the same for all rows of a picture, told from what a sampler makes of the model's answers.

``noise.py`` shares what is drawn through PyTorch with the batch's rows. A sampler may draw with NumPy, with a kernel of
its own, or row by row: source and edits then go ways of their own, and nothing else would say so.

From call to call a sampler makes the next x of earlier ones, of the model's answers and of noise, with factors that are
the same for all rows. So what an edited row's x differs by from the source's is a mixture of earlier such differences,
of x and of answers; noise that both have had is not in it, noise of their own is like none of them.
"""

from __future__ import annotations

import torch

CALLS = 8  # of the model that are looked at: the first steps of a sampler that calls it up to three times in each
# Share of a difference that is no mixture. With shared noise the host's samplers leave 1e-6 of it, and 1e-2 where they
# use the negative's answers (cfg_pp); what others do pixel by pixel may leave more.
OWN = 0.2
LEAST = 1e-2  # of x, for a difference to be looked at: what is less may be rounding
OWN_NOISE = (
    "Wanted the same noise for source and edits, got noise of its own for each: the sampler draws it where it cannot "
    "be shared (with NumPy, in a kernel of its own, or row by row), so edits do not keep the source's picture. Choose "
    "another sampler, or another kind of noise in its options."
)


class NoiseCheck:
    """Looks at the first model calls of a run.

    Args:
        rows: R, of which the first of every group is the source.
    """

    def __init__(self, rows: int):
        self._rows = rows
        self._left = CALLS
        self._known: list[torch.Tensor] = []  # (B (R - 1), N) each, orthonormal row by row, or zero

    def own_noise(self, x: torch.Tensor) -> bool:
        """Whether the rows of x (B R, C, [F,] H, W), with which a sampler calls the model, have had noise of their own.

        True once at most.
        """
        if not self._left:
            return False
        difference = self._differences(x)
        if self._known and difference.shape != self._known[0].shape:  # the latents were enlarged: another beginning
            self._known = []
        unknown, size = self._unknown(difference), difference.norm(dim=1)
        own = (unknown.norm(dim=1) > OWN * size) & (size > LEAST * x.flatten(1).norm(dim=1).mean())
        found = bool(self._known and own.any())
        self._left = 0 if found else self._left - 1
        self._remember(unknown)
        return found

    def answered(self, denoised: torch.Tensor) -> None:
        """What the sampler got for it."""
        if self._left:
            difference = self._differences(denoised)
            if not self._known or difference.shape == self._known[0].shape:
                self._remember(self._unknown(difference))

    def _differences(self, latents: torch.Tensor) -> torch.Tensor:
        """(B R, ...) -> (B (R - 1), N), of each edited row from its source."""
        rows = latents.detach().flatten(1).float().unflatten(0, (-1, self._rows))
        return (rows[:, 1:] - rows[:, :1]).flatten(0, 1)

    def _unknown(self, difference: torch.Tensor) -> torch.Tensor:
        for _ in range(2):  # once more for what rounding has left
            for each in self._known:
                difference = difference - (difference * each).sum(dim=1, keepdim=True) * each
        return difference

    def _remember(self, unknown: torch.Tensor) -> None:
        self._known.append(torch.nan_to_num(unknown / unknown.norm(dim=1, keepdim=True).clamp(min=1e-12)))
