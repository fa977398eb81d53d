"""The second demo model's denoiser: a rectified flow with joint attention, the host's own ``Flux`` class.

=============  ==============================================================================================
denoiser       ``Flux``: 3 double and 4 single blocks of 192 channels, 6 heads; patches of 2x2 latent pixels,
               64 image tokens for a picture of 128x128, behind 28 text tokens; v prediction, sigma = t
text model     the first model's, trained on with this denoiser; rows after the last word are zero, no mask
autoencoder    the first model's
=============  ==============================================================================================
"""

import logging
import re
from pathlib import Path

import comfy.model_base
import comfy.model_management
import comfy.sd1_clip
import comfy.supported_models_base
import torch
from comfy.ldm.flux.model import FluxParams

from . import model as first
from .model import EOS, TEXT, LatentFormat, TextEncoder, fill, load_clip, load_vae, patcher, read_weights

WEIGHTS = Path(__file__).parent / "weights" / "p2p_demo_flow.safetensors"

FLUX = {
    "image_model": "flux",
    "in_channels": 4,
    "out_channels": 4,
    "vec_in_dim": None,
    "context_in_dim": TEXT["hidden_size"],
    "hidden_size": 192,
    "mlp_ratio": 4.0,
    "num_heads": 6,
    "depth": 3,
    "depth_single_blocks": 4,
    "axes_dim": [8, 12, 12],
    "theta": 1000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": False,
}
TEXT_LENGTH = 28  # the longest caption of the grammar, with BOS


class ModelConfig(comfy.supported_models_base.BASE):
    unet_extra_config: dict = {}
    sampling_settings = {"multiplier": 1.0, "shift": 1.0}
    latent_format = LatentFormat
    memory_usage_factor = 1.0


class Flow(comfy.model_base.Flux):
    """The host's, without the pooled text that this model does not take."""

    def encode_adm(self, **kwargs):
        return None


def new_denoiser(device=None, guidance_embed=False):
    """The host's ``BaseModel`` around the host's ``Flux``, rectified flow; float32 throughout."""
    newer = {"txt_ids_dims": []} if "txt_ids_dims" in FluxParams.__annotations__ else {}
    config = ModelConfig({**FLUX, **newer, "guidance_embed": guidance_embed})
    config.set_inference_dtype(torch.float32, None)
    return Flow(config, model_type=comfy.model_base.ModelType.FLOW, device=device)


def as_the_host_names_them(state, module):
    """The factors of the norms of queries and keys are called ``scale`` in the file, as in hosts up to 0.3; newer ones
    call them ``weight``."""
    there = module.state_dict()
    new_name = {name.removesuffix(".weight") + ".scale": name for name in there if name.endswith("_norm.weight")}
    return {new_name.get(name, name): value for name, value in state.items()}


def as_the_file_names_them(state):
    """The other way round."""
    return {re.sub(r"(query|key)_norm\.weight$", r"\1_norm.scale", name): value for name, value in state.items()}


class FlowDemoTokenizer(comfy.sd1_clip.SD1Tokenizer):
    """SD 1.x's. By this name the pack tells the text encoder from that of SD 1.x."""

    def __init__(self, embedding_directory=None, tokenizer_data={}):
        super().__init__(embedding_directory, tokenizer_data, name="caption")


class TextModel(comfy.sd1_clip.SD1ClipModel):
    """The first model's, of whose 77 rows only those of training are kept, or as many as a longer text has words."""

    def __init__(self, device="cpu", dtype=None, model_options={}):
        super().__init__(device, dtype, model_options, clip_model=TextEncoder, name="caption")

    def encode_token_weights(self, token_weight_pairs):
        context, *others = super().encode_token_weights(token_weight_pairs)
        chunk, *more = token_weight_pairs[self.clip_name]
        if not more:
            said = next(i for i, (token, *_) in enumerate(chunk) if not torch.is_tensor(token) and token == EOS)
            context = context[:, : max(TEXT_LENGTH, said)]
        return context, *others


def load_flow_model(path=None):
    """Load the bundled flow model as three ordinary ComfyUI objects; see ``load_demo_model``.

    Args:
        path: a weights file written by ``flow.py --stage export``; default the one beside this module.
    """
    tensors, metadata = read_weights(Path(path) if path else WEIGHTS, ("flow", "text"))
    shared, _ = read_weights(first.WEIGHTS, ("autoencoder", "latent"))
    denoiser = new_denoiser(comfy.model_management.unet_offload_device())
    fill(denoiser.diffusion_model, as_the_host_names_them(tensors["flow"], denoiser.diffusion_model))
    model = patcher(denoiser, shared["latent"], load_flow_model, path)
    clip = load_clip(FlowDemoTokenizer, TextModel, tensors["text"])
    vae = load_vae(shared["autoencoder"])
    logging.info("flow demo model: %s", metadata.get("recipe", ""))
    return model, clip, vae
