"""The only file that touches ComfyUI: it encodes prompt pairs and hooks edits into a sampling run.

A patched model carries nothing but its frozen edits and one wrapper around the sampling run. Everything else (the
rows, the attention patches, the shared noise, the previews) is put into the run's own copy of the model options when
sampling starts, and goes with it.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import comfy.k_diffusion.sampling as k_diffusion
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from .attention import (
    RowProgram,
    injects_self_attention,
    merge_cross_attention,
    rewrite_cross_attention,
    rewrite_self_attention,
)
from .edit import Edit
from .prompt import Piece, Prompt, PromptPair, build_prompt, split_edits
from .run import EditRun

KEY = "prompt_to_prompt"  # our name in the host's dictionaries
PAIR_KEY = "p2p_pair"  # marks a conditioning with the pair it was made from
STEP_KEY = "p2p_step"  # the step of a model call, read once per call
CLIP_STREAMS = {"l", "g", "h"}  # CLIP ViT-L, OpenCLIP bigG, OpenCLIP H
SUPPORTED = "Supported are UNets with cross-attention: SD 1.x, SD 2.x, SDXL and what is derived from them."


# ----------------------------------------------------------------------------------------------------------- encoding


def encode_pair(clip: Any, source: str, target: str) -> tuple[list, PromptPair]:
    """Encode a source prompt and its edits as the rows of one conditioning.

    Each row is what CLIP Text Encode gives for that prompt. A row shorter than the longest is repeated up to their
    common length, which leaves attention as it is.

    Args:
        clip: the host's CLIP.
        source: the prompt of the picture to edit.
        target: the edited prompt; several are separated by a line ``---``.

    Returns:
        The conditioning (rows: source, edits) and the pair.

    Raises:
        ValueError: an empty prompt, no CLIP, or a text encoder that is not CLIP.
    """
    if clip is None:
        raise ValueError("Wanted a CLIP, got none. The checkpoint may hold no text encoder: connect a Load CLIP node.")
    texts = (source, *split_edits(target))
    names = ("source", *(f"edit {i}" for i in range(1, len(texts))))
    prompts = tuple(_tokenize(clip, text) for text in texts)
    for name, prompt in zip(names, prompts, strict=True):
        if not prompt.words:
            raise ValueError(
                f"Wanted a prompt with at least one word for the {name}, got {prompt.text!r}. "
                "Edits are separated by a line '---', one prompt each."
            )
    schedules = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts]
    pair = PromptPair(
        source=prompts[0],
        targets=prompts[1:],
        context_dim=schedules[0][0][0].shape[-1],
        tokenize=lambda text: _tokenize(clip, text).words,
    )
    return [_stack_rows(rows, pair) for rows in zip(*schedules, strict=True)], pair


def _tokenize(clip: Any, text: str) -> Prompt:
    streams = clip.tokenize(text, return_word_ids=True)
    if not set(streams) <= CLIP_STREAMS:
        raise ValueError(
            f"Wanted a CLIP text encoder, got one with the parts {', '.join(sorted(streams))}. {SUPPORTED} "
            "Models whose text and image share one attention (SD3, Flux, ...) cannot be edited this way."
        )
    prompts = [
        build_prompt(text, [[_piece(clip, *entry) for entry in chunk] for chunk in chunks])
        for chunks in streams.values()
    ]
    if any(prompt.words != prompts[0].words or prompt.length != prompts[0].length for prompt in prompts):
        raise ValueError(
            f"Wanted a prompt that both text encoders read alike, got {text!r}. It may name an embedding made for one "
            "of them only: remove it."
        )
    return prompts[0]


def _piece(clip: Any, token: int | torch.Tensor, weight: float, group: int) -> Piece:
    if isinstance(token, numbers.Integral):
        return Piece(int(token), clip.tokenizer.untokenize([(token, weight)])[0][1], group)
    digest = hashlib.sha1(token.detach().float().cpu().numpy().tobytes()).hexdigest()
    return Piece(digest, "(embedding)", group)


def _stack_rows(rows: Sequence[list], pair: PromptPair) -> list:
    """One conditioning entry of R rows from R entries of one row each."""
    tensors = [
        context.repeat(1, pair.length // prompt.length, 1)
        for (context, _), prompt in zip(rows, (pair.source, *pair.targets), strict=True)
    ]
    extras = {**rows[0][1], PAIR_KEY: pair}
    if extras.get("pooled_output") is not None:
        extras["pooled_output"] = torch.cat([row_extras["pooled_output"] for _, row_extras in rows])
    return [torch.cat(tensors), extras]


# ----------------------------------------------------------------------------------------------------- patching models


def add_edit(model: Any, edit: Edit) -> Any:
    """A clone of the model that carries one more edit; the model itself is left as it is.

    Raises:
        ValueError: the model is not a UNet with cross-attention, or the pair was made by another model's text encoder.
    """
    _require_unet(model, edit.pair)
    patched = model.clone()
    patched.model_options[KEY] = (*patched.model_options.get(KEY, ()), edit)
    if not patched.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _edit_sampling_run)
    return patched


def _require_unet(model: Any, pair: PromptPair) -> None:
    unet = model.model.diffusion_model
    kind = type(model.model).__name__
    if not isinstance(unet, UNetModel) or model.model.latent_format.latent_dimensions != 2:
        raise ValueError(f"Wanted an image UNet, got the model kind {kind}. {SUPPORTED}")
    blocks = [block for block in unet.modules() if isinstance(block, BasicTransformerBlock)]
    if any(type(module).__name__ == "SpatialVideoTransformer" for module in unet.modules()):
        raise ValueError(f"Wanted an image UNet, got the video model {kind}. {SUPPORTED}")
    widths = {block.attn2.to_k.in_features for block in blocks if block.attn2 is not None}
    if not widths:
        raise ValueError(f"Wanted a UNet with cross-attention, got {kind} without any. {SUPPORTED}")
    if widths != {pair.context_dim}:
        raise ValueError(
            f"Wanted a prompt pair of width {min(widths)} for this model ({kind}), got width {pair.context_dim}: it "
            "was made by another model's text encoder. Connect the CLIP of this checkpoint to P2P Prompt Pair."
        )


# ------------------------------------------------------------------------------------------------------- sampling runs


def _edit_sampling_run(
    executor: Any,
    noise: torch.Tensor,
    latent_image: torch.Tensor,
    sampler: Any,
    sigmas: torch.Tensor,
    denoise_mask: torch.Tensor | None = None,
    callback: Callable | None = None,
    disable_pbar: bool = False,
    seed: int | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Around the host's sampling run: B seeds become B x R rows, and the edits work on them. OUTER_SAMPLE wrapper."""
    guider = executor.class_obj
    edits: tuple[Edit, ...] = guider.model_options[KEY]
    pairs = _pairs_of_conditionings(guider.conds, edits)
    _refuse_context_windows(guider.model_options)
    run = EditRun(edits, pairs, sigmas.tolist())
    _install(run, guider.model_options)

    seeds, rows = noise.shape[0], edits[0].pair.rows
    sampler = _share_noise(sampler, noise.to(guider.model_patcher.load_device), sigmas, seed, rows)
    if denoise_mask is not None and denoise_mask.shape[0] == seeds:
        denoise_mask = denoise_mask.repeat_interleave(rows, dim=0)
    if "latent_shapes" in kwargs:
        kwargs["latent_shapes"] = [(shape[0] * rows, *shape[1:]) for shape in kwargs["latent_shapes"]]
    preview = None if callback is None else _SideBySidePreview(callback, rows)
    samples = executor(
        noise.repeat_interleave(rows, dim=0),
        latent_image.repeat_interleave(rows, dim=0),
        sampler,
        sigmas,
        denoise_mask,
        preview,
        disable_pbar,
        seed,
        **kwargs,
    )
    if preview is not None:
        preview.finish()
    return samples


