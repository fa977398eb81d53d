"""How alike two words are to a text encoder: by its own token embeddings, the vectors that it reads words as.

To a trained encoder ``cat`` and ``dog`` are near each other, ``cat`` and ``painting`` are not; so it knows better than
any rule which word of an edited prompt stands in place of ``cat``. What it says counts only where it is far from what
chance gives among the words of its vocabulary: untrained embeddings decide nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch

from .prompt import Prompt, Word

SAMPLE = 512  # words of the vocabulary that chance is taken from
DIGITS = 1  # that are kept, so that the encoder's precision and device do not matter


class WordLikeness:
    """Likeness of the words of some prompts; 0 for what is not known of them.

    In units of how much two words of the vocabulary that have nothing to do with each other differ. It holds a vector
    for each word and not the encoder.

    Args:
        weight: (vocabulary, width) the encoder's token embeddings, on any device and in any precision.
        prompts: whose words are compared.
    """

    def __init__(self, weight: torch.Tensor, prompts: Iterable[Prompt]):
        words = set(filter(None, (_vocabulary_ids(word) for prompt in prompts for word in prompt.words)))
        sample = _rows(weight, range(0, len(weight), max(1, len(weight) // SAMPLE)))
        centre = sample.mean(dim=0)
        sample = torch.nn.functional.normalize(sample - centre, dim=1)
        chance = (sample @ sample.T).masked_select(torch.eye(len(sample), dtype=torch.bool).logical_not())
        self._mean, self._unit = float(chance.mean()), max(float(chance.std()), 1e-3)
        self._vectors = {ids: _direction(_rows(weight, ids) - centre) for ids in sorted(words)}

    def __call__(self, a: Word, b: Word) -> float:
        vectors = [self._vectors.get(_vocabulary_ids(word)) for word in (a, b)]
        if vectors[0] is None or vectors[1] is None:
            return 0.0
        return round((float(vectors[0] @ vectors[1]) - self._mean) / self._unit, DIGITS)


def _vocabulary_ids(word: Word) -> tuple[int, ...]:
    """Of a word's pieces; none where one is an embedding."""
    ids = tuple(each for each in word.ids if isinstance(each, int))
    return ids if len(ids) == len(word.ids) else ()


def likeness_of(clip: Any, prompts: Iterable[Prompt]) -> WordLikeness | None:
    """The likeness of prompts' words to the host's CLIP; None where its embeddings cannot be read."""
    try:
        weight = _token_embeddings(clip)
        return None if weight is None else WordLikeness(weight, prompts)
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError) as error:
        # Weights that are quantised, not there yet, or on their way to another device; their place decides then.
        logging.debug("Prompt-to-Prompt: token embeddings are not read (%s: %s)", type(error).__name__, error)
        return None


def _token_embeddings(clip: Any) -> torch.Tensor | None:
    """(vocabulary, width) of the first of the encoder's parts that has any; CLIP's parts share their vocabulary."""
    model = getattr(clip, "cond_stage_model", None)
    for part in model.children() if isinstance(model, torch.nn.Module) else ():
        embedding = getattr(getattr(part, "transformer", None), "get_input_embeddings", lambda: None)()
        weight = getattr(embedding, "weight", None)
        if torch.is_tensor(weight) and weight.ndim == 2 and weight.is_floating_point() and not weight.is_meta:
            return weight
    return None


def _rows(weight: torch.Tensor, ids: Iterable[int]) -> torch.Tensor:
    return weight.detach()[torch.tensor(list(ids), device=weight.device)].float().cpu()


def _direction(pieces: torch.Tensor) -> torch.Tensor:
    """A word of several pieces is their mean."""
    return torch.nn.functional.normalize(torch.nn.functional.normalize(pieces, dim=1).mean(dim=0), dim=0)
