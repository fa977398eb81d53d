"""What an edit costs: time, arithmetic and peak memory of a P2P run over the stock KSampler on the same rows: ratios.

Beside it, the same edit the way the research code does it, with every attention map built. All in one process, in
turn, every second round in the opposite order; a ratio of times is the median over the rounds. Edits are in force
during the whole run, the dearest case. On a CPU, time is that of the processor, on one thread. Arithmetic is counted
(products of matrices and convolutions), so it is the same on every machine.

    python dev.py bench cost                             full SD 1.5, latent 64 x 64
    python dev.py bench cost --family sdxl               full SDXL, latent 128 x 128
    python dev.py bench cost --channels 96 --grow        how the ratios grow with the latent, the rows and the words
    python dev.py bench cost --family flux               Flux.1's layers, a few of them; also sd3 (SD3.5 large), qwen,
                                                         zimage and, in a host that has it, anima
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

sys.path.append(str(Path(__file__).resolve().parents[1] / "comfy"))
sys.path.append(str(Path(__file__).parent))
import real_host  # noqa: E402

SOURCE, SWAP, PHRASE = "a cat on a red chair", "a dog on a red chair", "a cat on a small red chair"
WHOLE = {"cross_start": 0.0, "cross_end": 1.0, "self_start": 0.0, "self_end": 1.0}
REPLACE = [("P2PAttentionReplace", WHOLE)]
REFINE = [
    ("P2PAttentionRefine", WHOLE),
    ("P2PReweightToken", {"words": "small", "scale": 3.0, "start": 0.0, "end": 1.0}),
]
SEEN = [
    *REPLACE,
    ("P2PLocalBlendMask", {
        "words": "", "exclude_words": "", "threshold": 0.3, "start": 0.0, "spread": True, "grow": 0, "feather": 0.0,
        "map_resolution": "auto", "mask_from": "words and change",
    }),
    ("P2PRecordAttention", {"words": "", "attention": "cross", "map_resolution": "auto"}),
]  # fmt: skip
CASES = {  # -> (title, edited prompt, nodes)
    "replace": ("Replace + self-attention", SWAP, REPLACE),
    "refine": ("Refine + self-attention + Reweight", PHRASE, REFINE),
    "blend": ("Replace + self-attention + Local Blend (words and change) + maps of every word", SWAP, SEEN),
}


UNETS = ("sd15", "sdxl")


def parser_of(text: str) -> argparse.ArgumentParser:
    """What a run is: the model, its size, where it is computed."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=(*UNETS, "flux", "sd3", "qwen", "zimage", "anima"), default="sd15")
    parser.add_argument("--blocks", type=int, help="of a transformer, instead of the few that it has here")
    parser.add_argument("--channels", type=int, default=320, help="width of the UNet; both have 320")
    parser.add_argument("--latent", type=int, help="height and width of the latent (SD 1.5: 64, others: 128)")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument(
        "--attention", choices=("host", "pytorch"), default="host", help="which kernel; host: its choice"
    )
    return parser


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="of timing; 0: only arithmetic and memory")
    parser.add_argument("--edit", choices=tuple(CASES), help="this one alone")
    parser.add_argument("--skip-maps", action="store_true", help="leave out the run that builds every map")
    parser.add_argument(
        "--grow", action="store_true", help="the ratios for several latents, rows and lengths of prompt"
    )
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    if options.family not in UNETS and (options.grow or options.channels != 320):
        parser.error("--grow, --channels: wanted sd15 or sdxl, whose size they change; a transformer has --blocks")
    if options.edit and options.grow:
        parser.error("--edit: wanted without --grow, whose table has a column for each edit")
    return options


