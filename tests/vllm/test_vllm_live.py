"""Real services: a worker with vLLM takes an analysis from the API to its figures, and reads it token by token."""

from pathlib import Path

import numpy as np
import pytest

from tests.live import Live
from tests.vllm.small import save_small

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_worker_with_vllm_measures_what_one_without_it_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests' / 'vllm' / 'startup'}:{ROOT}")
    save_small(tmp_path / "models" / "small", "qwen3_moe")
    with Live(tmp_path) as live:
        live.start_backend()
        live.start("worker", "--name", "w0")
        [model] = live.until(lambda: live.get("/models")["items"])
        assert model["engines"] == ["transformers", "vllm"]
        [worker] = live.until(lambda: live.get("/system")["workers"])
        assert worker["engines"] == ["transformers", "vllm"]
        wanted = {"dataset_id": live.post("/datasets/demo")["id"], "model": "small", "dtype": "float32"}
        made = [
            live.post("/analyses", **wanted, engine="vllm", engine_options={"gpu_memory_utilization": 0.5}),
            live.post("/analyses", **wanted, engine="transformers"),
            live.post("/analyses", **wanted, engine="vllm", engine_options={"tensor_parallel_size": 2}),
        ]
        theirs, ours, refused = (live.finished(f"/analyses/{one['id']}") for one in made)
        assert (theirs["status"], ours["status"]) == ("succeeded", "succeeded"), theirs["error"]
        here, there = (live.get(f"/analyses/{one['id']}/risk-diff") for one in (ours, theirs))
        assert (here["tokens_safe"], here["tokens_unsafe"]) == (there["tokens_safe"], there["tokens_unsafe"])
        # Among these 17,745 tokens one stands at a tie (its router scores differ by 2e-7): one flip, and its echo.
        assert np.abs(np.array(here["risk_diff"]) - np.array(there["risk_diff"])).max() < 5e-4
        started = [live.post(f"/analyses/{one['id']}/context", experts=[[1, 0], [2, 5]]) for one in (ours, theirs)]
        contexts = [live.finished(f"/context/{one['id']}") for one in started]
        assert [one["status"] for one in contexts] == ["succeeded", "succeeded"], [one["error"] for one in contexts]
        assert [one["recounted"]["differing"] for one in contexts] == [0, 0]
        assert refused["status"] == "failed"
        assert refused["error"] == "tensor_parallel_size is 2, but this worker sees 1 device(s)."
