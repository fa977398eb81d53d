"""A sampler behind, or inside of, another node: its latents are source and edits already, or else it makes them.

Whatever a node does around its samplers: a picture that goes in is one source and its edits, and never more.
"""

from __future__ import annotations

import logging
import sys
import uuid
from types import SimpleNamespace

import pytest
import torch
from sampling import NO_WINDOW, PHRASE, SOURCE, STEPS, SWAP, Sampling, host_prepares_masks, latent, relative_error
from small_models import sd15
from stand_ins import (
    Sampler,
    detailer,
    dummy_first,
    enlarged,
    highres_script,
    iterative_upscale,
    regional_sampler,
    tiled_sampler,
    unsampler,
    upscaler,
)

FLOAT32 = 1e-3  # the same sum in another order, through all steps; an edit that differs is off by far more
AGAIN = {"seed": 11, "denoise": 0.6}
SIZE = (16, 12)


@pytest.fixture(scope="module")
def sampling(run_node):
    return Sampling(run_node, *sd15())


@pytest.fixture(scope="module")
def one(sampling):
    """(conditioning, pair) of one edit: two rows."""
    return sampling.pair(SWAP)


@pytest.fixture(scope="module")
def two(sampling):
    """(conditioning, pair) of two edits: three rows."""
    return sampling.pair(SWAP, PHRASE)


def second(sampling, pair, model=None):
    return sampling.run_node("P2PSecondPass", model=model or sampling.model, pair=pair)[0]


def sampler(sampling, model, positive, **settings):
    return Sampler(sampling.run_node, model, positive, sampling.encode(), **settings)


def empty(batch=1):
    return latent(batch, *SIZE)


# ---- noise masks: the order of rows does not depend on the host


def as_newer_hosts_hand_over(masks, batch):
    """Repeated to the batch and in latent size, as the host does it before anybody is asked (after 0.3.75)."""
    import comfy.utils

    return comfy.utils.reshape_mask(masks, (batch, 4, *SIZE))


