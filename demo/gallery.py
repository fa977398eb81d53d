"""``python dev.py demo``: run the saved workflows in a real ComfyUI and put their pictures side by side.

For each workflows/NAME.json that uses the demo model, output/NAME.png is a contact sheet with one line per seed:

    the source prompt's picture | each target prompt, same seed, without our nodes | each edit, with them

With a local blend, each edit without the blend and the blend's masks are beside it. A workflow that shows attention
maps makes its sheet itself. Workflows that load a checkpoint are passed over: nobody has to have one.

``--docs`` puts the sheets where the help pages show them, web/docs/images/NAME.png, and makes the pictures of the
template browser, workflows/NAME.jpg (see thumbnails.py).
"""

import argparse
import difflib
import io
import json
import sys
import time
from pathlib import Path

from comfy_server import ROOT, ComfyServer, ServerError
from PIL import Image, ImageDraw, ImageFont
from thumbnails import save_thumbnails
from workflow_api import prompt_pair, to_api, uses_demo_model, without_blend, without_p2p

TILE, GAP, TEXT_SIZE, LINE = 256, 10, 15, 19  # pixels
EDITED, UNBLENDED = 0, 1  # runs of a workflow; the others go by their target's text
MAPS = "P2PAttentionMaps"
PAPER, INK, FAINT, CHANGED = "#ffffff", "#222222", "#777777", "#c8321e"


def main():
    parser = argparse.ArgumentParser(prog="dev.py demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", help="workflows to run, such as word_swap (all that use the demo model)")
    parser.add_argument("--out", type=Path, default=ROOT / "output", help="where the contact sheets go")
    parser.add_argument(
        "--docs", action="store_true", help="put them into web/docs/images, and thumbnails into workflows"
    )
    arguments = parser.parse_args()
    saved = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "workflows").glob("*.json"))
    }
    ours = {name: workflow for name, workflow in saved.items() if uses_demo_model(workflow)}
    if unknown := [name for name in arguments.names or ours if name not in ours] or not ours:
        parser.error(f"wanted names of workflows with the demo model ({', '.join(ours)}), got {unknown}")
    if not arguments.names:
        print(f"passed over, because they load a checkpoint: {', '.join(name for name in saved if name not in ours)}")
    out = ROOT / "web" / "docs" / "images" if arguments.docs else arguments.out

    started = time.monotonic()
    try:
        print("starting ComfyUI", flush=True)
        with ComfyServer("demo") as server:
            object_info = server.get("/object_info")
            sheets = [Sheet(name, to_api(ours[name], object_info)) for name in arguments.names or ours]
            make(server, sheets)
            out.mkdir(parents=True, exist_ok=True)
            for sheet in sheets:
                path = out / f"{sheet.name}.png"
                sheet.draw(server).save(path, optimize=True)
                print(path)
            if arguments.docs:
                save_thumbnails({sheet.name: sheet.pictures_by_seed(server) for sheet in sheets}, saved)
    except (ServerError, ValueError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"done in {time.monotonic() - started:.0f} s")
    return 0


def make(server, sheets):
    """Queue every prompt of every sheet and wait for them all, with a progress bar."""
    runs = [(sheet, label, server.queue(prompt)) for sheet in sheets for label, prompt in sheet.prompts.items()]
    for done, (sheet, label, prompt_id) in enumerate(runs):
        progress(done, len(runs), sheet.name)
        sheet.results[label] = {
            sheet.prompts[label][node]["class_type"]: images for node, images in server.wait(prompt_id).items()
        }
    progress(len(runs), len(runs), "")


def progress(done, total, name):
    filled = 30 * done // total
    line = f"[{'#' * filled}{'.' * (30 - filled)}] {done}/{total} runs  {name:24}"
    if sys.stdout.isatty():
        print(f"\r{line}", end="\n" if done == total else "", flush=True)
    else:
        print(line.rstrip(), flush=True)


