"""``python dev.py demo``: run saved workflows in a real ComfyUI and put their pictures side by side.

For a workflow, workflows/NAME.json, output/NAME.png is a contact sheet with one line per seed:

    the source prompt's picture | each target prompt, same seed, without our nodes | each edit, with them

With a local blend, each edit without the blend and the blend's masks are beside it. A workflow that shows attention
maps, or a table of settings, makes its sheet itself. Without names it is the first edit's sheet; with ``--all`` that of
every workflow with the demo model. Those that load a checkpoint are passed over: nobody has to have one.

``--docs`` puts all sheets where the help pages show them, web/docs/images/NAME.png, and makes the pictures of the
template browser, workflows/NAME.jpg (see thumbnails.py).
"""

import argparse
import io
import sys
import time
from pathlib import Path

from PIL import Image

from tools.comfy_server import ROOT, ComfyServer, ServerError
from tools.contact_sheet import FAINT, compared, contact_sheet
from tools.thumbnails import save_thumbnails
from tools.workflow_api import (
    api_form,
    names,
    prompt_pair,
    saved_pictures,
    uses_demo_model,
    without_blend,
    without_p2p,
)

TILE = 256  # pixels
FIRST = "word_swap"
EDITED, UNBLENDED = 0, 1  # runs of a workflow; the others go by their target's text
SHEETS = ("P2PAttentionMaps", "P2PGrid")  # nodes whose picture is a sheet already


def main():
    parser = argparse.ArgumentParser(prog="dev.py demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", help=f"workflows to run ({FIRST})")
    parser.add_argument("--all", action="store_true", help="run every workflow that uses the demo model")
    parser.add_argument("--out", type=Path, default=ROOT / "output", help="where the contact sheets go")
    parser.add_argument(
        "--docs", action="store_true", help="put them into web/docs/images, and thumbnails into workflows"
    )
    arguments = parser.parse_args()
    ours = [name for name in names() if uses_demo_model(api_form(name))]
    wanted = arguments.names or (ours if arguments.all or arguments.docs else [FIRST])
    if unknown := [name for name in wanted if name not in ours]:
        parser.error(f"wanted names of workflows with the demo model ({', '.join(ours)}), got {', '.join(unknown)}")
    out = ROOT / "web" / "docs" / "images" if arguments.docs else arguments.out

    started = time.monotonic()
    try:
        print("starting ComfyUI", flush=True)
        with ComfyServer("demo") as server:
            sheets = [Sheet(name, api_form(name)) for name in wanted]
            for sheet in sheets:
                make(server, sheet)
                out.mkdir(parents=True, exist_ok=True)
                path = out / f"{sheet.name}.png"
                picture = sheet.draw(server)
                (in_few_colours(picture) if arguments.docs else picture).save(path, optimize=True)
                print(path, flush=True)
            if arguments.docs:
                save_thumbnails({sheet.name: sheet.pictures_by_seed(server) for sheet in sheets}, names())
    except (ServerError, ValueError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"done in {time.monotonic() - started:.0f} s")
    if len(sheets) == 1:
        print(f"the source picture, the edited prompt without the nodes, and the edit: {path}")
    else:
        print(f"{len(sheets)} sheets in {out}")
    return 0


def in_few_colours(picture):
    """A third of the bytes, for the pictures that come with the pack."""
    return picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)


def make(server, sheet):
    """Queue every prompt of a sheet and wait for them all, with a progress bar."""
    runs = {label: server.queue(prompt) for label, prompt in sheet.prompts.items()}
    for done, (label, prompt_id) in enumerate(runs.items()):
        progress(done, len(runs), sheet.name)
        sheet.results[label] = server.wait(prompt_id)
    progress(len(runs), len(runs), sheet.name)


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
        results: the same keys -> node -> the images it gave, filled in by :func:`make`.
    """

    def __init__(self, name, prompt):
        self.name, self.prompt, self.results = name, prompt, {}
        self.source, self.targets, _ = prompt_pair(prompt)
        self.prompts = {EDITED: prompt}
        kinds = {node["class_type"] for node in prompt.values()}
        if "P2PLocalBlendMask" in kinds:
            self.prompts[UNBLENDED] = without_blend(prompt)
        elif kinds.isdisjoint(SHEETS):
            self.prompts |= dict(zip(self.targets, without_p2p(prompt)))
            self.prompts.pop(self.source, None)  # a fader keeps the words: without our nodes, the source picture again

    def pictures(self, server, label, kind="SaveImage"):
        """What the nodes of a kind gave in one run; what was saved, seed by seed, the source first."""
        prompt, shown = self.prompts[label], self.results[label]
        if kind == "SaveImage":
            images = saved_pictures(prompt, shown)
        else:
            images = [image for node in shown if prompt[node]["class_type"] == kind for image in shown[node]]
        return [Image.open(io.BytesIO(server.image(image))).convert("RGB") for image in images]

    def own_sheet(self, server):
        return next((made for kind in SHEETS if (made := self.pictures(server, EDITED, kind))), [])

    def pictures_by_seed(self, server):
        """Per seed the source and its edits; of a workflow that makes a sheet itself, that alone."""
        if own := self.own_sheet(server):
            return [own]
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
        if self.own_sheet(server):
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

        heads = [[[(title, FAINT)], *compared(self.source, target, TILE)] for title, target, _ in columns]
        by_row = zip(*(tiles for _, _, tiles in columns), strict=True)
        return contact_sheet(heads, [((), pictures) for pictures in by_row], TILE)

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


if __name__ == "__main__":
    sys.exit(main())
