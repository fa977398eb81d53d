"""Pictures that the demo model did not make, with captions of its grammar."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .scenes import caption, render, sample_scene

PICTURES = ("scene", "still life")
PHOTOGRAPH = Path(__file__).parent / "still_life.png"
LAST_SEED = 2**31 - 1
FIRST_SEED = 4_000_000  # training took the seeds from 0 on
STILL_LIFE = "a ball in orange and a ball in yellow on the sand"  # the nearest that the demo model's words come to it


def demo_picture(kind, seed):
    """An IMAGE, float32 (1, 128, 128, 3) in 0..1, and its caption.

    Args:
        kind: "scene", rendered from ``seed``, or "still life", the one ray-traced picture.
        seed: which scene.

    Raises:
        ValueError: another kind, or a seed below 0.
    """
    if kind not in PICTURES or not 0 <= seed <= LAST_SEED:
        raise ValueError(
            f"wanted a picture of {', '.join(PICTURES)} and a seed from 0 to {LAST_SEED}, got {kind!r} and "
            f"{seed}. Set them so."
        )
    if kind == "still life":
        picture, text = np.asarray(Image.open(PHOTOGRAPH).convert("RGB")), STILL_LIFE
    else:
        scene = sample_scene(FIRST_SEED + seed)
        picture, text = render(scene), caption(scene.description)
    return torch.from_numpy(picture.astype(np.float32) / 255)[None], text
