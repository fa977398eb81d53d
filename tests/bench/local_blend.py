"""How good are the masks of P2P Local Blend Mask, and what do they keep? Measured on scenes whose true masks are known.

A source picture and its counterfactual (the same layout, drawn for the edited caption) are noised to every step's level
and shown to the model as source and edit, so that the maps are those of a run that draws exactly these two pictures.
The mask is compared with the union of the two true masks of the thing that is edited. Then the edit itself: the
source row is held on the true picture, the edited row runs freely from the same noise, with each mask and without; and
what P2P Composite makes of it, with the picture's own pixels as source. What else a mask can be made of: ``masks.py``.

    python dev.py bench blend [--scenes 36] [--model flow [--layers all]]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools

import numpy as np
import real_images
from real_images import CFG, STEPS, psnr

KINDS = ("shape", "colour", "thing")
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
GROWS = (0, 1)
EXACT = 60.0  # dB; a background without any error counts as this
BRANCHES = ("own", "injected")
SPREADS = (False, True)


def cases(scenes, count: int):
    numbers = (number for number in itertools.count() if real_images.KINDS[number % 8] in KINDS)
    return (real_images.make_case(scenes, number) for number in itertools.islice(numbers, count))


LAYERS = {"double": range(3), "single": range(3, 7), "early": range(2), "late": range(5, 7), "all": range(7)}


class Bench(real_images.Bench):
    """Runs whose rows are held on given pictures."""

    def take_maps_of(self, blocks):
        """Word maps of the flow model are those of these blocks, by their place among all."""
        joint = self.host.module("p2p_attention.host.families.joint")
        kind = joint.Joint().kind(self.model)
        joint.ARCHITECTURES[kind] = dataclasses.replace(joint.ARCHITECTURES[kind], map_blocks=lambda module: blocks)

    def sample_held(self, model, positive, latents, held, seed):
        """A run of euler in which the rows in ``held`` are put on ``latents`` + noise before every step."""
        import comfy.sample
        import comfy.samplers
        import torch

        def function(denoise, x, sigmas, extra_args=None, callback=None, disable=None):
            noise, sampling = x / sigmas[0], model.get_model_object("model_sampling")
            for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
                for row in held:
                    x[row] = sampling.noise_scaling(sigma, noise[row], latents[row])
                denoised = denoise(x, sigma * x.new_ones(len(x)), **extra_args)
                x = denoised + (x - denoised) * following / sigma
            for row in held:
                x[row] = latents[row]
            return x

        empty = torch.zeros_like(latents[:1])
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS)
        return comfy.sample.sample_custom(
            model, comfy.sample.prepare_noise(empty, seed), CFG, comfy.samplers.KSAMPLER(function), sigmas, positive,
            self.empty, empty, disable_pbar=True, seed=seed,
        )  # fmt: skip

    def blend(self, model, pair, branch, **settings):
        return self.run(
            "P2PLocalBlendMask", model=model, pair=pair, words="", exclude_words="", maps=branch,
            **{**real_images.BLEND, **settings},
        )  # fmt: skip

    def masks(self, model, pair, positive, latents, seed):
        """(branch, spread, grow, threshold) -> bool (128, 128): all of a branch from the maps of one run."""
        import torch

        run_of = {}
        blending = self.host.module("p2p_attention.blend")
        kept = blending.BlendRun.__init__

        def keep_run(run, blend, *arguments):
            kept(run, blend, *arguments)
            run_of[blend.request.branch] = run

        blending.BlendRun.__init__ = keep_run
        try:
            for branch in BRANCHES:
                blended, _ = self.blend(model, pair, branch)
                self.sample_held(blended, positive, latents, (0, 1), seed)
        finally:
            blending.BlendRun.__init__ = kept
        found = {}
        for setting in itertools.product(BRANCHES, SPREADS, GROWS, THRESHOLDS):
            branch, spread, grow, threshold = setting
            run = run_of[branch]
            run.blend = dataclasses.replace(run.blend, threshold=threshold, grow=grow, spread=spread)
            run.update({}, latents.device)
            mask = torch.nn.functional.interpolate(run.mask[1:2], (128, 128))[0, 0] > 0
            found[setting] = mask.numpy()
        return found

    def case(self, case: real_images.Case, seed: int):
        """(setting of ``masks`` -> (IoU, recall, background kept), name -> figures of an edited picture)."""
        import torch

        pictures = torch.from_numpy(np.stack([case.picture, case.wanted])).float() / 255
        latents = self.vae.encode(pictures)
        positive, pair = self.run("P2PPromptPair", clip=self.clip, source=case.source, target=case.target)
        (model,) = self.run(case.node, model=self.model, pair=pair, **real_images.WINDOWS)
        true = case.region
        scores = {
            setting: ((mask & true).sum() / (mask | true).sum(), mask[true].mean(), 1 - mask[~true].mean())
            for setting, mask in self.masks(model, pair, positive, latents, seed).items()
        }
        edits = {"no blend": (model, None)}
        for settings in (
            {"threshold": 0.3, "spread": False, "grow": 1},  # the paper's, but for the minimum that is taken off
            {"threshold": 0.3, "spread": True, "grow": 0},
            {"threshold": 0.4, "spread": True, "grow": 0},
            {"threshold": 0.3, "spread": True, "grow": 0, "mask_from": "words and change"},
        ):
            name = ", ".join(f"{name} {value}" for name, value in settings.items())
            edits[name] = self.blend(model, pair, "own", **settings)
        shown, masks_of = {"decoded latent of the source": self.vae.decode(latents[:1])[0]}, {}
        for name, (each, record) in edits.items():
            samples = self.sample_held(each, positive, latents, (0,), seed)
            images = self.vae.decode(samples)
            shown[name] = images[1]
            if record is None:
                continue
            mask, _ = self.run("P2PShowBlendMask", masks=record, latent={"samples": samples}, images=images)
            masks_of[name] = mask
            for label, follow in (("mask as it is", False), ("edges followed", True)):
                made, alpha = self.run(
                    "P2PComposite", images=images, pair=pair, masks=mask, source=pictures[:1], follow_edges=follow
                )
                shown[f"{name}; composite, {label}"], masks_of[f"{name}; composite, {label}"] = made[1], alpha
        shown = {name: (each.clamp(0, 1) * 255).round().byte().numpy() for name, each in shown.items()}
        kept = {}
        for name, each in shown.items():
            found = masks_of[name][0].numpy() > 0.5 if name in masks_of else None
            iou = np.nan if found is None else (found & true).sum() / (found | true).sum()
            background = min(psnr(each, case.picture, ~true), EXACT)
            kept[name] = background, psnr(each, case.wanted, true), iou
        return scores, kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=36)
    parser.add_argument("--model", choices=("unet", "flow"), default="unet")
    parser.add_argument("--layers", choices=LAYERS, help="flow: of which blocks the maps are; default the family's")
    arguments = parser.parse_args()
    bench = Bench(arguments.model)
    if arguments.layers:
        bench.take_maps_of(LAYERS[arguments.layers])
    scores, kept = {}, {}
    for number, case in enumerate(cases(bench.scenes, arguments.scenes)):
        for total, part in zip((scores, kept), bench.case(case, number), strict=True):
            for name, values in part.items():
                total.setdefault(name, []).append(values)
        print(f"{number + 1}/{arguments.scenes}", flush=True)

    print(f"\n{arguments.scenes} scenes; IoU with the true mask / part of the true mask inside / background outside\n")
    print("| maps | spread | grow | " + " | ".join(f"threshold {each}" for each in THRESHOLDS) + " |")
    print("|---" * (3 + len(THRESHOLDS)) + "|")
    for setting in itertools.product(BRANCHES, SPREADS, GROWS):
        cells = [np.mean(scores[(*setting, threshold)], axis=0) for threshold in THRESHOLDS]
        cells = [" / ".join(f"{value:.2f}" for value in cell) for cell in cells]
        print("| " + " | ".join([*map(str, setting), *cells]) + " |")
    heads = ["background PSNR (dB)", "counterfactual PSNR inside the true mask (dB)", "IoU of pixels"]
    print(f"\n| edited picture | {' | '.join(heads)} |\n|---|---|---|---|")
    for name, values in kept.items():
        background, inside, iou = np.mean(values, axis=0)
        print(f"| {name} | {background:.1f} | {inside:.1f} | {'' if np.isnan(iou) else f'{iou:.2f}'} |")


if __name__ == "__main__":
    main()
