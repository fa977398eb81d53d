"""P2P Record Attention and P2P Attention Maps: look at where each word looks, at which step."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..p2p_attention.host.attach import attach
from ..p2p_attention.maps import BRANCHES, KINDS, LAYERS
from ..p2p_attention.record import record_attention
from ..p2p_attention.sheet import SheetRow, atlas, contact_sheet
from ..p2p_attention.show import COMPONENTS, STYLES, TIMES, map_rows
from .inputs import CATEGORY, finished_run, map_choices, map_layers, model_and_pair, model_output, where_known

Maps = io.Custom("P2P_MAPS")


class RecordAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PRecordAttention",
            **where_known(search_aliases=["attention map", "heat map", "daam"]),
            display_name="P2P Record Attention",
            category=CATEGORY,
            description="Keeps the attention maps of a run, for P2P Attention Maps. The picture stays as it is.",
            inputs=[
                *model_and_pair(),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words or phrases to keep the maps of, separated by commas. Empty: every word.",
                ),
                io.Combo.Input(
                    "attention",
                    options=list(KINDS),
                    default=KINDS[0],
                    tooltip="cross: where each word looks. self: which places belong together.",
                ),
                *map_choices(),
                map_layers(),
            ],
            outputs=[
                *model_output(),
                Maps.Output(display_name="maps", tooltip="For P2P Attention Maps, which shows them after sampling."),
            ],
        )

    @classmethod
    def execute(
        cls, model, pair, words, attention, map_resolution, maps=BRANCHES[0], map_layers=LAYERS[0]
    ) -> io.NodeOutput:
        recorder = record_attention(pair, words, attention, map_resolution, maps, map_layers)
        return io.NodeOutput(attach(model, recorder), recorder.record)


class AttentionMaps(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="P2PAttentionMaps",
            **where_known(search_aliases=["attention map", "heat map", "daam"]),
            display_name="P2P Attention Maps",
            category=CATEGORY,
            description=(
                "A sheet of the attention maps of a run: words across, source and edits down. For self-attention the "
                "main components across."
            ),
            inputs=[
                Maps.Input("maps", tooltip="From P2P Record Attention."),
                *finished_run("maps"),
                io.Combo.Input(
                    "style",
                    options=list(STYLES),
                    default=STYLES[0],
                    tooltip="overlay: over the pictures, where they are connected. heat map: the maps alone.",
                ),
                io.Combo.Input(
                    "time",
                    options=list(TIMES),
                    default=TIMES[0],
                    tooltip="whole run: one map for each word. early, middle, late: three, each a third of the steps.",
                ),
                io.Int.Input("seed_number", default=1, min=1, max=4096, tooltip="Which image of the batch, from 1."),
                io.Int.Input(
                    "components",
                    default=6,
                    min=COMPONENTS[0],
                    max=COMPONENTS[1],
                    tooltip="How many components of self-attention to show.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="sheet", tooltip="All maps on one labelled sheet."),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="The maps, 0 to 1, one for each place on the sheet, row by row.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, maps, latent, style, time, seed_number, components, images=None) -> io.NodeOutput:
        rows, masks = map_rows(maps, latent["samples"], images, style, time, seed_number, components)
        sheet = contact_sheet(rows)
        preview = ui.PreviewImage(sheet, cls=cls).as_dict()
        return io.NodeOutput(sheet, masks, ui={**preview, "p2p_maps": [_for_the_page(rows)]})


def _for_the_page(rows: list[SheetRow]) -> dict:
    """The tiles apart, so that the page can show the one whose word is pointed at."""
    picture, places = atlas(rows)
    (saved,) = ui.PreviewImage(picture).values
    return {
        "picture": saved,
        "size": [picture.shape[2], picture.shape[1]],
        "rows": [
            {
                "title": row.title,
                "tiles": [{"label": tile.label, "place": at} for tile, at in zip(row.tiles, boxes, strict=True)],
            }
            for row, boxes in zip(rows, places, strict=True)
        ],
    }
