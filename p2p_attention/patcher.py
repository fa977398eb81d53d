"""The only file that touches ComfyUI: it encodes prompt pairs and hooks edits into a sampling run.

A patched model carries nothing but its frozen works (edits, blends, recorders, ...) and one wrapper around the sampling
run. Everything else (the rows, the attention patches, the shared noise, the previews) is put into the run's own copy of
the model options when sampling starts, and goes with it.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import comfy.k_diffusion.sampling as k_diffusion
import comfy.model_sampling
import comfy.sample
import comfy.samplers
import folder_paths
import latent_preview
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy.sd1_clip import SD1Tokenizer
from comfy.utils import repeat_to_batch_size

from .attention import (
    RowProgram,
    injects_self_attention,
    merge_cross_attention,
    rewrite_cross_attention,
    rewrite_self_attention,
)
from .blend import Blend, BlendRun
from .checks import require_between, require_one_of
from .conditionings import PAIR_KEY, first_row, parts_by_row, stack_parts, stack_rows
from .edit import Edit
from .guidance import Proximal, proximal
from .invert import DENOISE, ITERATIONS, SOURCE_ROWS, STEPS, Inversion, InversionRun, invert
from .maps import MapRun, attention_probs, choose_level, row_name
from .noise import SharedNoise
from .null_text import CFG, INNER_STEPS, optimise_null_text, spans_of_steps
from .preview import SideBySidePreview
from .prompt import Piece, Prompt, PromptPair, build_prompt, join_prompts, quoted, split_breaks, split_edits
from .record import Recorder, gather
from .run import EditRun
from .second_pass import Continuation, count_pictures, noise_for_rows

Work = Edit | Blend | Recorder | Proximal | Continuation | Inversion  # what a patched model carries

KEY = "prompt_to_prompt"  # our name in the host's dictionaries
NULL_TEXT_KEY = "p2p_null_text"  # marks a negative with the guidance and noise levels it was optimised for
STEP_KEY = "p2p_step"  # the step of a model call, read once per call
WHOLE_CHUNKS_KEY = "p2p_whole_chunks"  # whether other patches of a model call may take its rows apart by chunks
LARGEST_WEIGHT = 1e4  # of a word; beyond, half precision overflows
CLIP_STREAMS = {"l", "g", "h"}  # CLIP ViT-L, OpenCLIP bigG, OpenCLIP H
OWN_WAY = {"dpm_fast_function", "dpm_adaptive_function", "sample_lcm_upscale"}  # do not keep to the schedule, or size
SCHEDULERS = tuple(comfy.samplers.KSampler.SCHEDULERS)
SUPPORTED = "Supported are UNets with cross-attention: SD 1.x, SD 2.x, SDXL and what is derived from them."


# ----------------------------------------------------------------------------------------------------------- encoding


def encode_pair(clip: Any, source: str, target: str) -> tuple[list, PromptPair]:
    """Encode a source prompt and its edits as the rows of one conditioning.

    Each row is what CLIP Text Encode gives for that prompt. A row shorter than the longest is repeated up to their
    common length, which leaves attention as it is.

    Args:
        clip: the host's CLIP.
        source: the prompt of the picture to edit.
        target: the edited prompt; several are separated by a line ``---``; empty for the source alone.

    Returns:
        The conditioning (rows: source, edits) and the pair.

    Raises:
        ValueError: an empty prompt, no CLIP, or a text encoder that is not CLIP.
    """
    prompts = _read_prompts(clip, source, target, _tokenize)
    schedules = [clip.encode_from_tokens_scheduled(clip.tokenize(prompt.text)) for prompt in prompts]
    pair = _make_pair(clip, prompts, schedules[0][0][0])
    return [stack_rows(rows, pair) for rows in zip(*schedules, strict=True)], pair


def pair_conditionings(
    clip: Any, source: str, target: str, source_conditioning: list, target_conditioning: list | None = None
) -> tuple[list, PromptPair]:
    """Make conditionings that other nodes encoded the rows of one, and a pair of the texts that they say.

    Each row is the conditioning that was given for it. A part of it (Conditioning (Combine) makes several) that is the
    same for source and edits, while the texts differ, is not of these texts and is left as it is.

    Args:
        clip: the host's CLIP, to read the texts.
        source: what ``source_conditioning`` says. ``BREAK`` stands where encodings were joined (Conditioning (Concat)).
        target: what ``target_conditioning`` says; several edits are separated by a line ``---``; empty for the source
            alone.
        source_conditioning: of the picture to edit.
        target_conditioning: of the edit; of several edits one behind the other, as Conditioning (Combine) puts them.

    Returns:
        The conditioning (rows: source, edits) and the pair.

    Raises:
        ValueError: the texts do not fit the conditionings, or something differs that the rows have to share.
    """
    prompts = _read_prompts(clip, source, target, _tokenize_parts)
    parts = parts_by_row(prompts, source_conditioning, target_conditioning)
    pair = _make_pair(clip, prompts, parts[0][0][0])
    return stack_parts(parts, pair), pair


def _read_prompts(clip: Any, source: str, target: str, read: Callable[[Any, str], Prompt]) -> tuple[Prompt, ...]:
    """The source and each edit, tokenised."""
    if clip is None:
        raise ValueError("Wanted a CLIP, got none. The checkpoint may hold no text encoder: connect a Load CLIP node.")
    prompts = tuple(read(clip, text) for text in (source, *split_edits(target)))
    for row, prompt in enumerate(prompts):
        if not prompt.words:
            raise ValueError(
                f"Wanted a prompt with at least one word for the {row_name(row)}, got {quoted(prompt.text)}. "
                "Edits are separated by a line '---', one prompt each."
            )
    return prompts


def _make_pair(clip: Any, prompts: Sequence[Prompt], context: torch.Tensor) -> PromptPair:
    return PromptPair(
        source=prompts[0],
        targets=tuple(prompts[1:]),
        context_dim=context.shape[-1],
        tokenize=lambda text: _tokenize(clip, text).words,
    )


def _tokenize_parts(clip: Any, text: str) -> Prompt:
    """A text whose parts between ``BREAK`` were encoded each by itself."""
    return join_prompts(text, [_tokenize(clip, part) for part in split_breaks(text)])


def prompt_reader(clip: Any = None, breaks: bool = False) -> tuple[str, Callable[[str], Prompt]]:
    """A tokenizer's name, and what it makes of a text; without a CLIP the host's own for CLIP ViT-L.

    Args:
        breaks: whether ``BREAK`` separates parts, as for ``pair_conditionings``.
    """
    clip, read = clip or _StockClip(), _tokenize_parts if breaks else _tokenize
    return type(clip.tokenizer).__name__, lambda text: read(clip, text)


class _StockClip:
    """As much of the host's CLIP as reads a prompt."""

    @property
    def tokenizer(self) -> SD1Tokenizer:
        return _stock_tokenizer()

    def tokenize(self, text: str, return_word_ids: bool = False) -> dict[str, list]:
        return self.tokenizer.tokenize_with_weights(text, return_word_ids)


