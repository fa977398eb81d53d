"""What a run has recorded, as pictures and masks: for the nodes after the sampler."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from .checks import require_between, require_one_of
from .maps import MapRequest
from .prompt import PromptPair
from .record import AttentionMaps, BlendMasks, Record
from .rows import row_name
from .sheet import SheetRow, Tile, heat_map, overlay

STYLES = ("overlay", "heat map")
TIMES = ("whole run", "early, middle, late")
PARTS = ("early steps", "middle steps", "late steps")
COMPONENTS = (1, 64)  # least and most
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


def compared(images: torch.Tensor, pair: PromptPair) -> list[dict[str, str]]:
    """What each picture of a seed is, from the source on: its ``name`` and ``prompt``.

    Args:
        images: (B R, H, W, 3), per seed the source and each edit.
        pair: the prompts that they were made from.

    Raises:
        ValueError: there is no edit, or the pictures are not whole pictures of this pair.
    """
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
    prompts = (pair.source, *pair.targets)
    return [{"name": row_name(row), "prompt": prompt.text} for row, prompt in enumerate(prompts)]


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
