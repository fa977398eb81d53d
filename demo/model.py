"""The demo model's architecture and its loader. Everything is made of the host's (ComfyUI's) own classes.

=============  ==============================================================================================
denoiser       ``UNetModel``, eps prediction on SD's beta schedule, cross-attention (``BasicTransformerBlock``)
               at 16x16 and 8x8 for a picture of 128x128 (a latent of 4x16x16)
text model     CLIP text transformer behind SD 1.x's tokenizer (``SD1Tokenizer``, ``SDClipModel``)
autoencoder    ``AutoencoderKL`` behind the ``VAE`` wrapper; works on 2x2 pixel patches, so that three levels make /8
=============  ==============================================================================================

The only file of ``demo/`` that imports the host, together with ``node.py`` that uses it.
"""

import logging
from pathlib import Path

import comfy.latent_formats
import comfy.ldm.models.autoencoder
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import torch
from safetensors import safe_open

WEIGHTS = Path(__file__).parent / "weights" / "p2p_demo.safetensors"

PARTS = ("unet", "flow", "text", "autoencoder", "latent")  # what the tensors of our files are called after

BOS, EOS, VOCABULARY_SIZE = 49406, 49407, 49408

TEXT = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "eos_token_id": EOS,
    "vocab_size": VOCABULARY_SIZE,
}

UNET = {
    "image_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 96,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 0],
    "use_spatial_transformer": True,
    "context_dim": TEXT["hidden_size"],
    "use_linear_in_transformer": False,
    "legacy": False,
    "adm_in_channels": None,
}

PATCH = 2
AUTOENCODER = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 128 // PATCH,
    "in_channels": 3 * PATCH**2,
    "out_ch": 3 * PATCH**2,
    "ch": 32,
    "ch_mult": [1, 2, 4],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def with_patches(autoencoder):
    """Let an ``AutoencoderKL`` of 3·PATCH² channels take and give RGB: (B,3,H,W) <-> (B,3·PATCH²,H/PATCH,W/PATCH).

    Its norms have 32 groups. With as few as 32 channels that is instance normalisation, which forgets how bright
    and how colourful the picture is: so a group is made of 16 channels here.
    """
    for layer in autoencoder.modules():
        if isinstance(layer, torch.nn.GroupNorm):
            layer.num_groups = layer.num_channels // 16
    autoencoder.encoder.conv_in = torch.nn.Sequential(torch.nn.PixelUnshuffle(PATCH), autoencoder.encoder.conv_in)
    autoencoder.decoder.conv_out = torch.nn.Sequential(autoencoder.decoder.conv_out, torch.nn.PixelShuffle(PATCH))
    return autoencoder


def new_autoencoder():
    return with_patches(
        comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=AUTOENCODER, embed_dim=AUTOENCODER["z_channels"])
    )


class TextEncoder(comfy.sd1_clip.SDClipModel):
    """SD 1.x's text encoder at a small size, with zero rows for EOS and padding.

    A causal text model gathers the whole sentence in EOS, and in the padding after it. Attention that reads it there
    makes every word's own column worthless: re-weighting the word would do nothing. Leaving "end" out of the special
    tokens makes the host count EOS as padding, and ``zero_out_masked`` makes it zero.
    """

    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config=dict(TEXT),
            zero_out_masked=True,
            special_tokens={"start": BOS, "pad": EOS},
            return_projected_pooled=False,
            model_options=model_options,
        )


class TextModel(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(device=device, dtype=dtype, model_options=model_options, clip_model=TextEncoder)


class LatentFormat(comfy.latent_formats.LatentFormat):
    """Unit variance per channel, which is folded into the autoencoder; previews use a fitted linear map to RGB."""

    def __init__(self, rgb_factors=None, rgb_bias=None):
        self.latent_rgb_factors = rgb_factors or [[0.0] * 3] * 4
        self.latent_rgb_factors_bias = rgb_bias


class ModelConfig(comfy.supported_models_base.BASE):
    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}
    latent_format = LatentFormat
    memory_usage_factor = 1.0


def new_denoiser(device=None):
    """The host's ``BaseModel`` around the host's ``UNetModel``, eps prediction; float32 throughout."""
    config = ModelConfig(UNET)
    config.set_inference_dtype(torch.float32, None)
    return comfy.model_base.BaseModel(config, model_type=comfy.model_base.ModelType.EPS, device=device)


