"""Which token stands in which row of a conditioning, as the host's own text encoder puts them there.

A twin of the encoder runs the host's code with parts that hand out the numbers of their tokens in place of rows, so
that templates that are cut off and encoders that are joined come out right without being known here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

Token = tuple[int | torch.Tensor, float, int]  # id (a vector where an embedding stands), weight, 0 unless it is said
Place = tuple[str, int]  # where a token is: its stream, and its number there over all chunks
Rows = list[tuple[Place, ...]]  # the tokens that stand in each row of the conditioning; none in one of zeros
# The twin's conditioning, its extras and the first number of each stream -> the numbers of the tokens in each row.
ReadRows = Callable[[torch.Tensor, dict[str, Any], dict[str, int]], list[set[int]]]


def tokenizer_of(clip: Any, stream: str) -> Any:
    """The host's tokenizer of one stream."""
    return getattr(clip.tokenizer, stream, None) or getattr(clip.tokenizer, f"clip_{stream}")


def token_rows(clip: Any, read: ReadRows | None, chunks: dict[str, list[list[Token]]]) -> Rows:
    """The tokens that stand in each row of the conditioning, as the host's own encoder puts them there."""
    first, places = {}, [("", 0)]  # numbers count from 1: rows that no token made are zeros
    for stream, each in chunks.items():
        first[stream] = len(places)
        places += [(stream, i) for i in range(sum(map(len, each)))]
    twin: Any = _twin(clip, first)
    pairs = {stream: [[(token, 1.0) for token, *_ in chunk] for chunk in each] for stream, each in chunks.items()}
    context, _, *extra = twin.encode_token_weights(pairs)
    extra = extra[0] if extra else {}
    numbered = read(context, extra, first) if read else numbers_in(context)
    return [tuple(places[number] for number in sorted(row)) for row in numbered]


def numbers_in(context: torch.Tensor) -> list[set[int]]:
    """The numbers in each row of what a twin gave, (1, rows, channels): several where encoders share the channels."""
    rows = context[0]
    mixed = rows[(rows != rows[:, :1]).any(dim=1)]
    starts = [0, *((mixed[:, 1:] != mixed[:, :-1]).any(dim=0).nonzero().flatten() + 1).tolist()]
    return [{int(number) for number in row if number} for row in rows[:, starts].tolist()]


def _twin(clip: Any, first: dict[str, int]) -> torch.nn.Module:
    """The text encoder, with parts that give numbers (from ``first`` of their stream on) in place of rows."""
    twin = _copy(clip.cond_stage_model)
    for stream, number in first.items():
        for name in (stream, f"clip_{stream}"):
            if (part := twin._modules.get(name)) is not None:
                width = tokenizer_of(clip, stream).embedding_size
                twin._modules[name] = _numbering(part, number, width)
    return twin


def _copy(module: Any) -> Any:
    """Another module of the same parts, which can be exchanged."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def _numbering(part: Any, first: int, width: int) -> Any:
    """One of the host's text models, whose row for a token is the token's number on all channels.

    As in the host a vector of another width than the model's is left out, and the chunk filled up at its end.
    """
    twin = _copy(part)
    vector_size = part.transformer.get_input_embeddings().embedding_dim

    def encode(chunks: Sequence[Sequence[int | torch.Tensor]]) -> tuple:
        numbers_of = torch.zeros(len(chunks), max(map(len, chunks)))
        number = first
        for row, chunk in zip(numbers_of, chunks, strict=True):
            kept = [number + i for i, token in enumerate(chunk) if _fits(token, vector_size)]
            row[: len(kept)] = torch.tensor(kept)
            number += len(chunk)
        rows = numbers_of[..., None]
        mask = {"attention_mask": torch.ones(numbers_of.shape, dtype=torch.long)}
        layers = len(part.layer) if isinstance(part.layer, list) else 2 if part.layer == "all" else 0
        rows = rows[:, None].expand(-1, layers, -1, -1) if layers else rows.expand(-1, -1, width)
        return (rows, torch.zeros(len(chunks), width), *([mask] if part.return_attention_masks else []))

    twin.encode = encode
    return twin


def _fits(token: int | torch.Tensor, vector_size: int) -> bool:
    return not isinstance(token, torch.Tensor) or token.shape[-1] == vector_size
