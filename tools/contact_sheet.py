"""Contact sheets: pictures in rows and columns, with words over the columns and beside the rows."""

import difflib

from PIL import Image, ImageDraw, ImageFont

GAP, TEXT_SIZE, LINE = 10, 15, 19  # pixels
PAPER, INK, FAINT, CHANGED = "#ffffff", "#222222", "#777777", "#c8321e"


def contact_sheet(heads, rows, tile, margin=0):
    """The sheet, a Pillow image.

    Args:
        heads: per column its lines; a line is a list of (word, colour).
        rows: per row (its lines, its pictures); pictures are drawn no larger than ``tile``.
        tile: side of a picture's place in pixels.
        margin: width of the place for the rows' lines in pixels.
    """
    head = max(map(len, heads)) * LINE + GAP
    left, step = margin + GAP, tile + GAP
    sheet = Image.new("RGB", (left + len(heads) * step, GAP + head + len(rows) * step), PAPER)
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_SIZE)

    def write(x, y, lines):
        for number, line in enumerate(lines):
            at = x
            for word, colour in line:
                canvas.text((at, y + number * LINE), word, colour, font)
                at += font.getlength(word + " ")

    for column, lines in enumerate(heads):
        write(left + column * step, GAP, lines)
    for row, (lines, pictures) in enumerate(rows):
        top = GAP + head + row * step
        write(GAP, top + (tile - len(lines) * LINE) // 2, lines)
        for column, picture in enumerate(pictures):
            scale = tile / max(picture.size)
            size = (round(picture.width * scale), round(picture.height * scale))
            sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), (left + column * step, top))
    return sheet


def compared(source, target, width):
    """The target's words as lines no wider than ``width`` pixels; those that the source lacks in another colour."""
    font, kept = ImageFont.load_default(TEXT_SIZE), kept_words(source, target)
    lines, used = [[]], 0.0
    for place, word in enumerate(target.split()):
        advance = font.getlength(word + " ")
        if lines[-1] and used + advance > width:
            lines.append([])
            used = 0.0
        lines[-1].append((word, INK if place in kept else CHANGED))
        used += advance
    return lines


def kept_words(source, target):
    """Places of the target's words that the source has too."""
    matcher = difflib.SequenceMatcher(None, source.lower().split(), target.lower().split(), autojunk=False)
    return {place for block in matcher.get_matching_blocks() for place in range(block.b, block.b + block.size)}