@lru_cache(maxsize=1)
def _stock_tokenizer() -> SD1Tokenizer:
    return SD1Tokenizer(embedding_directory=folder_paths.get_folder_paths("embeddings"))


def _tokenize(clip: Any, text: str) -> Prompt:
    try:
        streams = clip.tokenize(text, return_word_ids=True)
    except (RecursionError, UnicodeError, TypeError, IndexError) as error:  # nesting, half characters, "embedding:"
        raise ValueError(
            f"Wanted a prompt that the text encoder can read, got {quoted(text)}: {error}. Look for many nested "
            "parentheses, for an 'embedding:' without a name, and for broken characters."
        ) from error
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
            f"Wanted a prompt that both text encoders read alike, got {quoted(text)}. It may name an embedding made "
            "for one of them only: remove it."
        )
    return prompts[0]


def _piece(clip: Any, token: int | torch.Tensor, weight: float, group: int) -> Piece:
    if not abs(weight) <= LARGEST_WEIGHT:  # also for NaN
        raise ValueError(
            f"Wanted weights up to {LARGEST_WEIGHT:g}, as in (word:1.2), got {weight:g}. Change it in the prompt; each "
            "pair of parentheses is a factor of 1.1."
        )
    if isinstance(token, numbers.Integral):
        return Piece(int(token), clip.tokenizer.untokenize([(token, weight)])[0][1], group)
    digest = hashlib.sha1(token.detach().float().cpu().numpy().tobytes()).hexdigest()
    return Piece(digest, "(embedding)", group)


# ----------------------------------------------------------------------------------------------------- patching models


def attach(model: Any, work: Work) -> Any:
    """A clone of the model that carries one more piece of work; the model itself is left as it is.

    Raises:
        ValueError: the model is not a UNet with cross-attention, the pair was made by another model's text encoder, or
            an edit would have two blends.
    """
    _require_unet(model, None if isinstance(work, Inversion) else work.pair)
    patched = model.clone()
    works = patched.model_options.get(KEY, ())
    if isinstance(work, Inversion):  # a picture has one way back; the last node counts
        works = tuple(each for each in works if not isinstance(each, Inversion))
    works = (*works, work)
    _require_one_blend(works)
    patched.model_options[KEY] = works
    if not patched.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _sampling_run)
    return patched


def _require_one_blend(works: Sequence[Work]) -> None:
    blended = [(work.pair, row) for work in works if isinstance(work, Blend) for row in work.edits]
    for pair, row in blended:
        if blended.count((pair, row)) > 1:
            raise ValueError(
                f"Wanted one P2P Local Blend Mask for an edit, got two for edit {row + 1}. Name all its words in one "
                "node, or set the nodes' edit to different edited prompts."
            )


