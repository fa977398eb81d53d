"""Every test can import what lies in the repository's root: p2p_attention, demo, tools, release.

Some tests repeat one check on many like cases, which takes its time. ``@pytest.mark.daily`` names those cases that run
every day; ``python dev.py test --whole`` runs all.
"""

import sys
from pathlib import Path

import pytest

# Appended: this folder's `nodes` must not hide ComfyUI's module of that name.
sys.path.append(str(Path(__file__).resolve().parents[1]))


def pytest_addoption(parser):
    parser.addoption("--daily", action="store_true", help="leave out what pytest.mark.daily does not name")


def pytest_configure(config):
    config.addinivalue_line("markers", "daily(*cases): the cases (ids, or parts of them between dashes) of every day")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("daily"):
        return
    left_out = [item for item in items if not _of_every_day(item)]
    kept = [item for item in items if _of_every_day(item)]
    gone = set(map(_test_of, left_out)) - set(map(_test_of, kept))
    if gone:
        raise pytest.UsageError(f"wanted a case of every day, got none of {', '.join(sorted(gone))}")
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


def _test_of(item):
    return item.nodeid.partition("[")[0]


def _of_every_day(item):
    mark = item.get_closest_marker("daily")
    if mark is None:
        return True
    case = item.callspec.id
    return bool({case, *case.split("-")} & set(mark.args))