def halves(count):
    """Masks that are told apart: the left half, the right half, the upper half, ..."""
    height, width = SIZE
    masks = torch.zeros(4, 1, height, width)
    masks[0, ..., : width // 2] = 1.0
    masks[1, ..., width // 2 :] = 1.0
    masks[2, ..., : height // 2, :] = 1.0
    masks[3, ..., height // 2 :, :] = 1.0
    return masks[:count]


@pytest.mark.parametrize("newer", [False, True], ids=["as given", "as newer hosts hand over"])
@pytest.mark.parametrize("masks", ["for each picture", "for source and edits", "for each row"])
@pytest.mark.parametrize("pictures", [2, 3])
def test_noise_masks_of_a_second_pass(sampling, two, pictures, masks, newer):
    """As many as pictures: all rows of a picture have its own. As many as rows of a picture: those, for each."""
    if newer and host_prepares_masks():
        pytest.skip("this host hands them over so itself")
    conditioning, pair = two
    rows, batch = pair.rows, pictures * pair.rows
    if masks == "for source and edits" and pictures == rows:
        pytest.skip("as many as pictures are one for each picture")
    if masks == "for each row":
        given = halves(4)[[0, 1, 2, 3, 0, 2, 1, 3, 3][:batch]]
        wanted = given
    elif masks == "for each picture":
        given = halves(pictures)
        wanted = given.repeat_interleave(rows, 0)
    else:
        given = halves(rows)
        wanted = given.repeat(pictures, 1, 1, 1)
    start = torch.randn(batch, 4, *SIZE, generator=torch.Generator().manual_seed(2))
    mask = as_newer_hosts_hand_over(given, batch) if newer else given
    model = second(sampling, pair, sampling.edit(pair))
    got = sampling.ksampler(model, conditioning, {"samples": start, "noise_mask": mask}, **AGAIN)
    kept = (got - start).abs().amax(dim=1, keepdim=True) < 1e-4
    assert torch.equal(kept, wanted == 0)


# ---- batch_index: which noise a latent of a batch gets


def picked(sampling, image, first, length=1):
    return sampling.run_node("LatentFromBatch", samples=image, batch_index=first, length=length)[0]


def sampled_again(sampling, pair, model, conditioning, image):
    """The latents of a first sampler, which hands on the rest of what its own latent said."""
    made = {**image, "samples": sampling.ksampler(model, conditioning, image)}
    return made, sampling.ksampler(second(sampling, pair, model), conditioning, made, **AGAIN)


@pytest.mark.parametrize("pick", ["one of four", "two of four", "fixed"])
def test_a_batch_index_from_before_the_first_sampler(sampling, two, pick):
    """The noise of a second pass is that of the pictures, and they are named by the numbers that they came with."""
    conditioning, pair = two
    image = {
        "one of four": lambda: picked(sampling, empty(4), 2),
        "two of four": lambda: picked(sampling, empty(4), 1, 2),
        "fixed": lambda: sampling.run_node("LatentBatchSeedBehavior", samples=empty(2), seed_behavior="fixed")[0],
    }[pick]()
    model = sampling.edit(pair)
    made, got = sampled_again(sampling, pair, model, conditioning, image)
    alone = {**made, "samples": made["samples"][:: pair.rows]}
    wanted = sampling.ksampler(sampling.model, sampling.encode(SOURCE), alone, **AGAIN)
    assert relative_error(got[:: pair.rows], wanted) < FLOAT32


def test_fixed_noise_between_the_samplers(sampling, two):
    conditioning, pair = two
    model = sampling.edit(pair)
    made = {"samples": sampling.ksampler(model, conditioning, empty(2))}
    (fixed,) = sampling.run_node("LatentBatchSeedBehavior", samples=made, seed_behavior="fixed")
    got = sampling.ksampler(second(sampling, pair, model), conditioning, fixed, **AGAIN)
    alone = {"samples": made["samples"][:: pair.rows], "batch_index": [0, 0]}
    wanted = sampling.ksampler(sampling.model, sampling.encode(SOURCE), alone, **AGAIN)
    assert relative_error(got[:: pair.rows], wanted) < FLOAT32


# ---- picked pictures keep what is theirs


def pick(sampling, image, pair, row):
    return sampling.run_node("P2PPickPictures", latent=image, pair=pair, row=row)[0]


def test_a_picked_edit_keeps_its_pictures_mask_and_noise(sampling, two):
    """Where Latent From Batch counts rows, and finds another picture's mask, or no number at all."""
    conditioning, pair = two
    image = {**picked(sampling, empty(4), 1, 2), "noise_mask": halves(2)}
    image["samples"] = torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(2))
    made = {**image, "samples": sampling.ksampler(sampling.edit(pair), conditioning, image)}
    one = pick(sampling, made, pair, 1)
    assert torch.equal(one["samples"], made["samples"][1 :: pair.rows])
    assert torch.equal(one["noise_mask"], image["noise_mask"]) and one["batch_index"] == [1, 2]
    again = sampling.ksampler(sampling.model, sampling.encode(SWAP), one, **AGAIN)
    kept = (again - one["samples"]).abs().amax(dim=1, keepdim=True) < 1e-4
    assert torch.equal(kept, image["noise_mask"] == 0)


def test_picked_from_masks_and_numbers_of_every_kind(sampling, two):
    _, pair = two
    rows = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 4, 2, 2)
    for masks, wanted in ((1, [0]), (2, [0, 1]), (3, [2]), (6, [2, 5])):
        mask = torch.arange(float(masks)).view(masks, 1, 1, 1)
        got = pick(sampling, {"samples": rows, "noise_mask": mask, "batch_index": [*range(6)]}, pair, 2)
        assert got["noise_mask"].flatten().tolist() == wanted
        assert got["samples"][:, 0, 0, 0].tolist() == got["batch_index"] == [2, 5]
    with pytest.raises(ValueError, match="Wanted row 0 .the source. to 2 .*got 3"):
        pick(sampling, {"samples": rows}, pair, 3)
    with pytest.raises(ValueError, match="Wanted the latents of source and edits, 3 for each picture, got 5"):
        pick(sampling, {"samples": rows[:5]}, pair, 0)


# ---- a sampler behind another one, without being told


def test_noise_for_each_picture_tells_that_the_rows_are_there(sampling, two):
    """Fewer noises than latents: only a run of ours leaves such a latent behind."""
    conditioning, pair = two
    model = sampling.edit(pair)
    made, wanted = sampled_again(sampling, pair, model, conditioning, picked(sampling, empty(4), 1, 2))
    assert torch.equal(sampling.ksampler(model, conditioning, made, **AGAIN), wanted)


@pytest.mark.parametrize("by", [1.0, 1.5])
@pytest.mark.parametrize("pictures", [1, 2])
def test_a_result_sampled_again_is_a_second_pass(sampling, two, pictures, by, caplog):
    conditioning, pair = two
    model = sampling.edit(pair)
    made = enlarged({"samples": sampling.ksampler(model, conditioning, empty(pictures))}, by)
    wanted = sampling.ksampler(second(sampling, pair, model), conditioning, made, **AGAIN)
    with caplog.at_level(logging.INFO):
        assert torch.equal(sampling.ksampler(model, conditioning, made, **AGAIN), wanted)
    assert "P2P Second Pass" in caplog.text and "source and edits" in caplog.text


def test_a_result_with_left_over_noise_goes_on(sampling, two):
    conditioning, pair = two
    node = sampler(sampling, sampling.edit(pair), conditioning)
    first = node.advanced(empty(2), 0, 2, noise=True, leftover=True)
    wanted = sampler(sampling, second(sampling, pair, node.model), conditioning).advanced(
        first, 2, STEPS, noise=False, leftover=False
    )
    assert torch.equal(node.advanced(first, 2, STEPS, noise=False, leftover=False)["samples"], wanted["samples"])


def test_other_pictures_are_no_second_pass(sampling, one):
    """As many as a run made, but not those: each is a picture of its own."""
    conditioning, pair = one
    model = sampling.edit(pair)
    sampling.ksampler(model, conditioning, empty(1))
    photos = torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(5))
    assert len(sampling.ksampler(model, conditioning, {"samples": photos}, **AGAIN)) == 4
    assert len(sampling.ksampler(model, conditioning, empty(2))) == 4


def test_a_part_of_a_result_is_said(sampling, two, caplog):
    """One picture of a result on the edited model: it becomes source and edits again, which is hardly meant."""
    conditioning, pair = two
    model = sampling.edit(pair)
    made = sampling.ksampler(model, conditioning, empty())
    with caplog.at_level(logging.WARNING):
        sampling.ksampler(model, conditioning, {"samples": made[1:2]}, **AGAIN)
    assert "each of them becomes source and edits once more" in caplog.text


# ---- nodes that sample inside


def test_a_script_that_samples_its_own_result_again(sampling, one):
    conditioning, pair = one
    node = sampler(sampling, sampling.edit(pair), conditioning)
    got = highres_script(node, empty())
    made = node.ksampler(empty())
    wanted = sampler(sampling, second(sampling, pair, node.model), conditioning).ksampler(
        enlarged(made, 1.5), denoise=0.6
    )
    assert torch.equal(got["samples"], wanted["samples"])


def test_an_iterative_upscaler(sampling, one):
    conditioning, pair = one
    model = sampling.edit(pair)
    made = {"samples": sampling.ksampler(model, conditioning, empty())}
    got = iterative_upscale(sampler(sampling, model, conditioning), made)
    wanted = iterative_upscale(sampler(sampling, second(sampling, pair, model), conditioning), made)
    assert torch.equal(got["samples"], wanted["samples"])
    once = iterative_upscale(sampler(sampling, model, conditioning), made, times=1)
    plain = sampler(sampling, sampling.model, sampling.encode(SOURCE))
    alone = iterative_upscale(plain, {"samples": made["samples"][:1]}, times=1)
    assert relative_error(once["samples"][:1], alone["samples"]) < FLOAT32


@pytest.fixture
def as_a_node(host, monkeypatch):
    """What runs within is a node of a prompt that is executing: (its id, the prompt's links, its class)."""
    import comfy_execution.utils

    def enter(node, prompt, kind="any"):
        prompt_id = str(uuid.uuid4())
        graph = {name: {"class_type": CLASSES.get(name, "any"), "inputs": inputs} for name, inputs in prompt.items()}
        graph[node]["class_type"] = kind
        running = {0: (0, prompt_id, graph, {}, [])}
        instance = SimpleNamespace(
            prompt_queue=SimpleNamespace(currently_running=running),
            send_progress_text=lambda text, node_id, *_: instance.texts.append((node_id, text)),
            send_sync=lambda *_: None,
            texts=[],
        )
        monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
        return comfy_execution.utils.CurrentNodeContext(prompt_id, node), instance.texts

    return enter


CLASSES = {"decode": "VAEDecode", "photos": "LoadImage"}
OF_PICTURES = "ImageScale"  # is given pictures and gives pictures, as detailers and upscalers
GRAPH = {
    "sampler": {"latent_image": ["empty", 0]},
    "decode": {"samples": ["sampler", 0]},
    "up": {"image": ["decode", 0]},
}
APART = {"sampler": {"latent_image": ["empty", 0]}, "photos": {}, "up": {"image": ["photos", 0]}}


def test_an_upscaler_by_tiles(sampling, two, as_a_node):
    """Its tiles are not what any run made, but the graph tells where they come from."""
    conditioning, pair = two
    model = sampling.edit(pair)
    with as_a_node("sampler", GRAPH)[0]:
        made = sampling.ksampler(model, conditioning, empty(2))
    node = as_a_node("up", GRAPH)[0]
    with node:
        got = upscaler(sampler(sampling, model, conditioning), made)
    assert torch.equal(got, upscaler(sampler(sampling, second(sampling, pair, model), conditioning), made))


def test_an_upscaler_by_tiles_of_other_pictures(sampling, one, as_a_node):
    conditioning, pair = one
    model = sampling.edit(pair)
    with as_a_node("sampler", APART)[0]:
        sampling.ksampler(model, conditioning, empty())
    photos = torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(5))
    node, texts = as_a_node("up", APART, OF_PICTURES)
    with node, pytest.raises(IndexError):  # as many results as pictures, which only P2P Second Pass gives
        upscaler(sampler(sampling, model, conditioning), photos)
    assert [name for name, _ in texts] == ["up"] and "in this node 2 latents become source and edits, 4" in texts[0][1]
    node, texts = as_a_node("up", APART, OF_PICTURES)
    with node:
        assert len(upscaler(sampler(sampling, second(sampling, pair, model), conditioning), photos)) == 2
    assert texts == []


