"""What a mask can be made of, and how near each way comes to the best one that the latent's grid allows.

Rendered scenes stand for photographs, as in ``real_images``: each is inverted, its source row pinned, and edited in a
part (shape, colour, texture, a thing added or removed), where the true mask is known.

    python dev.py bench masks [--model flow] [--scenes 24] [--first 0] [--kinds shape,removed] [--table]
    python dev.py bench masks --runs [...]          the edits themselves, with each way of P2P Local Blend Mask

The first way edits without a blend and keeps of it, in .host/bench/masks, what a mask could be made of: where the words
look, layer by layer, what looks at what, and what source and edit predict, step by step. Masks are then made offline.
IoU is that of pixels with the true mask; its share is of the IoU that the grid's best mask has, all cells that the true
one touches. *As drawn*: the same with the new thing where the model has drawn it without a blend, see ``drawn``, of the
scenes in which the judge sees the edit made: a mask has to be around what is there. Decibels are those of the edit laid
over the source through the mask. With ``--runs`` they are those of the pictures, and a sheet of the worst is written to
.host/bench/masks. Scenes from 0 on were there to choose by.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time

import drawn
import injections
import numpy as np
import real_images
import scene_judge
from injections import LOCAL
from real_images import CFG_OF, STEPS, Case, make_case, psnr

FOLDER = real_images.FOLDER.parent / "masks"
PARTS = 5  # of the run, in which maps are kept apart
GRID, CELL = 16, 8  # cells a side of the latent, pixels a side of a cell
PRESENT = {  # of which layers the word maps and the self-attention are that P2P Local Blend Mask takes
    "unet": (("input_1_0", "output_2_0", "output_3_0"), ("input_1_0", "output_2_0", "output_3_0")),
    "flow": (("double_2", "single_0"), ("single_0",)),
}
CHANGE = "words and change"
WIDE = f"{CHANGE}, or everywhere, grow 1"  # as P2P Edit has it
RUNS = {  # name -> settings of P2P Local Blend Mask
    "no blend": None,
    "words": {},
    CHANGE: {"mask_from": CHANGE},
    WIDE: {"mask_from": f"{CHANGE}, or everywhere", "grow": 1},
    f"{CHANGE}, threshold 0.4": {"mask_from": CHANGE, "threshold": 0.4},
    f"{CHANGE}, threshold 0.5": {"mask_from": CHANGE, "threshold": 0.5},
    "the grid's best": {"mask": True},
}
COMPOSED = ("words", CHANGE, WIDE)  # of which P2P Composite is measured, too


# ---------------------------------------------------------------------------------------------------------- collect


class _Columns:
    """Stands among a run's maps, for one layer, and keeps all it is given of the pair's."""

    def __init__(self, pair):
        self.request = dataclasses.make_dataclass("Request", ["pair"])(pair)
        self.sums = [0.0] * PARTS

    def add(self, conditioning, step, probs, grid, planned, states):
        self.sums[step * PARTS // STEPS] += probs.numpy() * (PARTS / STEPS)


class Bench(real_images.Bench):
    def __init__(self, kind: str):
        super().__init__(kind)
        self.kind = kind

    def look_at_all_blocks(self) -> None:
        """Of the flow model; the UNet's are looked at anyway."""
        joint = self.host.module("p2p_attention.host.families.joint")
        name = joint.Joint().kind(self.model)
        if name in joint.ARCHITECTURES:
            own = joint.ARCHITECTURES[name]
            joint.ARCHITECTURES[name] = dataclasses.replace(
                own, map_blocks=lambda module: range(len(own.blocks(module)))
            )

    def edited(self, model, positive, latent):
        """(samples, z0 of both rows at every step (steps, 2, C, H, W)) of a run."""
        import comfy.sample
        import torch

        seen = []

        def callback(step, denoised, x, steps):
            if len(denoised) == 1:  # rows side by side; at the end all rows come once more
                seen.append(torch.cat(denoised.chunk(2, -1)).clone())

        samples = comfy.sample.sample(
            model, torch.zeros_like(latent), STEPS, self.cfg, "euler", "normal", positive, self.empty, latent,
            disable_pbar=True, seed=1, callback=callback,
        )  # fmt: skip
        return samples, torch.stack(seen)

    def with_all_maps(self, pair, run):
        """(result of ``run``, ("cross" or "self", layer) -> (PARTS, rows, Q, S)), whatever was asked for."""
        taps = self.host.module("p2p_attention.host.map_taps").MapTaps
        kept, begin = {}, taps.__init__

        def with_all(self, *arguments):
            begin(self, *arguments)
            for layer in self._layers:
                for attention in ("cross", "self"):
                    kept[attention, layer] = _Columns(pair)
                    self._wanted.setdefault((attention, layer), []).append(kept[attention, layer])

        taps.__init__ = with_all
        try:
            result = run()
        finally:
            taps.__init__ = begin
        return result, {name: np.stack(each.sums) for name, each in kept.items() if not np.isscalar(each.sums[0])}

    def collected(self, case: Case) -> dict[str, np.ndarray]:
        latent = self.latent_of(case)
        positive, pair = self.run("P2PPromptPair", clip=self.clip, source=case.source, target=case.target)
        inverted = self.inverted(self.encode(case.source), latent)
        (model,) = self.run(case.node, model=inverted, pair=pair, **real_images.WINDOWS)
        (samples, denoised), maps = self.with_all_maps(pair, lambda: self.edited(model, positive, latent["samples"]))
        kept = {"denoised": denoised.numpy(), "samples": samples.numpy()}
        for (attention, layer), each in maps.items():
            name = "_".join(map(str, layer))
            kept[f"{attention}_{name}"] = each if attention == "self" else _of_words(pair, each)
            if attention == "cross" and self.kind == "flow":
                kept[f"text_{name}"] = each.sum(-1)  # how much all words get, beside the picture: (PARTS, rows, Q)
        blend = self.host.module("p2p_attention.blend").local_blend(pair)
        prompts = (pair.source, *pair.targets)
        positions = [[word.positions for word in prompt.words] for prompt in prompts]
        chosen = [
            (row, positions[row].index(blend.request.words[row][column].positions))
            for row, column in blend.regions[0].included
        ]
        return {
            **{name: each.astype(np.float16) for name, each in kept.items()},
            "pictures": (pictures := self.decoded(samples)),
            "drawn": drawn.region(self.scenes, case, pictures[1]),
            "chosen": np.array(json.dumps(chosen)),
        }

    # ------------------------------------------------------------------------------------------------------- runs

    def edits(self, case: Case) -> dict[str, np.ndarray]:
        """The picture and the mask of each of ``RUNS``, all of them edits of one run."""
        import torch

        latent, names = self.latent_of(case), list(RUNS)
        positive, pair = self.run(
            "P2PPromptPair", clip=self.clip, source=case.source, target="\n---\n".join([case.target] * len(names))
        )
        model = self.inverted(self.encode(case.source), latent)
        (model,) = self.run(case.node, model=model, pair=pair, **real_images.WINDOWS)
        records = {}
        for edit, (name, settings) in enumerate(RUNS.items(), 1):
            if settings is not None:
                given = {"mask": torch.from_numpy(touched(case.region))[None].float()} if "mask" in settings else {}
                model, records[name] = self.run(
                    "P2PLocalBlendMask", model=model, pair=pair, words="", exclude_words="", edit=edit,
                    **{**real_images.BLEND, **settings, **given},
                )  # fmt: skip
        samples = self.sample(model, positive, self.empty, latent, cfg=self.cfg)
        masks = torch.ones(len(names), GRID, GRID)
        for edit, name in enumerate(names):
            if name in records:
                masks[edit] = records[name].take(samples).masks[0, edit]
        images = self.vae.decode(samples)
        source = torch.from_numpy(case.picture)[None].float() / 255
        given = {"images": images, "pair": pair, "masks": masks, "source": source}
        composites = {
            "composite": self.run("P2PComposite", **given),
            "composite, follow_edges off": self.run("P2PComposite", **given, follow_edges=False),
        }
        kept = {f"mask of {name}": mask.numpy() > 0 for name, mask in zip(names, masks, strict=True)}
        for row, name in enumerate(names, 1):
            kept[name] = (images[row].clamp(0, 1) * 255).round().byte().numpy()
            for way, (composed, alphas) in composites.items() if name in COMPOSED else ():
                kept[f"{name}; {way}"] = (composed[row] * 255).round().byte().numpy()
                kept[f"mask of {name}; {way}"] = alphas[row - 1].numpy() > 0.5
        return kept | {"drawn": drawn.region(self.scenes, case, kept["no blend"])}


