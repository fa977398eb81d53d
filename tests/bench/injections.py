"""What to inject in joint attention: each way on the same scenes and edits, where the truth is known.

The flow demo model edits rendered scenes, as in ``real_images``: inverted once, the source row pinned, then every
method of ``METHODS``. Windows are fractions of the steps: t of the text's columns, i of the image's columns (for
"queries" of the source's image queries and keys); r: rows renormalised.

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
    """How far the windows reach, what is injected, and in which blocks."""

    text: float
    image: float
    blocks: str = "all"
    renormalise: bool = False
    queries: bool = False
    blend: bool = False
    denoise: float = 1.0

    def injection(self, kinds):
        """(module, block) -> ``Injection``."""
        here, nowhere = kinds.Injection(True, True, self.renormalise, self.queries), kinds.Injection(False, False)

        def of(module, block):
            double, single = len(module.double_blocks), len(module.single_blocks)
            number = block[1] + (double if block[0] == "single" else 0)
            chosen = {
                "all": True,
                "double": block[0] == "double",
                "single": block[0] == "single",
                "early": number < (double + single) // 2,
                "late": number >= (double + single) // 2,
            }[self.blocks]
            return here if chosen else nowhere

        return of


def _formula(text, image, **settings):
    r = "r " if settings.get("renormalise") else ""
    where = f", {settings['blocks']}" if "blocks" in settings else ""
    more = ", blend" if settings.get("blend") else ""
    more += f", denoise {settings['denoise']:g}" if "denoise" in settings else ""
    return f"formula {r}t {text:g} i {image:g}{where}{more}", Method(text, image, **settings)


def _queries(image, **settings):
    where = f", {settings['blocks']}" if "blocks" in settings else ""
    return f"queries {image:g}{where}", Method(0.0, image, queries=True, **settings)


METHODS = dict(
    [
        ("free, same noise", Method(0.0, 0.0)),
        *[
            _formula(t, i)
            for t, i in ((0.4, 0.0), (0.8, 0.0), (0.0, 0.4), (0.4, 0.2), (0.8, 0.2), (0.8, 0.4), (0.8, 0.8))
        ],
        *[_formula(t, i, renormalise=True) for t, i in ((0.8, 0.0), (0.4, 0.2), (0.8, 0.2), (0.8, 0.4), (0.8, 0.6))],
        *[_formula(0.8, 0.4, renormalise=True, blocks=where) for where in ("double", "single", "early", "late")],
        _formula(0.8, 0.6, renormalise=True, blocks="single"),
        *[_formula(0.8, i, blocks="double") for i in (0.2, 0.4, 0.8)],
        *[_queries(i) for i in (0.2, 0.4, 0.6)],
        *[_queries(i, blocks="single") for i in (0.4, 0.6, 0.8)],
        _queries(0.4, blocks="double"),
        ("free, same noise, blend", Method(0.0, 0.0, blend=True)),
        _formula(0.8, 0.4, renormalise=True, blend=True),
        *[_formula(0.8, 0.4, renormalise=True, denoise=d) for d in (0.8, 0.6)],
    ]
)
ENDS = ("do nothing", "free generation")


class Bench(real_images.Bench):
    def __init__(self):
        super().__init__("flow")
        self.joint = self.host.module("p2p_attention.host.families.joint")
        self.kind = self.joint.Joint().kind(self.model)
        self.kinds = self.host.module("p2p_attention.joint_attention")

    def inject(self, method: Method):
        """The family takes this way from now on."""
        self.joint.ARCHITECTURES[self.kind] = dataclasses.replace(
            self.joint.ARCHITECTURES[self.kind], injection=method.injection(self.kinds)
        )

    def pictures(self, case: Case, methods) -> dict[str, np.ndarray]:
        """Name -> the edit as uint8 (128, 128, 3)."""
        import torch

        latent = {"samples": self.vae.encode(torch.from_numpy(case.picture)[None].float() / 255)}
        positive, pair = self.run("P2PPromptPair", clip=self.clip, source=case.source, target=case.target)
        prompt, results, inverted = self.encode(case.source), {}, {}

        def keep(name, samples):
            results[name] = (self.vae.decode(samples[-1:]).clamp(0, 1) * 255).round().byte().numpy()[0]

        if "do nothing" in methods:
            keep("do nothing", latent["samples"])
        if "free generation" in methods:
            free = self.sample(self.model, self.encode(case.target), self.empty, latent, seed=7, cfg=self.cfg)
            keep("free generation", free)
        for name in (name for name in methods if name in METHODS):
            method = METHODS[name]
            if method.blend and case.region is None:
                continue
            if method.denoise not in inverted:
                inverted[method.denoise] = self.inverted(prompt, latent, method.denoise)
            self.inject(method)
            windows = {"cross_start": 0.0, "cross_end": method.text, "self_start": 0.0, "self_end": method.image}
            (model,) = self.run(case.node, model=inverted[method.denoise], pair=pair, **windows)
            if method.blend:
                model, _ = self.run(
                    "P2PLocalBlendMask", model=model, pair=pair, words="", exclude_words="", **BLEND
                )  # fmt: skip
            keep(name, self.sample(model, positive, self.empty, latent, cfg=self.cfg, denoise=method.denoise))
        return results


def make_pictures(bench, numbers, names, folder=FOLDER) -> None:
    """Each scene's file gets what it lacks of ``bench.pictures``, so that more may be asked for later."""
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    for done, number in enumerate(numbers):
        file = folder / f"{number:04}.npz"
        kept = dict(np.load(file)) if file.is_file() else {}
        case = make_case(bench.scenes, number, KINDS)
        kept |= bench.pictures(case, [name for name in names if name not in kept])
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


def table(scenes, numbers, methods, folder=FOLDER) -> str:
    """Markdown, of a folder's pictures: background and inside of local edits, the whole of global ones, and what the
    judge sees of each."""
    from scene_judge import JUDGE, load_judge

    judge = load_judge() if JUDGE.is_file() else None
    rows: dict[str, list] = {name: [] for name in methods}
    for number in numbers:
        file = folder / f"{number:04}.npz"
        kept = dict(np.load(file)) if file.is_file() else {}
        case = make_case(scenes, number, KINDS)
        for name in methods:
            if name in kept:
                rows[name].append((case.kind, figures(case, kept[name], judge)))

    def mean(of, key, chosen):
        values = [values[key] for kind, values in of if chosen(kind) and key in values]
        return f"{np.mean(values):.1f}" if values else ""

    local, everywhere = (lambda kind: kind in LOCAL), (lambda kind: kind not in LOCAL)
    heads = ["local: background dB", "inside dB", "made %", "global: dB", "made %"]
    lines = [f"| method | N | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for name, of in rows.items():
        cells = [mean(of, "background", local), mean(of, "inside", local), mean(of, "made", local)]
        cells += [mean(of, "inside", everywhere), mean(of, "made", everywhere)]
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
    wanted = [part.strip() for part in arguments.methods.split(",") if part.strip()]
    methods = [name for name in (*ENDS, *METHODS) if not wanted or any(part in name for part in wanted)]
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
