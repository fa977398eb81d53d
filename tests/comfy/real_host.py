"""A real ComfyUI in this process, on the CPU, with the pack loaded as the host loads it."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PACK = Path(__file__).resolve().parents[2]
COMFYUI = Path(os.environ.get("COMFYUI") or PACK / ".host" / "comfyui").resolve()


def enter(device: str = "cpu") -> None:
    """Make the host importable. It expects to run in its own folder, and chooses devices when first imported."""
    if not (COMFYUI / "main.py").is_file():
        raise SystemExit(f"Wanted a ComfyUI at {COMFYUI}, found none. Start with: python dev.py test (or bench)")
    sys.path.insert(0, str(COMFYUI))
    os.chdir(COMFYUI)
    from comfy.cli_args import args

    args.cpu = device == "cpu"

    import torch

    torch.set_grad_enabled(False)


def load_pack() -> SimpleNamespace:
    """The host with the pack in it.

    ``node(id)`` is a node class of the host or the pack; ``module(name)`` a module of the loaded pack; ``schemas()``
    those of the pack's nodes.
    """
    # As main.py does, before ``nodes`` puts comfy/ first on the path, where another utils lies.
    import utils.extra_config  # noqa: F401

    import nodes

    assert Path(nodes.__file__).parent == COMFYUI, "the pack's folder 'nodes' shadows the host's module"
    assert asyncio.run(nodes.load_custom_node(str(PACK))), "the host could not load the pack"
    asyncio.run(nodes.init_builtin_extra_nodes())
    package = str(PACK).replace(".", "_x_")
    return SimpleNamespace(
        node=nodes.NODE_CLASS_MAPPINGS.__getitem__,
        module=lambda name: importlib.import_module(f"{package}.{name}"),
        schemas=lambda: [
            node.GET_SCHEMA()
            for node in nodes.NODE_CLASS_MAPPINGS.values()
            if node.__module__.startswith(f"{package}.")
        ],
    )


def run_node(node_class: Any, **inputs: Any) -> tuple:
    """Run a node of either API through its own function, and give its outputs as a tuple."""
    function = node_class.FUNCTION
    owner = node_class if function == "EXECUTE_NORMALIZED" else node_class()
    outputs = getattr(owner, function)(**inputs)
    return tuple(getattr(outputs, "args", outputs))