def _of_words(pair, probs):
    """(PARTS, rows, Q, S) -> (PARTS, rows, K, Q): each word's columns, added up."""
    prompts = (pair.source, *pair.targets)
    maps = np.zeros((*probs.shape[:2], max(len(prompt.words) for prompt in prompts), probs.shape[2]), np.float32)
    for row, prompt in enumerate(prompts):
        for column, word in enumerate(prompt.words):
            maps[:, row, column] = probs[:, row, :, list(word.positions)].sum(0)  # the list's axis comes first
    return maps


def file_of(kind: str, number: int, runs: bool):
    return FOLDER / f"{kind}{'_runs' if runs else ''}" / f"{number:04}.npz"


def collect(kind: str, numbers, runs: bool) -> None:
    missing = [number for number in numbers if not file_of(kind, number, runs).is_file()]
    if not missing:
        return
    bench = Bench(kind)
    if not runs:
        bench.look_at_all_blocks()
    started = time.monotonic()
    for done, number in enumerate(missing):
        case = make_case(bench.scenes, number, LOCAL)
        file = file_of(kind, number, runs)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"part_{number}.npz")
        np.savez_compressed(part, **(bench.edits(case) if runs else bench.collected(case)))
        part.rename(file)
        print(f"{done + 1}/{len(missing)}, {(time.monotonic() - started) / (done + 1):.1f} s each", flush=True)


