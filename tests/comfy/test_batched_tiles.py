"""Nodes that sample in tiles batch several into one model call. An edit does not depend on how many, or in which order.

The stand-in does what MultiDiffusion, Mixture of Diffusers and SpotDiffusion do: it takes a ``model_function_wrapper``,
cuts the latents into tiles that overlap, calls the model on some at a time and takes the mean where they overlap.
"""

from __future__ import annotations

import pytest
import torch
from sampling import SOURCE, SWAP, Sampling, latent, relative_error
from small_models import FAMILIES

HEIGHT, WIDTH = 12, 12
TILE = 8
CORNERS = [(y, x) for y in (0, HEIGHT - TILE) for x in (0, WIDTH - TILE)]


@pytest.fixture(scope="module")
def sampling(run_node):
    return Sampling(run_node, *FAMILIES["sd15"]())


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    pass


def tiled(model, at_once: int, order: str):
    """A clone of the model that samples ``at_once`` tiles in a call: tile by tile, or conditioning by conditioning."""

    def wrapper(apply_model, args):
        x, timestep, c, chunks = args["input"], args["timestep"], args["c"], len(args["cond_or_uncond"])
        total, count = torch.zeros_like(x), torch.zeros_like(x)

        def batched(each, cut):
            """(N, ...) -> (tiles N, ...)"""
            if order == "tile by tile":
                return torch.cat([cut(each, corner) for corner in corners])
            return torch.cat([cut(chunk, corner) for chunk in each.chunk(chunks) for corner in corners])

        def crop(each, corner):
            y, x = corner
            return each[..., y : y + TILE, x : x + TILE]

        for first in range(0, len(CORNERS), at_once):
            corners = CORNERS[first : first + at_once]
            inputs = {
                name: batched(each, crop if each.ndim == 4 else lambda each, _: each)
                for name, each in c.items()
                if torch.is_tensor(each)
            }
            others = {name: each for name, each in c.items() if not torch.is_tensor(each)}
            out = apply_model(batched(x, crop), batched(timestep, lambda each, _: each), **inputs, **others)
            if order == "tile by tile":
                parts = out.chunk(len(corners))
            else:
                by_chunk = [chunk.chunk(len(corners)) for chunk in out.chunk(chunks)]
                parts = [torch.cat(each) for each in zip(*by_chunk, strict=True)]
            for part, (top, left) in zip(parts, corners, strict=True):
                place = (..., slice(top, top + TILE), slice(left, left + TILE))
                total[place] += part
                count[place] += 1
        return total / count

    patched = model.clone()
    patched.set_model_unet_function_wrapper(wrapper)
    return patched


@pytest.fixture(params=["one call", "two calls"])
def calls(request, monkeypatch):
    """Cond and uncond together, or each by itself as when memory is short."""
    if request.param == "two calls":
        from comfy.model_base import BaseModel

        monkeypatch.setattr(BaseModel, "memory_required", lambda *_, **__: 1e30)


@pytest.mark.daily("one call-4.0-2", "two calls-4.0-2", "one call-1.0-1")
@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_an_edit_does_not_depend_on_how_tiles_are_batched(sampling, calls, seeds, cfg):
    positive, pair = sampling.pair(SWAP, "a cat on a small red chair")
    image = latent(seeds, HEIGHT, WIDTH)
    edited = sampling.edit(pair)

    def run(model, at_once, order):
        return sampling.ksampler(tiled(model, at_once, order), positive, image, cfg=cfg, steps=2)

    alone = run(edited, 1, "tile by tile")
    sources = sampling.ksampler(
        tiled(sampling.model, 1, "tile by tile"), sampling.encode(SOURCE), image, cfg=cfg, steps=2
    )
    assert relative_error(alone[::3], sources) < 1e-4
    assert relative_error(alone[1::3], alone[::3]) > 0.01, "the edit is to be seen"
    for at_once in (2, 4):
        for order in ("tile by tile", "conditioning by conditioning"):
            assert relative_error(run(edited, at_once, order), alone) < 1e-4, (at_once, order)


def test_words_maps_of_tiles_are_refused(sampling):
    """A blend by words in tiles would be a mixture of the tiles' maps."""
    positive, pair = sampling.pair(SWAP)
    blended, _ = sampling.run_node(
        "P2PLocalBlendMask", model=sampling.edit(pair), pair=pair, words="", exclude_words="", threshold=0.3, start=0.0,
        spread=False, grow=0, feather=0.0, map_resolution="auto",
    )  # fmt: skip
    for at_once in (1, 4):
        with pytest.raises(ValueError, match="Attention maps of a picture in tiles are not supported"):
            sampling.ksampler(tiled(blended, at_once, "tile by tile"), positive, latent(1, HEIGHT, WIDTH), steps=2)


def test_a_wrapper_that_batches_beyond_recognition_is_refused(sampling):
    positive, pair = sampling.pair(SWAP)
    model = sampling.edit(pair)

    def shuffled(apply_model, args):
        order = torch.tensor([0, 3, 2, 1])
        c = {name: each[order] if torch.is_tensor(each) else each for name, each in args["c"].items()}
        return apply_model(args["input"][order], args["timestep"], **c)[order.argsort()]

    model.set_model_unet_function_wrapper(shuffled)
    with pytest.raises(ValueError, match="Another node batches the model's calls in a way of its own"):
        sampling.ksampler(model, positive, latent(1, 8, 8), steps=2)


def test_a_wrapper_that_only_looks_on_changes_no_bit(sampling):
    positive, pair = sampling.pair(SWAP)
    model = sampling.edit(pair)
    wanted = sampling.ksampler(model, positive, latent(1, 8, 8))
    watched = model.clone()
    watched.set_model_unet_function_wrapper(
        lambda apply_model, args: apply_model(args["input"], args["timestep"], **args["c"])
    )
    assert torch.equal(sampling.ksampler(watched, positive, latent(1, 8, 8)), wanted)