def _require_unet(model: Any, pair: PromptPair | None) -> None:
    unet = model.model.diffusion_model
    kind = type(model.model).__name__
    if not isinstance(unet, UNetModel) or model.model.latent_format.latent_dimensions != 2:
        raise ValueError(f"Wanted an image UNet, got the model kind {kind}. {SUPPORTED}")
    blocks = [block for block in unet.modules() if isinstance(block, BasicTransformerBlock)]
    _require_no_video(unet)
    if any(block.disable_self_attn for block in blocks):
        raise ValueError(f"Wanted a UNet with self-attention in all its transformers, got {kind}. {SUPPORTED}")
    widths = {block.attn2.to_k.in_features for block in blocks if block.attn2 is not None}
    if not widths:
        raise ValueError(f"Wanted a UNet with cross-attention, got {kind} without any. {SUPPORTED}")
    if pair is not None and widths != {pair.context_dim}:
        raise ValueError(
            f"Wanted a prompt pair of width {min(widths)} for this model ({kind}), got width {pair.context_dim}: it "
            "was made by another model's text encoder. Connect the CLIP of this checkpoint to P2P Prompt Pair."
        )


def _require_no_video(unet: UNetModel) -> None:
    """Layers over time mix the batch's rows, which are its frames."""
    kinds = {type(module).__name__ for module in unet.modules()}
    over_time = sorted(kind for kind in kinds if any(word in kind for word in ("Video", "Motion", "Temporal")))
    if over_time:
        raise ValueError(
            f"Wanted an image UNet, got a video model, with {', '.join(over_time)}. {SUPPORTED} Remove the node that "
            "adds motion, or use an image checkpoint."
        )


# ----------------------------------------------------------------------------------------------------------- inversion


def ddim_invert(
    model: Any,
    conditioning: list,
    latent: dict,
    settings: tuple[int, str, float],
    refine_iterations: int,
    source_row: str,
) -> tuple[Any, dict]:
    """Find the noise that leads to a picture, by the host's own model calls, with progress and previews.

    Args:
        model: the host's model; edits on it stay out of the inversion.
        conditioning: of the source prompt, or a pair's, of which the source row is taken.
        latent: the host's LATENT of the picture, B of them.
        settings: (steps, scheduler, denoise), as on the sampler that will follow.
        refine_iterations: fixed-point iterations per step.
        source_row: see ``Inversion``.

    Returns:
        The model, whose runs begin at the noise found, and the noise as the host's LATENT.

    Raises:
        ValueError: the model is no diffusion UNet (flow models are not inverted this way), or there is no picture.
    """
    _require_unet(model, None)
    steps, scheduler, denoise = settings
    require_between("steps", steps, STEPS)
    require_one_of("scheduler", scheduler, SCHEDULERS)
    require_between("denoise", denoise, DENOISE)
    require_between("refine_iterations", refine_iterations, ITERATIONS)
    require_one_of("source_row", source_row, SOURCE_ROWS)
    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, comfy.model_sampling.CONST):
        raise ValueError(
            "Wanted a model that predicts noise or velocity of a diffusion (SD 1.x, SD 2.x, SDXL), got a flow model, "
            "whose way back is another one. Use such a checkpoint, or remove ModelSamplingFlux / SD3 nodes."
        )
    image = latent["samples"]
    channels = model.get_model_object("latent_format").latent_channels
    if image.ndim != 4 or image.shape[1] != channels or not image.any():
        raise ValueError(
            f"Wanted the latent of a picture, [batch, {channels}, height, width], got {list(image.shape)}"
            + ("." if image.any() else ", all zero: an empty latent.")
            + " Connect VAE Encode of your picture, with this checkpoint's VAE."
        )
    falling = comfy.samplers.KSampler(
        model, steps, model.load_device, sampler="euler", scheduler=scheduler, denoise=denoise
    ).sigmas
    levels = tuple(falling.tolist())
    bare = _without_works(model)
    show = latent_preview.prepare_callback(bare, len(levels) - 1)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def backwards(model_k, x, sigmas, extra_args=None, callback=None, disable=None):
        def denoised_at(x, sigma):
            return model_k(x, sigma * x.new_ones(len(x)), **extra_args)

        def progress(step, denoised, x):
            show(step, denoised, x, len(levels) - 1)

        found.append(invert(denoised_at, x, levels, refine_iterations, progress))
        return found[0][0][0]

    source = [first_row(entry) for entry in conditioning]
    noise = comfy.sample.sample_custom(
        bare, torch.zeros_like(image), 1.0, comfy.samplers.KSAMPLER(backwards), falling.flip(0), source, source, image
    )
    trajectory, inputs = (each.cpu() for each in found[0])
    inversion = Inversion(image.clone(), trajectory, inputs, levels, settings, source_row)
    return attach(model, inversion), {"samples": noise}


