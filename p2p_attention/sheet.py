"""Pictures of attention maps: where does each word look (Hertz et al. 2023, Figure 4).

A map becomes a ``heat_map``, or an ``overlay`` of heat on the picture that it belongs to; ``contact_sheet`` sets such
tiles out with their words, one row per prompt. Pictures are float tensors (H, W, 3) in 0..1, on any device; what is
made of them is float32 on the CPU.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

# Evenly spaced points of matplotlib's "inferno" (Smith and van der Walt 2015, CC0): its lightness rises evenly, so it
# keeps its order for colour-blind eyes and in print without colour.
HEAT = torch.tensor(
    [
        (0.000, 0.000, 0.016),
        (0.086, 0.043, 0.224),
        (0.259, 0.039, 0.408),
        (0.416, 0.090, 0.431),
        (0.576, 0.149, 0.404),
        (0.737, 0.216, 0.329),
        (0.867, 0.318, 0.227),
        (0.953, 0.471, 0.098),
        (0.988, 0.647, 0.039),
        (0.965, 0.843, 0.275),
        (0.988, 1.000, 0.643),
    ]
)
LUMA = torch.tensor((0.299, 0.587, 0.114))  # ITU-R BT.601, of gamma-encoded red, green, blue

PAPER, INK, FAINT, EMPTY = "#ffffff", "#1a1a1e", "#9a9aa0", "#f0f0f2"
SMALLEST_TILE, SMALLEST_TEXT = 32, 12  # pixels
TITLE_LINES = 3
# The default font has few characters. Accents come off by Unicode's own decomposition, these have none.
STAND_INS = {"–": "-", "—": "-", "−": "-", "‑": "-", "×": "x", "→": "->", "ß": "ss"}
STAND_INS |= {"æ": "ae", "ø": "o", "ł": "l", "Æ": "AE", "Ø": "O", "Ł": "L"}


@dataclass(frozen=True)
class Tile:
    """A picture (H, W, 3) in 0..1 with a label under it. No picture: an empty place, blank if it has no label either.

    Raises:
        ValueError: the picture is of another shape.
    """

    label: str
    picture: torch.Tensor | None

    def __post_init__(self) -> None:
        if self.picture is not None:
            _check_picture(self.picture)


@dataclass(frozen=True)
class SheetRow:
    """Tiles side by side under a title, such as the prompt they belong to."""

    title: str
    tiles: tuple[Tile, ...]


def heat_map(map: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Colour a map from black (0) over red to pale yellow (1).

    Args:
        map: (h, w) in 0..1; what is outside is clamped, NaN counts as 0.
        height, width: of the picture; the map is resized smoothly.

    Returns:
        (height, width, 3) float32 in 0..1.

    Raises:
        ValueError: the map is not 2-D.
    """
    place = _resized(map, height, width) * (len(HEAT) - 1)
    lower = place.floor().clamp(max=len(HEAT) - 2).long()
    return torch.lerp(HEAT[lower], HEAT[lower + 1], (place - lower)[..., None])


