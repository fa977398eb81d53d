"""What the pack shows on its nodes, used as a person uses it: in both renderers, with mouse and keyboard."""

import io
import json

import pytest
from PIL import Image, ImageChops, ImageStat

from tools.comfy_server import ROOT
from tools.the_page import PATIENCE_MS, WORKFLOWS, open_workflow, queued, read, screenshot, untitled, use_renderer
from tools.workflow_api import api_form, saved_pictures

CHANGED = 30_000  # ms, in which the page has shown a change
# Whether the classic canvas shows a node as a fresh drawing of it does.
DRAWN_AS_IT_IS = """n => {
    const { canvas, ds } = app.canvas;
    const [x, y, width, height] = [n.pos[0] + ds.offset[0], n.pos[1] + ds.offset[1], ...n.size].map(v => v * ds.scale);
    const shown = () => canvas.getContext('2d').getImageData(x, y, width, height).data;
    const before = shown();
    app.canvas.draw(true, true);
    const after = shown();
    return before.every((value, i) => value === after[i]);
}"""

# Newer pages find an error on loaders whose files are not here.
NOT_WHOLE = """() => app.graph.nodes.filter(n =>
    (n.has_errors && !/^(?!P2P).*Load/.test(n.type)) || !(n.type in LiteGraph.registered_node_types)
).map(n => n.type)"""
# Pairs of nodes of which one lies on the other, as they are drawn, and nodes that stick out of the group they begin in.
OUT_OF_PLACE = """() => {
    const boxes = app.graph.nodes.map(n => {
        const element = document.querySelector(`[data-node-id="${n.id}"]`);
        const height = element ? element.offsetHeight - 30 : n.size[1];
        const [x, y] = n.pos;
        return { type: n.type, left: x, top: y - 30, right: x + n.size[0], bottom: y + height };
    });
    const groups = app.graph.groups.map(({ title, _bounding: [left, top, width, height] }) =>
        ({ title, left, top, right: left + width, bottom: top + height }));
    const overlaps = boxes.flatMap((a, i) => boxes.slice(0, i).filter(b =>
        a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom).map(b => [a.type, b.type]));
    const outside = groups.flatMap(g => boxes.filter(b =>
        b.left >= g.left && b.left < g.right && b.top + 30 >= g.top && b.top + 30 < g.bottom
        && (b.top < g.top || b.bottom > g.bottom || b.right > g.right)).map(b => [g.title, b.type]));
    return [...overlaps, ...outside];
}"""
READABLE = 0.6  # of the zoom
OUT_OF_SIGHT = """() => {
    const { ds, canvas } = app.canvas;
    const inside = (from, length, offset, all) =>
        (from + offset) * ds.scale >= 0 && (from + length + offset) * ds.scale <= all;
    return app.graph.groups.filter(({ _bounding: [left, top, width, height] }) =>
        !inside(left, width, ds.offset[0], canvas.clientWidth) ||
        !inside(top, height, ds.offset[1], canvas.clientHeight)
    ).map(({ title }) => title);
}"""


PAIRS = ("P2PPromptPair", "P2PPairFromConditioning", "P2PEdit", "P2PGrid")


def workflow(name):
    return ROOT / "workflows" / f"{name}.json"


@pytest.fixture(params=["classic", "nodes_2"])
def renderer(page, request):
    """Each test in both; none may leave a complaint in the console."""
    page.set_default_timeout(CHANGED)
    use_renderer(page, nodes_2=request.param == "nodes_2")
    yield request.param
    page.set_default_timeout(PATIENCE_MS)
    assert page.complaints == []


def node(page, kind, there="n => n.id"):
    """What a function of the page gives for the one node of this kind in the open graph."""
    return page.evaluate(f"kind => app.canvas.graph.nodes.filter(n => n.type === kind).map({there})[0]", kind)


def value(page, kind, name):
    return node(page, kind, f"n => n.widgets.find(w => w.name === '{name}').value")


def wait_for_value(page, kind, name, wanted):
    page.wait_for_function(
        "([kind, name, wanted]) => app.canvas.graph.nodes.some(n => n.type === kind"
        " && n.widgets.find(w => w.name === name).value === wanted)",
        arg=[kind, name, wanted],
    )


def look_at(page, kind, scale=1.0):
    """Move the canvas so that the node is in the middle."""
    page.evaluate(
        "([kind, scale]) => { const n = app.canvas.graph.nodes.find(n => n.type === kind), { ds } = app.canvas;"
        "ds.scale = scale; ds.offset = [-n.pos[0] + 400 / scale, -n.pos[1] + 200 / scale];"
        "app.canvas.setDirty(true, true) }",
        [kind, scale],
    )
    page.wait_for_timeout(400)


def words(page, part=".p2p-pair"):
    """[(kind, source's words, target's words)] of the columns shown, as text."""
    page.wait_for_selector(f"{part}:not(.p2p-pending) .p2p-column")
    return page.evaluate(
        """part => [...document.querySelectorAll(`${part} .p2p-column:not(.p2p-rows)`)].map(column => [
            column.className.match(/p2p-(shared|swapped|new|removed)/)[1],
            ...[...column.children].filter(e => !e.matches('.p2p-link')).map(side =>
                [...side.querySelectorAll('.p2p-chip')].map(chip => chip.firstChild.textContent).join(' ')),
        ])""",
        part,
    )