def null_text(model: Any, positive: list, negative: list, cfg: float, inner_steps: int) -> list:
    """A negative that changes with every step, so that guidance at ``cfg`` leads back to the inverted picture.

    Runs the host's UNet with gradients. The weights' copies that this may need are freed when it ends.

    Args:
        model: from P2P DDIM Invert.
        positive: of the source prompt, or a pair's, of which the source row is taken.
        negative: to begin with.
        cfg: of the sampler that will follow.
        inner_steps: most optimisation steps per sampling step.

    Returns:
        One conditioning entry per step, each for its part of the noise levels.

    Raises:
        ValueError: the model carries no inversion, or a conditioning is made of several parts.
    """
    require_between("cfg", cfg, CFG)
    require_between("inner_steps", inner_steps, INNER_STEPS)
    inversions = [work for work in model.model_options.get(KEY, ()) if isinstance(work, Inversion)]
    if not inversions:
        raise ValueError("Wanted the model that comes from P2P DDIM Invert, got one without an inversion.")
    extra = {"control", "area", "mask", "hooks", "gligen", "start_percent"} & {*positive[0][1], *negative[0][1]}
    if len(positive) != 1 or len(negative) != 1 or extra:
        raise ValueError(
            f"Wanted a plain positive and a plain negative, got {len(positive)} and {len(negative)} parts"
            + (f" with {', '.join(sorted(extra))}" if extra else "")
            + ". Connect CLIP Text Encode or P2P Prompt Pair directly."
        )
    (inversion,) = inversions
    bare = _without_works(model)
    steps = len(inversion.sigmas) - 1
    show = latent_preview.prepare_callback(bare, steps)
    found: list[torch.Tensor] = []

    def progress(step, denoised, x):
        show(step, denoised, x, steps)

    def optimise(model_k, x, sigmas, extra_args=None, callback=None, disable=None):
        guider = model_k.inner_model
        with torch.inference_mode(False), torch.enable_grad():
            denoise = _differentiable(guider.inner_model, extra_args["model_options"])
            source, empty = (
                _model_inputs(guider.conds[name][0], len(x), x.device) for name in ("positive", "negative")
            )
            found.extend(
                optimise_null_text(
                    lambda at, sigma: denoise(at, sigma, source),
                    lambda at, sigma, context: denoise(at, sigma, {**empty, "c_crossattn": context}),
                    empty["c_crossattn"],
                    inversion.trajectory.to(x.device).clone(),
                    inversion.sigmas,
                    cfg,
                    inner_steps,
                    progress,
                )
            )
        return x

    comfy.sample.sample_custom(
        bare,
        torch.zeros_like(inversion.image),
        cfg,
        comfy.samplers.KSAMPLER(optimise),
        torch.tensor(inversion.sigmas),
        [first_row(positive[0])],
        negative,
        inversion.image,
        disable_pbar=True,
    )
    extras = {**negative[0][1], NULL_TEXT_KEY: (cfg, inversion.sigmas)}
    return [
        [context.to(negative[0][0]), {**extras, "timestep_start": start, "timestep_end": end}]
        for context, start, end in zip(found, *spans_of_steps(inversion.sigmas), strict=True)
    ]


def _differentiable(base: Any, model_options: dict) -> Callable[[torch.Tensor, float, dict], torch.Tensor]:
    """(x, sigma, model inputs) -> denoised latents, through which gradients flow to the inputs.

    Weights that were loaded in inference mode cannot be part of a graph: copies stand in for them.
    """

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.base = base

        def forward(self, x, sigma, inputs):
            options = {**model_options.get("transformer_options", {}), "cond_or_uncond": [1], "uuids": [None]}
            return self.base.apply_model(x, sigma, transformer_options=options, **inputs)

    module = Model()
    copies = {
        name: tensor.detach().clone() if tensor.is_inference() else tensor.detach()
        for name, tensor in itertools.chain(module.named_parameters(), module.named_buffers())
    }

    def denoise(x, sigma, inputs):
        return torch.func.functional_call(module, copies, (x, sigma * x.new_ones(len(x)), inputs))

    return denoise


def _model_inputs(cond: dict, rows: int, device: torch.device) -> dict[str, torch.Tensor]:
    """What the host hands to the model for a conditioning, for a batch of ``rows``; normal tensors."""
    processed = {name: each.process_cond(batch_size=rows, area=None).cond for name, each in cond["model_conds"].items()}
    return {
        name: each.to(device).detach().clone() if torch.is_tensor(each) else each for name, each in processed.items()
    }


def _without_works(model: Any) -> Any:
    """A clone of the model as if none of our nodes were there."""
    bare = model.clone()
    bare.model_options.pop(KEY, None)
    bare.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    return bare


def _inversion_run(
    inversion: Inversion | None,
    guider: Any,
    sampler: Any,
    sigmas: torch.Tensor,
    shape: torch.Size,
    pairs: dict[Any, PromptPair],
) -> InversionRun | None:
    """The inversion's part of a run, after checking that the run can follow its trajectory."""
    if inversion is None:
        return None
    if inversion.image.shape != shape:
        raise ValueError(
            f"Wanted a latent of the inverted picture's shape {list(inversion.image.shape)}, got {list(shape)}. "
            "Connect the latent that went into P2P DDIM Invert to the sampler, too."
        )
    pinned = inversion.source_row != "free"
    if pinned and not any(PAIR_KEY in cond for cond in guider.conds.get("positive", ())):
        raise ValueError(
            f"source_row {inversion.source_row} holds the source row of a prompt pair; the sampler's conditioning "
            "comes from none. Connect P2P Prompt Pair's conditioning to positive, or set source_row to free."
        )
    function = getattr(sampler, "sampler_function", None)
    follows = function is k_diffusion.sample_euler
    parameters = inspect.signature(function).parameters if function is not None else {}
    own_way = "noise_sampler" in parameters or getattr(function, "__name__", "") in OWN_WAY
    if own_way or not (follows or pinned):
        name = getattr(function, "__name__", type(sampler).__name__)
        raise ValueError(
            f"Wanted a sampler that follows the inversion, got {name}, "
            + ("which draws noise or chooses steps of its own" if own_way else "of higher order")
            + ". Set sampler_name to euler or ddim"
            + ("." if own_way else ", or source_row to pin.")
        )
    rows = next(iter(pairs.values())).rows if pairs else 1
    return InversionRun(inversion, sigmas.tolist(), rows, guider.model_patcher.load_device)


