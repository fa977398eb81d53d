"""A table of settings, run through the host's own sampler: P2P Grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import comfy.model_management as management
import comfy.samplers
import torch

import nodes

from ..checks import require_between, require_one_of
from ..edit import edited_text
from ..sheet import SheetRow
from ..sweep import Axis, cells_of, table_of, works_of
from .attach import attach
from .encode import encode, encode_pair
from .families import family_of
from .notices import say
from .way_back import SCHEDULERS

SAMPLERS = tuple(comfy.samplers.KSampler.SAMPLERS)
SEED, STEPS, CFG = (0, 2**64 - 1), (1, 1000), (0.0, 100.0)  # least and most
AT_ONCE = 4  # edits that share one run, beside their source


@dataclass(frozen=True)
class Texts:
    """What is edited: the prompts, the negative's text, the words to fade, and which word stands for which."""

    source: str
    target: str
    negative: str
    words: str
    alignment: str


class SamplerSettings(NamedTuple):
    """Of the host's KSampler."""

    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str


@dataclass(frozen=True)
class _Run:
    """One call of the sampler: which places of the table it makes, and on what."""

    places: tuple[int, ...]
    seed: float | None
    model: Any
    positive: list


def sweep(
    model: Any,
    clip: Any,
    vae: Any,
    latent: dict,
    texts: Texts,
    axes: tuple[Axis, Axis | None],
    strength: float,
    settings: SamplerSettings,
) -> tuple[list[SheetRow], torch.Tensor]:
    """Every place of a table of settings, several in one run, with one source for all of a seed.

    An interrupted run keeps the places that are made.

    Args:
        model, clip, vae: the host's.
        latent: the host's LATENT of one picture, to begin with.
        texts: what is edited.
        axes: across, and down or None.
        strength: where it is no axis.
        settings: of the sampler; the seed where it is no axis.

    Returns:
        The table's rows, and all pictures that were made: the source of each seed, then the places row by row.

    Raises:
        ValueError: before anything is sampled, if a setting of any place is not valid.
    """
    for name, range in (("seed", SEED), ("steps", STEPS), ("cfg", CFG)):
        require_between(name, getattr(settings, name), range)
    require_one_of("sampler_name", settings.sampler_name, SAMPLERS)
    require_one_of("scheduler", settings.scheduler, SCHEDULERS)
    across, down = axes
    cells = cells_of(across, down)
    if len(latent["samples"]) != 1:
        raise ValueError(
            f"Wanted the latent of one picture, got {len(latent['samples'])}. Set batch_size to 1; for several "
            "seeds take seed as an axis."
        )
    runs = _runs(model, clip, texts, cells, strength)
    negative = encode(clip, texts.negative)
    sources: dict[float | None, torch.Tensor] = {}
    pictures: list[torch.Tensor | None] = [None] * len(cells)
    try:
        for run in runs:
            seed = settings.seed if run.seed is None else int(run.seed)
            (samples,) = nodes.common_ksampler(run.model, seed, *settings[1:], run.positive, negative, latent)
            images = vae.decode(samples["samples"])
            source, *edits = images.reshape(-1, *images.shape[-3:]).float().cpu()
            sources.setdefault(run.seed, source)
            for place, picture in zip(run.places, edits, strict=True):
                pictures[place] = picture
    except management.InterruptProcessingException:
        if not sources:
            raise
        made = sum(picture is not None for picture in pictures)
        say(f"interrupted: {made} of {len(pictures)} places of the table are made.")
    title = f"{texts.source} -> {texts.target or texts.source}"
    all_made = [*sources.values(), *(picture for picture in pictures if picture is not None)]
    return table_of(across, down, title, sources, pictures), torch.stack(all_made)


def _runs(model: Any, clip: Any, texts: Texts, cells: list[dict[str, float]], strength: float) -> list[_Run]:
    """Places of one seed together, as many at once as ``AT_ONCE``."""
    strengths = family_of(model).strengths
    target = edited_text(texts.source, texts.target, texts.words)
    by_seed: dict[float | None, list[int]] = {}
    for place, cell in enumerate(cells):
        by_seed.setdefault(cell.get("seed"), []).append(place)
    runs, encoded = [], {}
    for seed, places in by_seed.items():
        for first in range(0, len(places), AT_ONCE):
            some = tuple(places[first : first + AT_ONCE])
            if len(some) not in encoded:
                encoded[len(some)] = encode_pair(
                    clip, texts.source, "\n---\n".join([target] * len(some)), texts.alignment
                )
            positive, pair = encoded[len(some)]
            edited = model
            for edit, place in enumerate(some, 1):
                for work in works_of(pair, edit, cells[place], strengths, strength, texts.words):
                    edited = attach(edited, work)
            runs.append(_Run(some, seed, edited, positive))
    return runs
