"""Transformers in which text and image share one softmax: Flux, Chroma, SD3, Qwen-Image, Z-Image, HiDream and others.

The cross window gates the text's columns, the self window the picture's; text queries keep their own map. Reference
pictures (Flux Kontext, Qwen-Image-Edit) are part of the picture's tokens, as queries and as keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ...attention import WAYS
from ...joint_attention import TokenLayout
from ...maps import middle_third
from ...prompt import Prompt
from ...text_places import TextPlaces, arrange
from .transformer import Architecture, TextCall, Transformer, width_of

MMDIT_MAPS = {  # by depth: Helbling et al.'s and others' choice of SD3's blocks, the medium ones have 24
    24: (4, 5, 7, 8, 9),
    38: (16, 18, 20, 21, 24),
}
FLUX_MAPS = (11, 12, 14, 17, 18)  # of 19 double blocks


def _flux_blocks(module: Any) -> list[tuple[str, int]]:
    double, single = len(module.double_blocks), len(module.single_blocks)
    return [("double", i) for i in range(double)] + [("single", i) for i in range(single)]


def _flux_maps(module: Any) -> Sequence[int]:
    return FLUX_MAPS if len(module.double_blocks) == 19 else middle_third(len(_flux_blocks(module)))


def _blocks_of(name: str) -> Callable[[Any], list[tuple[str, int]]]:
    return lambda module: [("double", i) for i in range(len(getattr(module, name)))]


def _aura_blocks(module: Any) -> list[tuple[str, int]]:
    return [("joint", i) for i in range(len(module.double_layers) + len(module.single_layers))]


def _krea_blocks(module: Any) -> list[tuple[str, int]]:
    return [("single", i) for i in range(len(module.blocks))]


def _hidream_blocks(module: Any) -> list[tuple[str, int]]:
    double, single = len(module.double_stream_blocks), len(module.single_stream_blocks)
    return [("double", i) for i in range(double)] + [("single", i) for i in range(single)]


def _hidream_positions(context: torch.Tensor, inputs: Mapping[str, Any]) -> int:
    """T5's rows, Llama's last layer and the layer that is the block's, one behind the other."""
    return context.shape[1] + 2 * inputs["encoder_hidden_states_llama3"].shape[2]


def _middle_of(blocks: Callable[[Any], list[tuple[str, int]]]) -> Callable[[Any], Sequence[int]]:
    return lambda module: middle_third(len(blocks(module)))


