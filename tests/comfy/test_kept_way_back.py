"""P2P Edit on a photograph, executed by the host: the way back is looked for once, however often the edit changes."""

from __future__ import annotations

import uuid
from types import SimpleNamespace

import pytest
import torch
from inverting import picture
from sampling import SOURCE, STEPS, SWAP, Sampling
from small_models import sd15

EDIT = "5"
INPUTS = {"source": SOURCE, "target": SWAP, "strength": 0.5, "keep": "the composition", "words": "", "negative": ""}
INPUTS |= {"steps": STEPS, "scheduler": "normal", "denoise": 1.0, "alignment": ""}


@pytest.fixture(scope="module")
def sampling(run_node):
    return Sampling(run_node, *sd15())


@pytest.fixture
def graph(host, sampling, monkeypatch):
    """``graph.run(**inputs)`` lets the host execute P2P Edit between stand-ins for the loaders and a KSampler.

    It gives one result a run of the sampler. ``graph.ways_back`` are the latents that P2P DDIM Invert was given so far,
    ``graph.did`` what the last run said on P2P Edit, ``graph.errors`` what it sent in place of a result.
    """
    import execution

    import nodes

    taken, state = [], SimpleNamespace(ways_back=[], did=None, errors=[], images=[picture()])
    state.model, state.said = sampling.model, []

    def stand_in(name, types, give, takes=(), lists=False, final=False):
        members = {
            "INPUT_TYPES": classmethod(lambda cls: {"required": {each: ("*",) for each in takes}}),
            "RETURN_TYPES": types,
            "OUTPUT_IS_LIST": (lists,) * len(types),
            "OUTPUT_NODE": final,
            "FUNCTION": "give",
            "give": lambda self, **inputs: give(**inputs),
        }
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, type(name, (), members))

    stand_in("Loader", ("MODEL", "CLIP"), lambda: (state.model, sampling.clip))
    stand_in("Photograph", ("LATENT",), lambda: (state.images[0],))
    stand_in("Photographs", ("LATENT",), lambda: (state.images,), lists=True)
    stand_in("Keep", (), lambda samples: taken.append(samples["samples"]) or {}, ["samples"], final=True)
    inverting = host.module("nodes.invert")
    invert = inverting.ddim_invert

    def counted(model, conditioning, latent, *more):
        state.ways_back.append(latent)
        return invert(model, conditioning, latent, *more)

    monkeypatch.setattr(inverting, "ddim_invert", counted)

    def sent(event, data, *_):
        if event == "executed" and data["display_node"] == EDIT:
            state.did = data["output"]["p2p_did"]
            state.said.append(state.did)
        if event == "execution_error":
            state.errors.append((data["node_id"], data["exception_message"]))

    server = SimpleNamespace(client_id="page", last_node_id=None, send_sync=sent)
    cache_args = {"lru": 100, "ram": 0, "ram_inactive": 0}
    executors = {
        kind.name: execution.PromptExecutor(server, cache_type=kind, cache_args=cache_args)
        for kind in execution.CacheType
    }

    def run(photograph="Photograph", seed=7, cache="CLASSIC", **inputs):
        sampler = {
            "seed": seed,
            "steps": STEPS,
            "cfg": 4.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
        }
        links = {"model": ["1", 0], "clip": ["1", 1], "latent_image": ["2", 0]}
        prompt = {
            "1": {"class_type": "Loader", "inputs": {}},
            "2": {"class_type": photograph, "inputs": {}},
            EDIT: {"class_type": "P2PEdit", "inputs": {**links, **INPUTS, **inputs}},
            "6": {
                "class_type": "KSampler",
                "inputs": {
                    "model": [EDIT, 0],
                    "positive": [EDIT, 1],
                    "negative": [EDIT, 2],
                    "latent_image": ["2", 0],
                    **sampler,
                },
            },
            "7": {"class_type": "Keep", "inputs": {"samples": ["6", 0]}},
        }
        taken.clear()
        state.errors.clear()
        state.did = None
        executors[cache].execute(prompt, str(uuid.uuid4()), {"client_id": "page"}, ["7"])
        return list(taken)

    state.run = run
    return state


@pytest.fixture
def at_once(host, sampling, run_node):
    """What P2P Edit does outside of a run of the host, with the same sampler behind it."""

    def make(image, **inputs):
        given = {"model": sampling.model, "clip": sampling.clip, "latent_image": image, **INPUTS, **inputs}
        output = host.node("P2PEdit").execute(**given)
        model, positive, negative, *_ = output.result
        return sampling.ksampler(model, positive, image, negative), output.ui["p2p_did"]

    return make