def load_demo_model(path=None):
    """Load the bundled text-to-image model as three ordinary ComfyUI objects.

    Args:
        path: a weights file written by ``train.py --stage export``; default the one beside this module.

    Returns:
        (model, clip, vae): ``ModelPatcher``, ``CLIP``, ``VAE``.

    Raises:
        FileNotFoundError: there is no weights file at ``path``.
        ValueError: the file is not one of this model's.
    """
    tensors, metadata = read_weights(Path(path) if path else WEIGHTS, ("unet", "text", "autoencoder", "latent"))
    denoiser = new_denoiser(comfy.model_management.unet_offload_device())
    fill(denoiser.diffusion_model, tensors["unet"])
    model = patcher(denoiser, tensors["latent"], load_demo_model, path)
    clip = load_clip(comfy.sd1_clip.SD1Tokenizer, TextModel, tensors["text"])
    vae = load_vae(tensors["autoencoder"])
    logging.info("demo model: %s", metadata.get("recipe", ""))
    return model, clip, vae


def patcher(denoiser, latent, load, path):
    """The host's ``ModelPatcher`` around a denoiser, whose previews use the part ``latent`` of the file."""
    manager = comfy.model_management
    denoiser.latent_format = LatentFormat(latent["rgb_factors"].tolist(), latent["rgb_bias"].tolist())
    model = comfy.model_patcher.ModelPatcher(
        denoiser, load_device=manager.get_torch_device(), offload_device=manager.unet_offload_device()
    )
    model.cached_patcher_init = (_load_model_again, (load, path))  # newer hosts: for another card or kind of patcher
    return model


def _load_model_again(load, path, disable_dynamic=False):
    """A ``ModelPatcher`` with weights of its own. ``disable_dynamic`` is the host's, of a kind that this one is not."""
    return load(path)[0]


def load_clip(tokenizer, text_model, text):
    """The host's ``CLIP`` around a text model of one part, filled with the file's part ``text``."""
    clip = comfy.sd.CLIP(
        comfy.supported_models_base.ClipTarget(tokenizer, text_model), model_options={"dtype": torch.float32}
    )
    whole = clip.cond_stage_model
    fill(getattr(whole, whole.clip), _with_full_vocabulary(text))
    return clip


def read_weights(path, wanted):
    """``{part: {name: float32 tensor}}`` of the ``wanted`` parts of a file, and the file's metadata."""
    if not path.is_file():
        raise FileNotFoundError(
            f"wanted the demo model's weights at {path}, got no file. Restore it from the repository, or make it "
            f"with `python dev.py train{' flow' if 'flow' in wanted else ''}`."
        )
    parts = {part: {} for part in wanted}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        for key in file.keys():
            part, _, name = key.partition(".")
            if part not in PARTS:
                raise ValueError(
                    f"wanted the demo model's weights, got {path} with an unknown tensor {key!r}. "
                    f"Load such a checkpoint with the host's own loader node."
                )
            if part in parts:
                tensor = file.get_tensor(key)
                parts[part][name] = tensor.float() if tensor.is_floating_point() else tensor
    return parts, metadata


def fill(module, state):
    """``load_state_dict`` that allows only the text model's unused output projection to be missing."""
    missing, unexpected = module.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith(("text_projection.weight", "logit_scale"))]
    if missing or unexpected:
        raise ValueError(
            f"the weights file does not fit this architecture: missing {missing[:3]}, unexpected "
            f"{unexpected[:3]}. Use the file and the code of one release."
        )


TOKEN_TABLE = "transformer.text_model.embeddings.token_embedding.weight"


def _with_full_vocabulary(text):
    """Expand the stored token table: row i of ``tokens`` belongs to CLIP id ``token_ids[i]``; id -1 is the fallback.

    The file holds only the words the model knows. Every other CLIP token gets the fallback row, which training used
    for words that say nothing.
    """
    text = dict(text)
    ids, rows = text.pop("token_ids"), text.pop("tokens")
    table = rows[ids == -1].expand(VOCABULARY_SIZE, -1).clone()
    table[ids[ids >= 0]] = rows[ids >= 0]
    text[TOKEN_TABLE] = table
    text["transformer.text_projection.weight"] = torch.eye(TEXT["hidden_size"])
    return text


def load_vae(state):
    """The host's VAE wrapper around the patched autoencoder.

    The wrapper fills its module before the patch layers can be put in, so it gets the file's names without them.
    """
    plain = {
        name.replace("conv_in.1.", "conv_in.").replace("decoder.conv_out.0.", "decoder.conv_out."): value
        for name, value in state.items()
    }
    config = {"params": {"ddconfig": AUTOENCODER, "embed_dim": AUTOENCODER["z_channels"]}}
    vae = comfy.sd.VAE(sd=plain, config=config, dtype=torch.float32)
    with_patches(vae.first_stage_model)
    return vae
