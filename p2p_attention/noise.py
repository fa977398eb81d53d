"""Fresh noise during a run: drawn once for a seed, and given to all of the seed's rows.

Ancestral and SDE samplers draw noise at every step, each in its own way: from a generator, from a Brownian tree, by
``randn_like``. What they have in common is the call into PyTorch, so that is where it is shared. A sampler that nobody
here has heard of is covered as well, and the source row gets what the same sampler would draw without any edits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode

BY_SIZE = {torch.randn, torch.rand}
BY_EXAMPLE = {torch.randn_like, torch.rand_like}
IN_PLACE = {torch.Tensor.normal_, torch.Tensor.uniform_}


class SharedNoise(TorchFunctionMode):
    """While it is entered, random tensors of B R rows are drawn with B rows, each repeated R times.

    Holds for the thread that enters it. Draws of any other number of rows are left as they are.

    Args:
        seeds: B, pictures in the batch.
        rows: R, rows of a picture: the source and its edits.
    """

    def __init__(self, seeds: int, rows: int):
        super().__init__()
        self._seeds, self._rows = seeds, rows

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function in BY_SIZE and "out" not in kwargs:
            size = kwargs.pop("size", args[0] if args and not isinstance(args[0], int) else args)
            if self._is_batch(size):
                return self._repeat(function((self._seeds, *size[1:]), **kwargs))
            return function(size, **kwargs)
        if function in BY_EXAMPLE and self._is_batch(args[0].shape):
            return self._repeat(function(args[0][: self._seeds], *args[1:], **kwargs))
        if function in IN_PLACE and self._is_batch(args[0].shape):
            drawn = function(args[0][: self._seeds].clone(), *args[1:], **kwargs)
            return args[0].copy_(self._repeat(drawn))
        return function(*args, **kwargs)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For the model's own calls: a mode that is entered costs a little with each operation.

        Stays on where somebody has entered a mode after this one: only the last one can be left.
        """
        if _get_current_function_mode() is not self:
            yield
            return
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    def _is_batch(self, size: tuple) -> bool:
        return len(size) > 1 and size[0] == self._seeds * self._rows

    def _repeat(self, drawn: torch.Tensor) -> torch.Tensor:
        return drawn.repeat_interleave(self._rows, dim=0)
