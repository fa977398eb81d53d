"""A picture that looks like a photograph and is far from the demo model's scenes: ray-traced balls on a wooden table.

For trying what happens to pictures unlike those a model was trained on. Takes seconds, so the result is kept:

    python -m tools.still_life      writes demo/still_life.png; needs numpy and Pillow
"""

from pathlib import Path

import numpy as np
from PIL import Image

PICTURE = Path(__file__).resolve().parents[1] / "demo" / "still_life.png"


# centre (x right, y up, z away), radius, colour (linear light), how much of a mirror
BALLS = (
    ((-0.55, 0.62, 3.1), 0.62, (0.80, 0.16, 0.05), 0.10),
    ((0.72, 0.42, 2.6), 0.42, (0.93, 0.66, 0.10), 0.06),
    ((0.30, 0.22, 1.95), 0.22, (0.20, 0.36, 0.10), 0.05),
)
EYE, LIGHT, LIGHT_RADIUS = np.array((0.05, 1.15, -0.9)), np.array((-2.6, 4.2, 0.4)), 0.8
SHADOW_RAYS, SAMPLES, GRAIN = 12, 3, 0.012


def still_life(size=128):
    """The picture, uint8 (size, size, 3)."""
    rng = np.random.default_rng(5)
    total = np.zeros((size, size, 3))
    for i in range(SAMPLES):
        for j in range(SAMPLES):
            total += _trace(size, (i + 0.5) / SAMPLES, (j + 0.5) / SAMPLES, rng)
    light = total / SAMPLES**2
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    light *= (1 - 0.7 * (x**2 + y**2))[..., None]  # the lens is darker towards its edges
    seen = (light / (light + 0.35) * 1.35).clip(0, 1) ** (1 / 2.2)  # film: bright light saturates softly
    return ((seen + rng.normal(0, GRAIN, seen.shape)).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _trace(size, dy, dx, rng):
    row, column = np.mgrid[0:size, 0:size]
    rays = np.stack([(column + dx) / size - 0.5, 0.38 - (row + dy) / size, np.full((size, size), 1.05)], -1)
    rays = _unit(rays.reshape(-1, 3))
    return _shade(np.broadcast_to(EYE, rays.shape), rays, rng, bounces=2).reshape(size, size, 3)


def _shade(origins, rays, rng, bounces):
    distance, ball = _hit(origins, rays)
    floor = np.where(rays[:, 1] < -1e-4, -origins[:, 1] / np.minimum(rays[:, 1], -1e-4), np.inf)
    on_floor = floor < distance
    distance = np.minimum(distance, floor)
    colour = _room(rays)
    seen = np.isfinite(distance)
    points = origins[seen] + rays[seen] * distance[seen, None]
    kinds = np.where(on_floor[seen], -1, ball[seen])
    normals, paint, mirror = np.tile((0.0, 1.0, 0.0), (len(points), 1)), _wood(points), np.full(len(points), 0.04)
    for number, (centre, radius, tint, shine) in enumerate(BALLS):
        mine = kinds == number
        normals[mine] = (points[mine] - centre) / radius
        paint[mine], mirror[mine] = tint, shine
    lit = np.zeros(len(points))
    for _ in range(SHADOW_RAYS):
        to_light = LIGHT + rng.normal(0, LIGHT_RADIUS / 2, (len(points), 3)) - points
        far = np.linalg.norm(to_light, axis=1)
        towards = to_light / far[:, None]
        blocked = _hit(points + 1e-3 * normals, towards)[0] < far
        lit += np.where(blocked, 0, (normals * towards).sum(1).clip(0)) / SHADOW_RAYS
    near = np.ones(len(points))  # corners get less of the room's light
    for centre, radius, *_ in BALLS:
        away = np.asarray(centre) - points
        far = np.linalg.norm(away, axis=1)
        near -= 0.6 * ((normals * away).sum(1) / far).clip(0) * (radius / far.clip(radius)) ** 2
    shaded = paint * (1.5 * lit + 0.32 * near.clip(0.2))[:, None] * (1.0, 0.96, 0.88)
    if bounces:
        facing = -(rays[seen] * normals).sum(1)
        reflected = rays[seen] + 2 * facing[:, None] * normals
        grazing = mirror + (1 - mirror) * 0.5 * (1 - facing.clip(0, 1)) ** 5
        mirrored = _shade(points + 1e-3 * normals, reflected, rng, bounces - 1)
        shaded = shaded * (1 - grazing[:, None]) + mirrored * grazing[:, None]
        half = _unit(_unit(LIGHT - points) - rays[seen])
        shaded += (0.9 * (kinds >= 0) * (lit > 0) * (half * normals).sum(1).clip(0) ** 180)[:, None]
    colour[seen] = shaded
    return colour


def _hit(origins, rays):
    """(distance to the nearest ball, its number)."""
    nearest, number = np.full(len(rays), np.inf), np.full(len(rays), -1)
    for i, (centre, radius, *_) in enumerate(BALLS):
        to = origins - centre
        half = (to * rays).sum(1)
        inside = half**2 - ((to**2).sum(1) - radius**2)
        distance = -half - np.sqrt(inside.clip(0))
        closer = (inside > 0) & (distance > 1e-3) & (distance < nearest)
        nearest[closer], number[closer] = distance[closer], i
    return nearest, number


def _room(rays):
    """A dim wall, brighter towards a window on the left."""
    window = np.exp(-((rays[:, 0] + 0.75) ** 2) / 0.12 - ((rays[:, 1] - 0.35) ** 2) / 0.3)
    return np.array((0.20, 0.22, 0.25)) * (0.55 + 0.5 * rays[:, 1:2].clip(0)) + window[:, None] * (0.9, 0.85, 0.75)


def _wood(points):
    x, z = points[:, 0], points[:, 2]
    board = np.floor(x / 0.55)
    grain = np.sin(38 * (x + 0.03 * np.sin(2.3 * z + 5 * board)) + 3 * np.sin(0.9 * z + board)) * 0.5 + 0.5
    seam = 1 - 0.6 * np.exp(-((((x / 0.55) % 1 - 0.02) / 0.02) ** 2))
    tone = (0.75 + 0.25 * grain) * (0.85 + 0.15 * np.sin(board * 7.1)) * seam
    return np.array((0.36, 0.21, 0.11)) * tone[:, None]


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


if __name__ == "__main__":
    Image.fromarray(still_life()).save(PICTURE)