def _require_optimised_for(guider: Any, sigmas: Sequence[float]) -> None:
    """A null-text negative is made for one guidance and one schedule."""
    for cond in (cond for entries in guider.conds.values() for cond in entries):
        if NULL_TEXT_KEY in cond:
            cfg, levels = cond[NULL_TEXT_KEY]
            if not math.isclose(cfg, getattr(guider, "cfg", cfg), rel_tol=1e-6):
                raise ValueError(
                    f"Wanted cfg {cfg:g}, for which P2P Null-Text Optimize made the negative, got {guider.cfg:g}. Set "
                    "both alike."
                )
            if len(levels) != len(sigmas):
                raise ValueError(
                    f"Wanted the {len(levels) - 1} steps for which P2P Null-Text Optimize made the negative, got "
                    f"{len(sigmas) - 1}. Set the sampler as in P2P DDIM Invert."
                )
            return


def _noise_to_start(start: torch.Tensor, latent: torch.Tensor, sigmas: torch.Tensor, model: Any) -> torch.Tensor:
    """The noise with which the host's scaling begins at ``start`` (B, C, H, W), given the latent image."""
    sampling = model.get_model_object("model_sampling")
    first, largest = float(sigmas[0]), float(sampling.sigma_max)
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    scale = sampling.noise_scaling(sigmas[:1].cpu(), one, zero, math.isclose(first, largest, rel_tol=1e-5))
    return ((start.cpu() - model.model.process_latent_in(latent).cpu()) / scale).to(latent)


# ------------------------------------------------------------------------------------------------------- sampling runs


