"""What an edit costs: time and peak memory of a P2P run over the stock KSampler on the same rows, as ratios.

Beside it, the same edit the way the research code does it, with every attention map built. All in one process, in
turn, round after round; the ratio is of the medians. Edits are in force during the whole run, the dearest case.

    python dev.py bench cost [--channels 160] [--latent 64] [--steps 2] [--rounds 5] [--skip-maps] [--out results.md]

``--channels 320`` is the full width of SD 1.5. The weights are random: they do not change what is computed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import weakref
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "comfy"))
import real_host  # noqa: E402


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=160, help="width of the UNet (SD 1.5: 320)")
    parser.add_argument("--latent", type=int, default=64, help="height and width of the latent (SD 1.5: 64)")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--skip-maps", action="store_true", help="leave out the run that builds every map")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    return parser.parse_args()


def peak_bytes(function, device: str) -> int:
    """Most bytes of tensors alive at once that ``function`` made."""
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before

    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Ledger(TorchDispatchMode):
        """Counts each new storage when an operation returns it, and discounts it when it is freed."""

        def __init__(self):
            super().__init__()
            self.known: set[int] = set()
            self.alive = self.peak = 0

        def forget(self, key: int, size: int) -> None:
            self.known.discard(key)
            self.alive -= size

        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            result = operation(*args, **(kwargs or {}))
            given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
            for tensor in tree_leaves(result):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    key, size = storage._cdata, storage.nbytes()
                    if key not in self.known and key not in given:
                        self.known.add(key)
                        self.alive += size
                        self.peak = max(self.peak, self.alive)
                        weakref.finalize(storage, self.forget, key, size)
            return result

    with Ledger() as ledger:
        function()
    return ledger.peak


def main() -> None:
    options = arguments()
    real_host.enter(options.device)
    import torch
    from explicit_softmax import CONTEXT, RowEdit, edited_model, moved_mass
    from sampling import PHRASE, SWAP, Sampling, latent
    from small_models import sd15

    host = real_host.load_pack()
    model, clip = sd15(
        model_channels=options.channels,
        channel_mult=[1, 2, 4, 4],
        num_res_blocks=[2, 2, 2, 2],
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    )
    model.model.diffusion_model.to(getattr(torch, options.dtype))
    model.model.diffusion_model.dtype = getattr(torch, options.dtype)
    model.load_device = torch.device(options.device)
    sampling = Sampling(lambda node_id, **inputs: real_host.run_node(host.node(node_id), **inputs), model, clip)
    image = latent(1, options.latent, options.latent)
    whole = {"cross_start": 0.0, "cross_end": 1.0, "self_start": 0.0, "self_end": 1.0}
    ones = torch.ones(CONTEXT)

    def run(model, positive, **settings):
        sampling.ksampler(model, positive, image, steps=options.steps, **settings)
        if options.device == "cuda":
            torch.cuda.synchronize()

    def case(target, edits, alignment, gate, gain):
        """(stock, ours, materialised) runs of one edit; the last two sample two rows, the first is given two."""
        positive, pair = sampling.pair(target)
        patched = model
        for node, inputs in edits:
            patched = sampling.edit(pair, node, patched, **inputs)
        row_edit = RowEdit(alignment, lambda middle: gate, lambda middle: gain, lambda middle: True)
        quarter = (options.latent // 4) ** 2
        maps = edited_model(model, [row_edit], max(256, quarter), precision=getattr(torch, options.dtype))
        two = {"samples": image["samples"].repeat(2, 1, 1, 1)}
        stock = lambda m: sampling.ksampler(m, positive, two, steps=options.steps)  # noqa: E731
        return {"stock": lambda: stock(model), "P2P": lambda: run(patched, positive), "maps": lambda: stock(maps)}

    identity = moved_mass([([i], [i]) for i in range(CONTEXT)])
    shifted = moved_mass([([i], [i]) for i in range(5)] + [([i], [i + 1]) for i in range(5, CONTEXT - 1)])
    new, louder = ones.clone(), ones.clone()
    new[5], louder[5] = 0.0, 3.0
    cases = {
        "Replace + self-attention": case(SWAP, [("P2PAttentionReplace", whole)], identity, ones, ones),
        "Refine + self-attention + Reweight": case(
            PHRASE,
            [
                ("P2PAttentionRefine", whole),
                ("P2PReweightToken", {"words": "small", "scale": 3.0, "start": 0.0, "end": 1.0}),
            ],
            shifted,
            new,
            louder,
        ),
    }

    lines = [
        f"SD 1.5 architecture, {options.channels} channels, latent {options.latent} x {options.latent}, "
        f"{options.dtype} on {options.device}, {options.steps} steps, CFG, 1 seed x 2 rows, median of {options.rounds}",
        "",
        "| edit | time / stock | peak memory / stock | every map built: time / stock | peak memory / stock |",
        "|---|---|---|---|---|",
    ]
    for name, runs in cases.items():
        if options.skip_maps:
            del runs["maps"]
        memory = {kind: peak_bytes(function, options.device) for kind, function in runs.items()}  # also the warm-up
        seconds: dict[str, list[float]] = {kind: [] for kind in runs}
        for round_number in range(options.rounds):
            for kind, function in runs.items():
                if kind == "maps" and round_number >= 2:
                    continue  # so much slower that two rounds tell
                start = time.perf_counter()
                function()
                seconds[kind].append(time.perf_counter() - start)
        median = {kind: statistics.median(values) for kind, values in seconds.items()}
        cells = [
            f"{median[kind] / median['stock']:.3f} | {memory[kind] / memory['stock']:.3f}"
            for kind in runs
            if kind != "stock"
        ]
        lines.append(f"| {name} | " + " | ".join(cells + ["not run | not run"] * options.skip_maps) + " |")
        print(lines[-1], flush=True)
    table = "\n".join(lines)
    print("\n" + table)
    if options.out:
        options.out.write_text(table + "\n")


if __name__ == "__main__":
    main()