# ---------------------------------------------------------------------------------------------------------- offline


def touched(region: np.ndarray, coverage: float = 0.0) -> np.ndarray:
    """bool (16, 16): cells of which more than this is in a mask of pixels."""
    return region.reshape(GRID, CELL, GRID, CELL).mean((1, 3)) > coverage


def pixels(mask: np.ndarray) -> np.ndarray:
    """A mask of cells as the blend uses it, (128, 128)."""
    return np.kron(mask, np.ones((CELL, CELL), bool)) if mask.shape == (GRID, GRID) else mask


class Scene:
    """What was kept of a scene without a blend; makes masks, bool (16, 16)."""

    def __init__(self, kind: str, number: int, scenes):
        self.case = make_case(scenes, number, LOCAL)
        kept = np.load(file_of(kind, number, runs=False))
        self.kept = {name: kept[name] for name in kept}
        self.chosen = json.loads(str(self.kept["chosen"]))
        self.layers, self.self_layers = PRESENT[kind]
        self.all_layers = tuple(name.removeprefix("cross_") for name in self.kept if name.startswith("cross_"))

    def words(self, layers=None, hops: int = 1, first_part: int = 0, of_text: bool = False):
        """(K, 16, 16) of the words in which the prompts differ, each stretched to 0..1.

        Args:
            of_text: as shares of what all words get. In cross-attention they always are.
        """
        import torch
        import torch.nn.functional as F

        from p2p_attention.maps import spread

        def part(name):
            return torch.from_numpy(self.kept[name][first_part:]).float().mean(0)

        def mean(attention, layers):
            each = [part(f"{attention}_{layer}") for layer in layers]
            if of_text and f"text_{layers[0]}" in self.kept:
                each = [maps / part(f"text_{layer}")[:, None] for maps, layer in zip(each, layers, strict=True)]
            sides = [round(maps.shape[-1] ** 0.5) for maps in each]
            each = [maps.unflatten(-1, (side, side)) for maps, side in zip(each, sides, strict=True)]
            return sum(F.interpolate(maps, (max(sides), max(sides)), mode="bilinear") for maps in each) / len(each)

        maps = mean("cross", layers or self.layers)
        if hops:
            together = [self.kept[f"self_{layer}"][first_part:] for layer in self.self_layers]
            together = torch.from_numpy(np.mean(together, axis=(0, 1), dtype=np.float32)).transpose(1, 2)
            side = round(together.shape[-1] ** 0.5)
            together, maps = together.unflatten(-1, (side, side)), F.interpolate(maps, (side, side), mode="bilinear")
            for _ in range(hops):
                maps = spread(maps, together)
        maps = F.interpolate(maps, (GRID, GRID), mode="bilinear")
        return stretched(torch.stack([maps[row, column] for row, column in self.chosen]))

    def third(self, name: str):
        """The layers of a third of the model, in its order."""
        from p2p_attention.maps import thirds_of

        return [self.all_layers[place] for place in thirds_of(len(self.all_layers))[name]]

    @property
    def maps_cell(self) -> float:
        """Side of a cell of the present layers' maps, in latent pixels."""
        return GRID / max(self.kept[f"self_{layer}"].shape[-1] ** 0.5 for layer in self.self_layers)

    def change(self, last: bool = False):
        """(16, 16): how far apart source and edit are, on the mean over steps or in the latents at the end."""
        import torch

        from p2p_attention.changed import change

        rows = torch.from_numpy(self.kept["samples"]).float()[None] if last else self.kept["denoised"]
        return change(torch.as_tensor(rows).float().flatten(0, 1), 2).mean((0, 1))

    def evidence(self, words, power: float = 0.5):
        """(16, 16), as ``changed.evidence``."""
        import torch

        from p2p_attention.changed import evidence

        nowhere = torch.zeros(1, len(words), 1, 1, dtype=torch.bool)
        changes = self.change()[None] if power else torch.ones(1, GRID, GRID)
        return evidence(words[None], nowhere, changes)[0]


