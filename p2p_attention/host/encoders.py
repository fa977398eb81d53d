"""Words and their positions in the text encoders of newer models: T5, CLIP with T5, and language models.

Nothing about an encoder is known here but its tokenizer's name. For the rest the host's own code is asked:

* The tokens of a text, with template, weights and padding, are those of ``clip.tokenize``.
* The template around a text, and whether ``(word:1.2)`` is a weight, is seen on two texts of one letter.
* Which token stands in which row of the conditioning (after a template was cut off, encoders were joined, ...) is seen
  on a twin of the text encoder that hands out the numbers of its tokens in place of their rows. No weight is touched.
"""

from __future__ import annotations

import hashlib
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch

from ..characters import SPACE, WILDCARD, cover, decode, group, piece_bytes
from ..prompt import Prompt, Word, join_prompts, quoted
from ..reading import letters_read
from .token_rows import Place, ReadRows, Rows, Token, numbers_in, token_rows, tokenizer_of

LARGEST_WEIGHT = 1e4  # of a word; beyond, half precision overflows
LONGEST_TEXT = 60_000  # characters
LEAST_PICTURE = 64  # rows of a picture, which the host's nodes bring to some 200 or 1400


@dataclass(frozen=True)
class Encoder:
    """What is particular to a text encoder.

    Args:
        name: what it is called in messages.
        rows: where its rows are, if not in the conditioning itself: takes the twin's conditioning and its extras and
            gives the numbers of the tokens in each row.
        pictures: whether it also reads pictures, in front of the text.
    """

    name: str
    rows: ReadRows | None = None
    pictures: bool = False


def _adapter_rows(_: torch.Tensor, extra: dict[str, Any], first: dict[str, int]) -> list[set[int]]:
    """Anima's model makes the rows that it attends to from the T5 tokens, one for each (zeros follow up to 512)."""
    return [{first["t5xxl"] + i} for i in range(len(extra["t5xxl_ids"]))]


def _hidream_rows(context: torch.Tensor, extra: dict[str, Any], _: dict[str, int]) -> list[set[int]]:
    """HiDream's model attends to T5's rows, then to the last layer of Llama, then to the layer that is the block's."""
    llama = numbers_in(extra["conditioning_llama3"][:, -1])
    return numbers_in(context) + llama + llama


# By the tokenizer's class in the host. Streams: l, g (CLIP), t5xxl, ...; each has its tokenizer and its encoder there.
ENCODERS = {
    "FluxTokenizer": Encoder("Flux.1 (T5)"),
    "PixArtTokenizer": Encoder("Chroma, PixArt (T5)"),
    "MochiT5Tokenizer": Encoder("T5 by itself"),
    "CosmosT5Tokenizer": Encoder("Cosmos (T5)"),
    "WanT5Tokenizer": Encoder("Wan (UMT5)"),
    "AuraT5Tokenizer": Encoder("AuraFlow (Pile-T5)"),
    "SD3Tokenizer": Encoder("SD3, SD3.5 (CLIP and T5)"),
    "HiDreamTokenizer": Encoder("HiDream (T5 and Llama)", _hidream_rows),
    "LuminaTokenizer": Encoder("Lumina 2 (Gemma 2)"),
    "ZImageTokenizer": Encoder("Z-Image (Qwen3)"),
    "KleinTokenizer": Encoder("Flux.2 Klein (Qwen3)"),
    "KleinTokenizer8B": Encoder("Flux.2 Klein (Qwen3)"),
    "Flux2Tokenizer": Encoder("Flux.2 (Mistral)"),
    "QwenImageTokenizer": Encoder("Qwen-Image (Qwen2.5-VL)", pictures=True),
    "Krea2Tokenizer": Encoder("Krea 2 (Qwen3-VL)"),
    "AnimaTokenizer": Encoder("Anima (Qwen3, T5)", _adapter_rows),
    "FlowDemoTokenizer": Encoder("the flow demo model (CLIP)"),
}


def reads(clip: Any) -> bool:
    """Whether ``read_prompt`` knows this text encoder (the host's CLIP)."""
    return type(clip.tokenizer).__name__ in ENCODERS


def name_of(tokenizer: str) -> str:
    """What a text encoder is called in messages, by its tokenizer's class in the host."""
    return ENCODERS[tokenizer].name if tokenizer in ENCODERS else tokenizer.removesuffix("Tokenizer") or "one"