def _lumina_places(module: Any, positions: int) -> TextPlaces:
    """The picture stands behind the text, and Z-Image fills a text up to whole multiples."""
    multiple = getattr(module, "pad_tokens_multiple", None) or 1
    return TextPlaces(-(-positions // multiple) * multiple, at_end=True, multiple=multiple)


FLUX = Architecture(
    name="Flux.1",
    encoders=frozenset({"FluxTokenizer", "FlowDemoTokenizer"}),
    width=width_of("txt_in"),
    patch=lambda module: module.patch_size,
    blocks=_flux_blocks,
    map_blocks=_flux_maps,
    places=lambda module, positions: TextPlaces(positions),
)
FLUX2 = Architecture(
    name="Flux.2",
    encoders=frozenset({"Flux2Tokenizer", "KleinTokenizer", "KleinTokenizer8B"}),
    width=width_of("txt_in"),
    patch=lambda module: module.patch_size,
    blocks=_flux_blocks,
    map_blocks=_middle_of(_flux_blocks),
    places=lambda module, positions: TextPlaces(positions, at_end=True, least=512, prompt_last=True),
    moves=True,
)
ARCHITECTURES = {
    "flux.model.Flux": FLUX,
    "flux.model.Flux 2": FLUX2,
    "chroma.model.Chroma": Architecture(
        name="Chroma",
        encoders=frozenset({"PixArtTokenizer"}),
        width=width_of("txt_in"),
        patch=lambda module: module.patch_size,
        blocks=_flux_blocks,
        map_blocks=_flux_maps,
        places=lambda module, positions: TextPlaces(positions),
    ),
    "modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper": Architecture(
        name="SD3",
        encoders=frozenset({"SD3Tokenizer"}),
        width=width_of("context_embedder"),
        patch=lambda module: module.patch_size,
        blocks=_blocks_of("joint_blocks"),
        map_blocks=lambda module: MMDIT_MAPS.get(len(module.joint_blocks), middle_third(len(module.joint_blocks))),
        places=lambda module, positions: TextPlaces(positions + module.register_length, before=module.register_length),
        image_calls=True,
    ),
    "qwen_image.model.QwenImageTransformer2DModel": Architecture(
        name="Qwen-Image",
        encoders=frozenset({"QwenImageTokenizer"}),
        width=width_of("txt_in"),
        patch=lambda module: module.patch_size,
        blocks=_blocks_of("transformer_blocks"),
        map_blocks=_middle_of(_blocks_of("transformer_blocks")),
        places=lambda module, positions: TextPlaces(positions),
    ),
    "lumina.model.NextDiT": Architecture(
        name="Lumina 2 or Z-Image",
        encoders=frozenset({"LuminaTokenizer", "ZImageTokenizer"}),
        width=width_of("cap_embedder.1"),
        patch=lambda module: module.patch_size,
        blocks=_blocks_of("layers"),
        map_blocks=_middle_of(_blocks_of("layers")),
        places=_lumina_places,
        text_calls=lambda module: len(module.context_refiner),
        moves=True,
        filling="cap_pad_token",
        beside=frozenset({"ref_latents", "ref_contexts", "siglip_feats"}),
    ),
    "hidream.model.HiDreamImageTransformer2DModel": Architecture(
        name="HiDream",
        encoders=frozenset({"HiDreamTokenizer"}),
        width=lambda module: getattr(module.caption_projection[-1].linear, "in_features", None),
        patch=lambda module: module.patch_size,
        blocks=_hidream_blocks,
        map_blocks=_middle_of(_hidream_blocks),
        places=lambda module, positions: TextPlaces(positions),
        positions=_hidream_positions,
        text_last=True,
        beside=frozenset({"image_cond"}),
    ),
    "aura.mmdit.MMDiT": Architecture(
        name="AuraFlow",
        encoders=frozenset({"AuraT5Tokenizer"}),
        width=width_of("cond_seq_linear"),
        patch=lambda module: module.patch_size,
        blocks=_aura_blocks,
        map_blocks=_middle_of(_aura_blocks),
        places=lambda module, positions: TextPlaces(
            positions + module.register_tokens.shape[1], before=module.register_tokens.shape[1]
        ),
    ),
    "krea2.model.SingleStreamDiT": Architecture(
        name="Krea 2",
        encoders=frozenset({"Krea2Tokenizer"}),
        width=lambda module: module.txtlayers * module.txtdim,
        patch=lambda module: module.patch,
        blocks=_krea_blocks,
        map_blocks=_middle_of(_krea_blocks),
        places=lambda module, positions: TextPlaces(positions),
        text_calls=lambda module: len(module.txtfusion.refiner_blocks),
    ),
}


class Joint(Transformer):
    """The family, see ``Family``."""

    supported = "Flux, Chroma, SD3, Qwen-Image, Lumina 2, Z-Image, HiDream, AuraFlow and Krea 2"
    architectures = ARCHITECTURES
    telling = "joint"
    ways = WAYS

    def kind(self, model: Any) -> str:
        kind = super().kind(model)
        return (
            f"{kind} 2" if kind == "flux.model.Flux" and len(model.model.diffusion_model.params.axes_dim) == 4 else kind
        )

    def sort(self, state: TextCall, queries: int, keys: int) -> tuple[str, TokenLayout] | None:
        texts = state.places.length
        if queries != keys:
            return None
        if queries >= texts + state.images:
            first = queries - texts if state.architecture.text_last else 0
            return "joint", TokenLayout.joint(queries, range(first, first + texts))
        if queries == texts and state.seen.get("text", 0) < state.architecture.text_calls(state.module):
            return "text", TokenLayout.text_only(queries)
        if queries == state.images and state.architecture.image_calls:
            return "image", TokenLayout.image_only(queries)
        return None

    def require_call(self, architecture: Architecture, inputs: Mapping[str, Any]) -> None:
        there = (name for name in architecture.beside if inputs.get(name) is not None)
        beside = sorted(name for name in there if torch.is_tensor(inputs[name]) or inputs[name])
        if beside:
            raise ValueError(
                f"Wanted {architecture.name} without reference pictures, got {', '.join(beside)}, which stand among "
                "its own tokens. Remove the reference from the conditioning."
            )

    @contextmanager
    def arranged(
        self,
        module: Any,
        architecture: Architecture,
        context: torch.Tensor,
        prompts: Sequence[Prompt | None],
        images: int,
    ) -> Iterator[torch.Tensor]:
        """Where the picture's place follows the text's, texts of unequal length end together.

        Raises:
            ValueError: the model's own filling of the picture stands at a place that does not move with the text.
        """
        told = [prompt for prompt in prompts if prompt is not None]
        positions = context.shape[1]
        longest = max(prompt.length for prompt in told)
        if not architecture.moves or all(prompt.length == longest for prompt in told):
            yield context
            return
        lengths = [positions if prompt is None else prompt.length for prompt in prompts]
        starts = [0 if prompt is None else positions - longest for prompt in prompts]
        places = architecture.places(module, positions)
        blocks = [places.block(length) for length in lengths]
        multiple = places.multiple
        if multiple > 1 and images % multiple and len({len(block) for block in blocks}) > 1:
            raise ValueError(
                f"Wanted texts that {architecture.name} fills up to the same length (whole multiples of {multiple} "
                f"tokens) for pictures of {images} tokens, got {', '.join(str(prompt.length) for prompt in told)} "
                f"tokens. Make the texts equally long, or the picture's sides multiples of {16 * multiple} pixels."
            )
        spots = [places.prompt(length) for length in lengths]
        arranged = arrange(context, starts, spots, places.length)
        with _filled_up(module, architecture, blocks, spots, context.device):
            yield arranged


@contextmanager
def _filled_up(
    module: Any,
    architecture: Architecture,
    blocks: Sequence[range],
    prompts: Sequence[range],
    device: torch.device,
) -> Iterator[None]:
    """The model's own token stands where a text is filled up, for as long as a model call lasts."""
    filling = getattr(module, architecture.filling, None) if architecture.filling else None
    if filling is None:
        yield
        return
    if hasattr(module, "_orig_mod"):
        raise ValueError(
            f"Wanted texts that take equally many tokens in {architecture.name}, whose compiled model cannot be told "
            f"where shorter ones end, got {', '.join(str(len(prompt)) for prompt in prompts)}. Make the texts equally "
            "long, or remove the node that compiles the model."
        )
    length = blocks[0].stop
    filled = torch.zeros(len(blocks), length, 1, dtype=torch.bool)
    for row, block, prompt in zip(filled, blocks, prompts, strict=True):
        row[block.start : prompt.start] = row[prompt.stop : block.stop] = True
    filled = filled.to(device)

    def put(embedder, inputs, output):
        return torch.where(filled, filling.to(output), output)

    hook = module.cap_embedder.register_forward_hook(put)
    try:
        yield
    finally:
        hook.remove()
