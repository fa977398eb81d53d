"""Small text encoders of the host's own classes with random weights, and the host's own tokenizers.

ENCODERS makes them by name; a host without the class has no such name in ``available()``. Tokenizer files that come
with a model's weights instead of with the host (Gemma 2, UMT5, Mistral) are small ones made here, of the same kind.
"""

from __future__ import annotations

import base64
import importlib
import io
import json
from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import small_models
import torch

CLIP = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3}
T5 = {"d_model": 32, "d_ff": 64, "num_heads": 4, "d_kv": 8, "num_layers": 2}
LLAMA = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}


class Kind(NamedTuple):
    """Where the host has the classes (module, model, tokenizer), and the sizes of their parts by the host's key."""

    module: str
    model: str
    tokenizer: str
    sizes: dict[str, dict]
    data: Callable[[], dict] = dict  # what else the tokenizer needs
    causal: bool = False


def _llama(layers: int = 3, **sizes: int) -> dict:
    return {**LLAMA, "num_hidden_layers": layers, **sizes}


def _clips() -> dict[str, dict]:
    return {"clip_l": CLIP, "clip_g": CLIP}


ENCODERS = {
    "flux": Kind("flux", "FluxClipModel", "FluxTokenizer", {"clip_l": CLIP, "t5xxl": T5}),
    "chroma": Kind("pixart_t5", "PixArtT5XXL", "PixArtTokenizer", {"t5xxl": T5}),
    "t5": Kind("genmo", "MochiT5XXL", "MochiT5Tokenizer", {"t5xxl": T5}),
    "cosmos": Kind("cosmos", "CosmosT5XXL", "CosmosT5Tokenizer", {"t5xxl": T5}),
    "wan": Kind("wan", "WanT5Model", "WanT5Tokenizer", {"umt5xxl": T5}, lambda: {"spiece_model": umt5_pieces()}),
    "auraflow": Kind("aura_t5", "AuraT5Model", "AuraT5Tokenizer", {"pile_t5xl": T5}),
    "sd3": Kind("sd3_clip", "SD3ClipModel", "SD3Tokenizer", {**_clips(), "t5xxl": {**T5, "d_model": 4096}}),
    "hidream": Kind(
        "hidream", "HiDreamTEModel", "HiDreamTokenizer",
        {**_clips(), "t5xxl": T5, "llama": _llama(vocab_size=128320)},
    ),
    "lumina2": Kind(
        "lumina2", "LuminaModel", "LuminaTokenizer", {"gemma2_2b": _llama()},
        lambda: {"spiece_model": gemma_pieces()}, causal=True,
    ),
    "zimage": Kind("z_image", "ZImageTEModel", "ZImageTokenizer", {"qwen3_4b": _llama()}, causal=True),
    "qwen_image": Kind("qwen_image", "QwenImageTEModel", "QwenImageTokenizer", {"qwen25_7b": _llama()}, causal=True),
    "flux2": Kind(
        "flux", "Flux2TEModel", "Flux2Tokenizer", {"mistral3_24b": _llama(40)},
        lambda: {"tekken_model": tekken()}, causal=True,
    ),
    "klein": Kind("flux", "klein_te", "KleinTokenizer", {"qwen3_4b": _llama(36)}, causal=True),
    "krea2": Kind("krea2", "Krea2TEModel", "Krea2Tokenizer", {"qwen3vl_4b": _llama(36)}, causal=True),
    "anima": Kind("anima", "AnimaTEModel", "AnimaTokenizer", {"qwen3_06b": _llama()}),
}  # fmt: skip


def available() -> list[str]:
    """The encoders that this host has, and can read text for.

    With transformers 5 older hosts cannot read Mistral's vocabulary, and lose the spaces between Llama's tokens.
    """
    names = [name for name, kind in ENCODERS.items() if _host_class(kind.module, kind.tokenizer)]
    own_tokenizers = _host_class("bpe_tokenizer", "BPETokenizer")
    return [name for name in names if own_tokenizers or name not in ("flux2", "hidream")]


def _host_class(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(f"comfy.text_encoders.{module}"), name, None)
    except ImportError:
        return None


