"""The house itself: what is where, what may not be in it, and that each part lives without the others."""

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

import backend

ROOT = Path(__file__).parents[1]
# Each with a bar in it, so that this file does not hold what it forbids.
_PATHS = ("/wo|rk/", "/tmp/|rp", "/opt/|pypi", "/opt/|wheels")
_HOSTS = ("py|pi.org", "python|hosted.org", "npm|js.org", "deb|ian.org", "py|torch.org/whl")
PACKAGES = ("backend", "worker", "dashboard")
FORBIDDEN = [word.replace("|", "") for word in _PATHS + _HOSTS]


def _tracked() -> list[Path]:
    """Every file of the project: what git tracks, or in a copy without git everything but the usual by-products."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0:
        files = [ROOT / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    else:
        files = [
            path for top in ("backend", "worker", "dashboard", "tests", "docs") for path in (ROOT / top).rglob("*")
        ]
        files += list(ROOT.glob("*"))
    return [path for path in files if path.is_file() and "__pycache__" not in path.parts]


def test_the_package_called_backend_is_ours() -> None:
    assert backend.__file__ is not None
    assert Path(backend.__file__).parents[1] == ROOT


def test_init_files_stay_empty() -> None:
    inits = [path for path in _tracked() if path.name == "__init__.py"]
    assert len(inits) > 3
    assert [path for path in inits if path.read_bytes()] == []


def test_no_tracked_file_names_a_path_of_a_machine_or_the_host_of_a_registry() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in _tracked()
        for word in FORBIDDEN
        if word.encode() in path.read_bytes()
    ]
    assert found == []


# Calls that run, or may run, what stands in a file or a text. `dumps` is not here: writing runs nothing.
UNSAFE_CALLS = {
    "torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "pickle.load", "pickle.loads", "pickle.Unpickler",
    "cloudpickle.load", "cloudpickle.loads", "dill.load", "dill.loads", "joblib.load", "joblib.dump", "marshal.load",
    "marshal.loads", "shelve.open", "pandas.read_pickle", "pd.read_pickle", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "eval", "exec", "compile", "os.system", "os.popen",
    "urllib.request.urlopen", "urllib.request.urlretrieve",
}  # fmt: skip
UNSAFE_WORDS = {"trust_remote_code": True, "allow_pickle": True, "weights_only": False, "shell": True}
UNSAFE_WORDS |= {"unsafe_allow_html": True, "unsafe_allow_javascript": True}  # words of users are never markup
UNSAFE_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "requests", "shelve"}


def _unsafe(source: str) -> list[str]:
    """Name what in a module reads code out of data: unsafe calls and keywords, however the function was imported."""
    found, names = [], {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
            found += [f"import {alias.name}" for alias in node.names if alias.name in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found += [f"from {node.module}"] if node.module in UNSAFE_MODULES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute | ast.Name):
            head, dot, rest = ast.unparse(node).partition(".")
            name = names.get(head, head) + dot + rest
            found += [f"line {node.lineno}: {name}"] if name in UNSAFE_CALLS else []
        elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant) and node.arg in UNSAFE_WORDS:
            unsafe = node.value.value is UNSAFE_WORDS[node.arg]
            found += [f"line {node.lineno}: {node.arg}={node.value.value}"] if unsafe else []
    return found


def test_nothing_in_the_packages_unpickles_evaluates_or_lets_a_file_run_code() -> None:
    modules = [p for p in _tracked() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in PACKAGES]
    assert len(modules) > 100
    found = {str(p.relative_to(ROOT)): _unsafe(p.read_text(encoding="utf-8")) for p in modules}
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('x', weights_only=True)",
        "import torch as t\nt.save({}, 'x')",
        "from torch import load\nload('x')",
        "from pickle import Unpickler as Read\nRead(f).load()",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "import cloudpickle",
        "eval('1')",
        "read = __import__('torch').load; import torch; read = torch.load",
    ],
)
def test_the_search_for_unsafe_calls_finds_them(source: str) -> None:
    assert _unsafe(source)
    assert not _unsafe("from safetensors.torch import load_file\nload_file('x')\nmodel.eval()\npickle.dumps({})")


@pytest.mark.parametrize("module", ["backend.cli", "backend.api.app", "backend.__main__"])
def test_the_backend_loads_nothing_of_the_worker_or_the_dashboard(module: str) -> None:
    code = (
        f"import sys, json; import {module}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"torch", "transformers", "vllm", "datasets", "accelerate", "worker", "dashboard", "streamlit"}


def test_every_test_that_the_security_page_leans_on_exists() -> None:
    named = re.findall(r"tests/[\w/]+\.py", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_no_page_holds_a_bare_string_which_streamlit_would_draw() -> None:
    """Streamlit shows every expression that stands alone in a page's script, a constant's docstring too."""
    pages = [p for p in _tracked() if p.parent == ROOT / "dashboard" / "views" and p.suffix == ".py"]
    assert len(pages) > 5
    for page in pages:
        bare = [n for n in ast.parse(page.read_text(encoding="utf-8")).body[1:] if isinstance(n, ast.Expr)]
        assert [ast.unparse(n) for n in bare if not isinstance(n.value, ast.Call)] == [], page.name


def test_every_target_that_the_readme_names_exists() -> None:
    targets = {line.partition(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if ":" in line}
    for readme in (ROOT / "README.md", ROOT / "README.zh-CN.md"):
        lines = [line.removeprefix("    $ ").split() for line in readme.read_text(encoding="utf-8").splitlines()]
        named = {words[1] for words in lines if words[:1] == ["make"]}
        assert {"demo", "test"} <= named <= targets


@pytest.mark.slow
def test_with_only_the_backend_extra_installed_the_api_serves_and_torch_is_absent(tmp_path: Path) -> None:
    """From the built package, so that what is missing in it (migrations, the demonstration's prompts) shows too."""
    for path in _tracked():
        copy = tmp_path / "source" / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    bin_ = tmp_path / "venv" / "bin"
    pip = [bin_ / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run([*pip, "-c", ROOT / "constraints.txt", f"{tmp_path / 'source'}[backend]"], check=True, cwd=tmp_path)

    code = "import importlib.util as u; print([n for n in ('torch', 'transformers', 'streamlit') if u.find_spec(n)])"
    found = subprocess.run([bin_ / "python", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert found.stdout.strip() == "[]"

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROUTEPRINT_")}
    environment |= {"ROUTEPRINT_HOME": str(tmp_path / "home"), "ROUTEPRINT_PORT": str(port)}
    token = subprocess.run(
        [bin_ / "routeprint", "token"], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout.strip()
    served = psutil.Popen([bin_ / "routeprint", "backend"], env=environment, cwd=tmp_path)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_healthy(url, served)
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, trust_env=False) as api:
            assert api.get("/api/v1/system").raise_for_status().json()["workers"] == []
            dataset = api.post("/api/v1/datasets/demo").raise_for_status().json()
            assert dataset["n_safe"] >= 192
            assert dataset["n_unsafe"] >= 192
    finally:
        served.terminate()
        assert served.wait(20) in (0, -15)


def _wait_until_healthy(url: str, served: psutil.Popen) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert served.is_running()
        assert time.monotonic() < deadline, "the API did not answer within a minute"
        try:
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
