"""What a run leaves behind: the tensors that Python holds, and what PyTorch's allocator did not get back."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

RUN_STATE = {"EditRun", "BlendRun", "MapRun", "InversionRun", "RowProgram", "SharedNoise"} | {
    "MapTaps",
    "AttentionCalls",
    "ModelCall",
    "CallRows",
    "RowsOfCalls",
    "JointProgram",
    "TextCall",
    "StepCounter",
    "_AskedByPicture",
}


class Census:
    """The tensors and the states of runs that are alive. ``new()`` is what came since."""

    def __init__(self):
        self._before = {id(each): each for each in self._alive()}  # held, so that no new one can take an id

    def new(self) -> list:
        return [each for each in self._alive() if id(each) not in self._before]

    @staticmethod
    def _alive() -> list:
        gc.collect()
        kinds = lambda each: issubclass(type(each), torch.Tensor) or type(each).__name__ in RUN_STATE
        return list(filter(kinds, gc.get_objects()))


def still_allocated(function: Callable[[], object]) -> int:
    """Bytes of the CPU that the allocator handed out during ``function`` and did not get back, whoever holds them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function()
        gc.collect()
    events = profiled.profiler.kineto_results.events()
    return sum(event.nbytes() for event in events if event.name() == "[memory]")
