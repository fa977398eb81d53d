"""A family of models is one file behind one interface: this toy is added by naming it, and every node works on it.

It is edited after the projections, where every family but the UNet is hooked.
"""

from __future__ import annotations

import math

import pytest
import torch
from sampling import Sampling, latent, relative_error
from small_models import randomise

HEADS, WIDTH, LAYERS, LENGTH = 2, 16, 3, 8
WORDS = "a cat dog on red chair hat blurry".split()


class ToyNet(torch.nn.Module):
    """Every latent pixel is a token; cross-attention to the text, after which the others' mean is taken off."""

    def __init__(self, device=None, operations=None, **_):
        super().__init__()
        self.dtype = torch.float32
        self.enter, self.leave = torch.nn.Linear(4, WIDTH), torch.nn.Linear(WIDTH, 4)
        self.time = torch.nn.Linear(1, WIDTH)
        self.q, self.k, self.v = (
            torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)) for _ in range(3)
        )

    def forward(self, x, timesteps, context=None, transformer_options=None, **_):
        from comfy.ldm.modules.attention import optimized_attention

        height, width = x.shape[-2:]
        tokens = self.enter(x.flatten(2).mT) + self.time(timesteps[:, None].float())[:, None]
        for index in range(LAYERS):
            options = {**transformer_options, "block_index": index}
            q, k, v = self.q[index](tokens), self.k[index](context), self.v[index](context)
            tokens = tokens + optimized_attention(3.0 * q, k, v, HEADS, transformer_options=options)
            tokens = torch.tanh(tokens - 0.5 * tokens.mean(dim=1, keepdim=True))
        return self.leave(tokens).mT.unflatten(2, (height, width))


class ToyClip:
    """A text encoder that reads words of a list, eight at the most."""

    class tokenizer:
        pass

    def __init__(self):
        self.table = torch.randn(len(WORDS) + 1, WIDTH, generator=torch.Generator().manual_seed(5))

    def tokenize(self, text, **_):
        ids = [WORDS.index(word) for word in text.split()]
        return {"toy": [*ids, *[len(WORDS)] * (LENGTH - len(ids))]}

    def encode_from_tokens_scheduled(self, tokens):
        return [[self.table[tokens["toy"]][None], {}]]


@pytest.fixture
def toy_family(host, monkeypatch):
    """The whole of a new family."""
    families = host.module("p2p_attention.host.families")
    attention = host.module("p2p_attention.attention")
    maps = host.module("p2p_attention.maps")
    prompt = host.module("p2p_attention.prompt")
    layer = host.module("p2p_attention.host.families.family").Layer

    class Toy:
        supported = "toys"
        pads_texts = True
        overwrites = False
        strengths = ((0.0, 1.0, 1.0), (1.0, 0.5, 0.0))
        ways = ("auto", "maps")

        def reads(self, clip):
            return isinstance(clip, ToyClip)

        def read(self, clip, text):
            words = [prompt.Word(each, (WORDS.index(each),), (at,)) for at, each in enumerate(text.split())]
            return prompt.Prompt(text, tuple(words), (), (), tuple(range(len(words), LENGTH)), LENGTH)

        def takes(self, model):
            return isinstance(model.model.diffusion_model, ToyNet)

        def require(self, model, pair):
            pass

        def require_loaded(self, diffusion_model):
            pass

        def finish_texts(self, model, conds):
            pass

        def variance(self, model):
            return lambda sigma: 1.0

        def embeds_guidance(self, model):
            return False

        def layers(self, model):
            return {index: layer(0, frozenset({"cross"})) for index in range(LAYERS)}

        def grids(self, model, size):
            return [tuple(size)]

        def injects(self, grid, size):
            return True

        def install(self, model, model_options, calls):
            def override(func, q, k, v, heads, transformer_options, **settings):
                def probs(rows):
                    return maps.attention_probs(q[rows], k[rows], heads)

                name = transformer_options["block_index"]
                if calls.wants("cross", name):
                    size = transformer_options[host.module("p2p_attention.host").KEY].size
                    calls.see("cross", name, transformer_options, size, probs)
                program = calls.program(transformer_options, len(q), k.shape[1], q.device, q.dtype)
                if program is None or not program.edits_cross_attention:
                    return func(q, k, v, heads, **settings)
                rewritten = attention.rewrite_cross_attention(program, q, k, v)
                return attention.merge_cross_attention(program, func(*rewritten, heads, **settings))

            model_options["transformer_options"]["optimized_attention_override"] = override

    monkeypatch.setattr(families, "FAMILIES", [*families.FAMILIES, Toy()])


