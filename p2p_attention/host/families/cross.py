"""Transformers with self- and cross-attention, hooked after the projections: Cosmos-Predict2, Anima, Wan.

The paper as it is: the cross window gates the text's columns, the self window the whole of self-attention. Several
frames are edited as one picture of many tokens; word maps are those of single pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from ...conditionings import PAIR_KEY, T5_IDS, T5_KEY, T5_WEIGHTS, T5Text
from ...joint_attention import TokenLayout
from ...maps import middle_third
from ...text_places import TextPlaces
from .transformer import Architecture, TextCall, Transformer, width_of


def _blocks(module: Any) -> list[tuple[str, int]]:
    return [("block", i) for i in range(len(module.blocks))]


def _middle(module: Any) -> Sequence[int]:
    return middle_third(len(module.blocks))


def _architecture(name: str, encoder: str, takes_text: str, patch: Callable[[Any], int]) -> Architecture:
    return Architecture(
        name=name,
        encoders=frozenset({encoder}),
        width=width_of(takes_text),
        patch=patch,
        blocks=_blocks,
        map_blocks=_middle,
        places=lambda module, positions: TextPlaces(positions),
    )


COSMOS = _architecture(
    "Cosmos-Predict2", "CosmosT5Tokenizer", "blocks.0.cross_attn.k_proj", lambda module: module.patch_spatial
)
ANIMA = replace(  # it makes a row of each T5 token, and fills up with zeros
    COSMOS,
    name="Anima",
    encoders=frozenset({"AnimaTokenizer"}),
    places=lambda module, positions: TextPlaces(positions, least=512),
)


class Cross(Transformer):
    """The family, see ``Family``."""

    supported = "Cosmos-Predict2, Anima and Wan"
    architectures = {
        "cosmos.predict2.MiniTrainDIT": COSMOS,
        "anima.model.Anima": ANIMA,
        "wan.model.WanModel": _architecture(
            "Wan", "WanT5Tokenizer", "text_embedding.0", lambda module: module.patch_size[-1]
        ),
    }
    telling = "cross"

    def finish_texts(self, model: Any, conds: Mapping[str, Sequence[dict]]) -> None:
        """Anima's adapter makes the rows, each from its own text; longer ones than 512 are padded to the longest."""
        for cond in (cond for entries in conds.values() for cond in entries if PAIR_KEY in cond and T5_KEY in cond):
            texts: Sequence[T5Text] = cond.pop(T5_KEY)
            settings = {"device": model.load_device, "dtype": model.model.get_dtype_inference()}
            rows = [
                model.model.diffusion_model.preprocess_text_embeds(
                    context[None, : text.length].to(**settings),
                    text.ids[None].to(model.load_device),
                    t5xxl_weights=text.weights[None, :, None].to(**settings),
                )
                for context, text in zip(cond["cross_attn"], texts, strict=True)
            ]
            longest = max(row.shape[1] for row in rows)
            cond["cross_attn"] = torch.cat([F.pad(row, (0, 0, 0, longest - row.shape[1])) for row in rows])
            del cond[T5_IDS], cond[T5_WEIGHTS]

    def sort(self, state: TextCall, queries: int, keys: int) -> tuple[str, TokenLayout] | None:
        """Keys are as many as queries or as text positions; where that is one number, the two kinds take turns."""
        if keys == state.places.length and (queries != keys or state.seen.get("self", 0) > state.seen.get("cross", 0)):
            return "cross", TokenLayout.cross(queries, keys)
        return ("self", TokenLayout.image_only(queries)) if queries == keys else None
