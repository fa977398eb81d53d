"""P2P Grid makes what P2P Edit and KSampler make one by one, with one source for all."""

from __future__ import annotations

import pytest
import torch

SOURCE, SWAP = "a cat in orange on the grass", "a mushroom in orange on the grass"
SETTINGS = {"steps": 3, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal"}


@pytest.fixture
def grid(host, demo, run_node, monkeypatch, tmp_path):
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    model, clip, vae = demo

    def run(across="strength", across_values="0.2, 0.8", down="none", down_values="", batch=1, **more):
        inputs = {
            "model": model, "clip": clip, "vae": vae, "source": SOURCE, "target": SWAP, "across": across,
            "across_values": across_values, "down": down, "down_values": down_values, "strength": 0.5, "words": "",
            "negative": "", "seed": 1, "latent_image": {"samples": torch.zeros(batch, 4, 16, 16)}, **SETTINGS, **more,
        }  # fmt: skip
        return host.node("P2PGrid").execute(**inputs).result

    return run


@pytest.fixture
def one(host, demo, run_node):
    """(source, edit) of P2P Edit before KSampler, decoded."""
    model, clip, vae = demo

    def run(seed=1, strength=0.5, keep="the composition", words=""):
        inputs = {"model": model, "clip": clip, "source": SOURCE, "target": SWAP, "words": words}
        edited, positive, negative, *_ = run_node("P2PEdit", **inputs, strength=strength, keep=keep)
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        (made,) = run_node(
            "KSampler", model=edited, positive=positive, negative=negative, latent_image=latent, seed=seed, denoise=1.0,
            **SETTINGS,
        )  # fmt: skip
        return vae.decode(made["samples"])

    return run


def close(got, wanted):
    assert (got - wanted).abs().max() < 2e-3, "more rows in a run sum in another order"


def test_a_row_of_strengths(grid, one):
    sheet, images = grid(across_values="0, 0.2, 0.5, 0.8, 1")  # five edits are two runs
    assert sheet.shape[0] == 1 and images.shape == (6, 128, 128, 3)
    for picture, strength in zip(images[1:], (0.0, 0.2, 0.5, 0.8, 1.0), strict=True):
        source, edit = one(strength=strength)
        close(images[0], source)
        close(picture, edit)
    assert (images[1] - images[5]).abs().mean() > 1e-2


def test_seeds_down_have_a_source_each(grid, one):
    _, images = grid(across="scale", across_values="0, 2", down="seed", down_values="1, 2", words="grass")
    wanted = [one(seed=seed, words=f"grass: {scale}") for seed in (1, 2) for scale in (0, 2)]
    for got, of in zip(images, (wanted[0][0], wanted[2][0], *(each[1] for each in wanted)), strict=True):
        close(got, of)


def test_a_threshold_blends(grid, one):
    _, images = grid(across="threshold", across_values="0.3")
    close(images[1], one(keep="everything but the words")[1])


def test_an_interrupted_table_keeps_what_is_made(grid, monkeypatch):
    from comfy.model_management import InterruptProcessingException

    import nodes

    sample, calls = nodes.common_ksampler, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) > 1:
            raise InterruptProcessingException
        return sample(*args, **kwargs)

    monkeypatch.setattr(nodes, "common_ksampler", interrupted)
    _, images = grid(across="seed", across_values="1, 2, 3")
    assert len(images) == 2 and len(calls) == 2
    with pytest.raises(InterruptProcessingException):
        grid()


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"batch": 2}, "Wanted the latent of one picture, got 2"),
        ({"across_values": "0.5, 3"}, "Wanted strength from 0 to 1, got 3"),
        ({"down": "strength", "down_values": "0.5"}, "Wanted two different settings, got strength twice"),
        ({"across": "scale"}, "Wanted at least one word to re-weight"),
        ({"across": "cfg"}, "Wanted axis to be one of"),
        ({"target": " "}, "Wanted something to change, got no target and no words to fade"),
        ({"source": ""}, "Wanted a prompt with at least one word"),
    ],
)
def test_mistakes_are_refused_before_sampling(grid, monkeypatch, inputs, message):
    import nodes

    monkeypatch.setattr(nodes, "common_ksampler", None)
    with pytest.raises(ValueError, match=message):
        grid(**inputs)
