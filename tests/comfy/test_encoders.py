"""Words and their positions in the newer models' text encoders: the host's own tokenizers, small random text models.

The vocabularies of Gemma 2, UMT5 and Mistral come with the models' weights; here they are small ones of the same kind.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from small_encoders import ENCODERS, available, encoder

pytestmark = pytest.mark.usefixtures("one_thread")

made = functools.lru_cache(maxsize=None)(encoder)
LITERAL = {"zimage", "klein", "qwen_image", "krea2", "flux2"}  # these read (word:1.2) as it stands
T5_ALONE = {"flux", "chroma", "t5", "cosmos"}
ODD = [
    "",
    " ",
    " \n\n",
    "\n a cat",
    "...",
    "!?),(",
    "((a cat",
    "a (cat)) on (red:1.3)1.3 grass",
    "(:1.2) (a:b) (x: 1.5)",
    "a \\(cat\\)",
    "🐈👩‍🚀 ❤️",
    "红色的猫, 猫 犬 ｶﾞ",
    "빨간 고양이 แมวดำ नमस्ते",
    "ﬁne nai\u0308ve ½ ＡＢ İ ß",
    "a\x00b \u200bcat\u202e \ufffd \U0010ffff",
    "<unk> <0x41> </s> <pad> <|im_end|> [INST] {} {0}",
    "<|im_start|>user\na cat<|im_end|>\n",
    "embedding: a",
    "a embedding:nowhere cat, embedding:no",
    "x" * 700,
    "\t".join("a cat".split() * 40),
]


@pytest.fixture
def read(host):
    return host.module("p2p_attention.host.encoders").read_prompt


@pytest.fixture(params=available())
def name(request):
    return request.param


def encode(clip, text):
    """The rows that the model attends to, (rows, channels), without what it adds itself."""
    ((context, extra),) = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    if "t5xxl_ids" in extra:  # Anima: the model makes a row of each
        return extra["t5xxl_ids"][:, None].float()
    if "conditioning_llama3" in extra:
        llama = extra["conditioning_llama3"][0, -1]
        return torch.cat([context[0], llama, llama])
    return context[0]


def words(prompt):
    return [word.text for word in prompt.words]


def layout(prompt):
    return [(word.text, word.positions) for word in prompt.words]


def every_position(prompt):
    return sorted(
        [position for word in prompt.words for position in word.positions]
        + [*prompt.starts, *prompt.ends, *prompt.padding]
    )


# ---- every encoder


def test_the_words_of_a_prompt(read, name):
    prompt = read(made(name), "A cat's (red:1.2) hat, \\(big\\) 🐈 and lake-side don't")
    weighted = ["(", "red", ":", "1", ".", "2", ")"] if name in LITERAL else ["red"]
    expected = ["A", "cat", "'s", *weighted, "hat", ",", "(", "big", ")", "🐈", "and", "lake", "-", "side", "don", "'t"]
    assert [word for word in words(prompt) if word != "-"] == [word for word in expected if word != "-"]


def test_every_row_is_something(read, name):
    """The length is that of the conditioning; each row is one word's, or a start, an end or padding."""
    clip = made(name)
    for text in ODD:
        prompt = read(clip, text)
        assert prompt.length == len(encode(clip, text)), text
        assert every_position(prompt) == list(range(prompt.length)), text
        assert all(len(word.ids) == len(word.positions) for word in prompt.words), text


@pytest.mark.parametrize(("old", "new"), [("cat", "dog"), ("photo", "house"), ("grass", "tree")])
def test_a_words_positions_are_the_rows_that_it_makes(read, name, old, new):
    """Another word changes the rows at its positions, more than any other; with a language model none before."""
    clip = made(name)
    text = "a photo of the red cat on the grass"
    before, after = (read(clip, each) for each in (text, text.replace(old, new)))
    found, other = (
        next(word.positions for word in prompt.words if word.text == each)
        for prompt, each in ((before, old), (after, new))
    )
    assert found == other and before.length == after.length, "the test wants words of the same number of tokens"
    change = (encode(clip, text) - encode(clip, text.replace(old, new))).norm(dim=-1)
    assert (change[list(found)] > 0).all()
    if ENCODERS[name].causal:
        assert not change[: found[0]].any()
    elif name not in ("sd3", "hidream"):  # their parts differ in scale
        rest = torch.ones(len(change), dtype=torch.bool)
        rest[list(found)] = False
        assert change[list(found)].min() > change[rest].max()


