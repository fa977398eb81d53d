"""One server and one page for all tests here."""

import sys
from pathlib import Path

import pytest

from tools.comfy_server import ComfyServer
from tools.the_page import NO_BROWSER, find_browser, opened, use_renderer

sys.path.append(str(Path(__file__).parent))  # for the helper module beside the tests


@pytest.fixture(scope="session")
def server():
    if not find_browser():
        pytest.skip(NO_BROWSER)
    with ComfyServer("browser") as server:
        yield server


@pytest.fixture(scope="module")
def opened_page(server, tmp_path_factory):
    """Closed after each module: while it is open, Playwright's event loop is the thread's, and no other may run."""
    with opened(server, tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(opened_page):
    """The page in its classic renderer, without the complaints of earlier tests."""
    use_renderer(opened_page, nodes_2=False)
    opened_page.complaints.clear()
    return opened_page
