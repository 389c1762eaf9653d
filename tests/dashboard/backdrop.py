"""A real API over a real database whose rows were written through the store: what the dashboard's tests look at.

The routing is drawn at random (no model runs here); everything else is what a worker would have written.
`python -m tests.dashboard.backdrop PORT FOLDER [layers experts batches]` serves the same by hand.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn

from backend.api.app import create_app
from backend.domain.measured import MeasuredBatch, MeasuredSample, ScopeRouting
from backend.domain.plan import PlannedBatch
from backend.domain.provenance import prompt_digest
from backend.domain.vocabulary import Scope
from backend.settings import Settings
from backend.store import fleet, plans, writes
from backend.store import tables as t
from backend.store.engine import shared_engine, writing
from tests.backend import seeding

TOKEN = "backdrop-token"
MODEL = "made-up/olmoe"
QUICK = {"n_permutations": 199, "n_resamples": 199, "n_stability": 20, "n_splits": 4}


@dataclass(frozen=True)
class Shape:
    """Size of the made-up model and of its analysis."""

    layers: int = 3
    experts: int = 8
    top_k: int = 2
    first_layer: int = 1  # so that a row of the matrix is never mistaken for the layer's number


@dataclass(frozen=True)
class Backdrop:
    """A running API and the means to write what a worker would write."""

    url: str
    settings: Settings
    shape: Shape

    def call(self, method: str, path: str, **more: Any) -> Any:
        """Call the API; fail on anything but success."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = httpx.request(method, f"{self.url}/api/v1{path}", headers=headers, timeout=60, trust_env=False, **more)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def scan(self) -> None:
        """Write the model a worker would have found, and one that cannot be used."""
        sites = [
            {
                "layer": self.shape.first_layer + i,
                "site": f"model.layers.{self.shape.first_layer + i}.mlp",
                "n_experts": self.shape.experts,
                "top_k": self.shape.top_k,
                "trainable": True,
            }
            for i in range(self.shape.layers)
        ]
        digests = {"weights_digest": "b" * 64, "tokenizer_digest": "c" * 64, "template_digest": "d" * 64}
        common = {"path": "nowhere"} | digests
        usable = {
            "id": MODEL,
            "architecture": "OlmoeForCausalLM",
            "supported": True,
            "reason": None,
            "engines": ["transformers"],
            "sites": sites,
            "n_parameters": 2_000_000,
            "config_digest": "a" * 64,
            "scanned_by": "test",
        }
        reason = "LlamaForCausalLM has no MoE layers"
        dense = usable | {"id": "made-up/dense", "supported": False, "reason": reason, "sites": []}
        with self.writing() as session:
            writes.record_model(session, common | usable)
            writes.record_model(session, common | dense)

    def writing(self) -> Any:
        """Open a transaction on the API's own database."""
        return writing(shared_engine(self.settings.tables_url))

    def analyse(
        self, dataset_id: str, *, batches: int | None = None, non_finite: int | None = None, **body: Any
    ) -> str:
        """Submit an analysis and measure its first `batches` (None: all, and finish); return its id."""
        made = self.call("POST", "/analyses", json={"dataset_id": dataset_id, "model": MODEL} | body)
        rng = np.random.default_rng(5)
        lean = rng.normal(0, 0.25, (self.shape.layers, self.shape.experts))
        with self.writing() as session:
            writes.start(session, t.Analysis, made["id"])
            analysis = session.get_one(t.Analysis, made["id"])
            plan = plans.load(session, made["id"])
            for planned in plan.batches[:batches]:
                measured = self._measure(planned, rng, lean, broken=planned.batch_idx == non_finite)
                writes.record_batch(session, analysis, planned, measured)
            if batches is None:
                writes.finish(session, t.Analysis, made["id"], "succeeded")
                writes.finish_job(session, made["job_id"], "succeeded")
            writes.log(session, made["job_id"], "measured by the test")
        return str(made["id"])

    def _measure(self, planned: PlannedBatch, rng: np.random.Generator, lean: Any, *, broken: bool) -> MeasuredBatch:
        tokens = rng.integers(8, 40, len(planned.samples))
        counts = np.zeros((len(tokens), self.shape.layers, self.shape.experts), dtype=np.int32)
        for i, sample in enumerate(planned.samples):
            odds = np.exp(lean * (1 if sample.label == "unsafe" else -1) * 0.5)
            for layer in range(self.shape.layers):
                part = odds[layer] / odds[layer].sum()
                counts[i, layer] = rng.multinomial(self.shape.top_k * tokens[i], part)
        samples = tuple(
            MeasuredSample(
                s.in_batch_idx,
                s.row_idx,
                s.row_id,
                s.label,
                _prompt_digest(int(tokens[i])),
                np.arange(tokens[i], dtype=np.int32),
                int(tokens[i]),
                truncated=False,
                non_finite=broken and i == 3,
            )
            for i, s in enumerate(planned.samples)
        )
        routing = {Scope.PROMPT: ScopeRouting(tokens.astype(np.int64), counts, None)}
        return MeasuredBatch(planned.batch_idx, planned.batch_id, samples, routing)

    def examine(self, analysis_id: str, **body: Any) -> str:
        """Ask for the statistics of an analysis and compute them as a worker does; return their id."""
        asked = QUICK | body
        made = self.call("POST", f"/analyses/{analysis_id}/statistics", json=asked)
        seeding.examine(shared_engine(self.settings.tables_url), made["id"])
        with self.writing() as session:
            writes.finish_job(session, made["job_id"], "succeeded")
        return str(made["id"])

    def train(self, analysis_id: str, *, broken_step: int | None = None, unfinished: bool = False, **body: Any) -> str:
        """Submit a training and record its steps (in plan order), the last one broken if asked for; return its id."""
        made = self.call("POST", "/trainings", json={"analysis_id": analysis_id, "shuffle_batches": False} | body)
        with self.writing() as session:
            writes.start(session, t.Training, made["id"])
            planned = plans.load(session, analysis_id).batches
            rows = session.query(t.BatchSample).filter_by(analysis_id=analysis_id)
            fed = {(s.batch_idx, s.in_batch_idx): s.prompt_digest for s in rows}
            writes.record_examples(
                session,
                made["id"],
                [_example(b, s, fed[b.batch_idx, s.in_batch_idx]) for b in planned for s in b.samples],
            )
            rng = np.random.default_rng(1)
            for step in range(1, made["n_steps"] + 1):
                if unfinished and step > made["n_steps"] // 2:
                    break
                batch = planned[(step - 1) % len(planned)]
                row = _step(step, (step - 1) // len(planned), batch, fed, rng, verified=step != broken_step)
                writes.record_step(session, made["id"], row)
                if step == broken_step:
                    error = f"Step {step} did not hold batch {batch.batch_idx}: sample 3 differs."
                    writes.finish(session, t.Training, made["id"], "failed", error)
                    break
            else:
                writes.finish(session, t.Training, made["id"], "succeeded")
                writes.finish_job(session, made["job_id"], "succeeded")
        return str(made["id"])

    def read_in_context(self, analysis_id: str, *, windows: int | None = None, **body: Any) -> str:
        """Submit a context run and store what a worker would have found (None: all of it); return its id."""
        made = self.call("POST", f"/analyses/{analysis_id}/context", json=body)
        engine = shared_engine(self.settings.tables_url)
        seeding.read_in_context(engine, made["id"], windows=windows, finish=windows is None, text="<b>:red[{}]</b>")
        return str(made["id"])

    def evaluate(self, dataset_id: str, expert_set_id: str, *, arms: int | None = None, **body: Any) -> str:
        """Submit an evaluation and store what its first `arms` answer (None: all, and finish); return its id."""
        asked = {"model": MODEL, "dataset_id": dataset_id, "expert_set_id": expert_set_id} | body
        made = self.call("POST", "/evaluations", json=asked)
        seeding.evaluate(shared_engine(self.settings.tables_url), made["id"], arms=arms)
        return str(made["id"])

    def beat(self) -> None:
        """Write a worker's heartbeat."""
        row = {
            "executor_id": "bench-0",
            "host": "bench",
            "pid": 1,
            "device": "cpu",
            "memory_bytes": 8 * 2**30,
            "engines": ["transformers"],
            "model_loaded": None,
            "versions": {},
        }
        with self.writing() as session:
            fleet.heartbeat(session, row)


def _prompt_digest(n_tokens: int) -> str:
    return prompt_digest("c" * 64, "d" * 64, np.arange(n_tokens, dtype=np.int32))


def _example(batch: PlannedBatch, sample: Any, digest: str) -> dict[str, Any]:
    refuses = sample.label == "unsafe"
    return {
        "batch_idx": batch.batch_idx,
        "in_batch_idx": sample.in_batch_idx,
        "row_id": sample.row_id,
        "label": sample.label,
        "target": "refusal" if refuses else "given",
        "prompt_digest": digest,
        "answer": "I can't help with that." if refuses else "Gladly.",
        "answer_ids": np.arange(4, dtype=np.int32),
        "cut": False,
    }


def _step(
    step: int,
    epoch: int,
    batch: PlannedBatch,
    digests: dict[tuple[int, int], str],
    rng: np.random.Generator,
    *,
    verified: bool,
) -> dict[str, Any]:
    base = 0.3 + 2.2 * float(np.exp(-step / 20))
    samples = [
        {
            "batch_idx": batch.batch_idx,
            "in_batch_idx": s.in_batch_idx,
            "row_id": s.row_id,
            "label": s.label,
            "prompt_digest": digests[batch.batch_idx, s.in_batch_idx],
            "loss": max(0.01, base + (0.3 if s.label == "safe" else -0.2) + float(rng.normal(0, 0.08))),
        }
        for s in batch.samples
    ]
    mean = {label: float(np.mean([s["loss"] for s in samples if s["label"] == label])) for label in ("safe", "unsafe")}
    return {
        "step": step,
        "epoch": epoch,
        "batch_idx": batch.batch_idx,
        "batch_id": batch.batch_id,
        "verified": verified,
        "loss": (mean["safe"] + mean["unsafe"]) / 2,
        "loss_safe": mean["safe"],
        "loss_unsafe": mean["unsafe"],
        "grad_norm": 1.0 + float(rng.random()),
        "learning_rate": 1e-4,
        "n_answer_tokens": 64,
        "seconds": 0.2,
        "samples": samples,
    }


@contextmanager
def serve(home: Path, shape: Shape | None = None, port: int = 0) -> Iterator[Backdrop]:
    """Run the API on a free port until the block ends."""
    settings = Settings(home=home, token=TOKEN)
    config = uvicorn.Config(create_app(settings), host="127.0.0.1", port=port, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the API did not start"
        time.sleep(0.02)
    bound = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Backdrop(f"http://127.0.0.1:{bound}", settings, shape or Shape())
    finally:
        server.should_exit = True
        thread.join(timeout=10)


def fill(backdrop: Backdrop) -> dict[str, str]:
    """Write one of everything: a finished and a running analysis, expert sets, a finished and a broken training."""
    backdrop.scan()
    backdrop.beat()
    dataset = backdrop.call("POST", "/datasets/demo")["id"]
    analysis = backdrop.analyse(dataset, non_finite=7, name="First look")
    statistics = backdrop.examine(analysis)
    running = backdrop.analyse(dataset, batches=9, seed=3, name="Second look")
    rule = {"name": "strongest", "method": "top_k", "k": 6}
    expert_set = backdrop.call("POST", f"/analyses/{analysis}/expert-sets", json=rule)["id"]
    training = backdrop.train(analysis, expert_set_id=expert_set, epochs=3, name="Chosen experts only")
    evaluation = backdrop.evaluate(dataset, expert_set, n_random=6, name="Does it matter")
    broken = backdrop.train(analysis, mode="full", broken_step=6, name="Whole model")
    context = backdrop.read_in_context(analysis)
    return {
        "dataset": dataset,
        "context": context,
        "analysis": analysis,
        "running": running,
        "statistics": statistics,
        "set": expert_set,
        "training": training,
        "broken": broken,
        "evaluation": evaluation,
    }


def main() -> None:
    """Serve by hand until interrupted."""
    port, home = int(sys.argv[1]), Path(sys.argv[2])
    sizes = [int(v) for v in sys.argv[3:]] or [4, 16, 2]
    home.mkdir(parents=True, exist_ok=True)
    with serve(home, Shape(*sizes), port) as backdrop:
        if not backdrop.call("GET", "/analyses")["items"] and "--empty" not in home.name:
            print(fill(backdrop), flush=True)  # noqa: T201 - a tool for the terminal
        threading.Event().wait()


if __name__ == "__main__":
    main()