def type_into(page, old, new):
    """Exchange what stands in the text box that says ``old``."""
    box = next(each for each in page.locator("textarea:visible").all() if each.input_value() == old)
    box.click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(new)


def colour(page, locator, name):
    """(red, green, blue) of a CSS colour as it is drawn."""
    return locator.evaluate(
        """(element, name) => { const c = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        c.fillStyle = getComputedStyle(element)[name]; c.fillRect(0, 0, 1, 1);
        return [...c.getImageData(0, 0, 1, 1).data].slice(0, 3) }""",
        name,
    )


def contrast(a, b):
    """WCAG 2.1's ratio of two colours."""

    def luminance(rgb):
        parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in rgb)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


# ------------------------------------------------------------------------------------------------------ nothing breaks


def take_away_what_is_offered(page, path):
    """The page offers to download the files that a template's loaders name and that are not here."""
    files = [model["name"] for node in read(path)["nodes"] for model in node["properties"].get("models", ())]
    dialog = page.locator(".p-dialog")
    if files and dialog.count():
        offered = dialog.inner_text()
        assert [name for name in files if name not in offered] == []
        page.keyboard.press("Escape")
        dialog.wait_for(state="detached")


@pytest.fixture
def small_screen(page):
    size = page.viewport_size
    page.set_viewport_size({"width": 1280, "height": 720})
    yield
    page.set_viewport_size(size)


@pytest.mark.daily("classic")
def test_every_workflow_opens_whole(page, renderer, small_screen):
    """Nothing is missing, every value and the API form are kept, each node has its view once, and its place.

    On a small screen all of it is in sight, and so large that the classic canvas writes its texts.
    """
    for path in WORKFLOWS:
        open_workflow(page, path, "template")
        if renderer == "classic":
            assert page.evaluate("app.canvas.ds.scale") >= READABLE, path.stem
            assert page.evaluate(OUT_OF_SIGHT) == [], path.stem
        page.wait_for_selector(".p2p-pair:not(.p2p-pending) .p2p-chip", state="attached")
        page.wait_for_timeout(300)  # the views take the room that they need
        saved = {each["id"]: each.get("widgets_values") or [] for each in read(path)["nodes"]}
        now = page.evaluate("app.graph.serialize().nodes.map(n => [n.id, n.widgets_values ?? []])")
        assert {number: values for number, values in now} == saved, path.stem
        assert untitled(queued(page)) == untitled(api_form(path.stem)), f"{path.stem}: run python dev.py workflow-api"
        assert page.evaluate(NOT_WHOLE) == [], path.stem
        assert page.locator(".p-toast-message").all_inner_texts() == [], path.stem  # the page's warnings
        take_away_what_is_offered(page, path)
        assert page.locator(".p-dialog").count() == 0, path.stem
        views = page.evaluate(
            "app.graph.nodes.map(n => [n.type, n.widgets?.filter(w => w.name === 'p2p_view').length])"
        )
        assert all((count or 0) <= 1 for _, count in views), path.stem
        pairs = {kind: count for kind, count in views if kind in PAIRS}
        assert pairs and set(pairs.values()) == {1}, path.stem
        assert page.evaluate(OUT_OF_PLACE) == [], path.stem
    once = page.evaluate(
        "[app.extensions.filter(e => e.name.startsWith('prompt_to_prompt')).length,"
        "document.querySelectorAll('link[href*=\"p2p.css\"]').length]"
    )
    assert once == [1, 1]


def test_new_nodes_are_wide_enough(page, renderer):
    """Of their titles nothing is cut, of their views nothing is in a narrow column; a demo picture keeps its seed."""
    page.evaluate("app.graph.clear()")
    shown = page.evaluate(
        """() => Object.keys(LiteGraph.registered_node_types).filter(type => type.startsWith('P2P')).map(type => {
            const node = LiteGraph.createNode(type)
            app.graph.add(node)
            const pen = app.canvas.canvas.getContext('2d')
            pen.font = '14px Inter, Arial'
            return [type, node.size[0], pen.measureText(node.title).width,
                node.widgets?.find(w => w.name === 'control_after_generate')?.value ?? null]
        })"""
    )
    assert len(shown) == 20
    assert [each for each in shown if each[1] < max(270, each[2] + 60)] == []
    assert {type: after for type, _, _, after in shown}["P2PDemoPicture"] == "fixed"


# ------------------------------------------------------------------------------------------------------ the prompt pair


