"""What the archive has to hold: everything that the pack needs at run time, and nothing else."""

import ast
import re
from pathlib import Path

from release.archive import ROOT

FOLDERS = {"demo", "locales", "nodes", "p2p_attention", "subgraphs", "web", "workflows"}
DEVELOPMENT = r"(^|/)(tests?|bench|train|tools|api)\b|(^|/)test_|\.csv$|(^|/)\.(?!comfyignore$)"
MOST_MEGABYTES = 50  # before compression; the weights are 37


def wrong(shipped):
    """What is wrong with the files of an archive, as sentences.

    Args:
        shipped: their paths, relative to the repository, with forward slashes.
    """
    shipped, needed = set(shipped), needed_modules()
    code = {path for path in shipped if path.endswith(".py")}
    yield from (f"{path}, which ComfyUI comes to load" for path in sorted(needed - code))
    yield from (f"not {path}, which nothing loads" for path in sorted(code - needed))
    yield from (f"{path}, which nodes or page read" for path in sorted(read_at_run_time() - shipped))
    images = {path for path in shipped if path.startswith("web/docs/images/")}
    yield from (f"{path}, which a help page shows" for path in sorted(shown(shipped) - images))
    yield from (f"not {path}, which no help page shows" for path in sorted(images - shown(shipped)))
    for path in sorted(shipped):
        if "/" in path and path.split("/")[0] not in FOLDERS or re.search(DEVELOPMENT, path):
            yield f"not {path}, which is of development"
    if (size := sum((ROOT / path).stat().st_size for path in shipped) / 1e6) > MOST_MEGABYTES:
        yield f"no more than {MOST_MEGABYTES} MB, got {size:.0f}"


def needed_modules():
    """Every Python file that ComfyUI comes to load, with the __init__ of its folders."""
    found, to_read = set(), ["__init__.py"]
    while to_read:
        module = to_read.pop()
        if module not in found:
            found.add(module)
            to_read += imported(module)
            inits = (folder / "__init__.py" for folder in Path(module).parents)
            to_read += [path.as_posix() for path in inits if (ROOT / path).is_file()]
    return found


def imported(module):
    """Files of the pack that the file ``module`` imports, relative to ROOT; in the pack, imports are relative."""
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = (ROOT / module).parents[node.level - 1].joinpath(*(node.module or "").split("."))
            names = (folder / f"{name.name}.py" for name in node.names)
            for path in (folder.with_suffix(".py"), folder / "__init__.py", *names):
                if path.is_file():
                    yield path.relative_to(ROOT).as_posix()


def read_at_run_time():
    """What the nodes and the page read."""
    there = [*ROOT.glob("workflows/*"), *ROOT.glob("subgraphs/*"), *ROOT.glob("locales/*/*.json")]
    there += [path for path in ROOT.glob("web/**/*") if path.suffix in (".js", ".json", ".css", ".md")]
    there += [*ROOT.glob("demo/weights/*.safetensors"), ROOT / "demo/still_life.png"]
    there += [ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE")]
    return {path.relative_to(ROOT).as_posix() for path in there if path.is_file()}


def shown(shipped):
    """The pictures that the help pages among these files show."""
    pictures = set()
    for path in shipped:
        if path.startswith("web/docs/") and path.endswith(".md"):
            page = ROOT / path
            links = re.findall(r"(?:!\[[^]]*\]\(|\bsrc=\")([^)#\s\"]+)", page.read_text(encoding="utf-8"))
            folder = ROOT / "web" / "docs"  # of a translated page, too: so ComfyUI resolves it
            found = ((folder / link).resolve() for link in links if ":" not in link)
            pictures |= {each.relative_to(ROOT).as_posix() for each in found}
    return pictures
