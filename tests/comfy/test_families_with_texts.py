"""The families with the host's own text encoders before them: from two texts to pictures."""

from __future__ import annotations

import pytest
import torch
from sampling import relative_error
from small_encoders import available, encoder
from small_transformers import latent, small, there_is

STEPS = 3
SOURCE = "a photo of a cat on a red chair"
EDITS = "a photo of a dog on a red chair\n---\na photo of a cat on a small red wooden chair in the rain"
WINDOWS = {"cross_start": 0.0, "cross_end": 0.8, "self_start": 0.0, "self_end": 0.4}
NEVER = {"cross_start": 0.0, "cross_end": 0.0, "self_start": 0.0, "self_end": 0.0}
SD3 = {
    "adm_in_channels": 64,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}},
}
MODELS = {"klein": "flux2"}  # of another name than the texts'
# transformer -> (text encoder, what changes in its settings, whether texts of these lengths are of unequal length)
TEXTS = {
    "flux": ("flux", {}, False),
    "chroma": ("chroma", {}, True),
    "flux_dev": ("flux", {}, False),
    "sd3": ("sd3", SD3, False),
    "sd35_medium": ("sd3", SD3, False),
    "qwen_image": ("qwen_image", {}, True),
    "lumina2": ("lumina2", {}, True),
    "z_image": ("zimage", {}, True),
    "aura_flow": ("auraflow", {}, False),
    "hidream": ("hidream", {"text_emb_dim": 64}, False),
    "cosmos_predict2": ("cosmos", {}, False),
    "anima": ("anima", {}, True),
    "wan": ("wan", {}, False),
    "flux2": ("flux2", {"context_in_dim": 96}, True),
    "klein": ("klein", {"context_in_dim": 96}, False),
    "krea2": ("krea2", {"txtdim": 32, "txtlayers": 12}, True),
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.daily("flux", "sd3", "qwen_image", "z_image", "wan")
@pytest.mark.parametrize("name", [name for name in TEXTS if name not in ("flux_dev", "sd35_medium")])
def test_from_texts_to_pictures(name, run_node):
    """With nothing to do all rows are their own runs; an edit leaves the source what it was, and shows."""
    import comfy.sample

    (kind, changes, unequal), model_name = TEXTS[name], MODELS.get(name, name)
    if not there_is(model_name) or kind not in available():
        pytest.skip("newer hosts have it")
    model, clip = small(model_name, **changes), encoder(kind)
    conditioning, pair = run_node("P2PPromptPair", clip=clip, source=SOURCE, target=EDITS)
    lengths = {prompt.length for prompt in (pair.source, *pair.targets)}
    assert (len(lengths) > 1) == unequal
    assert pair.encoder == type(clip.tokenizer).__name__
    negative = run_node("CLIPTextEncode", clip=clip, text="blurry")[0]
    texts = (SOURCE, *EDITS.split("\n---\n"))
    encoded = [run_node("CLIPTextEncode", clip=clip, text=text)[0] for text in texts]
    ((context, extras),), again = run_node(
        "P2PPairFromConditioning", clip=clip, source=SOURCE, target=EDITS, source_conditioning=encoded[0],
        target_conditioning=encoded[1] + encoded[2],
    )  # fmt: skip
    assert again == pair and extras.keys() == conditioning[0][1].keys() and torch.equal(context, conditioning[0][0])

    def sample(model, positive, rows=1):
        image = latent(model_name, 1, 16, 16)["samples"].repeat_interleave(rows, 0)
        noise = comfy.sample.prepare_noise(image[:1], 7).repeat_interleave(rows, 0)
        return comfy.sample.sample(
            model, noise, STEPS, 3.0, "euler", "normal", positive, negative, image, seed=7, disable_pbar=True
        )

    alone = [sample(model, positive) for positive in encoded]
    idle = sample(run_node("P2PAttentionReplace", model=model, pair=pair, **NEVER)[0], conditioning)
    for row, wanted in enumerate(alone):
        assert relative_error(idle[row : row + 1], wanted) < 5e-4
    edited = run_node("P2PAttentionRefine", model=model, pair=pair, **WINDOWS)[0]
    edited = run_node(
        "P2PReweightToken", model=edited, pair=pair, words="chair", scale=-2.0, start=0.0, end=1.0
    )[0]  # fmt: skip
    edited, record = run_node(
        "P2PRecordAttention", model=edited, pair=pair, words="cat, dog", attention="cross", map_resolution="auto"
    )
    got = sample(edited, conditioning)
    assert torch.equal(got[:1], idle[:1])
    assert all(relative_error(got[row : row + 1], idle[row : row + 1]) > 5e-3 for row in (1, 2))
    maps = record.take(got).maps
    assert maps.isfinite().all() and maps.sum() > 0