def _pairs_of_conditionings(conds: dict[str, list[dict]], edits: Sequence[Edit]) -> dict[Any, PromptPair]:
    """Conditioning id -> its pair, after checking that every edit has a conditioning it can work on."""
    marked = [cond for entries in conds.values() for cond in entries if PAIR_KEY in cond]
    pairs = {cond["uuid"]: cond[PAIR_KEY] for cond in marked}
    for edit in edits:
        if edit.pair not in pairs.values():
            raise ValueError(
                f"Wanted the conditioning of the pair {edit.pair.source.text!r} -> "
                f"{' | '.join(target.text for target in edit.pair.targets)!r} on the sampler, got none. Connect "
                "P2P Prompt Pair's conditioning to the sampler's positive, and its pair to the edit on the model."
            )
    counts = sorted({pair.rows for pair in pairs.values()})
    if len(counts) > 1:
        raise ValueError(
            f"Wanted prompt pairs with equally many edits in one run, got pairs of {counts} rows. Give each pair the "
            "same number of edited prompts."
        )
    for cond in marked:
        _require_intact(cond, cond[PAIR_KEY])
    return pairs


def _require_intact(cond: dict, pair: PromptPair) -> None:
    """A node in between may have joined, cut or replaced rows; the alignment would then point at the wrong words."""
    wanted = [pair.rows, pair.length, pair.context_dim]
    got = list(cond["cross_attn"].shape)
    if got != wanted:
        raise ValueError(
            f"Wanted P2P Prompt Pair's conditioning as it left the node, [rows, tokens, width] = {wanted}, got {got}: "
            "a node in between changed it. Join the texts in P2P Prompt Pair instead; Conditioning (Combine) works."
        )
    pooled = cond.get("pooled_output")
    if pooled is not None and pooled.shape[0] != pair.rows:
        raise ValueError(
            f"Wanted {pair.rows} pooled rows beside the conditioning (source and edits), got {pooled.shape[0]}: a node "
            "in between replaced them, and every edit would be steered by the same one. Remove that node."
        )


