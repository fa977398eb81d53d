"""The little world the demo model is trained on: captions, scenes, and a renderer.

A **Description** is what the words say; a **Layout** is what they do not say (places, sizes, horizon, where the
clouds are). A **Scene** is both, and ``render`` turns it into a picture. Because the two are separate, the
*counterfactual picture* of an edited caption is simply ``Scene(parse_caption(edited), scene.layout)``: the same
layout, re-rendered for the new words.

Grammar (``[]`` optional, ``|`` or)::

    caption := ["a picture of"] thing ["and" thing] [place] [light] [weather] [style]     (place and light may swap)
    thing   := "a"|"an" SHAPE ["in" COLOUR] ["with" TEXTURE]
    place   := "on the" (grass|snow|sand|sea|street) | "in the forest"
    light   := "at night" | "at sunset"
    weather := "in the fog"
    style   := "as a drawing"

An attribute always stands *after* its noun: in a causal text model a word sees only the words before it, so the
colour can bind to its noun, but cannot leak into the noun's token. A missing word means a plain default (an
unpainted grey thing, a studio backdrop, daylight), never a random value: that is what a faded word fades *to*.

``render(scene, amounts=...)`` draws every word at a chosen strength ``c`` (1 = as written, 0 = as if the word were
missing, 2 = twice as much, negative = the opposite). Training pairs it with attention columns scaled by ``c``.

Needs numpy and Pillow. Coordinates: x to the right, y down, both as fractions of the picture's side.
"""

import random
import re
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageChops, ImageDraw

GRAMMAR_VERSION = "1"

COLOURS = {
    "red": (222, 52, 48),
    "orange": (246, 138, 34),
    "yellow": (250, 210, 50),
    "green": (52, 168, 74),
    "blue": (44, 104, 226),
    "purple": (138, 66, 190),
    "pink": (248, 136, 184),
    "brown": (134, 84, 46),
    "white": (250, 250, 250),
    "black": (42, 42, 50),
}
TEXTURES = ("stripes", "dots")
PLACES = {
    "grass": "on the grass",
    "snow": "on the snow",
    "sand": "on the sand",
    "sea": "on the sea",
    "street": "on the street",
    "forest": "in the forest",
}
LIGHTS = {"night": "at night", "sunset": "at sunset"}
WEATHERS = {"fog": "in the fog"}
STYLES = {"drawing": "as a drawing"}
UNPAINTED = (182, 176, 166)


# ---------------------------------------------------------------------------------------------- what the words say


@dataclass(frozen=True)
class Thing:
    """One object as the caption names it. ``None`` = not said: unpainted, without a pattern."""

    shape: str
    colour: str | None = None
    texture: str | None = None


@dataclass(frozen=True)
class Description:
    """Everything a caption says. ``None`` = not said: studio backdrop, daylight, clear air, painted picture."""

    things: tuple[Thing, ...]
    place: str | None = None
    light: str | None = None
    weather: str | None = None
    style: str | None = None


def caption(described, prefix=False, light_first=False):
    """The caption of a Scene or Description.

    Args:
        prefix: begin with "a picture of".
        light_first: name the light before the place.
    """
    return " ".join(word for word, _ in caption_words(described, prefix, light_first))


def caption_words(described, prefix=False, light_first=False):
    """The caption word by word as (word, slot); ``slot`` (see :func:`slots`) is None for "a", "in", "with", ..."""
    description = described.description if isinstance(described, Scene) else described
    words = [(word, None) for word in ("a", "picture", "of")] if prefix else []
    for i, thing in enumerate(description.things):
        words += [("and", None)] if i else []
        words += [("an" if thing.shape[0] in "aeiou" else "a", None), (thing.shape, f"shape{i}")]
        words += [("in", None), (thing.colour, f"colour{i}")] if thing.colour else []
        words += [("with", None), (thing.texture, f"texture{i}")] if thing.texture else []
    phrases = [("place", PLACES), ("light", LIGHTS), ("weather", WEATHERS), ("style", STYLES)]
    if light_first:
        phrases[0], phrases[1] = phrases[1], phrases[0]
    for slot, phrase in phrases:
        said = getattr(description, slot)
        if said:
            *function_words, content = phrase[said].split()
            words += [(word, None) for word in function_words] + [(content, slot)]
    return words


