"""What is shipped: everything that the pack needs at run time, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from release import archive, contents

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.fixture
def complete():
    """The paths that an archive of this repository has to hold."""
    code, read = contents.needed_modules(), contents.read_at_run_time()
    return code | read | contents.shown(code | read)


def test_a_complete_archive_is_good(complete):
    assert list(contents.wrong(complete)) == []


@pytest.mark.parametrize(
    "path",
    ["nodes/edit.py", "p2p_attention/__init__.py", "demo/still_life.png", "workflows/word_swap.jpg"],
)
def test_what_is_missing_is_named(complete, path):
    assert [sentence.split(",")[0] for sentence in contents.wrong(complete - {path})] == [path]


@pytest.mark.parametrize(
    "path",
    [
        "tools/gallery.py",
        "dev.py",
        "workflows/api/word_swap.json",
        "tests/conftest.py",
        "tools/training/loss_curve.png",
    ],
)
def test_what_is_of_development_is_named(complete, path):
    assert any(sentence.startswith(f"not {path}") for sentence in contents.wrong(complete | {path}))


def test_a_picture_that_no_page_shows_is_named(complete):
    page = "web/docs/P2PCompare.md"
    wrong = list(contents.wrong(complete - {page}))
    assert f"{page}, which nodes or page read" in wrong
    assert any(sentence.startswith("not web/docs/images/") for sentence in wrong)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """``stand_in(said)`` takes the place of the registry's tool: it makes an archive of one file, and says that."""

    def make(said):
        tool = tmp_path / "comfy"
        tool.write_text(
            f"#!{sys.executable}\nimport zipfile\nprint({said!r})\nwith zipfile.ZipFile('node.zip', 'w') as archive:\n"
            "    archive.write('pyproject.toml')\n"
        )
        tool.chmod(0o755)
        monkeypatch.setenv("P2P_COMFY_CLI", str(tool))

    return make


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a script with a #! line")
def test_the_archive_is_what_the_registry_s_tool_makes(checkout, stand_in):
    made = checkout / "out" / "pack.zip"
    stand_in("Created zip file: node.zip")
    archive.pack(made, checkout)
    assert archive.contents(made) == ["pyproject.toml"] and not (checkout / "node.zip").exists()
    for complaint in (
        "File not found. Not including in zip: nodes/edit.py",
        "Warning: Not in a git repository or git not installed. Zipping all files.",
    ):
        stand_in(complaint)
        with pytest.raises(archive.ReleaseError, match=complaint):
            archive.pack(made, checkout)
        assert not (checkout / "node.zip").exists()


def test_an_archive_is_made_of_a_git_checkout_by_a_tool_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("P2P_COMFY_CLI", "comfy")
    with pytest.raises(archive.ReleaseError, match="wanted a git checkout"):
        archive.pack(tmp_path / "pack.zip", tmp_path)
    monkeypatch.delenv("P2P_COMFY_CLI")
    with pytest.raises(archive.ReleaseError, match="dev.py"):
        archive.pack(tmp_path / "pack.zip", tmp_path)


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


def test_translations_that_are_shipped_are_those_that_are_written(complete):
    for path in (path for path in complete if path.startswith("locales/")):
        assert json.loads((ROOT / path).read_text(encoding="utf-8")), path