def test_a_detailer_says_what_to_connect(sampling, one, as_a_node, caplog):
    conditioning, pair = one
    model = sampling.edit(pair)
    with as_a_node("sampler", GRAPH)[0]:
        made = sampling.ksampler(model, conditioning, empty())
    for queued in (1, 2):
        node, texts = as_a_node("up", GRAPH)
        with node, caplog.at_level(logging.WARNING), pytest.raises(RuntimeError):
            detailer(sampler(sampling, model, conditioning), made)
        assert caplog.text.count("Connect the model from before the P2P nodes") == queued
        assert [name for name, _ in texts] == ["up"] and "from before the P2P nodes" in texts[0][1]


def test_a_detailer_is_refused_where_the_host_knows_that_it_works_on_pictures(sampling, one, as_a_node, caplog):
    """Else it would fail on the number of pictures that come back. A picked picture may be meant."""
    conditioning, pair = one
    model = sampling.edit(pair)
    with as_a_node("sampler", GRAPH)[0]:
        made = sampling.ksampler(model, conditioning, empty())
    with as_a_node("up", GRAPH, OF_PICTURES)[0], pytest.raises(ValueError, match="Wanted the model from before"):
        detailer(sampler(sampling, model, conditioning), made)
    node, texts = as_a_node("up", GRAPH, OF_PICTURES)
    with node:
        assert len(sampling.ksampler(model, conditioning, {"samples": made[:1]}, **AGAIN)) == pair.rows
    assert "once more" in texts[0][1]


