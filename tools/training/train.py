"""Train the demo model from nothing: render scenes, fit the autoencoder, fit text model and UNet together, export.

    python -m tools.training.train --comfyui PATH --out DIR [--stage data|autoencoder|diffusion|decoder|export|all]

Each stage leaves its results in DIR and resumes from its last checkpoint when it is started again. Uses CUDA when
there is one. The recipe and what came out of it are in demo/README.md.
"""

import argparse
import csv
import json
import math
import multiprocessing
import os
import random
import sys
import time
from pathlib import Path

import numpy as np

from demo import scenes

FOLDER = Path(__file__).parent

HELD_OUT = 256  # the last scenes are never trained on


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="folder of a ComfyUI (the host's classes)")
    parser.add_argument("--out", type=Path, required=True, help="folder for data, checkpoints and loss curves")
    parser.add_argument("--stage", default="all", choices=("all", *STAGES))
    parser.add_argument("--scenes", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all)")
    parser.add_argument("--autoencoder-steps", type=int, default=5_200)
    parser.add_argument("--autoencoder-batch", type=int, default=8)
    parser.add_argument("--decoder-steps", type=int, default=2_000)
    parser.add_argument("--diffusion-steps", type=int, default=6_000)
    parser.add_argument("--diffusion-batch", type=int, default=32)
    parser.add_argument(
        "--minutes",
        type=float,
        default=math.inf,
        help="end a stage after this time, if it has not done its steps by then",
    )
    parser.add_argument("--no-compile", action="store_true", help="do not try torch.compile")
    return parser.parse_args()


# ------------------------------------------------------------------------------------------------------------ data


def sample_amounts(scene, rng):
    """How strongly each word of a training scene is painted: mostly 1, each word with probability 0.12 another c."""
    amounts = {}
    for slot in scenes.slots(scene):
        if rng.random() < 0.12:
            kind = rng.random()
            low, high = (0, 0) if kind < 0.3 else (0, 1) if kind < 0.6 else (1, 2.5) if kind < 0.9 else (-1, 0)
            amounts[slot] = rng.uniform(low, high)
    return amounts


def training_scene(seed):
    """(picture uint8 (128,128,3), words, amounts per word) of one training scene."""
    rng = random.Random(seed)
    scene = scenes.sample_scene(seed)
    amounts = sample_amounts(scene, rng)
    words = scenes.caption_words(scene, prefix=rng.random() < 0.2, light_first=rng.random() < 0.15)
    return (
        scenes.render(scene, 128, amounts),
        [word for word, _ in words],
        [round(amounts.get(slot, 1.0), 4) for _, slot in words],
    )


def make_data(options):
    """Render ``pictures.npy`` (N,128,128,3) uint8 and ``captions.json`` [{words, amounts}], on all cores."""
    if (options.out / "captions.json").exists():
        return
    pictures = np.lib.format.open_memmap(options.out / "pictures.npy", "w+", np.uint8, (options.scenes, 128, 128, 3))
    captions = []
    seeds = range(options.seed, options.seed + options.scenes)
    with multiprocessing.Pool() as pool:
        for i, (picture, words, amounts) in enumerate(pool.imap(training_scene, seeds, 64)):
            pictures[i] = picture
            captions.append({"words": words, "amounts": amounts})
            if i % 2000 == 0:
                print(f"rendered {i} of {options.scenes}", flush=True)
    pictures.flush()
    (options.out / "captions.json").write_text(json.dumps(captions))


# ---------------------------------------------------------------------------------------------------------- common


def host(options):
    """Make the host's modules importable; before any of them is imported."""
    global torch, device
    sys.path.insert(0, str(options.comfyui.resolve()))
    import torch
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    device = torch.device("cpu" if args.cpu else "cuda")
    torch.set_num_threads(options.threads or os.cpu_count())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(options.seed)


def initialise(module):
    """The host's layers come without initial values; give every layer PyTorch's own."""
    for layer in module.modules():
        for kind in (torch.nn.Conv2d, torch.nn.Linear, torch.nn.GroupNorm, torch.nn.LayerNorm):
            if isinstance(layer, kind):
                kind.reset_parameters(layer)


