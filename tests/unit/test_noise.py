"""Random tensors of B R rows are drawn with B rows; everything else is left as it is."""

from __future__ import annotations

import pytest
import torch

from p2p_attention.noise import SharedNoise

SEEDS, ROWS, SHAPE = 2, 3, (4, 5, 6)


def batch(rows=SEEDS * ROWS):
    return torch.zeros(rows, *SHAPE)


DRAWS = {
    "size": lambda x: torch.randn(x.size()),
    "numbers": lambda x: torch.randn(*x.shape),
    "keyword": lambda x: torch.randn(size=x.shape),
    "options": lambda x: torch.randn(x.shape, dtype=torch.float16, device="cpu"),
    "generator": lambda x: torch.randn(x.shape, generator=torch.Generator().manual_seed(3)),
    "uniform": lambda x: torch.rand(list(x.shape)),
    "like": torch.randn_like,
    "uniform like": lambda x: torch.rand_like(x, dtype=torch.float64),
    "channels last": lambda x: torch.randn_like(x.contiguous(memory_format=torch.channels_last)),
    "in place": lambda x: torch.empty_like(x).normal_(),
    "uniform in place": lambda x: torch.empty_like(x).uniform_(-1, 1),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_rows_of_a_seed_get_what_the_seed_alone_would(draw):
    torch.manual_seed(1)
    wanted = [draw(batch(SEEDS)) for _ in range(2)]
    torch.manual_seed(1)
    with SharedNoise(SEEDS, ROWS):
        got = [draw(batch()) for _ in range(2)]
    for shared, alone in zip(got, wanted, strict=True):
        assert shared.dtype == alone.dtype
        assert torch.equal(shared, alone.repeat_interleave(ROWS, 0))


@pytest.mark.parametrize("size", [(5, *SHAPE), (SEEDS, *SHAPE), (1, 3), (SEEDS * ROWS,), ()])
def test_other_tensors_are_drawn_as_ever(size):
    torch.manual_seed(1)
    wanted = torch.randn(size)
    torch.manual_seed(1)
    with SharedNoise(SEEDS, ROWS):
        assert torch.equal(torch.randn(size), wanted)
        assert torch.equal(batch() + 1, torch.ones(SEEDS * ROWS, *SHAPE))
        assert torch.randint(0, 5, (SEEDS * ROWS, 2)).shape == (SEEDS * ROWS, 2)
        assert torch.randn(SEEDS * ROWS, 2, out=torch.empty(0)).shape == (SEEDS * ROWS, 2)


def shares() -> bool:
    drawn = torch.randn(SEEDS * ROWS, 2)
    return torch.equal(drawn[0], drawn[1])


def test_paused():
    shared = SharedNoise(SEEDS, ROWS)
    with shared:
        assert shares()
        with shared.paused():
            assert not shares()
        assert shares()
        with pytest.raises(KeyError), shared.paused():
            raise KeyError
        assert shares(), "an error within leaves it on"
    assert not shares()


def test_under_another_mode_it_stays_on_and_the_other_is_left_alone():
    shared = SharedNoise(SEEDS, ROWS)
    with shared, torch.device("meta"):
        with shared.paused():
            assert torch.zeros(1).device.type == "meta"
        assert torch.zeros(1).device.type == "meta"
    assert torch.zeros(1).device.type == "cpu"
    assert not shares()


def test_an_error_ends_it():
    with pytest.raises(KeyError), SharedNoise(SEEDS, ROWS):
        raise KeyError
    assert not shares()
