"""The pictures of the template browser: workflows/NAME.jpg beside each workflows/NAME.json.

A square of up to four of the workflow's own pictures: a source and its edits. A workflow that loads a checkpoint has
no pictures here; it gets those of the figure it repeats with the demo model, and a line that says so.
"""

from PIL import Image, ImageDraw, ImageFont, ImageOps

from tools.comfy_server import ROOT

SIDE, GAP = 384, 4  # pixels
PAPER, BAND, INK, FAINT = "#ffffff", "#222222", "#ffffff", "#bbbbbb"
CHECKPOINTS = {"_sd15": "SD 1.5", "_sdxl": "SDXL"}  # ending of a workflow's name -> the checkpoint it loads
COMBINED = {
    "lora_controlnet_sd15": ("word_swap", "SD 1.5, LoRA, ControlNet"),
    "edits_flux1": ("several_edits", "Flux.1"),
    "edits_qwen_image": ("several_edits", "Qwen-Image"),
    "edits_z_image": ("several_edits", "Z-Image"),
    "edits_sd35": ("several_edits", "SD3.5"),
    "edits_anima": ("several_edits", "Anima"),
}


def save_thumbnails(pictures, names):
    """Write the thumbnails of all ``names`` whose figure has pictures.

    Args:
        pictures: figure -> per seed its source and edits, as Pillow images.
        names: of workflows.
    """
    for name in names:
        figure, checkpoint = figure_of(name)
        if figure in pictures:
            picture = square(pictures[figure])
            if checkpoint:
                band(picture, checkpoint)
            path = ROOT / "workflows" / f"{name}.jpg"
            picture.save(path, quality=85, optimize=True)
            print(path)


def figure_of(name):
    """(the workflow whose pictures a workflow shows, the checkpoint it loads or None)."""
    if name in COMBINED:
        return COMBINED[name]
    for ending, checkpoint in CHECKPOINTS.items():
        if name.endswith(ending):
            return name.removesuffix(ending), checkpoint
    return name, None


def square(by_seed):
    """One source and three edits, two seeds of a source and its edit, or whatever there is."""
    if len(by_seed[0]) == 1:  # a sheet of maps: its left part
        return ImageOps.fit(by_seed[0][0], (SIDE, SIDE), Image.Resampling.LANCZOS, centering=(0, 0))
    source, *edited = by_seed[0]
    last = len(edited) - 1
    tiles = [source, *(edited[place] for place in sorted({0, last // 2, last}))]
    if len(tiles) < 3 and len(by_seed) > 1:
        tiles += by_seed[1][:2]
    side = (SIDE - GAP) // 2
    picture = Image.new("RGB", (SIDE, SIDE), PAPER)
    top = 0 if len(tiles) > 2 else (SIDE - side) // 2
    for place, tile in enumerate(tiles[:4]):
        row, column = divmod(place, 2)
        fitted = ImageOps.fit(tile, (side, side), Image.Resampling.LANCZOS)
        picture.paste(fitted, (column * (side + GAP), top + row * (side + GAP)))
    label(picture, (6, top + 6), "source")
    return picture


def label(picture, corner, text):
    font = ImageFont.load_default(18)
    box = ImageDraw.Draw(picture).textbbox(corner, text, font)
    ImageDraw.Draw(picture).rectangle((box[0] - 4, box[1] - 4, box[2] + 4, box[3] + 4), BAND)
    ImageDraw.Draw(picture).text(corner, text, INK, font)


def band(picture, checkpoint):
    """A line at the foot: what the workflow loads, and who made the pictures."""
    height = 56
    canvas = ImageDraw.Draw(picture)
    canvas.rectangle((0, SIDE - height, SIDE, SIDE), BAND)
    canvas.text((10, SIDE - height + 4), f"for {checkpoint}", INK, ImageFont.load_default(24))
    canvas.text((10, SIDE - 22), "these pictures: the demo model", FAINT, ImageFont.load_default(15))
