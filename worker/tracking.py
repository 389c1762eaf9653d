"""Which experiment trackers a training reports to, where they write, and what they are told about it.

Nothing leaves the machine unless the worker's owner says so by the libraries' own variables (MLFLOW_TRACKING_URI,
WANDB_MODE, ...), which backend/settings.py reads. Not covered: the trackers themselves (trackers.py).
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from backend.domain.errors import InvalidInput
from backend.settings import Settings
from backend.store import tables as t
from backend.store.engine import reading
from worker.runs import DECIDING, TrainingRun

_DISTRIBUTIONS = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "mlflow-skinny"), "wandb": ("wandb",)}
_FIGURES = ("loss", "loss_safe", "loss_unsafe", "grad_norm", "learning_rate", "verified", "batch_idx", "epoch")
_LONGEST = 250  # characters of a value that MLflow takes


@dataclass(frozen=True, slots=True)
class Tracking:
    """Where a run is reported to. told: its settings, ids and digests. history: (step, figures) recorded before now."""

    tools: tuple[str, ...]
    run_id: str
    name: str
    told: Mapping[str, Any]
    tensorboard_dir: Path
    mlflow_uri: str
    mlflow_artifacts: str | None
    mlflow_experiment: str
    wandb_dir: Path
    wandb_mode: str
    wandb_project: str
    history: Sequence[tuple[int, Mapping[str, float]]] = ()

    @property
    def places(self) -> dict[str, str]:
        """Say for each tool where its logs are: no user name or password of an address."""
        all_places = {
            "tensorboard": str(self.tensorboard_dir),
            "mlflow": _without_secrets(self.mlflow_uri),
            "wandb": str(self.wandb_dir) + (" (and sent to its server)" if self.wandb_mode == "online" else ""),
        }
        return {tool: all_places[tool] for tool in self.tools}

    def without_secrets(self, text: str) -> str:
        """Return what a library said without user names, passwords and queries of addresses: it is stored and shown."""
        own = text.replace(self.mlflow_uri, _without_secrets(self.mlflow_uri))
        return re.sub(r"(//)[^/\s@]*@|\?[^\s'\")]*", r"\1", own)

    def say_where(self, session: Session) -> None:
        """Store with the training where its logs are."""
        row = session.get_one(t.Training, self.run_id, with_for_update=True, populate_existing=True)
        row.result = row.result | {"tracking": self.places}


def trackers_there() -> dict[str, str]:
    """Return the version of each tracker whose library is installed here."""
    found = {}
    for tool, names in _DISTRIBUTIONS.items():
        for name in names:
            with suppress(PackageNotFoundError):
                found[tool] = version(name)
    return found


def check_tools(tools: Sequence[str], settings: Settings) -> None:
    """Raise InvalidInput, naming the tool, for one that is not installed here or could not be used as it is set up."""
    there = trackers_there()
    for tool in tools:
        if tool not in _DISTRIBUTIONS:
            raise InvalidInput(f"report_to names {tool!r}; there are {', '.join(_DISTRIBUTIONS)}.", ("report_to",))
        if tool not in there:
            raise InvalidInput(
                f"report_to names {tool}, which is not installed on this worker: install it there "
                "(pip install 'routeprint[tracking]'), or leave it out.",
                ("report_to",),
            )
    mode = settings.wandb_mode
    if "wandb" not in tools or mode == "offline":
        return
    if mode != "online":
        raise InvalidInput(f"WANDB_MODE of this worker is {mode!r}: use offline or online.", ("report_to",))
    if not settings.wandb_api_key.get_secret_value():
        raise InvalidInput(
            "report_to names wandb, and WANDB_MODE of this worker is online, but it has no WANDB_API_KEY: set one, or "
            "leave WANDB_MODE away to keep the logs on this machine.",
            ("report_to",),
        )


def figures(step: Any) -> dict[str, float]:
    """Return what trackers are told of a step (a StepRecord or a stored row). verified: 1; what is None is left out."""
    found = {name: getattr(step, name) for name in _FIGURES}
    return {
        name: int(value) if isinstance(value, bool) else value for name, value in found.items() if value is not None
    }


def tracking_of(engine: Engine, settings: Settings, training: t.Training, run: TrainingRun) -> Tracking | None:
    """Return how a stored training is tracked, None if it is not."""
    tools = training.params.get("report_to", ())  # absent before it could be asked for
    if not tools:
        return None
    with reading(engine) as session:
        told = [getattr(t.TrainingStep, name) for name in ("step", *_FIGURES)]  # not what each sample's forward got
        steps = select(*told).where(t.TrainingStep.training_id == training.id).order_by(t.TrainingStep.step)
        history = tuple((step.step, figures(step)) for step in session.execute(steps))
    assert run.origin is not None
    own, shared = run.out_dir / "tracking", settings.artifacts_path / "mlflow"
    board, id_ = settings.tensorboard_dir, run.origin.training_id
    return Tracking(
        tools=tuple(tools),
        run_id=id_,
        name=run.origin.training_name,
        told=_told(run),
        tensorboard_dir=board / id_ if board else own / "tensorboard",
        mlflow_uri=settings.mlflow_uri or f"sqlite:///{shared / 'mlflow.sqlite3'}",
        mlflow_artifacts=None if settings.mlflow_uri else (shared / "files").as_uri(),
        mlflow_experiment=settings.mlflow_experiment,
        wandb_dir=settings.wandb_dir or own,
        wandb_mode=settings.wandb_mode,
        wandb_project=settings.wandb_project,
        history=history,
    )


def _told(run: TrainingRun) -> dict[str, Any]:
    assert run.origin is not None
    settings = {name: getattr(run, name) for name in DECIDING}
    sizes = {"n_batches": len(run.batches), "n_steps": run.n_steps, "n_experts": len(run.choice.union)}
    told = settings | sizes | run.origin.ids() | {"run_sha256": run.digest, "base_model": run.origin.base_model}
    return {name: value[:_LONGEST] if isinstance(value, str) else value for name, value in told.items()}


def _without_secrets(uri: str) -> str:
    parts = urlsplit(uri)
    if not parts.netloc:  # a file
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
