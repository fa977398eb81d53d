"""Train the demo model from nothing: render scenes, fit the autoencoder, fit text model and UNet together, export.

    python -m tools.training.train --comfyui PATH --out DIR [--stage data|autoencoder|diffusion|decoder|export|all]

Each stage leaves its results in DIR and resumes from its last checkpoint when it is started again. Uses CUDA when
there is one. The recipe and what came out of it are in demo/README.md.
"""

import json
import multiprocessing

import numpy as np
import torch

from demo import scenes

from .common import (
    TEXT_LENGTH,
    Trainer,
    compiled,
    device,
    encode_text,
    host,
    initialise,
    new_text_model,
    parser,
    plain_attention,
    plot_losses,
    token_rows,
    training_scene,
    vocabulary,
)

HELD_OUT = 256  # the last scenes are never trained on


def arguments():
    options = parser(__doc__, STAGES)
    options.add_argument("--autoencoder-steps", type=int, default=5_200)
    options.add_argument("--autoencoder-batch", type=int, default=8)
    options.add_argument("--decoder-steps", type=int, default=2_000)
    options.add_argument("--diffusion-steps", type=int, default=6_000)
    options.add_argument("--diffusion-batch", type=int, default=32)
    return options.parse_args()


# ------------------------------------------------------------------------------------------------------------ data


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
