"""Imports run one way, in Python as on the page: a file imports from the rows below its own only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACK = Path(__file__).resolve().parents[2]
LIBRARY = PACK / "p2p_attention"
HOST_MODULES = {
    "comfy",
    "comfy_api",
    "comfy_extras",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "nodes",
    "server",
}
# From the bottom up. What stands in one row knows nothing of its neighbours.
ALGEBRA = [
    {"prompt", "checks", "noise", "noise_check", "preview", "rows"},
    {"align", "characters", "call_rows", "attention", "invert", "second_pass", "guidance"},
    {"edit", "comparison", "null_text"},
    {"maps", "run"},
    {"record", "conditionings", "sheet"},
    {"blend", "show"},
]
HOST = [
    {"token_rows"},
    {"encoders"},
    {"families.family", "map_taps", "attention_calls"},  # they name one another's types, and import none at run time
    {"families.unet"},
    {"families"},
    {"encode", "refusals"},
    {"rows", "model_calls", "on_trajectory"},
    {"sampling_run"},
    {"attach"},
    {"way_back"},
]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(LIBRARY).with_suffix("").parts).removesuffix(".__init__").removeprefix("__init__")


def imports(path: Path) -> set[str]:
    """Absolute names; the pack's own as ``.nodes.edit``, the library's as ``.maps`` and ``.host.attach``."""
    found = set()
    package = path.parent.relative_to(PACK).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *filter(None, [node.module])]
            for alias in node.names:
                target = PACK.joinpath(*".".join([*base, alias.name]).split("."))
                is_module = target.with_suffix(".py").is_file() or target.is_dir()
                name = ".".join([*base, alias.name] if is_module else base)
                found.add("." + name.removeprefix("p2p_attention").removeprefix("."))
    return found


LIBRARY_FILES = sorted(LIBRARY.rglob("*.py"))
ALGEBRA_FILES = [path for path in LIBRARY_FILES if "host" not in path.relative_to(LIBRARY).parts]


@pytest.mark.parametrize("path", ALGEBRA_FILES, ids=module_of)
def test_the_algebra_knows_nothing_of_the_host(path):
    names = imports(path)
    assert not {name.split(".")[0] for name in names} & HOST_MODULES
    assert not {name for name in names if name == ".host" or name.startswith(".host.")}


def test_every_module_has_its_row():
    algebra = {module_of(path) for path in ALGEBRA_FILES} - {""}
    assert set().union(*ALGEBRA) == algebra
    host = {
        module_of(path).removeprefix("host").removeprefix(".") for path in LIBRARY_FILES if path not in ALGEBRA_FILES
    }
    assert set().union(*HOST) == host - {""}
    assert sum(map(len, ALGEBRA)) == len(algebra) and sum(map(len, HOST)) == len(host - {""})


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=module_of)
def test_imports_run_one_way(path):
    name = module_of(path)
    rows, own = (HOST, name.removeprefix("host").removeprefix(".")) if path not in ALGEBRA_FILES else (ALGEBRA, name)
    if not own:
        assert not {each for each in imports(path) if each.startswith(".")}
        return
    height = next(height for height, row in enumerate(rows) if own in row)
    below = set().union(*rows[:height])
    for imported in imports(path):
        if not imported.startswith("."):
            continue
        imported = imported.removeprefix(".")
        if rows is HOST and not imported.startswith("host"):
            continue  # the host's files use all of the algebra
        imported = imported.removeprefix("host").removeprefix(".") if rows is HOST else imported
        allowed = below | {""} | (rows[0] if height == 0 and rows is HOST else set())
        assert imported in allowed, f"{name} imports {imported}"


@pytest.mark.parametrize("path", sorted((PACK / "nodes").glob("*.py")), ids=lambda path: path.stem)
def test_nodes_know_the_hosts_node_api_alone(path):
    of_the_host = {name for name in imports(path) if name.split(".")[0] in HOST_MODULES}
    assert of_the_host <= {"comfy_api.latest"}
