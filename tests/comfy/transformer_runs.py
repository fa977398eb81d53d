"""Runs of transformers that the tests make by hand, and the same edits with every map written out.

The oracle writes every map out in float64, edits it and multiplies; it is an attention override of a stock model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from small_transformers import SMALL, latent, prompt_of, row_of, small

STEPS = 4
SOURCE = "a cat on a red chair"
SWAP = "a dog on a red chair"
OTHER = "a cat on a blue chair"
THIRD = "a cat in a red box"
LONGER = "a cat on a small red wooden chair"
SHORTER = "a cat"
NEGATIVE = "blurry dark thing of bad art"  # as many words as SOURCE: cond and uncond share a call
WINDOWS = {"cross_start": 0.0, "cross_end": 0.8, "self_start": 0.0, "self_end": 0.4}
NEVER = {"cross_start": 0.0, "cross_end": 0.0, "self_start": 0.0, "self_end": 0.0}

CROSS = ("cosmos_predict2", "anima", "wan")


class Run:
    """One architecture: its model, pairs as its text encoder would make them, and runs of the stock sampler."""

    def __init__(self, name, host, run_node, **changes):
        self.name, self.host, self.run_node = name, host, run_node
        self.kind = name.partition(" of ")[0]  # of a model in full size
        self.model = small(name, **changes)
        self.prompts = host.module("p2p_attention.prompt")

    def pair(self, *targets, source=SOURCE):
        texts = [text.split() for text in (source, *targets)]
        prompts = [prompt_of(self.prompts, self.name, words) for words in texts]

        def tokenize(text):
            return prompt_of(self.prompts, self.name, text.split()).words

        rows = [list(row_of(self.name, words)) for words in texts]
        encoded = max(context.shape[1] for context, _ in rows)
        pair = self.prompts.PromptPair(
            prompts[0], tuple(prompts[1:]), SMALL[self.name].width, tokenize, padded=True, encoded=encoded
        )
        return [self.host.module("p2p_attention.conditionings").stack_rows(rows, pair)], pair

    def plain(self, text):
        context, extras = row_of(self.name, text.split())
        return [[context, extras]]

    def edit(self, pair, node="P2PAttentionReplace", model=None, **inputs):
        return self.run_node(node, model=model or self.model, pair=pair, **(inputs or WINDOWS))[0]

    def as_made(self, conditioning):
        """With the rows that the model itself makes of them, each by itself; for a stock model."""
        if not SMALL[self.name].made:
            return conditioning
        adapt, made = self.model.model.diffusion_model.preprocess_text_embeds, []
        for context, extras in conditioning:
            texts = extras["p2p_t5"]
            rows = [
                adapt(row[None, : text.length], text.ids[None], t5xxl_weights=text.weights[None, :, None])
                for row, text in zip(context, texts, strict=True)
            ]
            extras = {key: value for key, value in extras.items() if not key.startswith(("p2p", "t5xxl"))}
            made.append([torch.cat(rows), extras])
        return made

    def sample(
        self,
        model,
        positive,
        seeds=1,
        cfg=4.0,
        negative=None,
        rows=1,
        sampler="euler",
        height=20,
        width=12,
        steps=STEPS,
    ):
        """``rows`` of each seed share its noise. Of our models the run itself makes rows."""
        import comfy.sample

        image = latent(self.name, seeds, height, width)["samples"].repeat_interleave(rows, 0)
        noise = comfy.sample.prepare_noise(image[::rows], 7).repeat_interleave(rows, 0)
        negative = negative or self.plain(NEGATIVE)
        positive = self.as_made(positive) if rows > 1 else positive
        with torch.inference_mode():  # as the host runs its nodes
            return comfy.sample.sample(
                model, noise, steps, cfg, sampler, "normal", positive, negative, image, seed=7, disable_pbar=True
            )

    def text_tokens(self, positions):
        before = {"aura_flow": 8, "flux2": 512 - positions}.get(self.kind, 0)
        multiple = SMALL[self.name].multiple
        return before, before + max(SMALL[self.name].made, -(-positions // multiple) * multiple)


@dataclass
class EditOfRow:
    """A (S, T), g and c at the middle of a step, and the end of the self window."""

    alignment: torch.Tensor
    gates: torch.Tensor
    cross_end: float
    self_end: float
    gains: torch.Tensor


def explicit(run, edits: Sequence[EditOfRow | None], positions: int, prompts=None, images=60, precision=torch.float64):
    """The stock model with the edits written out as maps.

    Args:
        edits: of the edited rows.
        positions: of the text in a call of ours.
        prompts: of each row its length, where there is padding behind it.
        images: image tokens.
        precision: of the maps.
    """
    group = 1 + len(edits)
    before, texts = run.text_tokens(positions)

    def override(func, q, k, v, heads, *args, **kwargs):
        options = kwargs["transformer_options"]
        if not kwargs.get("skip_reshape"):
            q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
        q4, k4, v4 = q.to(precision), k.to(precision), v.to(precision)
        scores = q4 @ k4.transpose(-1, -2) / q4.shape[-1] ** 0.5
        chunk = len(q) // len(options["cond_or_uncond"])
        sigmas = options["sample_sigmas"]
        middle = (int((sigmas[:-1] - options["sigmas"][0]).abs().argmin()) + 0.5) / (len(sigmas) - 1)
        queries, keys = q4.shape[2], k4.shape[2]
        ours = [
            row
            for i, kind in enumerate(options["cond_or_uncond"])
            if kind == 0
            for row in range(i * chunk, (i + 1) * chunk)
        ]
        joint = queries == keys and queries >= texts + images
        cross = keys == texts and queries == images
        alone = queries == keys == images and run.kind in (*CROSS, "sd35_medium")
        text_alone = queries == keys == texts and run.kind == "krea2"  # before its blocks
        picture, text = slice(texts if joint else 0, queries), slice(texts)
        if run.kind == "hidream":
            picture, text = slice(queries - texts), slice(queries - texts, queries)
        if prompts is not None and (joint or cross or text_alone) and ours:
            for row in ours:
                length = before + prompts[row % group]
                scores[row, :, :, length:texts] = -torch.inf
        maps = scores.softmax(-1)
        edited = maps.clone()
        for row in ours:
            place = (row - ours[0]) % group
            edit = edits[place - 1] if place else None
            if edit is None or not (joint or cross or alone):
                continue
            source = row - place
            if joint or cross:
                g, c, a = (each.to(maps) for each in whole(edit, before, texts, middle))
                mixed = maps[source, :, picture, text] @ a * g + maps[row, :, picture, text] * (1 - g)
                edited[row, :, picture, text] = mixed * c
            if (joint or alone) and middle < edit.self_end:
                edited[row, :, picture, picture] = maps[source, :, picture, picture]
        out = (edited @ v4).to(v.dtype)
        return out if kwargs.get("skip_output_reshape") else out.transpose(1, 2).flatten(2)

    model = run.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    return model


def whole(edit, before, texts, middle):
    """g, c and A over all text tokens: what no prompt has is its own counterpart, and follows any open gate."""
    source, target = edit.alignment.shape
    open_now = edit.gates * float(middle < edit.cross_end)
    g = torch.full((texts,), float(open_now.any()), dtype=torch.float64)
    c = torch.ones(texts, dtype=torch.float64)
    g[before : before + target], c[before : before + target] = open_now, edit.gains
    a = torch.zeros(texts, texts, dtype=torch.float64)
    a[range(before), range(before)] = 1.0
    a[before : before + source, before : before + target] = edit.alignment.double()
    if source == target:
        rest = range(before + source, texts)
        a[rest, rest] = 1.0
    return g, c, a


def edits_of(run, pair, kinds=("shared", "swapped"), gains=(), cross_end=0.8, self_end=0.4):
    align = run.host.module("p2p_attention.align").align
    edits = []
    for target in pair.targets:
        alignment = align(pair.source, target)
        c = torch.ones(target.length, dtype=torch.float64)
        for word, factor in gains:
            c[list(pair.find(word, target))] = factor
        gates = torch.tensor([float(kind in kinds) for kind in alignment.kinds]).double()
        edits.append(EditOfRow(alignment.matrix, gates, cross_end, self_end, c))
    return edits
