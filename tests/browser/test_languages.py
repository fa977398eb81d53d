"""The pack on a Korean page: a real server, the page of NEWER_PAGE (dev.py), a real browser.

One language stands for all: what is in the others' files, tests/comfy/test_translations.py sees. Screenshots go to
.host/run/screenshots; Korean letters are boxes there unless a font has them.
"""

import json
import os
import re

import pytest
from said_on_nodes import said_until_it_is_mended

from tools.comfy_server import ROOT, ComfyServer
from tools.the_page import (
    SCREENSHOTS,
    find_browser,
    open_workflow,
    opened,
    queued,
    read,
    screenshot,
    untitled,
    use_renderer,
)
from tools.workflow_api import api_form

LANGUAGE = "ko"
WORDS_ON_NODES = """() => Object.fromEntries(Object.entries(LiteGraph.registered_node_types)
    .filter(([type]) => type.startsWith("P2P"))
    .map(([type]) => {
        const node = LiteGraph.createNode(type)
        return [type, {
            title: node.title,
            inputs: Object.fromEntries(node.inputs.map(i => [i.name, i.label ?? i.localized_name ?? i.name])),
            widgets: Object.fromEntries((node.widgets ?? []).map(w => [w.name, w.label ?? w.name])),
            outputs: node.outputs.map(o => o.label ?? o.localized_name ?? o.name),
        }]
    }))"""
# Where on the screen the middle of a widget is.
PLACE_OF_WIDGET = """([type, name]) => {
    const {graph, canvas} = window.app
    const node = graph.nodes.find(node => node.type === type)
    const widget = node.widgets.find(widget => widget.name === name)
    const {offset, scale} = canvas.ds
    const box = canvas.canvas.getBoundingClientRect()
    return [box.x + (node.pos[0] + node.size[0] / 2 + offset[0]) * scale,
            box.y + (node.pos[1] + widget.last_y + 10 + offset[1]) * scale]
}"""

# What views say beside what is read on them: to a mouse that waits, and to a screen reader.
SAID_BY_VIEWS = """() => [...document.querySelectorAll('.p2p-view *')]
    .flatMap(e => [e.title, e.ariaLabel, e.placeholder]).filter(Boolean)"""
SET_VALUE = """([type, name, value]) => {
    const widget = app.graph.nodes.find(node => node.type === type).widgets.find(each => each.name === name)
    widget.value = value
    widget.callback?.(value)
}"""


@pytest.fixture(scope="module")
def server():
    if not find_browser():
        pytest.skip("no browser found; on Debian: apt-get install chromium")
    if not (page := os.environ.get("P2P_NEWER_PAGE")):
        pytest.skip("started without dev.py, which downloads a page that keeps translations")
    with ComfyServer("languages", flags=["--front-end-root", page]) as server:
        yield server


@pytest.fixture
def page(server, tmp_path):
    with opened(server, tmp_path, **{"Comfy.Locale": LANGUAGE}) as page:
        yield page


def test_the_page_speaks_the_language(page, server):
    words = json.loads((ROOT / "locales" / LANGUAGE / "nodeDefs.json").read_text(encoding="utf-8"))
    shown = page.evaluate(WORDS_ON_NODES)
    assert set(shown) == set(words)
    for node_id, expected in words.items():
        node, names = shown[node_id], {name: socket["name"] for name, socket in expected["inputs"].items()}
        assert node["title"] == expected["display_name"]
        assert {name: label for name, label in node["inputs"].items() if name in names} == names
        assert {name: label for name, label in node["widgets"].items() if name in names}.items() <= names.items()
        assert node["outputs"] == [socket["name"] for socket in expected["outputs"].values()]

    open_workflow(page, ROOT / "workflows" / "local_blend.json")
    screenshot(page, f"local_blend_{LANGUAGE}")
    page.mouse.move(*page.evaluate(PLACE_OF_WIDGET, ["P2PLocalBlendMask", "threshold"]))
    tooltip = words["P2PLocalBlendMask"]["inputs"]["threshold"]["tooltip"]
    page.get_by_text(tooltip, exact=True).wait_for()
    page.screenshot(path=SCREENSHOTS / f"tooltip_{LANGUAGE}.png")

    use_renderer(page, nodes_2=True)
    said_until_it_is_mended(page, server)


