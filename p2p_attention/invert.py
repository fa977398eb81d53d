"""Real images: the noise that leads to a given picture, and keeping a run's source row on the way there.

DDIM inversion (Song et al. 2021; Hertz et al. 2023, "Real Image Editing") runs the sampler's steps backwards at
guidance 1. In sigma form, from sigma to the next larger sigma', x' = x + (sigma' - sigma) eps(x', sigma'). The unknown
x' inside eps is first guessed as x rescaled to the variance at sigma', which is what DDIM's own form of the equation
does, and then refined by accelerated fixed-point iteration.

Guidance above 1 leads away from that trajectory. Direct inversion (Ju et al., ICLR 2024) puts the source row back on it
at every step, so that the source comes back exactly and the edit starts from its true attention maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

SourceRow = Literal["pin", "pin-aligned", "free"]
SOURCE_ROWS: tuple[SourceRow, ...] = get_args(SourceRow)
STEPS, ITERATIONS, DENOISE = (1, 1000), (0, 50), (0.01, 1.0)  # least and most
SAME_SIGMA = 1e-4  # relative: schedules are computed in float32
CONVERGED = 5e-8  # relative; float32 ends there
LONGEST = 5  # times the average number of iterations may go into one step
HISTORY = 4  # earlier iterates that are mixed


Variance = Callable[[float], float]  # noise level -> variance of x there, by which the first guess is rescaled


def variance_of_diffusion(sigma: float) -> float:
    """In sigma form, of latents of variance 1 and noise of variance sigma^2."""
    return 1.0 + sigma**2


@dataclass(frozen=True, eq=False)
class Inversion:
    """A picture's way back to noise. What P2P DDIM Invert puts on the model.

    Args:
        image: (B, C, [F,] H, W), the latents as they were given; some models' have frames F.
        trajectory: (S + 1, B, C, [F,] H, W) in the model's own scale, noise first, picture last.
        inputs: (S, B, C, [F,] H, W), what the model was last evaluated on for the step from i + 1 up to i.
        sigmas: S + 1 noise levels, falling.
        settings: (steps, scheduler, denoise) that made them.
        source_row: "pin" holds the source row on the trajectory, "pin-aligned" also evaluates it on ``inputs``, "free"
            lets it run.
        context: (1, L, D), of the prompt by which it was found.
    """

    image: torch.Tensor
    trajectory: torch.Tensor
    inputs: torch.Tensor
    sigmas: tuple[float, ...]
    settings: tuple[int, str, float]
    source_row: SourceRow
    context: torch.Tensor | None = None

    def __deepcopy__(self, memo: dict) -> Inversion:
        return self  # frozen; the host deep-copies what a model carries whenever a node clones it


def constant_variance(sigma: float) -> float:
    """Where x = (1 - sigma) picture + sigma noise: the flow models'. It is taken not to change on the way."""
    return 1.0


