"""The benches of what an edit costs and of how it computes, on small models: they run, and count what there is."""

from __future__ import annotations

import sys
from argparse import Namespace

import pytest
import torch
from real_host import PACK
from sampling import relative_error
from small_transformers import there_is

sys.path.append(str(PACK / "tests" / "bench"))
import cost  # noqa: E402
import device  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("family", ["flux", "sd3", "qwen", "zimage", "anima"])
def test_a_transformers_edits_are_counted(family, host):
    """Edits of one term are what stock computes; of two, one attention more."""
    from full_transformers import FULL

    kind, _, _ = FULL[family]
    if not there_is(kind):
        pytest.skip("newer hosts have it")

    class Small(cost.TransformerBench):
        def load(self, host, run_node):
            self.side = 16
            self.set_up(kind, host, run_node)

    options = Namespace(family=family, device="cpu", dtype="float32", steps=1, rounds=0, edit=None, skip_maps=True)
    bench = Small(options, host)
    counted = {}
    for name, (_, target, edits) in cost.CASES.items():
        runs, with_model = bench.runs(edits, [target], bench.side)
        counted[name] = bench.ratios(runs)["P2P"]
        if name == "replace" or (name == "refine" and family not in ("zimage", "anima")):  # whose own filling differs
            built = with_model(bench.built_maps(name, bench.side))
            assert relative_error(built, runs["P2P"]()) < 1e-3, "it is the same edit"
    small_beside_its_text = family == "anima"  # 512 positions, which the alignment carries over
    assert abs(counted["replace"].arithmetic - 1.0) < (0.5 if small_beside_its_text else 0.02)
    assert 1.0 < counted["refine"].arithmetic < 1.5
    assert 1.0 < counted["blend"].arithmetic < 1.6
    assert torch.tensor([each.memory for each in counted.values()]).isfinite().all()


def small_unet(host, dtype):
    options = Namespace(family="sd15", channels=32, latent=16, device="cpu", dtype=dtype, steps=1, rounds=0, edit=None)
    return cost.Bench(options, host)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_edit_is_as_exact_as_its_precision(dtype, host):
    bench = small_unet(host, dtype)
    for name in ("replace", "refine"):
        found = device.exactness(bench, name)
        assert found["source row over stock, most"] == 0.0
        assert found["edited row over built maps"] < 2 * found["stock row over built maps, no edit"]
        assert found["edited row over built maps"] < (1e-5 if dtype == "float32" else 0.1)
        assert found["edited row over stock"] > 0.1, "it is an edit"


def test_a_step_of_ours_reads_few_numbers(host):
    """The noise level, once for each thing that has to know the step, whether rows had noise of their own, and whether
    the pieces of a mask are whole."""
    bench = small_unet(host, "float32")
    _, target, edits = cost.CASES["blend"]
    runs, _ = bench.runs(edits, [target], bench.side)
    stock, ours = (device.waits_of_a_step(bench, runs[kind]) for kind in ("stock", "P2P"))
    assert ours - stock == {"_local_scalar_dense": 3, "equal": 2}