def test_the_words_follow_what_is_typed(page, renderer):
    open_workflow(page, workflow("word_swap"))
    look_at(page, "P2PPromptPair", 1.2)
    assert words(page)[:3] == [["shared", "a", "a"], ["swapped", "cat", "mushroom"], ["shared", "in", "in"]]
    type_into(page, "a mushroom in orange on the grass", "a small mushroom on the grass\n---\na cat in orange at night")
    page.wait_for_selector(".p2p-pair .p2p-removed")
    shown = words(page)
    assert ["new", "", "small"] in shown or ["swapped", "cat", "mushroom"] in shown
    assert ["removed", "orange", ""] in shown
    assert page.locator(".p2p-pair section").count() == 2
    for kind in ("shared", "swapped", "removed"):
        assert page.locator(".p2p-pair .p2p-head", has_text=kind).count(), f"{kind} is not told in words"
    screenshot(page, f"pair_{renderer}", fit=False)
    if renderer == "classic":
        assert node(page, "P2PPromptPair", DRAWN_AS_IT_IS), "it has grown, but is still drawn as it was"


def test_kinds_differ_by_more_than_colour(page, renderer):
    open_workflow(page, workflow("word_swap"))
    look_at(page, "P2PPromptPair")
    type_into(page, "a mushroom in orange on the grass", "a dog on the big grass")
    page.wait_for_selector(".p2p-pair .p2p-removed")
    looks = {
        kind: page.locator(f".p2p-pair .p2p-flow .p2p-chip.p2p-{kind}").first.evaluate(
            "e => [getComputedStyle(e).borderTopStyle, getComputedStyle(e).borderTopColor]"
        )
        for kind in ("shared", "swapped", "new", "removed")
    }
    assert len({style for style, _ in looks.values()}) == 4
    assert len({colour for _, colour in looks.values()}) == 4


def test_long_prompts_show_where_77_positions_end(page, renderer):
    open_workflow(page, workflow("word_swap"))
    look_at(page, "P2PPromptPair")
    type_into(page, "a cat in orange on the grass", " ".join(["a small cat"] * 30))
    page.wait_for_selector(".p2p-pair .p2p-border")
    assert "in 2 chunks" not in page.locator(".p2p-pair .p2p-counts").first.inner_text()  # the edit has 1
    assert page.locator(".p2p-pair .p2p-counts").first.inner_text().startswith("90 → 7 of 75")
    screenshot(page, f"pair_long_{renderer}", fit=False)


def test_a_refusal_is_shown_and_forgotten(page, renderer):
    open_workflow(page, workflow("word_swap"))
    look_at(page, "P2PPromptPair")
    words(page)
    refusal = json.dumps({"error": "Wanted fewer words."})
    page.route("**/p2p/alignment", lambda route: route.fulfill(status=400, body=refusal))
    type_into(page, "a mushroom in orange on the grass", "a tree")
    page.wait_for_selector(".p2p-pair .p2p-error")
    assert "Wanted fewer words." in page.locator(".p2p-pair").inner_text()
    page.unroute("**/p2p/alignment")
    type_into(page, "a tree", "a house")
    assert words(page)
    assert all("400" in each for each in page.complaints), "more than the browser's own line"
    page.complaints.clear()


def chip(page, side, text):
    return page.locator(f".p2p-pair button[data-side={side}]", has_text=text).first


def test_a_line_between_two_words_is_written_down(page, renderer):
    """Drawn with the mouse, or by picking one word after the other; undone; and taken back."""
    open_workflow(page, workflow("word_swap"))
    look_at(page, "P2PPromptPair", 1.2)
    assert ["swapped", "cat", "mushroom"] in words(page)
    assert node(page, "P2PPromptPair", "n => n.widgets.find(w => w.name === 'alignment').hidden")
    source, target = chip(page, "source", "orange"), chip(page, "target", "mushroom")
    source.hover()
    page.mouse.down()
    box = target.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
    assert page.locator(".p2p-drawn").count() == 1
    page.mouse.up()
    wait_for_value(page, "P2PPromptPair", "alignment", "orange -> mushroom")
    assert page.locator(".p2p-drawn").count() == 0
    page.wait_for_selector(".p2p-pair:not(.p2p-pending) .p2p-decided")
    page.wait_for_function(
        "[...document.querySelectorAll('.p2p-pair .p2p-column')].some(e => e.title === 'swapped: orange → mushroom')"
    )
    assert not node(page, "P2PPromptPair", "n => n.widgets.find(w => w.name === 'alignment').hidden")
    screenshot(page, f"pair_linked_{renderer}", fit=False)
    assert (
        page.evaluate(
            "app.graphToPrompt().then(p => Object.values(p.output).find("
            "n => n.class_type === 'P2PPromptPair').inputs.alignment)"
        )
        == "orange -> mushroom"
    )
    for _ in range(4):  # that the node has grown is a step of its own
        page.keyboard.press("Control+z")
        page.wait_for_timeout(500)
        if not value(page, "P2PPromptPair", "alignment"):
            break
    wait_for_value(page, "P2PPromptPair", "alignment", "")
    page.wait_for_selector(".p2p-pair:not(.p2p-pending)")
    chip(page, "target", "mushroom").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".p2p-pair button[aria-pressed=true]")
    chip(page, "source", "grass").click()
    wait_for_value(page, "P2PPromptPair", "alignment", "grass -> mushroom")
    page.wait_for_selector(".p2p-pair:not(.p2p-pending) .p2p-decided")
    chip(page, "target", "mushroom").dblclick()
    wait_for_value(page, "P2PPromptPair", "alignment", "")


