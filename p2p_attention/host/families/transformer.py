"""What the families of transformers share: they are hooked after the projections, and read by newer text encoders."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from comfy.model_sampling import CONST
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ...attention import Way
from ...invert import Variance, variance_of_diffusion
from ...joint_attention import ALL, Injection, TokenLayout, attend, column_probs
from ...maps import middle_one
from ...prompt import Prompt, PromptPair
from ...strength import Strengths
from ...text_places import TextPlaces
from .. import KEY
from ..attention_calls import AttentionCalls, ModelCall
from ..encoders import name_of, read_prompt
from .family import Grid, Layer
from .override import install_override

STRENGTHS: Strengths = (  # what they keep of the background and make of the edits: ``bench strength --model flow``
    (0.0, 1.0, 1.0),  # 27.4 dB, 73 %
    (0.25, 0.6, 0.6),  # 26.0 dB, 93 %
    (0.5, 0.4, 0.4),  # 24.6 dB, 95 %
    (0.75, 0.4, 0.2),  # 24.1 dB, 96 %
    (1.0, 0.0, 0.0),  # 21.9 dB, 98 %
)
CALL_KEY = "p2p_call"  # what is known of a model call, for its attention calls
KINDS_WITH = {"cross": {"joint", "cross"}, "self": {"joint", "self"}}  # kinds of calls that have such maps


@dataclass(frozen=True)
class Architecture:
    """What is particular to one class of transformers.

    Args:
        name: of the models, for messages.
        encoders: the host's tokenizers of their texts.
        width: of the text's rows; None where the module does not tell.
        patch: image tokens of the model are patches of so many latent pixels a side.
        blocks: the attention calls that see the text, in their order: (block's type, its number), as the host's options
            call them where they do.
        map_blocks: which of them, by their place in ``blocks``, word maps are taken from.
        places: where prompts stand, in a call whose text has so many positions.
        positions: of the text of a call, of its context and its other inputs.
        text_calls: how many attention calls of the text alone come first.
        image_calls: whether there are calls of the picture alone that are self-attention of its blocks.
        moves: whether texts of unequal length have to be brought to other places than at the context's beginning.
        filling: the parameter that stands for positions with which the model fills a text up; "" for none.
        text_last: whether the text stands behind the picture.
        beside: inputs with reference pictures that are not tokens behind the picture's own.
        injection: what the edits inject in a block: (module, block or None where it is not known) -> ``Injection``.
    """

    name: str
    encoders: frozenset[str]
    width: Callable[[Any], int | None]
    patch: Callable[[Any], int]
    blocks: Callable[[Any], list[tuple[str, int]]]
    map_blocks: Callable[[Any], Sequence[int]]
    places: Callable[[Any, int], TextPlaces]
    positions: Callable[[torch.Tensor, Mapping[str, Any]], int] = lambda context, inputs: context.shape[1]
    text_calls: Callable[[Any], int] = lambda module: 0
    image_calls: bool = False
    moves: bool = False
    filling: str = ""
    text_last: bool = False
    beside: frozenset[str] = frozenset()
    injection: Callable[[Any, tuple[str, int] | None], Injection] = lambda module, block: ALL


def width_of(path: str) -> Callable[[Any], int | None]:
    """What the linear layer at ``path`` takes; None for one of another kind (quantised ones may not tell)."""
    return lambda module: getattr(module.get_submodule(path), "in_features", None)


@dataclass(eq=False)
class TextCall:
    """What is known of one model call, and which of its attention calls were met. One object a call.

    Args:
        module: the transformer.
        architecture: what it is like.
        places: where its prompts stand.
        others: positions of the texts of rows that are of no pair.
        grid: (h, w) of its image tokens.
        images: image tokens of all frames, without reference pictures.
        seen: how many calls of each kind were met.
    """

    module: Any
    architecture: Architecture
    places: TextPlaces
    others: int
    grid: Grid
    images: int
    seen: dict[str, int] = field(default_factory=dict)  # kind of call -> how many

    def block(self, kind: str, options: Mapping[str, Any]) -> tuple[str, int] | None:
        """The block that a call is in, as the host says or else by counting; the call is counted."""
        number = self.seen.get(kind, 0)
        self.seen[kind] = number + 1
        blocks = self.architecture.blocks(self.module)
        said = (options.get("block_type"), options.get("block_index"))
        return said if said in blocks else blocks[number] if number < len(blocks) else None


class Transformer:
    """A family, see ``Family``; ``Joint`` and ``Cross`` say which models and which calls are which."""

    supported: str
    architectures: Mapping[str, Architecture]
    telling: str  # the kind of call that an edit cannot do without
    pads_texts = True
    overwrites = True
    strengths: Strengths = STRENGTHS
    ways: tuple[Way, ...] = ("auto", "maps")

    # ------------------------------------------------------------------------------------------------------ texts

    def reads(self, clip: Any) -> bool:
        name = type(getattr(clip, "tokenizer", None)).__name__
        return any(name in architecture.encoders for architecture in self.architectures.values())

    def read(self, clip: Any, text: str) -> Prompt:
        return read_prompt(clip, text)

    # ------------------------------------------------------------------------------------------------------ models

    def kind(self, model: Any) -> str:
        """Its class in ``comfy.ldm``, by which ``architectures`` knows it. Of that class, not derived from it."""
        module = model.model.diffusion_model
        cls = type(getattr(module, "_orig_mod", module))  # compiled ones wrap it
        return f"{cls.__module__.removeprefix('comfy.ldm.')}.{cls.__name__}"

    def takes(self, model: Any) -> bool:
        return self.kind(model) in self.architectures

    def require(self, model: Any, pair: PromptPair | None) -> None:
        architecture = self.architectures[self.kind(model)]
        wanted = architecture.width(model.model.diffusion_model)
        if pair is None:
            return
        another = bool(pair.encoder) and pair.encoder not in architecture.encoders
        if another or not pair.padded or wanted not in (None, pair.context_dim):
            raise ValueError(
                f"Wanted a prompt pair made by the text encoder of {architecture.name}"
                + ("" if wanted is None else f", of width {wanted}")
                + f", got {name_of(pair.encoder)} of width {pair.context_dim}: it was made by another model's. Connect "
                "the CLIP of this model to P2P Prompt Pair; the type in the CLIP's loader says which it is."
            )

    def require_loaded(self, diffusion_model: torch.nn.Module) -> None:
        """Nothing that other packs put into these models when they are loaded is known to be in the way."""

    def finish_texts(self, model: Any, conds: Mapping[str, Sequence[dict]]) -> None:
        """These attend to what the text encoder gave."""

    def variance(self, model: Any) -> Variance:
        if not isinstance(model.get_model_object("model_sampling"), CONST):
            return variance_of_diffusion
        return lambda sigma: 1.0

    def embeds_guidance(self, model: Any) -> bool:
        return bool(getattr(getattr(model.model.diffusion_model, "params", None), "guidance_embed", False))

    # ------------------------------------------------------------------------------------------------------ layers

    def layers(self, model: Any) -> dict[tuple[str, int], Layer]:
        """All blocks. Maps are taken of some; those of self-attention from the middle one of them."""
        architecture, module = self.architectures[self.kind(model)], model.model.diffusion_model
        blocks = architecture.blocks(module)
        chosen = [blocks[i] for i in architecture.map_blocks(module)]
        kinds = {block: frozenset({"cross"}) for block in chosen}
        kinds[middle_one(chosen)] |= {"self"}
        return {block: Layer(0, kinds.get(block, frozenset())) for block in blocks}

    def grids(self, model: Any, size: tuple[int, int]) -> list[Grid]:
        patch = self.architectures[self.kind(model)].patch(model.model.diffusion_model)
        return [(-(-size[0] // patch), -(-size[1] // patch))]

    def injects(self, grid: Grid, size: tuple[int, int]) -> bool:
        return True  # these have one resolution

    # ------------------------------------------------------------------------------------------------------- hooks

    def sort(self, state: TextCall, queries: int, keys: int) -> tuple[str, TokenLayout] | None:
        """The kind of an attention call and its tokens; None for one that is left alone."""
        raise NotImplementedError

    def require_call(self, architecture: Architecture, inputs: Mapping[str, Any]) -> None:
        """Raises ValueError where a model call has inputs beside which edits would go to the wrong tokens."""

    def arranged(
        self,
        module: Any,
        architecture: Architecture,
        context: torch.Tensor,
        prompts: Sequence[Prompt | None],
        images: int,
    ) -> AbstractContextManager[torch.Tensor]:
        """The context of a model call as its rows' own runs would have it, for as long as the call lasts."""
        return nullcontext(context)

    def install(self, model: Any, model_options: dict, calls: AttentionCalls) -> None:
        architecture = self.architectures[self.kind(model)]
        met = False  # whether the first model call's attention was

        def around_batch(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
            nonlocal met
            call: ModelCall | None = transformer_options.get(KEY)
            if call is None or call.rows is None:
                return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
            module = executor.class_obj.diffusion_model
            self.require_call(architecture, kwargs)
            (grid,) = self.grids(model, call.size)
            images = math.prod(grid) * (x.shape[2] if x.ndim == 5 else 1)
            prompts = calls.prompts(call.rows)
            with self.arranged(module, architecture, c_crossattn, prompts, images) as context:
                places = architecture.places(module, architecture.positions(context, kwargs))
                others = architecture.positions(c_crossattn, kwargs)
                state = TextCall(module, architecture, places, others, grid, images)
                options = {**transformer_options, CALL_KEY: state}
                output = executor(x, t, c_concat, context, control, options, **kwargs)
            if not met:
                _require_all(architecture, state.seen.get(self.telling, 0), len(architecture.blocks(module)))
            met = True
            return output

        def around_attention(attention, q, k, v, mask, heads, options):
            state: TextCall | None = options.get(CALL_KEY)
            sorted_as = state and self.sort(state, q.shape[-2], k.shape[-2])
            if not sorted_as:
                return attention(q, k, v, mask)
            kind, layout = sorted_as
            if kind == "text" and len(q) != len(options[KEY].rows):
                return attention(q, k, v, mask)  # Krea 2 puts the layers of its text encoder together
            block = state.block(kind, options)
            injection = architecture.injection(state.module, block)
            program = calls.joint_program(
                options, len(q), layout, state.places, state.others, v.device, v.dtype, injection
            )
            for maps in ("cross", "self"):
                if block is not None and calls.wants(maps, block) and kind in KINDS_WITH[maps]:
                    calls.see(
                        maps, block, options, state.grid, _probs(maps, state, layout, q, k, heads, options, calls)
                    )
            return attend(program, attention, q, k, v, mask)

        add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, around_batch, model_options, is_model_options=True)
        install_override(model_options, around_attention)


def _require_all(architecture: Architecture, seen: int, blocks: int) -> None:
    """Caches of other packs may leave blocks out later on, but not in a run's first model call."""
    if seen < blocks:
        raise ValueError(
            f"Wanted to edit the attention of {architecture.name} in all its {blocks} blocks, but "
            + (f"only that of {seen}" if seen else "none of it")
            + " came by where it can be edited: another node leaves blocks out or computes them in a way of its own. "
            "Remove that node (replaced blocks, another runtime) from the model."
        )


def _probs(
    maps: str,
    state: TextCall,
    layout: TokenLayout,
    q: torch.Tensor,
    k: torch.Tensor,
    heads: int,
    options: Mapping[str, Any],
    calls: AttentionCalls,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """What makes a call's maps, see ``AttentionCalls.see``: of the picture's own tokens, to its prompts' positions."""
    tokens = math.prod(state.grid)
    if state.images != tokens or not layout.text_queries and layout.queries != tokens:
        raise ValueError(
            f"Attention maps are those of one picture: wanted {tokens} image tokens, got {layout.queries}, of several "
            "frames or beside a reference. Remove P2P Local Blend Mask and P2P Record Attention; a blend by a painted "
            "mask alone works."
        )
    first = layout.image_queries.start
    prompts = calls.prompts(options[KEY].rows)

    def probs(rows: torch.Tensor) -> torch.Tensor:
        chosen = rows.tolist()
        image = q[..., first : first + tokens, :]
        if maps == "self":
            begin = layout.image_keys.start
            return column_probs(image, k, heads, range(begin, begin + tokens), over="columns", rows=chosen)
        said = [prompts[row] for row in chosen]
        padding = _padding(state, layout, said, q.device)
        whole = column_probs(image, k, heads, layout.text_keys, padding=padding, rows=chosen)
        return _by_position(whole, [state.places.prompt(prompt.length) for prompt in said])

    return probs


def _padding(
    state: TextCall, layout: TokenLayout, prompts: Sequence[Prompt], device: torch.device
) -> torch.Tensor | None:
    """bool (n, K) of the keys that are shut off."""
    each = [state.places.padding(prompt.length) for prompt in prompts]
    if all(padding is None for padding in each):
        return None
    shut_off = torch.zeros(len(each), layout.keys, dtype=torch.bool)
    for row, padding in zip(shut_off, each, strict=True):
        if padding is not None:
            row[layout.text_keys.start : layout.text_keys.stop] = padding
    return shut_off.to(device)


def _by_position(probs: torch.Tensor, places: Sequence[range]) -> torch.Tensor:
    """(n, Q, T) over a call's text tokens -> (n, Q, S) over the longest prompt's positions; zero where one has none."""
    longest = max(map(len, places))
    return torch.stack(
        [
            F.pad(of[:, place.start : place.stop], (0, longest - len(place)))
            for of, place in zip(probs, places, strict=True)
        ]
    )