def arithmetic_and_peak(function, device: str) -> tuple[int, int]:
    """Floating-point operations of ``function``, and most bytes of tensors alive at once that it made."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query, key, value, *others, out_shape=None, **settings):
        return sdpa_flop_count(query, key, value)

    on_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}  # PyTorch does not count it
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        peak = peak_bytes(function, device)
    return counter.get_total_flops(), peak


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


@contextmanager
def as_much_free_memory(device: str) -> Iterator[None]:
    """The host splits rows by how much memory is free, which on a CPU changes: here it is told the same each time."""
    from comfy import model_management

    free = model_management.get_free_memory(model_management.get_torch_device())

    def told(device=None, torch_free_too=False):
        return (free, free) if torch_free_too else free

    if device == "cuda":
        yield
    else:
        with mock.patch.object(model_management, "get_free_memory", told):
            yield


class Ratios(NamedTuple):
    """Over the stock run: times of the rounds, arithmetic, peak memory."""

    times: list[float]
    arithmetic: float
    memory: float

    @property
    def time(self) -> str:
        """The median, and in brackets how far the rounds lie apart."""
        if not self.times:
            return "not measured"
        return f"{statistics.median(self.times):.3f} ({max(self.times) - min(self.times):.3f})"

    @property
    def cells(self) -> list[str]:
        return [self.time, f"{self.arithmetic:.4f}", f"{self.memory:.3f}"]


class Bench:
    """One model, and the runs that are compared on it."""

    def __init__(self, options: argparse.Namespace, host: Any):
        import torch

        self.options, self.dtype = options, getattr(torch, options.dtype)
        self.load(host, lambda node_id, **inputs: real_host.run_node(host.node(node_id), **inputs))

    def load(self, host, run_node) -> None:
        import torch
        from full_models import LATENT, full_size
        from sampling import Sampling

        options = self.options
        self.side = options.latent or LATENT[options.family]
        model, clip = full_size(options.family, self.dtype, torch.device(options.device), options.channels)
        self.sampling = Sampling(run_node, model, clip)
        self.align = host.module("p2p_attention.align").align
        self.what = f"{options.family} architecture, {options.channels} channels"

    def runs(self, edits, targets, side, source=SOURCE):
        """kind -> a run of it. Rows: the source, and the targets, which are edited alike."""
        import torch
        from sampling import latent

        sampling, rows = self.sampling, 1 + len(targets)
        positive, pair = sampling.pair(*targets, source=source)
        model = sampling.model
        for node, inputs in edits:
            outputs = sampling.run_node(node, model=model, pair=pair, **inputs)
            model = outputs[0]
        negative = sampling.encode()
        image = latent(1, side, side)
        stock = {"samples": torch.zeros(rows, 4, side, side), "batch_index": [0] * rows}  # its rows have the same noise

        def run(model, image):
            made = sampling.ksampler(model, positive, image, negative, steps=self.options.steps)
            if self.options.device == "cuda":
                torch.cuda.synchronize()
            return made

        return {"stock": lambda: run(sampling.model, stock), "P2P": lambda: run(model, image)}, lambda built: run(
            built, stock
        )

    def built_maps(self, name, side, precision=None):
        """The same edit with every attention map built: a model for the stock sampler."""
        import torch
        from explicit_softmax import RowEdit, edited_model

        _, target, _ = CASES[name]
        _, pair = self.sampling.pair(target)
        alignment = self.align(pair.source, pair.targets[0])
        kinds, scale = (("shared",), 3.0) if name == "refine" else (("shared", "swapped"), 1.0)
        gates = torch.tensor([float(kind in kinds) for kind in alignment.kinds])
        gains = torch.ones(pair.length)
        gains[list(pair.find("small", pair.targets[0]))] = scale
        row_edit = RowEdit(alignment.matrix, lambda middle: gates, lambda middle: gains, lambda middle: True)
        injecting = max(256, (side // 4) ** 2)
        return edited_model(self.sampling.model, [row_edit], injecting, precision=precision or self.dtype)

    def seconds(self, function) -> float:
        clock = time.perf_counter if self.options.device == "cuda" else time.process_time
        start = clock()
        function()
        return clock() - start

    def ratios(self, runs) -> dict[str, Ratios]:
        """kind -> what it costs over "stock"."""
        runs["stock"]()  # loads the model
        times: dict[str, list[float]] = {kind: [] for kind in runs}
        with as_much_free_memory(self.options.device):
            counted = {kind: arithmetic_and_peak(function, self.options.device) for kind, function in runs.items()}
            for number in range(self.options.rounds):
                for kind in list(runs)[:: -1 if number % 2 else 1]:  # so that none always comes first
                    times[kind].append(self.seconds(runs[kind]))

        def over_stock(mine, stock):
            return [each / its for each, its in zip(mine, stock, strict=True)]

        stock_times, stock_counted = times.pop("stock"), counted.pop("stock")
        return {
            kind: Ratios(over_stock(times[kind], stock_times), *over_stock(counted[kind], stock_counted))
            for kind in times
        }


class TransformerBench(Bench):
    """The same with a newer model: a few of the real one's blocks, and a text as its encoder would give it."""

    def load(self, host, run_node) -> None:
        from full_transformers import FEW, FULL, enter
        from small_transformers import there_is

        family = self.options.family
        kind, all_blocks, _ = FULL[family]
        if not there_is(kind):
            raise SystemExit(f"Wanted a ComfyUI that has {kind}, got one without it. Name a newer one in COMFYUI.")
        blocks = self.options.blocks or FEW[family]
        self.side = self.options.latent or 128
        self.set_up(enter(family, blocks), host, run_node)
        self.what = f"{family} architecture, {blocks} of {all_blocks} blocks"

    def set_up(self, name: str, host, run_node) -> None:
        """``name`` is one of ``small_transformers.SMALL``."""
        import comfy.model_patcher
        import torch
        from transformer_runs import Run

        self.transformer = Run(name, host, run_node, dtype=self.dtype)
        self.transformer.model = comfy.model_patcher.ModelPatcher(
            self.transformer.model.model, torch.device(self.options.device), torch.device("cpu")
        )

    def runs(self, edits, targets, side, source=SOURCE):
        import torch
        from full_transformers import DISTILLED

        of, rows = self.transformer, 1 + len(targets)
        positive, pair = of.pair(*targets, source=source)
        model = of.model
        for node, inputs in edits:
            model = of.run_node(node, model=model, pair=pair, **inputs)[0]
        settings = {"height": side, "width": side, "cfg": 1.0 if self.options.family in DISTILLED else 4.0}

        def run(model, rows):
            made = of.sample(model, positive, rows=rows, steps=self.options.steps, **settings)
            if self.options.device == "cuda":
                torch.cuda.synchronize()
            return made

        return {"stock": lambda: run(of.model, rows), "P2P": lambda: run(model, 1)}, lambda built: run(built, rows)

    def built_maps(self, name, side, precision=None):
        import torch
        from transformer_runs import edits_of, explicit

        _, pair = self.transformer.pair(CASES[name][1], source=SOURCE)
        kinds, gains = (("shared",), [("small", 3.0)]) if name == "refine" else (("shared", "swapped"), [])
        edits = edits_of(self.transformer, pair, kinds, gains, cross_end=1.0, self_end=1.0)
        (grid,) = (
            self.transformer.host.module("p2p_attention.host.families")
            .family_of(self.transformer.model)
            .grids(self.transformer.model, (side, side))
        )
        lengths = [prompt.length for prompt in (pair.source, *pair.targets)]
        return explicit(
            self.transformer,
            edits,
            pair.length,
            lengths if len(set(lengths)) > 1 else None,
            images=grid[0] * grid[1],
            precision=precision or (torch.float32 if self.options.device == "cpu" else self.dtype),
        )