def parse_caption(text):
    """The Description that ``text`` says; the inverse of :func:`caption`.

    Raises:
        ValueError: the text is not of this grammar; the message lists what is understood.
    """
    rest = re.sub(r"[\s,.]+", " ", text.lower()).strip()
    rest = rest.removeprefix("a picture of ")

    def take(pattern):
        nonlocal rest
        found = re.match(rf"(?:{pattern})(?= |$)", rest)
        if found:
            rest = rest[found.end() :].lstrip()
        return found

    def take_phrase(phrases):
        return next((name for name, phrase in phrases.items() if take(phrase)), None)

    thing = (
        rf"an? (?P<shape>{'|'.join(SHAPES)})(?: in (?P<colour>{'|'.join(COLOURS)}))?"
        rf"(?: with (?P<texture>{'|'.join(TEXTURES)}))?"
    )
    things = []
    while len(things) < 2 and (not things or take("and")):
        found = take(thing)
        if not found:
            raise ValueError(_not_understood(text, rest))
        things.append(Thing(found["shape"], found["colour"], found["texture"]))
    light = take_phrase(LIGHTS)
    place = take_phrase(PLACES)
    light = light or take_phrase(LIGHTS)
    weather = take_phrase(WEATHERS)
    style = take_phrase(STYLES)
    if rest:
        raise ValueError(_not_understood(text, rest))
    return Description(tuple(things), place, light, weather, style)


def _not_understood(text, rest):
    return (
        f"wanted a caption like 'a house in blue with stripes and a star in yellow on the snow at night', got "
        f"{text!r}, not understood from {rest!r} on. One or two things, each 'a SHAPE [in COLOUR] [with TEXTURE]', "
        f"then place, light, weather, style. Shapes: {', '.join(SHAPES)}. Colours: {', '.join(COLOURS)}. "
        f"Textures: {', '.join(TEXTURES)}. Places: {', '.join(PLACES.values())}. Light: "
        f"{', '.join(LIGHTS.values())}. Weather: {', '.join(WEATHERS.values())}. "
        f"Style: {', '.join(STYLES.values())}."
    )


# ------------------------------------------------------------------------------------------- what they do not say


@dataclass(frozen=True)
class Spot:
    """Where a thing stands: ``x`` of its middle, ``y`` of its foot, ``size`` = width and height."""

    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Layout:
    """Two spots (a scene of one thing leaves one free, for a thing that an edit adds), horizon, and detail seed."""

    spots: tuple[Spot, Spot]
    horizon: float
    seed: int


@dataclass(frozen=True)
class Scene:
    """A picture to be: ``description`` says what, ``layout`` where; thing i stands on ``layout.spots[stands[i]]``."""

    description: Description
    layout: Layout
    stands: tuple[int, ...]


def sample_scene(seed):
    """A random Scene; the same seed gives the same scene on every machine."""
    rng = random.Random(seed)
    maybe = lambda probability, choices: rng.choice(list(choices)) if rng.random() < probability else None
    shapes = rng.sample(list(SHAPES), 2 if rng.random() < 0.5 else 1)
    things = tuple(Thing(shape, maybe(0.85, COLOURS), maybe(0.4, TEXTURES)) for shape in shapes)
    if len(things) == 2 and things[0].colour == things[1].colour:
        things = (things[0], replace(things[1], colour=rng.choice([c for c in COLOURS if c != things[0].colour])))
    description = Description(things, maybe(0.9, PLACES), maybe(0.5, LIGHTS), maybe(0.08, WEATHERS), maybe(0.1, STYLES))
    layout = sample_layout(rng)
    return Scene(description, layout, (0, 1)[: len(things)])


def sample_layout(rng):
    """Two spots side by side; in half of the layouts the first is large and near the middle, the second is small."""
    horizon = rng.uniform(0.50, 0.60)
    if rng.random() < 0.5:
        first = Spot(rng.uniform(0.36, 0.64), rng.uniform(0.84, 0.92), rng.uniform(0.46, 0.56))
        side = 1 if first.x < 0.5 else -1
        size = rng.uniform(0.26, 0.30)
        second = Spot(min(max(first.x + side * (first.size + size) * 0.55, 0.14), 0.86), rng.uniform(0.78, 0.93), size)
    else:
        first = Spot(rng.uniform(0.22, 0.30), rng.uniform(0.78, 0.92), rng.uniform(0.34, 0.43))
        second = Spot(rng.uniform(0.70, 0.78), rng.uniform(0.78, 0.92), rng.uniform(0.34, 0.43))
        if rng.random() < 0.5:
            first, second = second, first
    return Layout((first, second), horizon, rng.randrange(1 << 30))


def counterfactual(scene, target_caption):
    """The same layout for an edited caption: swapped, added and removed things, attributes and settings.

    A thing keeps its spot when it keeps its shape; otherwise things are matched in the order of the captions (a
    swap); a new thing gets the free spot.

    Raises:
        ValueError: ``target_caption`` is not of the grammar.
    """
    target = parse_caption(target_caption)
    unmatched = dict(zip(scene.stands, scene.description.things))  # spot -> source thing
    stands = {}  # target thing -> spot
    same_shape, any_shape = (lambda a, b: a.shape == b.shape), (lambda a, b: True)
    for alike in (same_shape, any_shape):
        for i, thing in enumerate(target.things):
            spot = next((spot for spot, source in unmatched.items() if alike(thing, source)), None)
            if i not in stands and spot is not None:
                stands[i] = spot
                del unmatched[spot]
    free = [spot for spot in (0, 1) if spot not in stands.values()]
    return Scene(
        target, scene.layout, tuple(stands[i] if i in stands else free.pop(0) for i in range(len(target.things)))
    )


