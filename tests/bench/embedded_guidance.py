"""Which embedded guidance inverts best? Guidance-distilled models (Flux dev and the like) take it as a number.

None of the demo models has one, so the flow demo model is first distilled (Meng et al. 2023, "On Distillation of Guided
Diffusion Models", stage one): a copy with the host's guidance embedding learns, for guidances of 1 to 6,

    v(x, t, text, g) = v(x, t, "") + g (v(x, t, text) - v(x, t, ""))

of the model as it is. Then rendered scenes are inverted at each guidance and edited at that of the sampler, as in
``real_images``. The distilled weights are kept in .host/bench/embedded_guidance and shipped nowhere.

    python dev.py bench guidance [--steps 1500] [--scenes 48] [--first 0] [--table]
"""

from __future__ import annotations

import argparse
import sys
from types import SimpleNamespace

import injections
import numpy as np
import real_images
from real_images import REFINE, STEPS, Case

FOLDER = real_images.FOLDER.parent / "embedded_guidance"
SCENES, BATCH, HELD_OUT = 4_000, 32, 128  # to distil with; their seeds lie beside those of all trainings
FIRST_SEED = 6_000_000
GUIDANCES = (1.0, 6.0)  # least and most that is learnt
SAMPLED = 4.0  # guidance of the edit, which is the model's cfg as it is
INVERTED = (1.0, 2.0, 3.0, 4.0, 5.0)
ROWS = ("pin", "free")


