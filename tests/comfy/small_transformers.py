"""Small transformers of the host's own classes with random weights: joint attention, and cross-attention in no UNet.

Their text encoders are not needed here: positions and rows of a prompt are made up as the model wants them.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Any

import torch
from real_host import DEVICE
from small_models import FLUX, randomise

NORMS_OF_QUERIES = re.compile(
    r"(query_norm|key_norm|[qk]_norm\d?|norm_(added_)?[qk]|ln_[qk]|[qk]_rms_norm(_t)?)\.(scale|weight)$"
)


@dataclass(frozen=True)
class Small:
    """One architecture.

    Args:
        config: class in ``comfy.supported_models``; absent from hosts that do not have it.
        kind: class in ``comfy.model_base``.
        settings: of the transformer.
        width: of the text's rows.
        filled: text positions of the shortest prompt's rows, which longer ones exceed; 0: as many as the words take.
        before, after: positions of the template around the words.
        frames: whether latents are (N, C, 1, H, W).
        channels: of the latent.
        pooled: width of the pooled row, 0 for none.
        blocks: the number of attention calls with text in them.
        multiple: a text is filled up to whole multiples of it by the model itself.
        parts: how many times the text stands in the model's own, one behind the other (HiDream: T5 and twice Llama).
        made: positions of the text that the model itself makes of what is encoded (Anima); 0: it makes none.
        scale: latents are so many times smaller than the others', for a patch of so many times fewer pixels a side.
    """

    config: str
    kind: str
    settings: dict
    width: int = 32
    filled: int = 0
    before: int = 0
    after: int = 1
    frames: bool = False
    channels: int = 16
    pooled: int = 0
    blocks: int = 2
    scale: int = 1
    multiple: int = 1
    parts: int = 1
    made: int = 0


SD3 = {
    "in_channels": 16,
    "depth": 2,
    "adm_in_channels": 32,
    "context_size": 32,
    "pos_embed_max_size": 24,
    "num_patches": 24 * 24,
    "input_size": None,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 32, "out_features": 128}},
    "qk_norm": "rms",
}
CHROMA = {
    **{key: FLUX[key] for key in ("context_in_dim", "hidden_size", "mlp_ratio", "num_heads", "depth", "axes_dim")},
    "depth_single_blocks": 1,
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "in_channels": 64,
    "out_channels": 64,
    "in_dim": 64,
    "out_dim": 64,
    "hidden_dim": 32,
    "n_layers": 1,
}
LUMINA = {
    "patch_size": 2,
    "in_channels": 16,
    "dim": 96,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 4,
    "cap_feat_dim": 32,
    "axes_dims": [8, 8, 8],
    "qk_norm": True,
}
COSMOS = {
    "max_img_h": 32,
    "max_img_w": 32,
    "max_frames": 8,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "concat_padding_mask": True,
    "crossattn_emb_channels": 32,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": False,
    "pos_emb_interpolation": "crop",
    "model_channels": 64,
    "num_blocks": 2,
    "num_heads": 4,
    "use_adaln_lora": True,
    "adaln_lora_dim": 16,
    "min_fps": 1,
    "max_fps": 30,
    "extra_per_block_abs_pos_emb": False,
}
SMALL = {
    "flux": Small("FluxSchnell", "Flux", {"image_model": "flux", **FLUX}, filled=12, pooled=32),
    "flux_dev": Small(
        "Flux", "Flux", {"image_model": "flux", **FLUX, "guidance_embed": True, "depth_single_blocks": 2}, filled=12,
        pooled=32, blocks=3,
    ),
    "flux_fill": Small(
        "FluxInpaint", "Flux", {"image_model": "flux", **FLUX, "in_channels": 96, "guidance_embed": True}, filled=12,
        pooled=32,
    ),
    "flux2": Small(
        "Flux2",
        "Flux2",
        {
            "image_model": "flux2", **FLUX, "in_channels": 32, "out_channels": 32, "patch_size": 1, "vec_in_dim": None,
            "axes_dim": [4, 4, 4, 4], "global_modulation": True, "mlp_silu_act": True, "ops_bias": False,
            "qkv_bias": False,
        },
        before=3,
        channels=32,
        scale=2,
    ),
    "krea2": Small(
        "Krea2",
        "Krea2",
        {
            "image_model": "krea2", "features": 64, "tdim": 32, "txtdim": 16, "heads": 4, "kvheads": 2, "multiplier": 2,
            "layers": 2, "channels": 16, "txtlayers": 2, "txtheads": 2, "txtkvheads": 2,
        },
        after=5,
        frames=True,
    ),
    "chroma": Small("Chroma", "Chroma", {"image_model": "chroma", **CHROMA}),
    "sd3": Small("SD3", "SD3", SD3, pooled=32),
    "sd35_medium": Small("SD3", "SD3", {**SD3, "x_block_self_attn_layers": [0]}, pooled=32),
    "qwen_image": Small(
        "QwenImage",
        "QwenImage",
        {
            "num_layers": 2, "in_channels": 64, "out_channels": 16, "attention_head_dim": 16, "num_attention_heads": 2,
            "joint_attention_dim": 32, "axes_dims_rope": (4, 6, 6),
        },
        after=5,
        frames=True,
    ),
    "lumina2": Small("Lumina2", "Lumina2", LUMINA, before=1),
    "z_image": Small(
        "Lumina2",
        "Lumina2",
        {
            **LUMINA, "dim": 256, "n_heads": 8, "axes_dims": [8, 12, 12], "z_image_modulation": True,
            "pad_tokens_multiple": 8, "time_scale": 1000.0,
        },
        before=3,
        after=5,
        multiple=8,
    ),
    "aura_flow": Small(
        "AuraFlow",
        "AuraFlow",
        {
            "dim": 64, "n_layers": 3, "n_double_layers": 1, "n_heads": 4, "global_conddim": 64, "cond_seq_dim": 32,
            "max_seq": 24 * 24,
        },
        filled=12,
        channels=4,
        blocks=3,
    ),
    "hidream": Small(
        "HiDream",
        "HiDream",
        {
            "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 1, "num_single_layers": 1,
            "attention_head_dim": 16, "num_attention_heads": 2, "caption_channels": [32, 32], "text_emb_dim": 32,
            "num_routed_experts": 2, "num_activated_experts": 1, "axes_dims_rope": (4, 6, 6),
            "max_resolution": (32, 32), "llama_layers": [0, 1],
        },
        filled=12,
        pooled=32,
        parts=3,
    ),
    "cosmos_predict2": Small(
        "CosmosT2IPredict2", "CosmosPredict2", {"image_model": "cosmos_predict2", **COSMOS}, filled=12, frames=True
    ),
    "anima": Small("Anima", "Anima", {"image_model": "anima", **COSMOS}, frames=True, made=512),
    "wan": Small(
        "WAN21_T2V",
        "WAN21",
        {
            "dim": 48, "ffn_dim": 64, "text_dim": 32, "num_heads": 2, "num_layers": 2, "in_dim": 16, "out_dim": 16,
            "freq_dim": 32, "model_type": "t2v",
        },
        filled=12,
        frames=True,
    ),
}  # fmt: skip


def there_is(name: str) -> bool:
    """Whether this host has the architecture."""
    import comfy.supported_models

    return hasattr(comfy.supported_models, SMALL[name].config)


def small(name: str, **changes: Any):
    """A ``ModelPatcher`` of the architecture, seeded. ``changes`` are to its settings."""
    import comfy.ldm.chroma.model
    import comfy.ldm.flux.model
    import comfy.model_base
    import comfy.model_patcher
    import comfy.ops
    import comfy.supported_models

    entry = SMALL[name]
    settings = {**entry.settings, "dtype": torch.float32, **changes}
    if entry.kind in ("Flux", "Flux2") and "txt_ids_dims" in comfy.ldm.flux.model.FluxParams.__annotations__:
        settings.setdefault("txt_ids_dims", [3] if len(settings["axes_dim"]) == 4 else [])  # newer hosts
    if entry.kind == "Chroma" and "vec_in_dim" in comfy.ldm.chroma.model.ChromaParams.__annotations__:
        settings |= {"txt_ids_dims": [], "vec_in_dim": None}
    config = getattr(comfy.supported_models, entry.config)(settings)
    model_type = {"FluxSchnell": {"model_type": comfy.model_base.ModelType.FLOW}}.get(entry.config, {})
    model = getattr(comfy.model_base, entry.kind)(config, **model_type)
    if entry.made and entry.width != 1024:  # Anima's adapter has one size
        adapter = type(model.diffusion_model.llm_adapter)
        model.diffusion_model.llm_adapter = adapter(
            source_dim=entry.width,
            target_dim=entry.width,
            model_dim=entry.width,
            num_layers=2,
            num_heads=2,
            operations=comfy.ops.manual_cast,
        )
    randomise(model.diffusion_model, seed=1)
    for at, parameter in model.diffusion_model.named_parameters():
        if NORMS_OF_QUERIES.search(at):  # peaked attention, as trained models have
            parameter.data.copy_(parameter.data + 1.3)
    for buffer in model.diffusion_model.buffers():
        if buffer.is_floating_point() and "pos_embed" in dict(model.diffusion_model.named_buffers()):
            buffer.copy_(torch.randn(buffer.shape, generator=torch.Generator().manual_seed(3)) * 0.3)
    return comfy.model_patcher.ModelPatcher(model, torch.device(DEVICE), torch.device("cpu"))


def row_of(name: str, words: list[str], length: int | None = None) -> tuple[torch.Tensor, dict]:
    """(context (1, T, D), extras) of one prompt: each word a row of its own, as far as it goes as its model pads it."""
    entry = SMALL[name]
    tokens = [*[f"<before {i}>" for i in range(entry.before)], *words, *[f"<after {i}>" for i in range(entry.after)]]
    wanted = max(entry.filled, len(tokens)) if length is None else length
    tokens += ["<pad>"] * (wanted - len(tokens))
    context = torch.stack([_vector(token, entry.width) for token in tokens])[None]
    pooled = _vector(" ".join(words), entry.pooled)[None] if entry.pooled else None
    extras: dict[str, Any] = {"pooled_output": pooled}
    if name == "hidream":
        extras["conditioning_llama3"] = torch.stack([context, context.flip(-1)], dim=1)
    if entry.made:  # Anima: its T5 tokens are the words and the end; the other encoder's are two more
        extras["t5xxl_ids"] = torch.tensor([zlib.crc32(token.encode()) % 32128 for token in tokens], dtype=torch.int)
        extras["t5xxl_weights"] = torch.tensor([1.2 if token == "chair" else 1.0 for token in tokens])
        context = torch.cat([context, context[:, -1:] * 0.5, context[:, :1] * 0.5], dim=1)
    return context, extras


def prompt_of(module: Any, name: str, words: list[str]) -> Any:
    """The same as a ``Prompt`` of the pack, whose module is handed over: each word is one position of each part."""
    entry = SMALL[name]
    length = max(entry.filled, entry.before + len(words) + entry.after)
    said = range(entry.before, entry.before + len(words))
    ends = range(said.stop, said.stop + entry.after)

    def of_parts(positions):
        return tuple(part * length + position for part in range(entry.parts) for position in positions)

    def word(text, at):
        parts = (1,) * entry.parts if entry.parts > 1 else ()
        return module.Word(text, (zlib.crc32(text.encode()),) * entry.parts, of_parts([at]), parts=parts)

    return module.Prompt(
        " ".join(words),
        tuple(map(word, words, said)),
        of_parts(range(entry.before)),
        of_parts(ends),
        of_parts(range(ends.stop, length)),
        entry.parts * length,
    )


def latent(name: str, seeds: int = 1, height: int = 20, width: int = 12) -> dict:
    entry = SMALL[name]
    frames = (1,) if entry.frames else ()
    return {"samples": torch.zeros(seeds, entry.channels, *frames, height // entry.scale, width // entry.scale)}


def _vector(token: str, width: int) -> torch.Tensor:
    return torch.randn(width, generator=torch.Generator().manual_seed(zlib.crc32(token.encode())))
