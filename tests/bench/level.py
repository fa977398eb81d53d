"""How well do the demo models draw what a caption says, and do their words fade? Judged by ``scene_judge``.

    python dev.py bench level [--model flow] [--captions 128]

Captions are of held-out scenes, seeds 1 to N. Faders: one word of each class in turn is faded by P2P Reweight Token, to
nothing and to twice as much; told is whether the judge sees it, where it sees it in the plain picture.
"""

from __future__ import annotations

import argparse
import random

import numpy as np
import real_images
from real_images import CFG_OF, STEPS
from scene_judge import facts, load_judge

FIRST = 2_600_000  # scenes from here on; nothing else uses them
BATCH = 16


def captions(scenes, count: int) -> list[str]:
    """Of scenes with two different shapes, or one."""
    found, seed = [], FIRST
    while len(found) < count:
        description = scenes.sample_scene(seed).description
        shapes = [thing.shape for thing in description.things]
        if len(set(shapes)) == len(shapes):
            found.append(scenes.caption(description))
        seed += 1
    return found


class Bench(real_images.Bench):
    def drawn(self, texts: list[str], first_seed: int):
        """Pictures uint8 (N, 128, 128, 3), each of its own noise."""
        import torch

        context = torch.cat([self.encode(text)[0][0] for text in texts])
        latent = {"samples": torch.zeros(len(texts), 4, 16, 16)}
        samples = self.sample(self.model, [[context, {}]], self.empty, latent, seed=first_seed, cfg=self.cfg)
        return torch.from_numpy(self.decoded(samples))

    def faded(self, text: str, word: str, seed: int):
        """The picture of a text, then with a word at 0 and at 2."""
        import torch

        positive, pair = self.run("P2PPromptPair", clip=self.clip, source=text, target=f"{text}\n---\n{text}")
        model = self.model
        for edit, scale in ((1, 0.0), (2, 2.0)):
            fader = {"words": word, "scale": scale, "start": 0.0, "end": 1.0, "edit": edit}
            (model,) = self.run("P2PReweightToken", model=model, pair=pair, **fader)
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        samples = self.sample(model, positive, self.empty, latent, seed=seed, cfg=self.cfg)
        return torch.from_numpy(self.decoded(samples))


def right(bench: Bench, judge, texts: list[str]) -> dict[str, tuple[int, int]]:
    """Kind of slot, or "whole captions" -> (right, all)."""
    told: dict[str, list[bool]] = {"whole captions": []}
    for first in range(0, len(texts), BATCH):
        some = texts[first : first + BATCH]
        for said in judge.says(bench.drawn(some, first + 1), some):
            told["whole captions"].append(all(said.values()))
            for slot, seen in said.items():
                told.setdefault(slot.rstrip("01"), []).append(seen)
        print(f"{first + len(some)}/{len(texts)}", flush=True)
    return {kind: (sum(seen), len(seen)) for kind, seen in told.items()}


def faders(bench: Bench, judge, texts: list[str], each: int) -> dict[str, list[np.ndarray]]:
    """Class of word -> for each fader, whether it is seen (at 1, at 0, at 2)."""
    rng, told = random.Random(0), {}
    for number, text in enumerate(texts):
        by_kind = {slot.rstrip("01"): slot for slot in facts(text)}
        open_kinds = [kind for kind in by_kind if len(told.get(kind, ())) < each]
        if not open_kinds:
            continue
        kind = rng.choice(open_kinds)
        slot = by_kind[kind]
        word = facts(text)[slot][-1]
        if text.split().count(word) != 1:
            continue
        pictures = bench.faded(text, word, number + 1)
        seen = [said[slot] for said in judge.says(pictures, [text] * 3)]
        told.setdefault(kind, []).append(np.array(seen))
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(CFG_OF), default="unet")
    parser.add_argument("--captions", type=int, default=128)
    parser.add_argument("--faders", type=int, default=12, help="of each class of words")
    arguments = parser.parse_args()
    bench, judge = Bench(arguments.model), load_judge()
    texts = captions(bench.scenes, arguments.captions)
    print(
        f"\n{arguments.model}, {STEPS} steps, cfg {CFG_OF[arguments.model]:g}; the judge: {judge.metadata['recipe']}\n"
    )
    print("| | right | of |\n|---|---|---|")
    for kind, (good, count) in right(bench, judge, texts).items():
        print(f"| {kind} | {100 * good / count:.0f} % | {count} |")
    print("\n| word faded | N | seen at 1 | then at 0 | then at 2 |\n|---|---|---|---|---|")
    for kind, seen in faders(bench, judge, texts, arguments.faders).items():
        seen = np.array(seen)
        plain = seen[seen[:, 0]]
        at = [f"{100 * plain[:, i].mean():.0f} %" if len(plain) else "" for i in (1, 2)]
        print(f"| {kind} | {len(seen)} | {100 * seen[:, 0].mean():.0f} % | {' | '.join(at)} |")


if __name__ == "__main__":
    main()