def test_source_and_edits_choose_alike(page, renderer):
    open_workflow(page, workflow("word_swap"))
    look_at(page, "P2PPromptPair", 1.2)
    words(page)
    ask = """async ([source, target]) => {
        const n = app.graph.nodes.find(n => n.type === 'P2PPromptPair');
        n.widgets.find(w => w.name === 'source').value = source;
        n.widgets.find(w => w.name === 'target').value = target;
        const seen = [];
        for (let i = 0; i < 12; i++) {
            const { output } = await app.graphToPrompt();
            const { inputs } = Object.values(output).find(n => n.class_type === 'P2PPromptPair');
            seen.push([inputs.source, inputs.target]);
        }
        return seen }"""
    choice = "{red|green|blue|black|white}"
    drawn = page.evaluate(ask, [f"a {choice} cat // not read", f"a {choice} dog\n---\na {choice} fox"])
    assert len({source for source, _ in drawn}) > 1, "nothing is drawn"
    for source, target in drawn:
        colour = source.removesuffix(" cat ").removeprefix("a ")
        assert target == f"a {colour} dog\n---\na {colour} fox"
    page.wait_for_selector(".p2p-pair .p2p-note:has-text('choose alike')")
    node(page, "P2PPromptPair", "n => (n.widgets.find(w => w.name === 'source').value = 'a cat BREAK a dog')")
    page.wait_for_selector(".p2p-pair .p2p-note:has-text('BREAK is read as the word')")


# ------------------------------------------------------------------------------------------------------ picking


def test_words_are_picked_with_the_mouse_and_undone(page, renderer):
    open_workflow(page, workflow("local_blend"))
    look_at(page, "P2PLocalBlendMask")
    before = value(page, "P2PLocalBlendMask", "words")
    street = page.locator(".p2p-words .p2p-pick", has_text="street").first
    street.click()
    wait_for_value(page, "P2PLocalBlendMask", "words", f"{before}, street")
    page.wait_for_selector(".p2p-words .p2p-pick[aria-pressed=true]:has-text('street')")
    assert (
        page.evaluate(
            "app.graphToPrompt().then(p => Object.values(p.output).find("
            "n => n.class_type === 'P2PLocalBlendMask').inputs.words)"
        )
        == f"{before}, street"
    )
    page.keyboard.press("Control+z")
    wait_for_value(page, "P2PLocalBlendMask", "words", before)
    page.wait_for_selector(".p2p-words .p2p-pick[aria-pressed=false]:has-text('street')")
    page.get_by_text("words to exclude").click()
    page.locator(".p2p-words .p2p-pick", has_text="street").nth(1).click()
    wait_for_value(page, "P2PLocalBlendMask", "exclude_words", "street")
    screenshot(page, f"picked_{renderer}", fit=False)


def test_words_are_picked_with_the_keyboard(page, renderer):
    open_workflow(page, workflow("local_blend"))
    look_at(page, "P2PLocalBlendMask")
    page.wait_for_selector(".p2p-words .p2p-pick")
    first = page.locator(".p2p-words .p2p-pick").first
    first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert first.evaluate("e => getComputedStyle(e).outlineStyle") == "solid", "the focus cannot be seen"
    before = value(page, "P2PLocalBlendMask", "words")
    for key in (" ", "Enter"):
        page.keyboard.press(key)
        wait_for_value(page, "P2PLocalBlendMask", "words", f"{before}, a" if key == " " else before)
        name = page.evaluate("document.activeElement.dataset.key")
        assert name == "words a", "the focus went elsewhere"


@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_windows_are_bars(page, renderer, scale):
    kind = "P2PAttentionReplace"
    open_workflow(page, workflow("word_swap"))
    look_at(page, kind, scale)
    page.get_by_text("own window for a word").click()
    page.locator(".p2p-words .p2p-pick", has_text="mushroom").click()
    wait_for_value(page, kind, "word_windows", "mushroom: 0.8")
    end = page.get_by_role("slider", name="mushroom: end")
    end.focus()
    page.keyboard.press("ArrowLeft")
    wait_for_value(page, kind, "word_windows", "mushroom: 0.79")
    page.keyboard.press("PageDown")
    wait_for_value(page, kind, "word_windows", "mushroom: 0.69")
    track = page.locator(".p2p-track").last.bounding_box()
    place = end.bounding_box()
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    page.mouse.down()
    page.mouse.move(track["x"] + track["width"] / 3, track["y"] + 40, steps=3)
    page.mouse.move(track["x"] + track["width"] / 2, track["y"] + 3, steps=3)
    page.mouse.up()
    assert float(value(page, kind, "word_windows").split(": ")[1]) == pytest.approx(0.5, abs=0.02)
    screenshot(page, f"windows_{renderer}_{scale}", fit=False)
    page.keyboard.press("Control+z")  # the whole drag
    wait_for_value(page, kind, "word_windows", "mushroom: 0.69")
    end = page.get_by_role("slider", name="mushroom: end")
    end.focus()
    page.keyboard.press("Delete")
    wait_for_value(page, kind, "word_windows", "")
    assert page.evaluate("app.graph.nodes.length") == len(read(workflow("word_swap"))["nodes"]), "Delete took a node"

    page.get_by_role("slider", name="self: end").focus()
    page.keyboard.press("ArrowRight")
    wait_for_value(page, kind, "self_end", 0.41)


