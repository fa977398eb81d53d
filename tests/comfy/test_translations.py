"""The pack in Korean, Japanese and Chinese: every word of every node, nothing else, and nothing lost on the way."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter

import pytest
from real_host import PACK

sys.path.append(str(PACK / "locales"))
import node_texts  # noqa: E402

LETTERS = {"ko": r"[가-힣]", "ja": r"[ぁ-ヿ一-鿿]", "zh": r"[一-鿿]"}
FOREIGN = {"ko": r"[ぁ-ヿ一-鿿]", "ja": r"[가-힣]", "zh": r"[가-힣ぁ-ヺー-ヿ]"}
MAY_STAY_ENGLISH = {"clip", "vae", "cfg", "latent"}  # as ComfyUI's own nodes have it
# What is typed or chosen and therefore stays: quoted syntax, word#2, ---, names with _, numbers, abbreviations, cfg.
CODE = re.compile(
    r"'[a-z]+: [a-z0-9.-]+'|\bword#\d|---|\b[a-z]+_[a-z_]+\b|\d+(?:[./]\d+)?|\b[A-Z][A-Z0-9]+\b|\bcfg\b", re.ASCII
)


@pytest.fixture(scope="module")
def schemas(host):
    return host.schemas()


@pytest.fixture(scope="module")
def english(schemas):
    return node_texts.english(schemas)


@pytest.fixture(params=node_texts.LANGUAGES)
def language(request):
    return request.param


@pytest.fixture
def translations(language):
    return read(f"{language}.json")


def read(name):
    return json.loads((PACK / "locales" / name).read_text(encoding="utf-8"))


def choices_with_names():
    code = (PACK / "web" / "option_names.js").read_text(encoding="utf-8")
    return set(re.findall(r"\bt\('([^']+)'\)", code))


def code(text):
    return Counter(CODE.findall(text))


def test_no_text_waits_for_a_translation_and_none_is_left_over(english, translations):
    assert list(translations) == node_texts.texts(english), "run: python dev.py translations"
    assert [text for text, translation in translations.items() if not translation.strip()] == []


@pytest.mark.parametrize("served", ["en", *node_texts.LANGUAGES])
def test_what_the_page_is_given_names_all_that_the_host_shows(host, schemas, served):
    """Held against the host's own description of the nodes, the one that the page asks for."""
    page = read(f"{served}/nodeDefs.json")
    assert set(page) == {schema.node_id for schema in schemas}
    for node_id, words in page.items():
        info = host.node(node_id).GET_NODE_INFO_V1()
        inputs = info["input"].get("required", {}) | info["input"].get("optional", {})
        assert set(words) == {"display_name", "description", "inputs", "outputs"}
        assert set(words["inputs"]) == set(inputs), node_id
        assert list(words["outputs"]) == [str(place) for place in range(len(info["output"]))], node_id
        for socket in (*words["inputs"].values(), *words["outputs"].values()):
            assert set(socket) == {"name", "tooltip"} and all(socket.values()), (node_id, socket)
        if served == "en":
            assert (words["display_name"], words["description"]) == (info["display_name"], info["description"])
            assert {name: socket["tooltip"] for name, socket in words["inputs"].items()} == {
                name: spec[1]["tooltip"] for name, spec in inputs.items()
            }
            assert [socket["name"] for socket in words["outputs"].values()] == list(info["output_name"])


@pytest.mark.parametrize("served", ["en", *node_texts.LANGUAGES])
def test_the_files_are_up_to_date(english, served):
    expected = english if served == "en" else node_texts.translated(english, read(f"{served}.json"))
    assert read(f"{served}/nodeDefs.json") == expected, "run: python dev.py translations"


def test_the_list_is_in_its_language(language, translations):
    for text, translation in translations.items():
        if text not in MAY_STAY_ENGLISH:
            assert re.search(LETTERS[language], translation), text
        assert not re.search(FOREIGN[language], translation), text
        assert translation == translation.strip() and "  " not in translation, text


def test_what_is_typed_stays_as_it_is_and_what_is_chosen_is_called_by_its_name(language, schemas, translations):
    in_lists = json.loads((PACK / "web" / "texts" / f"{language}.json").read_text(encoding="utf-8"))

    def explains(tooltip, choice):
        named = rf"{re.escape(in_lists[choice])}[(（]{choice}[)）]" if choice in choices_with_names() else choice
        return re.search(rf"(^|[.。] ?){named}[:：]", tooltip)

    names = {i.id for schema in schemas for i in schema.inputs} | {o.display_name for s in schemas for o in s.outputs}
    for text, translation in translations.items():
        if text not in names:
            assert code(translation) == code(text), text
    for schema in schemas:
        for socket in schema.inputs:
            chosen = [o for o in getattr(socket, "options", None) or () if re.search(rf"(^|\. ){o}: ", socket.tooltip)]
            explained = [choice for choice in chosen if explains(translations[socket.tooltip], choice)]
            assert explained == chosen, (schema.node_id, socket.id)


def test_nodes_are_called_by_their_translated_names(schemas, translations):
    names = sorted((schema.display_name for schema in schemas), key=len, reverse=True)
    for text, translation in translations.items():
        for name in names:
            if name in text:
                assert translations[name] in translation, (text, name)
    assert len({translations[name] for name in names}) == len(names)


def test_no_text_holds_what_the_page_would_take_for_a_placeholder(translations):
    """ComfyUI's page gives { } @ and | a meaning of their own, in some versions and not in others."""
    assert [text for pair in translations.items() for text in pair if re.search(r"[{}@|]", text)] == []


def test_a_missing_translation_leaves_the_english_to_the_page():
    defs = {"A": {"display_name": "a", "inputs": {}, "outputs": {"0": {"name": "b", "tooltip": "c"}}}}
    assert node_texts.texts(defs) == ["a", "b", "c"]
    assert node_texts.translated(defs, {"a": "x", "b": "y", "c": ""}) == {
        "A": {"display_name": "x", "inputs": {}, "outputs": {"0": {"name": "y"}}}
    }


def test_the_choices_of_lists_have_names(schemas):
    """But for what is called so everywhere, and the host's own lists."""
    lists = [entry for schema in schemas for entry in schema.inputs if hasattr(entry, "options")]
    of_the_host = {"sampler_name", "scheduler"}
    choices = {option for entry in lists if entry.id not in of_the_host for option in entry.options}
    terms = {"pin", "pin-aligned", "free", "unet", "flow", "8", "16", "32", "64"}
    assert choices - terms == choices_with_names()
