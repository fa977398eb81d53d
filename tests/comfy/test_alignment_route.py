"""The route of the page, with the host's tokenizers and a real web server."""

from __future__ import annotations

import gc
import time
import weakref

import pytest
import real_host
from served import served


@pytest.fixture
def route(host):
    return host.module("nodes.alignment_route")


@pytest.fixture
def ask(route, monkeypatch):
    """POST bodies (JSON, or raw bytes) one after the other; gives (status, answer) of each."""
    talk_to = served(monkeypatch, route.add_alignment_route, 1)

    def talk(*bodies):
        async def conversation(client):
            answers = []
            for body in bodies:
                kind = "data" if isinstance(body, bytes) else "json"
                response = await client.post(route.PATH, **{kind: body})
                answers.append((response.status, await response.json()))
            return answers

        return talk_to(conversation)

    return talk


def test_the_hosts_own_tokenizer_answers_before_a_run(ask):
    ((status, answer),) = ask({"source": "a cat on the grass", "target": "a mushroom on the grass", "node": "3"})
    assert status == 200
    assert answer["tokenizer"] == {"name": "SD1Tokenizer", "connected": False}
    assert [word["text"] for word in answer["prompts"][1]["words"]] == ["a", "mushroom", "on", "the", "grass"]
    assert [span["kind"] for span in answer["edits"][0]] == ["shared", "swapped", "shared", "shared", "shared"]
    assert answer["prompts"][0]["room"] == 75 and answer["prompts"][0]["tokens"] == 5


def test_break_is_a_border_where_the_node_reads_it_so(ask):
    body = {"source": "a cat BREAK on the grass", "target": ""}
    ((_, joined), (_, plain)) = ask({**body, "breaks": True}, body)
    (joined,), (plain,) = joined["prompts"], plain["prompts"]
    assert [(word["text"], word["chunk"]) for word in joined["words"]] == [
        ("a", 0), ("cat", 0), ("on", 1), ("the", 1), ("grass", 1),
    ]  # fmt: skip
    assert joined["chunks"] == 2 and joined["room"] == 150 and joined["tokens"] == 5
    assert [word["text"] for word in plain["words"]] == ["a", "cat", "break", "on", "the", "grass"]


def test_names_mean_their_words_to_the_nodes(ask, demo, host):
    """Whatever the page writes into a text box is found in the pair, at that word."""
    source = "a (red:1.3) cat's mirror, a café and a cat #2 at the lake-side"
    ((_, answer),) = ask({"source": source, "target": ""})
    _, pair = host.module("p2p_attention.host.encode").encode_pair(demo[1], source, "")
    words = answer["prompts"][0]["words"]
    assert [word["text"] for word in words] == [word.text for word in pair.source.words]
    named = [(word["name"], meant) for word, meant in zip(words, pair.source.words, strict=True) if word["name"]]
    assert len(named) >= len(words) - 3
    for name, meant in named:
        assert pair.find(name, pair.source) == meant.positions, name


def test_the_connected_clip_answers_while_it_lives(ask, route, demo, host):
    node = host.node("P2PPromptPair")
    assert [each.value for each in node.GET_SCHEMA().hidden] == ["UNIQUE_ID"]
    clip = demo[1].clone()
    run = real_host.prepared(node, {host.module("nodes.prompt_pair").io.Hidden.unique_id: "7:3"})
    run.execute(clip, "a cat", "a dog")
    body = {"source": "a cat", "target": "a dog", "node": "7:3"}
    ((_, known), (_, other)) = ask(body, {**body, "node": "8"})
    assert known["tokenizer"]["connected"] is True and other["tokenizer"]["connected"] is False
    alive = weakref.ref(clip)
    del clip
    gc.collect()
    assert alive() is None, "the route keeps a model alive"
    ((_, forgotten),) = ask(body)
    assert forgotten["tokenizer"]["connected"] is False


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"\xff\xfe",
        [],
        "text",
        3,
        {},
        {"source": "a cat"},
        {"source": 1, "target": "a"},
        {"target": "a"},
    ],
    ids=repr,
)
def test_bad_input_is_answered_with_what_was_wanted(ask, body):
    ((status, answer),) = ask(body)
    assert status == 400
    assert answer["error"].startswith("Wanted JSON with two texts")


def test_a_text_that_the_tokenizer_cannot_read(ask):
    (status, answer), (after, _) = ask(
        {"source": "a cat embedding:", "target": ""}, {"source": "a cat", "target": "", "node": {"odd": 1}}
    )
    assert status == 400 and answer["error"].startswith("Wanted a prompt that the text encoder can read")
    assert after == 200


def test_other_models_say_why(route, ask):
    class T5:
        tokenizer = object()

        def tokenize(self, text, return_word_ids=False):
            return {"t5xxl": []}

    t5 = T5()
    route.remember_clip("5", t5)
    ((status, answer),) = ask({"source": "a", "target": "b", "node": "5"})
    assert status == 400 and "t5xxl" in answer["error"]


def test_odd_and_long_texts_are_answered_soon(ask):
    bodies = [
        {"source": text, "target": text + " cat"}
        for text in (
            "🐈" * 50,
            "((((",
            "a " * 2000,
            "\\(a:1.2)\n---\n",
            "\x00\ud800",
            "x" * 9000,
            "embedding:nowhere a",
        )
    ]
    began = time.perf_counter()
    answers = ask(*bodies)
    assert all(status in (200, 400) and ("prompts" in answer or "error" in answer) for status, answer in answers)
    assert answers[2][1]["edits"] == [None]
    assert time.perf_counter() - began < 20
