"""The bench of what an edit costs, on small models: it runs for every family, and counts what there is to count."""

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
