"""A real ComfyUI in this process: the pack is loaded as the host loads it, the models are small and random."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

PACK = Path(__file__).resolve().parents[2]
COMFYUI = Path(os.environ.get("COMFYUI") or PACK / ".host" / "comfyui").resolve()

if not (COMFYUI / "main.py").is_file():
    raise pytest.UsageError(f"Wanted a ComfyUI at {COMFYUI}, found none. Run the tests with: python dev.py test")

# The host expects to be started from its own folder, and decides about devices when it is first imported.
sys.path.insert(0, str(COMFYUI))
sys.path.append(str(Path(__file__).parent))  # for the helper modules beside the tests
os.chdir(COMFYUI)
from comfy.cli_args import args  # noqa: E402

args.cpu = True

import torch  # noqa: E402

torch.set_grad_enabled(False)


@pytest.fixture(scope="session")
def host() -> SimpleNamespace:
    """``host.node(id)`` is a node class of the host or the pack; ``host.module(name)`` a module of the loaded pack."""
    import nodes

    assert Path(nodes.__file__).parent == COMFYUI, "the pack's folder 'nodes' shadows the host's module"
    assert asyncio.run(nodes.load_custom_node(str(PACK))), "the host could not load the pack"
    asyncio.run(nodes.init_builtin_extra_nodes())
    package = str(PACK).replace(".", "_x_")
    return SimpleNamespace(
        node=nodes.NODE_CLASS_MAPPINGS.__getitem__,
        module=lambda name: importlib.import_module(f"{package}.{name}"),
    )


@pytest.fixture(scope="session")
def run_node(host):
    """Run a node by id with keyword inputs, through its own function, and give its outputs as a tuple."""

    def run(node_id: str, **inputs):
        node = host.node(node_id)
        outputs = getattr(node() if node.FUNCTION != "EXECUTE_NORMALIZED" else node, node.FUNCTION)(**inputs)
        return tuple(getattr(outputs, "args", outputs))

    return run


@pytest.fixture(scope="session")
def demo(run_node):
    """The bundled model: (model, clip, vae)."""
    return run_node("P2PLoadDemoModel")
