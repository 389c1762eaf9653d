"""An engine that sleeps where others compute, so that many workers can be measured, and killed, on two cores.

Not a part of the benchmark but what its scale part and the tests on PostgreSQL stand on. No setting of the product
leads here: a worker has this engine, in the place of `transformers`, only where `benchmarks/startup` stands on its
PYTHONPATH (`environment` below), which makes its child processes import this file.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tests import after_import

if TYPE_CHECKING:
    from sqlalchemy import Engine

MODEL = "fake"
SITES, EXPERTS = 16, 64
TOKENIZER_DIGEST = "t" * 64
_SECONDS = "SLEEPING_ENGINE_SECONDS"


def environment(seconds: float) -> dict[str, str]:
    """Return what a worker's environment needs to sleep so long for each batch."""
    return after_import.environment(Path(__file__).parent / "startup") | {_SECONDS: str(seconds)}


def add_model(engine: "Engine") -> str:
    """Store the model that the engine pretends to measure, as a scan would; return its id.

    A scan marks it as gone, and every worker scans at its start: call this when the workers are up.
    """
    from backend.domain.vocabulary import Site
    from backend.store.engine import writing
    from backend.store.tables import utcnow
    from backend.store.writes import record_model
    from benchmarks.fake import TOP_K

    row = {
        "id": MODEL,
        "path": MODEL,
        "architecture": "FakeForCausalLM",
        "supported": True,
        "reason": None,
        "engines": ["transformers"],
        "sites": [Site(i, f"model.layers.{i}.mlp", EXPERTS, TOP_K).to_dict() for i in range(SITES)],
        "n_parameters": 30_500_000_000,
        "config_digest": "c" * 64,
        "weights_digest": "w" * 64,
        "tokenizer_digest": TOKENIZER_DIGEST,
        "template_digest": None,
        "scanned_at": utcnow(),
        "scanned_by": "benchmark",
    }
    with writing(engine) as session:
        record_model(session, row)
    return MODEL


class _Words:
    tokenizer: Any = None
    tokenizer_digest = TOKENIZER_DIGEST
    template_digest = None


class SleepingEngine:
    """Gives every batch the routing of its position, so much time later: the same one in whichever process."""

    words, place, dtype = _Words(), "nothing", "float32"

    def __init__(self, seconds: float) -> None:
        from benchmarks.fake import FakeEngine, Shape

        self.seconds = seconds
        self.fake = FakeEngine(Shape(SITES, EXPERTS), pool=4)

    def measure(self, window: Sequence[Any], _inputs: Sequence[Any], _observe: Any = None) -> list[Any]:
        """Return one measured batch per planned one."""
        time.sleep(self.seconds * len(window))
        return [self.fake.measure(planned) for planned in window]

    def close(self) -> None:
        """Nothing is held."""


def _swap(engines: ModuleType) -> None:
    """Put this engine in the place of one, once the worker's list of engines was made as always."""
    kind: Any = engines.EngineKind
    engines.ENGINES["transformers"] = kind(
        lambda _device: None,
        lambda _architecture, _sites: None,
        lambda _request: SleepingEngine(float(os.environ[_SECONDS])),
    )


def install() -> None:
    """Have the engine in this process from now on."""
    after_import.change_after_import("worker.capture.engines", _swap)
