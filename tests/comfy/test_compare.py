"""P2P Compare, and what P2P Attention Maps tells the page."""

from __future__ import annotations

import pytest
import torch
from PIL import Image


@pytest.fixture
def pair(run_node, demo):
    return lambda target: run_node("P2PPromptPair", clip=demo[1], source="a cat", target=target)[1]


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    return tmp_path


def test_rows_and_pictures_of_all_seeds(host, pair, temporary):
    images = torch.rand(6, 16, 24, 3)
    said = host.node("P2PCompare").execute(images, pair("a dog\n---\na red cat")).ui["p2p_compare"]
    (found,) = said
    assert [row["name"] for row in found["rows"]] == ["source", "edit 1", "edit 2"]
    assert [row["prompt"] for row in found["rows"]] == ["a cat", "a dog", "a red cat"]
    assert len(found["pictures"]) == 6
    for saved, image in zip(found["pictures"], images, strict=True):
        shown = Image.open(temporary / saved["subfolder"] / saved["filename"])
        assert saved["type"] == "temp" and shown.size == (24, 16)
        assert shown.getpixel((3, 2)) == tuple((255 * image[2, 3]).int().tolist())


def test_pictures_of_another_pair(host, pair, temporary):
    with pytest.raises(ValueError, match="Wanted 2 pictures for each seed.*got 3"):
        host.node("P2PCompare").execute(torch.zeros(3, 8, 8, 3), pair("a dog"))


def test_a_source_alone(host, pair, temporary):
    with pytest.raises(ValueError, match="Wanted a prompt pair with an edited prompt"):
        host.node("P2PCompare").execute(torch.zeros(1, 8, 8, 3), pair(""))
