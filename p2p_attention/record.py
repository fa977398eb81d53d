"""What a finished run leaves for the nodes after the sampler: attention maps and blend masks, on the CPU."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F

from .maps import LAYERS, Branch, Kind, MapRequest, MapRun, WordPositions, find_words, place
from .prompt import PromptPair, split_names

# Relative, of each row: half precision and another output of the same run differ by less, other runs by far more.
SAME_PICTURE = 0.05


@dataclass(frozen=True)
class AttentionMaps:
    """The maps of a run.

    Args:
        request: what was asked.
        maps: float16 (P, B, R, K, h, w): P parts of the run; K words, or K = h w image tokens for self-attention.
        shares: of each part in the run, adding up to 1.
    """

    request: MapRequest
    maps: torch.Tensor
    shares: tuple[float, ...]


@dataclass(frozen=True)
class BlendMasks:
    """The masks of a run's last step, float32 (B, E, H, W); ones for edits that are not blended."""

    masks: torch.Tensor


Content = TypeVar("Content", AttentionMaps, BlendMasks)


class Record(Generic[Content]):
    """The one thing on a socket that changes: a letter box. A run empties it at its start, and fills it when it ends.

    An interrupted run leaves it empty; one that had nothing to leave, a sentence that says why. The latent that the
    sampler gave is the key.
    """

    def __init__(self) -> None:
        self._content: Content | None = None
        self._failure: str | None = None
        self._samples: torch.Tensor | None = None

    def __deepcopy__(self, memo: dict) -> Record:
        return self  # the same letter box in every clone of the model

    def clear(self) -> None:
        self._content = self._failure = self._samples = None

    def put(self, content: Content, samples: torch.Tensor) -> None:
        """Args: content: what the run leaves. samples: (B R, C, [F,] H, W), what the sampler gives."""
        self.clear()
        self._content, self._samples = content, samples.detach().to("cpu", torch.float16, copy=True)

    def fail(self, why: str) -> None:
        """The run made its pictures, but leaves nothing: ``take`` raises a ValueError that says ``why``."""
        self.clear()
        self._failure = why

    def take(self, samples: torch.Tensor) -> Content:
        """What the run that made ``samples`` left.

        Raises:
            ValueError: no run was recorded, or another one, or it had nothing to leave.
        """
        if self._failure is not None:
            raise ValueError(self._failure)
        if self._content is None or self._samples is None:
            raise ValueError(
                "Wanted the record of a finished run, got none: the sampler has not run with the model that comes from "
                "the node of this record. Connect that node's model to the sampler."
            )
        kept, given = self._samples, samples.detach().to("cpu", torch.float16)
        if kept.shape != given.shape or not _same_pictures(kept, given):
            raise ValueError(
                f"Wanted the latent of the recorded run, {list(kept.shape)}, got another one, {list(given.shape)}. "
                "Connect the output of the sampler that runs the recorded model, as it left the sampler; a record "
                "holds one run, so two samplers need a node each."
            )
        return self._content