# ------------------------------------------------------------------------------------------------ words as faders


def slots(described):
    """The words of a scene that ``render`` can fade, e.g. ``{"shape0": "house", "light": "night"}``."""
    return {slot: word for word, slot in caption_words(described) if slot}


# -------------------------------------------------------------------------------------------------------- shapes
# A shape is a list of parts (tone, polygon) in a box of [-1, 1] x [-1, 1], foot at y = 1, painted back to front.
# Tones: "body" takes the colour and the texture; "dark" and "light" are shades of the colour; "lamp" glows at
# night; a tuple is a fixed colour.

WOOD, INK, PAPER, LAMP = (122, 82, 50), (50, 48, 56), (250, 248, 240), (255, 226, 130)


def _ellipse(cx, cy, rx, ry=None, start=0, stop=360, n=48):
    angles = np.radians(np.linspace(start, stop, n))
    return [(cx + rx * np.cos(a), cy + (ry or rx) * np.sin(a)) for a in angles]


def _star(cx, cy, outer, inner, n=5):
    radii = [outer, inner] * n
    return [(cx + r * np.sin(np.pi * i / n), cy - r * np.cos(np.pi * i / n)) for i, r in enumerate(radii)]


def _box(x0, y0, x1, y1):
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _heart():
    t = np.linspace(0, 2 * np.pi, 60)
    x, y = 16 * np.sin(t) ** 3, 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [(a / 17, (3 - b) / 15.3 + 0.02) for a, b in zip(x, y)]


def _moon():
    return _ellipse(0.1, 0, 1, start=55, stop=305) + _ellipse(0.45, 0, 0.84, start=286, stop=74)


def _petals(n, radius, ring):
    return [
        ("body", _ellipse(ring * np.cos(a), -0.36 + ring * np.sin(a), radius))
        for a in 2 * np.pi * (np.arange(n) + 0.5) / n
    ]