def test_a_broken_line_is_named(page, renderer):
    kind = "P2PAttentionReplace"
    open_workflow(page, workflow("word_swap"))
    look_at(page, kind)
    box = page.get_by_placeholder("word_windows").or_(page.get_by_label("word_windows"))  # newer pages have labels
    box.fill("mushroom 0.4")
    page.wait_for_selector(".p2p-words .p2p-error")
    assert "mushroom 0.4" in page.locator(".p2p-words .p2p-error").inner_text()


def set_value(page, kind, name, wanted):
    page.evaluate(
        "([kind, name, wanted]) => { const n = app.canvas.graph.nodes.find(n => n.type === kind);"
        "const w = n.widgets.find(w => w.name === name); w.value = wanted; w.callback?.(wanted) }",
        [kind, name, wanted],
    )


def test_what_is_wrong_is_said_before_the_run(page, renderer):
    """In sight on the node, also in a light theme; what is mended is said no more, and takes no room."""
    kind = "P2PLocalBlendMask"
    open_workflow(page, workflow("local_blend"))
    look_at(page, kind)
    page.wait_for_selector(".p2p-words .p2p-pick")
    page.wait_for_timeout(600)  # each view has looked at the whole graph
    warning = page.locator(".p2p-warning")
    assert warning.count() == 0
    before = value(page, kind, "words")
    set_value(page, kind, "words", f"{before}, snow")
    page.wait_for_selector(".p2p-warning:has-text('“snow” is in none of the prompts. Their words: a, tree')")
    screenshot(page, f"warned_{renderer}", fit=False)
    view = page.locator(".p2p-view", has=warning).bounding_box()
    box = warning.bounding_box()
    assert view["y"] <= box["y"] and box["y"] + box["height"] <= view["y"] + view["height"] + 1, "it is scrolled away"

    set_value(page, kind, "edit", 9)
    page.wait_for_selector(".p2p-warning:has-text('No edit 9: the pair has 1 edited prompt.')")
    set_palette = "name => app.extensionManager.setting.set('Comfy.ColorPalette', name)"
    try:
        for palette in ("light", "dark"):
            page.evaluate(set_palette, palette)
            page.wait_for_timeout(300)
            ground = colour(page, page.locator(".p2p-hints", has=warning), "backgroundColor")
            assert contrast(colour(page, warning, "color"), ground) >= 4.5, palette
    finally:
        page.evaluate(set_palette, "dark")

    set_value(page, kind, "edit", 0)
    set_value(page, kind, "words", before)
    page.wait_for_function("!document.querySelector('.p2p-warning')")
    mode = "mode => app.graph.nodes.filter(n => n.inputs.some(i => i.name === 'pair')).forEach(n => { n.mode = mode })"
    page.evaluate(mode, 4)  # bypassed
    page.wait_for_selector(".p2p-pair + .p2p-hints > .p2p-warning:has-text('No edit: the pair’s conditioning goes')")
    page.evaluate(mode, 0)
    page.wait_for_function("!document.querySelector('.p2p-warning')")
    assert page.evaluate("[...document.querySelectorAll('.p2p-hints')].map(e => e.offsetHeight).every(h => h === 0)")
    if renderer == "classic":
        page.wait_for_timeout(100)
        assert node(page, kind, DRAWN_AS_IT_IS)


def test_faders_are_dragged(page, renderer):
    """A word's chip, up for more of it and down for less; a click takes it out again."""
    open_workflow(page, workflow("edit"))
    look_at(page, "P2PEdit")
    page.get_by_role("button", name="fade a word").click()
    grass = page.locator(".p2p-words .p2p-fader", has_text="grass")
    grass.click()
    wait_for_value(page, "P2PEdit", "words", "grass: 2")
    grass.click()
    wait_for_value(page, "P2PEdit", "words", "")
    box = grass.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0], middle[1] + 10, steps=3)
    page.mouse.move(middle[0], middle[1] + 50, steps=3)
    page.mouse.up()
    wait_for_value(page, "P2PEdit", "words", "grass: 0")
    screenshot(page, f"faded_{renderer}", fit=False)
    grass.focus()
    page.keyboard.press("PageUp")
    wait_for_value(page, "P2PEdit", "words", "grass: 1")
    page.keyboard.press("ArrowDown")
    wait_for_value(page, "P2PEdit", "words", "grass: 0.9")
    page.keyboard.press("Control+z")
    wait_for_value(page, "P2PEdit", "words", "grass: 1")