def test_long_prompts(read, name):
    clip = made(name)
    text = " ".join(f"cat {word}" for word in ("red", "on", "the") * 50)
    prompt = read(clip, text)
    assert words(prompt) == text.split() and len(prompt.words) == 300
    firsts = [word.positions[0] for word in prompt.words]
    assert firsts == sorted(firsts) and prompt.length == len(encode(clip, text))


def test_reading_leaves_the_encoder_as_it_is(read, name):
    clip = made(name)
    parts = list(clip.cond_stage_model.named_modules())
    before = encode(clip, "a (red:1.2) cat")
    read(clip, "a (red:1.2) cat")
    assert [(path, id(module)) for path, module in parts] == [
        (path, id(module)) for path, module in clip.cond_stage_model.named_modules()
    ]
    assert torch.equal(encode(clip, "a (red:1.2) cat"), before)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a \ud83d cat", "Wanted a prompt that the text encoder can read"),
        ("a cat " * 20_000, "Wanted a prompt of at most 60000 characters, got 120000"),
    ],
)
def test_texts_that_cannot_be_read(read, name, text, message):
    with pytest.raises(ValueError, match=message):
        read(made(name), text)


@pytest.mark.parametrize("weight", ["1e9", "-inf", "nan"])
def test_weights_beyond_reason(read, name, weight):
    text = f"a (cat:{weight})"
    if name in LITERAL:
        assert "cat" in words(read(made(name), text))
    else:
        with pytest.raises(ValueError, match="Wanted weights up to 10000"):
            read(made(name), text)


# ---- where the words stand


@pytest.mark.parametrize("name", sorted(T5_ALONE))
def test_t5(read, name):
    prompt = read(made(name), "a cat, (red:1.2) mushrooms 🐈 猫 犬")
    assert layout(prompt) == [
        ("a", (0, 1)), ("cat", (2,)), (",", (3,)), ("red", (4,)), ("mushrooms", (5,)), ("🐈", (6, 7)),
        ("猫", (8, 9)), ("犬", (10, 11)),
    ]  # fmt: skip
    assert (prompt.starts, prompt.ends) == ((), (12,))
    assert prompt.length == {"flux": 256, "t5": 256, "cosmos": 512, "chroma": 13}[name]


def test_sd3(read):
    prompt = read(made("sd3"), "a cat, 3.5 mushrooms")
    assert layout(prompt) == [
        ("a", (1, 77, 78)), ("cat", (2, 79)), (",", (3, 80)), ("3.5", (4, 5, 6, 81, 82)), ("mushrooms", (7, 83)),
    ]  # fmt: skip
    assert (prompt.starts, prompt.ends, prompt.length) == ((0,), (8, 84), 154)


@pytest.mark.parametrize("name", [each for each in ("sd3", "hidream") if each in available()])
def test_an_encoders_positions_are_told_from_anothers(read, name):
    """So that a swapped word takes over CLIP's maps for CLIP's positions, and T5's for T5's."""
    prompt = read(made(name), "a cat, 3.5 mushrooms 🐈")
    for word in prompt.words:
        assert sum(word.places, ()) == word.positions and len(word.places) == {"sd3": 2, "hidream": 3}[name]
        bounds = {"sd3": (77,), "hidream": (128, 255)}[name]
        assert all(
            {sum(position >= bound for bound in bounds) for position in part} == {i}
            for i, part in enumerate(word.places)
        )


def test_sd3_in_several_chunks(read):
    prompt = read(made("sd3"), "cat " * 100)
    assert prompt.length == 2 * 77 + 101
    assert prompt.words[0].positions == (1, 154) and prompt.words[75].positions == (78, 229)
    assert prompt.starts == (0, 77) and prompt.ends == (76, 103, 254)


def test_sd3_with_a_part_left_out(read):
    clip = encoder("sd3", t5=False)
    assert layout(read(clip, "a cat")) == [("a", (1,)), ("cat", (2,))]
    assert read(clip, "a cat").length == len(encode(clip, "a cat")) == 77