def test_the_recipe_for_a_detailer(sampling, one):
    """The model from before the P2P nodes: every picture by itself, with a text for the detail."""
    conditioning, pair = one
    made = sampling.ksampler(sampling.edit(pair), conditioning, empty())
    got = detailer(sampler(sampling, sampling.model, sampling.encode("a face")), made)
    alone = detailer(sampler(sampling, sampling.model, sampling.encode("a face")), made[:1])
    assert got.shape == made.shape and relative_error(got[:1], alone) < FLOAT32


def test_a_regional_sampler(sampling, one):
    """Step by step, the base and a region of another text in turn: one picture stays one source and one edit."""
    conditioning, pair = one
    model, mask = sampling.edit(pair), halves(1)[0]
    base, tree = sampler(sampling, model, conditioning), sampler(sampling, model, sampling.encode("a tree"))
    got = regional_sampler(base, [(tree, mask)], empty())
    assert len(got["samples"]) == pair.rows
    plain = [sampler(sampling, sampling.model, sampling.encode(text)) for text in (SOURCE, "a tree")]
    wanted = regional_sampler(plain[0], [(plain[1], mask)], empty())
    assert relative_error(got["samples"][:1], wanted["samples"]) < FLOAT32
    assert relative_error(got["samples"][1:], wanted["samples"]) > 1e-2


def repeated(sampling, pair):
    """A latent for each row, all with the noise of one picture."""
    (rows,) = sampling.run_node("RepeatLatentBatch", samples=empty(), amount=pair.rows)
    return sampling.run_node("LatentBatchSeedBehavior", samples=rows, seed_behavior="fixed")[0]


