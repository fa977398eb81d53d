"""Fresh noise during a run: drawn once for a seed, and given to all of the seed's rows.

Ancestral and SDE samplers draw noise at every step, each in its own way: from a generator, from a Brownian tree, by
``randn_like``. What they have in common is the call into PyTorch, so that is where it is shared. A sampler that nobody
here has heard of is covered as well, and the source row gets what the same sampler would draw without any edits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, handle_torch_function

# PyTorch's random functions and methods, by the names that they have as functions, as methods and as operators.
BY_SIZE = {"rand", "randn", "randint", "normal"}  # of a size that is told; some of examples, too
IN_PLACE = {"bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_", "random_", "uniform_"}
BY_EXAMPLE = {  # of another tensor's size; the last ones are operators only
    *("rand_like", "randn_like", "randint_like"),
    *("cauchy", "exponential", "geometric", "log_normal", "normal_functional", "random", "uniform"),
}
BY_VALUE = {  # of another tensor, whose values say how each entry is distributed, or which are left out
    "normal", "bernoulli", "binomial", "poisson", "multinomial", "_standard_gamma", "_sample_dirichlet",
    "gumbel_softmax", "dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "rrelu",
}  # fmt: skip
DRAWS = BY_SIZE | BY_EXAMPLE | IN_PLACE | BY_VALUE


class SharedNoise(TorchFunctionMode):
    """While it is entered, random tensors of B R rows are drawn with B rows, each repeated R times.

    Where rows are distributed differently (``torch.normal`` around the rows of x), each is drawn from the same random
    numbers. Holds for the thread that enters it. Draws of any other number of rows are left as they are.

    Args:
        pictures: B, pictures in the batch.
        rows: R, rows of a picture: the source and its edits.
    """

    def __init__(self, pictures: int, rows: int):
        super().__init__()
        self._pictures, self._rows = pictures, rows
        self._asked = lambda: False  # a function that only this mode knows

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "").partition(".")[0]  # operators add an overload's name
        if name in DRAWS:
            return self._draw(name, function, args, kwargs)
        return True if function is self._asked else function(*args, **kwargs)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        _leave_out_of_traces(error)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For the model's own calls: a mode that is entered costs a little with each operation.

        Stays on where somebody has entered a mode after this one: only the last one can be left.
        """
        if not self._is_last():
            yield
            return
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    def _is_last(self) -> bool:
        """Whether this mode is the first to be asked; any other would pass the question on to the function itself."""
        try:
            return handle_torch_function(self._asked, ())
        except TypeError:  # no mode at all, in this thread
            return False

    def _draw(self, name: str, function: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        size = _told_size(args, kwargs) if name in BY_SIZE else None
        if size is not None:
            if not self._is_batch(size):
                return function(*args, **kwargs)
            fewer, options = _with_size(args, _options(kwargs), (self._pictures, *size[1:]))
            return _into(kwargs.get("out"), self._repeat(function(*fewer, **options)))

        inputs = [each for each in (*args, *_options(kwargs).values()) if torch.is_tensor(each)]
        deepest = max((each.ndim for each in inputs), default=0)  # of fewer dimensions: alike for all rows
        batches = [each for each in inputs if each.ndim == deepest and self._is_batch(each.shape)]
        if not batches or (name in IN_PLACE and batches[0] is not args[0]):
            return function(*args, **kwargs)

        def of_rows(choose: Callable[[torch.Tensor], torch.Tensor]) -> Any:
            def chosen(value: Any) -> Any:
                return choose(value) if any(value is each for each in batches) else value

            return function(*map(chosen, args), **{name: chosen(value) for name, value in _options(kwargs).items()})

        if name in BY_VALUE or len(batches) > 1:
            generators = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Generator)]
            drawn = self._draw_each_row(of_rows, _RandomState(batches[0].device, *generators))
        else:
            drawn = self._repeat(of_rows(lambda batch: batch[: self._pictures]))
        return _into(args[0] if name in IN_PLACE else kwargs.get("out"), drawn)

    def _draw_each_row(self, of_rows: Callable, state: _RandomState) -> torch.Tensor:
        """Every row of a picture from the same random numbers; those that the source takes count as drawn."""
        before, drawn = state.get(), []
        for row in reversed(range(self._rows)):
            state.set(before)
            drawn.append(of_rows(lambda batch, row=row: batch[row :: self._rows].clone()))
        return torch.stack(drawn[::-1], dim=1).flatten(0, 1)

    def _is_batch(self, size: Sequence[int]) -> bool:
        return len(size) > 1 and size[0] == self._pictures * self._rows

    def _repeat(self, drawn: torch.Tensor) -> torch.Tensor:
        return drawn.repeat_interleave(self._rows, dim=0)


class _RandomState:
    """Where a generator is in its sequence: one that is given, or the device's own."""

    def __init__(self, device: torch.device, generator: torch.Generator | None = None):
        self.get: Callable[[], torch.Tensor]
        self.set: Callable[[torch.Tensor], Any]
        if generator is not None:
            self.get, self.set = generator.get_state, generator.set_state
        elif device.type == "cpu":
            self.get, self.set = torch.get_rng_state, torch.set_rng_state
        else:
            module, of = getattr(torch, device.type), () if device.type == "mps" else (device,)
            self.get, self.set = lambda: module.get_rng_state(*of), lambda state: module.set_rng_state(state, *of)


def _told_size(args: tuple, kwargs: dict[str, Any]) -> Sequence[int] | None:
    """randn(2, 3), randn((2, 3)), randn(size=(2, 3)), normal(0, 1, (2, 3)), randint(5, (2, 3)), ..."""
    if "size" in kwargs:
        return kwargs["size"]
    if args and all(isinstance(each, int) for each in args):
        return args
    return next((each for each in args if isinstance(each, (tuple, list))), None)


def _with_size(args: tuple, kwargs: dict[str, Any], size: tuple[int, ...]) -> tuple[tuple, dict[str, Any]]:
    """The arguments for another size than ``_told_size``."""
    if "size" in kwargs:
        return args, {**kwargs, "size": size}
    if all(isinstance(each, int) for each in args):
        return (size,), kwargs
    return tuple(size if isinstance(each, (tuple, list)) else each for each in args), kwargs


def _options(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name != "out"}


def _into(out: torch.Tensor | None, drawn: torch.Tensor) -> torch.Tensor:
    """Where the caller wants it, if anywhere."""
    if out is None:
        return drawn
    if out.shape != drawn.shape:
        out.resize_(drawn.shape)
    return out.copy_(drawn)


def _leave_out_of_traces(error: BaseException | None) -> None:
    """What fails while the mode is on fails in a function of PyTorch that somebody else has called: the last line of
    the trace is theirs, not the one here that passed it on."""
    waiting, seen = [error], set()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        kept, trace = [], each.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename != __file__:
                kept.append(trace)
            trace = trace.tb_next
        for frame, following in zip(kept, [*kept[1:], None], strict=True):
            frame.tb_next = following
        each.__traceback__ = kept[0] if kept else None
        waiting += [each.__cause__, each.__context__]
