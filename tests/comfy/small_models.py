"""Small models of the host's own classes with random weights: SD 1.5, SD 2 and SDXL in miniature."""

from __future__ import annotations

from types import SimpleNamespace

import torch

TEXT_CONFIG = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3}
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 2],
    "transformer_depth": [1, 1, 0],
    "transformer_depth_output": [1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "use_spatial_transformer": True,
    "legacy": False,
    "dtype": torch.float32,
}


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Seeded weights: small, with biases, so that every term of a layer shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        scale = 0.08 if parameter.ndim < 2 else 1.2 / parameter[0].numel() ** 0.5
        value = torch.randn(parameter.shape, generator=generator) * scale
        if "norm" in name and name.endswith("weight"):
            value += 1.0
        parameter.data.copy_(value)


def _patcher(model):
    import comfy.model_patcher

    randomise(model.diffusion_model, seed=1)
    for name, module in model.diffusion_model.named_modules():
        if name.endswith(("to_q", "to_k")):  # peaked attention, as trained models have
            module.weight.data *= 2.0
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def _clip(model_class, tokenizer_class, names: list[str]):
    import comfy.sd

    target = SimpleNamespace(params={}, clip=model_class, tokenizer=tokenizer_class)
    options = {f"clip_{name}_model_config": dict(TEXT_CONFIG) for name in names}
    clip = comfy.sd.CLIP(target, model_options=options)
    randomise(clip.cond_stage_model, seed=2)
    return clip


def sd15(**unet):
    """(model, clip): eps prediction, convolutions around the transformer, 8 heads. ``unet`` changes its size."""
    import comfy.model_base
    import comfy.sd1_clip
    import comfy.supported_models

    config = comfy.supported_models.SD15({**UNET, "context_dim": 32, **unet})
    model = comfy.model_base.BaseModel(config, model_type=comfy.model_base.ModelType.EPS)
    return _patcher(model), _clip(comfy.sd1_clip.SD1ClipModel, comfy.sd1_clip.SD1Tokenizer, ["l"])


def sd2():
    """(model, clip): v prediction, linear layers around the transformer, OpenCLIP."""
    import comfy.model_base
    import comfy.supported_models
    import comfy.text_encoders.sd2_clip as sd2_clip

    config = comfy.supported_models.SD20({**UNET, "context_dim": 32, "use_linear_in_transformer": True})
    config.unet_config["num_head_channels"] = 16  # 64 in the real one
    model = comfy.model_base.BaseModel(config, model_type=comfy.model_base.ModelType.V_PREDICTION)
    return _patcher(model), _clip(sd2_clip.SD2ClipModel, sd2_clip.SD2Tokenizer, ["h"])


def sdxl():
    """(model, clip): two text encoders, pooled rows and sizes through the label embedding, deeper transformers."""
    import comfy.model_base
    import comfy.sdxl_clip
    import comfy.supported_models

    unet = {
        **UNET,
        "context_dim": 64,
        "use_linear_in_transformer": True,
        "transformer_depth": [0, 2, 1],
        "transformer_depth_output": [1, 1, 2, 2, 0, 0],
        "adm_in_channels": 32 + 6 * 256,
        "num_classes": "sequential",
    }
    config = comfy.supported_models.SDXL(unet)
    config.unet_config["num_head_channels"] = 16  # 64 in the real one
    model = comfy.model_base.SDXL(config, model_type=comfy.model_base.ModelType.EPS)
    return _patcher(model), _clip(comfy.sdxl_clip.SDXLClipModel, comfy.sdxl_clip.SDXLTokenizer, ["l", "g"])


def sdxl_refiner():
    """(model, clip): the bigger of SDXL's text encoders alone, an aesthetic score in the label embedding."""
    import comfy.model_base
    import comfy.sdxl_clip
    import comfy.supported_models

    unet = {
        **UNET,
        "context_dim": 32,
        "use_linear_in_transformer": True,
        "adm_in_channels": 32 + 5 * 256,
        "num_classes": "sequential",
    }
    config = comfy.supported_models.SDXLRefiner(unet)
    config.unet_config["num_head_channels"] = 16  # 64 in the real one
    model = comfy.model_base.SDXLRefiner(config, model_type=comfy.model_base.ModelType.EPS)
    return _patcher(model), _clip(comfy.sdxl_clip.SDXLRefinerClipModel, _refiner_tokenizer, ["g"])


def _refiner_tokenizer(**options):
    import comfy.sd1_clip
    import comfy.sdxl_clip

    return comfy.sd1_clip.SD1Tokenizer(clip_name="g", tokenizer=comfy.sdxl_clip.SDXLClipGTokenizer, **options)


def control_net(unet):
    """A ControlNet of the host's for a UNet of this config."""
    import comfy.cldm.cldm
    import comfy.controlnet

    config = {key: value for key, value in unet.items() if key != "out_channels"}
    config["transformer_depth"] = list(config["transformer_depth"])
    model = comfy.cldm.cldm.ControlNet(hint_channels=3, **config)
    randomise(model, seed=4)
    return comfy.controlnet.ControlNet(model, load_device=torch.device("cpu"))


FAMILIES = {"sd15": sd15, "sd2": sd2, "sdxl": sdxl}
