"""The saved workflows on models of the SD 1.5 and SDXL kinds in place of the demo model, up to the latents."""

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


@pytest.fixture(scope="module", params=[sd15, sdxl], ids=["sd15", "sdxl"])
def loader(host, request):
    return request.param()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_on_another_model(host, run_node, loader, path):
    workflow = json.loads(path.read_text(encoding="utf-8"))
    info = {}
    for name in {node["type"] for node in workflow["nodes"]} - {"Note", "MarkdownNote"}:
        inputs = host.node(name).INPUT_TYPES()
        info[name] = {"input": inputs, "input_order": {kind: list(names) for kind, names in inputs.items()}}
    prompt = to_api(workflow, info)
    results = {}

    def outputs(node_id):
        if node_id not in results:
            node = prompt[node_id]
            linked = {k: outputs(v[0])[v[1]] if isinstance(v, list) else v for k, v in node["inputs"].items()}
            if node["class_type"] == "KSampler":
                linked["steps"] = 3
            is_loader = node["class_type"] == "P2PLoadDemoModel"
            results[node_id] = loader if is_loader else run_node(node["class_type"], **linked)
        return results[node_id]

    (sampler,) = (node_id for node_id, node in prompt.items() if node["class_type"] == "KSampler")
    rows = outputs(sampler)[0]["samples"]
    assert len(rows) == 2 * (1 + len(prompt_pair(prompt)[1]))
    assert all(not torch.allclose(rows[0], row) for row in rows[1:])