class Bench(real_images.Bench):
    """The flow demo model, or what ``distilled`` made of it."""

    def __init__(self):
        super().__init__("flow")
        self.flow = self.host.module("demo.flow")

    def with_guidance(self):
        """A copy of the model with the host's guidance embedding, which at first changes nothing."""
        import torch

        module = self.model.model.diffusion_model
        copied = self.flow.new_denoiser(guidance_embed=True)
        missing, _ = copied.diffusion_model.load_state_dict(module.state_dict(), strict=False)
        assert missing and all(name.startswith("guidance_in.") for name in missing), missing
        for layer in (copied.diffusion_model.guidance_in.in_layer, copied.diffusion_model.guidance_in.out_layer):
            torch.nn.Linear.reset_parameters(layer)
        torch.nn.init.zeros_(copied.diffusion_model.guidance_in.out_layer.weight)
        torch.nn.init.zeros_(copied.diffusion_model.guidance_in.out_layer.bias)
        return copied

    # ------------------------------------------------------------------------------------------------------ distil

    def scenes_to_learn_by(self):
        """(latents (N,4,16,16), texts (N,L,D)) of pictures and their captions, made once."""
        import torch

        file = FOLDER / "scenes.pt"
        if not file.is_file():
            latents, texts = [], []
            for seed in range(FIRST_SEED, FIRST_SEED + SCENES):
                scene = self.scenes.sample_scene(seed)
                picture = torch.from_numpy(self.scenes.render(scene))[None].float() / 255
                latents.append(self.vae.encode(picture).half())
                texts.append(self.encode(self.scenes.caption(scene.description))[0][0].half())
                if len(latents) % 500 == 0:
                    print(f"rendered {len(latents)}", flush=True)
            torch.save((torch.cat(latents), torch.cat(texts)), file)
        return torch.load(file)

    def distilled(self, steps: int):
        """The model with an embedded guidance; resumes where an interrupted run stopped."""
        import torch

        sys.path.append(str(real_images.real_host.PACK))
        from tools.training.common import Trainer
        from tools.training.flow import predict, rotations, times

        FOLDER.mkdir(parents=True, exist_ok=True)
        student = self.with_guidance()
        module, teacher = student.diffusion_model, self.model.model.diffusion_model
        options = SimpleNamespace(out=FOLDER, minutes=float("inf"))
        trainer = Trainer("guided", options, {"flow": module}, steps, 4e-4, 0.995, warm_up=50)
        if trainer.step < steps:
            latents, texts = self.scenes_to_learn_by()
            empty = self.empty[0][0]
            rotation = rotations(module, *(side // module.patch_size for side in latents.shape[2:]))
            ones = torch.ones(BATCH, texts.shape[1])

            def error(chosen, rng):
                x0, said = latents[chosen].float(), texts[chosen].float()
                noise = torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32))
                t = torch.from_numpy(times(rng, len(x0)))
                guidance = torch.from_numpy(rng.uniform(*GUIDANCES, len(x0)).astype(np.float32))
                x = x0 + t[:, None, None, None] * (noise - x0)
                with torch.no_grad():
                    both = torch.cat([said, empty.expand_as(said)])
                    told, untold = predict(
                        teacher, x.repeat(2, 1, 1, 1), t.repeat(2), both, ones.repeat(2, 1), rotation
                    ).chunk(2)
                    wanted = untold + guidance[:, None, None, None] * (told - untold)
                v = predict(module, x, t, said, ones, rotation, guidance)
                return ((v - wanted) ** 2).mean(), (wanted**2).mean()

            def loss(step):
                rng = np.random.default_rng(step)
                value, whole = error(torch.from_numpy(rng.integers(HELD_OUT, len(latents), BATCH)), rng)
                return value, {"loss": value.detach(), "relative": (value / whole).detach()}

            def evaluate():
                rng = np.random.default_rng(0)
                with torch.no_grad():
                    values = [error(part, rng) for part in torch.arange(HELD_OUT).split(BATCH)]
                value, whole = (sum(map(float, each)) for each in zip(*values))
                return {"held_out_relative": value / whole}

            torch.set_grad_enabled(True)
            trainer.run(loss, log_every=100, evaluate=evaluate)
            torch.set_grad_enabled(False)
        trainer.use_ema()
        module.eval().requires_grad_(False)
        first = self.host.module("demo.model")
        shared, _ = first.read_weights(first.WEIGHTS, ("latent",))
        return first.patcher(student, shared["latent"], self.flow.load_flow_model, None)

    # ----------------------------------------------------------------------------------------------------- measure

    def guided(self, conditioning, guidance):
        return self.run("FluxGuidance", conditioning=conditioning, guidance=guidance)[0]

    def pictures(self, case: Case, names) -> dict[str, np.ndarray]:
        """Name -> the edit, or for "back" the source row, as uint8 (128, 128, 3)."""
        latent, results = self.latent_of(case), {}
        positive, pair = self.run("P2PPromptPair", clip=self.clip, source=case.source, target=case.target)
        for guidance in INVERTED:
            for row in ROWS:
                wanted = [name for name in names if name in (named(guidance, row), named(guidance, row, back=True))]
                if not wanted:
                    continue
                (inverted,) = self.run(
                    "P2PDDIMInvert", model=self.model, conditioning=self.guided(self.encode(case.source), guidance),
                    latent_image=latent, steps=STEPS, scheduler="normal", denoise=1.0, refine_iterations=REFINE,
                    source_row=row,
                )[:1]  # fmt: skip
                (model,) = self.run("P2PAttentionReplace", model=inverted, pair=pair, **real_images.WINDOWS)
                samples = self.sample(model, self.guided(positive, SAMPLED), self.empty, latent, cfg=1.0)
                results[named(guidance, row)] = self.decoded(samples[1:])[0]
                results[named(guidance, row, back=True)] = self.decoded(samples[:1])[0]
        return results


def named(guidance, row, back=False) -> str:
    return f"inverted at {guidance:g}, {row}{', source row' if back else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="of distilling")
    parser.add_argument("--scenes", type=int, default=48)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="only print the table of the pictures there are")
    arguments = parser.parse_args()
    numbers = range(arguments.first, arguments.first + arguments.scenes)
    names = [named(guidance, row, back) for back in (False, True) for row in ROWS for guidance in INVERTED]
    if not arguments.table:
        bench = Bench()
        bench.model = bench.distilled(arguments.steps)
        injections.make_pictures(bench, numbers, names, FOLDER)
    sys.path.append(str(real_images.real_host.PACK))
    from demo import scenes

    print(f"scenes {numbers.start} to {numbers.stop - 1}, {STEPS} steps, edits at guidance {SAMPLED:g}\n")
    print(injections.table(scenes, numbers, names, FOLDER))


if __name__ == "__main__":
    main()