class Sheet:
    """One workflow's runs and the picture made of them.

    Attributes:
        prompts: what to run, in API form: EDITED -> the workflow itself, UNBLENDED -> without its local blend,
            a target's text -> without our nodes.
        results: the same keys -> kind of node -> the images it gave, filled in by :func:`make`.
    """

    def __init__(self, name, prompt):
        self.name, self.prompt, self.results = name, prompt, {}
        self.source, self.targets, _ = prompt_pair(prompt)
        self.prompts = {EDITED: prompt}
        kinds = {node["class_type"] for node in prompt.values()}
        if "P2PLocalBlendMask" in kinds:
            self.prompts[UNBLENDED] = without_blend(prompt)
        elif MAPS not in kinds:
            self.prompts |= dict(zip(self.targets, without_p2p(prompt)))
            self.prompts.pop(self.source, None)  # a fader keeps the words: without our nodes, the source picture again

    def pictures(self, server, label, kind="SaveImage"):
        """What the nodes of a kind gave in one run."""
        return [
            Image.open(io.BytesIO(server.image(image))).convert("RGB") for image in self.results[label].get(kind, ())
        ]

    def pictures_by_seed(self, server):
        """Per seed the source and its edits; of a workflow that shows attention maps, its sheet alone."""
        if maps := self.pictures(server, EDITED, MAPS):
            return [maps]
        edited, rows = self.pictures(server, EDITED), 1 + len(self.targets)
        if not edited or len(edited) % rows:
            raise ServerError(
                f"{self.name}: wanted {rows} pictures per seed (the source and {rows - 1} edits), got "
                f"{len(edited)} in all."
            )
        return [edited[first : first + rows] for first in range(0, len(edited), rows)]

    def draw(self, server):
        """The contact sheet, a Pillow image."""
        by_seed, rows = self.pictures_by_seed(server), 1 + len(self.targets)
        if self.pictures(server, EDITED, MAPS):
            return by_seed[0][0]
        sources, *edited = zip(*by_seed)
        columns = [("source", self.source, sources)]
        columns += [
            ("same seed, without the nodes", target, self.pictures(server, target))
            for target in self.prompts
            if target in self.targets
        ]
        for edit, target in enumerate(self.targets, start=1):
            if UNBLENDED in self.prompts:
                unblended = self.pictures(server, UNBLENDED)[edit::rows]
                columns.append(("edited, without the blend", target, unblended))
            columns.append((self.what_is_done(edit), target, edited[edit - 1]))
            if masks := self.pictures(server, EDITED, "P2PShowBlendMask"):
                columns.append(("its mask", target, masks[edit - 1 :: len(self.targets)]))

        font = ImageFont.load_default(TEXT_SIZE)
        texts = [
            wrapped(target, set(range(len(target.split()))) - kept_words(self.source, target), font)
            for _, target, _ in columns
        ]
        head = (1 + max(map(len, texts))) * LINE + GAP
        sheet = Image.new("RGB", (len(columns) * (TILE + GAP) + GAP, head + len(by_seed) * (TILE + GAP) + GAP), PAPER)
        canvas = ImageDraw.Draw(sheet)
        for column, ((title, _, tiles), text) in enumerate(zip(columns, texts)):
            left = GAP + column * (TILE + GAP)
            canvas.text((left, GAP), title, FAINT, font)
            for number, line in enumerate(text, start=1):
                x = left
                for word, is_changed in line:
                    canvas.text((x, GAP + number * LINE), word, CHANGED if is_changed else INK, font)
                    x += font.getlength(word + " ")
            for seed, tile in enumerate(tiles):
                scale = TILE / max(tile.size)
                size = [round(side * scale) for side in tile.size]
                sheet.paste(tile.resize(size, Image.LANCZOS), (left, GAP + head + seed * (TILE + GAP)))
        return sheet

    def what_is_done(self, edit):
        """The title over an edited column: its faders, if it has any, and what sets it apart from a like prompt."""
        nodes = [
            (node["class_type"], node["inputs"])
            for node in self.prompt.values()
            if node["inputs"].get("edit", 0) in (0, edit)
        ]
        faders = [f"{inputs['words']} x{inputs['scale']:g}" for kind, inputs in nodes if kind == "P2PReweightToken"]
        title = ", ".join(faders) or "edited"
        if not faders and self.targets.count(self.targets[edit - 1]) > 1:
            title += "".join(f", window 0 to {inputs['cross_end']:g}" for _, inputs in nodes if "cross_end" in inputs)
        return title + (", with the blend" if UNBLENDED in self.prompts else "")


def kept_words(source, target):
    """Places of the target's words that the source has too."""
    matcher = difflib.SequenceMatcher(None, source.lower().split(), target.lower().split(), autojunk=False)
    return {place for block in matcher.get_matching_blocks() for place in range(block.b, block.b + block.size)}


def wrapped(text, changed, font):
    """Lines of (word, is it changed) that fit a tile's width."""
    lines, width = [[]], 0
    for place, word in enumerate(text.split()):
        advance = font.getlength(word + " ")
        if lines[-1] and width + advance > TILE:
            lines.append([])
            width = 0
        lines[-1].append((word, place in changed))
        width += advance
    return lines


if __name__ == "__main__":
    sys.exit(main())