def test_without_a_target_the_sources_own_words_fade(page, renderer):
    open_workflow(page, workflow("edit"))
    look_at(page, "P2PEdit")
    set_value(page, "P2PEdit", "target", "")
    page.get_by_role("button", name="fade a word").click()
    cat = page.locator(".p2p-words .p2p-fader", has_text="cat")
    cat.click()
    wait_for_value(page, "P2PEdit", "words", "cat: 2")
    cat.focus()
    page.keyboard.press("PageDown")
    wait_for_value(page, "P2PEdit", "words", "cat: 1")
    assert not page.locator(".p2p-words", has_text="no such edited prompt").count()


def test_a_sentence_becomes_the_target(page, renderer):
    """Shown while it is typed, written when one agrees, and one step for Undo."""
    open_workflow(page, workflow("edit"))
    look_at(page, "P2PEdit")
    source, before = (value(page, "P2PEdit", name) for name in ("source", "target"))
    box = page.get_by_label("What to change, as a sentence")
    box.fill("make the zebra a dog")
    page.wait_for_selector(".p2p-instructed:has-text('“zebra” is not in the prompt')")
    thing = source.split()[1]
    box.fill(f"{thing} -> dog; more grass")
    wanted = source.replace(thing, "dog")
    page.wait_for_selector(f".p2p-instructed:has-text('{wanted}'):has-text('grass: 2')")
    assert value(page, "P2PEdit", "target") == before, "nothing is written unasked"
    screenshot(page, f"instruction_{renderer}", fit=False)
    box.press("Delete")
    box.press("Enter")
    wait_for_value(page, "P2PEdit", "target", wanted)
    wait_for_value(page, "P2PEdit", "words", "grass: 2")
    assert box.input_value() == ""
    assert node(page, "P2PEdit", "n => n.inputs.length"), "Delete in the box took the node"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Control+z")
    wait_for_value(page, "P2PEdit", "target", before)
    wait_for_value(page, "P2PEdit", "words", "")


# ------------------------------------------------------------------------------------------------------ graphs


def test_without_a_pair_it_says_so(page, renderer):
    open_workflow(page, workflow("local_blend"))
    page.wait_for_selector(".p2p-words .p2p-pick")
    page.evaluate(
        "(() => { const n = app.graph.nodes.find(n => n.type === 'P2PLocalBlendMask');"
        "n.disconnectInput(n.inputs.findIndex(i => i.name === 'pair')) })()"
    )
    page.wait_for_selector(".p2p-words:has-text('Connect a P2P Prompt Pair')")


def test_inside_a_subgraph(page, renderer):
    """An edit that has gone into a subgraph shows the words of the pair that stayed outside, and writes into itself."""
    open_workflow(page, workflow("reweight"))
    page.wait_for_selector(".p2p-words .p2p-pick")
    edits = node(page, "P2PReweightToken", "(n, i, all) => all.length")
    page.evaluate(
        "(() => { const n = app.graph.nodes.find(n => n.type === 'P2PReweightToken');"
        "const { subgraph } = app.graph.convertToSubgraph(new Set([n])); app.canvas.setGraph(subgraph) })()"
    )
    page.wait_for_function("app.canvas.graph !== app.graph")
    assert edits >= 1 and node(page, "P2PReweightToken", "(n, i, all) => all.length") == 1
    look_at(page, "P2PReweightToken")
    before = value(page, "P2PReweightToken", "words")
    unpicked = page.locator(".p2p-words:visible .p2p-pick[aria-pressed=false]").first
    name = unpicked.inner_text()
    unpicked.click()
    wait_for_value(page, "P2PReweightToken", "words", f"{before}, {name}")
    screenshot(page, f"subgraph_{renderer}", fit=False)
    page.evaluate("app.canvas.setGraph(app.graph)")


def test_a_view_has_its_room_in_a_subgraph_that_was_just_opened(page, renderer):
    """Nobody has to move the mouse for it."""
    open_workflow(page, workflow("edit"))
    page.wait_for_selector(".p2p-pair .p2p-chip")
    page.evaluate(
        "app.graph.convertToSubgraph(new Set(app.graph.nodes.filter(n => ['P2PEdit', 'KSampler'].includes(n.type))))"
    )
    page.wait_for_timeout(1000)  # nothing is drawn anew any more
    page.evaluate(
        "(() => { const n = app.graph.nodes.find(n => n.subgraph); app.canvas.openSubgraph(n.subgraph, n) })()"
    )
    page.wait_for_function("app.canvas.graph !== app.graph")
    page.wait_for_function(
        "(() => { const shown = document.querySelector('.p2p-view:has(.p2p-pair)')?.getBoundingClientRect();"
        "return shown && shown.height > 100 * app.canvas.ds.scale })()"
    )
    page.evaluate("app.canvas.setGraph(app.graph)")


