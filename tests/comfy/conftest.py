"""The host, once per session, and what the tests ask of it."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # for the helper modules beside the tests
import real_host  # noqa: E402

real_host.enter(pytorch_attention=True)  # as on a GPU; test_every_attention_back_end has the others


@pytest.fixture(scope="session")
def host():
    """``host.node(id)`` is a node class of the host or the pack; ``host.module(name)`` a module of the loaded pack."""
    loaded = real_host.load_pack()
    gc.collect()
    gc.freeze()  # the host's million objects stay: no collection and no census has to look at them again
    return loaded


@pytest.fixture(scope="session")
def run_node(host):
    """Run a node by id with keyword inputs; gives its outputs as a tuple."""
    return lambda node_id, **inputs: real_host.run_node(host.node(node_id), **inputs)


@pytest.fixture(scope="module")
def one_thread():
    """On several threads PyTorch's rounding depends on the number of rows, which an edit may enlarge."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def rows_by_themselves():
    """Layers whose sums for a row do not depend on how many rows there are: the iterations enlarge what differs."""
    with torch.backends.mkldnn.flags(enabled=False):
        yield


@pytest.fixture(scope="session")
def demo(run_node):
    """The bundled model: (model, clip, vae)."""
    return run_node("P2PLoadDemoModel")
