"""What a run says on a node, looked at on any page."""

from tools.comfy_server import ROOT
from tools.the_page import open_workflow, queue, screenshot

RUN_OVER = 600  # ms; newer pages take texts off when a run is over
MIDDLE = """kind => {
    const { canvas, graph } = app, node = graph.nodes.find(n => n.type === kind);
    canvas.ds.scale = 1; canvas.ds.offset = [400 - node.pos[0], 200 - node.pos[1]]; canvas.setDirty(true, true) }"""
BOX = """kind => {
    const { ds, canvas } = app.canvas, node = app.graph.nodes.find(n => n.type === kind);
    const element = document.querySelector(`[data-node-id="${node.id}"]`), at = canvas.getBoundingClientRect();
    return element?.getBoundingClientRect().toJSON() ?? {
        left: at.x + (node.pos[0] + ds.offset[0]) * ds.scale, width: node.size[0] * ds.scale,
        top: at.y + (node.pos[1] + ds.offset[1]) * ds.scale, height: node.size[1] * ds.scale } }"""


def said_until_it_is_mended(page, server):
    """A run that begins below full noise on an empty latent: the sampler says so, and goes on saying so."""
    open_workflow(page, ROOT / "workflows" / "word_swap.json")
    page.evaluate(MIDDLE, "KSampler")
    queue(page, server, steps=2, denoise=0.5)
    said = page.get_by_text("Set denoise to 1").first
    for _ in range(2):
        page.wait_for_timeout(RUN_OVER)
        said.wait_for()
        text, node = said.bounding_box(), page.evaluate(BOX, "KSampler")
        assert node["left"] <= text["x"] and text["x"] + text["width"] <= node["left"] + node["width"] + 1
        assert node["top"] <= text["y"] <= node["top"] + node["height"]
        queue(page, server)  # nothing has changed, so the sampler does not run again
    screenshot(page, "said", fit=False)
    queue(page, server, denoise=1.0)
    page.wait_for_timeout(RUN_OVER)
    assert not said.is_visible()
