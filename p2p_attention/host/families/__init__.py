"""The families of models that can be edited: one file each, named here."""

from __future__ import annotations

from typing import Any

from .cross import Cross
from .family import Family
from .joint import Joint
from .unet import UNet

FAMILIES: list[Family] = [UNet(), Joint(), Cross()]


def family_of(model: Any) -> Family:
    """The family of a model (the host's ModelPatcher).

    Raises:
        ValueError: it is of none.
    """
    for family in FAMILIES:
        if family.takes(model):
            return family
    raise ValueError(
        f"Wanted a model whose attention can be edited, got the model kind {type(model.model).__name__}. {_supported()}"
    )


def reader_of(clip: Any) -> Family:
    """The family whose texts a text encoder (the host's CLIP) reads.

    Raises:
        ValueError: there is none.
    """
    for family in FAMILIES:
        if family.reads(clip):
            return family
    raise ValueError(
        "Wanted the text encoder of a model whose attention can be edited, got one with the parts "
        f"{', '.join(sorted(clip.tokenize('')))}. {_supported()}"
    )


def _supported() -> str:
    return f"Supported are {'; '.join(family.supported for family in FAMILIES)}."
