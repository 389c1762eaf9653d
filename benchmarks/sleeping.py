"""An engine that sleeps where others compute, so that many workers can be measured, and killed, on two cores.

Not a part of the benchmark but what its scale part and the tests on PostgreSQL stand on. No setting of the product
leads here: a worker has this engine, in the place of `transformers`, only where `benchmarks/startup` stands on its
PYTHONPATH (`environment` below), which makes its child processes import this file.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Engine

MODEL = "fake"
SITES, EXPERTS = 16, 64
TOKENIZER_DIGEST = "t" * 64
_SECONDS = "SLEEPING_ENGINE_SECONDS"
_ENGINES = "worker.capture.engines"


def environment(seconds: float) -> dict[str, str]:
    """Return what a worker's environment needs to sleep so long for each batch."""
    here = Path(__file__).parent
    return {"PYTHONPATH": os.pathsep.join([str(here / "startup"), str(here.parent)]), _SECONDS: str(seconds)}


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


class _Swap(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets the worker's list of engines be made as always, then puts this engine in the place of one."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != _ENGINES:
            return None
        sys.meta_path.remove(self)
        found = importlib.util.find_spec(name)
        assert found is not None
        self.real = found.loader
        return importlib.util.spec_from_loader(name, self, origin=found.origin)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        assert self.real is not None
        self.real.exec_module(module)
        kind: Any = module.EngineKind
        module.ENGINES["transformers"] = kind(
            lambda _device: None,
            lambda _architecture, _sites: None,
            lambda _request: SleepingEngine(float(os.environ[_SECONDS])),
        )


def install() -> None:
    """Have the engine in this process from now on."""
    sys.meta_path.insert(0, _Swap())