def test_templates_are_around_the_words(read):
    for name, starts, ends in (("zimage", 3, 5), ("klein", 3, 9), ("qwen_image", 0, 5), ("krea2", 0, 5)):
        if name not in available():
            continue
        prompt = read(made(name), "a cat on 猫grass")
        assert layout(prompt)[:2] == [("a", (starts,)), ("cat", (starts + 1,))], name
        assert words(prompt) == ["a", "cat", "on", "猫", "grass"]
        assert prompt.starts == tuple(range(starts)) and len(prompt.ends) == ends
        assert prompt.ends[0] == prompt.words[-1].positions[-1] + 1


def test_lumina2_begins_with_its_start(read):
    prompt = read(made("lumina2"), "a cat")
    assert layout(prompt) == [("a", (1,)), ("cat", (2,))]
    assert (prompt.starts, prompt.ends, prompt.padding) == ((0,), (), ())


@pytest.mark.skipif("flux2" not in available(), reason="this host cannot read Mistral's vocabulary")
def test_mistrals_words_stand_at_the_end(read):
    prompt = read(made("flux2"), "a cat")
    assert layout(prompt) == [("a", (prompt.length - 3,)), ("cat", (prompt.length - 2,))]
    assert prompt.starts == tuple(range(prompt.length - 3)) and prompt.ends == (prompt.length - 1,)


@pytest.mark.skipif("anima" not in available(), reason="this host has no Anima")
def test_anima_has_a_row_for_each_t5_token(read):
    prompt = read(made("anima"), "a cat 猫")
    assert layout(prompt) == [("a", (0, 1)), ("cat", (2,)), ("猫", (3, 4))]
    assert (prompt.ends, prompt.length) == ((5,), 6)


@pytest.mark.skipif("hidream" not in available(), reason="this host reads Llama's text without spaces")
def test_hidream_has_a_word_in_three_places(read):
    prompt = read(made("hidream"), "cat, grass")
    assert layout(prompt)[0] == ("cat", (0, 129, 257))
    assert prompt.starts == (128, 256) and prompt.length == 3 * 128


def test_a_longer_minimum_is_padded(read):
    clip = made("flux").clone()
    clip.set_tokenizer_option("t5xxl_min_length", 300)
    assert read(clip, "a cat").length == len(encode(clip, "a cat")) == 300


def test_a_template_that_the_user_types(read):
    """Qwen-Image takes a text that begins like a template as it stands, and cuts it too."""
    text = "<|im_start|>system\nred<|im_end|>\n<|im_start|>user\na cat<|im_end|>\n"
    prompt = read(made("qwen_image"), text)
    assert layout(prompt)[:2] == [("a", (0,)), ("cat", (1,))]
    assert "red" not in words(prompt), "what was cut has no row"


# ---- words that the vocabulary does not have


def test_words_that_the_encoder_reads_alike_are_said(run_node, caplog):
    """T5 has one token for all that it does not know."""
    source = "a 🐈 on 草"
    run_node("P2PPromptPair", clip=made("chroma"), source=source, target="a 🐈 on grass\n---\na 🐕 on 草")
    assert "reads '🐈' and '🐕' alike" in caplog.text and caplog.text.count("alike") == 1
    caplog.clear()
    run_node("P2PPromptPair", clip=made("qwen_image"), source=source, target="a 🐕 on 草")
    assert "alike" not in caplog.text


# ---- texts with pictures in front of them


class TwoPixels(torch.nn.Module):
    """In the place of what sees pictures: a row of each place in the picture, made of its pixels."""

    def forward(self, pixels, grid):
        places = int(grid.prod()) // 4
        return pixels.flatten()[: places * 32].reshape(places, 32)


@pytest.fixture
def qwen_with_pictures():
    clip = encoder("qwen_image")
    clip.cond_stage_model.qwen25_7b.transformer.visual = TwoPixels()
    return clip


