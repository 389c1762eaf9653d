"""The composed services, built and run for real: the whole path, with containers killed on the way."""

import json
import secrets
import subprocess
from typing import Any

import httpx
import pytest

from backend.demo_prompts import DEMO_PROMPTS
from tests.compose.stack import Stack, compose_command

pytestmark = [
    pytest.mark.compose,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(compose_command() is None, reason="no docker compose and no podman-compose here"),
]
MODEL = "routeprint/demo-olmoe"
IMAGES = ("backend", "dashboard", "worker")


@pytest.fixture(scope="module", autouse=True)
def built() -> dict[str, int]:
    """Build the three images; return their sizes in bytes."""
    stack = Stack("routeprint-build")
    stack.run("build", seconds=3000)
    sizes = {name: size_of(stack.engine, f"routeprint-{name}") for name in IMAGES}
    stack.say(*(f"image routeprint-{name}: {size / 1e6:,.0f} MB" for name, size in sizes.items()))
    stack.write_down()
    return sizes


def size_of(engine: str, image: str) -> int:
    """Return the size of an image in bytes."""
    said = subprocess.run([engine, "image", "inspect", "--format", "{{.Size}}", image], capture_output=True, check=True)
    return int(said.stdout)


def test_the_backend_image_holds_no_torch_and_is_small(built: dict[str, int]) -> None:
    assert built["backend"] < built["worker"] / 2
    with Stack("routeprint-small") as stack:
        stack.run("up", "-d", "backend")
        stack.until(lambda: httpx.get(f"http://127.0.0.1:{stack.ports['api']}/health", trust_env=False).is_success)
        there = "import importlib.util as u; print([n for n in ('torch', 'transformers', 'vllm') if u.find_spec(n)])"
        assert stack.exec("backend", "python", "-c", there) == "[]"


def test_the_services_run_unprivileged_on_a_read_only_root_and_show_no_secret() -> None:
    with Stack("routeprint-bare") as stack:
        start(stack)
        for service in IMAGES:
            assert stack.exec(service, "id", "-u") == "10001"
            tried = stack.exec(service, "sh", "-c", "touch /venv/x 2>/dev/null && echo written || echo refused")
            assert tried == "refused"
        stack.sign_in()
        token = stack.client.headers["Authorization"].removeprefix("Bearer ")
        assert len(token) > 30
        assert token not in stack.run("config", shown=False)
        assert token not in stack.run("logs", shown=False)
        assert httpx.get(f"http://127.0.0.1:{stack.ports['api']}/api/v1/datasets", trust_env=False).status_code == 401
        page = httpx.get(f"http://127.0.0.1:{stack.ports['dashboard']}/", trust_env=False)
        stack.say(f"GET / of the dashboard without a token -> {page.status_code}")
        assert page.status_code == 401
        link = stack.exec("backend", "routeprint", "token", "--link", shown=False).split()[-1]
        assert link.startswith("http")
        assert token not in link


def test_upload_analysis_and_training_survive_a_killed_worker_and_a_killed_backend() -> None:
    with Stack("routeprint-whole") as stack:
        start(stack)
        stack.sign_in()
        journey(stack, cut=("worker", "backend"))


def test_the_same_on_postgresql_with_several_workers_and_a_killed_database() -> None:
    password = secrets.token_hex(24)
    wanted = {"COMPOSE_PROFILES": "postgres", "POSTGRES_PASSWORD": password, "ROUTEPRINT_WORKERS": "2"}
    with Stack("routeprint-many", **wanted) as stack:
        start(stack)
        stack.sign_in()
        stack.until(lambda: len(stack.get("/system")["workers"]) == 2)
        stack.say("GET /api/v1/system -> 2 workers")
        assert stack.get("/system")["database"]["url_kind"] == "postgresql"
        journey(stack, cut=("worker", "database"))


def start(stack: Stack) -> None:
    """Start everything and wait until API, dashboard and a worker answer."""
    stack.run("up", "-d")
    for name, path in (("api", "/health"), ("dashboard", "/_stcore/health")):
        at = f"http://127.0.0.1:{stack.ports[name]}{path}"
        stack.until(lambda at=at: httpx.get(at, trust_env=False).is_success)  # type: ignore[misc]
        stack.say(f"GET {path} of the {name} -> 200")


def journey(stack: Stack, cut: tuple[str, str]) -> None:
    """From prompts to a verified training; one container dies in the analysis and one in the training."""
    stack.exec("worker", "python", "-m", "worker.demo", "--out", f"/models/{MODEL}")
    stack.post("/models/scan")
    found: Any = stack.until(lambda: [m for m in stack.get("/models")["items"] if m["id"] == MODEL])
    assert found[0]["supported"], found[0]["reason"]
    with DEMO_PROMPTS.open("rb") as file:
        dataset = stack.post(
            "/datasets", data={"name": "composed", "label_meaning": "harmless_harmful"}, files={"file": file}
        )
    analysis = stack.post("/analyses", {"dataset_id": dataset["id"], "model": MODEL, "statistics": False})
    path = f"/analyses/{analysis['id']}"
    stack.reached(path, 0.1)
    stack.power_cut(stack.containers(cut[0])[0])
    analysis = stack.finished(path)
    assert analysis["progress"]["done"] == analysis["plan"]["n_batches"]
    chosen = stack.post(f"{path}/expert-sets", {"name": "top", "method": "top_k", "k": 8})
    training = stack.post("/trainings", {"analysis_id": analysis["id"], "expert_set_id": chosen["id"], "epochs": 2})
    path = f"/trainings/{training['id']}"
    stack.until(lambda: stack.get(path)["stage"] == "training")
    stack.reached(path, 0.1)
    stack.power_cut(stack.containers(cut[1])[0])
    training = stack.finished(path)
    steps = 2 * analysis["plan"]["n_batches"]
    assert training["n_steps"] == training["n_recorded"] == training["n_verified"] == steps
    stack.say(json.dumps({name: training[name] for name in ("n_steps", "n_recorded", "n_verified", "final_loss")}))
    links = stack.post(f"{path}/verify")["links"]
    assert all(link["ok"] for link in links), links
    stack.say(f"verified: {len(links)} of {len(links)} links hold")
