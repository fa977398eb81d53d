"""What only the device can show: whether an edit is exact in its precision, whether it waits, and where time goes.

    python dev.py bench device --device cuda --dtype float16             full SD 1.5; the options of ``bench cost``
    python dev.py bench device --device cuda --dtype bfloat16 --family flux

Exact: the source row of a P2P run over the stock run of the same batch, which ought to be the same bits; and the edited
row over the same edit with every map built in single precision, beside what precision alone makes of the stock row.
Waits: calls at which the host has to wait until the device is done (a number read, a place looked for, a copy to
another device), of one more step, of the P2P run and of the stock run; a GPU is idle for each. Time: the operations
that take the most of it in both runs, by PyTorch's profiler. On a CPU nothing is waited for, but the same calls count.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
import cost  # noqa: E402

WAIT = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim"}
COPY = {"_to_copy", "copy_"}
STEPS, MORE = 2, 4
OPERATIONS = 12


def arguments() -> argparse.Namespace:
    parser = cost.parser_of(__doc__)
    parser.add_argument("--out", type=Path, help="also append each line to this file, as soon as it is known")
    return parser.parse_args()


def rms(got, wanted) -> float:
    """Relative."""
    got, wanted = got.double(), wanted.double()
    return float((got - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())


def waits(function, device: str) -> Counter:
    """Calls of ``function`` at which the host waits for a device of this type, by name."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Watch(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen: Counter = Counter()

        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            result = operation(*args, **(kwargs or {}))
            name = operation.overloadpacket.__name__
            if name in WAIT | COPY:
                tensors = [each for each in tree_leaves((args, result)) if isinstance(each, torch.Tensor)]
                devices = {each.device for each in tensors}
                there = any(each.type == device for each in devices)
                if name in WAIT and there:
                    self.seen[name] += 1
                elif name in COPY and there and len(devices) > 1:
                    self.seen["copy to another device"] += 1
            return result

    with Watch() as watch:
        function()
    return watch.seen


def waits_of_a_step(bench: cost.Bench, function) -> Counter:
    """What one step more adds, on the mean."""

    def counted(steps: int) -> Counter:
        bench.options.steps = steps
        return waits(function, bench.options.device)

    few, many = counted(STEPS), counted(MORE)
    return Counter({name: (many[name] - few[name]) / (MORE - STEPS) for name in many if many[name] != few[name]})


def exactness(bench: cost.Bench, name: str) -> dict[str, float]:
    """How far the rows of one of ``cost.CASES`` are from what they ought to be; the last figure is the edit itself."""
    import torch

    _, target, edits = cost.CASES[name]
    runs, with_model = bench.runs(edits, [target], bench.side)
    stock, ours = runs["stock"](), runs["P2P"]()
    built = with_model(bench.built_maps(name, bench.side, precision=torch.float32))
    return {
        "source row over stock, most": float((ours[0].double() - stock[0].double()).abs().max()),
        "edited row over built maps": rms(ours[1], built[1]),
        "stock row over built maps, no edit": rms(stock[0], built[0]),
        "edited row over stock": rms(ours[1], stock[1]),
    }


def milliseconds_of_operations(bench: cost.Bench, function) -> dict[str, float]:
    """Milliseconds of each operation itself, not of those that it calls, on the device."""
    from torch.profiler import ProfilerActivity, profile

    cuda = bench.options.device == "cuda"
    function()
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as seen:
        function()
    return {
        each.key: (each.self_device_time_total if cuda else each.self_cpu_time_total) / 1000
        for each in seen.key_averages()
    }


def lines(bench: cost.Bench):
    """The report, line by line."""
    yield "## Exact"
    for name in ("replace", "refine"):
        found = exactness(bench, name)
        yield f"{cost.CASES[name][0]}: " + "; ".join(f"{what}: {value:.2e}" for what, value in found.items())
    yield "## Waits of a step, stock and P2P"
    for title, target, edits in cost.CASES.values():
        runs, _ = bench.runs(edits, [target], bench.side)
        both = [waits_of_a_step(bench, runs[kind]) for kind in ("stock", "P2P")]
        told = [", ".join(f"{count:g} {name}" for name, count in sorted(each.items())) or "none" for each in both]
        yield f"{title}: {told[0]} | {told[1]}"
    yield f"## Where the time of {STEPS} steps goes, in ms: stock, P2P"
    bench.options.steps = STEPS
    for title, target, edits in cost.CASES.values():
        runs, _ = bench.runs(edits, [target], bench.side)
        stock, ours = (milliseconds_of_operations(bench, runs[kind]) for kind in ("stock", "P2P"))
        yield f"{title}: {sum(stock.values()):.1f}, {sum(ours.values()):.1f}"
        dearest = sorted(ours, key=lambda name: stock.get(name, 0.0) - ours[name])[:OPERATIONS]
        yield from (f"    {name[:100]}: {stock.get(name, 0.0):.2f}, {ours[name]:.2f}" for name in dearest)


def main() -> None:
    options = arguments()
    bench = cost.load(options)
    head = f"# {bench.what}, latent {bench.side} x {bench.side}, {options.dtype} on {options.device}"
    for line in itertools.chain([f"{head} ({options.attention} attention)"], lines(bench)):
        print(line, flush=True)
        if options.out:
            with options.out.open("a") as file:
                print(line, file=file)


if __name__ == "__main__":
    main()
