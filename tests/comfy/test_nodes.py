"""What every node owes its user: words on the node, a help page, a place in the README."""

from __future__ import annotations

import re

import pytest
from real_host import PACK

NODES = [
    "P2PEdit",
    "P2PPromptPair",
    "P2PPairFromConditioning",
    "P2PAttentionReplace",
    "P2PAttentionRefine",
    "P2PReweightToken",
    "P2PLocalBlendMask",
    "P2PShowBlendMask",
    "P2PRecordAttention",
    "P2PAttentionMaps",
    "P2PCompare",
    "P2PComposite",
    "P2PGrid",
    "P2PSecondPass",
    "P2PPickPictures",
    "P2PDDIMInvert",
    "P2PProximalGuidance",
    "P2PNullTextOptimize",
    "P2PLoadDemoModel",
    "P2PDemoPicture",
]


@pytest.fixture(params=NODES)
def schema(host, request):
    return host.node(request.param).GET_SCHEMA()


def test_the_pack_brings_these_nodes(host):
    import nodes

    assert sorted(name for name in nodes.NODE_CLASS_MAPPINGS if name.startswith("P2P")) == sorted(NODES)


def test_every_input_explains_itself(schema):
    assert schema.category == "Prompt-to-Prompt"
    assert schema.description and schema.display_name.startswith("P2P ")
    for socket in (*schema.inputs, *schema.outputs):
        assert socket.tooltip, socket


def test_newer_hosts_find_it_by_other_words(host, schema, monkeypatch):
    """This host may be older, so what a newer one is given is asked for where its schema would take it."""
    from dataclasses import dataclass
    from types import SimpleNamespace

    @dataclass
    class Schema:
        search_aliases: list

    inputs = host.module("nodes.inputs")
    monkeypatch.setattr(inputs, "io", SimpleNamespace(Schema=Schema))
    assert inputs.where_known(search_aliases=["p2p"], of_some_later_host=True) == {"search_aliases": ["p2p"]}
    monkeypatch.undo()
    if hasattr(schema, "search_aliases") and not schema.node_id.startswith(("P2PLoadDemo", "P2PDemo")):
        assert schema.search_aliases


def test_the_help_page_names_everything_and_the_readme_the_node(schema):
    page = (PACK / "web" / "docs" / f"{schema.node_id}.md").read_text(encoding="utf-8")
    readme = (PACK / "README.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {schema.display_name}\n")
    assert f"[{schema.display_name}](web/docs/{schema.node_id}.md)" in readme
    for name in (*(socket.id for socket in schema.inputs), *(socket.display_name for socket in schema.outputs)):
        assert f"`{name}`" in page, f"{name} is not on the help page"


@pytest.mark.parametrize("text", ["README.md", "demo/README.md", *(f"web/docs/{node}.md" for node in NODES)])
def test_links_lead_somewhere(text):
    path = PACK / text
    links = re.findall(r"\]\(([^)#\s]+)\)", path.read_text(encoding="utf-8"))
    assert all((path.parent / link).exists() for link in links if not link.startswith("http"))


def test_widgets_have_the_agreed_defaults(host):
    for node in ("P2PAttentionReplace", "P2PAttentionRefine"):
        widgets = {i.id: i for i in host.node(node).GET_SCHEMA().inputs}
        assert list(widgets)[:6] == ["model", "pair", "cross_start", "cross_end", "self_start", "self_end"]
        assert [widgets[name].default for name in list(widgets)[2:6]] == [0.0, 0.8, 0.0, 0.4]
        assert widgets["word_windows"].optional and widgets["edit"].optional
    fader = {i.id: i for i in host.node("P2PReweightToken").GET_SCHEMA().inputs}
    assert list(fader)[:6] == ["model", "pair", "words", "scale", "start", "end"]
    assert (fader["start"].default, fader["end"].default) == (0.0, 1.0)
    blend = {i.id: getattr(i, "default", None) for i in host.node("P2PLocalBlendMask").GET_SCHEMA().inputs}
    assert (blend["threshold"], blend["start"], blend["grow"], blend["feather"]) == (0.3, 0.2, 0, 0.0)
    assert blend["spread"] is True
    assert (blend["words"], blend["exclude_words"], blend["edit"]) == ("", "", 0)
    for node in ("P2PLocalBlendMask", "P2PRecordAttention"):
        widgets = {i.id: i for i in host.node(node).GET_SCHEMA().inputs}
        assert (widgets["map_resolution"].default, widgets["maps"].default) == ("auto", "own")
        assert widgets["words"].default == "" and widgets["maps"].optional
    sheet = {i.id: i for i in host.node("P2PAttentionMaps").GET_SCHEMA().inputs}
    shown = [sheet[name].default for name in ("style", "time", "seed_number", "components")]
    assert shown == ["overlay", "whole run", 1, 6]
