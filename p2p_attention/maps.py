"""Where each word looks: attention maps of a run, averaged over heads, layers and steps, only for what is asked.

The edits themselves never build a map. These are for the eye (Hertz et al. 2023, Figure 4) and for the local blend
(``blend.py``), so they are taken from few, coarse layers, averaged over heads at once, and summed up as the run goes
on.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch
import torch.nn.functional as F

from .align import aligned
from .checks import require_one_of
from .edit import RowState
from .prompt import Prompt, PromptPair, listing, quoted
from .rows import row_name

RESOLUTIONS = ("auto", "8", "16", "32", "64")
LAYERS = ("auto", "first third", "middle third", "last third", "all")
Branch = Literal["own", "injected"]
Kind = Literal["cross", "self"]
Name = TypeVar("Name", bound=Hashable)  # of a layer
BRANCHES, KINDS = get_args(Branch), get_args(Kind)
LARGEST_SELF_TOKENS = 4096  # a self-attention map has tokens^2 entries: 32 MB a row in half precision
BUFFER = 2**24  # entries of per-head maps that exist at a time


@dataclass(frozen=True)
class WordPositions:
    """A word or phrase of one prompt, and where its pieces stand in the context."""

    label: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class MapRequest:
    """Which maps a run has to keep.

    Args:
        pair: the prompts of the rows.
        words: per row (source, edits) the words whose cross-attention maps are wanted.
        attention: "cross", or "self" for the whole self-attention map (``words`` are not used).
        resolution: image tokens along a side, or "auto": the finest layers that take part in self-attention injection,
            16 x 16 for a latent of 64 x 64. Self-attention maps come from few of them.
        branch: "own", an edited row's own maps; "injected", the maps that its attention is made to use.
        parts: into how many equal parts of the run the sums are kept apart.
        layers: which of the layers, in the model's order: one of ``LAYERS``. "auto" is what the model's family takes.
    """

    pair: PromptPair
    words: tuple[tuple[WordPositions, ...], ...]
    attention: Kind = "cross"
    resolution: str = "auto"
    branch: Branch = "own"
    parts: int = 1
    layers: str = LAYERS[0]

    def __post_init__(self) -> None:
        require_one_of("attention", self.attention, KINDS)
        require_one_of("map_resolution", self.resolution, RESOLUTIONS)
        require_one_of("maps", self.branch, BRANCHES)
        require_one_of("map_layers", self.layers, LAYERS)


def attention_probs(query: torch.Tensor, key: torch.Tensor, heads: int) -> torch.Tensor:
    """Attention maps, averaged over heads: softmax(Q K^T / sqrt(D)) of (N, Q, C) and (N, S, C) -> float32 (N, Q, S)."""
    query, key = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (query, key))  # (N, H, Q or S, D)
    entries = query.shape[2] * key.shape[2]
    rows, at_once = max(1, BUFFER // (heads * entries)), max(1, BUFFER // entries)
    maps = []
    for q, k in zip(query.split(rows), key.split(rows), strict=True):
        total = q.new_zeros((), dtype=torch.float32)
        for some_q, some_k in zip(q.split(at_once, dim=1), k.split(at_once, dim=1), strict=True):
            scores = some_q.float() @ some_k.float().transpose(-1, -2) / math.sqrt(q.shape[-1])
            total = total + scores.softmax(dim=-1).sum(dim=1)
        maps.append(total / heads)
    return torch.cat(maps)


class MapRun:
    """The maps of one request, summed up during one run.

    Tensors stay on the device that computes them until ``mean``. With several, conditionings are added from a thread
    for each device, now from this one and now from that.
    """

    def __init__(self, request: MapRequest, steps: int):
        self.request = request
        self.parts = min(request.parts, steps)
        self._steps = steps
        self._sums: dict[tuple[Hashable, int], tuple[torch.Tensor, int]] = {}
        self._planned: dict[Hashable, tuple[int, int]] = {}
        self._weights: dict[tuple, tuple[torch.Tensor, torch.Tensor | None]] = {}
        self._lock = threading.Lock()

    @property
    def words(self) -> int:
        """K, the largest number of words asked for in a row."""
        return max(len(row) for row in self.request.words)

    @property
    def shares(self) -> tuple[float, ...]:
        """What part of all that was added belongs to each part of the run."""
        counts = [sum(count for (_, at), (_, count) in self._sums.items() if at == part) for part in range(self.parts)]
        return tuple(count / sum(counts) for count in counts)

    def add(
        self,
        conditioning: Hashable,
        step: int,
        probs: torch.Tensor,
        grid: tuple[int, int],
        planned: tuple[int, int],
        states: Sequence[RowState] | None,
    ) -> None:
        """Add what one layer of one call gives for one conditioning.

        Args:
            conditioning: its id.
            step: of the run, from 0.
            probs: (B R, Q, S), averaged over heads.
            grid: (h, w), Q = h w.
            planned: the grid of this layer when no other node rescales it; maps are brought to that of the
                conditioning's first call (a sampler may enlarge the latents as it goes).
            states: what is done to the edited rows at this step, or None.
        """
        planned = self._planned.setdefault(conditioning, planned)
        if self.request.attention == "self" and grid != planned:
            return  # its columns are the layer's own tokens
        columns = self._self_columns if self.request.attention == "self" else self._word_columns
        maps = columns(probs, states).unflatten(-1, grid)  # (B R, K, h, w)
        if grid != planned:
            maps = F.interpolate(maps, planned, mode="bilinear", align_corners=False)
        key = conditioning, step * self.parts // self._steps
        with self._lock:
            total, count = self._sums.get(key, (None, 0))
            if total is None:
                total = maps.clone()  # others may have been given the same
            else:
                total += maps.to(total.device)
            self._sums[key] = total, count + 1

    def mean(self, part: int | None = None, device: torch.device | None = None) -> dict[Hashable, torch.Tensor]:
        """Conditioning -> float32 (B R, K, h, w), over the whole run or one of its parts; without those never seen.

        Args:
            device: to which all are brought; None: that of the first.
        """
        means = {}
        for conditioning in self._planned:  # in the order of the run: sums of floats depend on it
            chosen = [
                entry for (of, at), entry in self._sums.items() if of == conditioning and (part is None or at == part)
            ]
            if chosen:
                device = device or chosen[0][0].device
                totals = [total.to(device) for total, _ in chosen]
                means[conditioning] = sum(totals[1:], totals[0]) / sum(count for _, count in chosen)
        return means

    def _self_columns(self, probs: torch.Tensor, states: Sequence[RowState] | None) -> torch.Tensor:
        if self.request.branch == "injected" and states is not None:
            rows = self.request.pair.rows
            probs = probs.clone()
            for row, state in enumerate(states, 1):
                if state.self_attention:
                    probs[row::rows] = probs[::rows]
        return probs.transpose(1, 2)

    def _word_columns(self, probs: torch.Tensor, states: Sequence[RowState] | None) -> torch.Tensor:
        """(B R, Q, L) -> (B R, K, Q): the columns of each word's pieces, added up."""
        rows = self.request.pair.rows
        own, injected = self._word_weights(probs.shape[-1], states, probs.device)
        grouped = probs.unflatten(0, (-1, rows))  # (B, R, Q, L)
        maps = grouped @ own
        if injected is not None:
            maps = maps + grouped[:, :1] @ injected
        return maps.transpose(-1, -2).flatten(0, 1)

    def _word_weights(
        self, length: int, states: Sequence[RowState] | None, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(R, L, K) of each row's own map and, where source maps are injected and looked at, of the source's map."""
        gates = tuple(state.gates for state in states or ()) if self.request.branch == "injected" else ()
        if not any(any(gate) for gate in gates):
            gates = ()
        key = length, gates, device
        if key not in self._weights:
            pair = self.request.pair
            prompts = (pair.source, *pair.targets)
            copies = [1 if pair.padded else length // prompt.length for prompt in prompts]
            own = torch.zeros(pair.rows, length, self.words)
            for row, (prompt, words) in enumerate(zip(prompts, self.request.words, strict=True)):
                for column, word in enumerate(words):
                    starts = torch.arange(copies[row])[:, None] * prompt.length
                    own[row, (starts + torch.tensor(word.positions)).flatten(), column] = 1.0
            injected = torch.zeros_like(own) if gates else None
            for row, gate in enumerate(gates, 1):
                if injected is not None and any(gate):
                    g = torch.tensor(gate).repeat(copies[row])[:, None]
                    matrix = aligned(pair, row - 1).matrix.repeat(copies[0], copies[row]) / copies[row]
                    injected[row, : matrix.shape[0]] = matrix @ (g * own[row, : len(g)])
                    own[row, : len(g)] *= 1.0 - g
            self._weights[key] = own.to(device), injected if injected is None else injected.to(device)
        return self._weights[key]


def choose_level(request: MapRequest, grids: Sequence[tuple[int, int]], injects: Sequence[bool]) -> int:
    """Which of a model's levels the maps are taken from.

    Args:
        request: its ``resolution`` and ``attention``.
        grids: (h, w) of the image tokens of each level that has attention, finest first.
        injects: of each level, whether it takes part in self-attention injection.

    Returns:
        An index into ``grids``.

    Raises:
        ValueError: no level has about the wanted resolution.
    """
    tokens = [h * w for h, w in grids]
    if request.resolution == "auto":
        largest = LARGEST_SELF_TOKENS if request.attention == "self" else math.inf
        fitting = (i for i, n in enumerate(tokens) if injects[i] and n <= largest)
        level = next(fitting, len(tokens) - 1)
    else:
        wanted = int(request.resolution) ** 2
        level = min(range(len(tokens)), key=lambda i: abs(math.log(tokens[i] / wanted)))
        if not 0.5 < tokens[level] / wanted < 2.0:
            raise ValueError(
                f"Wanted attention maps of about {request.resolution} x {request.resolution} tokens, got layers of "
                f"{', '.join(f'{h} x {w}' for h, w in grids)} for this latent. Set map_resolution to auto."
            )
    if request.attention == "self" and tokens[level] > LARGEST_SELF_TOKENS:
        raise ValueError(
            f"Wanted self-attention maps of at most {LARGEST_SELF_TOKENS} tokens (they take tokens^2 entries), got "
            f"{tokens[level]}. Lower map_resolution or set it to auto."
        )
    return level


def thirds_of(count: int) -> dict[str, range]:
    """Name -> places of ``count`` layers, of which each third has at least one."""
    borders = [(third * count // 3, (third + 1) * count // 3) for third in range(3)]
    return {name: range(first, max(first + 1, last)) for name, (first, last) in zip(LAYERS[1:4], borders, strict=True)}


def middle_one(layers: Sequence[Name]) -> Name:
    """Of the layers that maps are taken of, the one whose self-attention stands for theirs."""
    return layers[len(layers) // 2]


def middle_third(count: int) -> range:
    return thirds_of(count)["middle third"]


def spread(maps: torch.Tensor, self_attention: torch.Tensor) -> torch.Tensor:
    """Fill a word's map to the whole thing it is on: each place takes the mean of the places that it attends to.

    A noun's own map may cover no more than the features by which the thing is known; self-attention knows what belongs
    together. Nguyen et al., *Dataset Diffusion* (NeurIPS 2023), with an exponent of 1.

    Args:
        maps: (N, K, h, w).
        self_attention: (N, Q, h, w), Q = h w: at [n, k, y, x] how much place (y, x) attends to place k.
    """
    return torch.einsum("nwk,nkq->nwq", maps.flatten(2), self_attention.flatten(2)).view_as(maps)


def place(maps: torch.Tensor, area: tuple[int, int, int, int] | None, height: int, width: int) -> torch.Tensor:
    """Maps of a conditioning on the whole latent: (N, K, h, w) -> (N, K, H, W), zero outside its area (h, w, y, x)."""
    h, w, y, x = area or (height, width, 0, 0)
    maps = F.interpolate(maps, (h, w), mode="bilinear", align_corners=False)
    return F.pad(maps, (x, width - x - w, y, height - y - h))


def find_words(pair: PromptPair, names: Sequence[str], rows: Sequence[int]) -> dict[int, tuple[WordPositions, ...]]:
    """Row (0 = source) -> the named words that occur in its prompt. Each has to occur in at least one of ``rows``.

    Raises:
        ValueError: a word occurs in none; lists the words there are.
    """
    prompts: dict[int, Prompt] = {row: (pair.source, *pair.targets)[row] for row in rows}
    found: dict[int, list[WordPositions]] = {row: [] for row in rows}
    for name in names:
        positions = {row: pair.find(name, prompt) for row, prompt in prompts.items()}
        if not any(positions.values()):
            texts = "; ".join(f"{row_name(row)}: {listing(prompt)}" for row, prompt in prompts.items())
            raise ValueError(
                f"Wanted words of the prompts, got {quoted(name)}, which is in none. Their words: {texts}."
            )
        for row in rows:
            if positions[row]:
                found[row].append(WordPositions(name, positions[row]))
    return {row: tuple(words) for row, words in found.items()}