SHAPES = {
    "ball": lambda: [("body", _ellipse(0, 0.1, 0.9)), ("light", _ellipse(-0.36, -0.3, 0.2, 0.15))],
    "box": lambda: [
        ("body", _box(-0.9, -0.45, 0.9, 1)),
        ("dark", _box(-0.98, -0.72, 0.98, -0.36)),
        ("light", _box(-0.16, -0.72, 0.16, 1)),
        ("light", _ellipse(-0.27, -0.84, 0.26, 0.15)),
        ("light", _ellipse(0.27, -0.84, 0.26, 0.15)),
    ],
    "star": lambda: [("body", _star(0, 0.1, 1.08, 0.47))],
    "heart": lambda: [("body", _heart())],
    "house": lambda: [
        (WOOD, _box(0.38, -0.95, 0.64, -0.3)),
        ("body", _box(-0.76, -0.22, 0.76, 1)),
        ("dark", [(-1, -0.16), (0, -1), (1, -0.16)]),
        ("lamp", _box(-0.54, 0.1, -0.1, 0.5)),
        (WOOD, _box(0.14, 0.24, 0.54, 1)),
    ],
    "car": lambda: [
        ("body", [(-0.62, 0.22), (-0.4, -0.4), (0.36, -0.4), (0.66, 0.22)]),
        ((190, 224, 240), [(-0.42, 0.16), (-0.28, -0.22), (-0.04, -0.22), (-0.04, 0.16)]),
        ((190, 224, 240), [(0.08, 0.16), (0.08, -0.22), (0.28, -0.22), (0.44, 0.16)]),
        ("body", [(-1, 0.74), (-1, 0.3), (-0.9, 0.16), (0.82, 0.16), (1, 0.36), (1, 0.74)]),
        ("lamp", _box(0.82, 0.32, 1, 0.5)),
        (INK, _ellipse(-0.52, 0.72, 0.28)),
        (INK, _ellipse(0.52, 0.72, 0.28)),
        (PAPER, _ellipse(-0.52, 0.72, 0.12)),
        (PAPER, _ellipse(0.52, 0.72, 0.12)),
    ],
    "tree": lambda: [
        (WOOD, _box(-0.15, 0.5, 0.15, 1)),
        ("body", [(-0.86, 0.66), (0, -0.2), (0.86, 0.66)]),
        ("body", [(-0.7, 0.2), (0, -0.66), (0.7, 0.2)]),
        ("body", [(-0.5, -0.28), (0, -1), (0.5, -0.28)]),
    ],
    "fish": lambda: [
        ("dark", [(0.4, 0.1), (1, -0.42), (0.84, 0.12), (1, 0.66)]),
        ("dark", [(-0.3, -0.32), (0.1, -0.78), (0.38, -0.2)]),
        ("body", _ellipse(-0.2, 0.12, 0.78, 0.54)),
        (PAPER, _ellipse(-0.6, 0.0, 0.16)),
        (INK, _ellipse(-0.63, 0.0, 0.08)),
    ],
    "boat": lambda: [
        (WOOD, _box(-0.05, -1, 0.06, 0.5)),
        ("body", [(0.1, -0.96), (0.1, 0.34), (0.88, 0.34)]),
        ("light", [(-0.09, -0.7), (-0.09, 0.34), (-0.66, 0.34)]),
        ("dark", [(-1, 0.46), (1, 0.46), (0.64, 1), (-0.64, 1)]),
    ],
    "moon": lambda: [("body", _moon())],
    "flower": lambda: (
        [
            ((74, 150, 66), _box(-0.07, -0.2, 0.07, 1)),
            ((74, 150, 66), _ellipse(0.3, 0.62, 0.28, 0.13)),
            ((74, 150, 66), _ellipse(-0.3, 0.76, 0.28, 0.13)),
        ]
        + _petals(6, 0.29, 0.36)
        + [((252, 214, 84), _ellipse(0, -0.36, 0.24))]
    ),
    "cat": lambda: [
        ("body", [(-0.84, 0.1), (-0.8, -0.94), (-0.16, -0.44)]),
        ("body", [(0.84, 0.1), (0.8, -0.94), (0.16, -0.44)]),
        ("body", _ellipse(0, 0.22, 0.94, 0.78)),
        (PAPER, _ellipse(-0.38, 0.04, 0.2, 0.22)),
        (PAPER, _ellipse(0.38, 0.04, 0.2, 0.22)),
        (INK, _ellipse(-0.35, 0.06, 0.1, 0.17)),
        (INK, _ellipse(0.35, 0.06, 0.1, 0.17)),
        ((244, 140, 150), [(-0.12, 0.36), (0.12, 0.36), (0, 0.52)]),
        (INK, _ellipse(0, 0.56, 0.22, 0.13, 0, 180)),
    ],
    "mushroom": lambda: [
        (PAPER, [(-0.3, 0.1), (0.3, 0.1), (0.4, 1), (-0.4, 1)]),
        ("body", _ellipse(0, 0.16, 1, 1.05, 180, 360)),
    ],
    "umbrella": lambda: [
        (WOOD, _box(-0.06, -0.1, 0.06, 0.86)),
        (WOOD, _box(-0.36, 0.8, 0.06, 0.96)),
        (WOOD, _box(-0.36, 0.66, -0.24, 0.96)),
        (
            "body",
            _ellipse(0, 0.08, 1, 0.98, 180, 360)
            + _ellipse(0.667, 0.08, 0.333, 0.18, 0, -180, 12)
            + _ellipse(0, 0.08, 0.333, 0.18, 0, -180, 12)
            + _ellipse(-0.667, 0.08, 0.333, 0.18, 0, -180, 12),
        ),
        (WOOD, _ellipse(0, -0.92, 0.08)),
    ],
}


# ------------------------------------------------------------------------------------------------------ rendering

OVERSAMPLING = 4


def render(scene, size=128, amounts=None):
    """Paint a scene.

    Args:
        size: side of the picture in pixels.
        amounts: ``{slot: c}`` with the slots of :func:`slots`; how strongly each word is painted (default 1).

    Returns:
        uint8 array (size, size, 3).
    """
    return _paint(scene, size, amounts or {})[0]


def object_masks(scene, size=128, amounts=None):
    """Where each thing really is: float array (things, size, size) in [0, 1]; hidden parts are not counted."""
    return _paint(scene, size, amounts or {})[1]


