"""UNets with cross-attention: SD 1.x, SD 2.x, SDXL and what is derived from them, read by CLIP.

Attention is edited *before* its projections, by the host's patches of attn1 and attn2: rows of the hidden state and of
the context are exchanged. That is cheaper than after them, and leaves the single slot of an attention override free.
"""

from __future__ import annotations

import hashlib
import math
from functools import cache
from typing import Any

import comfy.model_sampling
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ...attention import (
    coarse_enough,
    merge_cross_attention,
    rewrite_cross_attention,
    rewrite_self_attention,
)
from ...invert import Variance, variance_of_diffusion
from ...maps import attention_probs
from ...prompt import Piece, Prompt, PromptPair, build_prompt, quoted
from .. import KEY
from ..attention_calls import AttentionCalls
from .family import Grid, Layer

CLIP_STREAMS = {"l", "g", "h"}  # CLIP ViT-L, OpenCLIP bigG, OpenCLIP H
LARGEST_WEIGHT = 1e4  # of a word; beyond, half precision overflows
PROGRAM_KEY = "p2p_program"  # from the patch of a cross-attention to the patch of its output
WHOLE_CHUNKS_KEY = "p2p_whole_chunks"  # whether other patches of a model call may take its rows apart by chunks


class UNet:
    """The family, see ``Family``."""

    supported = "UNets with cross-attention: SD 1.x, SD 2.x, SDXL and what is derived from them"
    pads_texts = False

    # ------------------------------------------------------------------------------------------------------ texts

    def reads(self, clip: Any) -> bool:
        return set(clip.tokenize("")) <= CLIP_STREAMS

    def read(self, clip: Any, text: str) -> Prompt:
        try:
            streams = clip.tokenize(text, return_word_ids=True)
        except (RecursionError, UnicodeError, TypeError, IndexError) as error:  # nesting, half characters, "embedding:"
            raise ValueError(
                f"Wanted a prompt that the text encoder can read, got {quoted(text)}: {error}. Look for many nested "
                "parentheses, for an 'embedding:' without a name, and for broken characters."
            ) from error
        prompts = [
            build_prompt(text, [[_piece(clip, *entry) for entry in chunk] for chunk in chunks])
            for chunks in streams.values()
        ]
        if any(prompt.words != prompts[0].words or prompt.length != prompts[0].length for prompt in prompts):
            raise ValueError(
                f"Wanted a prompt that both text encoders read alike, got {quoted(text)}. It may name an embedding "
                "made for one of them only: remove it."
            )
        return prompts[0]

    # ------------------------------------------------------------------------------------------------------ models

    def takes(self, model: Any) -> bool:
        return isinstance(model.model.diffusion_model, UNetModel) and model.model.latent_format.latent_dimensions == 2

    def require(self, model: Any, pair: PromptPair | None) -> None:
        unet, kind = model.model.diffusion_model, type(model.model).__name__
        blocks = [block for block in unet.modules() if isinstance(block, BasicTransformerBlock)]
        self.require_loaded(unet)
        if any(block.disable_self_attn for block in blocks):
            raise ValueError(
                f"Wanted a UNet with self-attention in all its transformers, got {kind}. Supported are "
                f"{self.supported}."
            )
        widths = {block.attn2.to_k.in_features for block in blocks if block.attn2 is not None}
        if not widths:
            raise ValueError(
                f"Wanted a UNet with cross-attention, got {kind} without any. Supported are {self.supported}."
            )
        if pair is not None and widths != {pair.context_dim}:
            raise ValueError(
                f"Wanted a prompt pair of width {min(widths)} for this model ({kind}), got width {pair.context_dim}: "
                "it was made by another model's text encoder. Connect the CLIP of this checkpoint to P2P Prompt Pair."
            )

    def require_loaded(self, diffusion_model: torch.nn.Module) -> None:
        """Layers over time mix the batch's rows, which are its frames."""
        kinds = {type(module).__name__ for module in diffusion_model.modules()}
        over_time = sorted(kind for kind in kinds if any(word in kind for word in ("Video", "Motion", "Temporal")))
        if over_time:
            raise ValueError(
                f"Wanted an image UNet, got a video model, with {', '.join(over_time)}. Supported are "
                f"{self.supported}. Remove the node that adds motion, or use an image checkpoint."
            )

    def variance(self, model: Any) -> Variance:
        if isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST):
            raise ValueError(
                "Wanted a model that predicts noise or velocity of a diffusion (SD 1.x, SD 2.x, SDXL), got a flow "
                "model, whose way back is another one. Use a diffusion checkpoint, or remove ModelSamplingFlux / SD3 "
                "nodes."
            )
        return variance_of_diffusion

    # ------------------------------------------------------------------------------------------------------ layers

    def layers(self, model: Any) -> dict[tuple[str, int, int], Layer]:
        """(block, number, index), as the host names a layer. Self-attention maps come from each stack's first block."""
        found = _transformers(model.model.diffusion_model)
        return {
            name: Layer(level, frozenset(("cross", "self") if name[-1] == 0 else ("cross",)))
            for name, (_, level) in found.items()
        }

    def grids(self, model: Any, size: tuple[int, int]) -> list[Grid]:
        finest_first = [size]
        for _ in range(max((level for _, level in _transformers(model.model.diffusion_model).values()), default=0)):
            finest_first.append((-(-finest_first[-1][0] // 2), -(-finest_first[-1][1] // 2)))  # halved, rounding up
        return finest_first

    def injects(self, grid: Grid, size: tuple[int, int]) -> bool:
        return coarse_enough(math.prod(grid), *size)

    # ------------------------------------------------------------------------------------------------------- hooks

    def install(self, model: Any, model_options: dict, calls: AttentionCalls) -> None:
        layers_of = cache(_transformers)  # of the model that is called: with several cards, each has its own

        def see(attention, hidden, context, extra_options):
            name = (*extra_options["block"], extra_options["block_index"])
            grid = tuple(extra_options["activations_shape"][-2:])
            if not calls.wants(attention, name) or hidden.shape[1] != math.prod(grid):
                return

            def probs(rows):
                block, _ = layers_of(extra_options[KEY].model.diffusion_model)[name]
                layer = block.attn2 if attention == "cross" else block.attn1
                rows = rows.to(hidden.device)
                return attention_probs(layer.to_q(hidden[rows]), layer.to_k(context[rows]), layer.heads)

            calls.see(attention, name, extra_options, grid, probs)

        def program_of(hidden, length, extra_options):
            whole_chunks = extra_options.get(WHOLE_CHUNKS_KEY, False)
            return calls.program(extra_options, len(hidden), length, hidden.device, hidden.dtype, whole_chunks)

        def cross_attention(hidden, context, value, extra_options):
            program = program_of(hidden, context.shape[1], extra_options)
            see("cross", hidden, context, extra_options)
            if program is None or not program.edits_cross_attention:
                return hidden, context, value
            extra_options[PROGRAM_KEY] = program  # one dictionary per block call: the output patch finds it there
            return rewrite_cross_attention(program, hidden, context, value)

        def cross_attention_output(output, extra_options):
            program = extra_options.pop(PROGRAM_KEY, None)
            if program is None:
                return output
            if len(output) != len(program.query):
                raise ValueError(
                    f"Wanted {len(program.query)} rows from cross-attention, got {len(output)}: another node expands "
                    "the batch there and does not undo it. Remove it from the model; Conditioning (Set Area / Set "
                    "Mask) works."
                )
            return merge_cross_attention(program, output)

        def self_attention(hidden, context, value, extra_options):
            see("self", hidden, context, extra_options)
            if not coarse_enough(hidden.shape[1], *extra_options["original_shape"][-2:]):
                return hidden, context, value
            program = program_of(hidden, None, extra_options)
            if program is None or program.self_query is None:
                return hidden, context, value
            return rewrite_self_attention(program, hidden, context, value)

        patches = model_options.setdefault("transformer_options", {}).setdefault("patches", {})
        # A compiled model calls them as they are: they hold no layer, and what they look up changes from step to step.
        cross_attention, cross_attention_output, self_attention = map(
            torch.compiler.disable, (cross_attention, cross_attention_output, self_attention)
        )
        others = {name: patches.get(name, []) for name in ("attn1_patch", "attn2_patch", "attn2_output_patch")}
        patches["attn1_patch"] = [self_attention, *others["attn1_patch"]]
        patches["attn2_patch"] = [cross_attention, *others["attn2_patch"]]
        if others["attn2_patch"]:  # first in, last out: what they did to the rows after us, they undo before us
            patches["attn2_output_patch"] = [*others["attn2_output_patch"], cross_attention_output]
        else:
            patches["attn2_output_patch"] = [cross_attention_output, *others["attn2_output_patch"]]
        add_wrapper_with_key(
            WrappersMP.APPLY_MODEL, KEY, _note_whether_others_see_rows, model_options, is_model_options=True
        )


def _note_whether_others_see_rows(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
    """Another node's patch that sees the rows of cross-attention may take them apart by chunks."""
    patches = transformer_options.get("patches", {})
    seen = bool(len(patches.get("attn2_patch", ())) > 1 or transformer_options.get("patches_replace", {}).get("attn2"))
    transformer_options = {**transformer_options, WHOLE_CHUNKS_KEY: seen}
    return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)


def _piece(clip: Any, token: int | torch.Tensor, weight: float, group: int) -> Piece:
    if not abs(weight) <= LARGEST_WEIGHT:  # also for NaN
        raise ValueError(
            f"Wanted weights up to {LARGEST_WEIGHT:g}, as in (word:1.2), got {weight:g}. Change it in the prompt; each "
            "pair of parentheses is a factor of 1.1."
        )
    if not isinstance(token, torch.Tensor):
        return Piece(int(token), clip.tokenizer.untokenize([(token, weight)])[0][1], group)
    digest = hashlib.sha1(token.detach().float().cpu().numpy().tobytes()).hexdigest()
    return Piece(digest, "(embedding)", group)


def _transformers(unet: UNetModel) -> dict[tuple[str, int, int], tuple[BasicTransformerBlock, int]]:
    """(block, number, index) -> the layer, and how often the latent is halved before it."""
    layers: dict[tuple[str, int, int], tuple[BasicTransformerBlock, int]] = {}
    level, levels = 0, []
    for number, block in enumerate(unet.input_blocks):
        level += any(isinstance(module, Downsample) for module in block.modules())
        levels.append(level)
        layers |= _transformers_in(block, ("input", number), level)
    if unet.middle_block is not None:
        layers |= _transformers_in(unet.middle_block, ("middle", 0), level)
    for number, block in enumerate(unet.output_blocks):
        layers |= _transformers_in(block, ("output", number), levels[-1 - number])
    return layers


def _transformers_in(block: torch.nn.Module, name: tuple[str, int], level: int) -> dict:
    transformers = [module for module in block.modules() if isinstance(module, BasicTransformerBlock)]
    return {(*name, index): (module, level) for index, module in enumerate(transformers) if module.attn2 is not None}
