"""Random tensors of B R rows are drawn with B rows; everything else is left as it is."""

from __future__ import annotations

import re
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from p2p_attention import noise
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
    "normal of a size": lambda x: torch.normal(2.0, 3.0, x.shape),
    "normal of a size, keywords": lambda x: torch.normal(mean=0.0, std=1.0, size=tuple(x.shape)),
    "normal with a generator": lambda x: torch.normal(0.0, 1.0, x.shape, generator=torch.Generator().manual_seed(3)),
    "normal around tensors": lambda x: torch.normal(x, x + 2.0),
    "normal around one for all": lambda x: torch.normal(x, torch.ones(1)),
    "integers": lambda x: torch.randint(100, x.shape),
    "integers from": lambda x: torch.randint(-5, 100, size=x.shape, dtype=torch.int16),
    "integers like": lambda x: torch.randint_like(x, 100),
    "integers in place": lambda x: x.clone().random_(0, 100),
    "exponential": lambda x: torch.empty_like(x).exponential_(2.0),
    "cauchy": lambda x: torch.empty_like(x).cauchy_(),
    "geometric": lambda x: torch.empty_like(x).geometric_(0.3),
    "log normal": lambda x: torch.empty_like(x).log_normal_(),
    "coins": lambda x: torch.bernoulli(x + 0.5),
    "coins by method": lambda x: (x + 0.5).bernoulli(generator=torch.Generator().manual_seed(3)),
    "coins in place": lambda x: x.clone().bernoulli_(0.5),
    "coins in place by tensor": lambda x: x.clone().bernoulli_(x + 0.5),
    "poisson": lambda x: torch.poisson(x + 3.0, torch.Generator().manual_seed(3)),
    "binomial": lambda x: torch.binomial(x + 9.0, x + 0.5),
    "choices": lambda x: torch.multinomial(x.flatten(1) + 1.0, 7, replacement=True),
    "gumbel": lambda x: torch.nn.functional.gumbel_softmax(x),
    "dropout": lambda x: torch.nn.functional.dropout(x + 1.0),
    "gamma": lambda x: torch.distributions.Gamma(x + 1.0, x + 1.0).sample(),
    "laplace": lambda x: torch.distributions.Laplace(x, x + 1.0).sample(),
    "normal distribution": lambda x: torch.distributions.Normal(0.0, 1.0).sample(x.shape),
    "initialised": lambda x: torch.nn.init.trunc_normal_(torch.empty_like(x)),
    "of another memory": lambda x: torch.empty(len(x), 4, 9, 5)[..., 1:7].permute(0, 1, 3, 2).normal_(),
    "out": lambda x: torch.randn(x.shape, out=torch.empty(0)),
    "out that fits": lambda x: torch.normal(x, 1.0, out=torch.ones_like(x)),
    "operator that copies": lambda x: torch.ops.aten.exponential(x),
    "operator": lambda x: torch.ops.aten.randn(list(x.shape)),
    "operator's overload": lambda x: torch.ops.aten.normal_.default(torch.empty_like(x)),
    "frames": lambda x: torch.randn_like(x[:, :, None]),
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


@pytest.mark.parametrize("generator", [None, 3])
def test_rows_that_are_distributed_differently_take_the_same_numbers(generator):
    """x + sigma noise, written as one draw: the source is the stock run's, the edits have its noise."""

    def draw(x):
        chosen = generator and torch.Generator().manual_seed(generator)
        first = torch.normal(x, 2.0, generator=chosen)
        return first, torch.randn(2, 3, generator=chosen)

    x = torch.randn(SEEDS * ROWS, *SHAPE)
    torch.manual_seed(1)
    alone, following = draw(x[::ROWS].clone())
    torch.manual_seed(1)
    with SharedNoise(SEEDS, ROWS):
        shared, then = draw(x)
    assert torch.equal(shared[::ROWS], alone) and torch.equal(then, following), "and goes on where the stock run does"
    added = (shared - x).unflatten(0, (SEEDS, ROWS))
    torch.testing.assert_close(added, added[:, :1].expand_as(added))
    assert added.std() == pytest.approx(2.0, abs=0.2)


def test_what_is_drawn_into_is_what_is_given_back():
    with SharedNoise(SEEDS, ROWS):
        for draw in (lambda x: x.normal_(), lambda x: torch.randn(x.shape, out=x), lambda x: x.bernoulli_(x.sigmoid())):
            given = batch()
            assert draw(given) is given and given.any()


def test_every_random_function_of_pytorch_is_known():
    """By PyTorch's own marks. What is missing here is no draw of noise, or draws in one dimension."""
    marked = set()
    for schema in torch._C._jit_get_all_schemas():
        space, _, name = schema.name.partition("::")
        operator = getattr(getattr(torch.ops.aten, name, None), schema.overload_name or "default", None)
        if space == "aten" and operator is not None and torch.Tag.nondeterministic_seeded in operator.tags:
            marked.add(name)
    layers = {name for name in marked if re.search("gru|lstm|rnn|attention|native_dropout|dropout_|rrelu_", name)}
    inner = {name for name in marked if name.startswith("_")} - {"_standard_gamma", "_sample_dirichlet"}
    assert len(marked) > 40 and marked - layers - inner - {"randperm"} == noise.DRAWS - {"gumbel_softmax"}


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


def test_paused_in_another_thread_does_nothing():
    shared = SharedNoise(SEEDS, ROWS)

    def elsewhere():
        with shared.paused():
            return shares()

    with shared, ThreadPoolExecutor(1) as pool:
        assert not pool.submit(elsewhere).result()
        assert shares()


def test_a_run_within_a_run_is_paused_by_itself():
    outer, inner = SharedNoise(SEEDS, ROWS), SharedNoise(1, 4)
    with outer, inner:
        with outer.paused():
            assert torch.equal(*torch.randn(4, 2)[:2])
        with inner.paused():
            assert shares() and not torch.equal(*torch.randn(4, 2)[:2])


def somebody_elses_line(x):
    return x + torch.ones(7, 8, 9)


def somebody_elses_answer(x):
    try:
        return torch.randn(SEEDS * ROWS, -1)
    except RuntimeError as error:
        raise KeyError("no noise") from error


@pytest.mark.parametrize("line", [somebody_elses_line, somebody_elses_answer])
def test_errors_are_theirs_who_made_them(line):
    """No line of ours stands in the trace after theirs, neither of the error nor of what it came from."""
    shared = SharedNoise(SEEDS, ROWS)
    with pytest.raises((RuntimeError, KeyError)) as caught, shared:
        line(batch())
    error = caught.value
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        assert frames[-1].name == line.__name__
        assert not any(frame.filename == noise.__file__ for frame in frames)
        error = error.__cause__


def test_an_error_ends_it():
    with pytest.raises(KeyError), SharedNoise(SEEDS, ROWS):
        raise KeyError
    assert not shares()
