"""The saved workflows on models of the SD 1.5 and SDXL kinds in place of the demo model: latents, masks and maps."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from real_host import PACK
from small_models import sd15, sdxl

sys.path.append(str(PACK / "demo"))
from workflow_api import prompt_pair, to_api  # noqa: E402

WORKFLOWS = sorted((PACK / "workflows").glob("*.json"))
SHOWING = ("P2PShowBlendMask", "P2PAttentionMaps")


@pytest.fixture(scope="module", params=[sd15, sdxl], ids=["sd15", "sdxl"])
def loader(host, request):
    return request.param()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_on_another_model(host, run_node, loader, path, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))  # for the previews
    workflow = json.loads(path.read_text(encoding="utf-8"))
    info = {}
    for name in {node["type"] for node in workflow["nodes"]} - {"Note", "MarkdownNote"}:
        inputs = host.node(name).INPUT_TYPES()
        info[name] = {"input": inputs, "input_order": {kind: list(names) for kind, names in inputs.items()}}
    prompt = to_api(workflow, info)
    results = {}

    def undecoded(node):
        """These models have no VAE, so masks and maps are shown without the pictures."""
        return ("images",) if node["class_type"] in SHOWING else ()

    def outputs(node_id):
        if node_id not in results:
            node = prompt[node_id]
            inputs = {name: value for name, value in node["inputs"].items() if name not in undecoded(node)}
            linked = {k: outputs(v[0])[v[1]] if isinstance(v, list) else v for k, v in inputs.items()}
            if node["class_type"] in ("KSampler", "P2PDDIMInvert"):
                linked["steps"] = 3
            if node["class_type"] == "P2PLoadDemoModel":
                results[node_id] = (*loader, None)
            elif node["class_type"] == "VAEEncode":
                results[node_id] = ({"samples": torch.randn(1, 4, 16, 16, generator=torch.manual_seed(1))},)
            else:
                results[node_id] = run_node(node["class_type"], **linked)
        return results[node_id]

    (sampler,) = (node_id for node_id, node in prompt.items() if node["class_type"] == "KSampler")
    batches = [node["inputs"]["batch_size"] for node in prompt.values() if node["class_type"] == "EmptyLatentImage"]
    seeds = batches[0] if batches else 1
    rows, edits = outputs(sampler)[0]["samples"], len(prompt_pair(prompt)[1])
    assert len(rows) == seeds * (1 + edits)
    assert all(not torch.allclose(rows[0], row) for row in rows[1:])
    for node_id, node in prompt.items():
        if node["class_type"] == "P2PShowBlendMask":
            mask, image = outputs(node_id)
            assert mask.shape == image.shape[:3] == (seeds * edits, 128, 128)
        if node["class_type"] == "P2PAttentionMaps":
            sheet, masks = outputs(node_id)
            assert sheet.shape[0] == 1 and sheet.shape[-1] == 3
            assert masks.shape[1:] == (128, 128) and masks.min() >= 0 and masks.max() <= 1
