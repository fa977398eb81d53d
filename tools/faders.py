"""``python dev.py faders``: fade one word of every class, with P2P Reweight Token, and put the pictures in a row each.

Writes output/faders.png and prints, per word and scale, how much the picture changed against the source (mean, in grey
levels of 255): every word must have its say, and only its own.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tools.comfy_server import ROOT, ComfyServer, ServerError
from tools.contact_sheet import FAINT, INK, contact_sheet
from tools.gallery import progress

SCALES = (-1.0, 0.0, 0.5, 1.5, 2.0, 3.0)
WORDS = {  # class and word -> the caption it is faded in
    ("object", "star"): "a star in yellow and a heart in pink on the grass",
    ("colour", "blue"): "a house in blue with stripes and a cat in orange on the snow",
    ("colour", "red"): "a car in red on the street",
    ("texture", "stripes"): "a house in blue with stripes and a cat in orange on the snow",
    ("texture", "dots"): "a mushroom in red with dots on the grass",
    ("place", "sea"): "a boat in red on the sea",
    ("place", "snow"): "a house in blue and a cat in orange on the snow",
    ("light", "night"): "a house in red and a tree in green on the grass at night",
    ("light", "sunset"): "a car in purple on the sand at sunset",
    ("weather", "fog"): "a mushroom in red on the grass in the fog",
    ("style", "drawing"): "a fish in blue on the sand as a drawing",
}


def fader_prompt(text, word, seed):
    """API-form prompt: the source and, per scale, the same prompt with the word faded."""
    prompt = {
        "demo": {"class_type": "P2PLoadDemoModel", "inputs": {}},
        "pair": {
            "class_type": "P2PPromptPair",
            "inputs": {"clip": ["demo", 1], "source": text, "target": "\n---\n".join([text] * len(SCALES))},
        },
        "negative": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["demo", 1], "text": ""}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
    }
    model = ["demo", 0]
    for edit, scale in enumerate(SCALES, start=1):
        inputs = {"words": word, "scale": scale, "start": 0.0, "end": 1.0, "edit": edit}
        prompt[f"fader {edit}"] = {
            "class_type": "P2PReweightToken",
            "inputs": {"model": model, "pair": ["pair", 1], **inputs},
        }
        model = [f"fader {edit}", 0]
    sampling = {"steps": 20, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": model, "positive": ["pair", 0], "negative": ["negative", 0], "latent_image": ["latent", 0]}
    prompt["sampler"] = {"class_type": "KSampler", "inputs": {**links, "seed": seed, **sampling}}
    prompt["decode"] = {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": ["demo", 2]}}
    prompt["save"] = {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "fader"}}
    return prompt


def main():
    parser = argparse.ArgumentParser(prog="dev.py faders", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "output", help="where the picture goes")
    arguments = parser.parse_args()
    rows = {}
    try:
        with ComfyServer("faders") as server:
            queued = {key: server.queue(fader_prompt(text, key[1], arguments.seed)) for key, text in WORDS.items()}
            for done, (key, prompt_id) in enumerate(queued.items()):
                progress(done, len(queued), key[1])
                images = server.wait(prompt_id)["save"]
                rows[key] = [Image.open(io.BytesIO(server.image(image))).convert("RGB") for image in images]
            progress(len(queued), len(queued), "")
    except ServerError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    arguments.out.mkdir(parents=True, exist_ok=True)
    draw(rows).save(arguments.out / "faders.png")
    print("| word | class | " + " | ".join(f"{scale:g}" for scale in SCALES) + " |")
    print("|---|---|" + "---|" * len(SCALES))
    for (kind, word), (source, *faded) in rows.items():
        changes = [np.abs(np.asarray(picture, float) - np.asarray(source, float)).mean() for picture in faded]
        print(f"| {word} | {kind} | " + " | ".join(f"{change:.0f}" for change in changes) + " |")
    return 0


def draw(rows):
    """One line per word: the source, then its scales."""
    heads = [[[(title, INK)]] for title in ("source", *(f"x{scale:g}" for scale in SCALES))]
    lines = [([[(word, INK)], [(kind, FAINT)]], pictures) for (kind, word), pictures in rows.items()]
    return contact_sheet(heads, lines, tile=128, margin=80)


if __name__ == "__main__":
    sys.exit(main())