def _sampling_run(
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
    """Around the host's sampling run: B seeds become B x R rows, and the works do theirs. OUTER_SAMPLE wrapper.

    In a second pass, the B x R rows are there.
    """
    guider = executor.class_obj
    patcher = guider.model_patcher
    works: tuple[Work, ...] = guider.model_options[KEY]
    blends, recorders, guidances, second_passes, inversions = (
        [work for work in works if isinstance(work, kind)]
        for kind in (Blend, Recorder, Proximal, Continuation, Inversion)
    )
    for work in (*blends, *recorders):
        work.record.clear()
    pairs = _pairs_of_conditionings(guider.conds, works)
    _refuse_context_windows(guider.model_options)
    _require_plain_guidance(guider, guidances)
    _require_optimised_for(guider, sigmas.tolist())
    _require_one_beginning(second_passes, inversions)
    inversion = _inversion_run(next(iter(inversions), None), guider, sampler, sigmas, noise.shape, pairs)

    rows = next(iter(pairs.values())).rows if pairs else 1
    seeds = count_pictures(len(noise), rows) if second_passes else len(noise)
    _repeat_for_rows(guider.conds, seeds, rows)
    size = noise.shape[-2:]
    run = EditRun([work for work in works if isinstance(work, Edit)], pairs, sigmas.tolist())
    maps = {work: [MapRun(each, run.steps) for each in work.requests] for work in (*blends, *recorders)}
    taps = _MapTaps(run, maps.values(), patcher.model.diffusion_model, size)
    blend_runs = [BlendRun(work, maps[work], seeds, size, run.steps) for work in blends]
    _install(run, taps, blend_runs, guidances, inversion, guider.model_options)

    _look_at_the_loaded_model(guider.model_options)
    if rows > 1:
        _share_noise(seeds, rows, guider.model_options)
    if inversion is not None:
        latent_image = inversions[0].image.to(latent_image)
        noise = _noise_to_start(inversion.start, latent_image, sigmas, patcher)
    if denoise_mask is not None:
        denoise_mask = _mask_for_rows(denoise_mask, noise.shape, seeds, rows)
    noise = noise_for_rows(noise, seeds, rows)
    if not second_passes:
        latent_image = latent_image.repeat_interleave(rows, dim=0)
    if "latent_shapes" in kwargs:
        kwargs["latent_shapes"] = [(len(noise), *shape[1:]) for shape in kwargs["latent_shapes"]]
    preview = None if callback is None else SideBySidePreview(callback, rows)
    samples = executor(
        noise,
        latent_image,
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
    if inversion is not None and inversion.pins:
        samples = inversion.result(samples, patcher.model.process_latent_out)
    for blend in blend_runs:
        if blend.mask is None:  # the sampler did not call the model in the last step (dpm_fast, dpm_adaptive)
            blend.update(taps.areas, samples.device)
        samples = blend.outside_from_source(samples)
    for blend in blend_runs:
        blend.blend.record.put(blend.result(), samples)
    for work in recorders:
        work.record.put(gather(maps[work][0], taps.areas, size), samples)
    return samples


def _look_at_the_loaded_model(model_options: dict) -> None:
    """Other packs put layers over time into the UNet when it is loaded for the run."""

    def around_sampler(executor, guider, *args, **kwargs):
        _require_no_video(guider.inner_model.diffusion_model)
        return executor(guider, *args, **kwargs)

    add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, around_sampler, model_options, is_model_options=True)


def _mask_for_rows(mask: torch.Tensor, shape: torch.Size, seeds: int, rows: int) -> torch.Tensor:
    """A noise mask of one for all, one for each picture, or one for each row: (B R, 1, h, w).

    Newer hosts (after 0.3.75) hand over what they made of it, in the latents' ``shape``, alike for each channel.
    """
    if mask.ndim == len(shape) and mask.shape[:2] == shape[:2]:
        mask = mask[:, :1]
    mask = mask.reshape(-1, 1, *mask.shape[-2:])
    if len(mask) == seeds * rows:
        return mask
    return repeat_to_batch_size(mask, seeds).repeat_interleave(rows, dim=0)


def _repeat_for_rows(conds: dict[str, list[dict]], seeds: int, rows: int) -> None:
    """What a conditioning holds for each of several pictures, all rows of the picture share.

    That may be a text (a null-text negative, a batch of negatives), a mask, or hints of a ControlNet. As many as there
    are pictures are one for each picture. The host hands others out in the order of the rows: one for all, or one for
    the source and each edit. The latents that inpainting and editing models look at it spreads itself.
    """
    if seeds == 1 or rows == 1:
        return
    controls: dict[int, Any] = {}  # conditionings that share a ControlNet go on sharing it
    for cond in (cond for entries in conds.values() for cond in entries):
        for name in ("mask",) if PAIR_KEY in cond else ("mask", "cross_attn", "pooled_output"):
            each = cond.get(name)
            if torch.is_tensor(each) and each.shape[0] == seeds and (name != "mask" or each.ndim > 2):
                cond[name] = each.repeat_interleave(rows, dim=0)
        if cond.get("control") is not None:
            cond["control"] = _control_for_rows(cond["control"], seeds, rows, controls)


def _control_for_rows(control: Any, seeds: int, rows: int, copies: dict[int, Any]) -> Any:
    """The ControlNet, and those before it, or a copy where there is a hint for each picture."""
    if id(control) not in copies:
        before, hint = control.previous_controlnet, control.cond_hint_original
        before_for_rows = before and _control_for_rows(before, seeds, rows, copies)
        own = hint is not None and len(hint) == seeds
        result = control
        if own or before_for_rows is not before:
            result = control.copy().set_previous_controlnet(before_for_rows)
        if own:
            result.cond_hint_original = hint.repeat_interleave(rows, dim=0)
            result.extra_concat_orig = [
                each.repeat_interleave(rows, dim=0) if len(each) == seeds else each for each in result.extra_concat_orig
            ]
        copies[id(control)] = result
    return copies[id(control)]


def _pairs_of_conditionings(conds: dict[str, list[dict]], works: Sequence[Work]) -> dict[Any, PromptPair]:
    """Conditioning id -> its pair, after checking that every edit, blend and recorder has one it can work on."""
    marked = [cond for entries in conds.values() for cond in entries if PAIR_KEY in cond]
    pairs = {cond["uuid"]: cond[PAIR_KEY] for cond in marked}
    for pair in (work.pair for work in works if not isinstance(work, Inversion)):
        if pair not in pairs.values():
            raise ValueError(
                f"Wanted the conditioning of the pair {quoted(pair.source.text)} -> "
                f"{quoted(' | '.join(target.text for target in pair.targets))} on the sampler, got none. Connect "
                "P2P Prompt Pair's conditioning to the sampler's positive, and its pair to the P2P nodes on the model."
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
            "a node in between changed it. Join the texts in P2P Prompt Pair instead, or put P2P Pair From "
            "Conditioning behind that node; Conditioning (Combine) works."
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


def _require_one_beginning(second_passes: Sequence[Continuation], inversions: Sequence[Inversion]) -> None:
    if second_passes and inversions:
        raise ValueError(
            "Wanted one beginning for the run, got P2P Second Pass, which goes on from a sampler's result, and "
            "P2P DDIM Invert, which starts at a picture's noise. Connect the model from before P2P DDIM Invert to "
            "P2P Second Pass."
        )


def _require_plain_guidance(guider: Any, guidances: Sequence[Proximal]) -> None:
    others = sorted(set(guider.conds) - {"positive", "negative"})
    if guidances and others:
        raise ValueError(
            f"Wanted a positive and a negative for P2P Proximal Guidance, got {type(guider).__name__} with "
            f"{', '.join(others)} as well, which computes guidance of its own. Use CFG Guider or KSampler, or remove "
            "P2P Proximal Guidance."
        )


def _install(
    run: EditRun,
    taps: _MapTaps,
    blends: Sequence[BlendRun],
    guidances: Sequence[Proximal],
    inversion: InversionRun | None,
    model_options: dict,
) -> None:
    """Put the step counter, the attention patches (first) and what guides, pins and blends (last) into a run."""
    pinned = inversion if inversion is not None and inversion.pins else None

    def around_model_call(executor, model, conds, x_in, timestep, options):
        conds = [entries and [_own_id(cond) for cond in entries] for entries in conds]
        sigma = float(timestep[0])
        step = run.step_of(sigma)
        transformer_options = options["transformer_options"]
        whole_chunks = _others_see_rows(conds, transformer_options)
        transformer_options = {**transformer_options, STEP_KEY: step, WHOLE_CHUNKS_KEY: whole_chunks}
        options = {**options, "transformer_options": transformer_options}
        taps.note_areas(conds, x_in)
        if pinned is not None:
            x_in = pinned.on_trajectory(x_in, step, sigma)
        for blend in blends:
            if blend.mask is not None:
                x_in = blend.outside_from_source(x_in)
        if pinned is None:
            return executor(model, conds, x_in, timestep, options)
        x_in = pinned.aligned(x_in, step, sigma)
        return _without_source_in_negative(executor, pinned.rows, model, conds, x_in, timestep, options)

    def guide(args):
        outputs = args["conds_out"]
        if len(outputs) == 2 and args["conds"][1] is not None:
            for guidance in guidances:
                outputs = [proximal(guidance, *outputs), outputs[1]]
        return outputs

    def around_prediction(executor, x, timestep, *args, **kwargs):
        """Outside of all guidance, whichever guider computes it."""
        denoised = executor(x, timestep, *args, **kwargs)
        step = run.step_of(float(timestep[0]))
        if pinned is not None:
            denoised = pinned.denoised(denoised, step)
        for blend in blends:
            if blend.active(step):
                blend.update(taps.areas, denoised.device)
                denoised = blend.apply(denoised)
        return denoised

    def cross_attention(hidden, context, value, extra_options):
        program = _program(run, hidden, context.shape[1], extra_options)
        taps.take("cross", hidden, context, extra_options)
        if program is None or not program.edits_cross_attention:
            return hidden, context, value
        extra_options[KEY] = program  # one dictionary per block call: the output patch finds it there
        return rewrite_cross_attention(program, hidden, context, value)

    def cross_attention_output(output, extra_options):
        program = extra_options.pop(KEY, None)
        if program is None:
            return output
        if len(output) != len(program.query):
            raise ValueError(
                f"Wanted {len(program.query)} rows from cross-attention, got {len(output)}: another node expands the "
                "batch there and does not undo it. Remove it from the model; Conditioning (Set Area / Set Mask) works."
            )
        return merge_cross_attention(program, output)

    def self_attention(hidden, context, value, extra_options):
        taps.take("self", hidden, context, extra_options)
        height, width = extra_options["original_shape"][-2:]
        if not injects_self_attention(hidden.shape[1], height, width):
            return hidden, context, value
        program = _program(run, hidden, None, extra_options)
        if program is None or program.self_query is None:
            return hidden, context, value
        return rewrite_self_attention(program, hidden, context, value)

    add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, around_model_call, model_options, is_model_options=True)
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
    if guidances:
        model_options["sampler_pre_cfg_function"] = [*model_options.get("sampler_pre_cfg_function", []), guide]
    if blends or pinned is not None:
        add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, around_prediction, model_options, is_model_options=True)


