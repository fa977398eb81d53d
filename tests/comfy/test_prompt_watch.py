"""Each graph that is queued is looked at: is there a P2P node on the model of a sampler that gets the pair?"""

from __future__ import annotations

import json
import logging
import sys
from types import SimpleNamespace

import pytest
from real_host import PACK

SAVED = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (PACK / "workflows").glob("*.json")}


@pytest.fixture
def queue(host, monkeypatch):
    """``queue(graph)`` gives what was shown, as (node, text)."""
    shown, handlers = [], []
    instance = SimpleNamespace(
        on_prompt_handlers=handlers, add_on_prompt_handler=handlers.append,
        send_progress_text=lambda text, node: shown.append((node, text)), send_sync=lambda *_: None,
    )  # fmt: skip
    watch = host.module("p2p_attention.host.prompt_watch")
    watch.watch_prompts()
    assert handlers == [], "there is no server yet"
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    watch.watch_prompts()
    watch.watch_prompts()  # a second load of the pack adds nothing
    (handler,) = handlers

    notices = host.module("p2p_attention.host.notices")
    notices.clear(notices.with_texts())

    def ask(graph):
        shown.clear()
        asked = {"prompt": graph, "client_id": "1"}
        assert handler(asked) is asked
        return list(shown)

    ask({})
    return ask


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def graph(model, positive=("pair", 0), **more):
    return {
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name="any"),
        "lora": node("LoraLoaderModelOnly", model=["checkpoint", 0], lora_name="any", strength_model=1.0),
        "pair": node("P2PPromptPair", clip=["checkpoint", 1], source="a cat", target="a dog"),
        "edit": node("P2PAttentionReplace", model=["lora", 0], pair=["pair", 1]),
        "freeu": node("FreeU", model=["edit", 0]),
        "empty": node("CLIPTextEncode", clip=["checkpoint", 1], text=""),
        "range": node("ConditioningSetTimestepRange", conditioning=["pair", 0], start=0.0, end=1.0),
        "sampler": node("KSampler", model=[model, 0], positive=list(positive), negative=["empty", 0]),
        **more,
    }


@pytest.mark.parametrize("positive", [("pair", 0), ("range", 0)])
def test_a_pair_without_an_edit_is_said_once(queue, positive, caplog):
    with caplog.at_level(logging.WARNING):
        ((name, text),) = queue(graph("lora", positive))
        assert queue(graph("lora", positive)) == [("pair", " "), ("pair", text)], "it stays on the node"
    assert name == "pair" and "no edit" in text
    assert caplog.text.count("no edit") == 1, "and is in the log once"
    assert queue(graph("edit", positive)) == [("pair", " ")]
    with caplog.at_level(logging.WARNING):
        assert queue(graph("checkpoint", positive)) == [("pair", text)]
    assert caplog.text.count("no edit") == 2, "once more, after it was mended"


def test_what_a_run_has_said_stays_as_long_as_the_node_does_not_run_again(host, queue):
    """The host keeps the results of nodes whose inputs are the same, so nobody would say it again."""
    host.module("p2p_attention.host.notices").show("sampler", "said")
    decode = node("VAEDecode", samples=["sampler", 0])
    first = graph("edit", decode=decode)
    assert ("sampler", " ") in queue(first), "nobody knows yet what it was given"
    host.module("p2p_attention.host.notices").show("sampler", "said")
    assert queue(first) == queue(graph("edit", decode=node("VAEDecodeTiled", samples=["sampler", 0]))) == []
    assert queue(graph("freeu", decode=decode)) == [("sampler", " ")]


@pytest.mark.parametrize("model", ["edit", "freeu"])
def test_a_pair_with_an_edit(queue, model):
    assert queue(graph(model)) == []


def test_a_source_alone_needs_no_edit(queue):
    alone = graph("lora")
    alone["pair"]["inputs"]["target"] = ""
    assert queue(alone) == []


def test_guiders(queue):
    def with_guider(model):
        guider = node("CFGGuider", model=[model, 0], positive=["range", 0], negative=["empty", 0], cfg=4.0)
        custom = node("SamplerCustomAdvanced", guider=["guider", 0])
        return graph("edit", ("empty", 0), guider=guider, sampler2=custom)

    assert queue(with_guider("edit")) == []
    assert [name for name, _ in queue(with_guider("lora"))] == ["pair"]


def test_nodes_that_nobody_knows(queue):
    assert queue({"1": node("Unknown", anything=["2", 0]), "2": node("Other")}) == []
    assert queue({"1": "no node"}) == []


def linked(workflow):
    """What is linked to what in a saved workflow, as a prompt says it."""
    origins = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    return {
        str(each["id"]): node(each["type"], **{i["name"]: origins[i["link"]] for i in each["inputs"] if i.get("link")})
        for each in workflow["nodes"]
    }


@pytest.mark.parametrize("name", SAVED)
def test_our_own_workflows_say_nothing(queue, name):
    assert queue(linked(SAVED[name])) == []
