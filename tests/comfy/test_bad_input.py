"""Whatever is typed, linked or sent: a picture or a message that says what was wanted, before sampling starts.

The host checks what is typed into a widget, but not what comes by a link, nor NaN; so nodes are called here with values
inside, at the ends and outside of every widget's range.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inverting import picture, small
from sampling import DEFAULTS, PHRASE, SOURCE, SWAP

STEPS = 2
PROMPTS = {
    "emoji": "a 🐈 on a red 🪑, 👩‍👩‍👧",
    "right to left": "قطة على كرسي أحمر",
    "Korean": "빨간 의자 위의 고양이",
    "combining": "e\u0301\u0323\u0308 cafe\u0301",
    "zero width": "a\u200bcat\u200d on\ufeff a\u2060chair",
    "NUL and control": "a\0cat\x07\x1b[31m on a chair",
    "half a surrogate": "a cat \ud83d on a chair",
    "punctuation": "?!...,;:--",
    "empty": "",
    "blanks": " \t\n\r\n\u3000 ",
    "brackets": "((((((a cat))))))",
    "open brackets": "(((a cat on a chair",
    "closing brackets": "a cat))) on a chair",
    "brackets of nothing": "(:1.2) () (())",
    "odd weights": "(cat:1e9) (dog:-3) (red:nan) (chair:inf) (tree:)",
    "many brackets": "(" * 500 + "cat" + ")" * 500,
    "no such embedding": "a embedding:there_is_none on a chair",
    "embedding without a name": "a cat embedding:",
    "lines": "a cat\r\non a chair\r---\r\n",
    "edits in odd forms": "a dog\n --- \n---\n--\n----\n a cat\t---",
    "BREAK": "a cat BREAK on a chair BREAK",
    "one long word": "x" * 3000,
    "two thousand words": " ".join(f"word{i % 700}" for i in range(2000)),
}

# Where no picture can be made, and what the sentence says; everything else gives one.
REFUSED = {
    ("half a surrogate", "source"): "that the text encoder can read",
    ("half a surrogate", "target"): "that the text encoder can read",
    ("empty", "source"): "at least one word for the source",
    ("blanks", "source"): "at least one word for the source",
    ("odd weights", "source"): "weights up to 10000",
    ("odd weights", "target"): "weights up to 10000",
    ("many brackets", "source"): "each pair of parentheses is a factor",
    ("many brackets", "target"): "each pair of parentheses is a factor",
    ("lines", "target"): "at least one word for the edit 2",
    ("edits in odd forms", "target"): "at least one word for the edit 2",
    ("two thousand words", "source"): "common multiple of at most",
    ("two thousand words", "target"): "common multiple of at most",
}


@pytest.fixture(scope="module")
def sampling(run_node):
    return small(run_node)


@pytest.fixture(scope="module")
def image():
    return picture()


@pytest.fixture
def calls(monkeypatch):
    """The model's calls so far."""
    from comfy.model_base import BaseModel

    made, apply_model = [], BaseModel.apply_model
    monkeypatch.setattr(BaseModel, "apply_model", lambda *a, **k: made.append(1) or apply_model(*a, **k))
    return made


def picture_or_message(make, calls):
    """A picture without NaN, or the message that refused it before the model was called."""
    calls.clear()
    try:
        samples = make()
    except ValueError as error:
        assert calls == [], "refused after sampling had begun"
        assert str(error).lower().startswith("wanted"), error
        assert len(str(error)) < 2000, "nobody reads that"
        return str(error)
    assert samples is None or torch.isfinite(samples).all()
    return samples


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("name", PROMPTS)
def test_odd_prompts(sampling, image, calls, name, side):
    texts = {"source": SOURCE, "target": SWAP, side: PROMPTS[name]}

    def make():
        conditioning, pair = sampling.run_node("P2PPromptPair", clip=sampling.clip, **texts)
        model = sampling.edit(pair, "P2PAttentionRefine", **DEFAULTS) if pair.targets else sampling.model
        return sampling.ksampler(model, conditioning, image, steps=1)

    got = picture_or_message(make, calls)
    if (name, side) in REFUSED:
        assert isinstance(got, str) and REFUSED[name, side] in got, got
    else:
        assert torch.is_tensor(got), got


@settings(deadline=None, database=None, derandomize=True, max_examples=60)
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text(sampling, source, target):
    try:
        conditioning, pair = sampling.run_node("P2PPromptPair", clip=sampling.clip, source=source, target=target)
    except ValueError as error:
        assert str(error).startswith("Wanted")
        return
    assert conditioning[0][0].shape[:2] == (pair.rows, pair.length)
    assert torch.isfinite(conditioning[0][0]).all()


@settings(deadline=None, database=None, derandomize=True, max_examples=60)
@given(st.text(max_size=30))
def test_any_words(sampling, image, text):
    _, pair = sampling.pair(SWAP)
    for node, inputs in (
        ("P2PReweightToken", {"words": text, "scale": 2.0, "start": 0.0, "end": 1.0}),
        ("P2PAttentionReplace", {**DEFAULTS, "word_windows": text}),
    ):
        try:
            sampling.edit(pair, node, **inputs)
        except ValueError as error:
            assert str(error).split(",")[0].startswith(("Wanted", "Occurrences", "P2P", "In the line"))


# ---- every widget of every node, one at a time


