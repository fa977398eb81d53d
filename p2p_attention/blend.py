"""Local blend: the edit shows only where its words look, everywhere else the picture stays the source's.

Nobody paints the mask: it comes from the attention maps of the words (Hertz et al. 2023, Algorithm 1,
"local editing"). At every step from ``start`` on

    z* <- z[0] + mask (z* - z[0])

with z[0] the source row. Here the denoised latents and the model's inputs are blended, which for a first-order sampler
is the paper's blend, and works with every other one too.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Literal, get_args

import torch
import torch.nn.functional as F

from .align import CONNECTIVES, aligned
from .changed import change, clear_pieces, evidence, has_a_place, soften, widened
from .checks import require_between, require_one_of
from .edit import chosen_targets
from .maps import LAYERS, Branch, MapRequest, MapRun, WordPositions, find_words, place, spread
from .prompt import PromptPair, Word, listing, quoted, split_names
from .record import BlendMasks, Record

MaskMode = Literal["replace", "intersect", "union"]
MaskFrom = Literal["words", "words and change", "words and change, or everywhere"]
MASK_MODES, MASKS_FROM = get_args(MaskMode), get_args(MaskFrom)
CHANGE, CHANGE_OR_EVERYWHERE = MASKS_FROM[1:]
FRACTION, GROW, FEATHER = (0.0, 1.0), (0, 8), (0.0, 64.0)  # least and most
FLAT = 1e-5  # relative; a map that varies by less, as single precision does, says nothing about places
NOTHING_SEEN = (
    "Wanted attention maps for P2P Local Blend Mask, got none: another node takes the layers of this resolution out of "
    "the model's run. Set map_resolution to another value."
)
SAY_NOTHING = CONNECTIVES | {"a", "an", "the"}  # words whose maps have no place of their own


@dataclass(frozen=True)
class Region:
    """The words that make one edit's mask, as (row, column) of the request's words."""

    included: tuple[tuple[int, int], ...]
    excluded: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Blend:
    """A local blend of some of a pair's edits.

    Args:
        pair: the prompts.
        request: the maps to keep; None when a given mask stands alone.
        spread: whether the words' maps are filled to whole things by self-attention.
        regions: per edited prompt the words of its mask; None leaves that edit alone.
        threshold: of the normalised map, 0 to 1; what reaches it is inside.
        start: from when, as a fraction of the steps; the last step always blends.
        grow: how far a place is widened, in image tokens of the maps: the radius of a max-pooling of the maps; with
            "words and change" that of the place itself, up, down and to the sides.
        feather: width of the mask's soft border, in latent pixels.
        mask: (M, h, w) in 0..1, one for all, per edited prompt, or per seed and edited prompt; or None.
        mode: how ``mask`` is combined with the words' mask.
        mask_from: what the words' mask is made of: "words", where any word's map reaches the threshold; "words and
            change", where the words look and the edit has parted from the source, see ``changed.py``; "words and
            change, or everywhere", the same as soon as that is a place in the picture, and until then all of it; an
            edit without words of its own is left alone, beside others that have some.
        record: where a finished run leaves its masks.
    """

    pair: PromptPair
    request: MapRequest | None
    spread: bool
    regions: tuple[Region | None, ...]
    threshold: float
    start: float
    grow: int
    feather: float
    mask: torch.Tensor | None
    mode: MaskMode
    mask_from: MaskFrom = "words"
    record: Record[BlendMasks] = field(default_factory=Record)

    def __post_init__(self) -> None:
        require_between("threshold", self.threshold, FRACTION)
        require_between("start", self.start, FRACTION)
        require_between("grow", self.grow, GROW)
        require_between("feather", self.feather, FEATHER)
        require_one_of("mask_mode", self.mode, MASK_MODES)
        require_one_of("mask_from", self.mask_from, MASKS_FROM)

    @property
    def requests(self) -> tuple[MapRequest, ...]:
        """The maps of the words, then those of self-attention; only what is needed."""
        if self.request is None:
            return ()
        return (self.request, replace(self.request, attention="self")) if self.spread else (self.request,)

    @property
    def edits(self) -> tuple[int, ...]:
        """Indices into ``pair.targets`` of the edits that are blended."""
        return tuple(target for target, region in enumerate(self.regions) if region is not None)

    def __deepcopy__(self, memo: dict) -> Blend:
        return self  # frozen; the host deep-copies what a model carries whenever a node clones it


def local_blend(
    pair: PromptPair,
    words: str = "",
    exclude_words: str = "",
    threshold: float = 0.3,
    start: float = 0.2,
    spread: bool = True,
    grow: int = 0,
    feather: float = 0.0,
    resolution: str = "auto",
    branch: Branch = "own",
    mask: torch.Tensor | None = None,
    mode: MaskMode = "replace",
    edit: int = 0,
    also: Sequence[str] = (),
    mask_from: MaskFrom = "words",
    layers: str = LAYERS[0],
) -> Blend:
    """Keep an edit where its words are; the rest of the picture is the source's.

    Args:
        pair: the prompts.
        words: words or phrases, separated by commas, of the source, the edited prompt or both; empty: those in which
            the prompts differ.
        exclude_words: words whose place stays the source's.
        threshold, start, spread, grow, feather, mask, mode, mask_from: see ``Blend``.
        resolution, branch, layers: see ``MapRequest``.
        edit: 0 for every edited prompt, n for the n-th only.
        also: words that count beside those in which the prompts differ, where ``words`` is empty.

    Raises:
        ValueError: a word is not there, the prompts do not differ, or the mask has no fitting shape.
    """
    chosen = chosen_targets(pair, edit)
    require_one_of("mask_mode", mode, MASK_MODES)
    if mask is None and mode != "replace":
        raise ValueError(
            f"Wanted a mask for mask_mode {mode}, got none. Connect one to mask, or set mask_mode to replace; without "
            "a mask the words' counts alone."
        )
    if mask is not None:
        mask = _checked_mask(mask, pair)
    names, without = split_names(words), split_names(exclude_words)
    if mask is not None and mode == "replace":
        if names or without:
            raise ValueError(
                "Wanted words or a mask that replaces theirs, got both. Clear words and exclude_words, or set "
                "mask_mode to intersect or union."
            )
        whole = tuple(Region((), ()) if target in chosen else None for target in range(len(pair.targets)))
        return Blend(pair, None, False, whole, threshold, start, grow, feather, mask, mode)

    columns: list[list[WordPositions]] = [[] for _ in range(pair.rows)]

    def column(row: int, word: WordPositions) -> tuple[int, int]:
        if word not in columns[row]:
            columns[row].append(word)
        return row, columns[row].index(word)

    rows = [0, *(target + 1 for target in chosen)]
    included, excluded = find_words(pair, names or also, rows), find_words(pair, without, rows)
    regions: list[Region | None] = [None] * len(pair.targets)
    alike: list[int] = []  # edits that have the source's own words
    for target in chosen:
        sides = (0, target + 1)
        wanted = [column(side, word) for side in sides for word in included[side]]
        if names:
            if not wanted:
                raise ValueError(
                    f"Wanted words of the source or of edit {target + 1}, got {quoted(words)}, of which none is there. "
                    f"Its words: {listing(pair.targets[target])}. Name one of them, or set edit to the edit that has "
                    "them."
                )
        else:
            differing = [column(side, word) for side, word in _differing_words(pair, target)]
            if not (wanted or differing):
                alike.append(target)
                continue
            wanted = list(dict.fromkeys([*differing, *wanted]))
        regions[target] = Region(tuple(wanted), tuple(column(side, word) for side in sides for word in excluded[side]))
    if alike and (mask_from != CHANGE_OR_EVERYWHERE or len(alike) == len(chosen)):
        raise ValueError(
            f"Wanted prompts that differ, or words to blend by, got edit {alike[0] + 1} with the source's own words "
            f"({listing(pair.source)}). Name the words whose place may change."
        )
    request = MapRequest(pair, tuple(map(tuple, columns)), resolution=resolution, branch=branch, layers=layers)
    return Blend(pair, request, spread, tuple(regions), threshold, start, grow, feather, mask, mode, mask_from)


def blend_of_whole_edit(
    pair: PromptPair, faded: Sequence[str], edit: int = 0, threshold: float = 0.3, mask_from: MaskFrom = CHANGE
) -> Blend:
    """The blend of a node that makes a whole edit: by the words in which the prompts differ, and those that it fades.

    A cell around, where the new thing may have an outline of its own, and nothing of the old one's is left.

    Raises:
        ValueError: there are neither, in terms of such a node; see ``Blend`` for "words and change, or everywhere".
    """
    for target in chosen_targets(pair, edit):
        if mask_from == CHANGE and not faded and not _differing_words(pair, target):
            raise ValueError(
                f"Wanted a word that changes, whose place the picture may change in, got edit {target + 1} with the "
                f"source's own words ({listing(pair.source)}). Exchange, add or remove a word, or fade one in words."
            )
    return local_blend(pair, threshold=threshold, grow=1, edit=edit, also=faded, mask_from=mask_from)


def words_change(pair: PromptPair) -> bool:
    """Whether any edit says something that the source does not, or the other way round."""
    return any(_differing_words(pair, target) for target in range(len(pair.targets)))


def _differing_words(pair: PromptPair, target: int) -> list[tuple[int, WordPositions]]:
    """(row, word) of what the source says and the edit does not, and the other way round."""
    changed: list[tuple[int, Word]] = []
    for span in aligned(pair, target).spans:
        if span.kind != "shared":
            changed += [(0, word) for word in span.source] + [(target + 1, word) for word in span.target]
    telling = [(side, word) for side, word in changed if word.text.lower() not in SAY_NOTHING]
    return [(side, WordPositions(word.text, word.positions)) for side, word in telling or changed]


def _checked_mask(mask: torch.Tensor, pair: PromptPair) -> torch.Tensor:
    if mask.ndim < 2 or not mask.numel() or mask.isnan().any():
        raise ValueError(
            f"Wanted a mask of numbers, [masks, height, width], got {list(mask.shape)}"
            + (" with NaN" if mask.isnan().any() else "")
            + ". Connect a mask that is not empty, or none."
        )
    mask = mask.reshape(-1, *mask.shape[-2:])
    edits = len(pair.targets)
    if len(mask) != 1 and len(mask) % edits:
        raise ValueError(
            f"Wanted one mask, or one for each of the {edits} edited prompts, got {len(mask)}. Connect a single "
            "mask, or a batch in the order of the edits."
        )
    return mask.detach().clone().float().clamp(0.0, 1.0)


class BlendRun:
    """One blend during one run.

    Args:
        blend: what to do.
        maps: the run's maps of ``blend.requests``.
        pictures: B.
        size: (H, W) of the latent.
        steps: of the run.

    Raises:
        ValueError: the given masks do not fit the pictures.
    """

    def __init__(self, blend: Blend, maps: Sequence[MapRun], pictures: int, size: tuple[int, int], steps: int):
        self.blend = blend
        self.maps = maps
        self._pictures, self._size, self._steps = pictures, size, steps
        self._given = self._given_masks()
        self._told = False
        self._changes: torch.Tensor | None = None  # (B, E, H, W), summed up over the predictions so far
        self._placed: torch.Tensor | None = None  # bool (B, E): edits that were of a place in the picture in some step
        self.mask: torch.Tensor | None = None  # (B R, 1, H, W) once blending has begun

    def active(self, step: int) -> bool:
        return (step + 0.5) / self._steps >= self.blend.start or step == self._steps - 1

    def see(self, denoised: torch.Tensor) -> None:
        """Take notice of a prediction, (B R, C, [F,] H, W), before anything is blended in it."""
        if not self.maps or self.blend.mask_from == "words":
            return
        changes = change(denoised, self.blend.pair.rows)
        if changes.shape[-2:] != self._size:  # a sampler may enlarge the latents as it goes
            changes = F.interpolate(changes, self._size, mode="bilinear", align_corners=False)
        self._changes = changes if self._changes is None else self._changes + changes.to(self._changes.device)

    def update(self, areas: Mapping[Hashable, tuple[int, int, int, int] | None], device: torch.device) -> None:
        """Make the mask from the maps so far. ``areas``: conditioning -> (h, w, y, x) in the latent, None for all."""
        if self.maps and not self.maps[0].mean():
            if not self._told:  # the pair's conditioning may begin later in the run
                logging.warning(f"P2P Local Blend Mask: {NOTHING_SEEN} Until there are maps, edits show everywhere.")
            self._told = True
            return
        edits = len(self.blend.pair.targets)
        mask = torch.ones(self._pictures, 1 + edits, *self._size, device=device)
        words = self._word_masks(areas, device)
        given = None if self._given is None else self._given.to(device)
        there = [each for each in (words, given) if each is not None]
        combine = torch.minimum if self.blend.mode == "intersect" else torch.maximum
        for target in self.blend.edits:
            mask[:, 1 + target] = reduce(combine, (each[:, target] for each in there))
        self.mask = mask.flatten(0, 1)[:, None]

    def apply(self, latents: torch.Tensor) -> torch.Tensor:
        """z[0] + mask (z* - z[0]) for (B R, C, [F,] H, W); exactly z[0] outside the mask and z* inside."""
        if self.mask is None:
            return latents
        return torch.lerp(self._sources(latents), latents, self._mask_for(latents).to(latents.dtype))

    def outside_from_source(self, latents: torch.Tensor) -> torch.Tensor:
        """As ``apply``, but only where the mask is zero; its soft border stays as it is."""
        if self.mask is None:
            return latents
        return torch.where(self._mask_for(latents) > 0, latents, self._sources(latents))

    def finish(self, samples: torch.Tensor) -> tuple[list[str], list[str]]:
        """Put the masks at the end, on the CPU, into the record. ``samples``: (B R, C, [F,] H, W), what the run gives.

        Returns:
            Sentences for whoever made the run: that an edit cannot be seen, or is not held back; and those that tell
            what was found out of it.
        """
        if self.mask is None:
            self.blend.record.fail(NOTHING_SEEN)
            return [], []
        masks = self.mask.squeeze(1).unflatten(0, (self._pictures, -1))[:, 1:].cpu()
        placed = torch.ones(masks.shape[:2], dtype=torch.bool) if self._placed is None else self._placed.cpu()
        unusual, found = [], []
        for target in self.blend.edits:
            for seed, mask in enumerate(masks[:, target]):
                which = f"edit {target + 1} of image {seed + 1}"
                if not mask.any():
                    unusual.append(f"the blend's mask of {which} is empty, so the edit is the source.")
                elif not placed[seed, target] and (mask == 1).all():
                    found.append(f"{which} is of the whole picture, so it is held to no place in it.")
                elif mask.min() > 0 and self.blend.threshold > 0 and self.maps:
                    unusual.append(
                        f"the blend's mask of {which} covers all, so nothing is held back. Raise the threshold of P2P "
                        "Local Blend Mask."
                    )
        self.blend.record.put(BlendMasks(masks), samples)
        return unusual, found

    def _mask_for(self, latents: torch.Tensor) -> torch.Tensor:
        """(B R, 1, [1,] H, W): alike for all channels and frames, at the latents' size, which a sampler may enlarge."""
        assert self.mask is not None, "blending has not begun"
        mask = self.mask.to(latents.device)
        if mask.shape[-2:] != latents.shape[-2:]:
            mask = F.interpolate(mask, latents.shape[-2:], mode="nearest-exact")
        return mask.view(len(mask), *[1] * (latents.ndim - 3), *mask.shape[-2:])

    def _sources(self, latents: torch.Tensor) -> torch.Tensor:
        return latents[:: self.blend.pair.rows].repeat_interleave(self.blend.pair.rows, dim=0)

    def _given_masks(self) -> torch.Tensor | None:
        """(B, E, H, W) from ``blend.mask``."""
        mask, edits = self.blend.mask, len(self.blend.pair.targets)
        if mask is None:
            return None
        mask = F.interpolate(mask[:, None], self._size, mode="bilinear", align_corners=False, antialias=True)[:, 0]
        if len(mask) in (1, edits):
            mask = mask.expand(edits, -1, -1).repeat(self._pictures, 1, 1)
        if len(mask) != self._pictures * edits:
            raise ValueError(
                f"Wanted 1 mask, {edits} (one for each edited prompt) or {self._pictures * edits} (for each of "
                f"{self._pictures} images as well), got {len(mask)}. Connect a batch of that many."
            )
        return mask.unflatten(0, (self._pictures, edits))

    def _word_masks(self, areas: Mapping[Hashable, tuple | None], device: torch.device) -> torch.Tensor | None:
        """(B, E, H, W): where the maps of the included words reach the threshold, without that of the excluded."""
        if not self.maps:
            return None
        means = self.maps[0].mean(device=device)
        if self.blend.spread:  # as soon as there is something to spread by: other nodes may rescale layers at first
            together = self.maps[1].mean(device=device)
            means = {key: self._spread(maps, together.get(key)) for key, maps in means.items()}
        grow = self.blend.grow if self.blend.mask_from == "words" else 0
        pooled = {key: F.max_pool2d(maps, 2 * grow + 1, stride=1, padding=grow) for key, maps in means.items()}
        maps = self._on_the_picture(pooled, areas)
        cell = min(self._cell(each, areas.get(key)) for key, each in means.items())
        flat = _is_flat(self._on_the_picture(means, areas) if grow else maps)  # growing flattens what is not
        masks = torch.zeros(self._pictures, len(self.blend.regions), *self._size, device=device)
        for target, region in enumerate(self.blend.regions):
            if region is not None:
                inside = self._inside(maps, flat, region.included, target, cell)
                if region.excluded:
                    inside &= ~self._union(maps, flat, region.excluded)
                masks[:, target] = inside.float()
        return soften(masks, self.blend.feather)

    @staticmethod
    def _spread(maps: torch.Tensor, together: torch.Tensor | None) -> torch.Tensor:
        """The words' maps, where there is something to spread them by, on its grid: the first of its layers to be seen
        may be of another size."""
        if together is None:
            return maps
        if maps.shape[-2:] != together.shape[-2:]:
            maps = F.interpolate(maps, together.shape[-2:], mode="bilinear", align_corners=False)
        return spread(maps, together)

    def _on_the_picture(
        self, maps: Mapping[Hashable, torch.Tensor], areas: Mapping[Hashable, tuple | None]
    ) -> torch.Tensor:
        """(B, R, K, H, W), of all conditionings together."""
        placed = [place(each, areas.get(key), *self._size) for key, each in maps.items()]
        return sum(placed[1:], placed[0]).unflatten(0, (self._pictures, -1))

    def _cell(self, maps: torch.Tensor, area: tuple[int, int, int, int] | None) -> float:
        """Side of a cell of a conditioning's maps, in latent pixels."""
        height, width = area[:2] if area else self._size
        return min(height / maps.shape[-2], width / maps.shape[-1])

    def _inside(
        self, maps: torch.Tensor, flat: torch.Tensor, columns: Sequence[tuple[int, int]], target: int, cell: float
    ) -> torch.Tensor:
        """(B, H, W): an edit's place, before the excluded words are taken out. ``cell``: of the maps."""
        if self.blend.mask_from == "words" or self._changes is None or self.blend.threshold == 0:  # 0 is everywhere
            return self._union(maps, flat, columns)
        words, says_nothing = (
            torch.stack([each[:, row, column] for row, column in columns], 1) for each in (maps, flat)
        )
        changes = self._changes[:, target].to(maps.device)
        pieces = clear_pieces(evidence(words, says_nothing, changes), self.blend.threshold, cell)
        pieces = widened(pieces, self.blend.grow, cell)
        if self.blend.mask_from != CHANGE_OR_EVERYWHERE:
            return pieces
        if self._placed is None:
            self._placed = torch.zeros(pieces.shape[0], len(self.blend.regions), dtype=torch.bool, device=maps.device)
        self._placed[:, target] |= has_a_place(words, says_nothing, changes)
        return pieces | ~self._placed[:, target, None, None]

    def _union(self, maps: torch.Tensor, flat: torch.Tensor, columns: Sequence[tuple[int, int]]) -> torch.Tensor:
        """(B, H, W): where any of the words' maps, each stretched to 0..1, reaches the threshold.

        A flat map, whose word is in no place more than in another, reaches none but 0.
        """
        chosen = torch.stack([maps[:, row, column] for row, column in columns], dim=1)
        low, high = chosen.amin((-2, -1), keepdim=True), chosen.amax((-2, -1), keepdim=True)
        inside = chosen - low >= self.blend.threshold * (high - low)
        if self.blend.threshold > 0:
            inside &= ~torch.stack([flat[:, row, column] for row, column in columns], dim=1)
        return inside.any(dim=1)


def _is_flat(maps: torch.Tensor) -> torch.Tensor:
    """(..., 1, 1) of maps (..., H, W)."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return high - low <= FLAT * high
