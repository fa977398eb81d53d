"""What a run has recorded, as pictures and masks: for the nodes after the sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .align import aligned
from .checks import require_between, require_one_of
from .maps import MapRequest
from .prompt import PromptPair, Word
from .record import AttentionMaps, BlendMasks, Record
from .rows import row_name
from .sheet import SheetRow, Tile, heat_map, overlay

STYLES = ("overlay", "heat map")
TIMES = ("whole run", "early, middle, late")
PARTS = ("early steps", "middle steps", "late steps")
COMPONENTS = (1, 64)  # least and most
MOST_CHANGED = 60  # letters
LARGEST_SHEET = 2**28  # pixels of all its maps at the pictures' size: 1 GB of masks and 3 GB of tiles
PIXELS = 8  # of the picture per latent pixel, where no picture is connected
OUTSIDE = 0.25  # brightness of what a mask leaves out


def show_masks(
    record: Record[BlendMasks], samples: torch.Tensor, images: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The masks of a local blend's last step.

    Args:
        record: of the run.
        samples: (B R, C, H, W), what the run gave.
        images: the decoded pictures (B R, h, w, 3), or None.

    Returns:
        Masks (B E, h, w) in 0..1, seed by seed, and the edited pictures (B E, h, w, 3), dimmed outside; without
        ``images`` the masks in grey.

    Raises:
        ValueError: the record is of another run, or the images are.
    """
    masks = record.take(samples).masks
    height, width = _picture_size(samples, images)
    pictures, edits = masks.shape[:2]
    masks = F.interpolate(masks, (height, width), mode="nearest").flatten(0, 1)
    if images is None:
        return masks, masks[..., None].repeat(1, 1, 1, 3)
    edited = images[..., :3].float().cpu().unflatten(0, (pictures, 1 + edits))[:, 1:].flatten(0, 1)
    return masks, edited * (OUTSIDE + (1.0 - OUTSIDE) * masks[..., None])


def map_rows(
    record: Record[AttentionMaps],
    samples: torch.Tensor,
    images: torch.Tensor | None = None,
    style: str = STYLES[0],
    time: str = TIMES[0],
    seed_number: int = 1,
    components: int = 6,
) -> tuple[list[SheetRow], torch.Tensor]:
    """A run's attention maps as labelled pictures, a row for each prompt and part of the run.

    Hertz et al. 2023, Figure 4.

    Args:
        record: of the run.
        samples: (B R, C, H, W), what the run gave.
        images: the decoded pictures (B R, h, w, 3), or None.
        style: "overlay" on the pictures, where there are any, or "heat map".
        time: "whole run", or "early, middle, late" steps apart.
        seed_number: which of the B images, from 1.
        components: of self-attention, how many.

    Returns:
        The rows, and the maps in them, each stretched to 0..1: (maps, h, w).

    Raises:
        ValueError: the record or the images are of another run, or there is no such image.
    """
    require_one_of("style", style, STYLES)
    require_one_of("time", time, TIMES)
    require_between("components", components, COMPONENTS)
    content = record.take(samples)
    pictures = content.maps.shape[1]
    if not 1 <= seed_number <= pictures:
        raise ValueError(f"Wanted an image of the batch, 1 to {pictures}, got seed_number {seed_number}.")
    size = _picture_size(samples, images)
    maps = content.maps[:, seed_number - 1].float()  # (P, R, K, h, w)
    if time == TIMES[0]:
        shares = torch.tensor(content.shares).view(-1, 1, 1, 1, 1)
        maps = (maps * shares).sum(dim=0, keepdim=True)
    _require_room(maps, content.request, components, size)
    pair, rows, shown = content.request.pair, [], []
    for row, prompt in enumerate((pair.source, *pair.targets)):
        picture = None
        if images is not None:
            picture = images[(seed_number - 1) * pair.rows + row, ..., :3].float().cpu()
        for part, found in enumerate(maps[:, row]):
            when = (
                "" if len(maps) == 1 else f", {PARTS[part]}" if len(maps) == 3 else f", part {part + 1} of {len(maps)}"
            )
            tiles = [Tile("picture", picture)] if picture is not None else []
            for label, each in _named_maps(content, row, found, components):
                each = _stretched(each)
                shown.append(F.interpolate(each[None, None], size, mode="bilinear", align_corners=False)[0, 0])
                over = overlay(each, picture) if picture is not None and style == STYLES[0] else None
                tiles.append(Tile(label, heat_map(each, *size) if over is None else over))
            rows.append(SheetRow(f"{row_name(row)}{when}: {prompt.text}", tuple(tiles)))
    return rows, torch.stack(shown).clamp(0.0, 1.0)


