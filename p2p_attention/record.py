"""What a finished run leaves for the nodes after the sampler: attention maps and blend masks, on the CPU."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F

from .maps import MapRequest, MapRun, WordPositions, find_words, place
from .prompt import PromptPair, split_names

SAME_PICTURE = (
    0.05  # relative; half precision and another output of the same run differ by less, other runs by far more
)


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

    An interrupted run leaves it empty. The latent that the sampler gave is the key.
    """

    def __init__(self) -> None:
        self._content: Content | None = None
        self._samples: torch.Tensor | None = None

    def __deepcopy__(self, memo: dict) -> Record:
        return self  # the same letter box in every clone of the model

    def clear(self) -> None:
        self._content = self._samples = None

    def put(self, content: Content, samples: torch.Tensor) -> None:
        """Args: content: what the run leaves. samples: (B R, C, H, W), what the sampler gives."""
        self._content, self._samples = content, samples.detach().to("cpu", torch.float16, copy=True)

    def take(self, samples: torch.Tensor) -> Content:
        """What the run that made ``samples`` left.

        Raises:
            ValueError: no run was recorded, or another one.
        """
        if self._content is None:
            raise ValueError(
                "Wanted the record of a finished run, got none: the sampler has not run with the model that comes from "
                "the node of this record. Connect that node's model to the sampler."
            )
        kept, given = self._samples.float(), samples.detach().cpu().float()
        if kept.shape != given.shape or (kept - given).norm() > SAME_PICTURE * given.norm() + 1e-3:
            raise ValueError(
                f"Wanted the latent of the recorded run, {list(kept.shape)}, got another one, {list(given.shape)}. "
                "Connect the output of the sampler that runs the recorded model, as it left the sampler; a record "
                "holds one run, so two samplers need a node each."
            )
        return self._content


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

    def __deepcopy__(self, memo: dict) -> Recorder:
        return self  # frozen; the host deep-copies what a model carries whenever a node clones it


def record_attention(
    pair: PromptPair, words: str = "", attention: str = "cross", resolution: str = "auto", branch: str = "own"
) -> Recorder:
    """Look at where each word of the prompts looks, over the early, middle and late steps.

    Args:
        pair: the prompts; without an edited one, the maps are those of a plain prompt.
        words: words or phrases, separated by commas; empty: every word.
        attention, resolution, branch: see ``MapRequest``.

    Raises:
        ValueError: a word is in none of the prompts.
    """
    prompts = (pair.source, *pair.targets)
    if names := split_names(words):
        found = find_words(pair, names, range(pair.rows))
        columns = tuple(found[row] for row in range(pair.rows))
    else:
        columns = tuple(tuple(WordPositions(word.text, word.positions) for word in prompt.words) for prompt in prompts)
    return Recorder(MapRequest(pair, columns, attention, resolution, branch, parts=3))


def gather(
    run: MapRun, areas: Mapping[Hashable, tuple[int, int, int, int] | None], size: tuple[int, int]
) -> AttentionMaps:
    """The maps of a finished run for the whole picture, in half precision on the CPU.

    Args:
        run: its maps.
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
    # Beside an area's smaller maps the whole picture's count: self-attention has as many as there are tokens.
    shape = max((each.shape for each in found.values()), key=math.prod)
    parts = []
    for part in range(run.parts):
        placed = [
            each if areas.get(key) is None else F.interpolate(place(each, areas[key], *size), shape[-2:], mode="area")
            for key, each in run.mean(part).items()
            if each.shape[1] == shape[1]
        ]
        mean = sum(placed) / len(placed) if placed else torch.zeros(shape)  # the conditioning may not last all steps
        parts.append(mean.to("cpu", torch.float16))
    maps = torch.stack(parts).unflatten(1, (-1, run.request.pair.rows))
    return AttentionMaps(run.request, maps, run.shares)