@pytest.fixture(scope="module")
def toy(run_node):
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SD15({"dtype": torch.float32})
    config.unet_config = {"dtype": torch.float32}
    model = comfy.model_base.BaseModel(config, model_type=comfy.model_base.ModelType.EPS, unet_model=ToyNet)
    randomise(model.diffusion_model, seed=3)
    cpu = torch.device("cpu")
    sampling = Sampling(run_node, comfy.model_patcher.ModelPatcher(model, cpu, cpu), ToyClip())
    sampling.encode = lambda text="blurry": sampling.clip.encode_from_tokens_scheduled(sampling.clip.tokenize(text))
    return sampling


SOURCE, SWAP = "a cat on red chair", "a dog on red chair"


def test_before_it_is_named_it_is_refused(toy):
    with pytest.raises(ValueError, match="with the parts toy"):
        toy.pair(SWAP, source=SOURCE)


@pytest.mark.parametrize("seeds", [1, 2])
def test_an_edit_equals_the_softmax_written_out(toy, toy_family, host, seeds):
    conditioning, pair = toy.pair(SWAP, "a cat on red hat", source=SOURCE)
    model = toy.edit(pair, cross_start=0.0, cross_end=0.6, self_start=0.0, self_end=0.0)
    (model,) = toy.run_node(
        "P2PReweightToken", model=model, pair=pair, words="red", scale=3.0, start=0.4, end=1.0, edit=2
    )
    got = toy.ksampler(model, conditioning, latent(seeds, 6, 4))

    # Words stand for one another place by place, so A is the identity.
    def edited(func, q, k, v, heads, transformer_options, **_):
        schedule = transformer_options["sample_sigmas"]
        step = int((schedule[:-1] - transformer_options["sigmas"][0]).abs().argmin())
        middle = (step + 0.5) / (len(schedule) - 1)
        q, k, v = (each.double().unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v))
        probs = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)
        out = probs.clone()
        chunk = len(q) // len(transformer_options["cond_or_uncond"])
        for number, kind in enumerate(transformer_options["cond_or_uncond"]):
            for source in range(number * chunk, (number + 1) * chunk, 3) if kind == 0 else ():
                for edit in (1, 2):
                    if middle < 0.6:
                        out[source + edit] = probs[source]
                if middle >= 0.4:
                    out[source + 2, :, :, WORDS.index("red") - 1] *= 3.0  # "red" is the fourth word
        return (out @ v).transpose(1, 2).flatten(2).float()

    stock = toy.model.clone()
    stock.model_options["transformer_options"]["optimized_attention_override"] = edited
    wanted = toy.stock_rows(conditioning, 3, latent(seeds, 6, 4), model=stock)
    assert relative_error(got, wanted) < 1e-5
    plain = toy.stock_rows(conditioning, 3, latent(seeds, 6, 4))
    assert torch.equal(got[::3], plain[::3]), "the source row is the stock run's"
    assert relative_error(got[1::3], plain[1::3]) > 1e-2 and relative_error(got[2::3], plain[2::3]) > 1e-2


def test_blend_and_maps_work_on_it(toy, toy_family):
    conditioning, pair = toy.pair(SWAP, source=SOURCE)
    model, masks = toy.run_node(
        "P2PLocalBlendMask", model=toy.edit(pair), pair=pair, words="", exclude_words="", threshold=0.5, start=0.2,
        spread=False, grow=0, feather=0.0, map_resolution="auto",
    )  # fmt: skip
    samples = toy.ksampler(model, conditioning, latent(1, 8, 8))
    mask, _ = toy.run_node("P2PShowBlendMask", masks=masks, latent={"samples": samples})
    inside = mask[0, ::8, ::8] > 0
    assert inside.any() and not inside.all()
    assert torch.equal(samples[0][:, ~inside], samples[1][:, ~inside])
    assert not torch.equal(samples[0][:, inside], samples[1][:, inside])


def test_a_strength_is_what_the_family_says(toy, toy_family, host):
    inputs = {"model": toy.model, "clip": toy.clip, "source": SOURCE, "target": SWAP}
    output = host.node("P2PEdit").execute(**inputs, strength=0.5, keep="the composition")
    assert output.ui["p2p_did"] == [{"node": "P2P Attention Replace", "inputs": {"cross_end": 0.75, "self_end": 0.5}}]


def test_a_picture_goes_there_and_back(toy, toy_family):
    """Inversion by the variance that the family states; the toy's own prediction matters nothing here."""
    image = {"samples": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))}
    conditioning, pair = toy.pair(SWAP, source=SOURCE)
    model, _ = toy.run_node(
        "P2PDDIMInvert", model=toy.edit(pair), conditioning=conditioning, latent_image=image, steps=5,
        scheduler="normal", denoise=1.0, refine_iterations=10, source_row="free",
    )  # fmt: skip
    back = toy.ksampler(model, conditioning, image, cfg=1.0)
    assert relative_error(back[:1], image["samples"]) < 1e-4
