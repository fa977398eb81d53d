"""The page's modules that need no page, under ``node --test``. Skipped, with a reason, where there is no node."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
FILES = sorted(HERE.glob("*.test.mjs"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.removesuffix(".test.mjs"))
def test_under_node(path):
    node = shutil.which("node") or shutil.which("nodejs")
    if not node:
        pytest.skip("no node found (18 or newer); on Debian: apt-get install nodejs")
    done = subprocess.run([node, "--test", str(path)], capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    ran = re.search(r"pass (\d+)", said)
    assert ran and int(ran[1]) >= 1, said  # a file without tests passes as well
