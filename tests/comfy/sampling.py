"""Shared steps of the tests that sample: encode, edit, run the stock sampler."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch

STEPS, CFG = 5, 4.0
SOURCE = "a cat on a red chair"
SWAP = "a dog on a red chair"
PHRASE = "a cat on a small red chair"
DEFAULTS = {"cross_start": 0.0, "cross_end": 0.8, "self_start": 0.0, "self_end": 0.4}
NO_WINDOW = {"cross_start": 0.0, "cross_end": 0.0, "self_start": 0.0, "self_end": 0.0}


class Sampling:
    """Graph nodes as methods. ``run_node`` is the fixture of the same name."""

    def __init__(self, run_node, model, clip):
        self.run_node, self.model, self.clip = run_node, model, clip

    def encode(self, text="blurry"):
        return self.run_node("CLIPTextEncode", clip=self.clip, text=text)[0]

    def pair(self, *targets, source=SOURCE):
        return self.run_node("P2PPromptPair", clip=self.clip, source=source, target="\n---\n".join(targets))

    def edit(self, pair, node="P2PAttentionReplace", model=None, **inputs):
        inputs = inputs or DEFAULTS
        return self.run_node(node, model=model or self.model, pair=pair, **inputs)[0]

    def ksampler(self, model, positive, image=None, negative=None, seed=7, **settings):
        settings = {
            "steps": STEPS,
            "cfg": CFG,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
            **settings,
        }
        return self.run_node(
            "KSampler",
            model=model,
            seed=seed,
            positive=positive,
            negative=negative or self.encode(),
            latent_image=image or latent(),
            **settings,
        )[0]["samples"]

    def stock_rows(self, positive, rows, image=None, negative=None, seed=7, model=None, sampler="euler", cfg=CFG):
        """The stock sampler on rows that share their noise, seed by seed."""
        import comfy.sample

        samples = (image or latent())["samples"]
        return comfy.sample.sample(
            model or self.model,
            comfy.sample.prepare_noise(samples, seed).repeat_interleave(rows, 0),
            STEPS,
            cfg,
            sampler,
            "normal",
            positive,
            negative or self.encode(),
            samples.repeat_interleave(rows, 0),
            denoise=1.0,
            seed=seed,
            disable_pbar=True,
        )


def latent(seeds=1, height=12, width=6):
    return {"samples": torch.zeros(seeds, 4, height, width)}


def relative_error(got, wanted):
    return float((got - wanted).abs().max() / wanted.std())


def host_prepares_masks():
    """Whether a noise mask is as many as the latents, and in their size, before anybody is asked (after 0.3.75)."""
    import comfy.samplers

    return "prepare_mask" in inspect.getsource(comfy.samplers.CFGGuider.sample)


def of_rows(image, rows):
    """A LATENT (or what else holds something for each seed) with each seed repeated for its rows."""
    return {key: each.repeat_interleave(rows, 0) for key, each in image.items()}


@contextmanager
def drawn_once_for(seeds: int, rows: int) -> Iterator[None]:
    """The stock run's random numbers for ``seeds``, each repeated for its rows, done by hand for the oracle."""
    randn, randn_like = torch.randn, torch.randn_like

    def shared_randn(*size, **settings):
        size = settings.pop("size", size)
        size = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size
        if size[0] != seeds * rows:
            return randn(size, **settings)
        return randn((seeds, *size[1:]), **settings).repeat_interleave(rows, 0)

    def shared_randn_like(x):
        return randn_like(x[:seeds]).repeat_interleave(rows, 0) if len(x) == seeds * rows else randn_like(x)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "randn", shared_randn))
        stack.enter_context(mock.patch.object(torch, "randn_like", shared_randn_like))
        yield
