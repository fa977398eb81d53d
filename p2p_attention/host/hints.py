"""What is only unusual, and is said without stopping the run: it may be meant, but often something was forgotten."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from ..conditionings import PAIR_KEY, alike_in, first_row
from ..edit import Edit
from ..invert import Inversion
from ..prompt import PromptPair, quoted
from ..run import EditRun
from ..steps import extrapolation
from .graph import works_on_pictures
from .notices import place, say
from .results import Origin, is_empty

FULL_NOISE = 0.9  # of the model's time; schedules of few steps do not begin at the very top
PAGE = "the help page of P2P Second Pass"

# Samplers that go on from what they saw in earlier steps: how many steps after a window's end they still do, measured
# (1000: to the end of the run).
LOOKS_BACK = {
    "dpmpp_2m": 1, "gradient_estimation": 1, "res_multistep": 1, "er_sde": 2, "deis": 4, "dpmpp_3m_sde": 4,
    "ipndm": 1000, "lms": 1000,
}  # fmt: skip
FAR = 1.3  # see ``extrapolation``; from here on it was seen
SEEN = 0.1  # noise level below which what a step makes of it is no longer seen


def alike_on_both_sides(conds: Mapping[str, Sequence[dict]]) -> bool:
    """Whether there is nothing to be guided to: some packs sample so only to have a model loaded."""
    first, *others = ([cond.get("cross_attn") for cond in entries] for entries in conds.values())
    return bool(others) and all(
        len(each) == len(first)
        and all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in zip(each, first))
        for each in others
    )


def say_that_nothing_is_edited(conds: Mapping[str, Sequence[dict]]) -> None:
    say(
        "the conditioning of this sampler is of no prompt pair, so the P2P nodes on its model do nothing. Connect P2P "
        "Prompt Pair's conditioning to positive, or the model from before the P2P nodes.",
        logging.INFO if alike_on_both_sides(conds) else logging.WARNING,
    )


def say_which_pairs_took_no_part(pairs: Mapping[Any, PromptPair], met: Collection[Any]) -> None:
    """A pair whose conditioning the model never saw as it is: another node put something else in its place."""
    for pair in set(pairs.values()) - {pair for conditioning, pair in pairs.items() if conditioning in met}:
        say(
            f"the pair {quoted(pair.source.text)} took no part in this run: its conditioning was in no call of the "
            "model, so nothing was edited. Its time range may lie outside of this run's, or another node (a guider, a "
            "node that replaces conditionings) has put its own in the place."
        )


def say_that_the_way_up_is_not_edited() -> None:
    say(
        "the noise levels of this run rise, as on the way from a picture to its noise, where nothing is edited.",
        logging.INFO,
    )


def say_what_becomes_of_latents(
    latents_are: Origin, latents: torch.Tensor, rows: int, taken_as_second_pass: bool
) -> None:
    count, here = len(latents), place()
    if taken_as_second_pass:
        say(
            f"these {count} latents are source and edits of an earlier run, and are sampled on as they are, as with "
            "P2P Second Pass.",
            logging.INFO,
        )
    elif latents_are in ("picked", "part"):
        say(
            f"these {count} latents come from a run of source and edits, and each of them becomes source and edits "
            f"once more, {count * rows} in all. Connect the model from before the P2P nodes, or hand on all that the "
            f"first sampler made ({PAGE} has a recipe for each kind of node)."
        )
    elif here is not None and works_on_pictures(here.prompt, here.node) and not is_empty(latents):
        say(
            f"in this node {count} latents become source and edits, {count * rows} in all. If it wants as many back "
            "as it began with (a detailer, an upscaler), connect the model from before the P2P nodes, or all pictures "
            f"of a sampler before it ({PAGE} has a recipe for each kind of node)."
        )


def say_what_is_not_edited(edits: Sequence[Edit], conds: Mapping[str, Sequence[dict]]) -> None:
    """Edits whose prompt is the source's own, and which no fader changes either."""
    marked = [cond for entries in conds.values() for cond in entries if PAIR_KEY in cond]
    for pair in {cond[PAIR_KEY]: None for cond in marked}:
        parts = [cond for cond in marked if cond[PAIR_KEY] == pair]
        for target in range(len(pair.targets)):
            works = [work for edit in edits if edit.pair == pair and (work := edit.rows[target]) is not None]
            faded = any(gain != 1.0 for work in works for gain in work.gains)
            if works and not faded and all(alike_in(part, target + 1, 0) for part in parts):
                same = pair.targets[target].text == pair.source.text
                say(
                    f"edit {target + 1} has the same text as the source"
                    + ("" if same else " to the model's text encoder")
                    + ", so there is nothing to edit. Change its prompt in P2P Prompt Pair, or fade one of its words "
                    "with P2P Reweight Token."
                )


