"""A translated help page (web/docs/NODE/LANGUAGE.md, where ComfyUI looks for it) says what the English one says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "web" / "docs"
LANGUAGES = {"ko": r"[가-힣]", "ja": r"[ぁ-んァ-ン]", "zh": r"[一-鿿]"}
NODES = [
    "P2PEdit",
    "P2PPromptPair",
    "P2PAttentionReplace",
    "P2PAttentionRefine",
    "P2PReweightToken",
    "P2PLocalBlendMask",
    "P2PDDIMInvert",
]
TRANSLATED = [(page, language) for page in [*NODES, "tutorial"] for language in LANGUAGES]
# What is the same in every language, beside the nodes' names: methods, models, and an input's choices outside of code.
NAMES = ["DDIM", "SDXL", "Flux", "Qwen-Image", "Z-Image", "free", "pin-aligned", "pin"]


def form(text):
    """What a translation may not change: headings, rows of tables, pictures, links, code, numbers."""
    lines = text.splitlines()
    return {
        "headings": [line.split(" ")[0] for line in lines if line.startswith("#")],
        "cells": [line.count("|") for line in lines if line.startswith("|")],
        "points": sum(bool(re.match(r"\s*(\*|\d+\.) ", line)) for line in lines),
        "links": re.findall(r"\]\(([^)]+)\)", text),
        "code": Counter(re.findall(r"`[^`]+`", text)),
        "numbers": Counter(re.findall(r"\d+(?:\.\d+)?", re.sub(r"\]\([^)]+\)", "", text))),
    }


def untranslated(line, language):
    """Is there English prose in a line without a letter of the language? Code, targets, examples and names are none."""
    if re.search(LANGUAGES[language], line) or line.startswith("Source"):
        return False
    line = re.sub(r"`[^`]+`|(?<=\])\([^)]+\)", "", line).replace("**", "")
    line = re.sub(r"\*[^*\s](?:[^*]*[^*\s])?\*", "", line)
    line = re.sub(r"\bP2P(?: [A-Z][\w-]*)+", "", line)
    line = re.sub(rf"\b(?:{'|'.join(NAMES)})\b", "", line)
    return re.search(r"[A-Za-z]{3,}", line) is not None


@pytest.mark.parametrize(("page", "language"), TRANSLATED)
def test_a_translation_has_the_form_of_the_english_page(page, language):
    translated = (DOCS / page / f"{language}.md").read_text(encoding="utf-8")
    assert form(translated) == form((DOCS / f"{page}.md").read_text(encoding="utf-8"))
    assert not [line for line in translated.splitlines() if untranslated(line, language)]


@pytest.mark.parametrize(
    ("line", "prose"),
    [
        ("| 0.25 | 0.9, 0.6 | 24.9 | 86 | 0.65, 0.3 | 24.7 | 67 |", False),
        ("| DDIM: `source_row` free | 200 | 21.1 | 96 | 17.8 | 80 |", False),
        ("[Z-Image](../../workflows/edits_z_image.json), [SD3.5](../../workflows/edits_sd35.json),", False),
        ("# P2P Local Blend Mask", False),
        ("* *Wanted prompts that differ*, *more snow* `word: scale`", False),
        ("| you want | set |", True),
        ("![A cat becomes a mushroom](images/word_swap.png)", True),
        ("| **the defaults** | 200 | 29.5 |", True),
        ("* Too little: a higher `strength`, or *more snow*.", True),
        ("[P2P Grid](P2PGrid.md), [tutorial](tutorial.md), [SDXL](../../workflows/word_swap_sdxl.json).", True),
        ("P2P Attention Replace puts it there.", True),
    ],
)
def test_english_prose_is_told_from_names_and_numbers(line, prose):
    assert untranslated(line, "ko") == prose
    assert not untranslated(f"{line} 눈", "ko")


def test_no_translation_stands_alone():
    there = {(path.parent.name, path.stem) for path in DOCS.glob("*/*.md")}
    assert there == set(TRANSLATED)
