"""Every test can import what lies in the repository's root: p2p_attention, demo, tools, release."""

import sys
from pathlib import Path

# Appended: this folder's `nodes` must not hide ComfyUI's module of that name.
sys.path.append(str(Path(__file__).resolve().parents[1]))
