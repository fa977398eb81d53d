"""What is shipped: the archive that the registry's tool makes (``comfy node pack``), made here in the same way.

It holds every file that git knows, as it lies in the working tree, but for those that .comfyignore names. git itself
reads the patterns, which are of the kind it has for .gitignore. Standard library only.

    python release/archive.py --tag v1.2.3      print what changed in the version, if the tag is that of pyproject.toml
"""

import argparse
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


def shipped(root=ROOT):
    """Paths of the shipped files, relative to ``root``, with forward slashes, sorted."""
    ignored = set(_git(root, "ls-files", "--cached", "--ignored", "--exclude-from=.comfyignore", "-z"))
    return [path for path in _git(root, "ls-files", "-z") if path not in ignored]


def _git(root, *arguments):
    git = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, encoding="utf-8")
    if git.returncode:
        raise ReleaseError(
            f"wanted the files that git knows in {root}, got:\n{git.stderr.strip()}\nA release is made "
            "from a git checkout."
        )
    return sorted(filter(None, git.stdout.split("\0")))


def pack(path, root=ROOT):
    """Write the archive to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in shipped(root):
            if not (root / name).is_file():
                raise ReleaseError(
                    f"wanted {name}, which git knows, in {root}, got no such file. Restore it, or git rm it."
                )
            archive.write(root / name, name)


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
