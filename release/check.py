"""``python dev.py release-check``: make the archive that is published, and try it in a fresh ComfyUI.

ComfyUI starts with a base directory of its own, .host/release/host, whose custom_nodes holds the unpacked archive and
nothing else. There every node must register, everything that the page asks for must be served, and the templates must
run. Prints the archive's size and folders, and what is still to be filled in before it may be published.

    --all         run every template with the demo model as it is (word_swap alone, with few steps)
    --to-publish  fail while something is still to be filled in
"""

import argparse
import io
import json
import re
import shutil
import sys
import time
import urllib.error
import zipfile
from pathlib import Path

from PIL import Image, ImageChops

from release.archive import ReleaseError, changes, contents, open_points, pack, sizes, version
from release.contents import wrong
from tools.comfy_server import PACK, ComfyServer, ServerError
from tools.workflow_api import api_form, names, prompt_pair, saved_pictures, uses_demo_model

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / ".host" / "release"
BLANK = 8  # grey levels: a picture that varies less shows nothing
FEW_STEPS = 6


def main():
    parser = argparse.ArgumentParser(prog="dev.py release-check", description=__doc__.split("\n\n")[0])
    parser.add_argument("--all", action="store_true", help="run every template as it is")
    parser.add_argument("--to-publish", action="store_true", help="fail while something is still to be filled in")
    arguments = parser.parse_args()
    started = time.monotonic()
    try:
        archive = OUT / f"{PACK}-{version()}.zip"
        pack(archive)
        print(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB, {len(contents(archive))} files")
        for folder, size in sizes(archive).items():
            print(f"  {size / 1e6:6.2f} MB  {folder}")
        dated, _ = changes()
        print(f"CHANGELOG.md has version {version()} ({dated})")
        points = open_points()
        for point in points:
            print(f"to be done before it is published: {point}")
        missing = [*wrong(contents(archive)), *try_out(archive, every=arguments.all)]
    except (ReleaseError, ServerError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    for what in missing:
        print(f"WANTED in the archive: {what}", file=sys.stderr)
    failed = missing or (arguments.to_publish and points)
    print(f"{'FAILED' if failed else 'good'}, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


def try_out(archive, every):
    """Start a ComfyUI with the unpacked archive; what is missing there, as sentences."""
    base = OUT / "host"
    shutil.rmtree(base, ignore_errors=True)
    unpacked = base / "custom_nodes" / PACK
    with zipfile.ZipFile(archive) as files:
        files.extractall(unpacked)
    with ComfyServer("release-check", base=base) as server:
        if str(unpacked) not in server.said():
            raise ReleaseError(f"wanted ComfyUI to load {unpacked}, got:\n{server.said()}")
        missing = [*nodes(server), *pages(server), *templates(server), *translations(server)]
        for name in names() if every else ["word_swap"]:
            try:
                run(server, name, steps=None if every else FEW_STEPS)
            except (ReleaseError, ServerError, ValueError, OSError) as error:
                missing.append(f"a template that runs: {name}: {error}")
        said = server.said()
    return missing + ([f"a quiet start:\n{said}"] if "Traceback" in said and not missing else [])


def words(language="en"):
    """Node id -> its names and tooltips: what tests/comfy/test_translations.py holds against the nodes."""
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def nodes(server):
    there = {name for name, node in server.get("/object_info").items() if node["python_module"].endswith(PACK)}
    yield from (f"node {name}" for name in words() if name not in there)


def pages(server):
    """Help pages with their pictures, and the page's scripts."""
    for name in dict.fromkeys([*words(), *(path.stem for path in (ROOT / "web" / "docs").glob("*.md"))]):
        page = served(server, f"/extensions/{PACK}/docs/{name}.md")
        if not page:
            yield f"help page {name}"
            continue
        for picture in re.findall(r"(?:!\[[^]]*\]\(|\bsrc=\")([^)#\s\"]+)", page.decode("utf-8")):
            if not picture.startswith("http") and not served(server, f"/extensions/{PACK}/docs/{picture}"):
                yield f"picture {picture} of the help page {name}"
    scripts = set(server.get("/extensions"))
    for path in (ROOT / "web").rglob("*.js"):
        if (script := f"/extensions/{PACK}/{path.relative_to(ROOT / 'web').as_posix()}") not in scripts:
            yield f"script {script}"


def templates(server):
    """Templates with their pictures, and blueprints."""
    there = server.get("/api/workflow_templates").get(PACK, [])
    for path in (ROOT / "workflows").iterdir():
        if path.suffix == ".json" and path.stem not in there:
            yield f"template {path.stem}"
        if path.is_file() and not served(server, f"/api/workflow_templates/{PACK}/{path.name}"):
            yield f"file {path.name} of a template"
    blueprints = {entry["name"] for entry in server.get("/global_subgraphs").values()}
    yield from (f"blueprint {path.stem}" for path in (ROOT / "subgraphs").glob("*.json") if path.stem not in blueprints)


def translations(server):
    there = server.get("/i18n")
    for folder in (ROOT / "locales").iterdir():
        if folder.is_dir() and not folder.name.startswith("_"):
            if there.get(folder.name, {}).get("nodeDefs") != words(folder.name):
                yield f"translation {folder.name}"


def served(server, path):
    """The body of a file, or None where there is no such file."""
    try:
        body = server.get(path)
    except urllib.error.HTTPError:
        return None
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def run(server, name, steps=None):
    """Run a saved workflow; every picture must show something, and the edits something else than the source."""
    prompt = api_form(name)
    if not uses_demo_model(prompt):
        print(f"passed over {name}: it needs a checkpoint to run")
        return
    for node in prompt.values():
        if steps and "steps" in node["inputs"]:
            node["inputs"]["steps"] = steps
    results = server.wait(server.queue(prompt))
    made = [picture(server, image) for images in results.values() for image in images]
    edits = len(prompt_pair(prompt)[1])
    saved = [picture(server, image) for image in saved_pictures(prompt, results)]
    if not made or len(saved) % (1 + edits):
        raise ReleaseError(f"wanted {1 + edits} pictures per seed, got {len(saved)}")
    if any(max(high - low for low, high in image.getextrema()) < BLANK for image in made):
        raise ReleaseError("wanted pictures, got a blank one")
    for place, image in enumerate(saved):
        source = saved[place - place % (1 + edits)]
        if place % (1 + edits) and not ImageChops.difference(source, image).getbbox():
            raise ReleaseError(f"wanted an edit, got the source once more (picture {place})")
    print(f"ran {name}: {len(made)} pictures")


def picture(server, image):
    return Image.open(io.BytesIO(server.image(image))).convert("RGB")


if __name__ == "__main__":
    sys.exit(main())