def test_the_views_on_nodes_speak_it_too(page):
    texts = json.loads((ROOT / "web" / "texts" / f"{LANGUAGE}.json").read_text(encoding="utf-8"))
    open_workflow(page, ROOT / "workflows" / "word_swap.json")
    head = page.locator(".p2p-pair:not(.p2p-pending) .p2p-head")
    head.get_by_text(texts["{count} {kind}"].format(count=1, kind=texts["swapped"]), exact=True).wait_for()
    page.get_by_text(texts["own window for a word"]).wait_for()
    page.wait_for_timeout(1000)  # the node takes room for it
    screenshot(page, f"views_{LANGUAGE}")
    assert [said for said in page.evaluate(SAID_BY_VIEWS) if not re.search("[가-힣]", said)] == []

    open_workflow(page, ROOT / "workflows" / "local_blend.json")
    page.get_by_text(texts["words to exclude"]).wait_for()
    page.evaluate(SET_VALUE, ["P2PLocalBlendMask", "words", "zebra"])
    page.locator(".p2p-warning", has_text=texts["in none of the prompts"]).wait_for()
    page.wait_for_timeout(1000)  # the node takes room for it
    screenshot(page, f"hint_{LANGUAGE}")
    assert [said for said in page.evaluate(SAID_BY_VIEWS) if not re.search("[가-힣]", said)] == []

    open_workflow(page, workflow := ROOT / "workflows" / "word_swap.json")
    said = json.loads((ROOT / "web" / "template_texts" / f"{LANGUAGE}.json").read_text(encoding="utf-8"))
    (note,) = (node for node in read(workflow)["nodes"] if node["type"] == "MarkdownNote")
    assert (
        page.evaluate("app.graph.nodes.find(n => n.type === 'MarkdownNote').widgets[0].value")
        == (said[note["widgets_values"][0]])
    )
    titles = [said[group["title"]] for group in read(workflow)["groups"]]
    assert page.evaluate("app.graph.groups.map(g => g.title)") == titles
    assert untitled(queued(page)) == untitled(api_form("word_swap")), "nothing but titles is another"

    open_workflow(page, ROOT / "workflows" / "local_blend.json")
    page.evaluate(SET_VALUE, ["P2PLocalBlendMask", "words", "zebra"])
    page.evaluate("app.extensionManager.setting.set('Comfy.Locale', 'en')")  # the page changes while it is open
    page.locator(".p2p-warning", has_text="“zebra” is in none of the prompts").wait_for()
    assert page.complaints == []


def test_choices_have_names_and_keep_their_values(page):
    texts = json.loads((ROOT / "web" / "texts" / f"{LANGUAGE}.json").read_text(encoding="utf-8"))
    kept = "app.graph.nodes.find(node => node.type === 'P2PEdit').widgets.find(each => each.name === 'keep').value"
    open_workflow(page, ROOT / "workflows" / "edit.json")
    page.mouse.click(*page.evaluate(PLACE_OF_WIDGET, ["P2PEdit", "keep"]))
    entries = page.locator(".litecontextmenu .litemenu-entry")
    names = [texts[value] for value in ("automatic", "the composition", "everything but the words", "nothing")]
    assert [name for name in entries.all_inner_texts() if name.strip()] == names
    entries.get_by_text(names[1], exact=True).click()
    assert page.evaluate(kept) == "the composition"

    use_renderer(page, nodes_2=True)
    page.get_by_text(names[1], exact=True).click()
    page.get_by_role("option", name=names[3], exact=True).click()
    page.get_by_text(names[3], exact=True).wait_for()
    assert page.evaluate(kept) == "nothing"
    (edit,) = (node for node in queued(page).values() if node["class_type"] == "P2PEdit")
    assert edit["inputs"]["keep"] == "nothing"
    assert page.complaints == []