def test_copies_are_separate(page, renderer):
    open_workflow(page, workflow("word_swap"))
    words(page)
    page.evaluate(
        "(() => { const n = app.graph.nodes.find(n => n.type === 'P2PPromptPair');"
        "app.canvas.selectItems([n]); app.canvas.copyToClipboard(); app.canvas.pasteFromClipboard() })()"
    )
    page.wait_for_function("app.graph.nodes.filter(n => n.type === 'P2PPromptPair').length === 2")
    apart = page.evaluate(
        "(() => { const [a, b] = app.graph.nodes.filter(n => n.type === 'P2PPromptPair');"
        "const of = n => n.widgets.filter(w => w.name === 'p2p_view');"
        "b.widgets.find(w => w.name === 'target').value = 'a tree';"
        "return [of(a).length, of(b).length, of(a)[0].element !== of(b)[0].element,"
        "a.widgets.find(w => w.name === 'target').value] })()"
    )
    assert apart == [1, 1, True, "a mushroom in orange on the grass"]


def test_saved_and_opened_again(page, renderer):
    open_workflow(page, workflow("reweight"))
    page.wait_for_selector(".p2p-words .p2p-pick")
    saved = page.evaluate("JSON.stringify(app.graph.serialize())")
    assert "p2p_view" not in saved
    page.evaluate("saved => app.loadGraphData(JSON.parse(saved))", saved)
    page.wait_for_selector(".p2p-words .p2p-pick")
    again = page.evaluate("app.graph.serialize().nodes.map(n => [n.id, n.widgets_values])")
    assert again == [[each["id"], each.get("widgets_values")] for each in json.loads(saved)["nodes"]]


# ------------------------------------------------------------------------------------------------------ after a run


def run(page, server, name, **values):
    """Open a workflow and run it, with few steps: this is about the page."""
    open_workflow(page, workflow(name))
    page.evaluate(
        "values => app.graph.nodes.flatMap(n => n.widgets ?? []).filter(w => w.name in values)"
        ".forEach(w => { w.value = values[w.name] })",
        {"steps": 2, **values},
    )
    page.mouse.move(800, 500)  # over a tab it would open a preview that covers the button
    with page.expect_response("**/api/prompt") as response:
        page.click("[data-testid=queue-button]")
    answer = response.value.json()
    assert not answer["node_errors"]
    return server.wait(answer["prompt_id"])


def picture(locator):
    return Image.open(io.BytesIO(locator.screenshot())).convert("RGB")


def difference(a, b):
    return max(ImageStat.Stat(ImageChops.difference(a, b.resize(a.size))).mean)


def test_pointing_at_a_word_shows_its_map(page, server, renderer):
    shown = run(page, server, "attention_maps")
    page.wait_for_selector(".p2p-maps .p2p-pick")
    look_at(page, "P2PAttentionMaps")
    stage, chips = page.locator(".p2p-map"), page.locator(".p2p-maps .p2p-pick")
    assert chips.all_inner_texts()[:4] == ["picture", "a", "cat", "in"]
    page.wait_for_load_state("networkidle")
    plain = picture(stage)
    chips.nth(2).hover()
    pointed = picture(stage)
    assert difference(plain, pointed) > 5
    page.mouse.move(5, 5)
    assert difference(plain, picture(stage)) < 1
    chips.nth(2).focus()
    assert difference(pointed, picture(stage)) < 1
    chips.nth(2).click()
    page.mouse.move(5, 5)
    chips.nth(0).evaluate("e => e.blur()")
    assert difference(pointed, picture(stage)) < 1, "a clicked word stays"
    assert page.locator(".p2p-map").get_attribute("aria-label").startswith("cat")
    assert len(shown) == 3  # the maps, the source, the edit
    screenshot(page, f"maps_{renderer}", fit=False)

    # The run has told the server which CLIP is connected.
    page.wait_for_selector(".p2p-counts[title*='the connected CLIP (']", state="attached")