def orthogonal(gradient, iterations=5):
    """The nearest orthogonal matrix of (rows, columns), by Newton-Schulz; as in Jordan et al. 2024, "Muon"."""
    x = gradient.bfloat16()
    if x.shape[0] > x.shape[1]:
        return orthogonal(gradient.T, iterations).T
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


class Muon:
    """Momentum with orthogonalised updates for matrices and convolutions, AdamW for all other parameters.

    Jordan et al. 2024 (github.com/KellerJordan/Muon), with the step size of Liu et al. 2025 (arXiv:2502.16982, "match
    AdamW's RMS"), which makes one rate fit both. A run as short as this one gains most from it.
    """

    def __init__(self, named_parameters, momentum=0.95):
        named_parameters = list(named_parameters)
        is_matrix = lambda name, p: p.ndim >= 2 and min(p.shape[0], p[0].numel()) > 12 and "embedding" not in name
        self.matrices = [p for name, p in named_parameters if is_matrix(name, p)]
        others = [p for name, p in named_parameters if not is_matrix(name, p)]
        self.momentum = momentum
        self.buffers = [torch.zeros_like(p) for p in self.matrices]
        self.adamw = torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.0)

    def step(self, rate):
        for group in self.adamw.param_groups:
            group["lr"] = rate
        self.adamw.step()
        with torch.no_grad():
            gradients = [p.grad for p in self.matrices]
            torch._foreach_lerp_(self.buffers, gradients, 1 - self.momentum)
            for p, gradient, buffer in zip(self.matrices, gradients, self.buffers):
                update = orthogonal(gradient.lerp(buffer, self.momentum).flatten(1))
                p.mul_(1 - 0.01 * rate)
                p.add_(update.view(p.shape).to(p.dtype), alpha=-rate * 0.2 * max(update.shape) ** 0.5)

    def zero_grad(self):
        for parameters in (self.matrices, *(group["params"] for group in self.adamw.param_groups)):
            for p in parameters:
                p.grad = None

    def state_dict(self):
        return {"buffers": self.buffers, "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state):
        for buffer, value in zip(self.buffers, state["buffers"]):
            buffer.copy_(value)
        self.adamw.load_state_dict(state["adamw"])


class Trainer:
    """Muon with gradient clipping, EMA of the weights, a loss curve in CSV and checkpoints to resume from.

    The rate climbs over ``warm_up`` steps, stays, and falls to 2 % over the last 35 % of the run.
    """

    def __init__(self, name, options, modules, steps, peak_rate, ema_decay=0.999):
        self.name, self.out, self.modules, self.steps = name, options.out, modules, steps
        self.minutes, self.started = options.minutes, time.time()
        named = [(n, p) for m in modules.values() for n, p in m.named_parameters() if p.requires_grad]
        parameters = [p for _, p in named]
        self.parameters, self.ema_decay = parameters, ema_decay
        self.optimizer = Muon(named)
        self.peak_rate, self.warm_up = peak_rate, 300
        self.ema = [p.detach().clone() for p in parameters]
        self.step = 0
        self.log = []
        if self.checkpoint.exists():
            self.load()

    @property
    def checkpoint(self):
        return self.out / f"{self.name}.pt"

    def state(self):
        return {
            "step": self.step,
            "log": self.log,
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
        }

    def save(self):
        torch.save(self.state(), self.checkpoint.with_suffix(".tmp"))
        self.checkpoint.with_suffix(".tmp").replace(self.checkpoint)
        with open(self.out / f"loss_{self.name}.csv", "w", newline="") as file:
            rows = csv.DictWriter(file, ["step", *self.log[0]] if self.log else ["step"])
            rows.writeheader()
            rows.writerows({k: f"{v:.5g}" for k, v in row.items()} for row in self.log)

    def load(self):
        state = torch.load(self.checkpoint, map_location=device, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        if "buffers" in state["optimizer"]:
            self.optimizer.load_state_dict(state["optimizer"])
        self.ema = [value.to(device) for value in state["ema"]]
        self.step, self.log = state["step"], state["log"]
        torch.set_rng_state(state["rng"].cpu())
        print(f"{self.name}: resumed at step {self.step}", flush=True)

    def progress(self):
        """How much of this run is done, 0..1: of its steps, or of its time where that is shorter."""
        return max(self.step / self.steps, (time.time() - self.started) / (60 * self.minutes))

    def rate(self):
        left = (1 - self.progress()) / 0.35
        return self.peak_rate * min(1.0, (self.step + 1) / self.warm_up, 0.02 + 0.98 * max(left, 0))

    def use_ema(self):
        """Put the averaged weights into the modules (for export; training cannot go on after this)."""
        for parameter, value in zip(self.parameters, self.ema):
            parameter.data.copy_(value)

    def run(self, loss, log_every=50, save_seconds=180):
        self.started = saved = time.time()
        first = self.step
        sums, summed = {}, 0
        while self.progress() < 1:
            value, numbers = loss(self.step)
            value.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step(self.rate())
            self.optimizer.zero_grad()
            decay = min(self.ema_decay, (self.step + 1) / (self.step + 10))
            torch._foreach_lerp_(self.ema, [p.detach() for p in self.parameters], 1 - decay)
            self.step += 1
            for key, number in numbers.items():
                sums[key] = sums.get(key, 0) + float(number)
            summed += 1
            if self.step % log_every == 0:
                pace = (time.time() - self.started) / (self.step - first)
                means = {key: total / summed for key, total in sums.items()}
                self.log.append({"step": self.step, **means})
                print(
                    f"{self.name} {self.step}/{self.steps} {pace:.3f} s/step "
                    + " ".join(f"{k} {v:.4f}" for k, v in means.items()),
                    flush=True,
                )
                sums, summed = {}, 0
            if time.time() - saved > save_seconds:
                self.save()
                saved = time.time()
        self.save()


def compiled(function, options):
    """``torch.compile`` where it works, the plain function where not."""
    if options.no_compile:
        return function
    fast, state = torch.compile(function), {"use": None}

    def call(*args):
        if state["use"] is None:
            try:
                result = fast(*args)
                state["use"] = fast
                return result
            except Exception as error:  # no compiler, unsupported host code, ...
                print(f"running without torch.compile: {type(error).__name__}: {str(error)[:200]}", flush=True)
                state["use"] = function
        return state["use"](*args)

    return call


# ----------------------------------------------------------------------------------------------------- autoencoder


def as_pixels(pictures):
    """uint8 (B,H,W,3) -> float (B,3,H,W) in [-1, 1]."""
    return torch.from_numpy(np.array(pictures)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def picture_loss(error):
    """(pixels, edges) of an error (B,3,H,W): L1 and L2, with more weight on colour; L1 of the pixel differences.

    The edges get a small weight at first: an edge that is not in its exact place costs more than no edge, and a young
    autoencoder then prefers to draw none.
    """
    colour = error - error.mean(1, keepdim=True)  # what brightness alone does not explain
    pixels = error.abs().mean() + 2 * (error**2).mean() + 4 * (colour**2).mean()
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return pixels, edges


def train_autoencoder(options):
    """Pictures through a latent of 4x16x16, with a light pull of the latents to a unit normal."""
    from demo.model import new_autoencoder

    pictures = np.load(options.out / "pictures.npy", mmap_mode="r")
    count = len(pictures) - HELD_OUT
    autoencoder = new_autoencoder().to(device, memory_format=torch.channels_last).train()
    initialise(autoencoder)
    trainer = Trainer(
        "autoencoder", options, {"autoencoder": autoencoder}, options.autoencoder_steps, 1.5e-3, ema_decay=0.998
    )

    def objective(x, noise):
        with torch.autocast(device.type, torch.bfloat16):
            mean, log_variance = autoencoder.quant_conv(autoencoder.encoder(x)).float().chunk(2, 1)
            log_variance = log_variance.clamp(-20, 10)
            z = mean + (0.5 * log_variance).exp() * noise
            y = autoencoder.decoder(autoencoder.post_quant_conv(z)).float()
        pixels, edges = picture_loss(y - x)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        return pixels, edges, divergence

    objective = compiled(objective, options)

    def loss(step):
        rng = np.random.default_rng((options.seed, step))
        batch = np.sort(rng.integers(0, count, options.autoencoder_batch))
        x = as_pixels(pictures[batch]).contiguous(memory_format=torch.channels_last)
        noise = torch.randn(len(batch), 4, 16, 16, device=device)
        pixels, edges, divergence = objective(x, noise)
        return pixels + 0.15 * edges + 2e-4 * divergence, {
            "pixels": pixels.detach(),
            "edges": edges.detach(),
            "divergence": divergence.detach(),
        }

    trainer.run(loss)


# ------------------------------------------------------------------------------------------------------- diffusion


def trained_autoencoder(options):
    """The autoencoder with the averaged weights of the autoencoder stage, and of the decoder stage where it was run."""
    from demo.model import new_autoencoder

    autoencoder = new_autoencoder().to(device)
    Trainer("autoencoder", options, {"autoencoder": autoencoder}, options.autoencoder_steps, 0.0).use_ema()
    decoder_trainer(options, autoencoder).use_ema()
    return autoencoder.eval().requires_grad_(False)


def decoder_trainer(options, autoencoder):
    parts = {"decoder": autoencoder.decoder, "post_quant_conv": autoencoder.post_quant_conv}
    return Trainer("decoder", options, parts, options.decoder_steps, 1e-3, ema_decay=0.998)


def train_decoder(options):
    """Sharpen the decoder alone, on finished latents with a little noise, as the UNet leaves it."""
    from demo.model import new_autoencoder

    make_latents(options)
    pictures = np.load(options.out / "pictures.npy", mmap_mode="r")
    latents = torch.from_numpy(np.load(options.out / "latents.npy"))
    fit = torch.load(options.out / "latents.pt", weights_only=True)
    mean, std = fit["mean"][:, None, None], fit["std"][:, None, None]
    autoencoder = new_autoencoder().to(device)
    Trainer("autoencoder", options, {"autoencoder": autoencoder}, options.autoencoder_steps, 0.0).use_ema()
    autoencoder.to(memory_format=torch.channels_last)
    trainer = decoder_trainer(options, autoencoder)

    def objective(x, z):
        with torch.autocast(device.type, torch.bfloat16):
            y = autoencoder.decoder(autoencoder.post_quant_conv(z)).float()
        return picture_loss(y - x)

    objective = compiled(objective, options)

    def loss(step):
        rng = np.random.default_rng((options.seed, step, 1))
        batch = np.sort(rng.integers(0, len(latents) - HELD_OUT, options.autoencoder_batch))
        z = latents[torch.from_numpy(batch)].float()
        z = ((z + 0.05 * torch.randn(z.shape)) * std + mean).to(device)
        x = as_pixels(pictures[batch]).contiguous(memory_format=torch.channels_last)
        pixels, edges = objective(x, z.contiguous(memory_format=torch.channels_last))
        return pixels + 0.4 * edges, {"pixels": pixels.detach(), "edges": edges.detach()}

    trainer.run(loss)


def make_latents(options):
    """``latents.npy`` (N,4,16,16) float16 with unit variance per channel; mean, std, RGB factors in ``latents.pt``."""
    if (options.out / "latents.pt").exists():
        return
    autoencoder = trained_autoencoder(options).to(memory_format=torch.channels_last)
    pictures = np.load(options.out / "pictures.npy", mmap_mode="r")
    latents, colours = [], []
    for i in range(0, len(pictures), 64):
        x = as_pixels(pictures[i : i + 64])
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            z = autoencoder.quant_conv(autoencoder.encoder(x.contiguous(memory_format=torch.channels_last)))[:, :4]
        latents.append(z.float().cpu())
        if i < 2048:
            colours.append(torch.nn.functional.avg_pool2d(x, 8).cpu())
    latents, colours = torch.cat(latents), torch.cat(colours)
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    latents = (latents - mean[:, None, None]) / std[:, None, None]
    points = latents[: len(colours)].movedim(1, -1).reshape(-1, 4)
    fit = torch.linalg.lstsq(torch.cat([points, torch.ones(len(points), 1)], 1), colours.movedim(1, -1).reshape(-1, 3))
    np.save(options.out / "latents.npy", latents.half().numpy())
    torch.save(
        {
            "mean": mean,
            "std": std,
            "rgb_factors": fit.solution[:4].contiguous(),
            "rgb_bias": fit.solution[4].contiguous(),
        },
        options.out / "latents.pt",
    )


TEXT_LENGTH = 32  # the longest caption of the grammar, with BOS and an unknown word, is shorter
UNKNOWN, START = 0, 1  # rows of the token table before the grammar's words


def vocabulary():
    """``[(word, CLIP id)]`` of every word of the grammar; each must be a single CLIP token."""
    from comfy.sd1_clip import SD1Tokenizer

    tokenizer = SD1Tokenizer().clip_l.tokenizer
    words = ["a", "an", "picture", "of", "and", "in", "with", *scenes.SHAPES, *scenes.COLOURS, *scenes.TEXTURES]
    for phrases in (scenes.PLACES, scenes.LIGHTS, scenes.WEATHERS, scenes.STYLES):
        words += [word for phrase in phrases.values() for word in phrase.split()]
    words = list(dict.fromkeys(words))
    ids = [tokenizer(word)["input_ids"][1:-1] for word in words]
    assert all(len(i) == 1 for i in ids), [word for word, i in zip(words, ids) if len(i) != 1]
    return [(word, i[0]) for word, i in zip(words, ids)]


def new_text_model(words):
    """The host's CLIP text model with a table of only UNKNOWN, START and ``words``."""
    import comfy.clip_model
    import comfy.ops

    from demo.model import TEXT

    text = comfy.clip_model.CLIPTextModel(TEXT, torch.float32, "cpu", comfy.ops.manual_cast)
    text.set_input_embeddings(torch.nn.Embedding(words + 2, TEXT["hidden_size"]))
    initialise(text)
    text.text_projection.requires_grad_(False)
    torch.nn.init.normal_(text.get_input_embeddings().weight, std=0.5)
    torch.nn.init.normal_(text.text_model.embeddings.position_embedding.weight[:TEXT_LENGTH], std=0.1)
    torch.nn.init.zeros_(text.text_model.embeddings.position_embedding.weight[TEXT_LENGTH:])
    return text


def encode_text(text, ids):
    """The host's ``CLIPTextModel.forward`` without its in-place additions, which gradients cannot pass.

    Args:
        ids: (B, TEXT_LENGTH) rows of the token table; -1 after the last word.

    Returns:
        Context (B, 77, D); rows after the last word are zero, as the host makes them at inference.
    """
    model = text.text_model
    x = model.embeddings.token_embedding(ids.clamp(min=0))
    x = x + model.embeddings.position_embedding.weight[: ids.shape[1]]
    for layer in model.encoder.layers:
        y = layer.layer_norm1(x)
        attention = layer.self_attn
        x = x + attention.out_proj(
            plain_attention(attention.q_proj(y), attention.k_proj(y), attention.v_proj(y), attention.heads, causal=True)
        )
        x = x + layer.mlp(layer.layer_norm2(x))
    x = model.final_layer_norm(x) * (ids >= 0).unsqueeze(-1)
    return torch.nn.functional.pad(x, (0, 0, 0, 77 - x.shape[1]))


def plain_attention(q, k, v, heads, mask=None, causal=False, **_):
    """softmax(q k' / sqrt(d)) v on (B, tokens, heads·d); on small maps quicker to train than fused attention."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if causal:
        scores = scores + torch.full(scores.shape[-2:], -torch.inf, device=q.device).triu(1)
    return (scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)


def token_rows(captions, words, seed):
    """Captions as rows of the token table and the amount of every word.

    One caption in ten gets an unknown word somewhere, so that words from outside the grammar come to say nothing.

    Returns:
        ids (N, TEXT_LENGTH) int64, -1 after the last word; amounts (N, TEXT_LENGTH) float32, 1 where nothing is said.
    """
    row_of = {word: i + 2 for i, (word, _) in enumerate(words)}
    rng = random.Random(seed)
    ids = np.full((len(captions), TEXT_LENGTH), -1, np.int64)
    amounts = np.ones((len(captions), TEXT_LENGTH), np.float32)
    for i, caption in enumerate(captions):
        rows, faders = [row_of[word] for word in caption["words"]], list(caption["amounts"])
        if rng.random() < 0.1:
            place = rng.randint(0, len(rows))
            rows.insert(place, UNKNOWN)
            faders.insert(place, 1.0)
        ids[i, : len(rows) + 1] = [START, *rows]
        amounts[i, 1 : len(rows) + 1] = faders
    return torch.from_numpy(ids), torch.from_numpy(amounts)


def new_diffusion(options):
    """(UNet, text model, words, Trainer) with fresh weights, or with those of the last checkpoint."""
    from demo.model import new_denoiser

    words = vocabulary()
    unet = new_denoiser().diffusion_model.train()
    initialise(unet)
    for name, layer in unet.named_modules():  # every residual branch starts at zero
        if name.endswith(("proj_out", "out_layers.3")) or name == "out.2":
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    text = new_text_model(len(words)).train()
    unet.to(device, memory_format=torch.channels_last)
    text.to(device)
    trainer = Trainer("diffusion", options, {"unet": unet, "text": text}, options.diffusion_steps, 1.2e-3)
    return unet, text, words, trainer


def train_diffusion(options):
    """Predict the noise, given the caption, with faders.

    *Faders.* A picture whose word is painted at strength c is trained with that word's column of every
    cross-attention map times c: P·diag(c)·V = P·(diag(c)·V), so the word's *value* row is scaled, in the host's own
    ``attn2_patch``. What the word does must then come through the word's own column and grow with it, which is what
    re-weighting (Hertz et al. 2023, section 3.2) relies on; nothing is left to hide in other tokens.

    Weighting by min(SNR, 5)/SNR (Hang et al. 2023); one caption in ten is empty, for classifier-free guidance.
    """
    import comfy.ldm.modules.attention

    from demo.model import new_denoiser

    make_latents(options)
    comfy.ldm.modules.attention.optimized_attention = plain_attention
    unet, text, words, trainer = new_diffusion(options)
    ids, amounts = token_rows(json.loads((options.out / "captions.json").read_text()), words, options.seed)
    latents = torch.from_numpy(np.load(options.out / "latents.npy"))
    count = len(latents) - HELD_OUT
    sigmas = new_denoiser().model_sampling.sigmas.float()
    signal, snr = 1 / (1 + sigmas**2).sqrt(), 1 / sigmas**2
    batch_size = options.diffusion_batch

    def objective(noisy, noise, timesteps, weights, ids, amounts):
        values = amounts.unsqueeze(-1)
        fade = lambda n, context, value, extra: (n, context, value * values)
        with torch.autocast(device.type, torch.bfloat16):
            context = encode_text(text, ids)
            predicted = unet._forward(
                noisy, timesteps, context, transformer_options={"patches": {"attn2_patch": [fade]}}
            )
        squared = ((predicted.float() - noise) ** 2).mean((1, 2, 3))
        return (weights * squared).mean(), squared.mean()

    objective = compiled(objective, options)

    def loss(step):
        rng = np.random.default_rng((options.seed, step))
        batch = torch.from_numpy(rng.integers(0, count, batch_size))
        x, said, faders = latents[batch].float(), ids[batch], amounts[batch]
        empty = torch.from_numpy(rng.random(batch_size) < 0.1)
        said[empty, 1:], faders[empty] = -1, 1.0
        timesteps = torch.from_numpy(rng.integers(0, len(sigmas), batch_size))
        noise = torch.randn(x.shape)
        noisy = (x + noise * sigmas[timesteps, None, None, None]) * signal[timesteps, None, None, None]
        weights = snr[timesteps].clamp(max=5) / snr[timesteps]
        faders = torch.nn.functional.pad(faders, (0, 77 - TEXT_LENGTH), value=1.0)
        inputs = [noisy.contiguous(memory_format=torch.channels_last), noise, timesteps, weights, said, faders]
        weighted, plain = objective(*(tensor.to(device) for tensor in inputs))
        return weighted, {"loss": weighted.detach(), "squared_error": plain.detach()}

    trainer.run(loss)


# ---------------------------------------------------------------------------------------------------------- export


def export(options):
    """Write ``weights/p2p_demo.safetensors`` from the averaged weights of both stages, in float16."""
    from safetensors.torch import save_file

    from demo.model import BOS, WEIGHTS

    autoencoder = trained_autoencoder(options)
    unet, text, words, trainer = new_diffusion(options)
    trainer.use_ema()
    fit = torch.load(options.out / "latents.pt", weights_only=True)
    mean, std = fit["mean"], fit["std"]
    with torch.no_grad():  # z -> (z - mean) / std, folded into 1x1 convolutions
        quant, post = autoencoder.quant_conv, autoencoder.post_quant_conv
        scale = torch.cat([1 / std, torch.ones_like(std)]).to(device)
        shift = torch.cat([mean, 2 * std.log()]).to(device)  # the second half is log-variance
        quant.bias.copy_((quant.bias - shift) * scale)
        quant.weight.mul_(scale[:, None, None, None])
        post.bias.add_(post.weight[:, :, 0, 0] @ mean.to(device))
        post.weight.mul_(std.to(device)[None, :, None, None])

    text_state = {
        f"transformer.{name}": value
        for name, value in text.state_dict().items()
        if not name.startswith("text_projection")
    }
    table = text_state.pop("transformer.text_model.embeddings.token_embedding.weight")
    parts = {
        "unet": unet.state_dict(),
        "autoencoder": autoencoder.state_dict(),
        "text": text_state,
        "latent": {"rgb_factors": fit["rgb_factors"], "rgb_bias": fit["rgb_bias"]},
    }
    tensors = {
        f"{part}.{name}": value.detach().cpu().half().contiguous()
        for part, state in parts.items()
        for name, value in state.items()
    }
    tensors["text.tokens"] = table.detach().cpu().half().contiguous()
    tensors["text.token_ids"] = torch.tensor([-1, BOS] + [i for _, i in words])
    WEIGHTS.parent.mkdir(exist_ok=True)
    metadata = {
        "recipe": f"{options.scenes} scenes; autoencoder {options.autoencoder_steps} steps of "
        f"{options.autoencoder_batch}; decoder {options.decoder_steps} steps of "
        f"{options.autoencoder_batch}; diffusion {trainer.step} steps of {options.diffusion_batch}",
        "seed": str(options.seed),
        "grammar": scenes.GRAMMAR_VERSION,
    }
    save_file(tensors, WEIGHTS, metadata=metadata)
    WEIGHTS.chmod(0o644)
    print(f"wrote {WEIGHTS} ({WEIGHTS.stat().st_size / 1e6:.1f} MB)", flush=True)
    plot_losses(options)


def plot_losses(options, size=(1200, 360)):
    """``loss_curve.png`` and the CSV files beside this script: one panel per stage, both axes logarithmic."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    stages = {
        "autoencoder": ("pixels", "edges"),
        "decoder": ("pixels", "edges"),
        "diffusion": ("loss", "squared_error"),
    }
    for panel, (stage, columns) in enumerate(stages.items()):
        source = options.out / f"loss_{stage}.csv"
        if not source.exists():
            continue
        (FOLDER / source.name).write_text(source.read_text())
        rows = list(csv.DictReader(source.open()))
        left, right = panel * size[0] // len(stages) + 56, (panel + 1) * size[0] // len(stages) - 16
        top, bottom = 34, size[1] - 34
        steps = np.log([float(row["step"]) for row in rows])
        values = {column: np.log([float(row[column]) for row in rows]) for column in columns}
        low, high = min(v.min() for v in values.values()), max(v.max() for v in values.values())
        pen.rectangle([left, top, right, bottom], outline="black")
        pen.text((left, top - 24), f"{stage}: loss per step, batch means", fill="black")
        for i, (column, v) in enumerate(values.items()):
            colour = ("#1f5fbf", "#c2571a")[i]
            across = left + (steps - steps[0]) / max(steps[-1] - steps[0], 1e-9) * (right - left)
            down = bottom - (v - low) / max(high - low, 1e-9) * (bottom - top)
            pen.line(list(zip(across.tolist(), down.tolist())), fill=colour, width=2)
            pen.text((right - 140, top + 6 + 14 * i), f"{column} {np.exp(v[-1]):.4g}", fill=colour)
        for text, height in ((f"{np.exp(high):.3g}", top), (f"{np.exp(low):.3g}", bottom - 10)):
            pen.text((left - 46, height), text, fill="black")
        for text, across in ((rows[0]["step"], left), (rows[-1]["step"], right - 30)):
            pen.text((across, bottom + 6), text, fill="black")
    image.save(FOLDER / "loss_curve.png")


STAGES = {
    "data": make_data,
    "autoencoder": train_autoencoder,
    "diffusion": train_diffusion,
    "decoder": train_decoder,
    "export": export,
}

if __name__ == "__main__":
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    stages = STAGES if options.stage == "all" else [options.stage]
    if list(stages) != ["data"]:
        host(options)
    for stage in stages:
        STAGES[stage](options)