def behind_pictures(clip: Any, prompts: Sequence[Prompt], positions: Sequence[int]) -> tuple[Prompt, ...]:
    """Prompts that were encoded together with pictures (Qwen-Image-Edit), whose rows stand in front of the text's.

    Args:
        clip: the host's CLIP that read the prompts, by themselves.
        prompts: source and edits.
        positions: of the conditionings that were made of them.

    Raises:
        ValueError: they were encoded with different pictures, or the texts are not those that were encoded.
    """
    before = [wanted - prompt.length for wanted, prompt in zip(positions, prompts, strict=True)]
    encoder = ENCODERS.get(type(clip.tokenizer).__name__)
    if encoder is None or not encoder.pictures or max(before) < LEAST_PICTURE:
        return tuple(prompts)
    if len(set(before)) > 1:
        raise ValueError(
            "Wanted the same pictures in front of the text for source and edits, got "
            f"{', '.join(map(str, before))} positions there. Write the whole texts that were encoded, and encode them "
            "with the same pictures."
        )
    pictures = Prompt("", (), tuple(range(before[0])), (), (), before[0])
    return tuple(join_prompts(prompt.text, [pictures, prompt]) for prompt in prompts)


def read_prompt(clip: Any, text: str) -> Prompt:
    """A text as the text encoder of a newer model reads it.

    Words are found by the characters of the text (``characters.word_spans``), so that all encoders read the same ones;
    those that one token holds together are one word, and a word that stands in several places (CLIP and T5) has them
    all. The rest of the rows is ``starts`` (also the template before the text), ``ends`` (also the one after it) and
    ``padding``.

    Args:
        clip: the host's CLIP.
        text: the prompt.

    Returns:
        The prompt; ``length`` is the number of rows that the encoder gives for this text. What the model itself adds
        (Flux.2 fills up with zeros in front, Z-Image behind) is not counted.

    Raises:
        ValueError: no reader for this encoder, or a text that it cannot read.
    """
    encoder = _encoder(clip)
    chunks = _tokenize(clip, text)
    manners = _manners(clip)
    letters = letters_read(text, any(manner.weights for manner in manners.values()))
    told = "".join(letter.text for letter in letters)
    rows = token_rows(clip, encoder.rows, chunks)
    streams = [stream for stream in chunks if any(place[0] == stream for row in rows for place in row)]
    said = {stream: _said(chunks[stream]) for stream in streams}
    pieces = {stream: _pieces(clip, stream, said[stream]) for stream in streams}
    covers = {stream: cover(pieces[stream], told, manners[stream].before, manners[stream].after) for stream in streams}
    grouping = group(told, [covers[stream].ranges for stream in streams])
    roles: dict[Place, str | int] = {}
    for stream, owners in zip(streams, grouping.owners, strict=True):
        mine = ["starts"] * covers[stream].before + list(owners) + ["ends"] * covers[stream].after
        roles |= _roles(tokenizer_of(clip, stream), stream, chunks[stream], mine)
    return _prompt(
        text,
        rows,
        roles,
        _ids(chunks),
        [(told[start:end], (letters[start].start, letters[end - 1].end)) for start, end in grouping.spans],
    )


def _prompt(
    text: str,
    rows: Rows,
    roles: dict[Place, str | int],
    ids: dict[Place, int | str],
    spans: Sequence[tuple[str, tuple[int, int]]],
) -> Prompt:
    specials: dict[str, list[int]] = {"starts": [], "ends": [], "padding": []}
    words: list[list[tuple[int | str, int, Place]]] = [[] for _ in spans]
    for position, row in enumerate(rows):
        met = {roles[place] for place in row} or {"padding"}
        if len(met) > 1:
            raise ValueError(
                f"Wanted a prompt that all text encoders read alike, got {quoted(text)}. It may name an embedding made "
                "for one of them only: remove it."
            )
        (role,) = met
        if isinstance(role, str):
            specials[role].append(position)
        else:
            words[role].append((ids[row[0]], position, row[0]))
    return Prompt(
        text,
        tuple(_word(*span, places) for span, places in zip(spans, words, strict=True) if places),
        **{name: tuple(positions) for name, positions in specials.items()},
        length=len(rows),
    )


def _word(text: str, span: tuple[int, int], pieces: Sequence[tuple[int | str, int, Place]]) -> Word:
    """A word from what it says, its characters in the prompt (start, end) and its (id, position, token)s.

    Where tokens do not go on, another encoder's rows of the word begin, or other rows of the same one's.
    """
    ids, positions, tokens = zip(*pieces, strict=True)
    starts = [i for i in range(len(tokens)) if not i or tokens[i][0] != tokens[i - 1][0] or tokens[i] <= tokens[i - 1]]
    parts = tuple(end - start for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True))
    return Word(text, ids, positions, *span, parts=parts if len(parts) > 1 else ())


# ------------------------------------------------------------------------------------------------- asking the tokenizer


def _encoder(clip: Any) -> Encoder:
    name = type(clip.tokenizer).__name__  # not of a class above: hosts derive tokenizers whose encoders differ
    if name in ENCODERS:
        return ENCODERS[name]
    raise ValueError(
        f"Wanted a text encoder whose words can be found, got {name.removesuffix('Tokenizer')}. Supported are CLIP "
        f"(SD 1.x, SD 2.x, SDXL), {', '.join(dict.fromkeys(encoder.name for encoder in ENCODERS.values()))}."
    )


