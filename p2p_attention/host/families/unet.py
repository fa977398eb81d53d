"""UNets with cross-attention: SD 1.x, SD 2.x, SDXL and what is derived from them, read by CLIP.

Attention is edited *before* its projections, by the host's patches of attn1 and attn2: rows of the hidden state and of
the context are exchanged. That is cheaper than after them, and leaves the single slot of an attention override free.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import comfy.model_sampling
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ...attention import (
    Way,
    coarse_enough,
    merge_cross_attention,
    rewrite_cross_attention,
    rewrite_self_attention,
)
from ...invert import Variance, variance_of_diffusion
from ...maps import attention_probs
from ...prompt import Piece, Prompt, PromptPair, build_prompt, quoted
from ...strength import Strengths
from .. import KEY
from ..attention_calls import AttentionCalls
from .family import Grid, Layer

CLIP_STREAMS = {"l", "g", "h"}  # CLIP ViT-L, OpenCLIP bigG, OpenCLIP H
LARGEST_WEIGHT = 1e4  # of a word; beyond, half precision overflows
BEFORE_KEY = "p2p_before"  # what comes into a cross-attention, before other nodes' patches
PROGRAM_KEY = "p2p_program"  # from the patch of a cross-attention to the patch of its output
WHOLE_CHUNKS_KEY = "p2p_whole_chunks"  # whether others may take a model call's rows apart by chunks
NEGATIVE = 1  # in the host's cond_or_uncond
STRENGTHS: Strengths = (  # what they keep of the background and make of the edits: ``bench strength``
    (0.0, 1.0, 1.0),  # 26.1 dB, 66 %
    (0.25, 0.9, 0.6),  # 24.5 dB, 92 %
    (0.5, 0.8, 0.4),  # 23.8 dB, 93 %
    (0.75, 0.35, 0.1),  # 21.7 dB, 95 %
    (1.0, 0.0, 0.0),  # 20.5 dB, 96 %
)
# As people call them, by the name of the host's configuration.
NAMES = {"SD15": "SD 1.x", "SD20": "SD 2.x", "SDXL": "SDXL", "SDXLRefiner": "SDXL refiner"}


class UNet:
    """The family, see ``Family``."""

    supported = "UNets with cross-attention: SD 1.x, SD 2.x, SDXL and what is derived from them"
    pads_texts = False
    overwrites = False
    strengths: Strengths = STRENGTHS
    ways: tuple[Way, ...] = ("auto", "maps")

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
        unet, config = model.model.diffusion_model, type(model.model.model_config).__name__
        kind = NAMES.get(config, config)
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

    def finish_texts(self, model: Any, conds: Mapping[str, Sequence[dict]]) -> None:
        """A UNet attends to what the text encoder gave."""

    def variance(self, model: Any) -> Variance:
        if isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST):
            raise ValueError(
                "Wanted a model that predicts noise or velocity of a diffusion (SD 1.x, SD 2.x, SDXL), got a flow "
                "model, whose way back is another one. Use a diffusion checkpoint, or remove ModelSamplingFlux / SD3 "
                "nodes."
            )
        return variance_of_diffusion

    def embeds_guidance(self, model: Any) -> bool:
        return False

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

        checked: set[tuple] = set()  # layouts of other nodes' rows whose content was looked at

        def before_others(hidden, context, value, extra_options):
            extra_options[BEFORE_KEY] = hidden, context
            return hidden, context, value

        def cross_attention(hidden, context, value, extra_options):
            """After all other patches: they see the host's own rows, and their regions are no rows of ours."""
            call = extra_options[KEY]
            if call.rows is None:
                return hidden, context, value
            among = _rows_among(hidden, context, extra_options, calls, checked)
            program = calls.program(
                extra_options,
                len(hidden),
                context.shape[1],
                hidden.device,
                hidden.dtype,
                among is None and extra_options[WHOLE_CHUNKS_KEY],
                among,
            )
            see("cross", *(each if among is None else each[list(among)] for each in (hidden, context)), extra_options)
            if program is None or not program.edits_cross_attention:
                return hidden, context, value
            extra_options[PROGRAM_KEY] = program  # one dictionary per block call: the output patch finds it there
            return rewrite_cross_attention(program, hidden, context, value)

        def cross_attention_output(output, extra_options):
            program = extra_options.pop(PROGRAM_KEY, None)
            return output if program is None else merge_cross_attention(program, output)

        def after_others(output, extra_options):
            hidden, _ = extra_options.pop(BEFORE_KEY)
            if extra_options[KEY].rows is not None and len(output) != len(hidden):
                raise ValueError(
                    f"Wanted {len(hidden)} rows from cross-attention, got {len(output)}: another node expands the "
                    "batch there and does not undo it. Remove it from the model; Conditioning (Set Area / Set Mask) "
                    "works."
                )
            return output

        def self_attention(hidden, context, value, extra_options):
            see("self", hidden, context, extra_options)
            if not coarse_enough(hidden.shape[1], *extra_options["original_shape"][-2:]):
                return hidden, context, value
            program = calls.program(extra_options, len(hidden), None, hidden.device, hidden.dtype)
            if program is None or program.self_query is None:
                return hidden, context, value
            return rewrite_self_attention(program, hidden, context, value)

        # A compiled model calls them as they are: they hold no layer, and what they look up changes from step to step.
        before_others, cross_attention, cross_attention_output, after_others, self_attention = map(
            torch.compiler.disable,
            (before_others, cross_attention, cross_attention_output, after_others, self_attention),
        )
        around_others = {  # name -> (before, after) the patches of other nodes
            "attn1_patch": ([self_attention], []),
            "attn2_patch": ([before_others], [cross_attention]),
            "attn2_output_patch": ([cross_attention_output], [after_others]),
        }

        def with_patches(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
            """Put in with each model call: hooks of a conditioning bring patches that come before all the model's."""
            patches = dict(transformer_options.get("patches", {}))
            for name, (before, after) in around_others.items():
                patches[name] = [*before, *patches.get(name, ()), *after]
            # IPAdapter and others of attn2_replace take rows apart by chunks.
            whole_chunks = bool(transformer_options.get("patches_replace", {}).get("attn2"))
            options = {**transformer_options, "patches": patches, WHOLE_CHUNKS_KEY: whole_chunks}
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

        add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, with_patches, model_options, is_model_options=True)