def stretched(maps):
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-12)


def blurred(maps):
    """By a Gaussian of a cell."""
    import torch
    from scipy import ndimage

    return stretched(torch.from_numpy(ndimage.gaussian_filter(maps.numpy(), (0, 1, 1))))


def above_otsu(map):
    from p2p_attention.segmentation import otsu

    return map >= otsu(map)


def pieces(map, threshold=0.3, clear=0.85):
    """Connected pieces with a clear place in them, without the widening."""
    from scipy import ndimage

    labels, count = ndimage.label((map >= threshold).numpy(), np.ones((3, 3)))
    peaks = ndimage.maximum(map.numpy(), labels, range(1, count + 1))
    return np.isin(labels, 1 + np.flatnonzero(np.asarray(peaks) >= clear))


def widened(mask):
    from scipy import ndimage

    return ndimage.binary_dilation(np.asarray(mask))


def new_way(scene: Scene, threshold: float = 0.3):
    from p2p_attention.changed import clear_pieces

    return clear_pieces(scene.evidence(scene.words())[None], threshold, scene.maps_cell)[0]


WAYS = {
    "every touched cell (the grid's best)": lambda s: touched(s.case.region),
    "cells of which 10 % are touched": lambda s: touched(s.case.region, 0.1),
    "cells of which 20 % are touched": lambda s: touched(s.case.region, 0.2),
    "cells of which 40 % are touched": lambda s: touched(s.case.region, 0.4),
    "words, threshold 0.3: the present way": lambda s: s.words().amax(0) >= 0.3,
    "words, threshold 0.4": lambda s: s.words().amax(0) >= 0.4,
    "words, threshold 0.5": lambda s: s.words().amax(0) >= 0.5,
    "words, Otsu's threshold": lambda s: above_otsu(s.words().amax(0)),
    "words, not spread": lambda s: s.words(hops=0).amax(0) >= 0.3,
    "words, blurred instead": lambda s: blurred(s.words(hops=0)).amax(0) >= 0.3,
    "words, spread twice": lambda s: s.words(hops=2).amax(0) >= 0.3,
    "words, spread three times": lambda s: s.words(hops=3).amax(0) >= 0.3,
    "words of the first third": lambda s: s.words(s.third("first third")).amax(0) >= 0.3,
    "words of the middle third": lambda s: s.words(s.third("middle third")).amax(0) >= 0.3,
    "words of the last third": lambda s: s.words(s.third("last third")).amax(0) >= 0.3,
    "words among words (softmax over the text)": lambda s: s.words(of_text=True).amax(0) >= 0.3,
    "words among words, threshold 0.5": lambda s: s.words(of_text=True).amax(0) >= 0.5,
    "words of all layers": lambda s: s.words(s.all_layers).amax(0) >= 0.3,
    "words of all layers, not spread": lambda s: s.words(s.all_layers, hops=0).amax(0) >= 0.3,
    "words of the last 60 % of the steps": lambda s: s.words(first_part=2).amax(0) >= 0.3,
    "mean of the words": lambda s: s.evidence(s.words(), power=0) >= 0.3,
    "words, clear pieces": lambda s: pieces(s.words().amax(0)),
    "words, threshold 0.4, clear pieces": lambda s: pieces(s.words().amax(0), 0.4),
    "words, grown by a cell": lambda s: widened(s.words().amax(0) >= 0.3),
    "change alone, Otsu's threshold": lambda s: above_otsu(s.change()),
    "change alone, threshold 0.3": lambda s: stretched(s.change()) >= 0.3,
    "change at the end, Otsu's threshold": lambda s: above_otsu(s.change(last=True)),
    "words or change": lambda s: (s.words().amax(0) >= 0.3) | above_otsu(s.change()),
    "mean of the words x change, threshold 0.3": lambda s: s.evidence(s.words()) >= 0.3,
    "mean of the words x change, Otsu's threshold": lambda s: above_otsu(s.evidence(s.words())),
    "mean of the words x change, clear pieces": lambda s: pieces(s.evidence(s.words())),
    "mean of the words, clear pieces, widened": lambda s: widened(pieces(s.evidence(s.words(), power=0))),
    "all of it: words and change": new_way,
    "words and change, threshold 0.25": lambda s: new_way(s, 0.25),
    "words and change, threshold 0.4": lambda s: new_way(s, 0.4),
    "words and change, threshold 0.5": lambda s: new_way(s, 0.5),
}


