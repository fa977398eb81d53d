"""What to inject in joint attention: each way on the same scenes and edits, where the truth is known.

The flow demo model edits rendered scenes, as in ``real_images``: inverted once, the source row pinned, then every
method of ``METHODS``. Windows are fractions of the steps: t of the text's columns, i of the image's columns (for
"queries" of the source's image queries and keys); r: rows renormalised. "v outside": values, "q k v outside": queries
and keys, too, are the source's at image tokens that the true mask does not touch, in all steps and blocks; "painted":
the latents are, with the same mask.

    python dev.py bench images --model flow [--scenes 48] [--first 0] [--methods NAMES] [--shard 0/1] [--table]

Pictures are kept in .host/bench/injections, with a sheet of the scenes where the methods differ most and least.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from dataclasses import dataclass

import numpy as np
import real_images
from real_images import BLEND, STEPS, Case, make_case, psnr

FOLDER = real_images.FOLDER.parent / "injections"
KINDS = ("shape", "colour", "place", "thing", "light", "texture", "removed", "style")
LOCAL = ("shape", "colour", "texture", "thing", "removed")


@dataclass(frozen=True)
class Method:
    """How long the windows are, where they begin, what is injected (the nodes' ``injection``), and in which blocks.

    ``outside``: which of q, k, v are the source's outside of the true mask. ``heads``: every so manyth is injected in.
    """

    text: float
    image: float
    way: str = "maps"
    blocks: str = "all"
    blend: bool | str = False
    denoise: float = 1.0
    begin: float = 0.0
    outside: str = ""
    heads: int = 1


def _maps(text, image, **settings):
    r = "r " if settings.get("way") else ""
    where = f", {settings['blocks']}" if "blocks" in settings else ""
    more = ", blend" if settings.get("blend") else ""
    more += f", denoise {settings['denoise']:g}" if "denoise" in settings else ""
    more += f", from {settings['begin']:g} on" if "begin" in settings else ""
    more += ", half of the heads" if "heads" in settings else ""
    return f"formula {r}t {text:g} i {image:g}{where}{more}", Method(text, image, **settings)


def _renormalised(text, image, **settings):
    return _maps(text, image, way="maps, renormalised", **settings)


def _queries(image, **settings):
    where = f", {settings['blocks']}" if "blocks" in settings else ""
    return f"queries {image:g}{where}", Method(0.0, image, "queries and keys", **settings)


WINDOWS = ((0.4, 0.2), (0.4, 0.4), (0.4, 0.6), (0.8, 0.2), (0.8, 0.4), (0.8, 0.6), (0.8, 0.8))
METHODS = dict(
    [
        ("free, same noise", Method(0.0, 0.0)),
        *[_maps(*windows) for windows in ((0.4, 0.0), (0.8, 0.0), (0.0, 0.4), *WINDOWS)],
        *[_renormalised(*windows) for windows in ((0.8, 0.0), *WINDOWS)],
        *[_maps(*windows, blocks="double") for windows in WINDOWS],
        *[_renormalised(*windows, blocks="double") for windows in WINDOWS],
        *[_maps(*windows, blocks="single") for windows in WINDOWS],
        *[_renormalised(*windows, blocks="single") for windows in WINDOWS],
        *[_queries(i) for i in (0.2, 0.4, 0.6)],
        *[_queries(i, blocks="single") for i in (0.4, 0.6, 0.8)],
        _queries(0.4, blocks="double"),
        ("free, same noise, blend", Method(0.0, 0.0, blend=True)),
        *[_maps(0.8, i, blend=True) for i in (0.2, 0.4)],
        *[_renormalised(0.8, i, blend=True) for i in (0.2, 0.4)],
        *[_maps(0.8, 0.4, denoise=d) for d in (0.8, 0.6)],
        *[_renormalised(0.8, 0.4, denoise=d) for d in (0.8, 0.6)],
        *[_maps(0.8, i, begin=0.2) for i in (0.4, 0.8)],
        *[_maps(0.6, i, begin=0.4) for i in (0.4, 0.6)],
        _maps(0.4, 0.4, begin=0.6),
        *[_maps(0.8, i, heads=2) for i in (0.4, 0.8)],
        ("v outside", Method(0.0, 0.0, outside="v")),
        ("q k v outside", Method(0.0, 0.0, outside="qkv")),
        ("free, same noise, painted", Method(0.0, 0.0, blend="painted")),
    ]
)
ENDS = ("do nothing", "free generation")


class Bench(real_images.Bench):
    def __init__(self):
        super().__init__("flow")
        self.joint = self.host.module("p2p_attention.host.families.joint")
        self.kind = self.joint.Joint().kind(self.model)
        self.kinds = self.host.module("p2p_attention.joint_attention")
        self.calls = self.host.module("p2p_attention.host.families.transformer")
        self.whole = self.calls.attend

    def inject_in(self, blocks: str):
        """From now on the family injects in these blocks alone."""
        all_of_it, nothing = self.kinds.Injection(), self.kinds.Injection(text=False, image=False)
        self.joint.ARCHITECTURES[self.kind] = dataclasses.replace(
            self.joint.ARCHITECTURES[self.kind],
            injection=lambda module, block: all_of_it if blocks in ("all", block[0]) else nothing,
        )

    def inject_in_every(self, nth: int):
        """From now on every so manyth head is injected in."""

        def attend(program, attention, q, k, v, mask):
            edited = self.whole(program, attention, q, k, v, mask)
            if program is None:
                return edited
            heads = self.model.model.diffusion_model.num_heads
            own = attention(q, k, v, mask).unflatten(-1, (heads, -1))
            own[..., ::nth, :] = edited.unflatten(-1, (heads, -1))[..., ::nth, :]
            return own.flatten(-2)

        self.calls.attend = self.whole if nth == 1 else attend

    def holding(self, model, of: str, held, rows: int):
        """The model; in each chunk the edits have q, k or v of the source at these image tokens, bool (N,)."""
        model = model.clone()

        def override(attention, q, k, v, heads, *more, **named):
            given = {"q": q.clone(), "k": k.clone(), "v": v.clone()}
            for name in of:
                image = given[name][..., -len(held) :, :].unflatten(0, (-1, rows))
                image[..., held, :] = image[:, :1, ..., held, :]
            return attention(*given.values(), heads, *more, **named)

        model.model_options["transformer_options"]["optimized_attention_override"] = override
        return model

    def pictures(self, case: Case, methods) -> dict[str, np.ndarray]:
        """Name -> the edit as uint8 (128, 128, 3). Methods that differ in windows and ways are edits of one run."""
        import torch

        latent = self.latent_of(case)
        results: dict[str, np.ndarray] = {}

        def keep(names, samples):
            results.update(zip(names, self.decoded(samples), strict=True))

        if "do nothing" in methods:
            keep(["do nothing"], latent["samples"])
        if "free generation" in methods:
            free = self.sample(self.model, self.encode(case.target), self.empty, latent, seed=7, cfg=self.cfg)
            keep(["free generation"], free)
        runs: dict[tuple[float, str, int, str], list[str]] = {}
        for name in (name for name in methods if name in METHODS):
            method = METHODS[name]
            if not (method.blend or method.outside) or case.region is not None:
                runs.setdefault((method.denoise, method.blocks, method.heads, method.outside), []).append(name)
        if case.region is not None:  # a token is 16 x 16 pixels
            touched = torch.from_numpy(case.region.reshape(8, 16, 8, 16).any((1, 3)))
        inverted: dict[float, object] = {}
        for (denoise, blocks, heads, outside), names in runs.items():
            if denoise not in inverted:
                inverted[denoise] = self.inverted(self.encode(case.source), latent, denoise)
            self.inject_in(blocks)
            self.inject_in_every(heads)
            targets = "\n---\n".join([case.target] * len(names))
            positive, pair = self.run("P2PPromptPair", clip=self.clip, source=case.source, target=targets)
            model = inverted[denoise]
            for edit, method in enumerate(map(METHODS.__getitem__, names), 1):
                begin, text, image = method.begin, method.begin + method.text, method.begin + method.image
                windows = {"cross_start": begin, "cross_end": text, "self_start": begin, "self_end": image}
                which = {"pair": pair, "edit": edit}
                (model,) = self.run(case.node, model=model, **which, **windows, injection=method.way)
                if method.blend:
                    where = {"words": "", "exclude_words": "", **BLEND}
                    if method.blend == "painted":
                        where |= {"start": 0.0, "mask": touched[None].float()}
                    model, _ = self.run("P2PLocalBlendMask", model=model, **which, **where)
            negative = self.empty
            if outside:  # a negative of as many rows: the source's is needed, too
                (empty, more), rows = self.empty[0], 1 + len(names)
                negative = [[empty.repeat(rows, 1, 1), more]]
                model = self.holding(model, outside, ~touched.flatten(), rows)
            keep(names, self.sample(model, positive, negative, latent, cfg=self.cfg, denoise=denoise)[1:])
        return results


def make_pictures(bench, numbers, names, folder=FOLDER, kinds=KINDS) -> None:
    """Each scene's file gets what it lacks of ``bench.pictures``, so that more may be asked for later."""
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    for done, number in enumerate(numbers):
        file = folder / f"{number:04}.npz"
        kept = dict(np.load(file)) if file.is_file() else {}
        lacking = [name for name in names if name not in kept]
        if not lacking:
            continue
        kept |= bench.pictures(make_case(bench.scenes, number, kinds), lacking)
        part = folder / f"part_{number}.npz"
        np.savez_compressed(part, **kept)
        part.rename(file)
        print(f"{done + 1}/{len(numbers)}, {(time.monotonic() - started) / (done + 1):.1f} s each", flush=True)


def figures(case: Case, edit: np.ndarray, judge) -> dict[str, float]:
    values = {"inside": psnr(edit, case.wanted, case.region)}
    if case.region is not None:
        values["background"] = psnr(edit, case.picture, ~case.region)
    if judge is not None:
        import torch

        values["made"] = 100.0 * judge.edit_success(torch.from_numpy(edit)[None], [case.source], [case.target])[0]
    return values


def table(scenes, numbers, methods, folder=FOLDER, kinds=KINDS) -> str:
    """Markdown, of a folder's pictures: background and inside of local edits, the whole of global ones, and what the
    judge sees of each."""
    from scene_judge import JUDGE, load_judge

    judge = load_judge() if JUDGE.is_file() else None
    rows: dict[str, list] = {name: [] for name in methods}
    for number in numbers:
        file = folder / f"{number:04}.npz"
        kept = dict(np.load(file)) if file.is_file() else {}
        case = make_case(scenes, number, kinds)
        for name in methods:
            if name in kept:
                rows[name].append((case.kind, figures(case, kept[name], judge)))

    def mean(of, key, chosen):
        values = [values[key] for kind, values in of if chosen(kind) and key in values]
        return f"{np.mean(values):.1f}" if values else ""

    local, everywhere = (lambda kind: kind in LOCAL), (lambda kind: kind not in LOCAL)
    heads = ["local: background dB", "inside dB", "made %", "global: dB", "made %", "all: made %"]
    lines = [f"| method | N | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for name, of in rows.items():
        cells = [mean(of, "background", local), mean(of, "inside", local), mean(of, "made", local)]
        cells += [mean(of, "inside", everywhere), mean(of, "made", everywhere), mean(of, "made", lambda kind: True)]
        lines.append(f"| {name} | {len(of)} | {' | '.join(cells)} |" if of else f"| {name} | 0 |")
    return "\n".join(lines)


def sheet(scenes, numbers, shown, count=12):
    """``sheet.png``: source, true edit and ``shown`` methods of the ``count`` worst and best scenes of the first."""
    from PIL import Image, ImageDraw

    cases = {number: make_case(scenes, number, KINDS) for number in numbers if (FOLDER / f"{number:04}.npz").is_file()}
    kept = {number: dict(np.load(FOLDER / f"{number:04}.npz")) for number in cases}
    cases = {number: case for number, case in cases.items() if all(name in kept[number] for name in shown)}
    quality = lambda number: psnr(kept[number][shown[0]], cases[number].wanted, cases[number].region)
    order = sorted(cases, key=quality)
    chosen = order if len(order) <= 2 * count else order[:count] + order[-count:]
    image = Image.new("RGB", (130 * (2 + len(shown)), 20 + 146 * len(chosen)), "white")
    pen = ImageDraw.Draw(image)
    for column, title in enumerate(("source", "true edit", *shown)):
        pen.text((130 * column + 2, 4), title.removeprefix("formula ")[:22], fill="black")
    for row, number in enumerate(chosen):
        case = cases[number]
        pen.text(
            (2, 20 + 146 * row), f"{number} {quality(number):.1f} dB: {case.source}  ->  {case.target}", fill="black"
        )
        for column, picture in enumerate((case.picture, case.wanted, *(kept[number][name] for name in shown))):
            image.paste(Image.fromarray(picture), (130 * column, 34 + 146 * row))
    image.save(FOLDER / "sheet.png")


def main(arguments) -> None:
    numbers = range(arguments.first, arguments.first + arguments.scenes)
    named = [part.strip() for part in arguments.methods.split(";") if part.strip()]
    parts = [part for part in named if part not in METHODS]
    methods = [name for name in (*ENDS, *METHODS) if not named or name in named or any(part in name for part in parts)]
    shard, shards = map(int, arguments.shard.split("/"))
    if not arguments.table:
        make_pictures(Bench(), numbers[shard::shards], methods)
    sys.path.append(str(real_images.real_host.PACK))
    from demo import scenes

    print(f"scenes {numbers.start} to {numbers.stop - 1}, {STEPS} steps, cfg {real_images.CFG_OF['flow']:g}\n")
    print(table(scenes, numbers, methods))
    sheet(scenes, numbers, [name for name in methods if name not in ENDS and not METHODS[name].blend][:8])


if __name__ == "__main__":
    sys.exit("python dev.py bench images --model flow")