def load(options: argparse.Namespace) -> Bench:
    """The host with the pack in it, and the bench of a family."""
    real_host.enter(options.device, pytorch_attention=options.attention == "pytorch")
    import torch

    if options.device == "cpu":
        torch.set_num_threads(1)
    return (Bench if options.family in UNETS else TransformerBench)(options, real_host.load_pack())


def compare(bench: Bench) -> list[str]:
    lines = [
        "| edit | time / stock (scatter) | arithmetic | peak memory | every map built: time / stock | arithmetic "
        "| peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (title, target, edits) in CASES.items():
        if bench.options.edit not in (None, name):
            continue
        runs, with_model = bench.runs(edits, [target], bench.side)
        if not bench.options.skip_maps and name != "blend":  # maps of every layer are there to be seen already
            built = bench.built_maps(name, bench.side)
            runs["maps"] = lambda built=built, with_model=with_model: with_model(built)
        ratios = bench.ratios(runs)
        cells = ratios["P2P"].cells + (ratios["maps"].cells if "maps" in ratios else [""] * 3)
        lines.append(f"| {title} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def grow(bench: Bench) -> list[str]:
    """Each alone: a larger latent, more edits, longer prompts."""
    lines = ["| | latent | edits | tokens | Replace | Refine | with blend and maps |", "|---|---|---|---|---|---|---|"]
    more = ", and a very quiet evening with long shadows over everything that stands there"
    settings = [("latent", 32, 1, 0)]
    settings += [("edits", 32, edits, 0) for edits in (2, 4)]
    settings += [("words", 32, 1, repeats) for repeats in (7, 13)]
    settings += [("latent", side, 1, 0) for side in (48, 64, 96)]  # the dearest last
    for what, side, edits, repeats in settings:
        cells = []
        for _, target, nodes in CASES.values():
            texts = [text + more * repeats for text in (SOURCE, target)]
            runs, _ = bench.runs(nodes, [texts[1]] * edits, side, source=texts[0])
            cells.append("{}, arithmetic {}, memory {}".format(*bench.ratios(runs)["P2P"].cells))
        tokens = bench.sampling.pair(texts[1], source=texts[0])[1].length
        lines.append(f"| {what} | {side} x {side} | {edits} | {tokens} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    options = arguments()
    bench = load(options)
    side = "several latents" if options.grow else f"latent {bench.side} x {bench.side}"
    head = (
        f"{bench.what}, {side}, {options.dtype} on {options.device} ({options.attention} attention), {options.steps} "
        f"steps, 1 seed x 2 rows, median of {options.rounds}"
    )
    table = "\n".join([head, "", *(grow(bench) if options.grow else compare(bench))])
    print("\n" + table)
    if options.out:
        options.out.write_text(table + "\n")


if __name__ == "__main__":
    main()
