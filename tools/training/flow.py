"""Train the second demo model, a rectified flow with joint attention, on the latents of the first one's autoencoder.

    python -m tools.training.flow --comfyui PATH --out DIR [--stage data|flow|export|all]

Renders scenes in parts of 500, each with its latents and captions, and trains on the parts that are there; resumes
from its last checkpoint, or begins with the weights of an earlier run (``--begin-with``). The rate is constant until
``--finish N`` lets it fall over N steps, so that the run can be ended when there is no more time: a good model is there
N steps later. Uses CUDA when there is one. The recipe and what came out of it are in demo/README.md.
"""

import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import torch

from . import common
from .common import Trainer, compiled, device, encode_text, initialise, token_rows, training_scene, vocabulary

PART = 500  # scenes
HELD_OUT = range(3_000_000, 3_000_128)  # seeds of scenes that are never trained on


def arguments():
    parser = common.parser(__doc__, STAGES)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--finish", type=int, default=0, help="let the rate fall over so many steps, then end")
    parser.add_argument(
        "--weights", type=Path, help="where export writes; default demo/weights/p2p_demo_flow.safetensors"
    )
    parser.add_argument("--begin-with", type=Path, help="exported weights of an earlier run, instead of fresh ones")
    return parser.parse_args()


# ------------------------------------------------------------------------------------------------------------ data


def part_file(options, first):
    return options.out / f"scenes_{first:07d}.npz"


def make_data(options):
    """``scenes_SEED.npz``: latents (500,4,16,16) float16 and captions of scenes from SEED on; held-out ones first."""
    from demo.model import load_demo_model

    torch.set_grad_enabled(False)
    vae = load_demo_model()[2]
    firsts = [HELD_OUT.start, *range(options.seed, options.seed + options.scenes, PART)]
    with multiprocessing.get_context("fork").Pool(options.threads or os.cpu_count()) as pool:
        for first in firsts:
            file = part_file(options, first)
            if file.exists():
                continue
            seeds = HELD_OUT if first == HELD_OUT.start else range(first, first + PART)
            pictures, words, amounts = zip(*pool.imap(training_scene, seeds, 16))
            latents = [
                vae.encode(torch.from_numpy(np.stack(pictures[i : i + 32])).float() / 255)
                for i in range(0, len(pictures), 32)
            ]
            captions = [{"words": said, "amounts": painted} for said, painted in zip(words, amounts)]
            with open(file.with_suffix(".tmp"), "wb") as opened:
                np.savez(opened, latents=torch.cat(latents).half().numpy(), captions=json.dumps(captions))
            file.with_suffix(".tmp").replace(file)
            print(f"rendered {file.stem}", flush=True)
    torch.set_grad_enabled(True)


def load_part(file, words):
    """(latents, ids, amounts) of one file."""
    from demo.flow import TEXT_LENGTH

    part = np.load(file)
    ids, amounts = token_rows(json.loads(str(part["captions"])), words, int(file.stem.split("_")[1]), TEXT_LENGTH)
    return torch.from_numpy(part["latents"]), ids, amounts


class Data:
    """The training's (latents (N,4,16,16), ids (N,L), amounts (N,L)); parts may come while it runs."""

    def __init__(self, options, words):
        firsts = range(options.seed, options.seed + options.scenes, PART)
        self.files, self.words, self.parts = [part_file(options, first) for first in firsts], words, {}
        self.update()
        if not self.parts:
            raise FileNotFoundError(f"no scenes in {options.out}: run --stage data first")

    def update(self):
        new = [file for file in self.files if file not in self.parts and file.exists()]
        self.parts |= {file: load_part(file, self.words) for file in new}
        if new:
            self.tensors = tuple(torch.cat(each) for each in zip(*self.parts.values()))
            said = (self.tensors[1] >= 0).sum(1).double()
            self.chances = (said / said.sum()).numpy()  # a caption of twice the words has twice as much to be learnt
            print(f"{len(self.tensors[0])} scenes", flush=True)


# ---------------------------------------------------------------------------------------------------------- forward


