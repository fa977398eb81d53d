"""``python dev.py release-pictures``: make icon.png and banner.png, for the pack's page in the registry of nodes.

Both show what the demo model makes of one seed: the icon the source picture and, beyond the line, its edit; the banner
the source and three edits with their prompts, changed words in colour.
"""

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tools.comfy_server import ComfyServer
from tools.contact_sheet import CHANGED, FAINT, INK, PAPER, kept_words

FOLDER = Path(__file__).parent
SOURCE = "a house in red and a tree in green on the grass"
EDITS = (
    "a house in red and a tree in green on the grass at night",
    "a house in red and a tree in green on the snow",
    "a house in purple with dots and a tree in green on the grass",
)
SEED = 5
ICON, BANNER = (400, 400), (1260, 540)  # the registry wants squares of at most 400, and 21:9
TILE, GAP, TOP = 282, 20, 144


def prompt():
    """API-form prompt of the source and its edits."""
    sampling = {"steps": 30, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    windows = {"cross_start": 0.0, "cross_end": 0.8, "self_start": 0.0, "self_end": 0.4}
    links = {"positive": ["pair", 0], "negative": ["negative", 0], "latent_image": ["latent", 0]}
    nodes = {
        "demo": ("P2PLoadDemoModel", {}),
        "pair": ("P2PPromptPair", {"clip": ["demo", 1], "source": SOURCE, "target": "\n---\n".join(EDITS)}),
        "edit": ("P2PAttentionReplace", {"model": ["demo", 0], "pair": ["pair", 1], **windows}),
        "negative": ("CLIPTextEncode", {"clip": ["demo", 1], "text": ""}),
        "latent": ("EmptyLatentImage", {"width": 128, "height": 128, "batch_size": 1}),
        "sampler": ("KSampler", {"model": ["edit", 0], **links, "seed": SEED, **sampling}),
        "decode": ("VAEDecode", {"samples": ["sampler", 0], "vae": ["demo", 2]}),
        "save": ("SaveImage", {"images": ["decode", 0], "filename_prefix": "release"}),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def icon(source, edit):
    """The source in the upper left, the edit in the lower right half, a line between them."""
    width, height = ICON
    smooth = 4
    half = Image.new("L", (width * smooth, height * smooth))
    ImageDraw.Draw(half).polygon([(half.width, 0), half.size, (0, half.height)], fill=255)
    line = Image.new("L", half.size)
    ImageDraw.Draw(line).line([(half.width, 0), (0, half.height)], fill=255, width=8 * smooth)
    picture = source.resize(ICON, Image.LANCZOS)
    picture.paste(edit.resize(ICON, Image.LANCZOS), mask=half.reduce(smooth))
    picture.paste(PAPER, (0, 0, *ICON), mask=line.reduce(smooth))
    return picture


def banner(pictures):
    sheet = Image.new("RGB", BANNER, PAPER)
    canvas = ImageDraw.Draw(sheet)
    canvas.text((GAP * 1.5, 34), "Prompt-to-Prompt", INK, ImageFont.load_default(52))
    canvas.text((GAP * 1.5, 98), "Edit a picture by editing its prompt", FAINT, ImageFont.load_default(25))
    font = ImageFont.load_default(20)
    for column, (text, picture) in enumerate(zip((SOURCE, *EDITS), pictures, strict=True)):
        left = GAP * 1.5 + column * (TILE + GAP * 1.2)
        sheet.paste(picture.resize((TILE, TILE), Image.LANCZOS), (int(left), TOP))
        x, y = left, TOP + TILE + 14
        kept = kept_words(SOURCE, text)
        for place, word in enumerate(text.split()):
            if x + font.getlength(word) > left + TILE:
                x, y = left, y + 26
            canvas.text((x, y), word, INK if place in kept else CHANGED, font)
            x += font.getlength(word + " ")
    return sheet


def main():
    with ComfyServer("release-pictures") as server:
        images = server.wait(server.queue(prompt()))["save"]
        pictures = [Image.open(io.BytesIO(server.image(image))).convert("RGB") for image in images]
    for name, picture in (("icon", icon(pictures[0], pictures[1])), ("banner", banner(pictures))):
        picture.save(FOLDER / f"{name}.png", optimize=True)
        print(FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
