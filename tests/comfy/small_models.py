"""Small models of the host's own classes with random weights.

FAMILIES are SD 1.5, SD 2, SDXL and what is derived from them, in miniature; OTHERS are the kinds that cannot be edited.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch
from real_host import DEVICE

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
ONE_STAGE = {"channel_mult": [1], "num_res_blocks": [1], "transformer_depth": [1], "transformer_depth_output": [1, 1]}
SDXL_UNET = {
    **UNET,
    "context_dim": 64,
    "use_linear_in_transformer": True,
    "transformer_depth": [0, 2, 1],
    "transformer_depth_output": [1, 1, 2, 2, 0, 0],
    "adm_in_channels": 32 + 6 * 256,
    "num_classes": "sequential",
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
    return comfy.model_patcher.ModelPatcher(model, torch.device(DEVICE), torch.device("cpu"))


def _clip(model_class, tokenizer_class, names: list[str]):
    import comfy.sd

    target = SimpleNamespace(params={}, clip=model_class, tokenizer=tokenizer_class)
    options = {f"clip_{name}_model_config": dict(TEXT_CONFIG) for name in names}
    clip = comfy.sd.CLIP(target, model_options=options)
    randomise(clip.cond_stage_model, seed=2)
    return clip


def sd15(heads=4, **unet):
    """(model, clip): eps prediction, convolutions around the transformer. ``unet`` changes its size."""
    import comfy.model_base
    import comfy.sd1_clip
    import comfy.supported_models

    config = comfy.supported_models.SD15({**UNET, "context_dim": 32, **unet})
    config.unet_config["num_heads"] = heads  # 8 in the real one
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

    config = comfy.supported_models.SDXL(dict(SDXL_UNET))
    config.unet_config["num_head_channels"] = 16  # 64 in the real one
    model = comfy.model_base.SDXL(config, model_type=comfy.model_base.ModelType.EPS)
    return _patcher(model), _clip(comfy.sdxl_clip.SDXLClipModel, comfy.sdxl_clip.SDXLTokenizer, ["l", "g"])


def vega():
    """(model, clip): SDXL with transformers of unequal depth and none in the middle, as the distilled ones have."""
    import comfy.model_base
    import comfy.sdxl_clip
    import comfy.supported_models

    unet = {
        **SDXL_UNET,
        "transformer_depth": [0, 1, 2],
        "transformer_depth_output": [0, 0, 1, 1, 2, 3],
        "transformer_depth_middle": -1,
    }
    config = comfy.supported_models.Segmind_Vega(unet)
    config.unet_config["num_head_channels"] = 16
    model = comfy.model_base.SDXL(config, model_type=comfy.model_base.ModelType.EPS)
    return _patcher(model), _clip(comfy.sdxl_clip.SDXLClipModel, comfy.sdxl_clip.SDXLTokenizer, ["l", "g"])


def refiner():
    """(model, clip): OpenCLIP bigG alone, pooled rows, sizes and an aesthetic score that differs for the negative."""
    import comfy.model_base
    import comfy.sdxl_clip
    import comfy.supported_models

    unet = {
        **SDXL_UNET,
        "context_dim": 32,
        "transformer_depth": [0, 2, 0],
        "transformer_depth_output": [0, 0, 2, 2, 0, 0],
        "adm_in_channels": 32 + 5 * 256,
    }
    config = comfy.supported_models.SDXLRefiner(unet)
    config.unet_config["num_head_channels"] = 16
    model = comfy.model_base.SDXLRefiner(config)

    def tokenizer(**settings):
        import comfy.sd1_clip

        return comfy.sd1_clip.SD1Tokenizer(clip_name="g", tokenizer=comfy.sdxl_clip.SDXLClipGTokenizer, **settings)

    return _patcher(model), _clip(comfy.sdxl_clip.SDXLRefinerClipModel, tokenizer, ["g"])


def unclip():
    """(model, clip): SD 2.1 that is shown a picture beside the text, through the label embedding."""
    import comfy.model_base
    import comfy.supported_models
    import comfy.text_encoders.sd2_clip as sd2_clip

    unet = {**UNET, "context_dim": 32, "use_linear_in_transformer": True}
    config = comfy.supported_models.SD21UnclipL({**unet, "adm_in_channels": 2 * 16, "num_classes": "sequential"})
    config.unet_config["num_head_channels"] = 16
    noise = {"noise_schedule_config": {"timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}, "timestep_dim": 16}
    model = comfy.model_base.SD21UNCLIP(config, noise)
    return _patcher(model), _clip(sd2_clip.SD2ClipModel, sd2_clip.SD2Tokenizer, ["h"])


def inpaint():
    """(model, clip): SD 1.5 whose UNet sees a mask and a masked picture beside the latent, 9 channels."""
    model, clip = sd15(in_channels=9)
    model.model.set_inpaint()
    return model, clip


def instruct_pix2pix():
    """(model, clip): SD 1.5 whose UNet sees the picture to edit beside the latent, 8 channels."""
    import comfy.model_base
    import comfy.sd1_clip
    import comfy.supported_models

    config = comfy.supported_models.SD15_instructpix2pix({**UNET, "context_dim": 32, "in_channels": 8})
    config.unet_config["num_heads"] = 4
    model = comfy.model_base.SD15_instructpix2pix(config)
    return _patcher(model), _clip(comfy.sd1_clip.SD1ClipModel, comfy.sd1_clip.SD1Tokenizer, ["l"])


def control_net(unet):
    """A ControlNet of the host's for a UNet of this config."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    config = {key: value for key, value in unet.items() if key not in ("out_channels", "transformer_depth_output")}
    config["transformer_depth"] = list(config["transformer_depth"])
    net = comfy.cldm.cldm.ControlNet(hint_channels=3, **config, operations=comfy.ops.manual_cast)
    net.dtype = torch.float32
    randomise(net, seed=4)
    return comfy.controlnet.ControlNet(net, load_device=torch.device(DEVICE))