def _tokenize(clip: Any, text: str) -> dict[str, list[list[Token]]]:
    """By stream the chunks of tokens that the encoder gets."""
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"Wanted a prompt of at most {LONGEST_TEXT} characters, got {len(text)}. Shorten it.")
    try:
        text.encode()  # not all of the host's tokenizers say what is wrong with half characters
        chunks = clip.tokenize(text, return_word_ids=True)
    except (RecursionError, UnicodeError, TypeError, IndexError) as error:  # nesting, half characters, "embedding:"
        raise ValueError(
            f"Wanted a prompt that the text encoder can read, got {quoted(text)}: {error}. Look for many nested "
            "parentheses, for an 'embedding:' without a name, and for broken characters."
        ) from error
    for weight in {weight for each in chunks.values() for chunk in each for _, weight, _ in chunk}:
        if not abs(weight) <= LARGEST_WEIGHT:  # also for NaN
            raise ValueError(
                f"Wanted weights up to {LARGEST_WEIGHT:g}, as in (word:1.2), got {weight:g}. Change it in the prompt; "
                "each pair of parentheses is a factor of 1.1."
            )
    return chunks


def _said(chunks: Sequence[Sequence[Token]]) -> list[Token]:
    """The tokens of a text and its template, without start, end and padding."""
    return [token for chunk in chunks for token in chunk if token[2]]


class _Manner(NamedTuple):
    """How a tokenizer reads: the template before and after a text, and whether (word:1.2) is a weight."""

    before: str
    after: str
    weights: bool


def _manners(clip: Any) -> dict[str, _Manner]:
    """Of each stream, from what it makes of two texts that have nothing in common."""
    plain, weighted = (
        {stream: decode(_pieces(clip, stream, _said(chunks))) for stream, chunks in _tokenize(clip, probe).items()}
        for probe in ("q", "(z:1.5)")
    )
    manners = {}
    for stream, said in plain.items():
        other = weighted[stream]
        same = next(i for i, (a, b) in enumerate(zip(said, other, strict=False)) if a != b)
        before, after = said[:same], said[same + 1 :]
        manners[stream] = _Manner(before if before.strip() else "", after, other[same] == "z")
    return manners


def _pieces(clip: Any, stream: str, tokens: Sequence[Token]) -> list[bytes]:
    """The tokens' own texts; of an embedding's vectors the first stands for all."""
    vocabulary = tokenizer_of(clip, stream).inv_vocab
    sentencepiece = _is_sentencepiece(tokenizer_of(clip, stream))
    pieces = []
    embedding = None
    for token, _, part in tokens:
        if isinstance(token, numbers.Integral):
            pieces.append(piece_bytes(vocabulary[int(token)], sentencepiece))
        else:
            pieces.append(b"" if embedding == part else WILDCARD.encode())
            embedding = part
    return pieces


_KINDS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _is_sentencepiece(tokenizer: Any) -> bool:
    """By its vocabulary; remembered, because that is long."""
    if tokenizer not in _KINDS:
        _KINDS[tokenizer] = any(letters.startswith(SPACE) for letters in tokenizer.inv_vocab.values())
    return _KINDS[tokenizer]


# -------------------------------------------------------------------------------------------------------------- tokens


def _roles(
    tokenizer: Any, stream: str, chunks: list[list[Token]], said: list[str | int | None]
) -> dict[Place, str | int]:
    """What each token is: the number of its word, or ``starts``, ``ends``, ``padding``.

    Args:
        tokenizer: the host's, which knows its start and end.
        stream: the tokens' name.
        chunks: all tokens.
        said: the same of those tokens that are said; None for white space of a text without words.
    """
    roles: dict[Place, str | int] = {}
    rest = iter(said)
    number = 0
    for chunk in chunks:
        last = max((i for i, (*_, part) in enumerate(chunk) if part), default=-1)
        start, end = tokenizer.start_token, tokenizer.end_token
        for i, (token, _, part) in enumerate(chunk):
            role: str | int | None
            if part:
                role = next(rest)
            elif start is not None and token == start:
                role, start = "starts", None
            elif start is None and end is not None and i > last and token == end:
                role, end = "ends", None
            else:
                role = "padding"
            roles[stream, number] = "padding" if role is None else role
            number += 1
    return roles


def _ids(chunks: dict[str, list[list[Token]]]) -> dict[Place, int | str]:
    """Vocabulary ids; for an embedding's vector a digest of it."""
    return {
        (stream, i): _digest(token) if isinstance(token, torch.Tensor) else int(token)
        for stream, each in chunks.items()
        for i, (token, *_) in enumerate(token for chunk in each for token in chunk)
    }


def _digest(vector: torch.Tensor) -> str:
    return hashlib.sha1(vector.detach().float().cpu().numpy().tobytes()).hexdigest()
