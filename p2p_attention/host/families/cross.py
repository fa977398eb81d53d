"""Transformers with self- and cross-attention, hooked after the projections: Cosmos-Predict2, Wan.

The paper as it is: the cross window gates the text's columns, the self window the whole of self-attention. Several
frames are edited as one picture of many tokens; word maps are those of single pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...joint_attention import TokenLayout
from ...text_places import TextPlaces
from .transformer import Architecture, TextCall, Transformer, width_of


def _blocks(module: Any) -> list[tuple[str, int]]:
    return [("block", i) for i in range(len(module.blocks))]


def _middle(module: Any) -> Sequence[int]:
    count = len(module.blocks)
    return range(count // 3, max(count // 3 + 1, 2 * count // 3))


def _architecture(name: str, takes_text: str, patch: Callable[[Any], int]) -> Architecture:
    return Architecture(
        name=name,
        width=width_of(takes_text),
        patch=patch,
        blocks=_blocks,
        map_blocks=_middle,
        places=lambda module, positions: TextPlaces(positions),
    )


class Cross(Transformer):
    """The family, see ``Family``."""

    supported = "Cosmos-Predict2 and Wan"
    encoders = frozenset({"CosmosT5Tokenizer", "WanT5Tokenizer"})
    architectures = {
        "cosmos.predict2.MiniTrainDIT": _architecture(
            "Cosmos-Predict2", "blocks.0.cross_attn.k_proj", lambda module: module.patch_spatial
        ),
        "wan.model.WanModel": _architecture("Wan", "text_embedding.0", lambda module: module.patch_size[-1]),
    }
    telling = "cross"

    def sort(self, state: TextCall, queries: int, keys: int) -> tuple[str, TokenLayout] | None:
        """Keys are as many as queries or as text positions; where that is one number, the two kinds take turns."""
        if keys == state.places.length and (queries != keys or state.seen.get("self", 0) > state.seen.get("cross", 0)):
            return "cross", TokenLayout.cross(queries, keys)
        return ("self", TokenLayout.image_only(queries)) if queries == keys else None
