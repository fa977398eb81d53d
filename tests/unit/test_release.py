"""What is shipped: everything that the pack needs at run time, and nothing else."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "release"))
import archive  # noqa: E402

MOST_MEGABYTES = 40  # before compression; the weights are 24


@pytest.fixture(scope="module")
def shipped():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: an unpacked archive does not make archives")
    return archive.shipped()


def imported(module):
    """Files of the pack that the file ``module`` imports, relative to ROOT; in the pack, imports are relative."""
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = (ROOT / module).parents[node.level - 1].joinpath(*(node.module or "").split("."))
            names = (folder / f"{name.name}.py" for name in node.names)
            for path in (folder.with_suffix(".py"), folder / "__init__.py", *names):
                if path.is_file():
                    yield path.relative_to(ROOT).as_posix()


def needed_modules():
    """Every Python file that ComfyUI comes to load, with the __init__ of its folders."""
    found, to_read = set(), ["__init__.py"]
    while to_read:
        module = to_read.pop()
        if module not in found:
            found.add(module)
            to_read += imported(module)
            to_read += [str(p / "__init__.py") for p in Path(module).parents if (ROOT / p / "__init__.py").is_file()]
    return found


def test_the_code_that_is_loaded_is_shipped_and_no_other(shipped):
    assert {path for path in shipped if path.endswith(".py")} == needed_modules()


def test_what_the_nodes_and_the_page_read_is_shipped(shipped):
    there = [*ROOT.glob("workflows/*"), *ROOT.glob("subgraphs/*"), *ROOT.glob("locales/*/*.json")]
    there += [path for path in ROOT.glob("web/**/*") if path.suffix in (".js", ".css", ".md")]
    there += [ROOT / "demo/weights/p2p_demo.safetensors", ROOT / "demo/still_life.png"]
    there += [ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE")]
    assert [path for path in there if path.is_file() and path.relative_to(ROOT).as_posix() not in shipped] == []


def test_pictures_are_shipped_exactly_if_a_help_page_shows_them(shipped):
    shown = set()
    for path in shipped:
        if path.startswith("web/docs/") and path.endswith(".md"):
            page = ROOT / path
            links = re.findall(r"(?:!\[[^]]*\]\(|\bsrc=\")([^)#\s\"]+)", page.read_text(encoding="utf-8"))
            shown |= {(page.parent / link).resolve().relative_to(ROOT).as_posix() for link in links if ":" not in link}
    assert {path for path in shipped if path.startswith("web/docs/images/")} == shown, "mend .comfyignore"


def test_nothing_of_development_is_shipped_and_the_archive_is_small(shipped):
    folders = {path.split("/")[0] for path in shipped if "/" in path}
    assert folders <= {"demo", "locales", "nodes", "p2p_attention", "subgraphs", "web", "workflows"}
    assert not [path for path in shipped if re.search(r"(^|/)(tests?|bench|train)\b|(^|/)test_|\.csv$|(^|/)\.", path)]
    assert sum((ROOT / path).stat().st_size for path in shipped) < MOST_MEGABYTES * 1e6


def test_the_version_has_its_changes():
    assert re.fullmatch(r"\d+\.\d+\.\d+", archive.version())
    assert archive.changes()[1]


def test_the_registry_finds_its_fields():
    project = archive.project()
    fields = project["tool"]["comfy"]
    assert fields["PublisherId"] and fields["DisplayName"]
    assert fields["requires-comfyui"].startswith(">=")
    assert "Operating System :: OS Independent" in project["project"]["classifiers"]
    icon, banner = (Image.open(ROOT / "release" / name) for name in ("icon.png", "banner.png"))
    assert icon.width == icon.height <= 400 and banner.width * 9 == banner.height * 21
    for field, picture in (("Icon", "release/icon.png"), ("Banner", "release/banner.png")):
        assert fields[field] == "" or fields[field].endswith(picture)


@pytest.fixture
def checkout(tmp_path):
    """A small repository with a file of every sort."""
    files = {
        "pyproject.toml": '[project]\nversion = "1.2.3"\n[tool.comfy]\nIcon = "https://example.com/release/icon.png"\n',
        "CHANGELOG.md": "# Changelog\n\n## [1.2.3] - 2026-01-02\n\n- A change\n\n## [1.2.2] - unreleased\n\n- Older\n",
        ".comfyignore": "# comment\n/tests/\n/locales/*.json\n",
        "tests/test_a.py": "",
        "locales/ko.json": "{}",
        "locales/ko/nodeDefs.json": "{}",
        "nodes/tests/kept.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    (tmp_path / "untracked.py").write_text("")
    return tmp_path


def test_the_archive_holds_what_git_knows_but_for_the_ignored(checkout):
    archive.pack(checkout / "out" / "pack.zip", checkout)
    assert set(archive.sizes(checkout / "out" / "pack.zip")) == {
        ".comfyignore",
        "CHANGELOG.md",
        "locales/",
        "nodes/",
        "pyproject.toml",
    }
    assert archive.shipped(checkout) == [
        ".comfyignore",
        "CHANGELOG.md",
        "locales/ko/nodeDefs.json",
        "nodes/tests/kept.py",
        "pyproject.toml",
    ]


def test_a_release_says_what_is_missing(checkout):
    assert archive.changes(checkout) == ("2026-01-02", "- A change")
    assert [point.split(" ")[0] for point in archive.open_points(checkout)] == [
        "project.urls.Repository",
        "tool.comfy.Banner",
    ]
    log = checkout / "CHANGELOG.md"
    log.write_text(log.read_text().replace("2026-01-02", "unreleased"))
    assert archive.open_points(checkout)[-1].startswith("CHANGELOG.md")
    log.write_text("## [1.2.2] - unreleased\n\n- Older\n")
    with pytest.raises(archive.ReleaseError, match=r"'## \[1\.2\.3\] - DATE'"):
        archive.changes(checkout)
    (checkout / "nodes/tests/kept.py").unlink()
    with pytest.raises(archive.ReleaseError, match="nodes/tests/kept.py"):
        archive.pack(checkout / "pack.zip", checkout)


def test_translations_that_are_shipped_are_those_that_are_written(shipped):
    for path in (path for path in shipped if path.startswith("locales/")):
        assert json.loads((ROOT / path).read_text(encoding="utf-8")), path
