"""P2P Edit does what the single nodes do, bit for bit, and says which."""

from __future__ import annotations

import logging

import pytest
import torch
from inverting import picture
from sampling import PHRASE, SOURCE, STEPS, SWAP, Sampling, latent
from small_models import sd15

AUTOMATIC, WHOLE, REST, NOTHING = "automatic", "the composition", "everything but the words", "nothing"
IDS = {
    "P2P Attention Replace": "P2PAttentionReplace",
    "P2P Reweight Token": "P2PReweightToken",
    "P2P Local Blend Mask": "P2PLocalBlendMask",
    "P2P DDIM Invert": "P2PDDIMInvert",
}


@pytest.fixture(scope="module")
def sampling(run_node):
    return Sampling(run_node, *sd15())


@pytest.fixture
def edit(host, sampling):
    """Runs P2P Edit: (model, conditioning, pair, masks), what it says that it did, and its negative is kept."""

    def run(source=SOURCE, target=SWAP, strength=0.5, keep=WHOLE, **more):
        inputs = {"model": sampling.model, "clip": sampling.clip, "source": source, "target": target}
        output = host.node("P2PEdit").execute(**inputs, strength=strength, keep=keep, **more)
        model, conditioning, run.negative, pair, masks = output.result
        return (model, conditioning, pair, masks), output.ui["p2p_did"]

    return run


def by_single_nodes(host, sampling, target, did, image=None):
    """What the nodes that P2P Edit names make of the model, with their own defaults for what it does not name."""
    conditioning, pair = sampling.run_node("P2PPromptPair", clip=sampling.clip, source=SOURCE, target=target)
    model = sampling.model
    given = {"pair": pair, "conditioning": conditioning, "latent_image": image}
    for step in did:
        node = IDS[step["node"]]
        schema = {each.id: each for each in host.node(node).GET_SCHEMA().inputs}
        inputs = {name: getattr(each, "default", None) for name, each in schema.items() if not each.optional}
        inputs |= {name: value for name, value in given.items() if name in schema} | {"model": model} | step["inputs"]
        model, *_ = sampling.run_node(node, **inputs)
    return sampling.ksampler(model, conditioning, image)


@pytest.mark.parametrize("keep", [AUTOMATIC, WHOLE, REST, NOTHING])
@pytest.mark.parametrize("target", [SWAP, PHRASE, f"{SWAP}\n---\n{PHRASE}"])
def test_does_what_the_single_nodes_do(host, sampling, edit, target, keep):
    (model, conditioning, pair, _), did = edit(target=target, keep=keep, strength=0.4)
    assert pair.source.text == SOURCE and conditioning[0][0].shape[0] == pair.rows
    made = sampling.ksampler(model, conditioning)
    assert torch.equal(made, by_single_nodes(host, sampling, target, did))
    blended = ["P2P Local Blend Mask"] * (keep in (AUTOMATIC, REST))
    assert [step["node"] for step in did] == ["P2P Attention Replace", *blended]
    assert (made[1] - made[0]).norm() > 1e-3 * made[0].norm()


def test_faders_beside_an_edit(host, sampling, edit):
    (model, conditioning, _, _), did = edit(words="red: 2\nchair: 0.5")
    made = sampling.ksampler(model, conditioning)
    assert torch.equal(made, by_single_nodes(host, sampling, SWAP, did))
    assert did[1] == {"node": "P2P Reweight Token", "inputs": {"words": "red: 2\nchair: 0.5"}}
    assert not torch.equal(made[1], sampling.ksampler(*edit()[0][:2])[1])


def test_faders_alone_fade_the_sources_words(host, sampling, edit):
    (model, conditioning, pair, _), did = edit(target=" ", words="red: 3", keep=REST)
    assert pair.targets[0].text == SOURCE
    made = sampling.ksampler(model, conditioning)
    assert torch.equal(made, by_single_nodes(host, sampling, SOURCE, did))
    assert (made[1] - made[0]).norm() > 1e-3 * made[0].norm()


def test_a_blend_beside_faders_says_by_which_words(edit):
    (model, conditioning, _, _), did = edit(words="red: 3, chair: 0", keep=REST)
    assert did[-1]["inputs"]["words"] == "those that differ, red, chair"
    assert "words" not in edit(keep=REST)[1][-1]["inputs"]


@pytest.mark.parametrize("everywhere", [False, True])
def test_automatic_holds_an_edit_to_its_place_where_it_has_one(host, sampling, edit, everywhere, monkeypatch, caplog):
    """What the pictures of a random model show is of no account here: whichever it is, the run does that."""
    monkeypatch.setattr(host.module("p2p_attention.changed"), "EVERYWHERE", 0.0 if everywhere else 2.0)
    (model, conditioning, _, masks), _ = edit(keep=AUTOMATIC)
    with caplog.at_level(logging.INFO):
        made = sampling.ksampler(model, conditioning, latent(1, 16, 16))
    outside = masks.take(made).masks[0, 0] == 0
    assert torch.equal(made[1][:, outside], made[0][:, outside])
    assert outside.any() != everywhere
    assert ("edit 1 of image 1 is of the whole picture" in caplog.text) == everywhere
    whole = sampling.ksampler(*edit(keep=WHOLE)[0][:2], latent(1, 16, 16))
    assert torch.equal(made, whole) == everywhere


