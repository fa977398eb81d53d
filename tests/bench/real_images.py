"""Editing pictures that the model did not make: each method of keeping the picture, on the same scenes and edits.

Rendered scenes stand for photographs: their captions, true masks and counterfactuals (the same layout, drawn for the
edited caption) are known. Every method edits every scene once: VAE Encode, P2P DDIM Invert, the edit, KSampler, VAE
Decode. Pictures are kept in .host/bench/real_images, so an interrupted run goes on where it stopped, and shards may run
side by side; when all are there the table is printed.

    python dev.py bench images [--scenes 200] [--shard 0/1] [--table]
    python dev.py bench images --model flow [...]      what to inject in joint attention, see injections.py
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "comfy"))
sys.path.append(str(Path(__file__).parent))
import numpy as np  # noqa: E402
import real_host  # noqa: E402

STEPS, CFG, REFINE, INNER_STEPS = 20, 5.0, 3, 10
CFG_OF = {"unet": CFG, "flow": 4.0}  # of the demo models
FIRST_SEED = 2_000_000  # scenes from here on are kept for this: neither the model nor the judge was trained on them
FOLDER = real_host.PACK / ".host" / "bench" / "real_images"
WINDOWS = {"cross_start": 0.0, "cross_end": 0.8, "self_start": 0.0, "self_end": 0.4}
BLEND = {
    "threshold": 0.3, "start": 0.2, "spread": True, "grow": 0, "feather": 0.0, "map_resolution": "auto",
}  # fmt: skip
KINDS = ("shape", "colour", "texture", "place", "light", "weather", "style", "thing")
METHODS = {
    "do nothing": "the source's latent, decoded",
    "free generation": "the edited prompt, any noise",
    "DDIM": "source_row free",
    "negative prompt": "free, negative = source prompt",
    "proximal, soft": "the same, P2P Proximal Guidance",
    "proximal, hard": "the same, P2P Proximal Guidance",
    "null text": "free, P2P Null-Text Optimize",
    "direct": "source_row pin",
    "direct, aligned": "source_row pin-aligned",
    "direct, proximal": "pin, P2P Proximal Guidance (hard)",
    "direct, local blend": "pin, P2P Local Blend Mask; edits of a part only",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One scene and one edit of it. ``region`` is where the edit belongs, bool (128, 128); None: everywhere.

    ``before`` is where the thing was that the edit changes, None where it is everywhere or nothing was there; ``other``
    is the scene of ``wanted``, ``changed`` the number of the thing in both.
    """

    kind: str
    source: str
    target: str
    node: str
    picture: np.ndarray
    wanted: np.ndarray
    region: np.ndarray | None
    before: np.ndarray | None
    other: object
    changed: int | None


def make_case(scenes, number: int, kinds: tuple[str, ...] = KINDS) -> Case:
    """Case ``number``; the same on every machine. Kinds go round."""
    rng = random.Random(number)
    kind = kinds[number % len(kinds)]
    seed = FIRST_SEED + number * 1000
    while True:  # the first scene that this kind of edit applies to
        scene = scenes.sample_scene(seed)
        edited = edit_description(scenes, scene.description, kind, rng)
        if edited is not None:
            break
        seed += 1
    description, node, changed = edited
    target = scenes.caption(description)
    other = scenes.counterfactual(scene, target)
    before = after = None
    if changed is not None:
        before, after = (
            masks[changed] > 0.5 if changed < len(masks) else None for masks in map(scenes.object_masks, (scene, other))
        )
    there = [each for each in (before, after) if each is not None]
    return Case(
        kind, scenes.caption(scene.description), target, node, scenes.render(scene), scenes.render(other),
        np.any(there, 0) if there else None, before, other, changed,
    )  # fmt: skip


def edit_description(scenes, description, kind: str, rng: random.Random):
    """(edited description, the node that does it, number of the changed thing), or None where it does not apply."""
    replace, things = dataclasses.replace, description.things

    def with_thing(number: int, **changes):
        return replace(
            description, things=(*things[:number], replace(things[number], **changes), *things[number + 1 :])
        )

    def other(values, *taken):
        return rng.choice([value for value in values if value not in taken])

    swap, phrase = "P2PAttentionReplace", "P2PAttentionRefine"
    if kind == "shape":
        number = rng.randrange(len(things))
        return with_thing(number, shape=other(scenes.SHAPES, *(thing.shape for thing in things))), swap, number
    if kind in ("colour", "texture"):
        number, values = rng.randrange(len(things)), {"colour": scenes.COLOURS, "texture": scenes.TEXTURES}[kind]
        before = getattr(things[number], kind)
        changed = with_thing(number, **{kind: other(values, before)})
        return changed, phrase if before is None else swap, number
    if kind == "thing":
        if len(things) == 2:
            return None
        new = scenes.Thing(other(scenes.SHAPES, things[0].shape), other(scenes.COLOURS, things[0].colour), None)
        return replace(description, things=(*things, new)), phrase, 1
    if kind == "removed":
        return (replace(description, things=things[:1]), phrase, 1) if len(things) == 2 else None
    values = {
        "place": scenes.PLACES, "light": scenes.LIGHTS, "weather": scenes.WEATHERS, "style": scenes.STYLES,
    }[kind]  # fmt: skip
    before = getattr(description, kind)
    choices = [value for value in values if value != before]
    if not choices or (before is None) != (kind in ("light", "weather", "style")):
        return None
    return replace(description, **{kind: rng.choice(choices)}), phrase if before is None else swap, None


