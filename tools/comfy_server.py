"""A real ComfyUI server for the demo and the tests: headless, on a free port, in folders of its own.

Standard library only. ``dev.py`` says through the environment where the host is (COMFYUI) and how to start it
(P2P_COMFYUI_FLAGS). Only this checkout's pack is loaded, and nothing is written into the host's folder.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK = "comfyui-prompt-to-prompt"
# The demo model's tensors are small. On a busy machine two threads spend their time waiting for each other: 13 s a step
# were measured, where one thread did a whole run of 25 steps in about a minute.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def base_directory():
    """A folder for ComfyUI's --base-directory, whose custom_nodes hold this checkout and nothing else.

    So ComfyUI's own folder needs no link to it, and several checkouts can use one ComfyUI.
    """
    base = ROOT / ".host" / "base"
    link_checkout(base / "custom_nodes" / PACK)
    return base


def link_checkout(link):
    """Make the path ``link`` a link to this checkout."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.exists() and link.resolve() == ROOT:
        return
    if link.is_symlink():  # the checkout was moved
        link.unlink()
    try:
        link.symlink_to(ROOT, target_is_directory=True)
    except FileExistsError:  # another process was faster
        pass
    except OSError:
        if os.name != "nt":
            raise
        import _winapi  # a junction, unlike a symbolic link, needs no special right on Windows

        _winapi.CreateJunction(str(ROOT), str(link))


class ServerError(RuntimeError):
    """The server did not start, refused a prompt, or failed in it; the message is all that it said."""


class ComfyServer:
    """``with ComfyServer("demo") as server:`` starts the server and ends it, whatever happens inside.

    Args:
        name: names its log, .host/run/NAME.log.
        patience_s: how long to wait for it to answer at all (slow machines, cold disks).
        base: a folder whose custom_nodes are loaded, all of them, instead of this checkout.
        flags: more arguments for ComfyUI's main.py.
    """

    def __init__(self, name, patience_s=180, base=None, flags=()):
        if not os.environ.get("COMFYUI"):
            raise ServerError("wanted COMFYUI to name a ComfyUI folder, got nothing. Start this through dev.py.")
        self.comfyui = Path(os.environ["COMFYUI"])
        worker = os.environ.get("PYTEST_XDIST_WORKER")  # tests run in several processes
        self.log = ROOT / ".host" / "run" / f"{name}{f'-{worker}' if worker else ''}.log"
        self.patience_s = patience_s
        self._flags = [str(flag) for flag in ("--base-directory", base or base_directory(), *flags)]

    def __enter__(self):
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="server-", dir=self.log.parent, ignore_cleanup_errors=True)
        folders = []
        for kind in ("output", "input", "temp", "user"):
            folder = Path(self._folder.name, kind)
            folder.mkdir()
            folders += [f"--{kind}-directory", str(folder)]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "main.py",
                    "--port",
                    str(port),
                    *folders,
                    "--database-url",
                    "sqlite:///:memory:",
                    "--disable-auto-launch",
                    "--disable-api-nodes",
                    *self._flags,
                    *os.environ.get("P2P_COMFYUI_FLAGS", "").split(),
                ],
                cwd=self.comfyui,
                env=ONE_THREAD | os.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_till_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def said(self):
        """Everything the server has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _wait_till_ready(self):
        deadline = time.monotonic() + self.patience_s
        while time.monotonic() < deadline:
            self._check_alive()
            try:
                self.get("/system_stats")
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.25)
                continue
            if "(IMPORT FAILED)" in self.said():
                raise ServerError(f"ComfyUI could not load the pack. It said:\n{self.said()}")
            return
        raise ServerError(f"wanted ComfyUI to answer within {self.patience_s} s, got nothing. It said:\n{self.said()}")

    def _check_alive(self):
        if self._process.poll() is not None:
            raise ServerError(f"ComfyUI ended with status {self._process.returncode}. It said:\n{self.said()}")

    def get(self, path, **query):
        """The parsed answer (or the bytes, where it is not JSON) to a GET request."""
        if query:
            path += "?" + urllib.parse.urlencode(query)
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            body = answer.read()
            return json.loads(body) if answer.headers.get_content_type() == "application/json" else body

    def queue(self, prompt):
        """Queue an API-form prompt; returns its id."""
        request = urllib.request.Request(
            self.url + "/prompt", json.dumps({"prompt": prompt}).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["prompt_id"]
        except urllib.error.HTTPError as refusal:
            text = refusal.read().decode(errors="replace")
            try:
                text = json.dumps(json.loads(text), indent=2)
            except ValueError:
                pass
            raise ServerError(f"ComfyUI refused the prompt:\n{text}") from None

    def result(self, prompt_id):
        """None while the prompt waits or runs, then node id -> its images: [{"filename", "subfolder", "type"}, ...].

        Raises:
            ServerError: the prompt failed; with the node, its message and its traceback.
        """
        self._check_alive()
        done = self.get(f"/history/{prompt_id}").get(prompt_id)
        if done is None or not done.get("status"):
            return None
        if done["status"]["status_str"] != "success":
            failures = [said for event, said in done["status"]["messages"] if event == "execution_error"]
            raise ServerError(
                "\n".join(
                    f"{failure['node_type']} (node {failure['node_id']}): {failure['exception_type']}: "
                    f"{failure['exception_message']}\n{''.join(failure['traceback'])}"
                    for failure in failures
                )
                or f"the prompt failed: {done['status']}"
            )
        return {node: output["images"] for node, output in done["outputs"].items() if output.get("images")}

    def wait(self, prompt_id, patience_s=300):
        """The images of a queued prompt, by the node that gave them, once it is done."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            images = self.result(prompt_id)
            if images is not None:
                return images
            time.sleep(0.1)
        raise ServerError(
            f"wanted the prompt to be done within {patience_s} s, it is not. ComfyUI said:\n{self.said()}"
        )

    def image(self, image):
        """The bytes of one image of :meth:`result`."""
        return self.get("/view", **image)