@pytest.fixture(scope="module")
def sockets(sampling, image, demo):
    """What comes into a node by links, by input's name; a function, since records are of a run."""
    conditioning, pair = sampling.pair(SWAP, PHRASE)
    invert = {"steps": STEPS, "scheduler": "normal", "denoise": 1.0, "refine_iterations": 0, "source_row": "free"}
    inverted, _ = sampling.run_node(
        "P2PDDIMInvert", model=sampling.model, conditioning=sampling.encode(SOURCE), latent_image=image, **invert
    )
    recording, maps = sampling.run_node(
        "P2PRecordAttention", model=sampling.edit(pair), pair=pair, words="", attention="self", map_resolution="auto"
    )
    latent = {"samples": sampling.ksampler(recording, conditioning, image, steps=STEPS)}
    masked, masks = sampling.run_node(
        "P2PLocalBlendMask", model=sampling.edit(pair), pair=pair, words="", exclude_words="", threshold=0.3, start=0.0,
        spread=True, grow=0, feather=0.0,
        map_resolution="auto",
    )  # fmt: skip
    masked_latent = {"samples": sampling.ksampler(masked, conditioning, image, steps=STEPS)}
    common = {
        "clip": sampling.clip, "vae": demo[2], "pair": pair, "conditioning": conditioning, "latent_image": image,
        "maps": maps, "masks": masks, "positive": sampling.encode(SOURCE), "negative": sampling.encode(),
        "source_conditioning": sampling.encode(SOURCE), "target_conditioning": sampling.encode(SWAP),
        "images": torch.rand(3, 64, 48, 3), "mask": None,
    }  # fmt: skip
    special = {
        "P2PNullTextOptimize": {"model": inverted},
        "P2PAttentionMaps": {"latent": latent},
        "P2PPickPictures": {"latent": latent},
        "P2PShowBlendMask": {"latent": masked_latent},
        "P2PEdit": {"negative": ""},
        "P2PGrid": {"negative": ""},
        "P2PCompare": {"edited": None},
        "P2PComposite": {"masks": torch.ones(1, 64, 48), "source": None},
    }
    return lambda node_id: {"model": sampling.edit(pair), **common, **special.get(node_id, {})}


TEXTS = {"words": "red", "exclude_words": "", "word_windows": "", "source": SOURCE, "target": SWAP}
# Allowed, and takes its time.
LONG_RUNS = {
    ("P2PDDIMInvert", "steps"): 1000,
    ("P2PEdit", "steps"): 1000,
    ("P2PGrid", "steps"): 1000,
    ("P2PNullTextOptimize", "inner_steps"): 100,
}
NODES = """P2PEdit P2PPromptPair P2PPairFromConditioning P2PAttentionReplace P2PAttentionRefine P2PReweightToken
P2PLocalBlendMask P2PShowBlendMask P2PRecordAttention P2PAttentionMaps P2PSecondPass P2PPickPictures P2PDDIMInvert
P2PProximalGuidance P2PNullTextOptimize P2PCompare P2PComposite P2PGrid P2PDemoPicture""".split()


def test_these_are_all_nodes_with_inputs(host):
    import nodes

    with_inputs = {
        name
        for name, node in nodes.NODE_CLASS_MAPPINGS.items()
        if name.startswith("P2P") and any(node.INPUT_TYPES().get(part) for part in ("required", "optional"))
    }
    assert with_inputs == {*NODES, "P2PLoadDemoModel"}


def values_of(kind, options):
    """Inside, at the ends of, and outside of a widget's range."""
    if isinstance(kind, list) or kind == "COMBO":
        choices = kind if isinstance(kind, list) else options["options"]
        return [*choices[:4], "no such choice", ""]
    low, high = options.get("min"), options.get("max")
    if kind == "FLOAT":
        return [low, high, (low + high) / 3, low - 0.5, high + 0.5, math.nan, math.inf, -math.inf]
    if kind == "INT":
        return [low, high, low - 1, high + 1, -(2**40), 2**40]
    if kind == "BOOLEAN":
        return [True, False]
    return []


@pytest.mark.parametrize("node_id", NODES)
def test_every_widget(sampling, host, sockets, image, calls, node_id):
    declared = host.node(node_id).INPUT_TYPES()
    inputs = {**declared.get("required", {}), **declared.get("optional", {})}
    ready, widgets = sockets(node_id), {}
    for name, (kind, *options) in inputs.items():
        options = options[0] if options else {}
        if name not in ready and kind != "MASK":
            choices = kind if isinstance(kind, list) else options.get("options")
            widgets[name] = TEXTS.get(name, options.get("default", choices[0] if choices else None))
    links = {name: value for name, value in ready.items() if name in inputs and value is not None}
    if node_id in ("P2PDDIMInvert", "P2PEdit", "P2PGrid"):
        widgets["steps"] = STEPS
    if node_id in ("P2PEdit", "P2PGrid"):
        widgets["words"] = "red: 2"
    if node_id == "P2PAttentionMaps":
        links.pop("images", None)
    tried = 0
    for name, (kind, *options) in inputs.items():
        for value in values_of(kind, options[0] if options else {}) if name in widgets else []:
            if LONG_RUNS.get((node_id, name)) == value:
                continue
            steps = value if name == "steps" else STEPS

            def make(name=name, value=value, steps=steps):
                outputs = sampling.run_node(node_id, **links, **{**widgets, name: value})
                calls.clear()  # an inversion calls the model itself
                model = outputs[0] if outputs else None
                if type(model).__name__ != "ModelPatcher":
                    return None
                where = {key: widgets[key] for key in ("scheduler", "denoise") if key in widgets}
                where |= {name: value} if name in where else {}
                positive = outputs[1] if node_id == "P2PEdit" else ready["conditioning"]
                return sampling.ksampler(model, positive, image, steps=steps, **where)

            tried += 1
            picture_or_message(make, calls)
    kinds = {kind if isinstance(kind, str) else "COMBO" for name, (kind, *_) in inputs.items() if name in widgets}
    assert tried or kinds <= {"STRING"}
