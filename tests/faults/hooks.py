"""Faults inside a service: a stage that is slow, runs out of memory or kills its worker. Steered by files in a folder.

No setting of the product leads here: a service has these only where `startup` stands on its PYTHONPATH (`environment`
below), which makes every process of it import this file.
"""

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

from tests import after_import
from tests.after_import import Change

_FOLDER = "ROUTEPRINT_TEST_FAULTS"


def environment(folder: Path) -> dict[str, str]:
    """Return what a service's environment needs to be steered by the files of this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return after_import.environment(Path(__file__).parent / "startup") | {_FOLDER: str(folder)}


def _said(name: str) -> float:
    """Return the number in one of the files; 0 where there is none."""
    try:
        return float((Path(os.environ[_FOLDER]) / name).read_text())
    except (OSError, ValueError):
        return 0.0


def _slow(module: ModuleType) -> None:
    """`pause`: seconds that every stored batch and step takes longer, outside its transaction."""
    insist, store = module.insist, module._store  # type: ignore[attr-defined]

    def slower(*args: Any, **kwargs: Any) -> Any:
        found = insist(*args, **kwargs)
        if getattr(args[1], "func", None) is store:
            time.sleep(_said("pause"))
        return found

    module.insist = slower  # type: ignore[attr-defined]


def _scarce(module: ModuleType) -> None:
    """`rows`: memory for so many rows in a forward of a training; more, and the allocator's error is raised."""
    import torch

    build = module.build_trainer  # type: ignore[attr-defined]

    def build_scarce(*args: Any, **kwargs: Any) -> Any:
        trainer = build(*args, **kwargs)

        def look(model: Any, _args: Any, given: dict[str, Any]) -> None:
            if (rows := _said("rows")) and model.training and len(given["input_ids"]) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        trainer.model.register_forward_pre_hook(look, with_kwargs=True)
        return trainer

    module.build_trainer = build_scarce  # type: ignore[attr-defined]


def _deadly(module: ModuleType) -> None:
    """`deadly`: a training kills its worker, and with it itself, before its first step."""
    run = module.run_training  # type: ignore[attr-defined]

    def run_deadly(*args: Any) -> Any:
        if _said("deadly"):
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)  # what watches the parent ends this process
        return run(*args)

    module.run_training = run_deadly  # type: ignore[attr-defined]


def _moved(module: ModuleType) -> None:
    """`clock`: seconds by which this machine's clock is wrong, wherever heartbeats are written and compared."""
    now = module.now  # type: ignore[attr-defined]
    module.now = lambda session: now(session) + timedelta(seconds=_said("clock"))  # type: ignore[attr-defined]


def _stamped(module: ModuleType) -> None:
    """`clock`, for the times in rows."""

    def utcnow() -> str:
        return (datetime.now(UTC) + timedelta(seconds=_said("clock"))).isoformat(timespec="microseconds")

    module.utcnow = utcnow  # type: ignore[attr-defined]


AFTER: dict[str, Change] = {
    "backend.store.fleet": _moved,
    "backend.store.schema.base": _stamped,
    "worker.measuring": _slow,
    "worker.store_sink": _slow,
    "worker.training": _scarce,
    "worker.tuning": _deadly,
}


def install() -> None:
    """Have these faults in this process from now on."""
    if _FOLDER in os.environ:
        real = time.time
        time.time = lambda: real() + _said("clock")  # the queue's library goes by this one
        for name, change in AFTER.items():
            after_import.change_after_import(name, change)