def _refuse_context_windows(model_options: dict) -> None:
    handler = model_options.get("context_handler")
    if handler is not None and getattr(handler, "dim", None) == 0:
        raise ValueError(
            "Wanted source and edits in one batch, got context windows over the batch, which take them apart. Remove "
            "the Context Windows node or set its dim to another dimension than the batch (0)."
        )


def _install(run: EditRun, model_options: dict) -> None:
    """Put the attention patches, before all others, and the step counter into this run's model options."""

    def count_step(executor: Any, model: Any, conds: Any, x_in: torch.Tensor, timestep: torch.Tensor, options: dict):
        step = {STEP_KEY: run.step_of(float(timestep[0]))}
        options = {**options, "transformer_options": {**options["transformer_options"], **step}}
        return executor(model, conds, x_in, timestep, options)

    def cross_attention(hidden, context, value, extra_options):
        program = _program(run, hidden, context.shape[1], extra_options)
        if program is None or not program.edits_cross_attention:
            return hidden, context, value
        extra_options[KEY] = program  # one dictionary per block call: the output patch finds it there
        return rewrite_cross_attention(program, hidden, context, value)

    def cross_attention_output(output, extra_options):
        program = extra_options.pop(KEY, None)
        return output if program is None else merge_cross_attention(program, output)

    def self_attention(hidden, context, value, extra_options):
        height, width = extra_options["original_shape"][-2:]
        if not injects_self_attention(hidden.shape[1], height, width):
            return hidden, context, value
        program = _program(run, hidden, None, extra_options)
        if program is None or program.self_query is None:
            return hidden, context, value
        return rewrite_self_attention(program, hidden, context, value)

    add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, count_step, model_options, is_model_options=True)
    patches = model_options.setdefault("transformer_options", {}).setdefault("patches", {})
    for name, patch in (
        ("attn1_patch", self_attention),
        ("attn2_patch", cross_attention),
        ("attn2_output_patch", cross_attention_output),
    ):
        patches[name] = [patch, *patches.get(name, [])]


