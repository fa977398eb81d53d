"""What the strengths of P2P Edit do: windows from all of the source's maps to none, on the same scenes and edits.

Rendered scenes are inverted and edited, as in ``real_images``; the figures are those of ``injections``. The rungs that
P2P Edit takes for its strengths are chosen from one set of scenes and reported on another.

    python dev.py bench strength [--model flow] [--scenes 48] [--first 0] [--shard 0/1] [--table]
"""

from __future__ import annotations

import argparse
import sys
import time

import injections
import numpy as np
import real_images
from real_images import REFINE, STEPS, Case, make_case

RUNGS = (
    (1.0, 1.0), (0.95, 0.8), (0.9, 0.6), (0.8, 0.4), (0.65, 0.3), (0.5, 0.2), (0.35, 0.1), (0.2, 0.0), (0.0, 0.0)
)  # fmt: skip
CFG = {"unet": real_images.CFG, "flow": injections.CFG}


def name_of(rung) -> str:
    return f"cross_end {rung[0]:g}, self_end {rung[1]:g}"


class Bench(real_images.Bench):
    def __init__(self, kind: str):
        super().__init__(kind)
        self.cfg = CFG[kind]

    def pictures(self, case: Case, rungs) -> dict[str, np.ndarray]:
        """Name -> the edit as uint8 (128, 128, 3)."""
        import torch

        latent = {"samples": self.vae.encode(torch.from_numpy(case.picture)[None].float() / 255)}
        positive, pair = self.run("P2PPromptPair", clip=self.clip, source=case.source, target=case.target)
        inverted, _ = self.run(
            "P2PDDIMInvert", model=self.model, conditioning=self.encode(case.source), latent_image=latent, steps=STEPS,
            scheduler="normal", denoise=1.0, refine_iterations=REFINE, source_row="pin",
        )  # fmt: skip
        results = {}
        for rung in rungs:
            windows = {"cross_start": 0.0, "cross_end": rung[0], "self_start": 0.0, "self_end": rung[1]}
            (model,) = self.run("P2PAttentionReplace", model=inverted, pair=pair, **windows)
            samples = self.sample(model, positive, self.empty, latent, cfg=self.cfg)
            results[name_of(rung)] = (self.vae.decode(samples[-1:]).clamp(0, 1) * 255).round().byte().numpy()[0]
        return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(CFG), default="unet")
    parser.add_argument("--scenes", type=int, default=48)
    parser.add_argument("--first", type=int, default=0, help="number of the first scene; others to report with")
    parser.add_argument("--shard", default="0/1", help="i/n: only every n-th scene, from i; for several processes")
    parser.add_argument("--table", action="store_true", help="only print the table of the pictures there are")
    arguments = parser.parse_args()
    folder = real_images.FOLDER.parent / f"strength_{arguments.model}"
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(arguments.first, arguments.first + arguments.scenes)
    shard, shards = map(int, arguments.shard.split("/"))
    bench, started = None, time.monotonic()
    for done, number in enumerate([] if arguments.table else numbers[shard::shards]):
        bench = bench or Bench(arguments.model)
        file = folder / f"{number:04}.npz"
        kept = dict(np.load(file)) if file.is_file() else {}
        missing = [rung for rung in RUNGS if name_of(rung) not in kept]
        if missing:
            kept |= bench.pictures(make_case(bench.scenes, number, injections.KINDS), missing)
            part = folder / f"part_{number}.npz"
            np.savez_compressed(part, **kept)
            part.rename(file)
        print(
            f"{done + 1}/{len(numbers[shard::shards])}, {(time.monotonic() - started) / (done + 1):.1f} s each",
            flush=True,
        )
    sys.path.append(str(real_images.real_host.PACK))
    from demo import scenes

    print(
        f"{arguments.model}, scenes {numbers.start} to {numbers.stop - 1}, {STEPS} steps, "
        f"cfg {CFG[arguments.model]:g}\n"
    )
    print(injections.table(scenes, numbers, [name_of(rung) for rung in RUNGS], folder))


if __name__ == "__main__":
    main()
