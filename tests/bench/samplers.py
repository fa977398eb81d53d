"""What is exact with which sampler, scheduler and guider of the host? Measured on a small SD 1.5 with random weights.

Whatever the host lists is measured: the names of KSampler, every node that gives a SAMPLER or a GUIDER (with each
option of its choices in turn), and the nodes that change guidance. Two pictures, two edits each, P2P Attention
Replace on one and P2P Attention Refine on the other.

    python dev.py bench samplers        writes web/docs/samplers.md (with COMFYUI=, a newer host: what that one adds)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.append(str(Path(__file__).resolve().parents[1] / "comfy"))
import real_host  # noqa: E402

if __name__ == "__main__":
    real_host.enter()

import torch  # noqa: E402
from sampling import (  # noqa: E402
    CFG,
    DEFAULTS,
    NO_WINDOW,
    PHRASE,
    SOURCE,
    SWAP,
    Sampling,
    drawn_once_for,
    latent,
    of_rows,
    relative_error,
)

PAGE = real_host.PACK / "web" / "docs" / "samplers.md"
STEPS, SEEDS, SIZE = 3, 2, 8
ROUNDING = 2e-4  # float32, through all steps; an edit that leaks is off by 1e-2 and more
SECTIONS = ("Samplers", "Schedulers", "Sampler nodes", "Guiders", "Nodes that change guidance")
MEASURED, NEWER = "0.3.75", "0.33.0"  # hosts of the page
ADDED = f"What ComfyUI {NEWER} adds"

# Inputs that are not found by going through the options of each choice.
ALSO = {
    "SamplerDPMAdaptative": [{"order": 2}, {"eta": 1.0}],
    "SamplerLCMUpscale": [{"scale_ratio": 2.0}],
    "SamplerER_SDE": [{"solver_type": "Reverse-time SDE", "eta": 0.5}],
    "APG": [{"momentum": -0.5}],
}
INSTEAD = {"SamplerDPMAdaptative": {"rtol": 0.5, "atol": 0.1, "h_init": 0.5}}  # of the defaults, to take fewer steps
ALIKE = {"upscale_method"}  # choices of which one is enough
GUIDANCE = {
    "APG",
    "CFGNorm",
    "CFGZeroStar",
    "Epsilon Scaling",
    "FreSca",
    "LatentApplyOperationCFG",
    "Mahiro",
    "PerpNeg",
    "RenormCFG",
    "RescaleCFG",
    "TCFG",
    "TemporalScoreRescaling",
}
POSITIVE = {"positive", "conditioning", "cond1"}  # inputs of guiders that take the pair's conditioning

ADAPTIVE = (
    "chooses the lengths of its steps by the error of the whole batch, in which the edits have a part; and it does not "
    "end in a prediction, so the blend is completed on the result."
)
WHOLE_BATCH = "takes one {} over the whole batch, in which the edits have a part (as other seeds have without us)."
VIDEOS = "is for videos, and fails with pictures, without any edit as well."
ONE_PICTURE = "fails with more than one picture in a batch, without any edit as well."
# Why a row is approximate or refused: one sentence each.
WHY = {
    "dpm_fast": "does not end in a prediction, so the blend is completed on the result.",
    "dpm_adaptive": ADAPTIVE,
    "SamplerDPMAdaptative": ADAPTIVE,
    "SamplerEulerCFGpp, version alternative": "ends beside the guided prediction, by as much as each row's own "
    "guidance, so the blend is completed on the result.",
    "PerpNegGuider": WHOLE_BATCH.format("projection"),
    "PerpNeg": WHOLE_BATCH.format("projection"),
    "Mahiro": WHOLE_BATCH.format("similarity"),
    "SamplerARVideo": VIDEOS,
    "RenormCFG": ONE_PICTURE,
    "TemporalScoreRescaling": ONE_PICTURE,
}


@dataclass(frozen=True)
class Figures:
    """Largest differences, in parts of the source's standard deviation."""

    same_batch: float  # source rows, and the stock run of as many rows
    alone: float  # source rows, and the stock run of the source prompt
    equal_rows: float  # rows of the same prompt
    outside: float  # outside of a local blend's mask: edited rows, and the source
    before: float  # the same, before the result is composited at the end


@dataclass(frozen=True)
class Impossible:
    word: str  # "refused" by the pack, or "fails" without any edit as well
    says: str


@dataclass(frozen=True)
class Way:
    """One way to sample: ``run(model, conditioning, image)`` gives the latents, ``section`` and ``name`` its row."""

    section: str
    name: str
    run: Callable[[Any, list, dict], torch.Tensor]


# ------------------------------------------------------------------------------------------------- the host's ways


