"""The judge of the demo model's scenes: what it asks of an edit, its numbers, and that it learns. No host."""

import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "bench"))

import scene_judge  # noqa: E402
from scene_judge import Judge, SceneNet, changes, decode, encode, facts, made  # noqa: E402

from demo import scenes  # noqa: E402

SEEDS = range(scene_judge.TRAINING_SEED, scene_judge.TRAINING_SEED + 40)


def truth(caption):
    """The answer of a judge that is always right about a picture of ``caption``."""
    return decode(encode(scenes.parse_caption(caption)))


def picture(caption):
    """(1, 128, 128, 3) uint8"""
    layout = scenes.sample_scene(3).layout
    description = scenes.parse_caption(caption)
    return torch.from_numpy(scenes.render(scenes.Scene(description, layout, (0, 1)[: len(description.things)])))[None]


@pytest.mark.parametrize("seed", SEEDS)
def test_decode_is_the_inverse_of_encode(seed):
    description = scenes.sample_scene(seed).description
    answer = decode(encode(description))
    for kind in scene_judge.SETTINGS:
        assert getattr(answer, kind) == getattr(description, kind)
    assert {shape for shape, p in answer.presence.items() if p >= 0.5} == {thing.shape for thing in description.things}
    for thing in description.things:
        assert (answer.colour[thing.shape], answer.texture[thing.shape]) == (thing.colour, thing.texture)


def test_an_absent_shape_has_no_label():
    labels = encode(scenes.parse_caption("a cat in red"))
    cat = scene_judge.SHAPES.index("cat")
    assert labels["presence"].sum() == 1
    assert labels["colour"].tolist() == [-1] * cat + [1] + [-1] * (len(scene_judge.SHAPES) - cat - 1)
    assert labels["texture"][cat] == 0


def test_facts_of_every_slot():
    assert facts("a cat in red and a star with dots on the snow at night in the fog as a drawing") == {
        "shape0": ("shape", "cat"),
        "colour0": ("colour", "cat", "red"),
        "shape1": ("shape", "star"),
        "texture1": ("texture", "star", "dots"),
        "place": ("place", "snow"),
        "light": ("light", "night"),
        "weather": ("weather", "fog"),
        "style": ("style", "drawing"),
    }


def test_says_what_is_seen_slot_by_slot(monkeypatch):
    judge = Judge(SceneNet())
    monkeypatch.setattr(judge, "answers", lambda pictures: [truth("a cat in blue on the snow")] * len(pictures))
    (seen,) = judge.says(torch.zeros(1, 128, 128, 3), ["a cat in red and a star in blue on the snow at night"])
    assert seen == {"shape0": True, "colour0": False, "shape1": False, "colour1": False, "place": True, "light": False}


@pytest.mark.parametrize(
    "source, target, seen, gone",
    [
        ("a cat in red", "a fish in red", [("shape", "fish")], [("shape", "cat")]),
        ("a cat in red", "a fish", [("shape", "fish"), ("colour", "fish", None)], [("shape", "cat")]),
        ("a cat in red", "a cat in blue", [("colour", "cat", "blue")], []),
        ("a cat in red", "a cat in red with dots", [("texture", "cat", "dots")], []),
        ("a cat with dots", "a cat", [("texture", "cat", None)], []),
        ("a cat and a star", "a star", [], [("shape", "cat")]),
        ("a cat", "a star in red and a cat", [("shape", "star"), ("colour", "star", "red")], []),
        ("a cat and a star", "a star and a cat", [], []),
        ("a cat at night", "a cat", [("light", None)], []),
        ("a cat at night", "a cat at sunset", [("light", "sunset")], []),
        ("a cat on the snow", "a cat in the fog", [("place", None), ("weather", "fog")], []),
        ("a cat", "a cat as a drawing", [("style", "drawing")], []),
    ],
)
def test_changes_asked_of_an_edit(source, target, seen, gone):
    assert changes(source, target) == (seen, gone)
    assert made(truth(target), source, target)
    assert made(truth(source), source, target) == (not seen and not gone)


def test_a_swapped_shape_has_to_be_gone():
    both = replace(truth("a fish"), presence=dict.fromkeys(scene_judge.SHAPES, 0.9))
    assert not made(both, "a cat", "a fish")
    assert made(both, "a cat", "a cat and a fish")


def test_night_that_became_sunset_is_not_day():
    assert not made(truth("a cat at sunset"), "a cat at night", "a cat")


def test_the_perfect_judge_accepts_every_perfect_edit_and_no_source():
    for seed in SEEDS:
        source, target = (scenes.caption(scene) for scene in scene_judge.random_edit(seed))
        assert made(truth(target), source, target)
        assert not made(truth(source), source, target)


def test_two_things_of_one_shape_are_refused():
    with pytest.raises(ValueError, match="two different shapes, got 'a cat in red and a cat in blue'"):
        facts("a cat in red and a cat in blue")


