"""A toy CLIP tokenizer, and the prompts and pairs it makes. Nothing here needs ComfyUI."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(ROOT / ".host" / "hypothesis"))

from hypothesis import Phase, settings  # noqa: E402

from p2p_attention.letters import bytes_of_letters, is_unspaced  # noqa: E402
from p2p_attention.prompt import Piece, Prompt, PromptPair, Word, build_prompt  # noqa: E402

# The same examples in every run. Explaining a failure takes longer than all the tests.
settings.register_profile(
    "unit", deadline=None, database=None, derandomize=True, phases=[Phase.explicit, Phase.generate, Phase.shrink]
)
settings.load_profile("unit")

START = Piece(0, "<start>", 0)
LETTER_OF_BYTE = {byte: letter for letter, byte in bytes_of_letters().items()}
END = Piece(1, "<end>", 0)  # CLIP pads with it, too


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The tensors of these tests are tiny; other folders' tests keep their threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class ToyTokenizer:
    """Reads text as CLIP does: lower case, words in pieces, chunks of start, content, end and padding.

    A piece has up to three letters: ``mirror`` becomes ``mir`` ``ror</w>``; of scripts without spaces it has one. Their
    letters are written as bytes are, in CLIP's alphabet. ``(word:1.2)`` is a segment of its own, and so is
    ``embedding:name``, which stands for two vectors.
    """

    def __init__(self):
        self._ids: dict[str, int] = {}

    def chunks(self, text: str, length: int) -> list[list[Piece]]:
        content = self._content(text)
        room = length - 2
        parts = [content[i : i + room] for i in range(0, max(len(content), 1), room)]
        return [[START, *part, *[END] * (length - 1 - len(part))] for part in parts]

    def prompt(self, text: str, length: int = 16) -> Prompt:
        return build_prompt(text, self.chunks(text, length))

    def words(self, text: str) -> tuple[Word, ...]:
        return self.prompt(text).words

    def pair(self, source: str, *targets: str, length: int = 16) -> PromptPair:
        prompts = [self.prompt(text, length) for text in (source, *targets)]
        return PromptPair(prompts[0], tuple(prompts[1:]), context_dim=8, tokenize=self.words)

    def _content(self, text: str) -> list[Piece]:
        pieces = []
        segments = re.split(r"(?<!\\)\(([^()]*):[\d.]+\)|(?<!\S)(embedding:\S+)", text)
        for group, segment in enumerate(filter(None, segments), 1):
            if segment.startswith("embedding:"):
                pieces += [Piece(f"{segment} vector {i}", "(embedding)", group) for i in range(2)]
                continue
            read = re.sub(r"\\([()])", r"\1", segment.lower())
            for word in re.findall(r"\d+(?=[^\W\d])|\w+|[^\w\s]+", read):
                size = 1 if is_unspaced(word[0]) else 3
                letters = [self._bytes(word[i : i + size]) for i in range(0, len(word), size)]
                letters[-1] += "</w>"
                pieces += [Piece(self._id(each), each, group) for each in letters]
        return pieces

    @staticmethod
    def _bytes(text: str) -> str:
        return "".join(LETTER_OF_BYTE[byte] for byte in text.encode())

    def _id(self, letters: str) -> int:
        return self._ids.setdefault(letters, 2 + len(self._ids))


@pytest.fixture(scope="session")
def toy() -> ToyTokenizer:
    return ToyTokenizer()