def _others_see_rows(conds: Sequence[Sequence[dict] | None], transformer_options: dict) -> bool:
    """Whether another node's patch sees the rows of cross-attention, which it may take apart by chunks."""
    return bool(
        len(transformer_options["patches"]["attn2_patch"]) > 1
        or transformer_options.get("patches_replace", {}).get("attn2")
        or any(cond.get("hooks") for entries in conds for cond in entries or ())  # they may bring such patches
    )


def _without_source_in_negative(
    executor: Any, rows: int, model: Any, conds: list, x_in: torch.Tensor, timestep: torch.Tensor, options: dict
) -> list[torch.Tensor]:
    """A model call whose negative leaves out the source rows, which are pinned: their guidance leads nowhere.

    Negatives that hold something for each row are left as they are.
    """
    if len(conds) != 2 or conds[1] is None or not all(map(_alike_for_all_rows, conds[1])):
        return executor(model, conds, x_in, timestep, options)
    edited = torch.arange(len(x_in), device=x_in.device) % rows != 0
    positive, _ = executor(model, [conds[0], None], x_in, timestep, options)
    negative = positive.clone()
    if edited.any():
        _, negative[edited] = executor(model, [None, conds[1]], x_in[edited], timestep[edited], options)
    return [positive, negative]


def _alike_for_all_rows(cond: dict) -> bool:
    tensors = (getattr(each, "cond", None) for each in cond.get("model_conds", {}).values())
    return not {"control", "hooks", "gligen", "mask"} & {
        key for key, value in cond.items() if value is not None
    } and all(each is None or not torch.is_tensor(each) or each.shape[0] == 1 for each in tensors)


def _own_id(cond: dict) -> dict:
    """A conditioning, with an id of its own if it is no pair's after all.

    Where a pair has an area, the host gives the other side an entry for that area by copying the pair's, id and all,
    around that side's own text.
    """
    if PAIR_KEY not in cond:
        return cond
    pairs, used = cond["cross_attn"], cond["model_conds"]["c_crossattn"].cond
    if used is pairs or (used.shape == pairs.shape and torch.equal(used, pairs.to(used))):
        return cond
    return {**cond, "uuid": (cond["uuid"], "copy")}