def test_the_same_as_at_once(graph, at_once):
    (made,) = graph.run()
    wanted, did = at_once(graph.images[0])
    assert torch.equal(made, wanted) and graph.did == did
    assert did[0]["node"] == "P2P DDIM Invert" and len(graph.ways_back) == 1


@pytest.mark.daily("target0", "keep", "words")
@pytest.mark.parametrize(
    "change",
    [
        {"target": "a dog on a blue chair"},
        {"target": "a dog on a red chair in the snow, oil painting"},
        {"strength": 0.9},
        {"keep": "nothing"},
        {"words": "red: 2"},
        {"negative": "blurry"},
        {"alignment": "cat -> red"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_change_of_the_edit_keeps_the_way_back(graph, at_once, change):
    (before,) = graph.run()
    (after,) = graph.run(**change)
    assert len(graph.ways_back) == 1
    wanted, did = at_once(graph.images[0], **change)
    assert torch.equal(after, wanted) and graph.did == did
    assert torch.equal(after[0], before[0]) and not torch.equal(after[1], before[1])


@pytest.mark.parametrize("cache, looked_for", [("LRU", 1), ("RAM_PRESSURE", 1), ("NONE", 2)])
def test_every_cache_of_the_host(graph, at_once, cache, looked_for):
    graph.run(cache=cache)
    (made,) = graph.run(cache=cache, target="a dog on a blue chair")
    assert len(graph.ways_back) == looked_for
    assert torch.equal(made, at_once(graph.images[0], target="a dog on a blue chair")[0])


@pytest.mark.parametrize("change", [{"source": "a cat on a blue chair"}, {"denoise": 0.6}, {"scheduler": "simple"}])
def test_a_change_of_what_the_way_back_is_of_looks_for_it_anew(graph, change):
    graph.run()
    graph.run(**change)
    assert len(graph.ways_back) == 2


def test_another_seed_runs_the_sampler_alone(graph):
    graph.run()
    assert len(graph.run(seed=8)) == 1 and graph.run(seed=8) == []
    assert len(graph.ways_back) == 1


def test_a_way_back_that_the_model_brings_gives_place(graph, at_once, run_node, sampling):
    other = {"steps": STEPS, "scheduler": "simple", "denoise": 1.0, "refine_iterations": 0, "source_row": "free"}
    source = sampling.encode(SOURCE)
    graph.model, _ = run_node(
        "P2PDDIMInvert", model=sampling.model, conditioning=source, latent_image=picture(seed=9), **other
    )
    (made,) = graph.run()
    wanted, did = at_once(graph.images[0])
    assert torch.equal(made, wanted) and graph.said == [did, did], "by the node, and by the one in its place"


def test_mistakes_are_said_on_the_node_before_the_way_back(graph):
    assert graph.run(words="blue: 2") == []
    ((node, message),) = graph.errors
    assert node == EDIT and "Wanted a word of the edited prompt" in message
    assert graph.ways_back == []


def test_mistakes_of_the_way_back_are_said_on_the_node(graph):
    graph.images = [{"samples": torch.zeros(1, 4, 8, 6)}]
    assert graph.run() == []
    ((node, message),) = graph.errors
    assert node == EDIT and "Wanted the latent of a picture" in message


def test_each_photograph_of_a_list_has_its_own_way_back(graph, at_once):
    """The host runs every node behind a list once for each entry."""
    graph.images = [picture(seed=3), picture(seed=4)]
    made = graph.run("Photographs")
    assert len(made) == 2
    for image, each in zip(graph.images, made, strict=True):
        assert torch.equal(each, at_once(image)[0])


def test_what_a_node_of_the_graph_says_is_shown_on_the_node(graph, host, monkeypatch):
    notices, shown = host.module("p2p_attention.host.notices"), []
    monkeypatch.setattr(notices, "show", lambda node, text: shown.append((node, text)))
    way_back = host.module("nodes.invert").ddim_invert

    def speaks(*inputs):
        notices.say("something")
        return way_back(*inputs)

    monkeypatch.setattr(host.module("nodes.invert"), "ddim_invert", speaks)
    graph.run()
    assert shown == [(EDIT, "something")]
