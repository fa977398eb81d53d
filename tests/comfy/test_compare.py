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
    assert [row["changed"] for row in found["rows"]] == ["", "cat → dog", "+ red"]
    assert len(found["pictures"]) == len(found["lines"]) == 6
    for saved, image in zip(found["pictures"], images, strict=True):
        shown = Image.open(temporary / saved["subfolder"] / saved["filename"])
        assert saved["type"] == "temp" and shown.size == (24, 16)
        assert shown.getpixel((3, 2)) == tuple((255 * image[2, 3]).int().tolist())


def test_source_and_edits_go_on_apart(host, pair, temporary):
    images = torch.rand(6, 8, 8, 3)
    source, edits = host.node("P2PCompare").execute(images, pair("a dog\n---\na red cat")).args
    assert torch.equal(source, images[[0, 3]])
    assert torch.equal(edits, images[[1, 2, 4, 5]])
    edited = torch.rand(2, 8, 8, 3)
    source, edits = host.node("P2PCompare").execute(images[:1], edited=edited).args
    assert torch.equal(source, images[[0, 0]]) and torch.equal(edits, edited)


def test_the_line_opens_where_the_change_is(host, pair, temporary):
    images = torch.zeros(4, 8, 40, 3)
    images[1, :, 4:8] = 1.0
    images[3, 2:4, 30:34] = 0.5
    (found,) = host.node("P2PCompare").execute(images, pair("a dog")).ui["p2p_compare"]
    assert found["lines"] == pytest.approx([0.5, 0.15, 0.5, 0.8])


def test_pictures_without_a_pair(host, temporary):
    images = torch.rand(3, 8, 8, 3)
    (found,) = host.node("P2PCompare").execute(images).ui["p2p_compare"]
    assert [row["name"] for row in found["rows"]] == ["source", "picture 2", "picture 3"]
    assert len(found["pictures"]) == 3


@pytest.mark.parametrize("sources", [1, 2])
def test_edited_pictures_beside_their_sources(host, temporary, sources):
    images, edited = torch.rand(sources, 8, 8, 3), torch.rand(2, 16, 16, 4)
    (found,) = host.node("P2PCompare").execute(images, edited=edited).ui["p2p_compare"]
    assert [row["name"] for row in found["rows"]] == ["source", "edit"]
    shown = [Image.open(temporary / each["subfolder"] / each["filename"]) for each in found["pictures"]]
    assert [each.size for each in shown] == [(8, 8)] * 4
    assert shown[2].getpixel((3, 2)) == tuple((255 * images[-1, 2, 3]).int().tolist())


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"images": torch.zeros(1, 8, 8, 3)}, "Wanted two pictures to compare, got one"),
        (
            {"images": torch.zeros(3, 8, 8, 3), "edited": torch.zeros(2, 8, 8, 3)},
            "Wanted a source for each of the 2 edited pictures, or one for all, got 3",
        ),
    ],
)
def test_pictures_that_do_not_fit(host, temporary, inputs, message):
    with pytest.raises(ValueError, match=message):
        host.node("P2PCompare").execute(**inputs)


def test_a_pair_or_edited_pictures(host, pair, temporary):
    with pytest.raises(ValueError, match="Wanted a pair or edited pictures, got both"):
        host.node("P2PCompare").execute(torch.zeros(2, 8, 8, 3), pair("a dog"), torch.zeros(1, 8, 8, 3))


def test_pictures_of_another_pair(host, pair, temporary):
    with pytest.raises(ValueError, match="Wanted 2 pictures for each seed.*got 3"):
        host.node("P2PCompare").execute(torch.zeros(3, 8, 8, 3), pair("a dog"))


def test_a_source_alone(host, pair, temporary):
    with pytest.raises(ValueError, match="Wanted a prompt pair with an edited prompt"):
        host.node("P2PCompare").execute(torch.zeros(1, 8, 8, 3), pair(""))