class _MapTaps:
    """Takes attention maps out of the layers that were asked for, before anything rewrites their inputs.

    Args:
        run: to know which conditioning belongs to which pair, and what is done to it.
        maps: what is collected; maps of one work come from the same level.
        unet: whose layers.
        size: (H, W) of the latent.
    """

    def __init__(self, run: EditRun, maps: Iterable[Sequence[MapRun]], unet: UNetModel, size: tuple[int, int]):
        self._run = run
        self._layers = _attention_layers(unet)
        self._wanted: dict[tuple, list[MapRun]] = {}  # (cross or self, block, number, index) -> who wants its maps
        levels = sorted({level for _, level in self._layers.values()})
        grids = [_grid(size, level) for level in levels]
        for together in filter(None, maps):
            chosen = levels[max(choose_level(each.request, grids, *size) for each in together)]
            for each in together:
                attention = each.request.attention
                for key, (_, level) in self._layers.items():
                    if level == chosen and (attention == "cross" or key[-1] == 0):
                        self._wanted.setdefault((attention, *key), []).append(each)
        self.areas: dict[Any, tuple[int, int, int, int] | None] = {}  # conditioning -> (h, w, y, x) in the latent

    def note_areas(self, conds: Sequence[Sequence[dict] | None], x_in: torch.Tensor) -> None:
        height, width = x_in.shape[-2:]
        for cond in (cond for entries in conds for cond in entries or ()):
            area = cond.get("area")
            if area is not None:
                h, w, y, x = area
                area = min(h, height - y), min(w, width - x), y, x
            self.areas[cond["uuid"]] = area

    def take(self, attention: str, hidden: torch.Tensor, context: torch.Tensor, extra_options: dict) -> None:
        key = *extra_options["block"], extra_options["block_index"]
        wanted = self._wanted.get((attention, *key))
        grid = tuple(extra_options["activations_shape"][-2:])
        if wanted is None or hidden.shape[1] != math.prod(grid):
            return
        block, level = self._layers[key]
        layer = block.attn2 if attention == "cross" else block.attn1
        conditionings = extra_options["uuids"]
        rows = hidden.shape[0] // len(conditionings)
        for first, conditioning in zip(range(0, hidden.shape[0], rows), conditionings, strict=True):
            mine = [maps for maps in wanted if maps.request.pair == self._run.pair_of(conditioning)]
            if not mine:
                continue
            chunk = slice(first, first + rows)
            probs = attention_probs(layer.to_q(hidden[chunk]), layer.to_k(context[chunk]), layer.heads)
            step = extra_options[STEP_KEY]
            for maps in mine:
                planned = _grid(extra_options["original_shape"][-2:], level)
                maps.add(conditioning, step, probs, grid, planned, self._run.states(conditioning, step))


def _attention_layers(unet: UNetModel) -> dict[tuple[str, int, int], tuple[BasicTransformerBlock, int]]:
    """(block, number, index), as the host names a layer -> the layer, and how often the latent is halved before it."""
    layers, level, levels = {}, 0, []
    for number, block in enumerate(unet.input_blocks):
        level += any(isinstance(module, Downsample) for module in block.modules())
        levels.append(level)
        layers |= _layers_in(block, ("input", number), level)
    if unet.middle_block is not None:
        layers |= _layers_in(unet.middle_block, ("middle", 0), level)
    for number, block in enumerate(unet.output_blocks):
        layers |= _layers_in(block, ("output", number), levels[-1 - number])
    return layers


def _layers_in(block: torch.nn.Module, name: tuple[str, int], level: int) -> dict:
    transformers = [module for module in block.modules() if isinstance(module, BasicTransformerBlock)]
    return {(*name, index): (module, level) for index, module in enumerate(transformers) if module.attn2 is not None}


def _grid(size: Sequence[int], level: int) -> tuple[int, int]:
    """(h, w) of a (H, W) latent after ``level`` halvings, which round up."""
    height, width = size
    for _ in range(level):
        height, width = -(-height // 2), -(-width // 2)
    return height, width


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
    step, whole_chunks = extra_options[STEP_KEY], extra_options[WHOLE_CHUNKS_KEY]
    return run.program(step, conditionings, rows, length, hidden.device, hidden.dtype, whole_chunks)


# --------------------------------------------------------------------------------------------------------------- noise


def _share_noise(seeds: int, rows: int, model_options: dict) -> None:
    """All rows of a seed get the noise that the stock run would draw for it, whichever sampler draws it, and how."""
    shared = SharedNoise(seeds, rows)

    def around_sampler(executor, *args, **kwargs):
        with shared:
            return executor(*args, **kwargs)

    def around_model_call(executor, *args, **kwargs):
        with shared.paused():
            return executor(*args, **kwargs)

    for place, wrapper in (
        (WrappersMP.SAMPLER_SAMPLE, around_sampler),
        (WrappersMP.CALC_COND_BATCH, around_model_call),
    ):
        add_wrapper_with_key(place, KEY, wrapper, model_options, is_model_options=True)
