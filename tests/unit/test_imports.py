"""Imports run one way, in Python as on the page: nodes -> host -> the algebra, and within each without circles."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parents[2]
LIBRARY = PACK / "p2p_attention"
FILES = sorted([*LIBRARY.rglob("*.py"), *(PACK / "nodes").glob("*.py")])
HOST_MODULES = set("comfy comfy_api comfy_extras folder_paths latent_preview node_helpers nodes server".split())
OF_A_FAMILY = {"p2p_attention.host", "p2p_attention.host.attention_calls", "p2p_attention.host.encoders"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACK).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Absolute names as they stand, and the pack's own files as ``name_of`` gives them, with a point before them.

    What only a type checker imports does not count.
    """
    found = set()
    package = path.parent.relative_to(PACK).parts
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *filter(None, [node.module])]
            for alias in node.names:
                target = PACK.joinpath(*".".join([*base, alias.name]).split("."))
                is_module = target.with_suffix(".py").is_file() or target.is_dir()
                found.add("." + ".".join([*base, alias.name] if is_module else base))
    return found


IMPORTS = {name_of(path): imports(path) for path in FILES}
ALGEBRA = [name for name in IMPORTS if name.startswith("p2p_attention") and not name.startswith("p2p_attention.host")]
FAMILIES = [name for name in IMPORTS if name.startswith("p2p_attention.host.families.")]


def test_the_reader_of_imports_sees_them():
    """Else everything below holds of nothing."""
    assert ".p2p_attention.prompt" in IMPORTS["p2p_attention.align"]
    assert {".p2p_attention.host.attach", "comfy_api.latest"} <= IMPORTS["nodes.edit"]
    assert "comfy.samplers" in IMPORTS["p2p_attention.host.way_back"]
    assert ".p2p_attention.host" in IMPORTS["p2p_attention.host.families.unet"]
    assert len(ALGEBRA) > 15 and len(FAMILIES) >= 2


def test_there_are_no_circles():
    within = {
        name: {each.removeprefix(".") for each in named if each.startswith(".")} for name, named in IMPORTS.items()
    }
    assert set(TopologicalSorter(within).static_order()) >= set(IMPORTS)


@pytest.mark.parametrize("name", ALGEBRA)
def test_the_algebra_knows_neither_the_host_nor_what_builds_on_it(name):
    assert not {each for each in IMPORTS[name] if each.split(".")[0] in HOST_MODULES}
    assert {each for each in IMPORTS[name] if each.startswith(".")} <= {f".{other}" for other in ALGEBRA}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_knows_the_algebra_and_its_own_interface(name):
    allowed = {*ALGEBRA, *OF_A_FAMILY, *FAMILIES}
    assert {each for each in IMPORTS[name] if each.startswith(".")} <= {f".{other}" for other in allowed}


@pytest.mark.parametrize("name", [name for name in IMPORTS if name.startswith("nodes")])
def test_nodes_know_the_hosts_node_api_alone(name):
    assert {each for each in IMPORTS[name] if each.split(".")[0] in HOST_MODULES} <= {"comfy_api.latest"}


def test_the_table_of_imports_is_true():
    """CONTRIBUTING.md: every file of the library stands in it once, above all that it imports."""
    text = (PACK / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Imports")[1].split("## ")[0]
    rows = [re.findall(r"`([\w.]+)`", line) for line in text.splitlines() if line.startswith("|")]
    heights = {name: -number for number, row in enumerate(rows) for name in row}
    named = [name for row in rows for name in row]
    library = {name.removeprefix("p2p_attention.") for name in IMPORTS if name.startswith("p2p_attention.")}
    assert sorted(named) == sorted(library)
    for name in library:
        used = {each.removeprefix(".p2p_attention.") for each in IMPORTS[f"p2p_attention.{name}"]} & library
        assert all(heights[each] < heights[name] for each in used), name