class Everywhere(Record[BlendMasks]):
    """In place of a blend's record, of edits that are not blended: ones, for every run.

    Args:
        rows: R of the pair.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._rows = rows

    def take(self, samples: torch.Tensor) -> BlendMasks:
        if len(samples) % self._rows:
            raise ValueError(
                f"Wanted the latents of source and edits, {self._rows} for each picture, got {len(samples)}. Connect "
                "all that the sampler made."
            )
        return BlendMasks(torch.ones(len(samples) // self._rows, self._rows - 1, *samples.shape[-2:]))


def _same_pictures(kept: torch.Tensor, given: torch.Tensor) -> bool:
    """Row by row, since a run with the same source may differ in one edit alone. A row of NaN is like no picture."""
    kept, given = (each.float().nan_to_num().flatten(1) for each in (kept, given))
    allowed = SAME_PICTURE * given.norm(dim=1) + 1e-3
    return bool(((kept - given).norm(dim=1) <= allowed).all())


@dataclass(frozen=True, eq=False)
class Recorder:
    """Keeps the attention maps of a run for P2P Attention Maps."""

    request: MapRequest
    record: Record = field(default_factory=Record)

    @property
    def pair(self) -> PromptPair:
        return self.request.pair

    @property
    def requests(self) -> tuple[MapRequest, ...]:
        return (self.request,)

    def finish(
        self,
        run: MapRun,
        areas: Mapping[Hashable, tuple[int, int, int, int] | None],
        size: tuple[int, int],
        samples: torch.Tensor,
    ) -> None:
        """Put what a finished run leaves into the record; see ``gather``. Never keeps the run from its pictures."""
        try:
            content = gather(run, areas, size)
        except ValueError as error:
            logging.warning(f"P2P Record Attention: {error}")
            self.record.fail(str(error))
        else:
            self.record.put(content, samples)

    def __deepcopy__(self, memo: dict) -> Recorder:
        return self  # frozen; the host deep-copies what a model carries whenever a node clones it


def record_attention(
    pair: PromptPair,
    words: str = "",
    attention: Kind = "cross",
    resolution: str = "auto",
    branch: Branch = "own",
    layers: str = LAYERS[0],
) -> Recorder:
    """Look at where each word of the prompts looks, over the early, middle and late steps.

    Args:
        pair: the prompts; without an edited one, the maps are those of a plain prompt.
        words: words or phrases, separated by commas; empty: every word.
        attention, resolution, branch, layers: see ``MapRequest``.

    Raises:
        ValueError: a word is in none of the prompts.
    """
    prompts = (pair.source, *pair.targets)
    if names := split_names(words):
        found = find_words(pair, names, range(pair.rows))
        columns = tuple(found[row] for row in range(pair.rows))
    else:
        columns = tuple(tuple(WordPositions(word.text, word.positions) for word in prompt.words) for prompt in prompts)
    return Recorder(MapRequest(pair, columns, attention, resolution, branch, parts=3, layers=layers))


def gather(
    run: MapRun, areas: Mapping[Hashable, tuple[int, int, int, int] | None], size: tuple[int, int]
) -> AttentionMaps:
    """The maps of a finished run for the whole picture, in half precision on the CPU.

    Args:
        run: its maps; where conditionings have grids of different size, all are brought to the finest.
        areas: conditioning -> (h, w, y, x) in the latent, None for all of it.
        size: (H, W) of the latent.

    Raises:
        ValueError: no layer gave a map.
    """
    found = run.mean()
    if not found:
        raise ValueError(
            "Wanted attention maps to record, got none: another node takes the layers of this resolution out of "
            "the model's run. Set map_resolution to another value."
        )
    # Beside an area's smaller maps the whole picture's count: those of self-attention are of the grid's own places.
    shape = max((each.shape for each in found.values()), key=math.prod)
    grid = shape[-2:]

    def on_the_picture(maps: torch.Tensor, area: tuple[int, int, int, int] | None) -> torch.Tensor:
        if area is not None:
            return F.interpolate(place(maps, area, *size), grid, mode="area")
        if maps.shape[-2:] == grid:
            return maps
        return F.interpolate(maps, grid, mode="bilinear", align_corners=False)

    kept = [key for key, each in found.items() if run.request.attention == "cross" or each.shape == shape]
    parts = []
    for part in range(run.parts):
        means = run.mean(part)
        placed = [on_the_picture(means[key], areas.get(key)) for key in kept if key in means]
        # The conditioning may not last all steps.
        mean = sum(placed[1:], placed[0]) / len(placed) if placed else torch.zeros(shape)
        parts.append(mean.to("cpu", torch.float16))
    maps = torch.stack(parts).unflatten(1, (-1, run.request.pair.rows))
    return AttentionMaps(run.request, maps, run.shares)