def require_pictures_of(pair: PromptPair, images: torch.Tensor) -> None:
    """Raises ValueError where there is no edit, or these are not whole pictures of the pair, (B R, H, W, 3)."""
    if not pair.targets:
        raise ValueError(
            "Wanted a prompt pair with an edited prompt, got the source alone. Write the edited prompt in the target "
            "of P2P Prompt Pair."
        )
    if len(images) % pair.rows:
        raise ValueError(
            f"Wanted {pair.rows} pictures for each seed (the source and {pair.rows - 1} edited), got {len(images)} in "
            "all. Connect VAE Decode of the sampler whose positive is this pair's conditioning."
        )


def compared(images: torch.Tensor, pair: PromptPair) -> list[dict[str, str]]:
    """What each picture of a seed is, from the source on: its ``name``, ``prompt``, and the words in which it differs.

    Args:
        images: (B R, H, W, 3), per seed the source and each edit.
        pair: the prompts that they were made from.

    Raises:
        ValueError: there is no edit, or the pictures are not whole pictures of this pair.
    """
    require_pictures_of(pair, images)
    prompts = (pair.source, *pair.targets)
    changes = ("", *(changed_words(pair, target) for target in range(len(pair.targets))))
    return [
        {"name": row_name(row), "prompt": prompt.text, "changed": changed}
        for row, (prompt, changed) in enumerate(zip(prompts, changes, strict=True))
    ]


def comparison(
    images: torch.Tensor, pair: PromptPair | None = None, edited: torch.Tensor | None = None
) -> tuple[list[dict[str, str]], torch.Tensor, list[float]]:
    """Pictures to lay over each other.

    Args:
        images: (B R, H, W, 3), per seed the source and each edit; without a pair the first is the source of all others.
        pair: the prompts that they were made from; or None.
        edited: (B, H', W', 3), edits, in which case ``images`` are their sources, B or one for all; or None.

    Returns:
        What each picture of a seed is (see ``compared``), all pictures seed by seed (B R, H, W, 3), and for each where
        across it, 0 to 1, it differs from its source.

    Raises:
        ValueError: the pictures do not fit together.
    """
    if edited is not None:
        if pair is not None:
            raise ValueError(
                "Wanted a pair or edited pictures, got both. With a pair, images hold the source and its edits: remove "
                "the link to edited, or that to pair."
            )
        if len(images) not in (1, len(edited)):
            raise ValueError(
                f"Wanted a source for each of the {len(edited)} edited pictures, or one for all, got {len(images)}. "
                "Connect as many images as edited ones."
            )
        images, edited = images[..., :3], edited[..., :3].to(images)
        if edited.shape[1:3] != images.shape[1:3]:
            size = (images.shape[1], images.shape[2])
            edited = F.interpolate(edited.movedim(-1, 1), size, mode="bilinear", antialias=True).movedim(1, -1)
        images = torch.stack([images.expand_as(edited), edited], 1).flatten(0, 1)
        rows = [{"name": name, "prompt": "", "changed": ""} for name in ("source", "edit")]
    elif pair is not None:
        rows = compared(images, pair)
    else:
        if len(images) < 2:
            raise ValueError("Wanted two pictures to compare, got one. Connect a pair, edited pictures, or a batch.")
        names = ["source", *(f"picture {number}" for number in range(2, len(images) + 1))]
        rows = [{"name": name, "prompt": "", "changed": ""} for name in names]
    return rows, images, _where_changed(images, len(rows))


