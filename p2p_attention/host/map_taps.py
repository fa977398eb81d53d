"""Takes attention maps out of the layers that were asked for, and hands them to what collects them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..call_rows import CallRows
from ..maps import MapRequest, MapRun, choose_level, middle_one, thirds_of
from ..run import EditRun

if TYPE_CHECKING:
    from .attention_calls import ModelCall
    from .families.family import Family


class MapTaps:
    """The taps of one run.

    Args:
        run: to know which conditioning belongs to which pair, and what is done to it.
        maps: what is collected; maps of one work come from the same level.
        family: of the model.
        model: the host's.
        size: (H, W) of the latent.
    """

    def __init__(
        self, run: EditRun, maps: Iterable[Sequence[MapRun]], family: Family, model: Any, size: tuple[int, int]
    ):
        self._run = run
        self._grids_of = lambda size: family.grids(model, size)
        self._grids: dict[tuple[int, int], list[tuple[int, int]]] = {}  # of each size of latents
        self._layers = family.layers(model)
        self._wanted: dict[tuple[str, Hashable], list[MapRun]] = {}
        levels = sorted({layer.level for layer in self._layers.values()})
        grids = [self._grid(size, level) for level in levels]
        injects = [family.injects(grid, size) for grid in grids]
        for together in filter(None, maps):
            chosen = levels[max(choose_level(each.request, grids, injects) for each in together)]
            for each in together:
                for name in self._chosen(each.request, chosen):
                    self._wanted.setdefault((each.request.attention, name), []).append(each)
        self.areas: dict[Any, tuple[int, int, int, int] | None] = {}  # conditioning -> (h, w, y, x) in the latent

    def _chosen(self, request: MapRequest, level: int) -> list[Hashable]:
        """The layers that a request takes its maps from. Self-attention's are of one layer where the user chooses."""
        names = [name for name, layer in self._layers.items() if layer.level == level]
        if request.layers == "auto":
            return [name for name in names if request.attention in self._layers[name].maps]
        some = names if request.layers == "all" else [names[place] for place in thirds_of(len(names))[request.layers]]
        return [middle_one(some)] if request.attention == "self" else some

    def note_areas(self, conds: Sequence[Sequence[dict] | None], x_in: torch.Tensor) -> None:
        """Where in the latents each conditioning of a model call is."""
        height, width = x_in.shape[-2:]
        for cond in (cond for entries in conds for cond in entries or ()):
            area = cond.get("area")
            if area is not None:
                sides = len(area) // 2  # three with frames
                (h, w), (y, x) = area[sides - 2 : sides], area[-2:]
                area = min(h, height - y), min(w, width - x), y, x
            self.areas[cond["uuid"]] = area

    def wants(self, attention: str, layer: Hashable) -> bool:
        return (attention, layer) in self._wanted

    def take(
        self,
        attention: str,
        layer: Hashable,
        call: ModelCall,
        grid: tuple[int, int],
        probs: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        """See ``AttentionCalls.see``.

        Raises:
            ValueError: the call sees a tile of the picture.
        """
        wanted = self._wanted.get((attention, layer))
        if wanted is None or call.rows is None:
            return
        for conditioning in call.rows.conditionings:
            mine = [maps for maps in wanted if maps.request.pair == self._run.pair_of(conditioning)]
            if not mine:
                continue
            self._require_whole_pictures(call, call.rows, conditioning)
            seen = probs(torch.tensor(call.rows.places(conditioning)))
            planned = self._grid(call.size, self._layers[layer].level)
            for maps in mine:
                maps.add(conditioning, call.step, seen, grid, planned, self._run.states(conditioning, call.step))

    def _grid(self, size: tuple[int, int], level: int) -> tuple[int, int]:
        if size not in self._grids:
            self._grids[size] = self._grids_of(size)
        return self._grids[size][level]

    def _require_whole_pictures(self, call: ModelCall, rows: CallRows, conditioning: Hashable) -> None:
        area = self.areas.get(conditioning)
        wanted = tuple(area[:2]) if area is not None else call.picture
        if call.size != wanted or not rows.whole_pictures:
            raise ValueError(
                f"Attention maps of a picture in tiles are not supported: wanted latents of {wanted[0]} x {wanted[1]} "
                f"in each model call, got {call.size[0]} x {call.size[1]}. Remove the node that samples in tiles "
                "(tiled diffusion), or P2P Local Blend Mask and P2P Record Attention; a blend by a painted mask alone "
                "works."
            )