def invert(
    denoise: Callable[[torch.Tensor, float], torch.Tensor],
    image: torch.Tensor,
    sigmas: Sequence[float],
    refine_iterations: int,
    progress: Callable[[int, torch.Tensor, torch.Tensor], None],
    variance: Variance = variance_of_diffusion,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Trajectory and inputs of an ``Inversion``.

    The iterations are each picture's budget for the whole way: steps that have converged leave theirs to those that
    need more. A picture alone takes at most S (1 + refine_iterations) model calls. What is found for it does not depend
    on the others of its batch: it waits, as it is, for those that take longer at a step.

    Args:
        denoise: (x (B, C, [F,] H, W), sigma) -> the model's denoised latents.
        image: (B, C, [F,] H, W) in the model's scale.
        sigmas: S + 1, falling to the picture's noise level.
        refine_iterations: k, per step on average; 0 is plain DDIM inversion.
        progress: called after each model call with the number of the step, denoised latents and x.
        variance: noise level -> how large x is there, for the first guess of each step.
    """
    trajectory, inputs = [image], []
    x, steps = image, len(sigmas) - 1
    budgets = [steps * refine_iterations] * len(image)
    for step, (low, high) in enumerate(zip(reversed(sigmas[1:]), reversed(sigmas[:-1]), strict=True)):
        kept_for_later = (steps - 1 - step) * ((refine_iterations + 1) // 2)
        allowed = [min(LONGEST * refine_iterations, budget - kept_for_later) for budget in budgets]
        solver = _FixedPoint()
        at = x * (variance(high) / variance(low)) ** 0.5
        evaluated, reached = torch.empty_like(at), torch.empty_like(at)
        going, iteration = torch.ones(len(image), dtype=torch.bool), 0
        while True:
            denoised = denoise(at, high)
            mapped = x + (high - low) * (at - denoised) / high
            progress(step, denoised, mapped)
            for picture in going.nonzero().flatten().tolist():
                if iteration == allowed[picture] or _converged(at[picture], mapped[picture]):
                    evaluated[picture], reached[picture] = at[picture], mapped[picture]
                    budgets[picture] -= iteration
                    going[picture] = False
            if not going.any():
                break
            chosen = going.to(at.device).view(-1, *[1] * (at.ndim - 1))
            at, iteration = torch.where(chosen, solver.next(at, mapped), reached), iteration + 1
        x = reached
        trajectory.append(x)
        inputs.append(evaluated)
    return torch.stack(trajectory[::-1]), torch.stack(inputs[::-1])


def _converged(x: torch.Tensor, mapped: torch.Tensor) -> bool:
    """Whether f(x) = ``mapped`` is x, of one picture."""
    return bool((mapped - x).norm() <= CONVERGED * mapped.norm())


class _FixedPoint:
    """Anderson acceleration of x = f(x), for each image of a batch: the best mixture of the last few iterates.

    Anderson 1965; for diffusion inversion Pan et al., *Effective Real Image Editing with Accelerated Iterative
    Diffusion Inversion* (ICCV 2023).
    """

    def __init__(self) -> None:
        self._points: list[torch.Tensor] = []  # f(x), (B, N)
        self._residuals: list[torch.Tensor] = []  # f(x) - x

    def next(self, x: torch.Tensor, mapped: torch.Tensor) -> torch.Tensor:
        """The next iterate after f(x) = mapped; the first is ``mapped`` itself."""
        self._points = [*self._points, mapped.flatten(1).double()][-1 - HISTORY :]
        self._residuals = [*self._residuals, (mapped - x).flatten(1).double()][-1 - HISTORY :]
        if len(self._points) == 1:
            return mapped
        point, residual = self._points[-1], self._residuals[-1]
        steps = torch.stack([point - each for each in self._points[:-1]], dim=-1)  # (B, N, m)
        changes = torch.stack([residual - each for each in self._residuals[:-1]], dim=-1)
        gram = changes.mT @ changes
        damping = 1e-10 * gram.diagonal(dim1=1, dim2=2).amax(dim=1).clamp(min=1e-30)
        gram = gram + damping[:, None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        weights = torch.linalg.solve(gram, changes.mT @ residual[..., None])
        return (point - (steps @ weights)[..., 0]).to(mapped).view_as(mapped)


class InversionRun:
    """One inversion during one run.

    Args:
        inversion: the picture's.
        sigmas: the run's noise levels, falling.
        rows: R, of which the first of every group is the source.
        device: the run's.

    Raises:
        ValueError: the run's noise levels are not those of the inversion.
    """

    def __init__(self, inversion: Inversion, sigmas: Sequence[float], rows: int, device: torch.device):
        first = _first_step(inversion, sigmas)
        self.pins = inversion.source_row != "free"
        self._inversion = inversion
        self.rows = rows
        self._sigmas = tuple(sigmas)
        self._trajectory = inversion.trajectory[first : first + len(sigmas)].to(device)
        self._inputs = inversion.inputs[first : first + len(sigmas) - 1].to(device)

    @property
    def start(self) -> torch.Tensor:
        """(B, C, [F,] H, W), where the run begins, in the model's scale."""
        return self._trajectory[0]

    def on_trajectory(self, x: torch.Tensor, step: int, sigma: float) -> torch.Tensor:
        """(B R, C, [F,] H, W) with the source rows put back on the trajectory."""
        x = x.clone()
        x[:: self.rows] = self._at(step, sigma).to(x.dtype)
        return x

    def aligned(self, x: torch.Tensor, step: int, sigma: float) -> torch.Tensor:
        """The same, but evaluated where the inversion was, if so wanted."""
        if self._inversion.source_row == "pin-aligned" and self._on_schedule(step, sigma):
            x = x.clone()
            x[:: self.rows] = self._inputs[step].to(x.dtype)
        return x

    def denoised(self, denoised: torch.Tensor, step: int) -> torch.Tensor:
        """Source rows that lead to the trajectory's next point: its segment, prolonged to sigma 0."""
        ratio = self._sigmas[step + 1] / self._sigmas[step]
        here, there = self._trajectory[step], self._trajectory[step + 1]
        denoised = denoised.clone()
        denoised[:: self.rows] = ((there - ratio * here) / (1.0 - ratio)).to(denoised.dtype)
        return denoised

    def result(self, samples: torch.Tensor, process_out: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Samples (B R, C, [F,] H, W) whose source rows are exactly the picture, or the point where the run ends."""
        ends_clean = self._sigmas[-1] == self._inversion.sigmas[-1]
        source = self._inversion.image if ends_clean else process_out(self._trajectory[-1])
        samples = samples.clone()
        samples[:: self.rows] = source.to(samples)
        return samples

    def _at(self, step: int, sigma: float) -> torch.Tensor:
        if self._on_schedule(step, sigma):
            return self._trajectory[step]
        high, low = self._sigmas[step], self._sigmas[step + 1]
        return torch.lerp(self._trajectory[step], self._trajectory[step + 1], (high - sigma) / (high - low))

    def _on_schedule(self, step: int, sigma: float) -> bool:
        return abs(sigma - self._sigmas[step]) <= SAME_SIGMA * self._sigmas[step]


def _first_step(inversion: Inversion, sigmas: Sequence[float]) -> int:
    """Where in the inversion's schedule the run's begins."""
    for first in range(len(inversion.sigmas) - len(sigmas) + 1):
        part = inversion.sigmas[first : first + len(sigmas)]
        if all(map(same_level, part, sigmas)):
            return first
    steps, scheduler, denoise = inversion.settings
    raise ValueError(
        f"Wanted the noise levels of the inversion, {summary(inversion.sigmas)}, got {summary(sigmas)}. Set the "
        f"sampler to steps {steps}, scheduler {scheduler}, denoise {denoise:g}, as in P2P DDIM Invert, and "
        "sampler_name to euler or ddim."
    )


def same_level(sigma: float, other: float) -> bool:
    """Whether two schedules mean the same noise level."""
    return abs(sigma - other) <= SAME_SIGMA * max(sigma, other)


def summary(sigmas: Sequence[float]) -> str:
    """A schedule, for a message; its second level tells schedulers apart."""
    steps = len(sigmas) - 1
    second = f", {sigmas[1]:.4g}" if steps > 1 else ""
    return f"{steps} steps from sigma {sigmas[0]:.4g}{second} to {sigmas[-1]:.4g}"