def _rows_among(
    hidden: torch.Tensor, context: torch.Tensor, options: dict, calls: AttentionCalls, checked: set[tuple]
) -> tuple[int, ...] | None:
    """Where the model call's rows are after other nodes' patches; None if these have added none.

    Raises:
        ValueError: they have left the rows in a way that is not known.
    """
    own, own_context = options[BEFORE_KEY]
    layout = (options[KEY].rows, len(hidden))
    if len(context) != len(hidden):
        raise ValueError(
            f"Wanted a region made of one text, got one made of a prompt pair's conditioning, whose rows are source "
            f"and edits ({len(context)} texts for {len(hidden)} rows in attention). Connect CLIP Text Encode to that "
            "region of the attention couple node."
        )
    places = None
    if len(hidden) != len(own):
        places = _behind_each_positive(options["cond_or_uncond"], len(own), len(hidden))
        if places is None or not (layout in checked or torch.equal(hidden[list(places)], own)):
            raise ValueError(
                f"Wanted {len(own)} rows in attention, or those of regions behind each positive, as attention couple "
                f"nodes put them, got {len(hidden)}: another node expands the batch there in a way of its own. Remove "
                "it from the model; Conditioning (Set Area / Set Mask) works."
            )
    if layout not in checked and calls.keys_and_values_in_turn(options):
        first = context[:1] if places is None else context[places[0] : places[0] + 1]
        if torch.equal(first[:, 1], own_context[:1, 1]):
            raise ValueError(
                "Wanted a model that reads a conditioning of keys and values in turn, which the text encoder of a node "
                "for negative weights makes, got one that does not. Connect the model of the node that changed the "
                "CLIP, too."
            )
    checked.add(layout)
    return places


def _behind_each_positive(kinds: Sequence[int], count: int, grown: int) -> tuple[int, ...] | None:
    """Places of ``count`` rows among ``grown``, where each chunk but the negatives' is followed by rows of regions."""
    chunk, positives = count // len(kinds), sum(kind != NEGATIVE for kind in kinds)
    added = grown - count
    if count % len(kinds) or added < 0 or not positives or added % (positives * chunk):
        return None
    places: list[int] = []
    at = 0
    for kind in kinds:
        places += range(at, at + chunk)
        at += chunk + (added // positives if kind != NEGATIVE else 0)
    return tuple(places)


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
