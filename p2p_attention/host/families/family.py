"""What the pack asks of a family of models. One file for each family; ``families/__init__.py`` lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ...attention import Way
from ...invert import Variance
from ...prompt import Prompt, PromptPair
from ...strength import Strengths
from ..attention_calls import AttentionCalls

Grid = tuple[int, int]  # (h, w) of image tokens


@dataclass(frozen=True)
class Layer:
    """One attention layer.

    Args:
        level: index into the family's ``grids``.
        maps: which maps ("cross", "self") are taken from it where its level is chosen, unless the user chooses layers.
    """

    level: int
    maps: frozenset[str]


class Family(Protocol):
    """Models that are edited in the same way.

    Attributes:
        supported: which models these are, for the sentence that refuses others.
        pads_texts: how the contexts of a pair's prompts get one length. False: shorter ones are repeated, up to the
            common multiple, which leaves attention to the text alone as it is. True: they are padded to the longest,
            and the family keeps attention off the padding.
        overwrites: whether the models write in place over what a gradient through them needs.
        strengths: which windows P2P Edit takes for a strength.
        ways: the ways of injection that an edit may name.
    """

    supported: str
    pads_texts: bool
    overwrites: bool
    strengths: Strengths
    ways: tuple[Way, ...]

    def reads(self, clip: Any) -> bool:
        """Whether the text encoder is one of this family's."""

    def read(self, clip: Any, text: str) -> Prompt:
        """The text's words, and where they stand in the conditioning.

        Raises:
            ValueError: the text encoder cannot read the text.
        """

    def takes(self, model: Any) -> bool:
        """Whether the model (the host's ModelPatcher) is of this family, editable or not."""

    def require(self, model: Any, pair: PromptPair | None) -> None:
        """Raises ValueError where the model cannot be edited after all, or the pair is another text encoder's."""

    def require_loaded(self, diffusion_model: torch.nn.Module) -> None:
        """As ``require``, of the model as it was loaded for the run: other packs put layers in then."""

    def finish_texts(self, model: Any, conds: Mapping[str, Sequence[dict]]) -> None:
        """What the model itself makes of a pair's rows before a run: each row as its own run would have it.

        Args:
            model: the host's ModelPatcher, loaded.
            conds: the run's own; contexts are put in place of what they are made of.
        """

    def layers(self, model: Any) -> Mapping[Any, Layer]:
        """The attention layers of which maps can be taken, by the name that the family's hook gives them."""

    def grids(self, model: Any, size: tuple[int, int]) -> list[Grid]:
        """The image tokens of each level, finest first, for a latent of (H, W)."""

    def injects(self, grid: Grid, size: tuple[int, int]) -> bool:
        """Whether layers of these image tokens take part in self-attention injection, for a latent of (H, W)."""

    def variance(self, model: Any) -> Variance:
        """Of the model's latents at a noise level, for inversion.

        Raises:
            ValueError: pictures cannot be inverted with this model.
        """

    def embeds_guidance(self, model: Any) -> bool:
        """Whether the model was made to take its guidance as a number on the conditioning (FluxGuidance), at cfg 1."""

    def install(self, model: Any, model_options: dict, calls: AttentionCalls) -> None:
        """Hook ``calls`` into the attention of one run, whose own ``model_options`` these are.

        The hooks may be called by several threads at once, each with a copy of the model on its own card: layers are
        those of the model that is called (``ModelCall.model``), and what a call knows goes along in its options.
        """
