"""Stand-ins for nodes of other packs: they do to a model, a conditioning or a latent what the real ones do."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

# --------------------------------------------------------------------------------------------- samplers inside of nodes


class Sampler:
    """What such a node is given: a model, both sides and the settings of a KSampler. Calls the host's as it is."""

    def __init__(self, run_node, model, positive, negative, steps=3, cfg=4.0, sampler_name="euler", scheduler="normal"):
        self.run_node, self.model, self.positive, self.negative = run_node, model, positive, negative
        self.settings = {"steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler}

    def ksampler(self, latent, seed=7, denoise=1.0):
        return self.run_node(
            "KSampler", model=self.model, seed=seed, positive=self.positive, negative=self.negative,
            latent_image=latent, denoise=denoise, **self.settings,
        )[0]  # fmt: skip

    def advanced(self, latent, start, end, noise, leftover, seed=7):
        return self.run_node(
            "KSamplerAdvanced", model=self.model, add_noise="enable" if noise else "disable", noise_seed=seed,
            positive=self.positive, negative=self.negative, latent_image=latent, start_at_step=start, end_at_step=end,
            return_with_leftover_noise="enable" if leftover else "disable", **self.settings,
        )[0]  # fmt: skip

    def host(self):
        import comfy.samplers

        settings = self.settings
        return comfy.samplers.KSampler(
            self.model, steps=settings["steps"], device=torch.device("cpu"), sampler=settings["sampler_name"],
            scheduler=settings["scheduler"], denoise=1.0, model_options=self.model.model_options,
        )  # fmt: skip


def highres_script(sampler: Sampler, latent, denoise=0.6):
    """A sampler whose script enlarges its own result and samples it again."""
    made = sampler.ksampler(latent)
    return sampler.ksampler(enlarged(made, 1.5), denoise=denoise)


def iterative_upscale(sampler: Sampler, latent, times=2, denoise=0.5):
    """Enlarges a result a little and samples it again, several times."""
    for _ in range(times):
        latent = sampler.ksampler(enlarged(latent, 1.25), denoise=denoise)
    return latent


def upscaler(sampler: Sampler, pictures, tile=8, denoise=0.5):
    """Enlarges pictures and samples them tile by tile, all pictures of the batch together. Pictures are latents here.

    Takes as many results out of each tile as it has pictures (a list of them, in the real one).
    """
    pictures = list(enlarged({"samples": pictures}, 2.0)["samples"])
    height, width = pictures[0].shape[-2:]
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            place = (slice(None), slice(top, top + tile), slice(left, left + tile))
            made = sampler.ksampler({"samples": torch.stack([each[place] for each in pictures])}, denoise=denoise)
            for number, each in enumerate(made["samples"]):
                pictures[number][place] = each
    return torch.stack(pictures)


def detailer(sampler: Sampler, pictures, box=(2, 2, 6, 6), denoise=0.5):
    """Samples a part of each picture again, one picture after the other, and puts it back."""
    top, left, bottom, right = box
    pictures = pictures.clone()
    for picture in pictures:
        part = picture[None, :, top:bottom, left:right].clone()
        made = sampler.ksampler(enlarged({"samples": part}, 2.0), denoise=denoise)
        back = torch.nn.functional.interpolate(made["samples"], part.shape[-2:], mode="bilinear")
        part[:] = back  # as the real one pastes a picture into another: of one size, batches included
        picture[:, top:bottom, left:right] = part[0]
    return pictures


def tiled_sampler(sampler: Sampler, latent, tile=8, seed=7, strategy="simple"):
    """Steps through the schedule tile by tile, from noise that it adds to the latents itself (not when padded)."""
    import comfy.sample

    samples, host = latent["samples"].clone(), sampler.host()
    steps = sampler.settings["steps"]
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    padded = strategy == "padded"
    if not padded:
        samples += host.sigmas[0] * sampler.model.model.process_latent_out(noise)
    passes = [(0, steps)] if padded else [(step, step + 1) for step in range(steps)]
    for start, end in passes:
        for top in range(0, samples.shape[-2], tile):
            place = (slice(None), slice(None), slice(top, top + tile))
            part = samples[place].clone()
            made = host.sample(
                noise[place] if padded else torch.zeros_like(part), sampler.positive, sampler.negative,
                cfg=sampler.settings["cfg"], latent_image=part, start_step=start, last_step=end,
                force_full_denoise=end == steps, denoise_mask=torch.ones_like(part), disable_pbar=True, seed=seed,
            )  # fmt: skip
            samples[place] = made.expand(len(samples), *made.shape[1:])
    return {**latent, "samples": samples}


def regional_sampler(base: Sampler, regions: Iterable[tuple[Sampler, torch.Tensor]], latent, base_only_steps=1):
    """The whole picture step by step, and after each step the regions' samplers the same step within their masks."""
    regions = list(regions)
    outside = 1.0 - torch.stack([mask for _, mask in regions]).amax(dim=0)
    steps = base.settings["steps"]
    latent = base.advanced(latent, 0, base_only_steps, noise=True, leftover=True)
    for step in range(base_only_steps, steps):
        last = step + 1 == steps
        latent = base.advanced({**latent, "noise_mask": outside}, step, step + 1, noise=False, leftover=not last)
        for sampler, mask in regions:
            made = sampler.advanced({**latent, "noise_mask": mask}, step, step + 1, noise=False, leftover=not last)
            latent = {"samples": torch.lerp(latent["samples"], made["samples"], mask.to(made["samples"]))}
    return latent


def unsampler(sampler: Sampler, latent):
    """Runs the schedule upwards, from a picture to its noise."""
    host = sampler.host()
    samples = latent["samples"]
    made = host.sample(
        torch.zeros_like(samples), sampler.positive, sampler.negative, cfg=sampler.settings["cfg"],
        latent_image=samples, sigmas=host.sigmas.flip(0) + 0.0001, start_step=0,
        last_step=sampler.settings["steps"], force_full_denoise=False, disable_pbar=True,
    )  # fmt: skip
    return {**latent, "samples": made}


def dummy_first(sampler: Sampler, latent):
    """Samples the negative against itself once, only to have the model loaded, and then what was asked for."""
    import comfy.sample
    import comfy.samplers

    nothing = comfy.samplers.KSAMPLER(lambda model, x, sigmas, extra_args=None, callback=None, disable=None: x)
    wide = torch.zeros_like(latent["samples"]).repeat_interleave(3, dim=-1)
    comfy.sample.sample_custom(
        sampler.model, wide, 4.0, nothing, torch.linspace(1, 0, 10), sampler.negative, sampler.negative, wide
    )
    return sampler.ksampler(latent)


def enlarged(latent, by):
    height, width = latent["samples"].shape[-2:]
    size = (round(height * by), round(width * by))
    return {**latent, "samples": torch.nn.functional.interpolate(latent["samples"], size, mode="bilinear")}


# ----------------------------------------------------------------------------------------------------- attention couple


class Couple:
    """Regions by attn2_patch: the positive's rows once more for each region's text, then the masks put them together.

    Args:
        conditionings: of the regions.
        masks: (1 + regions, h, w), the rest of the picture first.
        same: demand that keys and values are the same tensors, as some do; else they are taken apart.
    """

    def __init__(self, conditionings, masks, same):
        self.texts = [conditioning[0][0] for conditioning in conditionings]
        self.masks = masks / masks.sum(dim=0, keepdim=True)
        self.same = same
        self.rows = 0

    def on(self, model):
        patched = model.clone()
        patched.set_model_attn2_patch(self.expand)
        patched.set_model_attn2_output_patch(self.merge)
        return patched

    def on_conditioning(self, conditioning):
        """The same by a hook of the conditioning, whose patches come before all those of the model."""
        import comfy.hooks

        patches = {"attn2_patch": [self.expand], "attn2_output_patch": [self.merge]}
        hook = comfy.hooks.TransformerOptionsHook({"patches": patches}, hook_scope=comfy.hooks.EnumHookScope.HookedOnly)
        group = comfy.hooks.HookGroup()
        group.add(hook)
        return comfy.hooks.set_hooks_for_conditioning(conditioning, hooks=group, append_hooks=True)

    def expand(self, q, k, v, options):
        if self.same:
            assert k.mean() == v.mean(), "k and v must be the same."
        chunks = options["cond_or_uncond"]
        self.rows = q.shape[0] // len(chunks)
        length = math.lcm(k.shape[1], *(text.shape[1] for text in self.texts))
        regions = torch.cat([text.repeat(self.rows, length // text.shape[1], 1) for text in self.texts]).to(k)
        out = []
        for kind, hidden, keys, values in zip(chunks, *(each.chunk(len(chunks)) for each in (q, k, v)), strict=True):
            keys, values = (each.repeat(1, length // each.shape[1], 1) for each in (keys, values))
            if kind == 1:
                out.append((hidden, keys, values))
            else:
                hidden = hidden.repeat(1 + len(self.texts), 1, 1)
                out.append((hidden, torch.cat([keys, regions]), torch.cat([values, regions])))
        q, k, v = map(torch.cat, zip(*out, strict=True))
        return (q, k, k) if self.same else (q, k, v)

    def merge(self, output, options):
        height, width = options["activations_shape"][-2:]
        masks = torch.nn.functional.interpolate(self.masks[None], (height, width), mode="nearest")[0].flatten(1)
        at, out = 0, []
        for kind in options["cond_or_uncond"]:
            if kind == 1:
                out.append(output[at : at + self.rows])
                at += self.rows
            else:
                parts = output[at : at + len(masks) * self.rows].unflatten(0, (len(masks), self.rows))
                out.append((parts * masks[:, None, :, None].to(parts)).sum(dim=0))
                at += len(masks) * self.rows
        assert at == len(output)
        return torch.cat(out)


# ------------------------------------------------------------------------------------------------------ text encoders


def negative_weights(model, clip):
    """Contexts of keys and values in turn, so that a word of negative weight has a negative value; the model's half.

    (model, clip): the encoder gives (1, 2 T, D), and the patch of the model reads it.
    """
    clip, model = clip.clone(), model.clone()
    encoder = clip.patcher.model.clip_l
    plain = encoder.encode_token_weights

    def doubled(pairs):
        signs = torch.tensor([-1.0 if weight < 0 else 1.0 for chunk in pairs for _, weight in chunk])
        context, pooled, *rest = plain([[(token, abs(weight)) for token, weight in chunk] for chunk in pairs])
        keys_and_values = torch.stack([context, context * signs[None, : context.shape[1], None]], dim=2)
        return keys_and_values.flatten(1, 2), pooled, *rest

    clip.patcher.add_object_patch("clip_l.encode_token_weights", doubled)
    model.set_model_attn2_patch(lambda n, context, value, options: (n, context[:, 0::2], value[:, 1::2]))
    return model, clip


def scheduling_encoder(sampling, text, lora=None):
    """Keeps the text that it encoded in the conditioning, and makes a hook group of its own for each."""
    import comfy.hooks

    conditioning = [[context, {**extras, "prompt": text}] for context, extras in sampling.encode(text)]
    if lora is None:
        return conditioning
    hooks = comfy.hooks.create_hook_lora(lora, 0.8, 0.0)
    return comfy.hooks.set_hooks_for_conditioning(conditioning, hooks=hooks)


# -------------------------------------------------------------------------------------------------- counting the batch


def context_options(model, length=2):
    """Sliding windows over the batch, for as many latents as the run had outside of this: no more, no windows."""
    import comfy.patcher_extension

    patched, full = model.clone(), {}

    def outer(executor, noise, latent_image, *args, **kwargs):
        full["length"] = len(latent_image)
        return executor(noise, latent_image, *args, **kwargs)

    def windows(executor, model, conds, x_in, timestep, options):
        if full["length"] <= length:
            return executor(model, conds, x_in, timestep, options)
        out = [torch.zeros_like(x_in) for _ in conds]
        for first in range(0, full["length"], length):
            part = slice(first, first + length)
            parts = [entries and [_part_of(cond, part, full["length"]) for cond in entries] for entries in conds]
            for whole, made in zip(out, executor(model, parts, x_in[part], timestep[part], options), strict=True):
                whole[part] = made
        return out

    kinds = comfy.patcher_extension.WrappersMP
    patched.add_wrapper_with_key(kinds.OUTER_SAMPLE, "context options", outer)
    patched.add_wrapper_with_key(kinds.CALC_COND_BATCH, "context options", windows)
    return patched


def _part_of(cond, part, length):
    """A conditioning for some latents: what it holds for each of them is cut, as such nodes do."""
    cond = {**cond, "model_conds": dict(cond["model_conds"])}
    for name, each in cond["model_conds"].items():
        if torch.is_tensor(getattr(each, "cond", None)) and each.cond.shape[0] == length:
            cond["model_conds"][name] = type(each)(each.cond[part])
    return cond


def keyframed(control, strengths):
    """A ControlNet whose strength is given for each latent of the batch, by its number."""
    kind = type(control)

    class Keyframed(kind):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            made = super().get_control(x_noisy, t, cond, batched_number, transformer_options)
            count = len(x_noisy) // batched_number
            each = [strengths[number] if number < len(strengths) else 0.0 for number in range(count)]
            factors = torch.tensor(each * batched_number).view(-1, 1, 1, 1)
            return made and {
                key: [None if part is None else part * factors.to(part) for part in parts]
                for key, parts in made.items()
            }

        def copy(self):
            copied = super().copy()
            copied.__class__ = Keyframed
            return copied

    copied = control.copy()
    copied.__class__ = Keyframed
    return copied


class PackedLinear(torch.nn.Module):
    """A layer as packs make it that load GGUF files: its weight is blocks of whole numbers, each with a scale, unpacked
    at every call, and has neither the shape nor the type of what it is multiplied by."""

    BLOCK = 16

    def __init__(self, linear):
        super().__init__()
        blocks = linear.weight.detach().reshape(-1, self.BLOCK)
        scale = blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127
        packed = (blocks / scale).round().to(torch.int8)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)
        self.register_buffer("scale", scale)
        self.bias = linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def unpacked(self):
        return (self.weight.to(self.scale) * self.scale).reshape(self.out_features, self.in_features)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.unpacked().to(x), None if self.bias is None else self.bias.to(x))


def pack_weights(packed, plain):
    """Pack one of two equal networks' linear layers, and give the other's the weights that this leaves of them.

    Returns:
        how many layers these are.
    """
    layers = [name for name, layer in packed.named_modules() if isinstance(layer, torch.nn.Linear)]
    for name in layers:
        parent, _, own = name.rpartition(".")
        layer = PackedLinear(packed.get_submodule(name))
        setattr(packed.get_submodule(parent), own, layer)
        plain.get_submodule(name).weight.data.copy_(layer.unpacked())
    return len(layers)