def rotations(module, height, width):
    """cos and sin of RoPE's angles for the image tokens, (h·w, D/2) each: ``Flux.process_img`` and ``rope``.

    Text tokens stand at 0 and are not turned.
    """
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = [torch.zeros(height * width), y.flatten(), x.flatten()]
    angles = []
    for place, size in zip(places, module.params.axes_dim):
        scale = torch.linspace(0, (size - 2) / size, size // 2, dtype=torch.float64)
        angles.append(place.double()[:, None] / module.params.theta**scale)
    angles = torch.cat(angles, 1)
    return angles.cos().float().to(device), angles.sin().float().to(device)


def turned(x, rotation):
    """RoPE on (B, H, N, D): pairs of neighbouring channels turn."""
    cos, sin = rotation
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([cos * a - sin * b, sin * a + cos * b], -1).flatten(-2).to(x.dtype)


def rms_norm(x, norm):
    x, (factor,) = x.float(), norm.parameters()
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * factor


def heads_of(qkv, heads, norm):
    """(B, N, 3·C) -> q, k (normalised), v: (B, H, N, D)."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return rms_norm(q, norm.query_norm).to(v.dtype), rms_norm(k, norm.key_norm).to(v.dtype), v


def joint_attention(q, k, v, texts, amounts):
    """Attention over [text; image], (B, H, N, D) -> (B, N, C): image queries see text values times their amounts.

    This is the fader of Prompt-to-Prompt in a joint softmax: the word's column of the image queries' map times c,
    while text queries keep theirs.
    """
    probs = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).to(v.dtype)
    faded = torch.cat([v[:, :, :texts] * amounts[:, None, :, None].to(v.dtype), v[:, :, texts:]], 2)
    out = torch.cat([probs[:, :, :texts] @ v, probs[:, :, texts:] @ faded], 2)
    return out.transpose(1, 2).flatten(2)


def modulated(norm, x, part):
    return norm(x) * (1 + part.scale) + part.shift


def predict(module, x, t, context, amounts, rotation, guidance=None):
    """The host's ``Flux`` on latents (B,4,H,W), with plain operations that gradients can pass, and faders.

    Args:
        t: (B,), 0..1.
        context: (B, L, D).
        amounts: (B, L), what the text values are multiplied by for the image queries; ones for the host's own result.
        guidance: (B,), for a module that takes it.
    """
    from comfy.ldm.flux.layers import timestep_embedding

    patch, texts = module.patch_size, context.shape[1]
    height, width = x.shape[2] // patch, x.shape[3] // patch
    image = (
        x.unflatten(2, (height, patch)).unflatten(4, (width, patch)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    )
    image, text = module.img_in(image), module.txt_in(context)
    vector = module.time_in(timestep_embedding(t, 256))
    if guidance is not None:
        vector = vector + module.guidance_in(timestep_embedding(guidance, 256))

    def turn(q):
        return torch.cat([q[:, :, :texts], turned(q[:, :, texts:], rotation)], 2)

    for block in module.double_blocks:
        (image1, image2), (text1, text2) = block.img_mod(vector), block.txt_mod(vector)
        image_q, image_k, image_v = heads_of(
            block.img_attn.qkv(modulated(block.img_norm1, image, image1)), block.num_heads, block.img_attn.norm
        )
        text_q, text_k, text_v = heads_of(
            block.txt_attn.qkv(modulated(block.txt_norm1, text, text1)), block.num_heads, block.txt_attn.norm
        )
        q, k, v = (torch.cat(pair, 2) for pair in ((text_q, image_q), (text_k, image_k), (text_v, image_v)))
        out = joint_attention(turn(q), turn(k), v, texts, amounts)
        image = image + block.img_attn.proj(out[:, texts:]) * image1.gate
        image = image + block.img_mlp(modulated(block.img_norm2, image, image2)) * image2.gate
        text = text + block.txt_attn.proj(out[:, :texts]) * text1.gate
        text = text + block.txt_mlp(modulated(block.txt_norm2, text, text2)) * text2.gate
    both = torch.cat([text, image], 1)
    for block in module.single_blocks:
        part, _ = block.modulation(vector)
        qkv, mlp = block.linear1(modulated(block.pre_norm, both, part)).split(
            [3 * block.hidden_size, block.mlp_hidden_dim_first], -1
        )
        q, k, v = heads_of(qkv, module.num_heads, block.norm)
        out = joint_attention(turn(q), turn(k), v, texts, amounts)
        both = both + block.linear2(torch.cat([out, block.mlp_act(mlp)], 2)) * part.gate
    y = module.final_layer(both[:, texts:], vector)
    y = y.unflatten(1, (height, width)).unflatten(3, (-1, patch, patch)).permute(0, 3, 1, 4, 2, 5)
    return y.flatten(4).flatten(2, 3)


# --------------------------------------------------------------------------------------------------------- training


def new_flow(options):
    """(denoiser, text model, Trainer): fresh denoiser and the first model's text model, or the last checkpoint's."""
    from demo.flow import as_the_host_names_them, new_denoiser
    from demo.model import WEIGHTS, read_weights

    module = new_denoiser().diffusion_model.to(device).train()
    initialise(module)
    for name, parameter in module.named_parameters():
        if name.endswith(("_norm.scale", "_norm.weight")):
            torch.nn.init.ones_(parameter)
        elif "mod.lin" in name or "modulation" in name or name.startswith("final_layer.linear"):
            torch.nn.init.zeros_(parameter)  # every block starts as the identity
    earlier = read_weights(options.begin_with, ("flow", "text"))[0] if options.begin_with else {}
    if earlier:
        module.load_state_dict(as_the_host_names_them(earlier["flow"], module))
    shipped = earlier.get("text") or read_weights(WEIGHTS, ["text"])[0]["text"]
    tokens, _ = shipped.pop("tokens"), shipped.pop("token_ids")
    text = common.new_text_model(len(tokens) - 2).to(device).train()
    state = {name.removeprefix("transformer."): value for name, value in shipped.items()}
    state["text_model.embeddings.token_embedding.weight"] = tokens
    text.load_state_dict(state, strict=False)
    trainer = Trainer("flow", options, {"flow": module, "text": text}, options.steps, 1.5e-3, 0.998, warm_up=100)
    return module, text, trainer


def times(rng, count):
    """t of rectified flow, 0..1: logit-normal (Esser et al. 2024), one in ten uniform, so that the ends are met too."""
    t = 1 / (1 + np.exp(-rng.standard_normal(count)))
    return np.where(rng.random(count) < 0.1, rng.random(count), t).astype(np.float32)


def train(options):
    """Predict v = noise - x0 at x_t = (1 - t) x0 + t noise, given the caption, with faders (see ``joint_attention``).

    One caption in ten is empty, for classifier-free guidance.
    """
    from demo.flow import TEXT_LENGTH

    module, text, trainer = new_flow(options)
    words = vocabulary()
    data = Data(options, words)
    held_out = load_part(part_file(options, HELD_OUT.start), words)
    rotation = rotations(module, *(side // module.patch_size for side in held_out[0].shape[2:]))

    def objective(x0, noise, t, said, faders):
        x = x0 + t[:, None, None, None] * (noise - x0)
        with torch.autocast(device.type, torch.bfloat16):
            v = predict(module, x, t, encode_text(text, said, TEXT_LENGTH), faders, rotation)
        return ((v.float() - (noise - x0)) ** 2).mean()

    objective = compiled(objective, options)

    def inputs(data, chosen, rng):
        x0, said, faders = (each[chosen].clone() for each in data)
        empty = torch.from_numpy(rng.random(len(x0)) < 0.1)
        said[empty, 1:], faders[empty] = -1, 1.0
        noise = torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32))
        return [each.to(device) for each in (x0.float(), noise, torch.from_numpy(times(rng, len(x0))), said, faders)]

    def loss(step):
        if step % 100 == 0:
            data.update()
        rng = np.random.default_rng((options.seed, step))
        chosen = torch.from_numpy(rng.choice(len(data.chances), options.batch, p=data.chances))
        value = objective(*inputs(data.tensors, chosen, rng))
        return value, {"loss": value.detach()}

    def evaluate():
        """The averaged weights' loss on held-out scenes, always at the same noises."""
        rng = np.random.default_rng(options.seed)
        own = [p.detach().clone() for p in trainer.parameters]
        trainer.use_ema()
        parts = torch.arange(len(held_out[0])).split(options.batch)
        with torch.no_grad():
            values = [objective(*inputs(held_out, part, rng)) for part in parts]
        for parameter, value in zip(trainer.parameters, own):
            parameter.data.copy_(value)
        return {"held_out": float(torch.stack(values).mean())}

    if options.finish:
        trainer.finish_in(options.finish)
    trainer.run(loss, log_every=100, evaluate=evaluate)


# ---------------------------------------------------------------------------------------------------------- export


def export(options):
    """Write the averaged weights of the last checkpoint, in float16."""
    from safetensors.torch import save_file

    from demo import scenes
    from demo.flow import WEIGHTS, as_the_file_names_them
    from demo.model import BOS, read_weights

    module, text, trainer = new_flow(options)
    trainer.use_ema()
    state = {f"transformer.{name}": value for name, value in text.state_dict().items()}
    state.pop("transformer.text_projection.weight", None)
    table = state.pop("transformer.text_model.embeddings.token_embedding.weight")
    tensors = {f"flow.{name}": value for name, value in as_the_file_names_them(module.state_dict()).items()}
    tensors |= {f"text.{name}": value for name, value in state.items()} | {"text.tokens": table}
    tensors = {name: value.detach().cpu().half().contiguous() for name, value in tensors.items()}
    tensors["text.token_ids"] = torch.tensor([-1, BOS] + [i for _, i in vocabulary()])
    target = options.weights or WEIGHTS
    earlier = f"; begun with: {read_weights(options.begin_with, ())[1]['recipe']}" if options.begin_with else ""
    there = [first for first in range(0, options.scenes, PART) if part_file(options, options.seed + first).exists()]
    metadata = {
        "recipe": f"{len(there) * PART} scenes; flow {trainer.step} steps of {options.batch}{earlier}",
        "seed": str(options.seed),
        "grammar": scenes.GRAMMAR_VERSION,
    }
    save_file(tensors, target, metadata=metadata)
    target.chmod(0o644)
    print(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB), step {trainer.step}", flush=True)


STAGES = {"data": make_data, "flow": train, "export": export}

if __name__ == "__main__":
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    common.host(options)
    for stage in STAGES if options.stage == "all" else [options.stage]:
        STAGES[stage](options)