def overlap(mask: np.ndarray, region: np.ndarray) -> dict[str, float]:
    """Of a mask of pixels or cells with the true one."""
    mask, best = pixels(np.asarray(mask)), pixels(touched(region))
    iou = (mask & region).sum() / (mask | region).sum()
    return {
        "IoU": iou, "share": iou * (best | region).sum() / region.sum(), "true mask inside": mask[region].mean(),
        "background outside": 1 - mask[~region].mean(),
    }  # fmt: skip


def overlaps(mask: np.ndarray, case: Case, found: np.ndarray, made: bool) -> dict[str, float]:
    """``overlap`` with the true mask, and with where the edit was drawn; NaN where it was not made."""
    as_drawn = overlap(mask, found)
    del as_drawn["background outside"]
    as_drawn |= {"scenes >= 95 % inside": as_drawn["true mask inside"] >= 0.95}
    return overlap(mask, case.region) | {
        f"{name}, as drawn": value if made else np.nan for name, value in as_drawn.items()
    }


def offline_table(kind: str, numbers, scenes) -> str:
    there = [Scene(kind, number, scenes) for number in numbers if file_of(kind, number, runs=False).is_file()]
    judge = scene_judge.load_judge()
    made = [injections.figures(scene.case, scene.kept["pictures"][1], judge)["made"] > 0 for scene in there]
    rows = {}
    for name, way in WAYS.items():
        rows[name] = []
        for scene, seen in zip(there, made, strict=True):
            case, (source, edit) = scene.case, scene.kept["pictures"]
            mask = np.asarray(way(scene))
            laid = np.where(pixels(mask)[..., None], edit, source)
            decibels = {"background dB": psnr(laid, case.picture, ~case.region)}
            decibels["inside dB"] = psnr(laid, case.wanted, case.region)
            rows[name].append(overlaps(mask, case, scene.kept["drawn"], seen) | decibels)
    return lines_of(rows)


