"""What the trainings of both demo models share: arguments, scenes, words, the text model, the optimiser, the loop."""

import argparse
import csv
import math
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from demo import scenes

FOLDER = Path(__file__).parent

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def parser(description, stages):
    """The arguments that both trainings have; each adds its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="folder of a ComfyUI (the host's classes)")
    parser.add_argument("--out", type=Path, required=True, help="folder for data, checkpoints and loss curves")
    parser.add_argument("--stage", default="all", choices=("all", *stages))
    parser.add_argument("--scenes", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all)")
    parser.add_argument(
        "--minutes",
        type=float,
        default=math.inf,
        help="end a stage after this time, if it has not done its steps by then",
    )
    parser.add_argument("--no-compile", action="store_true", help="do not try torch.compile")
    return parser


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


# ----------------------------------------------------------------------------------------------------------- words


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


def token_rows(captions, words, seed, length=TEXT_LENGTH):
    """Captions as rows of the token table and the amount of every word.

    One caption in ten gets an unknown word somewhere, so that words from outside the grammar come to say nothing.

    Returns:
        ids (N, length) int64, -1 after the last word; amounts (N, length) float32, 1 where nothing is said.
    """
    row_of = {word: i + 2 for i, (word, _) in enumerate(words)}
    rng = random.Random(seed)
    ids = np.full((len(captions), length), -1, np.int64)
    amounts = np.ones((len(captions), length), np.float32)
    for i, caption in enumerate(captions):
        rows, faders = [row_of[word] for word in caption["words"]], list(caption["amounts"])
        if rng.random() < 0.1 and len(rows) + 1 < length:
            place = rng.randint(0, len(rows))
            rows.insert(place, UNKNOWN)
            faders.insert(place, 1.0)
        ids[i, : len(rows) + 1] = [START, *rows]
        amounts[i, 1 : len(rows) + 1] = faders
    return torch.from_numpy(ids), torch.from_numpy(amounts)


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


def encode_text(text, ids, length=77):
    """The host's ``CLIPTextModel.forward`` without its in-place additions, which gradients cannot pass.

    Args:
        ids: (B, N) rows of the token table; -1 after the last word.

    Returns:
        Context (B, length, D); rows after the last word are zero, as the host makes them at inference.
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
    return torch.nn.functional.pad(x, (0, 0, 0, length - x.shape[1]))


def plain_attention(q, k, v, heads, mask=None, causal=False, **_):
    """softmax(q k' / sqrt(d)) v on (B, tokens, heads·d); on small maps quicker to train than fused attention."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if causal:
        scores = scores + torch.full(scores.shape[-2:], -torch.inf, device=q.device).triu(1)
    return (scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)


# -------------------------------------------------------------------------------------------------------- training


def host(options):
    """Make the host's modules importable; before any of them is imported."""
    sys.path.insert(0, str(options.comfyui.resolve()))
    from comfy.cli_args import args

    args.cpu = device.type == "cpu"
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
        others = ("embedding", "mod.", "modulation")  # tables, and what scales whole rows
        is_matrix = lambda name, p: (
            p.ndim >= 2 and min(p.shape[0], p[0].numel()) > 12 and not any(word in name for word in others)
        )
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

    The rate climbs over ``warm_up`` steps, stays, and falls to 2 % over the last 35 % of the run, or over the steps
    that ``finish_in`` was told. A run that is told to end (SIGTERM) leaves a checkpoint.
    """

    def __init__(self, name, options, modules, steps, peak_rate, ema_decay=0.999, warm_up=300):
        self.name, self.out, self.modules, self.steps = name, options.out, modules, steps
        self.minutes, self.started = options.minutes, time.time()
        named = [(n, p) for m in modules.values() for n, p in m.named_parameters() if p.requires_grad]
        parameters = [p for _, p in named]
        self.parameters, self.ema_decay = parameters, ema_decay
        self.optimizer = Muon(named)
        self.peak_rate, self.warm_up = peak_rate, warm_up
        self.finish = None  # (step at which the rate began to fall, last step), where that was decided on the way
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
            "finish": self.finish,
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
        }

    def save(self):
        torch.save(self.state(), self.checkpoint.with_suffix(".tmp"))
        self.checkpoint.with_suffix(".tmp").replace(self.checkpoint)
        with open(self.out / f"loss_{self.name}.csv", "w", newline="") as file:
            rows = csv.DictWriter(file, [*self.log[0]] if self.log else ["step"])
            rows.writeheader()
            rows.writerows({k: f"{v:.5g}" for k, v in row.items()} for row in self.log)

    def load(self):
        state = torch.load(self.checkpoint, map_location=device, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        if "buffers" in state["optimizer"]:
            self.optimizer.load_state_dict(state["optimizer"])
        self.ema = [value.to(device) for value in state["ema"]]
        self.step, self.log, self.finish = state["step"], state["log"], state.get("finish")
        torch.set_rng_state(state["rng"].cpu())
        print(f"{self.name}: resumed at step {self.step}", flush=True)

    def progress(self):
        """How much of this run is done, 0..1: of its steps, or of its time where that is shorter."""
        if self.finish:
            return self.step / self.finish[1]
        return max(self.step / self.steps, (time.time() - self.started) / (60 * self.minutes))

    def rate(self):
        left = (1 - self.progress()) / 0.35
        if self.finish:
            left = (self.finish[1] - self.step) / (self.finish[1] - self.finish[0])
        return self.peak_rate * min(1.0, (self.step + 1) / self.warm_up, 0.02 + 0.98 * max(left, 0))

    def finish_in(self, steps):
        """Let the rate fall from here on, for so many steps. The last checkpoint is kept, to go on from it instead."""
        if self.finish is None:
            if self.checkpoint.exists():
                shutil.copy(self.checkpoint, self.checkpoint.with_suffix(".before.pt"))
            self.finish = (self.step, self.step + steps)

    def use_ema(self):
        """Put the averaged weights into the modules (for export; training cannot go on after this)."""
        for parameter, value in zip(self.parameters, self.ema):
            parameter.data.copy_(value)

    def run(self, loss, log_every=50, save_seconds=180, evaluate=dict):
        """Until its steps or its time are over.

        Args:
            loss: step -> (loss, {name: number for the curve}).
            evaluate: () -> further numbers for the curve, asked for at every row of it.
        """
        stopped = []
        before = signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
        self.started = saved = time.time()
        first = self.step
        sums, summed = {}, 0
        while self.progress() < 1 and not stopped:
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
                means |= evaluate()
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
        signal.signal(signal.SIGTERM, before)


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
