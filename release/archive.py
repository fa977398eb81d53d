"""What is shipped: the archive that the registry's own tool makes (``comfy node pack``), and what goes with it.

It holds every file that git knows, as it lies in the working tree, but for those that .comfyignore names. ``dev.py``
installs the tool, in the version that publishes, and names it in P2P_COMFY_CLI. Standard library only.

    python -m release.archive --tag v1.2.3      print what changed in the version, if the tag is that of pyproject.toml
"""

import argparse
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
# What the owner of the public repository enters in pyproject.toml, see README.md beside this file.
OWNERS_FIELDS = ("project.urls.Repository", "tool.comfy.Icon", "tool.comfy.Banner")


class ReleaseError(Exception):
    """The archive cannot be made; the message says what was wanted, what was found, and how to mend it."""


def pack(path, root=ROOT):
    """Have the registry's tool make the archive, and put it at ``path``.

    Raises:
        ReleaseError: it could not, or it left something out or took something in that git would not have.
    """
    tool = os.environ.get("P2P_COMFY_CLI")
    if not tool:
        raise ReleaseError("wanted P2P_COMFY_CLI to name comfy-cli's program, got nothing. Start this through dev.py.")
    if not (root / ".git").exists():
        raise ReleaseError(f"wanted a git checkout in {root}, got none: the archive holds the files that git knows.")
    made = root / "node.zip"
    run = subprocess.run(
        [tool, "--skip-prompt", "--no-enable-telemetry", "node", "pack"],
        cwd=root,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1"},
    )
    said = run.stdout + run.stderr
    if run.returncode or not made.is_file() or "not found" in said.lower() or "warning" in said.lower():
        made.unlink(missing_ok=True)
        raise ReleaseError(f"wanted comfy node pack to make {made} of all that git knows in {root}, got:\n{said}")
    path.parent.mkdir(parents=True, exist_ok=True)
    made.replace(path)


def contents(path):
    """The archive's files, sorted."""
    with zipfile.ZipFile(path) as archive:
        return sorted(archive.namelist())


def sizes(path):
    """The archive's bytes by top folder (or file), largest first."""
    total = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            folder, slash, _ = entry.filename.partition("/")
            total[folder + slash] = total.get(folder + slash, 0) + entry.compress_size
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def project(root=ROOT):
    """pyproject.toml, parsed."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def version(root=ROOT):
    return project(root)["project"]["version"]


def changes(root=ROOT):
    """(date or "unreleased", text) of the current version in CHANGELOG.md.

    Raises:
        ReleaseError: the version has no entry, or an empty one.
    """
    number, log = version(root), (root / "CHANGELOG.md").read_text(encoding="utf-8")
    entry = rf"^## \[{re.escape(number)}\] - (\d{{4}}-\d\d-\d\d|unreleased)\n(.*?)(?=^## |\Z)"
    found = re.search(entry, log, re.MULTILINE | re.DOTALL)
    if not found or not found[2].strip():
        raise ReleaseError(
            f"wanted an entry '## [{number}] - DATE' with text in CHANGELOG.md, for the version in "
            "pyproject.toml, got none. Write it, or mend the version."
        )
    return found[1], found[2].strip()


def open_points(root=ROOT):
    """What is still to be done before the archive may be published; [] when nothing is."""
    points = []
    for field in OWNERS_FIELDS:
        value = project(root)
        for part in field.split("."):
            value = value.get(part, "") if isinstance(value, dict) else ""
        if not value.startswith("https://"):
            points.append(f"{field} in pyproject.toml: wanted an https address, got {value!r}")
    if changes(root)[0] == "unreleased":
        points.append(f"CHANGELOG.md: the entry of {version(root)} has no date yet")
    return points


def main():
    parser = argparse.ArgumentParser(description="Print what changed in this version.")
    parser.add_argument("--tag", required=True, help="fail if this is not the version's tag")
    tag = parser.parse_args().tag
    try:
        if tag != f"v{version()}":
            raise ReleaseError(f"wanted the tag v{version()}, for the version in pyproject.toml, got {tag}.")
        print(changes()[1])
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
