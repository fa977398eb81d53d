"""What the strengths of P2P Edit do: windows from all of the source's maps to none, on the same scenes and edits.

Rendered scenes are inverted and edited, as in ``real_images``; the figures are those of ``injections``. The rungs that
P2P Edit takes for its strengths are chosen from one set of scenes and reported on another. With ``--keep`` it is what
P2P Edit's ``keep`` does, at strength 0.5.

    python dev.py bench strength [--keep] [--model flow] [--scenes 48] [--first 0] [--shard 0/1] [--table]
"""

from __future__ import annotations

import argparse
import sys

import injections
import numpy as np
import real_images
from real_images import CFG_OF, STEPS, Case

RUNGS = {
    f"cross_end {cross:g}, self_end {self_attention:g}": (cross, self_attention)
    for cross, self_attention in (
        (1.0, 1.0), (0.95, 0.8), (0.9, 0.6), (0.8, 0.4), (0.65, 0.3), (0.5, 0.2), (0.35, 0.1), (0.2, 0.0), (0.0, 0.0),
        (0.6, 0.6), (0.4, 0.4), (0.4, 0.2),
    )
}  # fmt: skip


KEPT = ("the composition", "everything but the words", "automatic")
KINDS_KEPT = (*real_images.KINDS, "removed", "shape", "colour", "thing", "removed")


class Bench(real_images.Bench):
    def pictures(self, case: Case, rungs) -> dict[str, np.ndarray]:
        """Name -> the edit as uint8 (128, 128, 3)."""
        latent = self.latent_of(case)
        positive, pair = self.run("P2PPromptPair", clip=self.clip, source=case.source, target=case.target)
        inverted = self.inverted(self.encode(case.source), latent)
        results = {}
        for name in rungs:
            cross, self_attention = RUNGS[name]
            windows = {"cross_start": 0.0, "cross_end": cross, "self_start": 0.0, "self_end": self_attention}
            (model,) = self.run("P2PAttentionReplace", model=inverted, pair=pair, **windows)
            samples = self.sample(model, positive, self.empty, latent, cfg=self.cfg)
            results[name] = self.decoded(samples[-1:])[0]
        return results


class BenchOfKeep(real_images.Bench):
    def pictures(self, case: Case, keeps) -> dict[str, np.ndarray]:
        """Name -> the edit as uint8 (128, 128, 3)."""
        edit_by_prompt = self.host.module("p2p_attention.host.one_edit").edit_by_prompt
        latent = self.latent_of(case)
        inverted = self.inverted(self.encode(case.source), latent)
        results = {}
        for keep in keeps:
            edit = edit_by_prompt(inverted, self.clip, case.source, case.target, 0.5, keep)
            samples = self.sample(edit.model, edit.conditioning, edit.negative, latent, cfg=self.cfg)
            results[keep] = self.decoded(samples[-1:])[0]
        return results


def told_whole(scenes, numbers, folder, kinds) -> str:
    """Which edits *automatic* takes for ones of the whole picture: its picture is *the composition*'s."""
    taken: dict[str, list[bool]] = {"a part": [], "the whole picture": []}
    for number in (number for number in numbers if (folder / f"{number:04}.npz").is_file()):
        kept = np.load(folder / f"{number:04}.npz")
        local = real_images.make_case(scenes, number, kinds).region is not None
        taken["a part" if local else "the whole picture"].append(
            np.array_equal(kept["automatic"], kept["the composition"])
        )
    return "taken for whole: " + ", ".join(
        f"{sum(each)} of {len(each)} edits of {what}" for what, each in taken.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(CFG_OF), default="unet")
    parser.add_argument("--scenes", type=int, default=48)
    parser.add_argument("--first", type=int, default=0, help="number of the first scene; others to report with")
    parser.add_argument("--shard", default="0/1", help="i/n: only every n-th scene, from i; for several processes")
    parser.add_argument("--table", action="store_true", help="only print the table of the pictures there are")
    parser.add_argument("--keep", action="store_true", help="what is kept, in place of how much may change")
    arguments = parser.parse_args()
    kind, names, kinds = (BenchOfKeep, KEPT, KINDS_KEPT) if arguments.keep else (Bench, RUNGS, injections.KINDS)
    folder = real_images.FOLDER.parent / f"{'keep' if arguments.keep else 'strength'}_{arguments.model}"
    numbers = range(arguments.first, arguments.first + arguments.scenes)
    shard, shards = map(int, arguments.shard.split("/"))
    if not arguments.table:
        injections.make_pictures(kind(arguments.model), numbers[shard::shards], list(names), folder, kinds)
    sys.path.append(str(real_images.real_host.PACK))
    from demo import scenes

    print(
        f"{arguments.model}, scenes {numbers.start} to {numbers.stop - 1}, {STEPS} steps, "
        f"cfg {CFG_OF[arguments.model]:g}\n"
    )
    print(injections.table(scenes, numbers, list(names), folder, kinds))
    if arguments.keep:
        print("\n" + told_whole(scenes, numbers, folder, kinds))


if __name__ == "__main__":
    main()