def test_the_line_between_source_and_edit(page, server, renderer):
    shown = run(page, server, "compare")
    page.wait_for_selector(".p2p-stage img")
    look_at(page, "P2PCompare")
    stage, slider = page.locator(".p2p-stage"), page.locator(".p2p-stage input")
    page.wait_for_function("[...document.querySelectorAll('.p2p-stage img')].every(i => i.complete && i.naturalWidth)")
    saved = saved_pictures(api_form("compare"), shown)
    source, edited = (Image.open(io.BytesIO(server.image(each))).convert("RGB") for each in saved[:2])
    slider.focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    assert slider.evaluate("e => getComputedStyle(e.parentElement).outlineStyle") == "solid"
    for key, wanted, other in (("Home", edited, source), ("End", source, edited)):
        page.keyboard.press(key)
        page.wait_for_timeout(100)
        inside = [0.1, 0.1, 0.9, 0.85]  # without the line at the side and the labels
        shot = picture(stage)
        shot, wanted, other = (
            each.crop([round(side * length) for side, length in zip(inside, each.size * 2)])
            for each in (shot, wanted, other)
        )
        assert difference(shot, wanted) < difference(shot, other) / 2
    box = stage.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.3)
    assert float(slider.input_value()) == pytest.approx(50, abs=3)
    screenshot(page, f"compare_{renderer}", fit=False)
    page.locator(".p2p-compare .p2p-pick", has_text="edit 2").click()
    page.wait_for_selector(".p2p-compare .p2p-pick[aria-pressed=true]:has-text('edit 2')")
    page.locator(".p2p-compare .p2p-pick", has_text="seed 2").click()
    page.wait_for_selector(".p2p-compare .p2p-pick[aria-pressed=true]:has-text('seed 2')")
    sources = page.evaluate("[...document.querySelectorAll('.p2p-stage img')].map(i => i.src)")
    assert "00004" in sources[0] and "00006" in sources[1]
    assert slider.input_value() == "50" or float(slider.input_value()) == pytest.approx(50, abs=3), "the line moved"

    ways = page.locator(".p2p-compare [aria-label=way] .p2p-pick")
    ways.get_by_text("difference").click()
    page.wait_for_selector(".p2p-by-difference")
    one, other = (Image.open(io.BytesIO(server.image(saved[i]))).convert("RGB") for i in (3, 5))
    wanted = ImageChops.difference(one, other).point(lambda value: min(255, 3 * value))
    assert difference(picture(page.locator(".p2p-stage")), wanted) < 12
    screenshot(page, f"difference_{renderer}", fit=False)
    ways.get_by_text("flip").click()
    flip = page.locator(".p2p-flipper")
    flip.focus()
    edited = picture(page.locator(".p2p-stage"))
    page.keyboard.down("Enter")
    page.wait_for_selector(".p2p-pressed")
    assert difference(edited, picture(page.locator(".p2p-stage"))) > 1
    page.keyboard.up("Enter")
    page.wait_for_selector(".p2p-stage:not(.p2p-pressed)")
    ways.get_by_text("all").click()
    page.wait_for_function("document.querySelectorAll('.p2p-table img').length === 6")
    screenshot(page, f"all_{renderer}", fit=False)
    page.locator(".p2p-table button").nth(4).click()  # the second seed's first edit
    page.wait_for_selector(".p2p-by-line")
    assert "00005" in page.locator(".p2p-stage img").nth(1).get_attribute("src")


@pytest.mark.daily("nodes_2")
def test_nothing_is_out_of_place_after_a_run(page, server, renderer):
    """Nodes grow when they have something to show, in the room that is kept for it."""
    for name in ("word_swap", "attention_maps", "edit", "edit_photo", "real_image_still_life", "local_blend"):
        shown = run(page, server, name)
        page.wait_for_function("shown => shown.every(id => app.nodeOutputs[id]?.images)", arg=list(shown))
        page.wait_for_selector(".p2p-stage img", state="attached")
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(700)  # each view has looked, and has taken the room that it needs
        assert page.evaluate(OUT_OF_PLACE) == [], name
        screenshot(page, f"after_{name}_{renderer}", fit=False)


def test_a_whole_edit_says_what_it_did(page, server, renderer):
    run(page, server, "edit", negative=renderer)  # the host says nothing of what it has made already
    look_at(page, "P2PEdit")
    page.wait_for_selector(".p2p-did li")
    hidden = node(page, "P2PEdit", "n => n.widgets.filter(w => w.hidden).map(w => w.name)")
    assert hidden == ["words", "steps", "scheduler", "denoise", "alignment"], "they are for what is not there"
    assert page.locator(".p2p-did li").all_inner_texts() == [
        "P2P Attention Replace cross_end 0.8, self_end 0.4",
        "P2P Local Blend Mask threshold 0.3, start 0.2, grow 1, mask_from words and change, or everywhere",
    ]
    assert page.locator(".p2p-edit [aria-pressed=true]").inner_text() == "balanced"
    screenshot(page, f"edit_{renderer}", fit=False)
    page.locator(".p2p-edit").get_by_text("subtle").click()
    wait_for_value(page, "P2PEdit", "strength", 0.25)
    page.wait_for_selector(".p2p-edit [aria-pressed=true]:has-text('subtle')")


# ------------------------------------------------------------------------------------------------------ themes


@pytest.mark.parametrize("palette", ["dark", "light"])
def test_text_can_be_read_in_every_theme(page, renderer, palette):
    set_palette = "name => app.extensionManager.setting.set('Comfy.ColorPalette', name)"
    page.evaluate(set_palette, palette)
    try:
        open_workflow(page, workflow("word_swap"))
        look_at(page, "P2PPromptPair")
        type_into(page, "a mushroom in orange on the grass", "a dog on the big grass")
        page.wait_for_selector(".p2p-pair .p2p-removed")
        page.get_by_text("own window for a word").click()
        for kind in ("shared", "swapped", "new", "removed"):
            chip = page.locator(f".p2p-pair .p2p-flow .p2p-chip.p2p-{kind}").first
            assert contrast(colour(page, chip, "color"), colour(page, chip, "backgroundColor")) >= 4.5, kind
        ground = colour(page, page.locator(".p2p-view").first, "backgroundColor")
        for part, least in ((".p2p-gap", 4.5), (".p2p-counts", 3), (".p2p-range", 3), (".p2p-opener", 3)):
            assert contrast(colour(page, page.locator(part).first, "color"), ground) >= least, part
        screenshot(page, f"theme_{palette}_{renderer}")
    finally:
        page.evaluate(set_palette, "dark")