def _program(run: EditRun, hidden: torch.Tensor, length: int | None, extra_options: dict) -> RowProgram | None:
    """This call's row program. Self-attention has no context; its program is laid out for the pairs' own length."""
    conditionings = extra_options["uuids"]
    pairs = [pair for pair in map(run.pair_of, conditionings) if pair is not None]
    if not pairs:
        return None
    rows = hidden.shape[0]
    if rows != extra_options["original_shape"][0] or rows % (len(conditionings) * pairs[0].rows):
        raise ValueError(
            f"Wanted {len(conditionings)} conditionings of whole groups of {pairs[0].rows} rows (source and edits), "
            f"got {rows} rows in attention: another node expands or splits the batch there (regional prompts through "
            "attention do). Remove it from the model; Conditioning (Set Area / Set Mask) works."
        )
    pair_length = math.lcm(*(pair.length for pair in pairs))
    if length is None:
        length = pair_length
    if length % pair_length:
        raise ValueError(
            f"Wanted a context of a multiple of {pair_length} tokens (the prompt pair's), got {length}: another node "
            "adds tokens to the context. Remove it from the model."
        )
    return run.program(extra_options[STEP_KEY], conditionings, rows, length, hidden.device, hidden.dtype)


# -------------------------------------------------------------------------------------------------- noise and previews


def _share_noise(sampler: Any, noise: torch.Tensor, sigmas: torch.Tensor, seed: int | None, rows: int) -> Any:
    """A copy of the sampler whose fresh noise is equal for all rows of a seed, and what the stock run would draw.

    Args:
        noise: (B, C, H, W), the stock run's initial noise, on its device.
    """
    function = getattr(sampler, "sampler_function", None)
    if function is None:
        return sampler
    shared = copy.copy(sampler)
    # With an inpainting mask, ddim would fill the outside with noise that differs between the rows.
    shared.inpaint_options = {**sampler.inpaint_options, "random": False}
    if (
        "noise_sampler" in inspect.signature(function).parameters
        and "noise_sampler" not in sampler.extra_options
        and len(sigmas) > 1
    ):
        if _calls(function, "BrownianTreeNoiseSampler"):
            sigmas = sigmas.to(noise.device)
            on_cpu = not function.__name__.endswith("_gpu")
            draw = k_diffusion.BrownianTreeNoiseSampler(
                noise, sigmas[sigmas > 0].min(), sigmas.max(), seed=seed, cpu=on_cpu
            )
        else:
            draw = k_diffusion.default_noise_sampler(noise, seed=seed)
        shared.extra_options = {
            **sampler.extra_options,
            "noise_sampler": lambda sigma, sigma_next: draw(sigma, sigma_next).repeat_interleave(rows, dim=0),
        }
    return shared


def _calls(function: Callable, name: str, seen: frozenset = frozenset()) -> bool:
    """Whether a sampler uses ``name``, itself or through another sampler that it calls."""
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None)
    if code is None or function in seen:
        return False
    if name in code.co_names:
        return True
    called = (function.__globals__.get(each) for each in code.co_names if each.startswith("sample_"))
    return any(_calls(each, name, seen | {function}) for each in called if callable(each))


class _SideBySidePreview:
    """Live previews that show source and edits of the first seed side by side.

    The host's previewer shows row 0, so it is given one wide row. It also keeps the last latents it saw as a result
    (SamplerCustom's denoised output), so at the end it is given the real ones.
    """

    def __init__(self, callback: Callable, rows: int):
        self._callback = callback
        self._rows = rows
        self._last: tuple | None = None

    def __call__(self, step: int, denoised: torch.Tensor, x: torch.Tensor, total_steps: int) -> None:
        self._last = (step, denoised, x, total_steps)
        self._callback(step, torch.cat(denoised[: self._rows].split(1), dim=-1), x, total_steps)

    def finish(self) -> None:
        if self._last is not None:
            self._callback(*self._last)