def say_what_a_control_net_sees(conds: Mapping[str, Sequence[dict]]) -> None:
    """Its own attention is not edited, and so goes to what fills texts up to one length."""
    for cond in (cond for entries in conds.values() for cond in entries if PAIR_KEY in cond):
        pair = cond[PAIR_KEY]
        lengths = {prompt.length for prompt in (pair.source, *pair.targets)}
        if cond.get("control") is not None and pair.padded and len(lengths) > 1:
            say(
                "the ControlNet sees texts that are filled up to one length, so the source is nearly, not exactly, the "
                "picture that its text makes alone. It is where source and edits have equally many tokens "
                f"(now: {', '.join(map(str, sorted(lengths)))})."
            )


def say_where_it_begins(latents: torch.Tensor, sigma: float, sampling: Any) -> None:
    """A run on an empty latent that begins below full noise has nothing to go on from.

    Args:
        latents: (B, C, H, W), to begin with.
        sigma: the first noise level.
        sampling: the host's model_sampling.
    """
    low, high = (float(sampling.timestep(each)) for each in (sampling.sigma_min, sampling.sigma_max))
    begin = (float(sampling.timestep(torch.tensor(sigma))) - low) / (high - low)
    if begin < FULL_NOISE and is_empty(latents):
        say(
            f"this run begins at {begin:.0%} of the noise on an empty latent, whose grey will show. Set denoise to 1, "
            "or connect a picture's latent."
        )


def say_where_the_sampler_overshoots(run: EditRun, sampler: Any, sigmas: Sequence[float]) -> None:
    """Samplers that extrapolate take the end of a window for a trend, and follow it; over a step that is much longer
    than the one before, which some schedules have before their last, that is seen as glaring colours.

    Args:
        run: with the edits.
        sampler: the host's.
        sigmas: noise levels, one more than there are steps.
    """
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", "").removeprefix("sample_")
    looks_back = next((steps for begin, steps in LOOKS_BACK.items() if name.startswith(begin)), None)
    if looks_back is None:
        return
    far_steps = (far for far in range(1, run.steps) if sigmas[far] > SEEN and extrapolation(sigmas, far) > FAR)
    for far in far_steps:
        if any(run.changes_at(step) for step in range(max(1, far - looks_back), far + 1)):
            say(
                f"edits may come out glaring or broken: {name} goes far beyond what it has seen in step {far + 1} of "
                f"{run.steps}, and a window of the edits begins or ends shortly before. Set scheduler to simple or "
                "karras, or sampler_name to euler."
            )


def say_by_which_prompt_it_was_inverted(
    inversions: Sequence[Inversion], conds: Mapping[str, Sequence[dict]], pairs: Mapping[Any, PromptPair]
) -> None:
    for inversion in inversions:
        marked = [cond for cond in conds.get("positive", ()) if cond["uuid"] in pairs]
        sources = [first_row([cond["cross_attn"], cond])[0] for cond in marked]
        if (
            inversion.context is not None
            and sources
            and not any(_same_text(inversion.context, each) for each in sources)
        ):
            say(
                "P2P DDIM Invert went back by another source prompt than the pair's, so the source does not come back "
                "by itself and edits start from other words. Connect P2P Prompt Pair's conditioning to both."
            )


def _same_text(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Contexts (1, L, D), of which the longer one may hold the other repeated."""
    short, long = sorted((a, b), key=lambda each: each.shape[1])
    if short.shape[2] != long.shape[2] or long.shape[1] % short.shape[1]:
        return False
    return torch.allclose(short.repeat(1, long.shape[1] // short.shape[1], 1).to(long), long, atol=1e-4, rtol=1e-3)