def runs_table(kind: str, numbers, scenes) -> str:
    judge = scene_judge.load_judge()
    rows = {}
    for case, kept in runs_of(kind, numbers, scenes):
        figures = {name: injections.figures(case, kept[name], judge) for name in kept if f"mask of {name}" in kept}
        made = figures["no blend"]["made"] > 0
        for name, found in figures.items():
            values = overlaps(kept[f"mask of {name}"], case, kept["drawn"], made)
            values |= {"background dB": found["background"], "inside dB": found["inside"], "made %": found["made"]}
            rows.setdefault(name, []).append(values)
    return lines_of(rows)


def runs_of(kind: str, numbers, scenes):
    for number in numbers:
        if file_of(kind, number, runs=True).is_file():
            yield make_case(scenes, number, LOCAL), dict(np.load(file_of(kind, number, runs=True)))


def lines_of(rows) -> str:
    heads = list(next(iter(rows.values()))[0])
    count = len(next(iter(rows.values())))
    lines = [f"| mask ({count} scenes) | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for name, values in rows.items():
        means = {head: np.nanmean([each[head] for each in values]) for head in heads}
        cells = [f"{mean:.{1 if head.endswith(('dB', '%')) else 2}f}" for head, mean in means.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sheet(kind: str, numbers, scenes, count: int = 12) -> None:
    """``sheet_KIND.png``: the scenes in which the new way's mask has the least share of the best one's IoU."""
    from PIL import Image, ImageDraw

    share = lambda case, kept: overlap(kept[f"mask of {CHANGE}"], kept["drawn"])["share"]
    worst = sorted(runs_of(kind, numbers, scenes), key=lambda each: share(*each))[:count]
    heads = ("source", "true edit", "as drawn", "no blend", "words", "its mask", CHANGE, "its mask", "composite")
    side = 128 + 4
    image = Image.new("RGB", (side * len(heads), 16 + (side + 14) * len(worst)), "white")
    pen = ImageDraw.Draw(image)
    for column, head in enumerate(heads):
        pen.text((side * column + 2, 2), head, fill="black")
    for row, (case, kept) in enumerate(worst):
        top = 16 + (side + 14) * row
        own, new = (overlap(kept[f"mask of {name}"], kept["drawn"]) for name in ("words", CHANGE))
        told = [
            f"{each['share']:.2f} of the best, {100 * each['true mask inside']:.0f} % inside" for each in (own, new)
        ]
        pen.text((2, top), f"{case.source}  ->  {case.target}   ({told[0]}; {told[1]})", fill="black")
        lit = lambda name: np.where(pixels(kept[f"mask of {name}"])[..., None], case.picture, case.picture // 4)
        columns = (
            case.picture, case.wanted, np.where(kept["drawn"][..., None], kept["no blend"], case.picture // 4),
            kept["no blend"], kept["words"], lit("words"), kept[CHANGE], lit(CHANGE), kept[f"{CHANGE}; composite"],
        )  # fmt: skip
        for column, picture in enumerate(columns):
            image.paste(Image.fromarray(picture.astype(np.uint8)), (side * column, top + 12))
    image.save(FOLDER / f"sheet_{kind}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(CFG_OF), default="unet")
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--first", type=int, default=0, help="number of the first scene; others to report with")
    parser.add_argument("--kinds", default=",".join(LOCAL), help="of edits; only scenes of these")
    parser.add_argument("--runs", action="store_true", help="edits with each way of P2P Local Blend Mask")
    parser.add_argument("--table", action="store_true", help="only print the table of the scenes there are")
    arguments = parser.parse_args()
    sys.path.append(str(real_images.real_host.PACK))
    from demo import scenes

    there = range(arguments.first, arguments.first + arguments.scenes)
    numbers = [number for number in there if make_case(scenes, number, LOCAL).kind in arguments.kinds.split(",")]
    if not arguments.table:
        collect(arguments.model, numbers, arguments.runs)
    print(f"{arguments.model}, scenes {there.start} to {there.stop - 1}, {arguments.kinds}, {STEPS} steps\n")
    print((runs_table if arguments.runs else offline_table)(arguments.model, numbers, scenes))
    if arguments.runs:
        sheet(arguments.model, numbers, scenes)


if __name__ == "__main__":
    main()
