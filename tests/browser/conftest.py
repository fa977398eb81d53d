"""The demo's scripts, importable by name: they start servers and convert workflows for the tests as well."""

import sys
from pathlib import Path

# Last on the path, so that nothing here can hide a module of ComfyUI's.
sys.path.append(str(Path(__file__).resolve().parents[2] / "demo"))
