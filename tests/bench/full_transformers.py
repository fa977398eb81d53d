"""Newer models with the layers of the real ones, and fewer of them, made of the host's own classes; random weights.

What an edit costs over the stock run is nearly the same in every block, so a few tell the ratio of all. Each model
has its kinds of blocks about as often as the real one, and the text of a short prompt as its encoder gives it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from small_transformers import SMALL, Small

FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096,
    "hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2,
    "qkv_bias": True, "guidance_embed": True,
}  # fmt: skip
SD35_LARGE = {
    "in_channels": 16, "depth": 38, "adm_in_channels": 2048, "context_size": 4096, "pos_embed_max_size": 192,
    "num_patches": 192 * 192, "input_size": None, "qk_norm": "rms",
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 2432}},
}  # fmt: skip
QWEN_IMAGE = {"in_channels": 64, "out_channels": 16, "attention_head_dim": 128, "num_attention_heads": 24,
              "joint_attention_dim": 3584, "axes_dims_rope": (16, 56, 56)}  # fmt: skip
Z_IMAGE = {
    "patch_size": 2, "in_channels": 16, "dim": 3840, "n_heads": 30, "n_kv_heads": 30, "cap_feat_dim": 2560,
    "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512], "rope_theta": 256.0, "ffn_dim_multiplier": 8.0 / 3.0,
    "qk_norm": True, "z_image_modulation": True, "pad_tokens_multiple": 32, "time_scale": 1000.0,
}  # fmt: skip
ANIMA = {
    **SMALL["anima"].settings, "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "crossattn_emb_channels": 1024,
    "model_channels": 2048, "num_heads": 16, "adaln_lora_dim": 256, "pos_emb_learnable": True,
}  # fmt: skip
# family -> (name in SMALL of the architecture, blocks of the real model, what a model of n blocks is)
FULL: dict[str, tuple[str, int, Callable[[int], Small]]] = {
    "flux": ("flux_dev", 57, lambda blocks: replace(
        SMALL["flux_dev"], width=4096, filled=256, pooled=768, blocks=blocks,
        settings={**FLUX, "depth": max(1, blocks // 3), "depth_single_blocks": blocks - max(1, blocks // 3)},
    )),
    "sd3": ("sd3", 38, lambda blocks: replace(
        SMALL["sd3"], width=4096, filled=154, pooled=2048, blocks=blocks, settings={**SD35_LARGE, "num_blocks": blocks}
    )),
    "qwen": ("qwen_image", 60, lambda blocks: replace(
        SMALL["qwen_image"], width=3584, blocks=blocks, settings={**QWEN_IMAGE, "num_layers": blocks}
    )),
    "zimage": ("z_image", 30, lambda blocks: replace(
        SMALL["z_image"], width=2560, multiple=32, blocks=blocks,
        settings={**Z_IMAGE, "n_layers": blocks, "n_refiner_layers": max(1, blocks // 15)},
    )),
    "anima": ("anima", 28, lambda blocks: replace(
        SMALL["anima"], width=1024, blocks=blocks, settings={**ANIMA, "num_blocks": blocks}
    )),
}  # fmt: skip
FEW = {"flux": 3, "sd3": 3, "qwen": 2, "zimage": 4, "anima": 7}  # blocks that fit into some GB in single precision
DISTILLED = {"flux", "zimage"}  # these are sampled without guidance


def enter(family: str, blocks: int) -> str:
    """Name a model of so many blocks among the small ones; its name there."""
    kind, _, of_blocks = FULL[family]
    name = f"{kind} of {blocks} full blocks"
    SMALL[name] = of_blocks(blocks)
    return name
