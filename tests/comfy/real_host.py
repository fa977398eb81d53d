"""A real ComfyUI in this process, on the CPU or what P2P_DEVICE names, with the pack loaded as the host loads it."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PACK = Path(__file__).resolve().parents[2]
COMFYUI = Path(os.environ.get("COMFYUI") or PACK / ".host" / "comfyui").resolve()
DEVICE = os.environ.get("P2P_DEVICE") or "cpu"  # or cuda


def enter(device: str = DEVICE, pytorch_attention: bool = False) -> None:
    """Make the host importable. It expects to run in its own folder, and chooses devices when first imported.

    Args:
        device: cpu or cuda.
        pytorch_attention: rather than what the host takes on this device.
    """
    if not (COMFYUI / "main.py").is_file():
        raise SystemExit(f"Wanted a ComfyUI at {COMFYUI}, found none. Start with: python dev.py test (or bench)")
    sys.path.insert(0, str(COMFYUI))
    os.chdir(COMFYUI)
    from comfy.cli_args import args

    args.cpu = device == "cpu"
    args.use_pytorch_cross_attention = pytorch_attention
    args.lowvram = bool(os.environ.get("P2P_LOWVRAM"))

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
    package = _package()
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
    """Run a node of either API through its own function, and give its outputs as a tuple.

    Inputs that newer hosts have given to their own nodes, and ask for, are at the value that the page would give them.
    """
    function = node_class.FUNCTION
    owner = node_class if function == "EXECUTE_NORMALIZED" else node_class()
    if not node_class.__module__.startswith(f"{_package()}."):
        inputs |= _asked_for(node_class, getattr(owner, "execute" if owner is node_class else function), inputs)
    outputs = getattr(owner, function)(**inputs)
    return tuple(getattr(outputs, "args", outputs))


def _package() -> str:
    """As the host names the pack's modules."""
    return str(PACK).replace(".", "_x_")


def prepared(node_class: Any, hidden: dict[Any, Any]) -> Any:
    """The class that the host runs in place of a node's, with its hidden inputs."""
    wraps_them = "v3_data" in inspect.signature(node_class.PREPARE_CLASS_CLONE).parameters  # newer hosts
    return node_class.PREPARE_CLASS_CLONE({"hidden_inputs": hidden} if wraps_them else hidden)


def _asked_for(node_class: Any, function: Callable, given: dict[str, Any]) -> dict[str, Any]:
    """What a node's function cannot do without and is not given, where the node has a default for it."""
    parameters = inspect.signature(function).parameters.values()
    named = [each.name for each in parameters if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD]
    missing = set(named) - set(given)
    required = node_class.INPUT_TYPES().get("required", {}) if missing else {}
    options = {name: required[name][1] for name in missing & set(required) if len(required[name]) > 1}
    return {name: each["default"] for name, each in options.items() if "default" in each}
