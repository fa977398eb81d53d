"""Models in their real sizes, made of the host's own classes. Their weights are random: the same is computed."""

from __future__ import annotations

from types import SimpleNamespace

import torch

COMMON = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "legacy": False,
}
SD15 = {
    **COMMON,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "use_linear_in_transformer": False,
    "context_dim": 768,
}
SDXL = {
    **COMMON,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}
LATENT = {"sd15": 64, "sdxl": 128}


def full_size(family: str, dtype: torch.dtype, device: torch.device, channels: int = 320):
    """(model, clip) of SD 1.5 or SDXL. The text encoders have few layers; they do not run while sampling."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.sd
    import comfy.sd1_clip
    import comfy.sdxl_clip
    import comfy.supported_models

    kinds = {
        "sd15": (comfy.supported_models.SD15, SD15, comfy.model_base.BaseModel),
        "sdxl": (comfy.supported_models.SDXL, SDXL, comfy.model_base.SDXL),
    }
    kind, unet, base = kinds[family]
    config = kind({**unet, "model_channels": channels})
    config.set_inference_dtype(dtype, None)
    model = base(config, model_type=comfy.model_base.ModelType.EPS)
    _fill(model.diffusion_model)
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))

    text_model, tokenizer, widths = {
        "sd15": (comfy.sd1_clip.SD1ClipModel, comfy.sd1_clip.SD1Tokenizer, {"l": 768}),
        "sdxl": (comfy.sdxl_clip.SDXLClipModel, comfy.sdxl_clip.SDXLTokenizer, {"l": 768, "g": 1280}),
    }[family]
    options = {
        f"clip_{name}_model_config": {
            "hidden_size": width, "intermediate_size": width, "num_attention_heads": 4, "num_hidden_layers": 3,
        }
        for name, width in widths.items()
    }  # fmt: skip
    target = SimpleNamespace(params={}, clip=text_model, tokenizer=tokenizer)
    clip = comfy.sd.CLIP(target, model_options=options)
    _fill(clip.cond_stage_model)
    return patcher, clip


def _fill(module: torch.nn.Module) -> None:
    """Random weights with which the layers' outputs keep about their inputs' size."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.ndim < 2:
            parameter.data.zero_()
        else:
            parameter.data.normal_(std=parameter[0].numel() ** -0.5)
    for part in module.modules():
        if isinstance(part, (torch.nn.GroupNorm, torch.nn.LayerNorm)) and part.weight is not None:
            part.weight.data.fill_(1.0)