def test_automatic_leaves_an_edit_without_words_of_its_own_alone(sampling, edit):
    """A weight is one, which *everything but the words* refuses; also beside an edit that has some."""
    weighted = SOURCE.replace("red", "(red:1.5)")
    with pytest.raises(ValueError, match="Wanted a word that changes"):
        edit(target=weighted, keep=REST)
    (model, conditioning, _, masks), did = edit(target=weighted, keep=AUTOMATIC)
    made = sampling.ksampler(model, conditioning)
    assert [step["node"] for step in did] == ["P2P Attention Replace"]
    assert (masks.take(made).masks == 1).all() and not torch.equal(made[1], made[0])
    (model, conditioning, _, masks), did = edit(target=f"{SWAP}\n---\n{weighted}", keep=AUTOMATIC)
    made = sampling.ksampler(model, conditioning)
    assert did[-1]["node"] == "P2P Local Blend Mask" and (masks.take(made).masks[:, 1] == 1).all()


def test_a_photograph_comes_back_and_is_edited(host, sampling, edit):
    image = picture()
    (model, conditioning, _, _), did = edit(latent_image=image, steps=STEPS, scheduler="normal")
    made = sampling.ksampler(model, conditioning, image)
    assert torch.equal(made, by_single_nodes(host, sampling, SWAP, did, image))
    torch.testing.assert_close(made[:1], image["samples"])
    assert did[0]["node"] == "P2P DDIM Invert" and did[0]["inputs"]["steps"] == STEPS


@pytest.mark.parametrize(
    "more", [{}, {"keep": AUTOMATIC}, {"keep": REST}, {"keep": NOTHING}, {"strength": 0.0}, {"strength": 1.0}]
)
def test_the_source_is_the_stock_picture(sampling, edit, more):
    (model, conditioning, _, _), _ = edit(**more)
    made = sampling.ksampler(model, conditioning)
    assert torch.equal(made[:1], sampling.stock_rows(conditioning, 2)[:1])


def test_more_strength_takes_less_of_the_source(sampling, edit):
    """To the two ends: all maps are the source's, and none."""
    did = [edit(strength=strength)[1][0]["inputs"] for strength in (0.0, 0.1, 0.25, 0.6, 0.8, 1.0)]
    ends = [(each["cross_end"], each["self_end"]) for each in did]
    assert ends == sorted(ends, reverse=True) and len(set(ends)) == len(ends)
    assert ends[0] == (1.0, 1.0) and ends[-1] == (0.0, 0.0)
    free, nothing = (sampling.ksampler(*edit(**more)[0][:2]) for more in ({"strength": 1.0}, {"keep": NOTHING}))
    assert torch.equal(free, nothing)


def test_masks_are_for_show_blend_mask(sampling, edit):
    (model, conditioning, _, masks), _ = edit(keep=REST)
    samples = {"samples": sampling.ksampler(model, conditioning, latent(1, 16, 16))}
    shown, _ = sampling.run_node("P2PShowBlendMask", masks=masks, latent=samples)
    assert shown.shape[0] == 1 and not (shown == 1).all()
    (model, conditioning, _, masks), _ = edit()
    samples = {"samples": sampling.ksampler(model, conditioning, latent(1, 16, 16))}
    shown, _ = sampling.run_node("P2PShowBlendMask", masks=masks, latent=samples)
    assert shown.shape[0] == 1 and (shown == 1).all(), "every place may change"
    with pytest.raises(ValueError, match="Wanted the latents of source and edits, 2 for each picture, got 3"):
        sampling.run_node("P2PShowBlendMask", masks=masks, latent=latent(3))


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"target": ""}, "Wanted something to change, got no target and no words to fade"),
        ({"strength": 1.5}, "Wanted strength from 0 to 1, got 1.5"),
        ({"keep": "all"}, "Wanted keep to be one of automatic, .*, got 'all'"),
        ({"words": "red"}, "Wanted a word with its factor, as in 'snow: 0.5', got 'red'"),
        ({"words": "blue: 2"}, "Wanted a word of the edited prompt, got 'blue'"),
        ({"words": "red: 99"}, "Wanted scale from -20 to 20, got 99"),
        ({"target": SOURCE, "keep": REST}, "Wanted a word that changes, .* got edit 1 with the source's own words"),
        ({"latent_image": latent()}, "Wanted the latent of a picture, .* all zero"),
    ],
)
def test_mistakes_are_refused_before_sampling(edit, inputs, message):
    with pytest.raises(ValueError, match=message):
        edit(**inputs)


@pytest.mark.parametrize("inputs", [{"words": "blue: 2"}, {"target": SOURCE, "keep": REST}])
def test_mistakes_are_refused_before_the_way_back_is_looked_for(edit, inputs, host, monkeypatch):
    """That of a photograph takes its time."""
    monkeypatch.setattr(host.module("p2p_attention.host.one_edit"), "ddim_invert", lambda *_: pytest.fail("inverts"))
    with pytest.raises(ValueError, match="Wanted a word"):
        edit(latent_image=picture(), **inputs)


def test_the_negative_is_what_its_text_says(sampling, edit):
    edit(negative="blurry")
    ((context, more),), ((wanted, _),) = edit.negative, sampling.encode("blurry")
    assert torch.equal(context, wanted) and "pooled_output" in more
    edit()
    assert torch.equal(edit.negative[0][0], sampling.encode("")[0][0])
