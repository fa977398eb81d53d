"""``python dev.py workflow-api``: write workflows/api/NAME.json, what the page makes of each workflows/NAME.json.

ComfyUI's own page, in a headless browser, opens each workflow and is asked what its Queue button would send.
"""

import json
import sys
import tempfile

from tools.comfy_server import ComfyServer, ServerError
from tools.the_page import NO_BROWSER, WORKFLOWS, find_browser, open_workflow, opened, queued


def main():
    if not find_browser():
        print(NO_BROWSER, file=sys.stderr)
        return 1
    with ComfyServer("workflow-api") as server, tempfile.TemporaryDirectory() as profile:
        with opened(server, profile) as page:
            forms = {}
            for path in WORKFLOWS:
                open_workflow(page, path)
                forms[path] = queued(page)
    folder = WORKFLOWS[0].parent / "api"
    folder.mkdir(exist_ok=True)
    for path in set(folder.glob("*.json")) - {folder / each.name for each in forms}:
        path.unlink()
        print(f"taken out, no workflow has that name: {path}")
    for path, prompt in forms.items():
        text = json.dumps(prompt, ensure_ascii=False, indent=2) + "\n"
        (folder / path.name).write_text(text, encoding="utf-8", newline="\n")
    print(f"{len(forms)} files in {folder}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServerError as error:
        sys.exit(str(error))