def overlay(map: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
    """The picture in dim grey where the map is low, glowing in the colours of ``heat_map`` where it is high.

    Args:
        map: (h, w) in 0..1; resized to the picture.
        picture: (H, W, 3) in 0..1.

    Returns:
        (H, W, 3) float32 in 0..1.

    Raises:
        ValueError: the map is not 2-D, or the picture not (H, W, 3).
    """
    _check_picture(picture)
    picture = picture.detach().float().cpu().clamp(0.0, 1.0)
    heat = heat_map(map, *picture.shape[:2])
    strength = _resized(map, *picture.shape[:2])[..., None]
    light = (picture @ LUMA)[..., None]
    # Chosen by eye: black pictures keep their shapes where it is cold, and equal heat looks equal in light and shade.
    cold = 0.08 + 0.45 * torch.lerp(light, picture, 0.35)
    hot = 0.2 * light + 0.8 * heat
    return torch.lerp(cold, hot, strength)


def contact_sheet(rows: Sequence[SheetRow], tile: int = 192, per_line: int = 12) -> torch.Tensor:
    """Set labelled pictures out on white paper: tiles across, rows down, each row under its title.

    Args:
        rows: from the top. A title that is wider than the sheet is wrapped, a label wider than its tile shortened.
        tile: pixels of a picture's longer side; pictures are scaled to it and keep their aspect.
        per_line: a row with more tiles than this goes on in further lines.

    Returns:
        (1, H, W, 3) float32 in 0..1.

    Raises:
        ValueError: there are no rows, or the tiles are too small or too few for a line.
    """
    if not rows:
        raise ValueError("Wanted at least one row for the contact sheet, got none. Name at least one word to look at.")
    if tile < SMALLEST_TILE:
        raise ValueError(f"Wanted tiles of {SMALLEST_TILE} pixels or more, got {tile}. Make the tiles larger.")
    if per_line < 1:
        raise ValueError(f"Wanted at least 1 tile per line, got {per_line}. 12 is usual.")
    pictures = [[None if each.picture is None else _scaled(each.picture, tile) for each in row.tiles] for row in rows]
    drawn = [picture for row in pictures for picture in row if picture is not None]
    columns = max([1, *(min(len(row.tiles), per_line) for row in rows)])
    gap = tile // 24 + 2
    page = _Page(
        cell=max([tile // 2, *(picture.width for picture in drawn)]) if drawn else tile,
        empty=drawn[0].size if drawn else (tile, tile),
        per_line=per_line,
        gap=gap,
        label=_Pen(max(tile // 13 + 1, SMALLEST_TEXT)),
        title=_Pen(max(tile // 11, SMALLEST_TEXT + 1)),
    )
    width = columns * (page.cell + gap) - gap
    strips = [page.row(row, images, width) for row, images in zip(rows, pictures, strict=True)]
    margin, between = 2 * gap, 3 * gap
    height = sum(strip.height + between for strip in strips) - between
    sheet = Image.new("RGB", (width + 2 * margin, height + 2 * margin), PAPER)
    top = margin
    for strip in strips:
        sheet.paste(strip, (margin, top))
        top += strip.height + between
    return torch.from_numpy(np.array(sheet)).float()[None] / 255


def atlas(
    rows: Sequence[SheetRow], most: int = 256, per_line: int = 8
) -> tuple[torch.Tensor, list[list[tuple[int, int, int, int]]]]:
    """All pictures of the rows side by side in one, without a word, for the page to cut them out again.

    Args:
        rows: as for ``contact_sheet``; every tile has a picture.
        most: pixels of a picture's longer side; smaller ones stay as they are.
        per_line: pictures before the next line.

    Returns:
        (1, H, W, 3) float32 in 0..1, and for each row its pictures' places in it: (left, top, width, height).

    Raises:
        ValueError: there is no picture.
    """
    pictures = [tile.picture for row in rows for tile in row.tiles if tile.picture is not None]
    images = [_scaled(picture, min(most, max(picture.shape[:2]))) for picture in pictures]
    if not images:
        raise ValueError("Wanted at least one picture, got none. Name at least one word to look at.")
    cell = max(image.width for image in images), max(image.height for image in images)
    lines = -(-len(images) // per_line)
    page = Image.new("RGB", (cell[0] * min(len(images), per_line), cell[1] * lines), PAPER)
    places = []
    for number, image in enumerate(images):
        line, column = divmod(number, per_line)
        places.append((column * cell[0], line * cell[1], *image.size))
        page.paste(image, places[-1][:2])
    remaining = iter(places)
    found = [[next(remaining) for _ in row.tiles] for row in rows]
    return torch.from_numpy(np.array(page)).float()[None] / 255, found


class _Pen:
    """The default font at one size, and text that it can write."""

    def __init__(self, size: int):
        self.font = ImageFont.load_default(size)
        self.line_height = round(1.3 * size)
        self._unknown = self._glyph("\uffff")  # the box that stands for every character the font lacks
        self._known: dict[str, bool] = {}

    def width(self, text: str) -> float:
        return self.font.getlength(text)

    def writable(self, text: str) -> str:
        """On one line, without accents and the like where the font lacks them; the rest of what it lacks is boxes."""
        return "".join(map(self._writable_character, " ".join(text.split())))

    def shortened(self, text: str, width: int) -> str:
        """The text, or as much of its beginning as fits with an ellipsis."""
        if self.width(text) <= width:
            return text

        def cut(length: int) -> str:
            return text[:length].rstrip() + "…"

        return cut(bisect_right(range(1, len(text)), float(width), key=lambda length: self.width(cut(length))))

    def wrapped(self, text: str, width: int) -> list[str]:
        """At most TITLE_LINES lines, the last of them shortened."""
        lines: list[str] = []
        words = text.split()
        while words and len(lines) < TITLE_LINES - 1:
            count = 1
            while count < len(words) and self.width(" ".join(words[: count + 1])) <= width:
                count += 1
            lines.append(self.shortened(" ".join(words[:count]), width))
            words = words[count:]
        return [*lines, self.shortened(" ".join(words), width)] if words else lines

    def _writable_character(self, character: str) -> str:
        if self._knows(character):
            return character
        if unicodedata.category(character) in ("Mn", "Cf"):  # accents and joiners that stand alone
            return ""
        plain = STAND_INS.get(character) or unicodedata.normalize("NFKD", character)
        plain = "".join(each for each in plain if not unicodedata.combining(each))
        return plain if plain and all(map(self._knows, plain)) else character

    def _knows(self, character: str) -> bool:
        if character not in self._known:
            self._known[character] = self._glyph(character) != self._unknown
        return self._known[character]

    def _glyph(self, character: str) -> tuple[tuple[int, int], bytes]:
        mask = self.font.getmask(character)
        return mask.size, bytes(mask)


@dataclass(frozen=True)
class _Page:
    """What all rows of a sheet share; lengths in pixels.

    Args:
        cell: width of a column.
        empty: (width, height) of a place without a picture.
        per_line: tiles before a row goes on in the next line.
        gap: between tiles.
        label, title: what they are written with.
    """

    cell: int
    empty: tuple[int, int]
    per_line: int
    gap: int
    label: _Pen
    title: _Pen

    def row(self, row: SheetRow, pictures: Sequence[Image.Image | None], width: int) -> Image.Image:
        """A title and its lines of tiles."""
        title = self.title.wrapped(self.title.writable(row.title), width)
        tiles = list(zip(row.tiles, pictures, strict=True))
        lines = [self._line(tiles[i : i + self.per_line], width) for i in range(0, len(tiles), self.per_line)]
        top = len(title) * self.title.line_height + (self.gap // 2 if title else 0)
        height = top + sum(line.height + self.gap for line in lines)
        strip = Image.new("RGB", (width, max(height - self.gap if lines else height, 1)), PAPER)
        canvas = ImageDraw.Draw(strip)
        for number, text in enumerate(title):
            canvas.text((0, (number + 0.75) * self.title.line_height), text, INK, self.title.font, anchor="ls")
        for line in lines:
            strip.paste(line, (0, top))
            top += line.height + self.gap
        return strip

    def _line(self, tiles: Sequence[tuple[Tile, Image.Image | None]], width: int) -> Image.Image:
        """Tiles side by side, standing on one line, each with its label below."""
        sizes = [picture.size if picture else self.empty for _, picture in tiles]
        foot = max(height for _, height in sizes)
        strip = Image.new("RGB", (width, foot + self.label.line_height + self.gap // 2), PAPER)
        canvas = ImageDraw.Draw(strip)
        for column, ((tile, picture), (w, h)) in enumerate(zip(tiles, sizes, strict=True)):
            middle = column * (self.cell + self.gap) + self.cell // 2
            left, top = middle - w // 2, foot - h
            if picture:
                strip.paste(picture, (left, top))
            elif tile.label:
                canvas.rectangle((left, top, left + w - 1, foot - 1), EMPTY)
            label = self.label.shortened(self.label.writable(tile.label), self.cell)
            baseline = foot + self.gap // 2 + 0.75 * self.label.line_height
            canvas.text((middle, baseline), label, INK if picture else FAINT, self.label.font, anchor="ms")
        return strip


def _check_picture(picture: torch.Tensor) -> None:
    if picture.ndim != 3 or picture.shape[-1] != 3 or not picture.numel():
        raise ValueError(
            f"Wanted a picture (height, width, 3), got {tuple(picture.shape)}. Take one picture of the batch, as RGB."
        )


def _resized(map: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(h, w) -> (height, width), float32 in 0..1 on the CPU."""
    if map.ndim != 2 or not map.numel():
        raise ValueError(f"Wanted a map (height, width), got {tuple(map.shape)}. Take one word's map of one picture.")
    map = map.detach().float().cpu().nan_to_num(nan=0.0).clamp(0.0, 1.0)
    resized = F.interpolate(map[None, None], (height, width), mode="bilinear", align_corners=False, antialias=True)
    return resized[0, 0].clamp(0.0, 1.0)  # rounding may leave the range


def _scaled(picture: torch.Tensor, side: int) -> Image.Image:
    """A picture (H, W, 3) with its longer side at ``side`` pixels."""
    values = picture.detach().float().cpu().nan_to_num(nan=0.0).clamp(0.0, 1.0)
    image = Image.fromarray((values * 255).round().byte().numpy())
    scale = side / max(image.size)
    width, height = (max(round(length * scale), 1) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)