def ways(sampling: Sampling) -> Iterator[Way]:
    """Everything that the host lists, in the table's order."""
    import comfy.samplers

    import nodes

    def custom(model, conditioning, image, sampler=None, guider=None, sigmas=None):
        run = sampling.run_node
        sampler = sampler or run("KSamplerSelect", sampler_name="euler")[0]
        guider = guider or run("CFGGuider", model=model, positive=conditioning, negative=sampling.encode(), cfg=CFG)[0]
        sigmas = run("BasicScheduler", model=sampling.model, scheduler="normal", steps=STEPS, denoise=1.0)[0]
        (noise,) = run("RandomNoise", noise_seed=7)
        return run(
            "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=sampler, sigmas=sigmas, latent_image=image
        )[0]["samples"]

    def fill(inputs, **sockets):
        """Inputs with something on every socket; the conditionings beside the positive differ from each other."""
        others = {key: sampling.encode("blurry" if key == "negative" else key) for key in inputs}
        return {
            key: (others[key] if each.kind == "CONDITIONING" else sockets[each.kind])
            if isinstance(each, Socket)
            else each
            for key, each in inputs.items()
        }

    def ksampler(**names):
        return lambda model, conditioning, image: sampling.ksampler(model, conditioning, image, steps=STEPS, **names)

    for name in comfy.samplers.KSampler.SAMPLERS:
        yield Way("Samplers", name, ksampler(sampler_name=name))
    for name in comfy.samplers.KSampler.SCHEDULERS:
        yield Way("Schedulers", name, ksampler(scheduler=name))

    own = {
        name: node
        for name, node in nodes.NODE_CLASS_MAPPINGS.items()
        if getattr(node, "RELATIVE_PYTHON_MODULE", "").startswith("comfy_extras.")
    }
    for name, node in own.items():
        if tuple(node.RETURN_TYPES) == ("SAMPLER",) and name != "KSamplerSelect":
            for label, inputs in variants(name, node):

                def with_sampler(model, conditioning, image, name=name, inputs=inputs):
                    (sampler,) = sampling.run_node(name, **fill(inputs, MODEL=model))
                    return custom(model, conditioning, image, sampler=sampler)

                yield Way("Sampler nodes", label, with_sampler)
    for name, node in own.items():
        if tuple(node.RETURN_TYPES) == ("GUIDER",):
            for label, inputs in variants(name, node):

                def with_guider(model, conditioning, image, name=name, inputs=inputs):
                    conds = {each: conditioning for each in POSITIVE & set(inputs)}
                    given = fill({**inputs, **conds}, MODEL=model)
                    (guider,) = sampling.run_node(name, **given)
                    return custom(model, conditioning, image, guider=guider)

                yield Way("Guiders", label, with_guider)
    for name in sorted(set(GUIDANCE) & set(own)):
        for label, inputs in variants(name, own[name]):

            def with_guidance(model, conditioning, image, name=name, inputs=inputs):
                operation = sampling.run_node("LatentOperationTonemapReinhard", multiplier=1.0)[0]
                given = fill(inputs, MODEL=model, LATENT_OPERATION=operation)
                return custom(sampling.run_node(name, **given)[0], conditioning, image)

            yield Way("Nodes that change guidance", label, with_guidance)


@dataclass(frozen=True)
class Socket:
    kind: str


def variants(name: str, node: Any) -> Iterator[tuple[str, dict]]:
    """(label, inputs): the node's defaults, then each other option of a choice in turn, then what else is asked for."""
    defaults, options = {}, {}
    for group in ("required", "optional"):
        for key, (kind, *rest) in node.INPUT_TYPES().get(group, {}).items():
            settings = rest[0] if rest else {}
            choices = kind if isinstance(kind, list) else settings.get("options") if kind == "COMBO" else None
            choices = [False, True] if kind == "BOOLEAN" else choices
            if choices:
                options[key] = [] if key in ALIKE else choices
                defaults[key] = settings.get("default", choices[0])
            elif "default" in settings:
                defaults[key] = settings["default"]
            else:
                defaults[key] = Socket(kind)
    defaults |= INSTEAD.get(name, {})
    yield name, defaults
    others = [{key: each} for key, choices in options.items() for each in choices if each != defaults[key]]
    for changed in others + ALSO.get(name, []):
        yield f"{name}, {', '.join(f'{key} {value}' for key, value in changed.items())}", {**defaults, **changed}


# ------------------------------------------------------------------------------------------------------- measuring