def encoder(name: str, embeddings: str | None = None, **params: Any) -> Any:
    """The host's CLIP of one kind.

    Args:
        embeddings: the folder of textual inversions.
        params: of the host's model class (``t5=False`` leaves a part out).
    """
    import comfy.sd

    kind = ENCODERS[name]
    model, tokenizer = (_host_class(kind.module, each) for each in (kind.model, kind.tokenizer))
    if kind.model.endswith("_te"):  # makes the class
        model = model()
    target = SimpleNamespace(params=params, clip=model, tokenizer=tokenizer)
    options = {f"{part}_model_config": dict(sizes) for part, sizes in kind.sizes.items()}
    clip = comfy.sd.CLIP(target, embedding_directory=embeddings, model_options=options, tokenizer_data=kind.data())
    _randomise(clip.cond_stage_model)
    return clip


def _randomise(model: torch.nn.Module) -> None:
    """Seeded weights. What sees pictures is taken out, and a large table of vectors shares its memory."""
    tables = {}
    for module in list(model.modules()):
        if hasattr(module, "visual"):
            module.visual = torch.nn.Identity()
    for name, module in list(model.named_modules()):
        parent = model.get_submodule(name.rpartition(".")[0])
        if isinstance(module, torch.nn.Embedding) and module.weight.numel() > 2**26:
            tables[name] = module
            setattr(parent, name.rpartition(".")[2], torch.nn.Identity())
    small_models.randomise(model, seed=2)
    for name, module in model.named_modules():
        if name.endswith("SelfAttention.o"):  # T5's attention is not scaled: a row is to be mostly its own token's
            module.weight.data *= 0.05
    for name, table in tables.items():
        rows, width = table.weight.shape
        line = torch.randn(rows + width, generator=torch.Generator().manual_seed(3)) * 0.1
        table.weight = torch.nn.Parameter(line.as_strided((rows, width), (1, 1)), requires_grad=False)
        setattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], table)


WORDS = (
    "a the of on in at with and cat dog red blue big small photo house tree lake sky night bright grass hat horse "
    "mushroom street city rain snow light window table flower"
).split()


@lru_cache(maxsize=1)
def gemma_pieces() -> torch.Tensor:
    """A vocabulary as Gemma's: <pad>, <eos>, <bos>, <unk>, spaces as they stand, unknown characters as bytes."""
    ids = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    return _pieces(
        model_type="bpe",
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        **ids,
    )


@lru_cache(maxsize=1)
def umt5_pieces() -> torch.Tensor:
    """A vocabulary as UMT5's: <pad>, </s>, <unk>, a space before the text, unknown characters as bytes."""
    return _pieces(model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


def _pieces(**options: Any) -> torch.Tensor:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))] * 4),
        model_writer=model,
        vocab_size=400,
        hard_vocab_limit=False,
        byte_fallback=True,
        minloglevel=2,
        **options,
    )
    return torch.frombuffer(bytearray(model.getvalue()), dtype=torch.uint8)


@lru_cache(maxsize=1)
def tekken() -> torch.Tensor:
    """A vocabulary as Mistral's: numbered special tokens, then bytes, then what is put together from them."""
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", *(f"<SPECIAL_{i}>" for i in range(5, 11)), "<pad>"]
    special += [*(f"<SPECIAL_{i}>" for i in range(12, 17)), "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "<SPECIAL_19>"]
    pieces = dict.fromkeys(bytes([i]) for i in range(256))
    for word in WORDS:
        pieces |= dict.fromkeys(f" {word}".encode()[:end] for end in range(2, len(word) + 2))
    data = {
        "config": {"default_vocab_size": len(special) + len(pieces), "default_num_special_tokens": len(special)},
        "vocab": [{"rank": rank, "token_bytes": base64.b64encode(piece).decode()} for rank, piece in enumerate(pieces)],
        "special_tokens": [{"rank": rank, "token_str": token} for rank, token in enumerate(special)],
    }
    return torch.frombuffer(bytearray(json.dumps(data).encode()), dtype=torch.uint8)