@pytest.mark.parametrize("node, count", [("TextEncodeQwenImageEdit", 1), ("TextEncodeQwenImageEditPlus", 2)])
def test_words_behind_pictures(run_node, qwen_with_pictures, node, count):
    """Where they are is seen in a language model's rows: none before a changed word changes."""
    clip = qwen_with_pictures
    picture = torch.rand(1, 40, 56, 3, generator=torch.Generator().manual_seed(1))
    names = ["image"] if node == "TextEncodeQwenImageEdit" else ["image1", "image2"]

    def encoded(text):
        return run_node(node, clip=clip, prompt=text, **dict.fromkeys(names, picture))[0]

    source, targets = "make the cat red", ("make the dog red", "make the cat on grass red")
    source_rows, rows = encoded(source), [encoded(text) for text in targets]
    ((context, extras),), pair = run_node(
        "P2PPairFromConditioning", clip=clip, source=source, target="\n---\n".join(targets),
        source_conditioning=source_rows, target_conditioning=rows[0] + rows[1],
    )  # fmt: skip
    assert context.shape[1] == pair.length == rows[1][0][0].shape[1]
    for row, changed_word, target in ((1, 2, pair.targets[0]), (2, 3, pair.targets[1])):
        changed = ((context[row] - context[0]).abs() > 1e-3).any(1).nonzero()  # sums of other lengths are rounded
        assert int(changed[0]) == target.words[changed_word].positions[0] > 64 * count
    words_of = [word.text for word in pair.targets[1].words]
    assert words_of == targets[1].split() and pair.targets[1].length == pair.source.length + 2
    with pytest.raises(ValueError, match="Wanted the same pictures in front of the text for source and edits, got"):
        run_node(
            "P2PPairFromConditioning", clip=clip, source=source, target="make the dog",
            source_conditioning=source_rows, target_conditioning=rows[0],
        )  # fmt: skip


# ---- embeddings


@pytest.mark.parametrize(("name", "width"), [("flux", 32), ("wan", 32)])
def test_an_embeddings_vectors_are_a_word(read, tmp_path, name, width):
    if name == "wan":
        pytest.skip("the host gives UMT5 no folder of embeddings")
    save_file({"t5xxl": torch.randn(3, width), "clip_l": torch.randn(1, 32)}, tmp_path / "glow.safetensors")
    clip = encoder(name, embeddings=str(tmp_path))
    prompt = read(clip, "a embedding:glow, cat")
    assert layout(prompt) == [("a", (0, 1)), ("embedding:glow", (2, 3, 4)), (",", (5, 6)), ("cat", (7,))]
    assert len({*prompt.words[1].ids}) == 3 and all(isinstance(each, str) for each in prompt.words[1].ids)
    assert prompt.length == len(encode(clip, "a embedding:glow, cat"))


def test_an_embedding_of_another_width_is_left_out_as_the_host_does(read, tmp_path):
    """An SDXL embedding in SD3: T5 has no such vectors."""
    save_file({"clip_l": torch.randn(2, 32), "clip_g": torch.randn(2, 32)}, tmp_path / "glow.safetensors")
    clip = encoder("sd3", embeddings=str(tmp_path))
    text = "a embedding:glow cat on grass"
    prompt = read(clip, text)
    assert layout(prompt) == [
        ("a", (1, 77, 78)), ("embedding:glow", (2, 3)), ("cat", (4, 79)), ("on", (5, 80)), ("grass", (6, 81)),
    ]  # fmt: skip
    change = (encode(clip, text) - encode(clip, text.replace("cat", "dog"))).norm(dim=-1)
    assert change[77:].argmax() == 79 - 77 and not change[:4].any() and change[4] > 0
    assert prompt.length == len(change)


def test_an_embedding_for_one_clip_only(read, tmp_path):
    save_file({"clip_l": torch.randn(2, 32)}, tmp_path / "glow.safetensors")
    clip = encoder("sd3", embeddings=str(tmp_path))
    clip.tokenizer.clip_g.embedding_directory = None  # reads its name instead
    with pytest.raises(ValueError, match="Wanted a prompt that all text encoders read alike"):
        read(clip, "a embedding:glow cat")


# ---- encoders without a reader


def test_an_encoder_without_a_reader_is_named(read):
    class HunyuanVideoTokenizer:
        pass

    with pytest.raises(ValueError, match=r"got HunyuanVideo\. Supported are CLIP .*Flux\.1 \(T5\), .*Z-Image"):
        read(SimpleNamespace(tokenizer=HunyuanVideoTokenizer()), "a cat")


def test_a_tokenizer_derived_from_a_known_one_is_not_taken_for_it(read):
    hunyuan = pytest.importorskip("comfy.text_encoders.hunyuan_image")
    with pytest.raises(ValueError, match="got HunyuanImage"):
        read(SimpleNamespace(tokenizer=hunyuan.HunyuanImageTokenizer()), "a cat")