FAMILIES = {
    "sd15": sd15,
    "sd2": sd2,
    "sdxl": sdxl,
    "vega": vega,
    "refiner": refiner,
    "unclip": unclip,
    "inpaint": inpaint,
    "instruct_pix2pix": instruct_pix2pix,
}


SDXL_LIKE = ("sdxl", "vega", "refiner")  # deep transformers; with random weights they amplify what differs


def other(name: str):
    """A model of another kind, by its class in the host, as small as that class allows."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config_name, settings = OTHERS[name]
    config = getattr(comfy.supported_models, config_name)({**settings, "dtype": torch.float32})
    if "model_channels" in settings:
        config.unet_config["num_head_channels"] = 16
        config.unet_config["num_heads"] = -1
    model = getattr(comfy.model_base, name)(config)
    return comfy.model_patcher.ModelPatcher(model, torch.device(DEVICE), torch.device("cpu"))


VIDEO_UNET = {
    **UNET,
    "in_channels": 8,
    "context_dim": 32,
    "use_linear_in_transformer": True,
    "adm_in_channels": 768,
    "num_classes": "sequential",
    "use_temporal_attention": True,
    "use_temporal_resblock": True,
    "video_kernel_size": [3, 1, 1],
    "extra_ff_mix_layer": True,
    "use_spatial_context": True,
    "merge_strategy": "learned_with_images",
}
FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 32,
    "context_in_dim": 32,
    "hidden_size": 64,
    "mlp_ratio": 2.0,
    "num_heads": 4,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [4, 6, 6],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": False,
}
# class in comfy.model_base -> (class in comfy.supported_models, UNet settings)
OTHERS = {
    "PixArt": (
        "PixArtSigma",
        {"hidden_size": 72, "depth": 1, "num_heads": 4, "caption_channels": 32, "micro_condition": False},
    ),
    "HunyuanDiT": ("HunyuanDiT", {"hidden_size": 64, "depth": 4, "num_heads": 4}),
    "StableCascade_C": (
        "Stable_Cascade_C",
        {"c_cond": 32, "c_hidden": [32, 32], "nhead": [2, 2], "blocks": [[1, 1], [1, 1]], "stable_cascade_stage": "c"},
    ),
    "StableCascade_B": (
        "Stable_Cascade_B",
        {
            "c_cond": 32,
            "c_hidden": [32, 32, 32, 32],
            "nhead": [-1, -1, 2, 2],
            "blocks": [[1, 1, 1, 1], [1, 1, 1, 1]],
            "stable_cascade_stage": "b",
        },
    ),
    "LTXV": (
        "LTXV",
        {"cross_attention_dim": 64, "attention_head_dim": 16, "num_attention_heads": 4, "caption_channels": 32,
         "num_layers": 1},
    ),
    "SVD_img2vid": ("SVD_img2vid", VIDEO_UNET),
    "SV3D_u": ("SV3D_u", VIDEO_UNET),
    "SD_X4Upscaler": (
        "SD_X4Upscaler",
        {**UNET, "context_dim": 32, "in_channels": 7, "use_linear_in_transformer": True,
         "num_res_blocks": [1] * 4, "channel_mult": [1] * 4, "transformer_depth": [1, 1, 1, 0],
         "transformer_depth_output": [1] * 6 + [0] * 2},
    ),
}  # fmt: skip