class Bench:
    """Two edits of one source, with and without a local blend, and what to hold them against."""

    def __init__(self, host: Any, sampling: Sampling):
        self.host, self.sampling = host, sampling
        self.image = latent(SEEDS, SIZE, SIZE)
        self.source = sampling.encode(SOURCE)
        self.positive, pair = sampling.pair(SWAP, PHRASE)
        edited = sampling.edit(pair, edit=1, **DEFAULTS)
        self.edited = sampling.edit(pair, "P2PAttentionRefine", edited, edit=2, **DEFAULTS)
        self.same, same_pair = sampling.pair(SOURCE, SOURCE)
        self.unedited = sampling.edit(same_pair, **NO_WINDOW)
        settings = {"threshold": 0.6, "start": 0.2, "spread": False, "grow": 0, "feather": 0.0, "exclude_words": ""}
        half = torch.zeros(1, SIZE, SIZE)
        half[:, : SIZE // 2] = 1.0
        self.masks = []
        for edit, words in ((1, {"words": "", "map_resolution": "auto", "mask": half}),
                            (2, {"words": "cat", "map_resolution": "8"})):  # fmt: skip
            self.edited, masks = sampling.run_node(
                "P2PLocalBlendMask", model=self.edited, pair=pair, edit=edit, **settings, **words
            )
            self.masks.append(masks)

    def measure(self, way: Way) -> Figures | Impossible:
        """Impossible is what fails without edits as well, or what the pack refuses. Anything else is raised."""
        try:
            alone = way.run(self.sampling.model, self.source, self.image)
        except Exception as error:
            return Impossible("fails", str(error))
        try:
            return self._figures(way, alone)
        except ValueError as error:
            if not str(error).startswith("Wanted"):
                raise
            return Impossible("refused", str(error))

    def _figures(self, way: Way, alone: torch.Tensor) -> Figures:
        rows = 3
        with drawn_once_for(SEEDS, rows):
            stock = way.run(self.sampling.model, self.positive, of_rows(self.image, rows))
        same = way.run(self.unedited, self.same, self.image)
        with self._before_compositing() as before:
            edited = way.run(self.edited, self.positive, self.image)
        sources, outside = edited[::rows], []
        for edit, masks in enumerate(self.masks, 1):
            mask = resized(masks.take(edited).masks[:, edit - 1, None], edited).expand_as(sources)
            outside.append((edited[edit::rows] - sources)[mask == 0])
            changed = float((edited[edit::rows] - sources)[mask > 0].abs().max() / sources.std())
            assert outside[-1].numel() and changed > 1e-2, f"{way.name}: the mask leaves out something, and not all"
        return Figures(
            same_batch=relative_error(sources, stock[::rows]),
            alone=relative_error(sources, alone),
            equal_rows=max(relative_error(same[row::rows], same[::rows]) for row in (1, 2)),
            outside=max(float(each.abs().max() / sources.std()) for each in outside),
            before=max(before),
        )

    @contextmanager
    def _before_compositing(self) -> Iterator[list[float]]:
        """How far the edited rows were from the source outside their masks when the sampler gave them back."""
        run = self.host.module("p2p_attention.blend").BlendRun
        original, differences = run.outside_from_source, []

        def watched(self, latents):
            source = latents[:: self.blend.pair.rows].repeat_interleave(self.blend.pair.rows, 0)
            outside = (latents - source) * (resized(self.mask, latents) == 0)
            differences[:] = [*differences[-1:], float(outside.abs().max() / source.std())]
            return original(self, latents)

        with mock.patch.object(run, "outside_from_source", watched):
            yield differences


def resized(mask: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """For samplers that enlarge the latents."""
    return torch.nn.functional.interpolate(mask, latents.shape[-2:], mode="nearest-exact")


# ------------------------------------------------------------------------------------------------------- the table


HEAD = """# Samplers, schedulers and guiders

What stays exact with each of them, measured by `python dev.py bench samplers` with ComfyUI {version} on a small SD 1.5
with random weights: {seeds} pictures, two edits each (Replace and Refine, both with P2P Local Blend Mask), {steps}
steps in float32 on one CPU thread. The test suite measures it again and fails when this page is no longer true.

Largest differences, in parts of the picture's standard deviation:

* *source, same batch*: the source's row, and ComfyUI's own run of a batch as large, without edits
* *source, alone*: the source's row, and ComfyUI's own run of the source prompt alone (a batch of another size is
  rounded differently)
* *same prompt*: two rows of one picture with the same prompt, so with the same noise
* *outside the blend*: an edit outside of its mask, and the source
* *before the end*: the same, before the result is composited once more

Below {rounding:.0e} a difference is rounding. What is more, fails or is refused is explained under its table. The last
table is of what ComfyUI {newer} has beside these, measured there; what both have is of the same kind in both.

A sampler that is not listed here shares its noise as well, as long as it draws it with PyTorch for the whole batch.
Where it does not, the node and the log say so after the first steps, unless that noise is little beside what the edits
differ by, or there is a noise mask.

Exact is not always beautiful. Samplers that go on from what they saw in earlier steps (`dpmpp_2m`, `dpmpp_2m_sde`,
`dpmpp_3m_sde`, `res_multistep`, `gradient_estimation`, `er_sde`, `deis`, `lms`, `ipndm`) take the end of a window for a
trend. `normal`, `ddim_uniform` and, with few steps, `kl_optimal` have a last step but one that is much longer than the
one before: there these samplers overshoot, and the edit glares. With the demo model and `dpmpp_2m`, 12 steps, a cat
becomes a mushroom whose largest latent value is 3.7 times the cat's with `normal` and a window to 0.8, 1.0 times with
one to 0.6, 0.8 times with `karras`, 1.0 with `simple`; `euler` with `normal` 1.0. The sampler's node says so in such a
run. `uni_pc` and `sa_solver` do not overshoot.
"""
COLUMNS = ("source, same batch", "source, alone", "same prompt", "outside the blend", "before the end")
# Comparisons in which the same numbers go the same way, so that not even rounding may differ; as columns.
BIT_FOR_BIT = {0, 2, 3}


def cells(result: Figures | Impossible) -> list[str]:
    if isinstance(result, Impossible):
        return [result.word] * len(COLUMNS)
    return ["exact" if each == 0 else f"{each:.0e}" for each in astuple(result)]


def kinds(row: list[str]) -> list[str]:
    """exact, to rounding, approximate, refused or fails, of the cells of a row."""

    def kind(column: int, cell: str) -> str:
        if cell in ("refused", "fails"):
            return cell
        if cell == "exact" and column in BIT_FOR_BIT:
            return "exact"
        return "to rounding" if cell == "exact" or float(cell) < ROUNDING else "approximate"

    return [kind(column, cell) for column, cell in enumerate(row)]


def why(name: str) -> str | None:
    return WHY.get(name) or WHY.get(name.split(",")[0])


def needs_explanation(row: list[str]) -> bool:
    return bool({"approximate", "refused", "fails"} & set(kinds(row)))


def write(rows: dict[tuple[str, str], list[str]]) -> str:
    """The page."""
    text = [HEAD.format(version=MEASURED, newer=NEWER, seeds=SEEDS, steps=STEPS, rounding=ROUNDING)]
    for section in (*SECTIONS, ADDED):
        names = [name for of, name in rows if of == section]
        text += [f"## {section}\n", f"| | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
        text += [f"| `{name}` | {' | '.join(rows[section, name])} |" for name in names]
        notes: dict[str | None, list[str]] = {}
        for name in names:
            if needs_explanation(rows[section, name]):
                notes.setdefault(why(name), []).append(f"`{name}`")
        text += ["", *(f"* {', '.join(of)}: {sentence}" for sentence, of in notes.items()), *[""] * bool(notes)]
    return "\n".join(text).rstrip() + "\n"


def read(page: str) -> dict[tuple[str, str], list[str]]:
    """(section, name) -> its cells."""
    rows, section = {}, ""
    for line in page.splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif match := re.fullmatch(r"\| `(.+)` \| (.+) \|", line):
            rows[section, match[1]] = match[2].split(" | ")
    return rows


def place(page: dict[tuple[str, str], list[str]], way: Way) -> tuple[str, str]:
    """Where a way stands in the page, or would stand."""
    return (way.section, way.name) if (way.section, way.name) in page else (ADDED, way.name)


def main() -> None:
    import comfyui_version
    from small_models import ONE_STAGE, sd15

    version, page = comfyui_version.__version__, read(PAGE.read_text(encoding="utf-8"))
    if version not in (MEASURED, NEWER):
        raise SystemExit(f"Wanted ComfyUI {MEASURED} or {NEWER}, which the page is of, got {version}.")
    torch.set_num_threads(1)
    host = real_host.load_pack()
    sampling = Sampling(lambda node_id, **inputs: real_host.run_node(host.node(node_id), **inputs), *sd15(**ONE_STAGE))
    bench, newer = Bench(host, sampling), version == NEWER
    rows = {key: row for key, row in page.items() if (key[0] == ADDED) != newer}  # those of the other host
    for way in ways(sampling):
        if newer and (way.section, way.name) in rows:
            continue
        key = (ADDED if newer else way.section, way.name)
        rows[key] = cells(bench.measure(way))
        print(f"{way.section}: {way.name}: {', '.join(rows[key])}", flush=True)
        if needs_explanation(rows[key]) and not why(way.name):
            print(f"  {way.name} has no explanation in WHY yet")
    PAGE.write_text(write(rows), encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