class Bench:
    """The pack in a real host, with a demo model."""

    def __init__(self, kind: str = "unet"):
        real_host.enter()
        self.host = real_host.load_pack()
        self.scenes = self.host.module("demo.scenes")
        self.key = self.host.module("p2p_attention.host").KEY
        self.attach = self.host.module("p2p_attention.host.attach").attach
        if kind == "flow":
            self.model, self.clip, self.vae = self.host.module("demo.flow").load_flow_model()
        else:
            self.model, self.clip, self.vae = self.run("P2PLoadDemoModel")
        self.cfg = CFG_OF[kind]
        self.empty = self.encode("")
        self.rows = 0
        self.count_rows()

    def run(self, node, **inputs):
        return real_host.run_node(self.host.node(node), **inputs)

    def encode(self, text):
        return self.run("CLIPTextEncode", clip=self.clip, text=text)[0]

    def count_rows(self):
        """Rows of UNet work, so that methods of any batching compare; one with a backward pass counts as three."""

        def counted(executor, x, *arguments, **keywords):
            import torch

            self.rows += len(x) * (3 if torch.is_grad_enabled() else 1)
            return executor(x, *arguments, **keywords)

        self.model = self.model.clone()
        self.model.add_wrapper_with_key("diffusion_model", "bench", counted)

    def latent_of(self, case: Case):
        """The host's LATENT of a scene's picture."""
        import torch

        return {"samples": self.vae.encode(torch.from_numpy(case.picture)[None].float() / 255)}

    def decoded(self, samples) -> np.ndarray:
        """uint8 (B, 128, 128, 3)."""
        return (self.vae.decode(samples).clamp(0, 1) * 255).round().byte().numpy()

    def sample(self, model, positive, negative, latent, seed=1, cfg=CFG, denoise=1.0):
        return self.run(
            "KSampler", model=model, seed=seed, steps=STEPS, cfg=cfg, sampler_name="euler", scheduler="normal",
            positive=positive, negative=negative, latent_image=latent, denoise=denoise,
        )[0]["samples"]  # fmt: skip

    def inverted(self, prompt, latent, denoise=1.0, source_row="pin"):
        """The model with the way back to a picture."""
        return self.run(
            "P2PDDIMInvert", model=self.model, conditioning=prompt, latent_image=latent, steps=STEPS,
            scheduler="normal", denoise=denoise, refine_iterations=REFINE, source_row=source_row,
        )[0]  # fmt: skip

    def pictures(self, case: Case, null_text: bool) -> dict[str, tuple[np.ndarray, int]]:
        """Method -> (source row and edit as uint8 (2, 128, 128, 3), rows of UNet work without the inversion's).

        ``null_text``: only that one, which takes as long as all others together; else all but that one.
        """
        latent = self.latent_of(case)
        positive, pair = self.run("P2PPromptPair", clip=self.clip, source=case.source, target=case.target)
        prompt, target = self.encode(case.source), self.encode(case.target)
        results = {}

        def keep(method, samples):
            results[method] = self.decoded(samples), self.rows
            self.rows = 0

        def edited(model):
            return self.run(case.node, model=model, pair=pair, **WINDOWS)[0]

        self.rows = 0
        keep("do nothing", latent["samples"].repeat(2, 1, 1, 1))
        free = self.inverted(prompt, latent, source_row="free")
        keep("inversion", latent["samples"].repeat(2, 1, 1, 1))
        (inversion,) = free.model_options[self.key]

        if null_text:
            (negative,) = self.run(
                "P2PNullTextOptimize", model=free, positive=prompt, negative=self.empty, cfg=CFG,
                inner_steps=INNER_STEPS,
            )  # fmt: skip
            keep("null text", self.sample(edited(free), positive, negative, latent))
            return {"null text": results["null text"]}

        def held(source_row):
            return self.attach(self.model, dataclasses.replace(inversion, source_row=source_row))

        keep("free generation", self.sample(self.model, target, self.empty, latent, seed=7).repeat(2, 1, 1, 1))
        keep("DDIM", self.sample(edited(free), positive, self.empty, latent))
        keep("negative prompt", self.sample(edited(free), positive, prompt, latent))
        for kind in ("soft", "hard"):
            (model,) = self.run("P2PProximalGuidance", model=edited(free), pair=pair, threshold=0.7, kind=kind)
            keep(f"proximal, {kind}", self.sample(model, positive, prompt, latent))
        keep("direct", self.sample(edited(held("pin")), positive, self.empty, latent))
        keep("direct, aligned", self.sample(edited(held("pin-aligned")), positive, self.empty, latent))
        (model,) = self.run("P2PProximalGuidance", model=edited(held("pin")), pair=pair, threshold=0.7, kind="hard")
        keep("direct, proximal", self.sample(model, positive, self.empty, latent))
        if case.region is not None:
            model, _ = self.run(
                "P2PLocalBlendMask", model=edited(held("pin")), pair=pair, words="", exclude_words="", **BLEND
            )  # fmt: skip
            keep("direct, local blend", self.sample(model, positive, self.empty, latent))
        return results