def _paint(scene, size, amounts):
    description, layout = scene.description, scene.layout
    amount = lambda slot: float(amounts.get(slot, 1.0))
    picture, glow = _backdrop(description, layout, size, amount)
    masks = []
    order = sorted(range(len(description.things)), key=lambda i: layout.spots[scene.stands[i]].y)
    for i in order:
        thing, spot = description.things[i], layout.spots[scene.stands[i]]
        growth = max(amount(f"shape{i}"), 0.0) ** 0.5  # a faded noun shrinks to nothing, a doubled one grows
        if spot.size * growth < 0.02:
            masks.append((i, np.zeros((size, size))))
            continue
        spot = replace(spot, size=min(spot.size * growth, 0.85))
        paint, alpha, lamp, shadow = _thing_layers(thing, spot, size, amount(f"colour{i}"), amount(f"texture{i}"))
        picture = picture * (1 - 0.45 * shadow[..., None])
        picture = picture * (1 - alpha[..., None]) + paint * alpha[..., None]
        glow = np.maximum(glow * (1 - alpha), lamp)
        masks = [(j, mask * (1 - alpha)) for j, mask in masks] + [(i, alpha)]
    if description.style == "drawing":
        picture = _drawing(picture, [mask for _, mask in masks], amount("style"))
    covered = np.clip(sum((mask for _, mask in masks), np.zeros((size, size))), 0, 1)
    picture = _light(picture, glow, covered, description.light, amount("light"), layout)
    if description.weather == "fog":
        picture = _fog(picture, layout, size, amount("weather"))
    masks = np.stack([mask for _, mask in sorted(masks, key=lambda item: item[0])])
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8), masks


def _rgb(colour):
    return np.asarray(colour, dtype=np.float64) / 255


def _shade(colour, tone):
    if tone == "dark":
        return colour * 0.66
    if tone == "light":
        return colour + (1 - colour) * 0.55
    return colour


