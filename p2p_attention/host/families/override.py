"""The host's slot for an attention override, which holds one: what stood there goes on standing in for attention.

Nodes for sage or flash attention, and the host's own setting, put theirs there. Ours comes last, into the run's own
options, and calls theirs as its attention function: the order of nodes in the graph does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ...joint_attention import Attention

SLOT = "optimized_attention_override"

# (attention, q, k, v, mask, heads, the host's options of this call) -> output
Around = Callable[
    [Attention, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, int, Mapping[str, Any]], torch.Tensor
]


def install_override(model_options: dict, around: Around) -> None:
    """Put ``around`` around each attention call of a run, whose own ``model_options`` these are."""
    options = model_options.setdefault("transformer_options", {})
    before = options.get(SLOT)

    def override(func, q, k, v, heads, *args, **kwargs):
        def attention(q, k, v, mask):
            given, named = args, kwargs
            if args:
                given = (mask, *args[1:])
            elif mask is not None or "mask" in kwargs:
                named = {**kwargs, "mask": mask}
            if before is None:
                return func(q, k, v, heads, *given, **named)
            return before(func, q, k, v, heads, *given, **named)

        if q.ndim == 3:  # SD3 hands over values with the heads apart; the host's functions do not mind
            k, v = k.flatten(2), v.flatten(2)
        mask = args[0] if args else kwargs.get("mask")
        return around(attention, q, k, v, mask, heads, kwargs.get("transformer_options") or {})

    # A compiled model calls it as it is: what it looks up changes from step to step.
    options[SLOT] = torch.compiler.disable(override)