def apart(images: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B R, H, W, 3), seed by seed -> sources (B, H, W, 3) and edits (B (R - 1), H, W, 3)."""
    by_seed = images.unflatten(0, (-1, rows))
    return by_seed[:, 0], by_seed[:, 1:].flatten(0, 1)


def changed_words(pair: PromptPair, target: int) -> str:
    """In what an edit differs from the source, in short: ``cat → dog, + at night, − hat``."""

    def said(words: Sequence[Word]) -> str:
        return " ".join(word.text for word in words)

    parts = []
    for span in aligned(pair, target).spans:
        if span.kind == "swapped":
            parts.append(f"{said(span.source)} → {said(span.target)}")
        elif span.kind != "shared":
            parts.append(f"+ {said(span.target)}" if span.target else f"− {said(span.source)}")
    text = ", ".join(parts)
    return text if len(text) <= MOST_CHANGED else f"{text[:MOST_CHANGED]}…"


def _where_changed(images: torch.Tensor, rows: int) -> list[float]:
    """The middle of each picture's differences from its source, across; 0.5 where there are none."""
    pictures = images[..., :3].float().unflatten(0, (-1, rows))
    change = (pictures - pictures[:, :1]).square().sum(dim=(2, 4))  # (B, R, W)
    across = (torch.arange(change.shape[-1]) + 0.5) / change.shape[-1]
    total = change.sum(-1)
    middle = (change * across.to(change)).sum(-1) / total.clamp_min(1e-12)
    return torch.where(total > 1e-6, middle, torch.full_like(middle, 0.5)).flatten().tolist()


def _require_room(maps: torch.Tensor, request: MapRequest, components: int, size: tuple[int, int]) -> None:
    """``maps``: (P, R, K, h, w)."""
    parts, rows, columns = maps.shape[:3]
    count = parts * rows * (columns if request.attention == "cross" else min(components, columns))
    room = LARGEST_SHEET // math.prod(size)
    if count > room:
        raise ValueError(
            f"Wanted at most {room} maps of {size[0]} x {size[1]} pixels on a sheet, got {count}. Name fewer words in "
            f"P2P Record Attention, set time to {TIMES[0]}, or leave images empty."
        )


def _named_maps(
    content: AttentionMaps, row: int, maps: torch.Tensor, components: int
) -> list[tuple[str, torch.Tensor]]:
    """(label, (h, w)) of a prompt's words, or of the main components of its self-attention."""
    if content.request.attention == "cross":
        return [(word.label, maps[column]) for column, word in enumerate(content.request.words[row])]
    keys = maps.flatten(1).T  # (Q, K): where each place looks
    _, strength, patterns = torch.linalg.svd(keys - keys.mean(dim=1, keepdim=True), full_matrices=False)
    share = strength.square() / strength.square().sum()
    peaks = patterns.gather(1, patterns.abs().argmax(dim=1, keepdim=True))
    patterns = (patterns * peaks.sign()).unflatten(1, maps.shape[-2:])  # a component's sign means nothing
    return [(f"{i + 1}: {share[i]:.0%}", patterns[i]) for i in range(min(components, len(patterns)))]


def _stretched(map: torch.Tensor) -> torch.Tensor:
    """A map from its least to its most as 0 to 1; all 0 where it is even."""
    low, high = map.min(), map.max()
    return (map - low) / (high - low) if high > low else torch.zeros_like(map)


def _picture_size(samples: torch.Tensor, images: torch.Tensor | None) -> tuple[int, int]:
    if images is None:
        return samples.shape[-2] * PIXELS, samples.shape[-1] * PIXELS
    if len(images) != len(samples):
        raise ValueError(
            f"Wanted the {len(samples)} pictures of this latent, source and edits, got {len(images)}. Connect VAE "
            "Decode of the same latent."
        )
    return images.shape[1], images.shape[2]
