"""Heat maps, overlays and contact sheets: order of the colours, sizes, places and text of every kind."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p2p_attention import sheet
from p2p_attention.sheet import SheetRow, Tile, atlas, contact_sheet, heat_map, overlay

RED, GREEN, BLUE = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
LUMA = torch.tensor((0.2126, 0.7152, 0.0722))
PEN = sheet._Pen(15)


def plain(height=24, width=24, colour=RED):
    return torch.tensor(colour).expand(height, width, 3)


def row(*labels, title="a title", picture=None):
    return SheetRow(title, tuple(Tile(label, plain() if picture is None else picture) for label in labels))


def luminance(rgb):
    """Linear light of sRGB colours, (..., 3) -> (...)."""
    return torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ LUMA


def box(image, colour):
    """(left, top, width, height) around the pixels of this colour in a sheet (1, H, W, 3); its edges may be smooth."""
    ys, xs = (image[0] - torch.tensor(colour)).abs().amax(-1).lt(0.02).nonzero(as_tuple=True)
    assert len(ys), "the colour is not in the sheet"
    return tuple(int(v) for v in (xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1))


def size(image):
    return image.shape[2], image.shape[1]


# ------------------------------------------------------------------------------------------------------- heat maps


def test_heat_rises_evenly_in_lightness():
    """Order is seen without colour: CIE lightness climbs by about the same at every step, from black to near white."""
    ramp = heat_map(torch.linspace(0, 1, 101)[None], 1, 101)[0]
    y = luminance(ramp)
    lightness = torch.where(y > 0.008856, 116 * y ** (1 / 3) - 16, 903.3 * y)
    steps = lightness.diff()
    assert (steps > 0).all()
    assert lightness[0] < 2 and lightness[-1] > 95
    assert 0.4 < steps.min() / steps.mean() and steps.max() / steps.mean() < 1.8


def test_heat_keeps_its_order_for_colour_blind_eyes():
    """Without red cones (Viénot et al. 1999) the light that is left still climbs all along."""
    ramp = heat_map(torch.linspace(0, 1, 101)[None], 1, 101)[0]
    without_red_cones = torch.tensor((0.11238, 0.88762, 0.0))
    linear = torch.where(ramp <= 0.04045, ramp / 12.92, ((ramp + 0.055) / 1.055) ** 2.4)
    assert ((linear @ without_red_cones).diff() > -1e-6).all()


@pytest.mark.parametrize("height, width", [(16, 16), (128, 128), (96, 200), (5, 7)])
def test_the_brightest_place_is_the_maps_maximum(height, width):
    map = torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) * 0.2
    map[3, 11] = 1.0
    heat = heat_map(map, height, width)
    assert heat.shape == (height, width, 3) and heat.dtype == torch.float32
    y, x = divmod(int(luminance(heat).argmax()), width)
    assert abs((y + 0.5) / height - 3.5 / 16) <= 0.5 / height + 0.5 / 16
    assert abs((x + 0.5) / width - 11.5 / 16) <= 0.5 / width + 0.5 / 16


def test_a_lone_peak_is_not_lost_when_the_map_is_made_smaller():
    for peak in range(64):
        map = torch.zeros(1, 64)
        map[0, peak] = 1.0
        light = luminance(heat_map(map, 1, 8))[0]
        assert light.max() > 0.001
        assert abs((int(light.argmax()) + 0.5) / 8 - (peak + 0.5) / 64) <= 1 / 16


def test_the_ends_of_the_scale_are_the_ends_of_the_colours():
    heat = heat_map(torch.tensor([[0.0, 1.0]]), 1, 2)
    assert torch.equal(heat[0], sheet.HEAT[[0, -1]])


def test_an_enlarged_map_is_smooth():
    """A step of one map cell is spread over several pixels, none of which leaves the range of its neighbours."""
    heat = luminance(heat_map(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), 1, 64))[0]
    assert (heat.diff() >= 0).all()
    assert heat.diff().max() < 0.2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_maps_of_any_kind_of_float(dtype):
    map = torch.tensor([[0.0, 0.5], [0.25, 1.0]], dtype=dtype, requires_grad=True)
    heat = heat_map(map, 4, 4)
    assert heat.dtype == torch.float32 and not heat.requires_grad
    assert torch.allclose(heat, heat_map(map.detach().float(), 4, 4))


def test_values_outside_the_range_are_clamped_and_nan_is_cold():
    heat = heat_map(torch.tensor([[-3.0, float("nan"), 7.0, float("inf")]]), 1, 4)
    assert torch.equal(heat, heat_map(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), 1, 4))


@given(
    st.tuples(*[st.integers(1, 9)] * 2), st.tuples(*[st.integers(1, 33)] * 2), st.integers(0, 1000), st.floats(0.1, 2)
)
def test_pictures_stay_in_range(small, large, seed, scale):
    generator = torch.Generator().manual_seed(seed)
    map, picture = torch.rand(small, generator=generator) * scale, torch.rand(*large, 3, generator=generator) * scale
    for made in (heat_map(map, *large), overlay(map, picture)):
        assert made.shape == (*large, 3) and made.dtype == torch.float32
        assert made.min() >= 0.0 and made.max() <= 1.0


# -------------------------------------------------------------------------------------------------------- overlays


def correlation(one, other):
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def saturation(rgb):
    return (rgb.amax(-1) - rgb.amin(-1)).mean()


@pytest.fixture
def picture():
    return torch.rand(32, 48, 3, generator=torch.Generator().manual_seed(1))


def test_where_nothing_is_hot_the_picture_stays_readable_but_dim_and_greyer(picture):
    cold = overlay(torch.zeros(4, 6), picture)
    assert correlation(cold @ sheet.LUMA, picture @ sheet.LUMA) > 0.99
    assert cold.mean() < 0.75 * picture.mean()
    assert 0.0 < saturation(cold) < 0.3 * saturation(picture)


def test_the_hottest_place_is_glowing_and_still_shows_the_picture(picture):
    hot = overlay(torch.ones(4, 6), picture)
    assert correlation(hot @ sheet.LUMA, picture @ sheet.LUMA) > 0.99
    assert (hot - sheet.HEAT[-1]).abs().mean() < 0.2


@pytest.mark.parametrize("grey", [0.0, 0.3, 0.6, 1.0])
def test_hot_outshines_cold_in_dark_and_light_pictures(grey):
    map = torch.tensor([[0.0, 1.0]]).repeat_interleave(8, 1)
    light = luminance(overlay(map, torch.full((4, 16, 3), grey)))
    assert light[:, 12:].min() > 1.5 * light[:, :4].max()
    assert light[:, :4].min() > 0.001  # not even black pictures drown in black


def test_heat_changes_only_where_the_map_is_hot(picture):
    map = torch.zeros(4, 6)
    cold = overlay(map, picture)
    map[:, 5] = 1.0
    changed = (overlay(map, picture) - cold).abs().amax(-1)
    assert changed[:, :32].max() < 1e-6
    assert changed[:, 44:].min() > 0.05


# -------------------------------------------------------------------------------------------------- contact sheets


def test_a_sheet_is_one_picture_in_range():
    made = contact_sheet([row("house", "star")])
    assert made.shape[0] == 1 and made.shape[3] == 3 and made.dtype == torch.float32 and made.is_contiguous()
    assert made.min() >= 0.0 and made.max() == 1.0


@pytest.mark.parametrize("tile", [64, 192, 300])
def test_every_tile_and_row_adds_as_much(tile):
    across = [size(contact_sheet([row(*"abcdef"[:n])], tile)) for n in (1, 2, 3)]
    assert across[1][0] - across[0][0] == across[2][0] - across[1][0] == tile + tile // 24 + 2
    assert len({height for _, height in across}) == 1
    down = [size(contact_sheet([row("a")] * n, tile)) for n in (1, 2, 3)]
    assert down[1][1] - down[0][1] == down[2][1] - down[1][1] > tile
    assert len({width for width, _ in down}) == 1


def test_the_widest_row_makes_the_width():
    assert size(contact_sheet([row("a"), row(*"abc"), row("a")]))[0] == size(contact_sheet([row(*"abc")]))[0]


def test_the_thirteenth_tile_begins_a_new_line():
    one_line, two_lines = (size(contact_sheet([row(*["w"] * n)], 32)) for n in (12, 13))
    assert two_lines[0] == one_line[0]
    assert two_lines[1] > one_line[1] + 32
    assert size(contact_sheet([row(*["w"] * 24)], 32)) == two_lines


def test_wrapped_tiles_go_on_at_the_left_in_order():
    tiles = [Tile("a", plain()), Tile("b", plain(colour=GREEN)), Tile("c", plain(colour=BLUE))]
    made = contact_sheet([SheetRow("a title", tuple(tiles))], 64, per_line=2)
    red, green, blue = (box(made, colour) for colour in (RED, GREEN, BLUE))
    assert red[1] == green[1] < blue[1]
    assert red[0] == blue[0] < green[0]


@pytest.mark.parametrize(
    "shape, wanted",
    [((20, 80), (192, 48)), ((80, 20), (48, 192)), ((512, 512), (192, 192)), ((300, 200), (128, 192))],
)
def test_pictures_keep_their_aspect(shape, wanted):
    made = contact_sheet([row("wide", picture=plain(*shape))])
    assert box(made, RED)[2:] == wanted


def test_a_hair_thin_picture_is_still_there():
    assert box(contact_sheet([row("thin", picture=plain(1, 1000))]), RED)[2:] == (192, 1)


def test_pictures_of_one_line_stand_on_one_foot_centred_in_columns():
    tiles = (Tile("wide", plain(20, 80)), Tile("tall", plain(80, 20, GREEN)))
    made = contact_sheet([SheetRow("a title", tiles)])
    wide, tall = box(made, RED), box(made, GREEN)
    assert wide[1] + wide[3] == tall[1] + tall[3]
    assert tall[0] + tall[2] // 2 - (wide[0] + wide[2] // 2) == 192 + 192 // 24 + 2


def test_pictures_keep_their_colours_and_sides():
    picture = torch.cat([plain(40, 20, GREEN), plain(40, 20, BLUE)], dim=1)
    made = contact_sheet([row("two halves", picture=picture)])
    green, blue = box(made, GREEN), box(made, BLUE)
    assert green[0] < blue[0] and green[1] == blue[1]


def test_small_pictures_are_enlarged_smoothly():
    picture = torch.zeros(4, 4, 3)
    picture[:, 2:] = 1.0
    made = contact_sheet([row("", picture=picture)])
    across = made[0, made.shape[1] // 2, :, 0]
    assert ((across > 0.1) & (across < 0.9)).sum() >= 10


def text_pixels(label="", title="", tiles=1, tile=192):
    """Where a sheet has ink other than its pictures, which are white."""
    return contact_sheet([row(*[label] * tiles, title=title, picture=plain(colour=(1.0, 1.0, 1.0)))], tile)[0, ..., 0]


@pytest.mark.parametrize("what", ["label", "title"])
def test_different_words_give_different_pixels(what):
    texts = ["house", "mouse", "a house", "House", "house#2", "1.25", ""]
    made = [text_pixels(**{what: text}) for text in texts]
    assert not any(
        one.shape == other.shape and torch.equal(one, other) for i, one in enumerate(made) for other in made[:i]
    )


def test_text_is_dark_on_white_and_large_enough():
    for what in ("label", "title"):
        ink = text_pixels(**{what: "house"})
        assert ink.min() < 0.2 and ink.median() == 1.0
        ys, _ = (ink < 0.5).nonzero(as_tuple=True)
        assert 9 <= ys.max() - ys.min() + 1 <= 20


def test_labels_are_centred_below_their_picture_and_titles_above():
    made = contact_sheet([row("house", title="")])
    left, top, width, height = box(made, RED)
    below = (made[0, top + height :].amax(-1) < 0.5).nonzero()
    assert abs((below[:, 1].min() + below[:, 1].max()) / 2 - (left + width / 2)) <= 2
    made = contact_sheet([row("", title="house")])
    left, top, width, height = box(made, RED)
    assert not (made[0, top + height :] < 1.0).any()
    above = (made[0, :top].amax(-1) < 0.5).nonzero()
    assert left <= above[:, 1].min() <= left + 3


def test_a_long_label_is_shortened_to_its_tile():
    """Neither its neighbours nor the margin have ink of it, and what is cut off makes no difference but an ellipsis."""
    long = contact_sheet([row("", "internationalisation " * 5, "")], 96)[0, ..., 0]
    apart = 96 + 96 // 24 + 2
    _, top, _, height = box(contact_sheet([row("", "i", "")], 96), RED)
    _, xs = (long[top + height :] < 0.9).nonzero(as_tuple=True)
    left = (long.shape[1] - 96) // 2
    assert left - 1 <= xs.min() and xs.max() <= left + 96 < left + apart
    assert torch.equal(long, contact_sheet([row("", "internationalisation " * 9, "")], 96)[0, ..., 0])
    assert not torch.equal(long, contact_sheet([row("", "internation", "")], 96)[0, ..., 0])


def test_a_long_title_is_wrapped_and_at_last_shortened():
    prompt = "a house in blue with stripes and a star in yellow on the snow at night "
    heights = [size(contact_sheet([row("a", title=prompt * n)]))[1] for n in (1, 3, 30)]
    assert size(contact_sheet([row("a", title="a house")]))[1] < heights[0] <= heights[1] == heights[2]
    assert size(contact_sheet([row(*"abcd", title=prompt)])) == size(contact_sheet([row(*"abcd", title="a house")]))
    ink = text_pixels(title=prompt * 30)
    margin = (ink.shape[1] - 192) // 2
    assert ink[:, -margin + 2 :].min() == 1.0


def test_every_word_of_a_wrapped_title_is_there():
    text = "a house in blue with stripes and a star"
    lines = PEN.wrapped(text, 160)
    assert len(lines) > 1 and " ".join(lines) == text
    assert all(PEN.width(line) <= 160 for line in lines)
    lines = PEN.wrapped(text * 9, 160)
    assert len(lines) == sheet.TITLE_LINES
    assert lines[-1].endswith("…") and text.startswith(" ".join(lines[:-1])[: len(text)])


def test_rows_are_further_apart_than_the_lines_of_a_row():
    two_rows = contact_sheet([SheetRow("", (Tile("a", plain()),)), SheetRow("", (Tile("b", plain(colour=GREEN)),))])
    two_lines = contact_sheet([SheetRow("", (Tile("a", plain()), Tile("b", plain(colour=GREEN))))], per_line=1)
    apart = [box(made, GREEN)[1] - box(made, RED)[1] for made in (two_rows, two_lines)]
    assert apart[0] >= apart[1] + 192 // 24


STRANGE = {
    "empty": "",
    "blank": " ",
    "control": "\n\t\r\0",
    "two lines": "two\nlines",
    "CJK": "猫と犬",
    "emoji": "😀👩‍👩‍👧‍👦🏳️‍🌈",
    "Hebrew": "שלום עולם",
    "Arabic": "مرحبا",
    "only joiners": "\u0301\u200d\ufeff",
    "half a surrogate": "\ud83d",
    "no characters": "\uffff\U0010ffff",
    "one very long word": "w" * 3000,
    "very long CJK": "猫" * 3000,
}


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE)
def test_no_text_crashes_or_moves_the_tiles(text):
    made = contact_sheet([row("a", text, title=text)], 64)
    usual = contact_sheet([row("a", "b", title="")], 64)
    assert made.shape[2] == usual.shape[2]
    assert box(made, RED)[::2] == box(usual, RED)[::2]


@given(st.text(max_size=60), st.integers(0, 300))
def test_shortened_text_fits_and_is_as_long_as_can_be(text, width):
    short = PEN.shortened(text, width)
    if PEN.width(text) <= width:
        assert short == text
    elif short != "…":
        assert text.startswith(short[:-1]) and short.endswith("…")
        assert PEN.width(short) <= width


def test_shortening_gives_up_no_letter_that_fits():
    text = "internationalisation"
    for width in range(15, int(PEN.width(text))):
        kept = len(PEN.shortened(text, width)) - 1
        assert PEN.width(text[: kept + 1] + "…") > width


@given(st.text(max_size=12))
def test_writable_text_is_one_line_and_stays_itself_if_ascii(text):
    written = PEN.writable(text)
    assert "\n" not in written
    if text.isascii() and text.isprintable():
        assert written == " ".join(text.split())


@pytest.mark.parametrize("text", ["猫", "한", "ﷺ"])
def test_what_cannot_be_written_is_one_box(text):
    """Not one per part that Unicode takes the character apart into."""
    assert PEN.writable(text) == text
    assert (text_pixels(label=text) < 0.5).any()


@pytest.mark.parametrize(
    "text, wanted", [("café Ångström", "cafe Angstrom"), ("2 × red — big", "2 x red - big"), ("Øl ½", "Ol 1⁄2")]
)
def test_what_the_font_lacks_is_written_plainly(text, wanted):
    if PEN._knows("é"):
        pytest.skip("this Pillow's default font has more characters")
    assert PEN.writable(text) == wanted


def test_an_empty_place_keeps_its_column():
    tiles = [Tile("a", plain()), Tile("star", None), Tile("c", plain(colour=BLUE))]
    full = contact_sheet([row("a", "b", "c")])
    made = contact_sheet([SheetRow("a title", tuple(tiles))])
    assert made.shape == full.shape
    red, blue = box(made, RED), box(made, BLUE)
    assert blue[0] - red[0] == 2 * (192 + 192 // 24 + 2)
    place = made[0, red[1] : red[1] + 192, red[0] + 202 : red[0] + 394]
    assert (place == place[0, 0]).all() and 0.9 < place[0, 0, 0] < 1.0


def test_an_empty_place_without_a_label_is_paper():
    made = contact_sheet([SheetRow("", (Tile("", None),)), SheetRow("", ())])
    assert made.min() == 1.0
    assert made.shape[2] >= 192


def test_pictures_of_any_kind_of_float_and_range():
    picture = torch.tensor([[(9.0, -1.0, float("nan"))]], dtype=torch.bfloat16).requires_grad_()
    assert box(contact_sheet([row("a", picture=picture)]), RED)[2:] == (192, 192)


def test_nothing_given_is_changed():
    map, picture = torch.rand(4, 4) * 2, torch.rand(8, 8, 3) * 2
    before = map.clone(), picture.clone()
    contact_sheet([row("a", picture=overlay(map, picture)), row("b", picture=picture)], 64)
    assert torch.equal(map, before[0]) and torch.equal(picture, before[1])


# -------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "mistake, got",
    [
        (lambda: heat_map(torch.zeros(1, 4, 4), 8, 8), "(1, 4, 4)"),
        (lambda: heat_map(torch.zeros(0, 4), 8, 8), "(0, 4)"),
        (lambda: overlay(torch.zeros(4), plain()), "(4,)"),
        (lambda: overlay(torch.zeros(4, 4), torch.zeros(1, 8, 8, 3)), "(1, 8, 8, 3)"),
        (lambda: Tile("a", torch.zeros(3, 8, 8)), "(3, 8, 8)"),
        (lambda: contact_sheet([]), "none"),
        (lambda: contact_sheet([row("a")], 3), "3"),
        (lambda: contact_sheet([row("a")], per_line=0), "0"),
    ],
)
def test_a_mistake_says_wanted_got_and_how_to_mend_it(mistake, got):
    with pytest.raises(ValueError) as error:
        mistake()
    wanted, rest = str(error.value).split(", got ", 1)
    assert wanted.startswith("Wanted ")
    assert rest.startswith(got)
    assert rest.endswith(".") and len(rest.split(". ", 1)[1]) > 5


# ---- the atlas


def test_an_atlas_holds_every_picture_where_it_says():
    """Of several sizes, over several lines; the page cuts them out by these places."""
    colours = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 0.0), (0.0, 1.0, 1.0)]
    sizes = [(20, 30), (20, 30), (40, 10), (8, 8), (20, 30)]
    pictures = [torch.tensor(rgb).expand(*size, 3) for rgb, size in zip(colours, sizes, strict=True)]
    rows = [
        SheetRow("source", tuple(Tile("", each) for each in pictures[:2])),
        SheetRow("nothing", ()),
        SheetRow("edit 1", tuple(Tile("", each) for each in pictures[2:])),
    ]
    picture, places = atlas(rows, per_line=2)
    assert picture.shape == (1, 3 * 40, 2 * 30, 3)
    assert [len(row) for row in places] == [2, 0, 3]
    for wanted, (left, top, width, height) in zip(pictures, sum(places, []), strict=True):
        assert torch.equal(picture[0, top : top + height, left : left + width], wanted)


def test_an_atlas_makes_large_pictures_smaller_and_no_small_ones_larger():
    rows = [SheetRow("", (Tile("", torch.zeros(600, 300, 3)), Tile("", torch.zeros(16, 16, 3))))]
    _, ((large, small),) = atlas(rows, most=200)
    assert large[2:] == (100, 200) and small[2:] == (16, 16)


def test_an_atlas_of_nothing():
    with pytest.raises(ValueError, match="at least one picture, got none"):
        atlas([SheetRow("", ())])
