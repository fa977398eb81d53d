"""What is written about the pack is true: every link leads somewhere, every workflow is shown, nothing is left over.

Which words a page owes to a node's sockets is in tests/comfy/test_nodes.py, which knows the nodes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "web" / "docs"
TEXTS = sorted(
    path
    for folder in ROOT.iterdir()
    if not folder.name.startswith(".") and folder.name != "output"
    for path in ([folder] if folder.suffix == ".md" else folder.glob("**/*.md"))
)
HELP = sorted(DOCS.glob("P2P*.md"))
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
# What makes an image, and so can do too little or too much.
EDITS = [
    "P2PEdit",
    "P2PPromptPair",
    "P2PAttentionReplace",
    "P2PAttentionRefine",
    "P2PReweightToken",
    "P2PLocalBlendMask",
    "P2PComposite",
    "P2PSecondPass",
    "P2PDDIMInvert",
    "P2PProximalGuidance",
    "P2PNullTextOptimize",
]
FIGURES = ["word_swap", "softer_constraint", "new_phrase", "global_edit", "reweight", "local_blend", "real_image"]


def read(path):
    return path.read_text(encoding="utf-8")


def targets(path):
    """What a text links to or shows, without what is elsewhere on the net."""
    found = re.findall(r"\]\(<?([^)>\s]+)>?\)", read(path))
    return [target.replace("%20", " ") for target in found if not target.startswith(("http:", "https:"))]


def anchors(path):
    """The ends of links to its headings, as the forge makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", read(path))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def names(path, workflow):
    """Does a text name this workflow, and not merely one whose name begins or ends alike?"""
    return re.search(rf"(?<!\w){re.escape(workflow)}(?!\w)", read(path)) is not None


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_and_picture_of_a_text_exists(path):
    folder = DOCS if path.parent.parent == DOCS else path.parent  # of a translated page, as ComfyUI resolves them
    for target in targets(path):
        file, _, heading = target.partition("#")
        at = (folder / file).resolve() if file else path
        assert at.exists(), target
        assert not heading or heading in anchors(at), target


@pytest.mark.parametrize("path", HELP, ids=lambda path: path.stem)
def test_a_help_page_shows_a_picture_and_a_table_of_recipes(path):
    """In ComfyUI web/p2p.js leads its links to nodes/docs_route.py, which has the other pages and the README."""
    shown = [target for target in targets(path) if target.startswith("images/")]
    assert shown
    others = {target.partition("#")[0] for target in targets(path)} - {"", *shown}
    pages = {each.name for each in DOCS.glob("*.md")} | {"../../README.md"}
    assert {"tutorial.md", "../../README.md"} <= others <= pages
    assert "\nSee also: " in read(path)
    assert re.search(r"(?m)^## What you want, what to (set|do|write)\n\n\| you want \|", read(path))
    if path.stem in EDITS:
        (advice,) = re.findall(r"(?ms)^## When an edit does too little or too much$(.+?)(?=^## |\Z)", read(path))
        assert "\n* Too little" in advice and "\n* Too much" in advice


def test_pages_of_all_edits_were_checked():
    assert set(EDITS) <= {path.stem for path in HELP}


def test_every_picture_is_shown_somewhere():
    shown = {(path.parent / target.partition("#")[0]).resolve() for path in TEXTS for target in targets(path)}
    assert [path for path in (DOCS / "images").iterdir() if path.resolve() not in shown] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_explains_itself_and_is_explained(path):
    """The README or the tutorial links to it, a help page or the tutorial tells of it, and so does it itself."""
    pages = (ROOT / "README.md", DOCS / "tutorial.md")
    linked = {(page.parent / target).resolve() for page in pages for target in targets(page)}
    assert path in linked
    assert any(names(page, path.stem) for page in [*HELP, DOCS / "tutorial.md"])
    notes = [node for node in json.loads(read(path))["nodes"] if node["type"] == "MarkdownNote"]
    text = "\n".join(note["widgets_values"][0] for note in notes)
    assert text.startswith("## ") and "**Run**" in text
    assert "You see" in text or "You get" in text
    assert "`" not in text, "newer pages show code in notes as blue on grey"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_a_small_square_thumbnail(path):
    thumbnail = path.with_suffix(".jpg")
    with Image.open(thumbnail) as picture:
        assert picture.format == "JPEG"
        assert picture.width == picture.height >= 256  # the cards of the template browser are square
        assert max(high - low for low, high in picture.getextrema()) > 100, "it shows nothing"
    assert thumbnail.stat().st_size < 60_000


def test_no_thumbnail_is_left_over():
    assert {path.stem for path in (ROOT / "workflows").glob("*.jpg")} == {path.stem for path in WORKFLOWS}


@pytest.mark.parametrize("figure", FIGURES)
def test_the_tutorial_has_every_figure_with_its_picture_and_workflows(figure):
    (part,) = (part for part in read(DOCS / "tutorial.md").split("\n## ") if f"](images/{figure}.png)" in part)
    for name in (figure, f"{figure}_sd15", f"{figure}_sdxl"):
        assert f"](../../workflows/{name}.json)" in part


def test_there_are_blueprints():
    assert [path.stem for path in BLUEPRINTS] == ["Edit a photo by prompt", "Edit by prompt"]


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_a_blueprint_is_one_node_whose_links_are_whole(path):
    """The form in which ComfyUI's page saves a blueprint; tests/browser runs them there."""
    blueprint = json.loads(read(path))
    (node,), (inside,) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
    assert node["type"] == inside["id"] and node["title"] == inside["name"] == path.stem
    assert blueprint["extra"]["BlueprintDescription"]
    assert [slot["name"] for slot in node["inputs"]] == [slot["name"] for slot in inside["inputs"]]
    ends = {inner["id"]: inner for inner in inside["nodes"]}
    for link in inside["links"]:
        origin = inside["inputs"] if link["origin_id"] == -10 else ends[link["origin_id"]]["outputs"]
        target = inside["outputs"] if link["target_id"] == -20 else ends[link["target_id"]]["inputs"]
        into, out = target[link["target_slot"]], origin[link["origin_slot"]]
        assert into["type"] == out["type"] == link["type"]
        assert link["id"] in (out.get("links") or out.get("linkIds"))
        assert link["id"] == into.get("link") or link["id"] in into.get("linkIds", ())
    assert path.stem in read(ROOT / "README.md")
    assert path.stem in read(DOCS / "tutorial.md")
