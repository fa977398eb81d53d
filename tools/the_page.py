"""ComfyUI's page in a real headless browser: finding one, opening it, and what the tests do with it."""

import contextlib
import json
import os
import shutil

from tools.comfy_server import PACK, ROOT

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
SCREENSHOTS = ROOT / ".host" / "run" / "screenshots"
PATIENCE_MS = 180_000  # a slow machine builds the page for a minute
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# No welcome dialog over the page, and the graph as large as it goes in the screenshots.
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.VueNodes.Enabled": False}
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge"]
ELSEWHERE = [
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
]
if os.name == "nt":
    ELSEWHERE = [
        os.path.join(os.environ.get(base, "C:\\"), *program)
        for base in ("ProgramFiles", "ProgramFiles(x86)")
        for program in (
            ("Google", "Chrome", "Application", "chrome.exe"),
            ("Microsoft", "Edge", "Application", "msedge.exe"),
        )
    ]
NO_BROWSER = f"no browser found (looked for {', '.join(BROWSERS)}); on Debian: apt-get install chromium"


def find_browser():
    return next(filter(None, map(shutil.which, BROWSERS + ELSEWHERE)), None)


@contextlib.contextmanager
def opened(server, profile, **settings):
    """The page, ready, with these settings, too; ``page.complaints`` is what its console said about the pack."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=find_browser(), headless=True, args=FLAGS, viewport={"width": 1600, "height": 900}
        )
        browser.add_init_script("localStorage.setItem('comfy.vueNodesMigration.dismissed', 'true')")  # no banner
        page = browser.pages[0]
        page.set_default_timeout(PATIENCE_MS)
        page.complaints = []

        def listen(message):
            text = f"{message.text} {message.location.get('url', '')}"
            # The page asks the public registry of packs about every node it has not heard of; it is not let out here.
            ours = PACK in text or "p2p" in text.lower()
            if message.type == "error" and ours and "api.comfy.org" not in text:
                page.complaints.append(text)

        page.on("console", listen)
        page.on("pageerror", lambda error: page.complaints.append(f"{error.message}\n{error.stack}"))
        page.request.post(f"{server.url}/api/settings", data=SETTINGS | settings)
        _wait_for_the_page(page, server.url)
        yield page
        browser.close()


def _wait_for_the_page(page, url, tries=3):
    """Ready when the graph can be edited and the pack's nodes are registered. A page that hangs is opened again."""
    from playwright.sync_api import TimeoutError

    ready = "Boolean(window.app?.graph && window.LiteGraph?.registered_node_types?.P2PPromptPair)"
    for left in reversed(range(tries)):
        try:
            page.goto(url, timeout=PATIENCE_MS / tries)
            page.wait_for_function(ready, timeout=PATIENCE_MS / tries)
            page.wait_for_selector("[data-testid=queue-button]", timeout=PATIENCE_MS / tries)
            return
        except TimeoutError:
            if not left:
                raise


def use_renderer(page, nodes_2):
    """The classic canvas, or Nodes 2.0, which draws nodes as page elements."""
    page.evaluate(
        "async on => { const { setting } = window.app.extensionManager;"
        "if (setting.get('Comfy.VueNodes.Enabled') !== on) await setting.set('Comfy.VueNodes.Enabled', on) }",
        nodes_2,
    )


def open_workflow(page, path, source="file"):
    """Load a saved workflow as the page's Open does, or, from the source "template", its list of templates."""
    page.evaluate(
        "([workflow, name, openSource]) => window.app.loadGraphData(workflow, true, true, name, { openSource })",
        [read(path), path.stem, source],
    )


def queued(page):
    """The API form of what is open: what the Queue button would send."""
    return page.evaluate("window.app.graphToPrompt().then(p => p.output)")


def untitled(prompt):
    """An API form without the titles of nodes, which are the page's language's, and the host's."""
    return {number: {key: node[key] for key in ("class_type", "inputs")} for number, node in prompt.items()}


def queue(page, server, **values):
    """Set all widgets of these names, press the Queue button, and wait; returns the pictures of each node."""
    page.evaluate(
        "values => app.graph.nodes.flatMap(n => n.widgets ?? []).filter(w => w.name in values)"
        ".forEach(w => { w.value = values[w.name] })",
        values,
    )
    with page.expect_response("**/api/prompt") as response:
        page.click("[data-testid=queue-button]")
    answer = response.value.json()
    assert not answer["node_errors"]
    return server.wait(answer["prompt_id"])


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def screenshot(page, name, fit=True):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    if fit:
        page.evaluate("window.app.canvas.fitViewToSelectionAnimated?.({duration: 1, zoom: 0.9})")
    page.wait_for_timeout(500)  # the move, and the widgets that follow it a frame later
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
