"""The pack in front of a user: a real server, the real page in a real headless browser, and its Queue button.

Screenshots go to .host/run/screenshots. Skipped, with a reason, where no Chromium, Chrome or Edge is installed.
"""

import io
import re

import pytest
from PIL import Image, ImageChops, ImageStat
from said_on_nodes import said_until_it_is_mended

from tools.comfy_server import PACK, ROOT
from tools.the_page import WORKFLOWS, open_workflow, read, screenshot, use_renderer
from tools.workflow_api import api_form, prompt_pair, saved_pictures, uses_demo_model

BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))


def test_the_page_opens_without_a_complaint(page):
    screenshot(page, "page")
    assert page.complaints == []


def test_the_workflows_are_offered_as_templates(server):
    assert set(server.get("/api/workflow_templates")[PACK]) == {path.stem for path in WORKFLOWS}


def test_the_template_browser_shows_our_thumbnails(page):
    page.evaluate("window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_role("dialog").get_by_text(PACK, exact=True).click()
    cards = page.locator("[data-testid^=template-workflow-]")
    cards.first.wait_for()
    shown = cards.evaluate_all("cards => cards.map(card => card.dataset.testid.replace('template-workflow-', ''))")
    path = next(path for path in WORKFLOWS if path.stem in shown and uses_demo_model(api_form(path.stem)))
    card = page.locator(f"[data-testid=template-workflow-{path.stem}]")  # the first of them, in no order
    card.scroll_into_view_if_needed()
    card.locator("img").first.wait_for()
    page.wait_for_function(
        "name => document.querySelector(`[data-testid=template-workflow-${name}] img`).naturalWidth === 384",
        arg=path.stem,
    )
    screenshot(page, "templates")
    card.click()
    page.wait_for_function(
        "types => window.app.graph.nodes.map(n => n.type).sort().join() === types",
        arg=",".join(sorted(node["type"] for node in read(path)["nodes"])),
    )
    assert page.complaints == []


def test_every_node_has_a_help_page(server):
    ours = [name for name in server.get("/object_info") if name.startswith("P2P")]
    assert ours
    for name in ours:
        assert server.get(f"/extensions/{PACK}/docs/{name}.md").strip(), name


def test_a_help_page_leads_to_the_tutorial(page, server):
    """From the page's own panel, whose links would else lead nowhere."""
    open_workflow(page, ROOT / "workflows" / "word_swap.json")
    page.evaluate("app.canvas.selectItems([app.graph.nodes.find(n => n.type === 'P2PAttentionReplace')])")
    page.get_by_test_id("info-button").dispatch_event("click")  # it may be under the tabs
    link = page.locator(".node-help-content").get_by_role("link", name="tutorial")
    link.scroll_into_view_if_needed()
    screenshot(page, "help", fit=False)
    with page.context.expect_page() as opened:
        link.click()
    opened.value.wait_for_load_state()
    assert opened.value.locator("h1").inner_text() == "Prompt-to-Prompt, figure by figure"
    assert opened.value.locator("img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    opened.value.get_by_role("link", name="README").first.click()
    opened.value.wait_for_selector("h1:has-text('Prompt-to-Prompt for ComfyUI')")
    opened.value.close()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_two_nodes_of_a_workflow_overlap(path):
    title = 30  # pixels above a node's position
    boxes = [
        (
            node["type"],
            node["pos"][0],
            node["pos"][1] - title,
            node["pos"][0] + node["size"][0],
            node["pos"][1] + node["size"][1],
        )
        for node in read(path)["nodes"]
    ]
    overlaps = [
        (a[0], b[0])
        for place, a in enumerate(boxes)
        for b in boxes[:place]
        if a[1] < b[3] and b[1] < a[3] and a[2] < b[4] and b[2] < a[4]
    ]
    assert overlaps == []


@pytest.mark.daily("word_swap", "local_blend")
@pytest.mark.parametrize("name", ["word_swap", "local_blend", "attention_maps", "attention_maps_plain", "real_image"])
def test_run_makes_the_pictures(page, server, name):
    path = ROOT / "workflows" / f"{name}.json"
    prompt = api_form(name)
    open_workflow(page, path)
    with page.expect_response("**/api/prompt") as response:
        page.click("[data-testid=queue-button]")
    answer = response.value.json()
    assert not answer["node_errors"]

    shown = server.wait(answer["prompt_id"])
    images = saved_pictures(prompt, shown)
    pictures = [Image.open(io.BytesIO(server.image(image))).convert("RGB") for image in images]
    rows = 1 + len(prompt_pair(prompt)[1])
    empty = (node["inputs"]["batch_size"] for node in prompt.values() if node["class_type"] == "EmptyLatentImage")
    seeds = next(empty, 1)
    assert len(pictures) == seeds * rows
    assert all(max(ImageStat.Stat(picture).stddev) > 10 for picture in pictures), "a picture is blank"
    for first in range(0, len(pictures), rows):
        source, *edited = pictures[first : first + rows]
        for picture in edited:
            assert max(ImageStat.Stat(ImageChops.difference(source, picture)).mean) > 1, "the edit changed nothing"

    # The page shows them on its SaveImage nodes, too, and masks and maps on the nodes that show those.
    showing = {
        key
        for key, node in prompt.items()
        if node["class_type"] in ("SaveImage", "P2PShowBlendMask", "P2PAttentionMaps")
    }
    assert set(shown) == showing
    for node, images in shown.items():
        page.wait_for_function(
            "([id, count]) => window.app.graph.getNodeById(id).imgs?.length === count", arg=[int(node), len(images)]
        )
    screenshot(page, f"{name}_done")
    assert page.complaints == []


def test_what_is_unusual_is_said_on_the_node_until_it_is_mended(page, server):
    said_until_it_is_mended(page, server)


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_a_blueprint_is_found_added_and_run(page, server, path):
    """As a user does: double-click, its name, Enter; then connect it to what it lacks."""
    page.evaluate("window.app.graph.clear()")
    search = page.get_by_placeholder(re.compile("Search Nodes|Add a node")).first  # newer pages ask the latter
    for _ in range(10):  # a canvas that is being cleared does not hear it
        page.mouse.dblclick(800, 450)
        page.wait_for_timeout(1000)
        if search.is_visible():
            break
    search.fill(path.stem)
    page.get_by_text(path.stem, exact=True).first.wait_for()
    page.keyboard.press("Enter")
    page.wait_for_function("name => window.app.graph.nodes[0]?.title === name", arg=path.stem)
    page.evaluate("""() => {
        const graph = window.app.graph, edit = graph.nodes[0];
        const add = type => { const node = LiteGraph.createNode(type); graph.add(node); return node; };
        const set = (name, value) => { edit.widgets.find(widget => widget.name === name).value = value; };
        const demo = add('P2PLoadDemoModel');
        for (const [slot, name] of ['model', 'clip', 'vae'].entries()) demo.connect(slot, edit, name);
        const image = edit.inputs.find(input => input.name === 'image');
        if (image) add('P2PDemoPicture').connect(0, edit, 'image');
        const latent = image ? null : add('EmptyLatentImage');
        for (const widget of latent?.widgets ?? []) if (widget.name !== 'batch_size') widget.value = 128;
        latent?.connect(0, edit, 'latent_image');
        edit.connect(0, add('SaveImage'), 'images');
        set('source', 'a box in yellow and a tree in green on the sand at sunset');
        set('target', 'a box in blue and a tree in green on the sand at sunset');
        set('steps', 8);
        graph.arrange?.();
    }""")
    screenshot(page, path.stem.replace(" ", "_"))
    with page.expect_response("**/api/prompt") as response:
        page.click("[data-testid=queue-button]")
    answer = response.value.json()
    assert not answer["node_errors"]
    (images,) = server.wait(answer["prompt_id"]).values()
    source, edited = [Image.open(io.BytesIO(server.image(image))).convert("RGB") for image in images]
    blue = [ImageStat.Stat(picture).mean[2] for picture in (source, edited)]
    assert blue[1] > blue[0] + 3, "the box did not turn blue"
    assert page.complaints == []


def test_the_new_renderer_shows_every_node(page):
    """Nodes 2.0 draws nodes as page elements, not on the canvas."""
    path = ROOT / "workflows" / "word_swap.json"
    use_renderer(page, nodes_2=True)
    open_workflow(page, path)
    page.wait_for_function(
        "count => document.querySelectorAll('[data-node-id]').length >= count", arg=len(read(path)["nodes"])
    )
    screenshot(page, "word_swap_nodes_2")
    assert page.complaints == []
