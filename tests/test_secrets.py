"""Canaries: the access token, the hub's token, the judge's key and a password in a URL, looked for everywhere.

The services are real, with a job that succeeds and one that fails. Whatever they wrote below the home folder, answered
or printed must hold none of them: databases, job parameters, logs, artifacts, errors, links.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import live as services
from tests.live import Live
from tests.worker.tiny import save_tiny

TOKEN = "canary-token-5f0e9d1c7b"
SECRETS = {
    "HF_TOKEN": "hf_canaryhub8d2f6e4a1b",
    "ROUTEPRINT_JUDGE_KEY": "canary-judge-key-33ab91",
    "ROUTEPRINT_JUDGE_URL": "http://canary-user:canary-password-77@127.0.0.1:9/v1",
    "ROUTEPRINT_JUDGE_MODEL": "small-judge",
}
CANARIES = [TOKEN, SECRETS["HF_TOKEN"], SECRETS["ROUTEPRINT_JUDGE_KEY"], "canary-password-77"]


class Watched(Live):
    """Live services with secrets in their environment; every answer is kept."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.client.headers["Authorization"] = f"Bearer {TOKEN}"
        self.heard: list[bytes] = []
        self.client.event_hooks["response"].append(self._hear)

    def _hear(self, answer: object) -> None:
        self.heard.append(answer.read() + str(answer.headers).encode())  # type: ignore[attr-defined]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every service."""
        return super().environment | SECRETS | {"ROUTEPRINT_TOKEN": TOKEN}


def found_in(content: bytes) -> list[str]:
    return [one for one in CANARIES if one.encode() in content]


def few_prompts(live: Live) -> str:
    """Import eight prompts of each label; return the set's id."""
    rows = [{"prompt": f"{label} prompt {n}", "label": label} for label in ("safe", "unsafe") for n in range(8)]
    content = "\n".join(json.dumps(row) for row in rows).encode()
    form = {"name": "few", "label_meaning": "harmless_harmful"}
    answer = live.client.post("/datasets", files={"file": ("few.jsonl", content)}, data=form)
    return str(answer.raise_for_status().json()["id"])


@pytest.mark.slow
def test_no_secret_is_written_answered_or_printed(tmp_path: Path) -> None:
    save_tiny(tmp_path / "models" / "tiny", "olmoe")
    with Watched(tmp_path) as live:
        live.start_backend()
        live.start("worker", "--name", "w0")
        live.until(lambda: live.get("/models")["items"])
        dataset = few_prompts(live)
        good = live.post("/analyses", dataset_id=dataset, model="tiny", statistics=False)
        assert live.finished(f"/analyses/{good['id']}")["status"] == "succeeded"
        body = {"model": "tiny", "dataset_id": dataset, "intervention": "none", "max_prompts": 4, "max_new_tokens": 1}
        judged = live.post("/evaluations", **body, judge={"kind": "endpoint"})
        failed = live.finished(f"/evaluations/{judged['id']}")
        assert "gave no answer" in str(failed["error"])
        for job in live.get("/jobs")["items"]:
            live.get(f"/jobs/{job['id']}/logs")
        live.get("/system")
        wrong = {"dataset_id": TOKEN, "model": SECRETS["HF_TOKEN"], "name": 5, "unknown": TOKEN}
        assert live.client.post("/analyses", json=wrong).status_code == 422
        live.client.get("/analyses", headers={"Authorization": f"Bearer {TOKEN}x"})
        live.client.get(f"/analyses/{good['id']}/report")
        program = [sys.executable, "-c", "from backend.cli import main; main()"]
        printed = [
            subprocess.run([*program, *words], env=live.environment, capture_output=True, check=False)
            for words in (["doctor", "--json"], ["token", "--link"])
        ]
        heard = list(live.heard)
        command_lines = [Path(f"/proc/{p.pid}/cmdline").read_bytes() for p in live.processes.values()]
    said = heard + [one.stdout + one.stderr for one in printed] + command_lines
    assert len(heard) > 20
    assert all(one.stdout for one in printed), printed
    assert [found_in(one) for one in said if found_in(one)] == []
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "models" not in path.parts]
    assert {"routeprint.sqlite3", "jobs.sqlite3", "backend.log", "worker.log"} <= {path.name for path in files}
    assert {str(path): found_in(path.read_bytes()) for path in files if found_in(path.read_bytes())} == {}


def test_a_field_that_holds_a_secret_is_not_said_back(tmp_path: Path) -> None:
    """What a client sends by mistake (its token in a field) comes back in no error, and in no log."""
    from fastapi.testclient import TestClient

    from backend.api.app import create_app
    from backend.settings import Settings

    settings = Settings(home=tmp_path, token=TOKEN)
    with TestClient(create_app(settings), base_url="http://127.0.0.1:8321") as client:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        for body in ({"batch_size": TOKEN}, {"dataset_id": 1, "model": TOKEN * 40}, [TOKEN], TOKEN):
            answer = client.post("/api/v1/analyses", json=body, headers=headers)
            assert answer.status_code == 422
            assert TOKEN not in answer.text
        answer = client.post("/api/v1/analyses", content=json.dumps({"model": TOKEN})[:-1], headers=headers)
        assert TOKEN not in answer.text


assert services.TOKEN != TOKEN
assert not set(SECRETS) & set(os.environ), "the canaries would stand in what other tests write"