def psnr(a: np.ndarray, b: np.ndarray, region: np.ndarray | None = None) -> float:
    """In decibels, of uint8 pictures (128, 128, 3), over a region."""
    error = ((a.astype(float) - b.astype(float)) / 255) ** 2
    error = error.mean() if region is None else error[region].mean()
    return -10 * np.log10(max(error, 1e-10))


def file_of(number: int, null_text: bool) -> Path:
    return FOLDER / f"{number:04}{'_null_text' if null_text else ''}.npz"


def make_pictures(count: int, shard: int, shards: int, null_text: bool) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    missing = [n for n in range(shard, count, shards) if not file_of(n, null_text).is_file()]
    bench = Bench() if missing else None
    started = time.monotonic()
    for done, number in enumerate(missing):
        results = bench.pictures(make_case(bench.scenes, number), null_text)
        part = FOLDER / f"part_{shard}.npz"
        np.savez_compressed(
            part, **{name: picture for name, (picture, _) in results.items()},
            **{f"rows of {name}": rows for name, (_, rows) in results.items()},
        )  # fmt: skip
        part.rename(file_of(number, null_text))
        each = (time.monotonic() - started) / (done + 1)
        print(f"{done + 1}/{len(missing)} of shard {shard}/{shards}, {each:.0f} s each", flush=True)


def table(scenes, count: int) -> str:
    """Markdown, from the pictures there are: of every edit, and of those that belong to a part of the picture."""
    import torch
    from scene_judge import load_judge

    judge = load_judge()
    everything, local = ({method: [] for method in METHODS} for _ in range(2))
    for number in range(count):
        kept = {}
        for null_text in (False, True):
            if file_of(number, null_text).is_file():
                kept |= dict(np.load(file_of(number, null_text)))
        case = make_case(scenes, number) if kept else None
        for method in METHODS:
            if method in kept:
                row = figures(case, kept[method], int(kept[f"rows of {method}"]), judge, torch)
                everything[method].append(row)
                if case.region is not None:
                    local[method].append(row)
    shown = ["Every kind of edit:", "", *lines_of(everything, ("source", "edit made", "inside", "rows")), ""]
    shown += ["Shape, colour, texture, a thing added:", "", *lines_of(local, ("background", "edit made", "inside"))]
    return "\n".join([*shown, "", f"The judge: {judge.metadata}"])


HEADS = {
    "source": "source PSNR (dB)",
    "background": "background PSNR (dB)",
    "edit made": "edit made (%)",
    "inside": "PSNR to the true edit (dB)",
    "rows": "rows of UNet work",
}


def lines_of(scores: dict[str, list[dict]], columns: tuple[str, ...]) -> list[str]:
    lines = ["| method | N | " + " | ".join(HEADS[name] for name in columns) + " |", "|---" * (2 + len(columns)) + "|"]
    for method, rows in scores.items():
        if rows:
            means = {name: np.mean([row[name] for row in rows]) for name in columns}
            cells = [f"{value:.{0 if name in ('rows', 'edit made') else 1}f}" for name, value in means.items()]
            lines.append(f"| {method}: {METHODS[method]} | {len(rows)} | {' | '.join(cells)} |")
    return lines


def figures(case: Case, pictures: np.ndarray, rows: int, judge, torch) -> dict[str, float]:
    source, edit = pictures
    values = {
        "source": psnr(source, case.picture),
        "edit made": 100 * judge.edit_success(torch.from_numpy(edit)[None], [case.source], [case.target])[0],
        "inside": psnr(edit, case.wanted, case.region),
        "rows": rows,
    }
    if case.region is not None:
        values["background"] = psnr(edit, case.picture, ~case.region)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("unet", "flow"), default="unet")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="flow: number of the first scene; others to report with")
    parser.add_argument(
        "--methods", default="", help="flow: these, or those whose names hold one of these, between semicolons"
    )
    parser.add_argument("--shard", default="0/1", help="i/n: only every n-th scene, from i; for several processes")
    parser.add_argument("--null-text", choices=("too", "only", "none"), default="too", help="half of all the time")
    parser.add_argument("--table", action="store_true", help="only print the table of the pictures there are")
    arguments = parser.parse_args()
    if arguments.model == "flow":
        import injections

        return injections.main(arguments)
    shard, shards = map(int, arguments.shard.split("/"))
    if not arguments.table:
        for null_text in {"too": (False, True), "only": (True,), "none": (False,)}[arguments.null_text]:
            make_pictures(arguments.scenes, shard, shards, null_text)
    sys.path.append(str(real_host.PACK))
    from demo import scenes

    print(table(scenes, arguments.scenes))


if __name__ == "__main__":
    main()