@pytest.mark.parametrize("strategy", ["simple", "padded"])
def test_the_recipe_for_a_tiled_sampler_that_starts_from_noise(sampling, two, strategy):
    conditioning, pair = two
    node = sampler(sampling, second(sampling, pair, sampling.edit(pair)), conditioning)
    got = tiled_sampler(node, repeated(sampling, pair), strategy=strategy)["samples"]
    alone = sampler(sampling, sampling.model, sampling.encode(SOURCE))
    wanted = tiled_sampler(alone, empty(), strategy=strategy)["samples"]
    assert len(got) == pair.rows and relative_error(got[:1], wanted) < FLOAT32
    plain = sampler(sampling, second(sampling, pair), conditioning)
    plain = tiled_sampler(plain, repeated(sampling, pair), strategy=strategy)["samples"]
    assert relative_error(got[1:], plain[1:]) > 1e-2, "the edits apply in every tile"


def test_a_tiled_sampler_behind_another_one(sampling, two):
    conditioning, pair = two
    model = sampling.edit(pair)
    made = {"samples": sampling.ksampler(model, conditioning, empty(), steps=3)}
    node = sampler(sampling, second(sampling, pair, model), conditioning)
    assert tiled_sampler(node, made)["samples"].shape == made["samples"].shape


@pytest.mark.parametrize("pictures", [1, 2])
def test_an_unsampler_on_the_edited_model_is_the_sources_own(sampling, two, pictures):
    """A run up to the noise makes no picture: nothing is edited on the way, and every latent is the source."""
    conditioning, pair = two
    photos = {"samples": 3.0 * torch.randn(pictures, 4, *SIZE, generator=torch.Generator().manual_seed(5))}
    got = unsampler(sampler(sampling, sampling.edit(pair), conditioning, cfg=1.0), photos)
    wanted = unsampler(sampler(sampling, sampling.model, sampling.encode(SOURCE), cfg=1.0), photos)
    assert got["samples"].shape == wanted["samples"].shape
    assert relative_error(got["samples"], wanted["samples"]) < 1e-4


def test_an_unsampler_of_a_result_has_the_rows_own_texts(sampling, two):
    conditioning, pair = two
    model = sampling.edit(pair)
    made = {"samples": sampling.ksampler(model, conditioning, empty(2))}
    got = unsampler(sampler(sampling, model, conditioning, cfg=1.0), made)
    wanted = unsampler(sampler(sampling, sampling.model, conditioning, cfg=1.0), made)
    assert torch.equal(got["samples"], wanted["samples"])


# ---- runs that are not ours


def test_a_dummy_run_that_only_loads_the_model(sampling, two, caplog):
    conditioning, pair = two
    node = sampler(sampling, sampling.edit(pair), conditioning)
    wanted = node.ksampler(empty())["samples"]
    with caplog.at_level(logging.INFO):
        assert torch.equal(dummy_first(node, empty())["samples"], wanted)
    assert caplog.text.count("no prompt pair") == 1


@pytest.mark.parametrize("work", ["edit", "second pass", "maps"])
def test_a_run_without_any_pair_is_the_stock_run(sampling, two, work, caplog):
    """It is said, because the pair's conditioning may have been forgotten, and changes no bit."""
    _, pair = two
    model = {
        "edit": lambda: sampling.edit(pair),
        "second pass": lambda: second(sampling, pair),
        "maps": lambda: sampling.run_node(
            "P2PRecordAttention", model=sampling.model, pair=pair, words="", attention="cross", map_resolution="auto",
            maps="own",
        )[0],
    }[work]()  # fmt: skip
    wanted = sampling.ksampler(sampling.model, sampling.encode(SOURCE), empty(2))
    with caplog.at_level(logging.WARNING):
        assert torch.equal(sampling.ksampler(model, sampling.encode(SOURCE), empty(2)), wanted)
    assert "P2P Prompt Pair's conditioning" in caplog.text and "positive" in caplog.text


def test_a_run_without_a_pair_leaves_the_record_of_the_last_one(sampling, two, run_node):
    conditioning, pair = two
    model, maps = run_node(
        "P2PRecordAttention", model=sampling.model, pair=pair, words="cat", attention="cross", map_resolution="auto",
        maps="own",
    )  # fmt: skip
    made = sampling.ksampler(model, conditioning, latent(1, 8, 8))
    sampling.ksampler(model, sampling.encode(), latent(1, 8, 8))
    assert maps.take(made).maps.any()


def test_windows_that_cover_nothing_stay_nothing_in_a_second_pass(sampling, two):
    conditioning, pair = two
    model = sampling.edit(pair, **NO_WINDOW)
    made = {"samples": sampling.ksampler(model, conditioning, empty())}
    wanted = sampling.ksampler(second(sampling, pair), conditioning, made, **AGAIN)
    assert torch.equal(sampling.ksampler(model, conditioning, made, **AGAIN), wanted)
