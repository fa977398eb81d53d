"""The bundled model inside a real ComfyUI: host classes, conditioning, patches, autoencoder, and what it draws."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

STEPS, CFG = 12, 5.0


@pytest.fixture(scope="module")
def scenes(host):
    return host.module("demo.scenes")


@pytest.fixture(scope="module")
def unet(demo):
    return demo[0].model.diffusion_model


def encode(demo, text):
    """(context (1,T,D), tokens (T,)) of a prompt."""
    tokens = demo[1].tokenize(text)
    return demo[1].encode_from_tokens(tokens), [token for chunk in tokens["l"] for token, *_ in chunk]


def sample(demo, prompts, seed=1, model=None):
    """Pictures float (B,128,128,3) of ``prompts``, all from the same noise, by the stock sampler."""
    import comfy.sample

    context = torch.cat([encode(demo, prompt)[0] for prompt in prompts])
    noise = torch.randn(1, 4, 16, 16, generator=torch.manual_seed(seed)).repeat(len(prompts), 1, 1, 1)
    latent = comfy.sample.sample(
        model or demo[0],
        noise,
        STEPS,
        CFG,
        "euler",
        "normal",
        [[context, {}]],
        [[encode(demo, "")[0], {}]],
        torch.zeros_like(noise),
        seed=seed,
        disable_pbar=True,
    )
    return demo[2].decode(latent).numpy()


def test_is_made_of_the_hosts_classes(demo, unet):
    import comfy.ldm.models.autoencoder
    import comfy.ldm.modules.attention
    import comfy.ldm.modules.diffusionmodules.openaimodel
    import comfy.model_base
    import comfy.model_patcher
    import comfy.sd
    import comfy.sd1_clip

    model, clip, vae = demo
    assert type(model) is comfy.model_patcher.ModelPatcher
    assert type(model.model) is comfy.model_base.BaseModel
    assert type(unet) is comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel
    assert any(isinstance(m, comfy.ldm.modules.attention.BasicTransformerBlock) for m in unet.modules())
    assert type(clip) is comfy.sd.CLIP and isinstance(clip.cond_stage_model.clip_l, comfy.sd1_clip.SDClipModel)
    assert type(clip.tokenizer) is comfy.sd1_clip.SD1Tokenizer
    assert type(vae) is comfy.sd.VAE
    assert type(vae.first_stage_model) is comfy.ldm.models.autoencoder.AutoencoderKL


def test_the_file_is_small_and_says_where_it_comes_from(host, scenes):
    path = host.module("demo.model").WEIGHTS
    assert path.stat().st_size <= 25_000_000
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert {"recipe", "seed"} <= set(metadata) and metadata["grammar"] == scenes.GRAMMAR_VERSION


def test_a_missing_or_foreign_file_says_how_to_mend_it(host, tmp_path):
    from safetensors.torch import save_file

    load = host.module("demo.model").load_demo_model
    with pytest.raises(FileNotFoundError, match="dev.py train"):
        load(tmp_path / "none.safetensors")
    save_file({"model.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="loader"):
        load(tmp_path / "other.safetensors")


@pytest.mark.parametrize("prompt, words", [("", 0), ("a house in blue", 4), ("a (house:1.3) in blue", 4)])
def test_only_the_words_carry_anything(demo, prompt, words):
    context, tokens = encode(demo, prompt)
    filled = context[0].abs().sum(-1) > 0
    assert context.shape[1] == 77 and len(tokens) == 77
    assert filled.tolist() == [True] * (1 + words) + [False] * (76 - words)  # BOS and words; not EOS, not padding


def test_long_prompts_come_in_chunks_and_unknown_words_are_alike(demo):
    assert encode(demo, "a house in blue and " * 20)[0].shape[1] == 154
    table = demo[1].cond_stage_model.clip_l.transformer.get_input_embeddings().weight
    _, tokens = encode(demo, "xylophone quixotic house")
    assert torch.equal(table[tokens[1]], table[tokens[2]])
    assert not torch.equal(table[tokens[1]], table[tokens[tokens.index(49407) - 1]])


def test_every_word_of_the_grammar_is_one_known_token(demo, scenes):
    table = demo[1].cond_stage_model.clip_l.transformer.get_input_embeddings().weight
    unknown = table[0]  # CLIP's "!", which no caption holds
    for word in (
        *scenes.SHAPES,
        *scenes.COLOURS,
        *scenes.TEXTURES,
        *scenes.PLACES,
        *scenes.LIGHTS,
        *scenes.WEATHERS,
        *scenes.STYLES,
    ):
        _, tokens = encode(demo, word)
        assert tokens[2] == 49407, f"{word} is more than one token"
        assert not torch.equal(table[tokens[1]], unknown), f"{word} is not in the token table"


def test_cross_attention_is_patched_at_16x16_and_8x8(demo):
    seen = set()
    model = demo[0].clone()
    model.set_model_attn2_patch(lambda n, context, value, extra: (seen.add(n.shape[1]), (n, context, value))[1])
    sample(demo, ["a house"], model=model)
    assert seen == {16 * 16, 8 * 8}


def test_autoencoder_round_trip(demo, scenes):
    pictures = np.stack([scenes.render(scenes.sample_scene(10**6 + i)) for i in range(8)])
    pictures = torch.from_numpy(pictures).float() / 255
    latents = demo[2].encode(pictures)
    assert latents.shape == (8, 4, 16, 16)
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.35  # unit variance per channel, as diffusion wants it
    error = ((demo[2].decode(latents) - pictures) ** 2).mean((1, 2, 3))
    assert (-10 * error.log10()).mean() > 23  # decibels

    format = demo[0].model.latent_format  # live previews show the right colours
    small = torch.nn.functional.avg_pool2d(pictures.movedim(-1, 1), 8).movedim(1, -1)
    preview = latents.movedim(1, -1) @ torch.tensor(format.latent_rgb_factors)
    preview = (preview + torch.tensor(format.latent_rgb_factors_bias) + 1) / 2
    assert (preview - small).abs().mean() < 0.12


def test_other_sizes_and_tiled_decoding_work(demo):
    assert demo[2].decode(torch.zeros(1, 4, 16, 24)).shape == (1, 128, 192, 3)
    assert demo[2].decode_tiled(torch.zeros(1, 4, 24, 24), tile_x=16, tile_y=16, overlap=4).shape == (1, 192, 192, 3)


def test_it_draws_what_the_caption_says(demo):
    day, night, snow, sea = sample(
        demo,
        [
            "a house in red on the grass",
            "a house in red on the grass at night",
            "a house in red on the snow",
            "a house in red on the sea",
        ],
    )
    assert all(np.isfinite(picture).all() for picture in (day, night, snow, sea))
    assert night.mean() < 0.75 * day.mean()
    corners = lambda picture: np.concatenate([picture[-24:, :16], picture[-24:, -16:]], 1).mean((0, 1))
    assert corners(snow).min() > 0.75  # the ground is white, green, blue
    assert corners(day).argmax() == 1 and corners(sea).argmax() == 2
    middle = day[40:110, 20:108].reshape(-1, 3)
    assert (middle[:, 0] - middle[:, 1:].max(1) > 0.25).mean() > 0.05  # and a part of the picture is red


@pytest.mark.parametrize(
    "prompt, word, attribute",
    [
        ("a house in red on the grass at night", "night", lambda picture: -picture.mean()),
        (
            "a heart in red on the snow",
            "red",
            lambda picture: (picture[..., 0] - picture[..., 1:].mean(-1)).clip(0).mean(),
        ),
        (
            "a heart in red on the snow",
            "heart",
            lambda picture: (picture[..., 0] - picture[..., 1:].mean(-1)).clip(0).mean(),
        ),
    ],
)
def test_a_words_own_column_carries_the_word(demo, prompt, word, attribute):
    """Re-weighting (Hertz et al. 2023, 3.2): the word's column times c, here through its value row."""
    column = 1 + prompt.split().index(word)
    amounts = [0.0, 0.5, 1.0]

    def fade(n, context, value, extra):
        value = value.clone()
        rows = value.shape[0] // len(extra["cond_or_uncond"])
        for chunk, kind in enumerate(extra["cond_or_uncond"]):
            if kind == 0:
                value[chunk * rows : (chunk + 1) * rows, column] *= torch.tensor(amounts)[:, None]
        return n, context, value

    model = demo[0].clone()
    model.set_model_attn2_patch(fade)
    shown = [attribute(picture) for picture in sample(demo, [prompt] * 3, model=model)]
    assert shown[0] < shown[1] < shown[2]
    assert shown[2] - shown[0] > 0.01


@pytest.mark.parametrize("picture", ["scene", "still life"])
def test_pictures_it_did_not_make(run_node, scenes, picture):
    image, caption = run_node("P2PDemoPicture", picture=picture, seed=3)
    assert image.shape == (1, 128, 128, 3) and image.dtype == torch.float32
    assert 0 <= image.min() < 0.3 < 0.7 < image.max() <= 1
    assert scenes.caption(scenes.parse_caption(caption)) == caption
    again, other = (run_node("P2PDemoPicture", picture=picture, seed=seed)[0] for seed in (3, 4))
    assert torch.equal(image, again)
    assert torch.equal(image, other) == (picture == "still life")