def test_wrong_size_is_refused():
    with pytest.raises(ValueError, match=r"wanted pictures of shape \(B, 128, 128, 3\), got \(1, 3, 128, 128\)"):
        Judge(SceneNet()).answers(torch.zeros(1, 3, 128, 128))


def test_accuracies_count_what_they_name():
    said = scene_judge.stack([encode(scenes.parse_caption(c)) for c in ("a cat in red at night", "a star with dots")])
    real = scene_judge.stack([encode(scenes.parse_caption(c)) for c in ("a cat in blue at night", "a fish with dots")])
    shares = scene_judge.accuracies(said, real)
    assert (shares["shape"], shares["all shapes"], shares["light"], shares["place"]) == (0.5, 0.5, 1, 1)
    assert shares["no other shape"] == pytest.approx(25 / 26)
    assert (shares["colour"], shares["texture"]) == (0, 0.5)


def test_a_faded_noun_counts_as_absent():
    seeds = range(SEEDS.start, SEEDS.start + 400)
    faded = [seed for seed in seeds if 0.0 in scene_judge.training_scene(seed)[1].values()]
    assert faded
    for seed in faded:
        scene, amounts = scene_judge.training_scene(seed)
        there = [t.shape for i, t in enumerate(scene.description.things) if amounts.get(f"shape{i}") != 0.0]
        assert scene_judge.training_labels(seed)["presence"].sum() == len(there)


def test_augmented_boxes_follow_the_picture():
    """A white rectangle on black stays inside its box, and fills it."""
    rng = random.Random(0)
    pictures, boxes = torch.zeros(32, 3, 128, 128), torch.zeros(32, len(scene_judge.SHAPES), 4)
    for i in range(32):
        x0, y0 = rng.randint(24, 48), rng.randint(24, 48)
        x1, y1 = rng.randint(72, 104), rng.randint(72, 104)
        pictures[i, :, y0:y1, x0:x1] = 1
        boxes[i, 5] = torch.tensor([x0, y0, x1, y1]) / 128
    pictures, boxes = scene_judge.augment(pictures, boxes, torch.Generator().manual_seed(0))
    assert (boxes[:, :5] == 0).all()
    for seen, (x0, y0, x1, y1) in zip(pictures.mean(1) > 0.5, boxes[:, 5].mul(128).round().int().tolist()):
        rows, columns = (seen.float().mean(1 - axis).gt(0.1).nonzero() for axis in (0, 1))
        assert np.allclose([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], [x0, y0, x1, y1], atol=3)


def test_learns_a_handful_of_pictures_by_heart():
    captions = ["a cat in red on the snow", "a ball with dots at night", "a house in blue with stripes in the fog"]
    x = torch.cat([picture(caption) for caption in captions])
    y = scene_judge.stack([encode(scenes.parse_caption(caption)) for caption in captions])
    torch.manual_seed(0)
    judge = Judge(SceneNet(width=8))
    judge.net.train()  # and stays so: running statistics of three pictures are not worth much
    optimizer = torch.optim.Adam(judge.net.parameters(), 0.01)
    with torch.enable_grad():
        for _ in range(25):
            loss = scene_judge.loss_of(judge.net(x.permute(0, 3, 1, 2) / 255), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    shifted = captions[1:] + captions[:1]
    assert all(all(seen.values()) for seen in judge.says(x, captions))
    assert judge.edit_success(x, shifted, captions) == [True] * 3
    assert judge.edit_success(x, captions, shifted) == [False] * 3


def test_training_resumes_and_gives_the_same_judge(tmp_path, monkeypatch):
    """Interrupted after its first checkpoint, then started again: the same answers as in one go."""
    monkeypatch.setattr(scene_judge, "held_out", lambda judge, round_trip=None: {"shape": 0.5})
    monkeypatch.setattr(scene_judge, "SceneNet", lambda: SceneNet(width=4))

    def train(name):
        return scene_judge.train_judge(
            tmp_path / name,
            round_trip=lambda pictures: pictures * 0.9,
            scenes_count=12,
            round_trips=6,
            steps=4,
            batch=6,
            save_every=2,
            workers=0,
            folder=tmp_path / "pictures",
        )

    def save_and_stop(*state):
        save(*state)
        raise KeyboardInterrupt

    whole = train("whole.safetensors")
    save = torch.save
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(torch, "save", save_and_stop)
        train("again.safetensors")
    assert (tmp_path / "pictures" / "again.checkpoint.pt").is_file()
    again = train("again.safetensors")
    assert not list(tmp_path.rglob("*.pt"))
    assert '"round trip"' in again.metadata["held_out"]
    x = picture("a cat in red on the snow")
    for key, value in whole.numbers(x).items():
        torch.testing.assert_close(value, again.numbers(x)[key])


def test_without_a_file_the_message_says_how_to_get_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="Run python tests/bench/scene_judge.py"):
        scene_judge.load_judge(tmp_path / "none.safetensors")