def _thing_layers(thing, spot, size, colour_amount, texture_amount):
    """One thing as (paint (S,S,3), alpha (S,S), lamp (S,S), shadow (S,S)), anti-aliased by oversampling."""
    unpainted = _rgb(UNPAINTED)
    colour = (
        unpainted
        if thing.colour is None
        else np.clip(unpainted + colour_amount * (_rgb(COLOURS[thing.colour]) - unpainted), 0, 1)
    )
    k = OVERSAMPLING
    side = size * k
    radius = spot.size * side / 2
    left, top = int(spot.x * side - 1.15 * radius), int(spot.y * side - 2.15 * radius)
    extent = int(2.3 * radius) + 2
    left, top = left // k * k, top // k * k  # so that the box is a whole number of pixels
    extent = -(-extent // k) * k
    to_pixels = lambda points: [
        (spot.x * side - left + x * radius, spot.y * side - top + (y - 1) * radius) for x, y in points
    ]
    as_bytes = lambda rgb: tuple(int(v) for v in np.clip(rgb, 0, 1) * 255 + 0.5)
    paint = Image.new("RGB", (extent, extent), as_bytes(colour))
    alpha, lamp = Image.new("L", (extent, extent)), Image.new("L", (extent, extent))
    pens = [ImageDraw.Draw(image) for image in (paint, alpha, lamp)]
    pattern = None
    if thing.texture:
        pattern = _pattern(thing.texture, extent, side)
        bright = colour.mean() > 0.72
        contrast = colour * 0.5 if bright else colour + (1 - colour) * 0.85
        pattern_colour = as_bytes(colour + np.clip(texture_amount, -1, 2.5) * (contrast - colour))
    line = max(int(round(0.011 * side)), 1)
    for tone, polygon in SHAPES[thing.shape]():
        points = to_pixels(polygon)
        fill = _shade(colour, tone) if tone in ("body", "dark", "light") else _rgb(LAMP if tone == "lamp" else tone)
        pens[0].polygon(points, fill=as_bytes(fill))
        if tone == "body" and pattern:
            part = Image.new("L", (extent, extent))
            ImageDraw.Draw(part).polygon(points, fill=255)
            paint.paste(pattern_colour, mask=ImageChops.multiply(part, pattern))
        outline = as_bytes(fill * 0.5)
        pens[0].line(points + points[:2], fill=outline, width=line, joint="curve")
        for pen, value in ((pens[1], 255), (pens[2], 255 if tone == "lamp" else 0)):
            pen.polygon(points, fill=value)
        pens[1].line(points + points[:2], fill=255, width=line, joint="curve")

    shrink = lambda image: np.asarray(image.reduce(k), dtype=np.float64) / 255
    box = (top // k, left // k)
    soft = shrink(paint)
    n = extent // k
    yy, xx = np.mgrid[0:n, 0:n] / n
    sheen = 1.13 - 0.30 * yy + 0.16 * np.exp(-((xx - 0.32) ** 2 + (yy - 0.28) ** 2) / 0.05)  # light from upper left
    soft = soft * sheen[..., None]
    paste = lambda small, shape: _paste(small, shape, box)
    lens = np.clip(1 - _distance(size, spot.x + 0.03, spot.y, spot.size * 0.52, spot.size * 0.11), 0, 1) ** 0.7
    return paste(soft, (size, size, 3)), paste(shrink(alpha), (size, size)), paste(shrink(lamp), (size, size)), lens


def _distance(size, cx, cy, rx, ry):
    """Squared elliptic distance from (cx, cy): 1 on the ellipse with radii rx, ry. Shape (size, size)."""
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size
    return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2


def _paste(small, shape, corner):
    """Put ``small`` at ``corner`` (row, column) of a zero array, cut at the borders."""
    full = np.zeros(shape)
    top, left = corner
    rows = slice(max(top, 0), min(top + small.shape[0], shape[0]))
    columns = slice(max(left, 0), min(left + small.shape[1], shape[1]))
    full[rows, columns] = small[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return full


def _pattern(texture, extent, side):
    """Stripes or dots over a box of ``extent`` pixels; their width is a fraction of the picture, not of the thing."""
    pattern = Image.new("L", (extent, extent))
    pen = ImageDraw.Draw(pattern)
    if texture == "stripes":
        period = 0.088 * side
        for i in range(-int(extent / period) - 2, int(extent / period) + 2):
            x = i * period
            pen.polygon(
                [(x, extent), (x + period * 0.5, extent), (x + period * 0.5 + extent * 0.5, 0), (x + extent * 0.5, 0)],
                fill=255,
            )
    else:
        step, radius = 0.092 * side, 0.031 * side
        for row in range(int(extent / step * 1.2) + 2):
            for column in range(-1, int(extent / step) + 2):
                x, y = (column + 0.5 * (row % 2)) * step, row * step * 0.86
                pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
    return pattern


# Sky (top, bottom) and ground (far, near) of every place, by day.
_GROUNDS = {
    None: ((226, 226, 230), (238, 238, 240), (214, 212, 212), (196, 194, 196)),
    "grass": ((112, 182, 240), (206, 234, 250), (140, 200, 92), (82, 158, 62)),
    "snow": ((158, 200, 234), (222, 236, 246), (236, 242, 250), (250, 252, 255)),
    "sand": ((96, 184, 238), (214, 238, 246), (238, 210, 150), (224, 184, 112)),
    "sea": ((120, 190, 240), (216, 238, 250), (46, 130, 190), (26, 92, 160)),
    "street": ((150, 190, 226), (224, 232, 238), (142, 142, 148), (112, 112, 120)),
    "forest": ((150, 204, 196), (212, 232, 206), (96, 128, 62), (70, 96, 48)),
}


def _backdrop(description, layout, size, amount):
    """Sky, ground and details by day: (picture (S,S,3), glow (S,S)). ``glow`` marks lamps, lit at night."""
    c = amount("place") if description.place else 0.0
    plain, _ = _place(None, layout, size, 1.0)
    if description.place is None:
        return plain, np.zeros((size, size))
    place, glow = _place(description.place, layout, size, c)
    return np.clip(plain + np.clip(c, -1, 1.35) * (place - plain), 0, 1), glow * np.clip(c, 0, 1)


def _place(place, layout, size, c):
    rng = random.Random(layout.seed)
    horizon = layout.horizon - 0.06 * np.clip(c - 1, 0, 2)  # more of a place: its ground climbs
    sky_top, sky_low, far, near = (_rgb(colour) for colour in _GROUNDS[place])
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size
    phase = rng.uniform(0, 6.28)
    ridge = {"snow": 0.035, "grass": 0.03, "sand": 0.02}.get(place, 0.0)
    line = horizon + ridge * np.sin(2 * np.pi * 0.8 * x + phase)
    edge = np.clip((y - line) * size + 0.5, 0, 1)[..., None]
    depth = np.clip((y - line) / (1 - horizon), 0, 1)[..., None]
    sky = sky_top + (sky_low - sky_top) * np.clip(y / horizon, 0, 1)[..., None] ** 1.2
    if place not in (None, "forest"):
        for _ in range(rng.randint(2, 3)):  # clouds
            cx, cy, w = rng.uniform(0.05, 0.95), rng.uniform(0.06, 0.26), rng.uniform(0.08, 0.13)
            puffs = np.minimum.reduce(
                [
                    _distance(size, cx + dx * w, cy + dy * w, w * r, w * r * 0.55)
                    for dx, dy, r in ((0, 0, 1.0), (-0.9, 0.16, 0.65), (0.9, 0.14, 0.7))
                ]
            )
            sky = sky + (1 - sky) * (0.85 * np.clip(2.2 * (1 - puffs), 0, 1))[..., None]
    ground = far + (near - far) * depth
    picture = sky * (1 - edge) + ground * edge
    glow = np.zeros((size, size))
    details = _DETAILS.get(place)
    if details:
        picture, glow = details(picture, rng, size, horizon, phase, max(c, 0.0))
    return picture, glow


def _sprites(size):
    k = OVERSAMPLING
    image = Image.new("L", (size * k, size * k))
    pen = ImageDraw.Draw(image)
    scale = lambda points: [(px * size * k, py * size * k) for px, py in points]
    return image, pen, scale


def _blend(picture, image, colour, strength=1.0):
    mask = np.asarray(image.reduce(OVERSAMPLING), dtype=np.float64)[..., None] / 255 * strength
    return picture * (1 - mask) + _rgb(colour) * mask


def _grass(picture, rng, size, horizon, phase, c):
    for colour in ((60, 132, 48), (172, 220, 112)):
        image, pen, scale = _sprites(size)
        for _ in range(int(16 * min(c, 2.5))):
            px, py = rng.uniform(0, 1), rng.uniform(horizon + 0.08, 1)
            h = 0.03 + 0.04 * (py - horizon)
            pen.polygon(
                scale(
                    [(px - 0.012, py), (px - 0.016, py - h), (px, py - h * 0.4), (px + 0.012, py - h), (px + 0.012, py)]
                ),
                fill=255,
            )
        picture = _blend(picture, image, colour, 0.8)
    return picture, np.zeros((size, size))


def _snow(picture, rng, size, horizon, phase, c):
    image, pen, scale = _sprites(size)
    for side in (0.06, 0.94):  # two snowy firs far off
        px, h = side + rng.uniform(-0.04, 0.04), rng.uniform(0.16, 0.22)
        pen.polygon(
            scale([(px - h * 0.36, horizon + 0.03), (px, horizon - h), (px + h * 0.36, horizon + 0.03)]), fill=255
        )
    picture = _blend(picture, image, (150, 184, 196))
    image, pen, scale = _sprites(size)
    for _ in range(int(26 * min(c, 3))):
        px, py, r = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.006, 0.012)
        pen.ellipse(sum(scale([(px - r, py - r), (px + r, py + r)]), ()), fill=255)
    return _blend(picture, image, (255, 255, 255)), np.zeros((size, size))


def _sand(picture, rng, size, horizon, phase, c):
    image, pen, scale = _sprites(size)
    for i in range(int(4 * min(c, 2.5))):
        py = horizon + 0.08 + (0.92 - horizon) * (i + 0.5) / 4
        px = rng.uniform(-0.1, 0.5)
        points = [(px + t, py + 0.012 * np.sin(9 * t + phase)) for t in np.linspace(0, 0.6, 24)]
        pen.line(scale(points), fill=255, width=int(0.014 * size * OVERSAMPLING), joint="curve")
    picture = _blend(picture, image, (196, 152, 88), 0.75)
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size
    sun = np.clip(3 * (1 - _distance(size, 0.84, 0.13, 0.085, 0.085)), 0, 1)[..., None]
    return picture * (1 - sun) + _rgb((255, 236, 140)) * sun, sun[..., 0]  # by night it shines on as the moon


def _sea(picture, rng, size, horizon, phase, c):
    image, pen, scale = _sprites(size)
    for i in range(int(9 * min(c, 2.5))):
        py = horizon + 0.03 + (0.97 - horizon) * ((i % 9) + rng.random() * 0.6) / 9
        px, w = rng.uniform(0, 0.85), 0.10 + 0.16 * (py - horizon)
        points = [(px + t, py - 0.012 * abs(np.sin(np.pi * 2 * t / w))) for t in np.linspace(0, w, 24)]
        pen.line(scale(points), fill=255, width=int(0.013 * size * OVERSAMPLING), joint="curve")
    return _blend(picture, image, (190, 226, 244), 0.85), np.zeros((size, size))


def _street(picture, rng, size, horizon, phase, c):
    walls, pen, scale = _sprites(size)
    windows, window_pen, _ = _sprites(size)
    px = -0.03
    while px < 1:  # a row of houses along the horizon
        w, h = rng.uniform(0.14, 0.2), rng.uniform(0.16, 0.34) * (0.8 + 0.2 * min(c, 2))
        pen.polygon(scale(_box(px, horizon - h, px + w, horizon)), fill=255)
        rows = int(h / 0.085)
        for row in range(rows):
            for column in (0.24, 0.62):
                wx, wy = px + w * column, horizon - h + 0.03 + row * 0.085
                window_pen.polygon(scale(_box(wx, wy, wx + 0.032, wy + 0.042)), fill=255)
        px += w + 0.014
    picture = _blend(picture, walls, (176, 150, 140))
    picture = _blend(picture, windows, (232, 226, 206))
    lanes, pen, scale = _sprites(size)
    y = (horizon + 1) / 2 + 0.1
    for i in range(5):
        px = 0.24 * i - 0.1 + (phase % 0.2)
        pen.polygon(scale([(px, y), (px + 0.12, y), (px + 0.11, y + 0.028), (px - 0.01, y + 0.028)]), fill=255)
    picture = _blend(picture, lanes, (240, 238, 226))
    kerb, pen, scale = _sprites(size)
    pen.polygon(scale(_box(0, horizon, 1, horizon + 0.035)), fill=255)
    picture = _blend(picture, kerb, (196, 194, 192))
    return picture, np.asarray(windows.reduce(OVERSAMPLING), dtype=np.float64) / 255


def _forest(picture, rng, size, horizon, phase, c):
    for colour, count, low, high in (((104, 158, 120), 8, 0.34, 0.46), ((52, 104, 66), 6, 0.26, 0.4)):
        image, pen, scale = _sprites(size)
        for i in range(int(count * (0.6 + 0.4 * min(c, 2.5)))):
            px, h = (i + rng.random()) / count, rng.uniform(low, high)
            for part in (1.0, 0.7, 0.42):
                w = h * 0.3 * (0.5 + part / 2)
                base = horizon + 0.02 - h * (1 - part) * 0.9
                pen.polygon(scale([(px - w, base), (px, base - h * 0.5), (px + w, base)]), fill=255)
        picture = _blend(picture, image, colour)
    return picture, np.zeros((size, size))


_DETAILS = {"grass": _grass, "snow": _snow, "sand": _sand, "sea": _sea, "street": _street, "forest": _forest}


def _light(picture, glow, covered, light, c, layout):
    """Daylight picture -> the picture by night or sunset, at strength ``c``; lamps glow and stars come out.

    ``covered`` (S, S) is 1 where a thing stands: things keep more light than their surroundings, and no stars.
    """
    if light is None:
        return picture
    size = len(picture)
    y = (np.arange(size) + 0.5)[:, None, None] / size
    covered = covered[..., None]
    above = np.clip((layout.horizon - y) / layout.horizon, 0, 1)  # 1 at the top, 0 at the horizon
    if light == "night":
        tint = np.array([0.30, 0.35, 0.58]) - above * np.array([0.14, 0.14, 0.14])
        tint = tint * (1 - covered) + np.array([0.56, 0.56, 0.74]) * covered
        lit = picture * tint**c
        if c <= 0:
            return lit
        rng = random.Random(layout.seed + 1)
        image, pen, scale = _sprites(size)
        for _ in range(int(18 * min(c, 2.5))):
            px, py, r = rng.uniform(0, 1), rng.uniform(0, layout.horizon * 0.8), rng.uniform(0.007, 0.014)
            pen.polygon(scale(_star(px, py, 1.5 * r, 0.6 * r, 4)), fill=255)
        stars = np.asarray(image.reduce(OVERSAMPLING), dtype=np.float64)[..., None] / 255
        open_sky = np.clip((picture.mean(-1, keepdims=True) - 0.5) * 6, 0, 1) * (1 - covered)
        lit = lit + stars * open_sky * min(c, 1) * np.array([0.85, 0.85, 0.7])
        lamps = (glow * min(c, 1))[..., None]
        return lit * (1 - lamps) + _rgb((255, 214, 110)) * lamps
    tint = np.array([1.04, 0.74, 0.60]) * (1 - covered) + np.array([1.0, 0.80, 0.72]) * covered
    band = np.exp(-(((y - layout.horizon) / 0.28) ** 2)) * (above > 0)  # the burning band over the horizon
    sky = band * np.array([0.30, 0.10, -0.14]) + above * np.array([-0.10, -0.14, 0.06])
    return picture * tint**c + np.clip(c, -1, 2) * sky * (1 - covered)


def _fog(picture, layout, size, c):
    """Mist that is thickest at the horizon."""
    y = (np.arange(size) + 0.5)[:, None, None] / size
    mist = c * (0.42 + 0.26 * np.exp(-(((y - layout.horizon) / 0.22) ** 2)))
    light = np.clip(0.35 + 0.65 * picture.mean(), 0.25, 0.86)
    mist = np.clip(mist, -0.5, 0.97)
    return picture * (1 - mist) + light * np.array([0.97, 0.99, 1.02]) * mist


def _drawing(picture, masks, c):
    """Pastel on paper, with pencil outlines along every edge."""
    paper = _rgb((250, 246, 234))
    grey = picture.mean(-1)
    edges = np.zeros_like(grey)
    edges[1:-1, 1:-1] = np.hypot(grey[1:-1, 2:] - grey[1:-1, :-2], grey[2:, 1:-1] - grey[:-2, 1:-1])
    for mask in masks:
        edges[1:-1, 1:-1] += 0.6 * np.hypot(mask[1:-1, 2:] - mask[1:-1, :-2], mask[2:, 1:-1] - mask[:-2, 1:-1])
    pencil = np.clip(edges * 2.2, 0, 0.85)[..., None]
    drawn = (picture * 0.38 + paper * 0.62) * (1 - pencil) + _rgb((70, 66, 74)) * pencil
    return picture + np.clip(c, -0.6, 1.6) * (drawn - picture)
