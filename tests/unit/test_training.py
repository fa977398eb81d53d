"""The loop that trains the demo models: its rate, its checkpoints, and that a run may be ended and finished later."""

from __future__ import annotations

import math
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tools.training.common import Trainer
from tools.training.flow import joint_attention, times


@pytest.fixture
def train(tmp_path):
    """``train(steps)``: go on for so many steps, in a new process as it were; ``finish`` as on the command line."""

    def train(steps=10_000, finish=0, stop_at=None):
        torch.manual_seed(0)
        layer = torch.nn.Linear(16, 16)
        with torch.enable_grad():
            options = SimpleNamespace(out=tmp_path, minutes=math.inf)
            trainer = Trainer("layer", options, {"layer": layer}, steps, 1e-2, 0.9, warm_up=4)
            if finish:
                trainer.finish_in(finish)
            rates = []

            def loss(step):
                if step == stop_at:
                    os.kill(os.getpid(), signal.SIGTERM)
                rates.append(trainer.rate())
                x = torch.from_numpy(np.random.default_rng(step).standard_normal((8, 16), np.float32))
                value = (layer(x) - x).square().mean()
                return value, {"loss": value.detach()}

            trainer.run(loss, log_every=5)
        return trainer, rates

    return train


def test_the_rate_climbs_stays_and_falls(train):
    trainer, rates = train(steps=20)
    assert trainer.step == 20
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert rates[4:13] == pytest.approx([0.01] * 9)
    assert rates[13:] == sorted(rates[13:], reverse=True) and rates[-1] < 0.0017


def test_a_run_is_finished_when_there_is_no_more_time(train, tmp_path):
    """The rate falls from the last checkpoint on, over the steps asked for, also when that was interrupted."""
    train(steps=6)
    constant = (tmp_path / "layer.pt").read_bytes()
    trainer, rates = train(finish=8)
    assert trainer.step == 14 and len(rates) == 8
    assert rates[0] == pytest.approx(0.01) and rates[-1] == pytest.approx(0.01 * (0.02 + 0.98 / 8))
    assert (tmp_path / "layer.before.pt").read_bytes() == constant
    again, rates = train()
    assert again.step == 14 and rates == [], "it is finished"
    assert all(torch.equal(a, b) for a, b in zip(again.ema, trainer.ema, strict=True))
    assert (tmp_path / "loss_layer.csv").read_text().splitlines()[0] == "step,loss"


def test_a_run_that_was_told_to_end_goes_on_where_it_was(train, tmp_path):
    whole, _ = train(steps=12)
    for file in tmp_path.iterdir():
        file.unlink()
    first, _ = train(steps=12, stop_at=6)
    assert first.step == 7
    rest, _ = train(steps=12)
    assert rest.step == 12
    for ours, theirs in ((rest.parameters, whole.parameters), (rest.ema, whole.ema)):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_faders_are_columns_of_the_images_map():
    q, k, v = torch.randn(3, 2, 3, 7, 4)
    amounts = torch.randn(2, 5)
    maps = (q @ k.mT / 2).softmax(-1)
    maps[:, :, 5:, :5] *= amounts[:, None, None]
    torch.testing.assert_close(joint_attention(q, k, v, 5, amounts), (maps @ v).transpose(1, 2).flatten(2))


def test_times_meet_the_ends():
    t = times(np.random.default_rng(0), 20_000)
    assert t.min() > 0 and t.max() < 1 and abs(t.mean() - 0.5) < 0.01
    assert 0.0015 < (t > 0.98).mean() < 0.004  # logit-normal alone: 0.00005
